"""Write a zip archive that is the same, byte for byte, whenever and wherever its members are."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lotune.contest.manifest import Member
from lotune.disk_space import disk_full_as_run_error
from lotune.errors import RunError

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every member: the earliest that the format can express."""
PERMISSIONS = 0o100644
"""A plain file that its owner may write and anybody may read."""
STORED_SUFFIXES = frozenset({".safetensors"})
"""Suffixes of members that compression would not make smaller."""
MAX_SHRINKING = 15
"""Most times that a member may shrink; one that would shrink more is stored as it is. Readers allow 20 in all."""
SMALL = 1 << 20
"""Bytes up to which a member may shrink by any factor."""
UNIX = 3
"""The creating system that the format records; its permissions are Unix's."""


@dataclass(frozen=True)
class Source:
    """A member to write: its path in the archive, and a function that yields its content in chunks.

    The content is read twice, first to know its digest, and has to be the same both times.
    """

    path: str
    chunks: Callable[[], Iterable[bytes]]


def measure(source: Source) -> Member:
    """Return the size and the digest of a member."""
    digest, size = hashlib.sha256(), 0
    for chunk in source.chunks():
        digest.update(chunk)
        size += len(chunk)
    return Member(path=source.path, bytes=size, sha256=digest.hexdigest())


def write_archive(out: Path, members: Sequence[tuple[Source, Member]], progress: Callable[[int], None]) -> None:
    """Write the members in their order; `progress` gets the number of members written.

    The archive appears whole under its name, or not at all. Sizes beyond 4 GiB take zip64.
    Raises: RunError if a member has changed since it was measured, or the disk is full.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with disk_full_as_run_error(out), temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
                for number, (source, member) in enumerate(members, 1):
                    _write_member(archive, source, member)
                    progress(number)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _write_member(archive: zipfile.ZipFile, source: Source, member: Member) -> None:
    entry = zipfile.ZipInfo(member.path, EPOCH)
    entry.create_system, entry.external_attr = UNIX, PERMISSIONS << 16
    stored = Path(member.path).suffix in STORED_SUFFIXES or _looks_like_a_bomb(source, member)
    entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    # Level 6, zlib's default. The size decides whether the member needs zip64.
    entry.file_size = member.bytes
    digest = hashlib.sha256()
    with archive.open(entry, "w") as target:
        for chunk in source.chunks():
            digest.update(chunk)
            target.write(chunk)
    if digest.hexdigest() != member.sha256:
        raise RunError(member.path, "changed while the bundle was written", remedy="run the same command again")


def _looks_like_a_bomb(source: Source, member: Member) -> bool:
    """Return whether a member would shrink so much that readers would take it for a bomb."""
    # An untuned model may repeat one token thousands of times.
    if member.bytes <= SMALL:
        return False
    compressor, size = zlib.compressobj(), 0
    for chunk in source.chunks():
        size += len(compressor.compress(chunk))
    return member.bytes > MAX_SHRINKING * (size + len(compressor.flush()))


def file_chunks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    """Yield the bytes of a file in chunks."""
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk
