"""A run is a folder: how its files are written so that a crash leaves none half done, and which stages are done.

`stages.json` remembers, for each finished stage, the settings and input files that it was made from and the files that
it wrote. A stage whose memory still matches is skipped; one that does not says which settings changed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson

from lotune.disk import writing
from lotune.environment import environment, installed
from lotune.errors import RunError, SettingsError
from lotune.settings import Settings, flatten, load_yaml, read_yaml

State = Literal["fresh", "changed", "done"]


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that its name never stands on half a file; folders are made on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = content.encode() if isinstance(content, str) else content
    try:
        with writing(path, len(content)), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2 | _KEYS) + b"\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises: RunError where the file is missing or damaged.
    """
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise RunError(str(path), f"cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise RunError(str(path), f"is damaged: {error}", "JSON", "delete it and run the same command again") from None


def append_jsonl(path: Path, record: Any) -> None:
    """Append one record as one line; a last line that a crash left unfinished is taken away first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = orjson.dumps(record, default=_plain, option=_KEYS) + b"\n"
    with writing(path, len(line)), path.open("a+b") as file:
        _drop_unfinished_line(file)
        file.write(line)


def keep_lines(path: Path, wanted: Callable[[Any], bool]) -> None:
    """Rewrite a jsonl file with the wanted records only; what is no JSON, such as a last half line, goes too."""
    kept = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(orjson.JSONDecodeError):
            if wanted(orjson.loads(line)):
                kept.append(line + b"\n")
    write_atomically(path, b"".join(kept))


def fingerprint(value: Any) -> str:
    """The sha256 of a value's canonical JSON.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(orjson.dumps(value, default=_plain, option=orjson.OPT_SORT_KEYS | _KEYS)).hexdigest()


def inputs_mark(inputs: Mapping[str, Any]) -> str:
    """A fingerprint of a stage's inputs; of a Path among them the content counts, not its name or age."""
    held = _remembered(inputs, {})
    return fingerprint({key: value["sha256"] if _is_content(value) else value for key, value in held.items()})


@dataclass(frozen=True)
class Run:
    """A run folder. `Run(folder)` reads one back; `open_run` makes one, or goes on with it, under a lock."""

    folder: Path
    recipe: Settings | None = None
    """The recipe that it was opened with; recipe.yaml may still be that of the work that is there (`take_recipe`)."""
    recipe_changes: tuple[str, ...] = ()
    """How that recipe differs from the one in recipe.yaml, such as "seed: 0 -> 1"."""

    def stage_state(self, name: str, inputs: Mapping[str, Any]) -> State:
        """Whether a stage was never finished (fresh), was finished from other inputs (changed), or is done.

        `inputs` are settings by dotted key; the content of a Path among them counts, not its name.
        """
        if name not in self.stages():
            return "fresh"
        return "changed" if self.changes(name, inputs) else "done"

    def changes(self, name: str, inputs: Mapping[str, Any]) -> list[str]:
        """What has changed since a stage was finished, such as "tune.learning_rate: 0.001 -> 0.002".

        Raises: RunError where stages.json is damaged.
        """
        memory = self.stages().get(name)
        if memory is None:
            return []
        before, now = memory["inputs"], _remembered(inputs, memory["inputs"])
        keys = [*now, *(key for key in before if key not in now)]
        changed = [_change(key, before.get(key), now.get(key)) for key in keys]
        return list(filter(None, changed)) + [f"{path}: {text}" for path, text in self.altered([name]).items()]

    def altered(self, stages: Iterable[str]) -> dict[str, str]:
        """Return how files that finished stages wrote have changed since: "missing" or "content changed", by path.

        Raises: RunError where stages.json is damaged.
        """
        memories = [memory for name, memory in self.stages().items() if name in stages]
        outputs = {path: before for memory in memories for path, before in memory["outputs"].items()}
        return {path: text for path, before in outputs.items() if (text := self._lost(path, before))}

    def finish_stage(self, name: str, inputs: Mapping[str, Any], outputs: Iterable[Path] = ()) -> None:
        """Remember that a stage is done: from which inputs, and which files or folders of the run it wrote."""
        paths = [path if path.is_relative_to(self.folder) else self.folder / path for path in outputs]
        written = {path.relative_to(self.folder).as_posix(): _content(path, {}) for path in paths}
        memory = {"inputs": _remembered(inputs, {}), "outputs": written}
        write_json(self.folder / "stages.json", {**self.stages(), name: memory})

    def forget_stage(self, name: str) -> None:
        """Mark a stage as not done, before it is begun again: from here on the folder is the new recipe's."""
        self.take_recipe()
        stages = self.stages()
        if stages.pop(name, None) is not None:
            write_json(self.folder / "stages.json", stages)

    def take_recipe(self) -> None:
        """Write recipe.yaml, defaults written out, and environment.json, of the recipe that the run was opened with."""
        if self.recipe is not None:
            write_atomically(self.folder / "recipe.yaml", as_yaml(self.recipe))
            write_json(self.folder / "environment.json", environment())

    def stages(self) -> dict[str, Any]:
        """What stages.json remembers of each finished stage: its inputs and outputs.

        Raises: RunError where it is damaged.
        """
        path = self.folder / "stages.json"
        found = read_json(path) if path.exists() else {}
        if not isinstance(found, dict) or not all(map(_is_memory, found.values())):
            remedy = "delete it and run the same command again"
            raise RunError(str(path), "is damaged: no memory of stages", "inputs and outputs of each", remedy)
        return found

    def _lost(self, path: str, before: Mapping[str, Any]) -> str:
        """The clause that says how an output is no longer what was written, empty where it is."""
        if not (self.folder / path).exists():
            return "missing"
        return "" if _content(self.folder / path, before)["sha256"] == before["sha256"] else "content changed"


@contextmanager
def open_run(folder: Path, recipe: Settings) -> Iterator[Run]:
    """The run in a folder, made where there is none, locked against a second one until the block is left.

    recipe.yaml and environment.json of finished stages stay until a stage is begun again (`Run.take_recipe`), so that a
    command that is refused changes nothing. What killed processes left half written is taken away.
    Raises: RunError where the folder holds something else, a run of a newer lotune or one whose recipe cannot be read,
    or another process runs in it.
    """
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if present - {".lock"} and "recipe.yaml" not in present:
        raise RunError(str(folder), "holds files but no run", "a run folder or a new one", "choose another name=")
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / ".lock"):
        _refuse_newer(folder)
        _sweep(folder)
        run = Run(folder, recipe, _recipe_changes(folder / "recipe.yaml", as_yaml(recipe)))
        if not run.stages() or not (folder / "environment.json").exists():
            run.take_recipe()
        yield run


