"""Run folders: which stages are done, and the lock that keeps other processes out.

`stages.json` records, for each finished stage, the settings and input files that it used and the files that it wrote. A
stage is skipped while its record matches; otherwise the changed settings are listed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from lotune.disk_space import disk_full_as_run_error
from lotune.environment import environment, installed
from lotune.errors import RunError, SettingsError
from lotune.files import read_json, write_atomically, write_json
from lotune.fingerprints import content_digest, is_content_digest, serialised_inputs
from lotune.settings import Settings, flatten, load_yaml, read_yaml

PLAN_FILE = "plan.json"
"""File of a run with the name of its training and the number of its steps."""
METRICS_FILE = "metrics.jsonl"
"""File of a run with a line per step and per validation."""
StageStatus = Literal["fresh", "changed", "done"]


@dataclass(frozen=True)
class Run:
    """A run folder. `Run(folder)` reads it; `open_run` creates or resumes it under a lock."""

    folder: Path
    recipe: Settings | None = None
    """The recipe of `open_run`; recipe.yaml may still be that of the finished stages (`write_recipe`)."""
    recipe_changes: tuple[str, ...] = ()
    """Differences of that recipe from recipe.yaml, such as "seed: 0 -> 1"."""

    def stage_state(self, name: str, inputs: Mapping[str, Any]) -> StageStatus:
        """Return whether a stage was never finished (fresh), was finished with other inputs (changed), or is done.

        `inputs` are settings by dotted key; a Path counts by its content, not its name.
        """
        if name not in self.stages():
            return "fresh"
        return "changed" if self.changes(name, inputs) else "done"

    def changes(self, name: str, inputs: Mapping[str, Any]) -> list[str]:
        """Return the changes since a stage was finished, such as "tune.learning_rate: 0.001 -> 0.002".

        Raises: RunError if stages.json is damaged.
        """
        record = self.stages().get(name)
        if record is None:
            return []
        before, now = record["inputs"], serialised_inputs(inputs, record["inputs"])
        # Settings that exist on one side only count as None on the other: a new setting invalidates by its value.
        keys = [*now, *(key for key in before if key not in now)]
        changed = [_change(key, before.get(key), now.get(key)) for key in keys]
        return list(filter(None, changed)) + [f"{path}: {text}" for path, text in self.altered([name]).items()]

    def altered(self, stages: Iterable[str]) -> dict[str, str]:
        """Return the outputs of finished stages that have changed: "missing" or "content changed", by path.

        Raises: RunError if stages.json is damaged.
        """
        records = [record for name, record in self.stages().items() if name in stages]
        outputs = {path: before for record in records for path, before in record["outputs"].items()}
        return {path: text for path, before in outputs.items() if (text := self._output_change(path, before))}

    def mark_stage_done(self, name: str, inputs: Mapping[str, Any], outputs: Iterable[Path] = ()) -> None:
        """Record that a stage is done, with its inputs and the files or folders of the run that it wrote."""
        paths = [path if path.is_relative_to(self.folder) else self.folder / path for path in outputs]
        written = {path.relative_to(self.folder).as_posix(): content_digest(path, {}) for path in paths}
        record = {"inputs": serialised_inputs(inputs, {}), "outputs": written}
        write_json(self.folder / "stages.json", {**self.stages(), name: record})

    def invalidate_stage(self, name: str) -> None:
        """Mark a stage as not done before it starts again, and write the new recipe."""
        # Before the stage writes anything: after a crash its half-written outputs must not pass as finished.
        self.write_recipe()
        stages = self.stages()
        if stages.pop(name, None) is not None:
            write_json(self.folder / "stages.json", stages)

    def write_recipe(self) -> None:
        """Write recipe.yaml, with all defaults, and environment.json, unless the run was only read."""
        if self.recipe is not None:
            write_atomically(self.folder / "recipe.yaml", as_yaml(self.recipe))
            write_json(self.folder / "environment.json", environment())

    def stages(self) -> dict[str, Any]:
        """Return the record of each finished stage from stages.json: its inputs and outputs.

        Raises: RunError if it is damaged.
        """
        path = self.folder / "stages.json"
        records = read_json(path) if path.exists() else {}
        if not isinstance(records, dict) or not all(map(_is_stage_record, records.values())):
            remedy = "delete it and run the same command again"
            raise RunError(str(path), "is damaged: not a record of stages", "inputs and outputs of each stage", remedy)
        return records

    def _output_change(self, path: str, before: Mapping[str, Any]) -> str:
        """Return how an output has changed since it was written, empty if it has not."""
        if not (self.folder / path).exists():
            return "missing"
        return "" if content_digest(self.folder / path, before)["sha256"] == before["sha256"] else "content changed"


@contextmanager
def open_run(folder: Path, recipe: Settings) -> Iterator[Run]:
    """Create or resume the run in a folder, and lock it until the end of the block.

    recipe.yaml and environment.json of finished stages stay until a stage starts again (`Run.write_recipe`), so that a
    refused command changes nothing. Temporary files of killed processes are removed.
    Raises: RunError if the folder holds other files, a run of a newer lotune or an unreadable recipe, or if another
    process uses it.
    """
    # A process that was killed before it wrote the recipe leaves a folder with only the lock.
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if present - {".lock"} and "recipe.yaml" not in present:
        raise RunError(
            str(folder), "holds files but no run", "a run folder or a new one", "choose another name with name=NAME"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Everything below reads or changes what another process could be writing.
    with lock_file(folder / ".lock"):
        _refuse_newer(folder)
        _remove_stale_temp_files(folder)
        run = Run(folder, recipe, _recipe_changes(folder / "recipe.yaml", as_yaml(recipe)))
        if not run.stages() or not (folder / "environment.json").exists():
            run.write_recipe()
        yield run


def as_yaml(settings: Settings) -> str:
    """Return settings as YAML, with all defaults."""
    import yaml

    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _refuse_newer(folder: Path) -> None:
    """Raise RunError if a newer lotune wrote the run."""
    path = folder / "environment.json"
    try:
        written_by = str(read_json(path)["lotune"]) if path.exists() else ""
    except (RunError, KeyError, TypeError):
        return  # unreadable; it is written again
    version = installed("lotune") or ""
    if _numbers(written_by) > _numbers(version) > ():
        raise RunError(
            str(folder),
            f"was written by lotune {written_by}, this is {version}",
            remedy="update lotune, or choose another name with name=NAME",
        )


def _remove_stale_temp_files(folder: Path) -> None:
    """Remove temporary files of processes that no longer run; the folder must be locked."""
    for file in folder.rglob(".*.tmp"):
        # `write_atomically` puts the process id before the suffix.
        process = file.name.rpartition(".tmp")[0].rpartition(".")[2]
        if file.is_file() and process.isdecimal() and not _is_alive(int(process)):
            file.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would end the process there
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it exists, and belongs to another user
        return True
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release, empty for text without a version.

    >>> _numbers("0.10.2.dev3+g1a2b"), _numbers("None")
    ((0, 10, 2), ())
    """
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in release.group().split(".")) if release else ()


