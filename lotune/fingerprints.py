"""Digests of values, files and folders: the inputs of stages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from lotune.errors import RunError
from lotune.files import file_digest, to_json


def fingerprint(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON, in hexadecimal.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(to_json(value, orjson.OPT_SORT_KEYS)).hexdigest()


def inputs_fingerprint(inputs: Mapping[str, Any]) -> str:
    """Return the fingerprint of a stage's inputs; a Path counts by its content, not its name or modification time."""
    values = serialised_inputs(inputs, {})
    return fingerprint({key: value["sha256"] if is_content_digest(value) else value for key, value in values.items()})


def serialised_inputs(inputs: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs as stages.json stores them: JSON values, and the digests of files.

    Raises: RunError if an input file is missing.
    """
    values = {}
    for key, value in inputs.items():
        if isinstance(value, Path):
            if not value.exists():
                raise RunError(key, f"{value} does not exist", "a file or a folder")
            earlier = before.get(key)
            values[key] = content_digest(value, earlier if isinstance(earlier, dict) else {})
        else:
            values[key] = orjson.loads(to_json(value))
    return values


def content_digest(path: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the digest and the listing of a file or folder; with an unchanged listing, `before` is returned.

    The listing is a fingerprint of the names, sizes and modification times of all files.
    """
    # Sizes and times first, as reading all of a large base for its digest takes long.
    files = [path] if path.is_file() else sorted(_files_below(path))
    stats = {"" if file == path else file.relative_to(path).as_posix(): file.stat() for file in files}
    listing = fingerprint({name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()})
    if before.get("listing") == listing:
        return dict(before)
    digest = hashlib.sha256()
    for file, (name, stat) in zip(files, stats.items(), strict=True):
        # A zero byte ends the name; a lone file counts by its content, whatever its name.
        digest.update(name.encode() + b"\0" if name else b"")
        digest.update(_digest(file, stat.st_size, stat.st_mtime_ns))
    return {"sha256": digest.hexdigest(), "listing": listing}


def _files_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        # Python, editors and file managers leave such files behind; they are no input.
        inner = path.relative_to(folder).parts
        if path.is_file() and "__pycache__" not in inner and not any(part.startswith(".") for part in inner):
            yield path


@cache
def _digest(file: Path, size: int, mtime_ns: int) -> bytes:
    """Return the sha256 of a file, cached: a large base is read once per process while size and mtime stay."""
    return bytes.fromhex(file_digest(file))


def is_content_digest(value: Any) -> bool:
    """Return whether a value is a result of `content_digest`."""
    return isinstance(value, dict) and "sha256" in value