def as_yaml(settings: Settings) -> str:
    """Settings as YAML, defaults written out."""
    import yaml

    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _refuse_newer(folder: Path) -> None:
    """Raises: RunError where a newer lotune has written the run."""
    path = folder / "environment.json"
    try:
        theirs = str(read_json(path)["lotune"]) if path.exists() else ""
    except (RunError, KeyError, TypeError):
        return  # it says nothing, and is written anew
    ours = installed("lotune") or ""
    if _numbers(theirs) > _numbers(ours) > ():
        raise RunError(
            str(folder),
            f"was written by lotune {theirs}, this is {ours}",
            remedy="update lotune, or choose another name=",
        )


def _sweep(folder: Path) -> None:
    """Take away temporary files of processes that are gone; the folder is locked."""
    for left in folder.rglob(".*.tmp"):
        process = left.name.rpartition(".tmp")[0].rpartition(".")[2]
        if left.is_file() and process.isdecimal() and not _is_alive(int(process)):
            left.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":
        return True  # nothing asks there without harm
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a release, empty for a text that is none.

    >>> _numbers("0.10.2.dev3+g1a2b"), _numbers("None")
    ((0, 10, 2), ())
    """
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in release.group().split(".")) if release else ()


def _recipe_changes(path: Path, text: str) -> tuple[str, ...]:
    """What a recipe that is written out changes of the one in a run folder; what only one of them knows is left out.

    Raises: RunError where the one in the folder cannot be read.
    """
    if not path.exists():
        return ()
    try:
        before = flatten(read_yaml(path))
    except SettingsError as error:
        raise RunError(error.where, error.found, "the recipe of a run", "choose another name=, or delete it") from None
    now = flatten(load_yaml(text, str(path)))
    known = [key for key in now if key in before and key not in ("name", "runs")]
    return tuple(filter(None, (_change(key, before[key], now[key]) for key in known)))


_KEYS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _drop_unfinished_line(file: Any) -> None:
    end = file.seek(0, os.SEEK_END)
    kept = end
    while kept:
        start = max(0, kept - 65_536)
        file.seek(start)
        newline = file.read(kept - start).rfind(b"\n")
        if newline >= 0:
            kept = start + newline + 1
            break
        kept = start
    if kept != end:
        file.truncate(kept)


def _remembered(inputs: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as stages.json holds them: plain JSON, files by their content.

    Raises: RunError where an input file is missing.
    """
    held = {}
    for key, value in inputs.items():
        if isinstance(value, Path):
            if not value.exists():
                raise RunError(key, f"{value} is not there", "a file or a folder")
            known = before.get(key)
            held[key] = _content(value, known if isinstance(known, dict) else {})
        else:
            held[key] = orjson.loads(orjson.dumps(value, default=_plain, option=_KEYS))
    return held