def _recipe_changes(path: Path, text: str) -> tuple[str, ...]:
    """Return how a recipe, as YAML, differs from the one in a run folder in the settings that both have.

    Raises: RunError if the recipe in the folder cannot be read.
    """
    if not path.exists():
        return ()
    try:
        before = flatten(read_yaml(path))
    except SettingsError as error:
        raise RunError(
            error.where, error.found, "the recipe of a run", "choose another name with name=NAME, or delete it"
        ) from None
    # Through YAML, as the stored one was: tuples have become lists, and paths texts.
    now = flatten(load_yaml(text, str(path)))
    common = [key for key in now if key in before and key not in ("name", "runs")]
    return tuple(filter(None, (_change(key, before[key], now[key]) for key in common)))


def _change(key: str, before: Any, now: Any) -> str:
    """Return how an input has changed, empty if it has not."""
    if is_content_digest(before) and is_content_digest(now):
        return "" if before["sha256"] == now["sha256"] else f"{key}: content changed"
    return "" if before == now else f"{key}: {_format_value(before)} -> {_format_value(now)}"


def _is_stage_record(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), dict) for key in ("inputs", "outputs"))


def _format_value(value: Any) -> str:
    return "a file" if is_content_digest(value) else orjson.dumps(value).decode()


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a lock file, which contains the process id.

    Raises: RunError if another process holds it, or the file system does not support locks.
    """
    from filelock import FileLock, Timeout

    with ExitStack() as stack:
        try:
            with disk_full_as_run_error(path):
                # A lock of the operating system, not the existence of a file: it ends with its process in any case.
                stack.enter_context(FileLock(path, timeout=0, thread_local=False))
        except Timeout:
            remedy = "wait for it to finish, or stop it"
            raise RunError(str(path.parent), f"is in use by process {_holder(path)}", remedy=remedy) from None
        except OSError as error:
            remedy = "put the runs on another disk with runs=FOLDER"
            raise RunError(str(path), f"cannot be locked: {error.strerror}", remedy=remedy) from None
        if sys.platform != "win32":  # there, no other process can read a locked file
            with disk_full_as_run_error(path):
                path.write_bytes(b"%d\n" % os.getpid())
        yield


def running_process(folder: Path, lock: str = ".lock") -> str | None:
    """Return the id of the process that works on a run, "unknown" if it cannot be read; None if there is none.

    `lock` is the name of the lock file.
    """
    path = folder / lock
    if not path.exists():
        return None
    try:
        import fcntl
    except ImportError:  # Windows
        return _holder(path) if _holder(path) != "unknown" else None
    # Not with FileLock, which would empty the file. The lock ends with its process, however that ended.
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(path)
    return None


def _holder(path: Path) -> str:
    try:
        return path.read_text().strip() or "unknown"
    except OSError:
        return "unknown"
