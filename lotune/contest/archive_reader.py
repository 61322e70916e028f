"""Read an archive from outside: its whole directory is checked before a byte of it is unpacked.

Refused are paths that lead elsewhere, links and special files, names that are the same on some file system, names of
devices, archives in archives, encrypted or overlapping members, members that grow out of proportion, and files that are
not of the kinds that a bundle holds.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lotune.contest.manifest import Member
from lotune.contest.names import path_fault, same_name
from lotune.errors import DataError

MAX_MEMBERS = 10_000
"""Most members of a bundle; five checkpoints have about 100."""
MAX_GROWTH = 100
"""Most times that a member may grow when it is unpacked. Text grows about tenfold."""
SMALL = 1 << 20
"""Bytes below which a member may grow by any factor."""
MAX_TOTAL_GROWTH = 20
"""Most times that all members together may grow, beyond SMALL_TOTAL bytes."""
SMALL_TOTAL = 64 << 20
MAX_TEXT = 1 << 28
"""Most bytes of a member that is read into memory."""
TEXTS = frozenset({".json", ".jsonl", ".yaml", ".txt", ".md", ".html", ".svg", ".jinja", ".vocab", ".bpe"})
"""Suffixes of members in UTF-8."""
BINARIES = frozenset({".safetensors", ".model"})
"""Suffixes of weights, and of SentencePiece's tokenisers."""
_BINARY_STARTS = {
    b"PK\x03\x04": "a zip archive", b"PK\x05\x06": "a zip archive", b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive", b"\xfd7zXZ": "an xz archive", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a rar archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive", b"\x80\x02": "a pickle", b"\x80\x03": "a pickle", b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle", b"\x7fELF": "a program", b"MZ": "a program",
}  # fmt: skip
"""What files are that begin with these bytes; none of them is text or SentencePiece."""
_CHUNK = 1 << 20
_REMEDY = "ask the team for a bundle that `lotune bundle` wrote"


class HostileArchiveError(DataError):
    """An archive must not be unpacked."""

    def __init__(self, archive: Path, path: str, fault: str) -> None:
        where = f"{archive}: {path[:120]!r}" if path else str(archive)
        super().__init__(where, fault, "an archive that is safe to unpack", _REMEDY)


