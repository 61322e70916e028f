"""Archives from outside: forty hostile ones are refused, and nothing of them is left on the disk."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import pytest
from command_line import call
from contest.hostile_archives import KINDS, archive, hostile_archives, member
from hypothesis import given
from hypothesis import strategies as st

from lotune.contest.archive_reader import HostileArchiveError, open_archive
from lotune.contest.names import path_fault
from lotune.errors import DataError

ARCHIVES = dict(hostile_archives())


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_there_are_forty() -> None:
    assert len(ARCHIVES) == 40
    assert {len(builders) for builders in KINDS.values()} == {5}
    assert len(set(ARCHIVES.values())) == 40


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "bundle.zip").write_bytes(ARCHIVES[name])
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = files_below(tmp_path)
    result = call("bundle", "--check", "bundle.zip", status=2)
    assert files_below(tmp_path) == before
    assert "bundle.zip" in result.stderr
    assert len(result.stderr.splitlines()) <= 3
    assert result.stdout == ""
    assert Path("/etc/evil.txt").exists() is False


def unpack_all(path: Path) -> None:
    """Read every member of an archive, as a check does, without a manifest to begin with."""
    with open_archive(path) as opened:
        for name in opened.names:
            for _ in opened.chunks(name):
                pass


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_reader_itself_refuses_it(name: str, tmp_path: Path) -> None:
    """The command could refuse an archive for its empty manifest alone."""
    path = tmp_path / "bundle.zip"
    path.write_bytes(ARCHIVES[name])
    with pytest.raises(HostileArchiveError):
        unpack_all(path)


def test_the_harmless_members_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(archive((member("checkpoints/step-1/adapter/adapter_config.json"), b"{}")))
    unpack_all(path)
    with open_archive(path) as opened:
        assert opened.read("data/test.jsonl") == b'{"id":"1"}\n'
        written = opened.extract("checkpoints/", tmp_path / "out")
    assert [file.relative_to(tmp_path / "out").as_posix() for file in written] == [
        "checkpoints/step-1/adapter/adapter_config.json"
    ]


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip archive at all" * 10, b"PK\x05\x06" + b"\0" * 10])
def test_no_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(content)
    call("bundle", "--check", path, status=2)
    with pytest.raises(DataError), open_archive(path):
        pass


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.zip", tmp_path):
        call("bundle", "--check", path, status=2)


@pytest.mark.parametrize("keep", [30, 60, 100, 150])
def test_a_truncated_archive(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(archive()[:keep])
    call("bundle", "--check", path, status=2)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    content = bytearray(archive((member("a.txt", compression=zipfile.ZIP_STORED), b"the text of a member")))
    content[content.index(b"the text")] ^= 1
    path = tmp_path / "bundle.zip"
    path.write_bytes(content)
    with pytest.raises(HostileArchiveError, match="damaged"):
        unpack_all(path)


@given(st.text(max_size=30))
def test_an_accepted_path_stays_in_its_folder(name: str) -> None:
    if not path_fault(name):
        folder = Path("/some/folder")
        target = folder.joinpath(name)
        assert target.is_relative_to(folder)
        assert ".." not in target.parts
        assert target != folder
