"""The folder of a studio: its rows, recipes, models and runs, each found by its name below the folder.

No name leads outside: neither through `..` nor through a link.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lotune.data.file_readers import READERS
from lotune.studio.errors import CallError, not_found

OWN_FOLDER = ".lotune"
"""Folder for what the studio itself writes: its token, and a folder for each command that it started."""
RUNS = "runs"
RECIPE_SUFFIXES = (".yaml", ".yml")
MAX_NAME = 200
"""Maximum length of a name in characters, and in bytes."""
MAX_LISTED = 500
"""Maximum number of files of a list."""
DEPTH = 3
"""Folders below the studio's folder that are searched."""
MAX_RECIPE_BYTES = 2**20


@dataclass(frozen=True)
class Workspace:
    """The folder of a studio, as an absolute path without links."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> Workspace:
        """Return the workspace of a folder."""
        return cls(folder.resolve())

    @property
    def runs(self) -> Path:
        """The folder of the run folders."""
        return self.folder / RUNS

    @property
    def own(self) -> Path:
        """The folder for what the studio itself writes."""
        return self.folder / OWN_FOLDER

    def path(self, name: str) -> Path:
        """Return the path of a name below the folder; it need not exist.

        Raises: CallError for a name that leads, or might lead, outside of the folder, or to a hidden file.
        """
        parts = name.split("/")
        if not name.isprintable() or len(name.encode()) > MAX_NAME or "\\" in name or ":" in name:
            raise CallError(400, "bad_name", "a name of a file has printable characters, no \\ and no :")
        # A hyphen at the start would make it an option of the command that gets it.
        if any(not part or part.startswith((".", "-")) or part != part.strip() for part in parts):
            raise CallError(400, "bad_name", f"{name!r} is not the name of a file here", "name a file of this folder")
        path = self.folder.joinpath(*parts)
        if not self.contains(path):
            raise CallError(403, "outside", f"{name!r} leads outside of this folder")
        return path

    def contains(self, path: Path) -> bool:
        """Return whether a path, with its links followed, is in the folder."""
        return path.resolve().is_relative_to(self.folder)

    def file(self, name: str) -> Path:
        """Return the path of an existing file. Raises: CallError as `path`, or if there is no such file."""
        path = self.path(name)
        if not path.is_file():
            raise not_found(name)
        return path

    def rows(self, name: str) -> Path:
        """Return the path of a file or folder of rows. Raises: CallError as `path`, or if there is none."""
        path = self.path(name)
        if not path.exists():
            raise not_found(name)
        return path

    def recipe(self, name: str) -> Path:
        """Return the path of a recipe. Raises: CallError as `file`, or for a file that is no recipe."""
        path = self.file(name)
        if path.suffix not in RECIPE_SUFFIXES:
            raise CallError(400, "bad_name", f"{name} is no recipe", "name a file that ends in .yaml")
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise CallError(413, "too_large", f"{name} is too large for a recipe")
        return path

    def run(self, name: str) -> Path:
        """Return the folder of a run, which need not exist. Raises: CallError for a name that cannot be a run's."""
        if "/" in name:
            raise CallError(400, "bad_name", f"{name!r} is not the name of a run")
        self.path(name)
        return self.runs / name

    def files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield name and status of the files of the folder, without hidden ones and those of runs and models."""
        yield from self._below(self.folder, "", DEPTH)

    def _below(self, folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            return
        if any(entry.name == "config.json" for entry in entries):  # a model
            return
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.isprintable() or not self.contains(Path(entry.path)):
                continue
            try:
                if entry.is_file():
                    yield prefix + entry.name, entry.stat()
                elif depth and entry.is_dir() and not (folder == self.folder and entry.name == RUNS):
                    yield from self._below(Path(entry.path), f"{prefix}{entry.name}/", depth - 1)
            except OSError:
                continue

    def free_name(self, stem: str, suffix: str = "") -> str:
        """Return a name that neither a file nor a run has: the stem itself, or with a number."""
        number, name = 1, stem
        while (self.folder / f"{name}{suffix}").exists() or (self.runs / name).exists():
            number += 1
            name = f"{stem}-{number}"
        return name + suffix


def file_stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes with a file's content, its time in nanoseconds and its bytes; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def is_row_file(name: str) -> bool:
    """Return whether a file may hold rows, by its suffix."""
    return Path(name).suffix.lower() in READERS
