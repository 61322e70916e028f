"""What a stage was made from: digests of values, files and folders."""

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
    """The sha256 of a value's canonical JSON.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(to_json(value, orjson.OPT_SORT_KEYS)).hexdigest()


def inputs_fingerprint(inputs: Mapping[str, Any]) -> str:
    """A fingerprint of a stage's inputs; of a Path among them the content counts, not its name or age."""
    held = serialised_inputs(inputs, {})
    return fingerprint({key: value["sha256"] if is_content_digest(value) else value for key, value in held.items()})


def serialised_inputs(inputs: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as stages.json holds them: plain JSON, files by their content.

    Raises: RunError where an input file is missing.
    """
    held = {}
    for key, value in inputs.items():
        if isinstance(value, Path):
            if not value.exists():
                raise RunError(key, f"{value} is not there", "a file or a folder")
            known = before.get(key)
            held[key] = content_digest(value, known if isinstance(known, dict) else {})
        else:
            held[key] = orjson.loads(to_json(value))
    return held


def content_digest(path: Path, before: Mapping[str, Any]) -> dict[str, Any]:
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
    return bytes.fromhex(file_digest(file))


def is_content_digest(value: Any) -> bool:
    """Whether a value is what `content_digest` returns."""
    return isinstance(value, dict) and "sha256" in value