def _content(path: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Digest and listing of a file or folder; the digest is that of `before` where the listing is the same.

    The listing is a fingerprint of the names, sizes and ages of all files.
    """
    files = [path] if path.is_file() else sorted(_files_below(path))
    stats = {"" if file == path else file.relative_to(path).as_posix(): file.stat() for file in files}
    listing = fingerprint({name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()})
    if before.get("listing") == listing:
        return dict(before)
    digest = hashlib.sha256()
    for file, (name, stat) in zip(files, stats.items(), strict=True):
        digest.update(name.encode() + b"\0" if name else b"")
        digest.update(_digest(file, stat.st_size, stat.st_mtime_ns))
    return {"sha256": digest.hexdigest(), "listing": listing}


def _files_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        inner = path.relative_to(folder).parts
        if path.is_file() and "__pycache__" not in inner and not any(part.startswith(".") for part in inner):
            yield path


@cache
def _digest(file: Path, size: int, mtime_ns: int) -> bytes:
    """The sha256 of a file; a base of many gigabytes is read once a process while its size and age are the same."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _change(key: str, before: Any, now: Any) -> str:
    """The clause that says how an input has changed, empty where it has not."""
    if _is_content(before) and _is_content(now):
        return "" if before["sha256"] == now["sha256"] else f"{key}: content changed"
    return "" if before == now else f"{key}: {_shown(before)} -> {_shown(now)}"


def _is_memory(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), dict) for key in ("inputs", "outputs"))


def _is_content(value: Any) -> bool:
    return isinstance(value, dict) and "sha256" in value


def _shown(value: Any) -> str:
    return "a file" if _is_content(value) else orjson.dumps(value).decode()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock file, which names the process; where the system has no flock nothing is locked.

    Raises: RunError where another process holds it, or the disk knows no locks.
    """
    with path.open("a+b", buffering=0) as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    remedy = "put the runs on another disk with runs=FOLDER"
                    raise RunError(str(path), f"cannot be locked: {error.strerror}", remedy=remedy) from None
                file.seek(0)
                holder = file.read().decode().strip() or "unknown"
                raise RunError(
                    str(path.parent), f"is in use by process {holder}", remedy="wait for it, or end it"
                ) from None
        with writing(path):
            file.truncate(0)
            file.write(b"%d\n" % os.getpid())
        yield