@dataclass(frozen=True)
class Archive:
    """An archive whose directory has been checked."""

    path: Path
    file: zipfile.ZipFile

    @property
    def names(self) -> list[str]:
        """The paths of the members, in their order."""
        return [entry.filename for entry in self.file.infolist()]

    def __contains__(self, path: str) -> bool:
        return path in self.file.NameToInfo

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield the content of a member in chunks.

        Raises: HostileArchiveError if its content is damaged, or not of the kind that its name says.
        """
        entry, read = self.file.getinfo(path), 0
        decoder = _Utf8() if PurePosixPath(path).suffix in TEXTS else None
        try:
            with self.file.open(entry) as member:
                # The declared size has been checked, so a member that holds more is cut there and fails its checksum.
                while chunk := member.read(_CHUNK):
                    if not read:
                        self._check_start(path, chunk)
                    read += len(chunk)
                    if decoder is not None and not decoder.accepts(chunk):
                        raise HostileArchiveError(self.path, path, "is not text in UTF-8, as its name says")
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise HostileArchiveError(self.path, path, f"is damaged: {error}") from None
        if read != entry.file_size:
            raise HostileArchiveError(self.path, path, f"holds {read} bytes, not {entry.file_size} as it says")

    def read(self, path: str) -> bytes:
        """Return the content of a member. Raises: HostileArchiveError if it is larger than MAX_TEXT."""
        if self.file.getinfo(path).file_size > MAX_TEXT:
            raise HostileArchiveError(self.path, path, f"is larger than {MAX_TEXT:,} bytes")
        return b"".join(self.chunks(path))

    def measure(self, path: str) -> Member:
        """Return the size and the digest of a member."""
        digest, size = hashlib.sha256(), 0
        for chunk in self.chunks(path):
            digest.update(chunk)
            size += len(chunk)
        return Member(path=path, bytes=size, sha256=digest.hexdigest())

    def extract(self, below: str, folder: Path) -> list[Path]:
        """Write the members below a path into a folder, which their paths cannot leave."""
        written = []
        for path in self.names:
            if path.startswith(below):
                target = folder.joinpath(*PurePosixPath(path).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    for chunk in self.chunks(path):
                        file.write(chunk)
                written.append(target)
        return written

    def _check_start(self, path: str, chunk: bytes) -> None:
        if PurePosixPath(path).suffix == ".safetensors":
            size = struct.unpack("<Q", chunk[:8])[0] if len(chunk) >= 8 else 0
            if not 2 <= size <= 100 << 20 or chunk[8:9] != b"{":
                raise HostileArchiveError(self.path, path, "is not in the format of safetensors, as its name says")
            return
        kind = next((kind for start, kind in _BINARY_STARTS.items() if chunk.startswith(start)), None)
        if kind is not None:
            raise HostileArchiveError(self.path, path, f"is {kind}")


class _Utf8:
    """Checks text in UTF-8 chunk by chunk."""

    def __init__(self) -> None:
        import codecs

        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def accepts(self, chunk: bytes) -> bool:
        try:
            return "\0" not in self._decoder.decode(chunk)
        except UnicodeDecodeError:
            return False


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive after checking its whole directory; nothing is unpacked.

    Raises: DataError if it cannot be read; HostileArchiveError if it must not be unpacked.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError(str(path), "is no file", "a bundle: a zip archive")
        _refuse_huge_directory(path, size)
        with zipfile.ZipFile(path) as file:
            check_directory(path, file, size)
            yield Archive(path, file)
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror or error}", "a bundle: a zip archive") from None
    except (zipfile.BadZipFile, struct.error, ValueError, UnicodeDecodeError, NotImplementedError) as error:
        raise HostileArchiveError(path, "", f"is no zip archive, or a damaged one: {error}") from None


def check_directory(path: Path, file: zipfile.ZipFile, archive_bytes: int) -> None:
    """Raise HostileArchiveError if a member of the archive must not be unpacked."""
    entries = file.infolist()
    for entry in entries:
        if fault := _entry_fault(entry):
            raise HostileArchiveError(path, _raw_name(entry), fault)
    _refuse_clashes(path, entries)
    _refuse_overlaps(path, entries, archive_bytes)
    total = sum(entry.file_size for entry in entries)
    if total > SMALL_TOTAL + MAX_TOTAL_GROWTH * archive_bytes:
        raise HostileArchiveError(path, "", f"would grow from {archive_bytes:,} to {total:,} bytes")


def _refuse_huge_directory(path: Path, size: int) -> None:
    """Raise HostileArchiveError if the archive counts more members than a bundle has, before any of them is read."""
    with path.open("rb") as file:
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise HostileArchiveError(path, "", "is no zip archive: it has no directory")
    count, directory = struct.unpack("<HI", tail[end + 10 : end + 16])
    # zip64 says 0xFFFF here and the true number elsewhere; bundles of that many members do not exist.
    if count > MAX_MEMBERS or (directory != 0xFFFFFFFF and directory > MAX_MEMBERS * 1024):
        raise HostileArchiveError(path, "", f"counts {count:,} members or more, {MAX_MEMBERS:,} at most are read")


def _entry_fault(entry: zipfile.ZipInfo) -> str:
    """Return why a member must not be unpacked, empty if it may be."""
    name, mode = _raw_name(entry), entry.external_attr >> 16
    suffix = PurePosixPath(name).suffix
    if fault := path_fault(name):
        return fault
    if stat.S_ISLNK(mode):
        return "is a link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is no plain file"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by a method that bundles do not use"
    if suffix not in TEXTS | BINARIES:
        return f"is of no kind that a bundle holds ({suffix or 'no suffix'})"
    if entry.file_size > max(SMALL, MAX_GROWTH * entry.compress_size):
        return f"would grow from {entry.compress_size:,} to {entry.file_size:,} bytes"
    return ""


def _raw_name(entry: zipfile.ZipInfo) -> str:
    # `filename` is cut at a NUL, behind which another name could hide.
    return entry.orig_filename


def _refuse_clashes(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raise HostileArchiveError if two members have one name, or a member is the folder of another."""
    first: dict[str, str] = {}
    for entry in entries:
        name, key = entry.filename, same_name(entry.filename)
        if key in first:
            fault = "stands twice" if first[key] == name else f"is the same name as {first[key]!r} on some systems"
            raise HostileArchiveError(path, name, fault)
        first[key] = name
    for key, name in first.items():
        for parent in PurePosixPath(key).parents:
            if parent.as_posix() in first:
                raise HostileArchiveError(path, name, f"lies below {first[parent.as_posix()]!r}, which is a file")
    folders: dict[str, str] = {}
    for entry in entries:
        for parent in PurePosixPath(entry.filename).parents:
            text = parent.as_posix()
            if folders.setdefault(same_name(text), text) != text:
                fault = f"has a folder that is {folders[same_name(text)]!r} on some systems"
                raise HostileArchiveError(path, entry.filename, fault)


def _refuse_overlaps(path: Path, entries: list[zipfile.ZipInfo], archive_bytes: int) -> None:
    """Raise HostileArchiveError if members share bytes of the archive, as in a bomb without nesting."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        # 30 bytes of a local header before name and content.
        if entry.header_offset < end:
            raise HostileArchiveError(path, entry.filename, "overlaps another member")
        end = entry.header_offset + 30 + len(entry.orig_filename.encode()) + entry.compress_size
        if end > archive_bytes:
            raise HostileArchiveError(path, entry.filename, "ends beyond the archive")
