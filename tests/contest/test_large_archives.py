"""Members and archives beyond 4 GiB: written and read in bounded memory."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lotune.contest.archive_reader import open_archive
from lotune.contest.archive_writer import Source, measure, write_archive

MORE_THAN_ZIP32 = (1 << 32) + (1 << 20)
"""Bytes that need zip64."""


def large_source(path: str, size: int) -> Source:
    """A file in the format of safetensors, with one tensor of zeros."""
    header = b'{"weight":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)

    def chunks() -> Iterator[bytes]:
        yield struct.pack("<Q", len(header)) + header
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            yield block

    return Source(path, chunks)


def write_and_read(folder: Path) -> None:
    """Write and read an archive with members beyond 4 GiB, and raise MemoryError if that took more than 300 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sources = [large_source(f"checkpoints/{name}/merged/model.safetensors", MORE_THAN_ZIP32) for name in ("a", "b")]
    members = [(source, measure(source)) for source in sources]
    write_archive(folder / "large.zip", members, lambda _: None)
    with open_archive(folder / "large.zip") as archive:
        assert [archive.measure(name) for name in archive.names] == [member for _, member in members]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > 300 << 10:
        raise MemoryError(f"{grown:,} KiB")


@pytest.mark.soak
def test_members_beyond_four_gibibytes(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-c",
        f"from contest.test_large_archives import *; write_and_read(Path({str(tmp_path)!r}))",
    ]
    done = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "large.zip").stat().st_size > 2 * MORE_THAN_ZIP32
