"""Forty archives that must not be unpacked: eight kinds, five of each, made from a small bundle that may be."""

from __future__ import annotations

import io
import pickle
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ZEROS = b"0" * (8 << 20)
EVIL = "evil.txt"


def harmless() -> list[tuple[zipfile.ZipInfo, bytes]]:
    """The members of an archive that is not refused."""
    return [(member("manifest.json"), b"{}\n"), (member("data/test.jsonl"), b'{"id":"1"}\n')]


def member(
    name: str, mode: int = stat.S_IFREG | 0o644, system: int = 3, compression: int = zipfile.ZIP_DEFLATED
) -> zipfile.ZipInfo:
    """Return the entry of a member; the name is taken as it is."""
    entry = zipfile.ZipInfo("placeholder", (1980, 1, 1, 0, 0, 0))
    entry.filename = entry.orig_filename = name  # after the constructor, which cuts a name at a NUL
    entry.external_attr, entry.create_system, entry.compress_type = mode << 16, system, compression
    return entry


def archive(*more: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    """Return an archive of the harmless members and further ones."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Duplicate name")  # meant
        for entry, content in [*harmless(), *more]:
            file.writestr(entry, content)
    return stream.getvalue()


def _named(name: str) -> bytes:
    return archive((member(name), b"evil"))


def _linked(target: bytes, name: str = "link.txt", mode: int = stat.S_IFLNK | 0o777, system: int = 3) -> bytes:
    return archive((member(name, mode, system), target))


def _inner(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb.txt", content)
    return stream.getvalue()


def _zip_in_a_text() -> bytes:
    import gzip

    return archive((member("data/inner.txt"), gzip.compress(ZEROS)))


def _overlapping() -> bytes:
    """Two members of the directory share the bytes of one, as in a bomb without nesting."""
    content = bytearray(archive((member("a.txt"), b"x" * 4096), (member("b.txt"), b"x" * 4096)))
    entries = _directory(content)
    first, second = entries[-2], entries[-1]
    content[second + 42 : second + 46] = content[first + 42 : first + 46]  # the offset of its local header
    return bytes(content)


def _claims_small_size() -> bytes:
    """A member that says that it is small, and would grow beyond that."""
    content = bytearray(archive((member("a.txt"), ZEROS)))
    place = _directory(content)[-1]
    content[place + 24 : place + 28] = struct.pack("<I", 10)
    return bytes(content)


def _many_members() -> bytes:
    """A directory that counts more members than there can be."""
    content = bytearray(archive())
    end = content.rfind(b"PK\x05\x06")
    content[end + 8 : end + 12] = struct.pack("<HH", 60_000, 60_000)
    return bytes(content)


def _directory(content: bytearray) -> list[int]:
    """The places of the entries of the directory."""
    places, place = [], content.find(b"PK\x01\x02")
    while place >= 0:
        places.append(place)
        place = content.find(b"PK\x01\x02", place + 1)
    return places


def _encrypted() -> bytes:
    content = bytearray(archive((member("a.txt"), b"secret")))
    content[_directory(content)[-1] + 8] |= 1
    return bytes(content)


def _pickled() -> bytes:
    return pickle.dumps({"weights": [1, 2]}, protocol=4)


KINDS: dict[str, list[Callable[[], bytes]]] = {
    "absolute paths": [
        lambda: _named("/etc/evil.txt"),
        lambda: _named("C:/evil.txt"),
        lambda: _named("c:evil.txt"),
        lambda: _named("//server/share/evil.txt"),
        lambda: _named("\\\\server\\share\\evil.txt"),
    ],
    "parent folders": [
        lambda: _named("../evil.txt"),
        lambda: _named("data/../../evil.txt"),
        lambda: _named("data/.."),
        lambda: _named("..\\evil.txt"),
        lambda: _named("data/./evil.txt"),
    ],
    "links": [
        lambda: _linked(b"/etc/passwd"),
        lambda: _linked(b"../../evil.txt", "data/link.jsonl"),
        lambda: _linked(b"x", "pipe.txt", stat.S_IFIFO | 0o644),
        lambda: _linked(b"x", "device.txt", stat.S_IFCHR | 0o644),
        lambda: _linked(b"/etc", "folder.txt", stat.S_IFLNK | 0o777, system=0),
    ],
    "bombs": [
        lambda: archive((member("zeros.txt"), ZEROS)),
        _overlapping,
        _claims_small_size,
        _many_members,
        lambda: archive(*((member(f"{number}.txt"), b"0" * (1 << 20)) for number in range(70))),
    ],
    "nested archives": [
        lambda: archive((member("inner.zip"), _inner(ZEROS))),
        lambda: archive((member("manifest.json.zip"), _inner(b"{}"))),
        lambda: archive((member("inner.model"), _inner(ZEROS))),
        _zip_in_a_text,
        lambda: archive((member("inner.safetensors"), _inner(ZEROS))),
    ],
    "names twice": [
        lambda: archive((member("data/test.jsonl"), b"other")),
        lambda: archive((member("DATA/test.jsonl"), b"other")),
        lambda: archive((member("data/TEST.jsonl"), b"other")),
        lambda: archive((member("caf\u00e9.txt"), b"a"), (member("cafe\u0301.txt"), b"b")),
        lambda: archive((member("data/test.jsonl/below.txt"), b"other")),
    ],
    "names of devices": [
        lambda: _named("CON.txt"),
        lambda: _named("data/nul.json"),
        lambda: _named("com1.txt"),
        lambda: _named("aux/evil.txt"),
        lambda: _named("evil.txt\0.json"),
    ],
    "files that could be executed": [
        lambda: archive((member("adapter_model.bin"), _pickled())),
        lambda: archive((member("weights.pt"), _pickled())),
        lambda: archive((member("weights.safetensors"), _pickled())),
        lambda: archive((member("tokenizer.model"), _pickled())),
        _encrypted,
    ],
}
"""Builders of hostile archives by kind."""


def hostile_archives() -> Iterator[tuple[str, bytes]]:
    """Yield each hostile archive with its name."""
    for kind, builders in KINDS.items():
        for number, build in enumerate(builders, 1):
            yield f"{kind} {number}", build()


def write_hostile_archives(folder: Path) -> list[Path]:
    """Write the forty archives into a folder."""
    paths = []
    for name, content in hostile_archives():
        path = folder / f"{name.replace(' ', '-')}.zip"
        path.write_bytes(content)
        paths.append(path)
    return paths
