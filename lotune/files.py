"""Crash-safe files: atomic writes, JSON, and appended JSON lines."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import orjson

from lotune.disk_space import disk_full_as_run_error
from lotune.errors import RunError, SettingsError
from lotune.settings import Settings


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file through a temporary one, so that a crash leaves the old or the new content; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, as a rename across file systems is a copy; with the process id, so that a later process can
    # tell the file of a dead one (`open_run` removes it).
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = content.encode() if isinstance(content, str) else content
    try:
        with disk_full_as_run_error(path, len(content)), temporary.open("wb") as file:
            file.write(content)
            # Without fsync, a power cut after the rename can leave the new name with no content.
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, to_json(value, orjson.OPT_INDENT_2) + b"\n")


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises: RunError if the file is missing or damaged.
    """
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise RunError(str(path), f"cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise RunError(str(path), f"is damaged: {error}", "JSON", "delete it and run the same command again") from None


def require_new_folder(path: Path) -> None:
    """Raise SettingsError if a folder to write exists already, unless it is empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SettingsError(str(path), "already exists", "a new folder", "name another one, or remove it")


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


_KEYS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def to_json(value: Any, option: int = 0) -> bytes:
    """Return a value as JSON; it may hold keys that are not strings, NumPy arrays, paths and settings."""
    return orjson.dumps(value, default=_json_default, option=option | _KEYS)


def _json_default(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Settings):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
