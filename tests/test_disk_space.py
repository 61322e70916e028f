"""Room on the disk: what counts as full, how it is said, and what is asked for before long work."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune import disk_space
from lotune.disk_space import disk_full_as_run_error, format_bytes, free_disk_bytes, is_disk_full, require_free_space
from lotune.errors import CheckError, DataError, RunError
from lotune.library_errors import translate_error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("1024 requested and 12 written"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0"),
    ],
)
def test_each_librarys_way_to_say_full(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught, disk_full_as_run_error(tmp_path / "a.bin", 3 * 2**20):
        raise error
    output = str(caught.value)
    assert output.startswith(f"{tmp_path / 'a.bin'}: cannot be written")
    assert "are free on its disk, it needs 3.0 MiB" in output
    assert len(output.splitlines()) == 2
    result = translate_error(error)
    assert isinstance(result, RunError)
    assert result.exit_status == 2


@pytest.mark.parametrize(
    "error", [DataError("a", "No space left in the row"), ValueError("odd"), OSError(errno.EIO, "?")]
)
def test_other_errors_pass(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, disk_full_as_run_error(tmp_path / "a.bin"):
        raise error
    assert caught.value is error


def test_messages_of_errors_from_any_library() -> None:
    failed = CheckError("a", "b")
    assert translate_error(failed) is failed
    assert translate_error(ValueError("a fault of ours")) is None
    assert translate_error(BrokenPipeError(errno.EPIPE, "Broken pipe")) is None
    denied = translate_error(PermissionError(errno.EACCES, "Permission denied", "runs/a"))
    assert (
        str(denied)
        == "runs/a: cannot be read or written: Permission denied\nremedy: check the path and its permissions"
    )


def test_free_space_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_disk_bytes(tmp_path / "not" / "yet" / "there") > 0
    monkeypatch.setattr(disk_space, "free_disk_bytes", lambda _: 1000)
    old = tmp_path / "old"
    old.mkdir()
    (old / "file").write_bytes(b"0" * 500)
    require_free_space(tmp_path, 1000, "tuning")
    require_free_space(tmp_path, 1500, "tuning", [old, tmp_path / "none"])
    with pytest.raises(RunError, match=r"tuning needs 1\.5 KiB on this disk, 1000 B are free"):
        require_free_space(tmp_path, 1536, "tuning")
    with pytest.raises(RunError):
        require_free_space(tmp_path, 1501, "tuning", [old])


@given(st.integers(0, 2**50))
def test_sizes_are_shown_to_a_twentieth(size: int) -> None:
    number, unit = format_bytes(size).split()
    back = float(number) * {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    assert abs(back - size) <= 0.05 * max(size, 1)


def test_full_is_not_denied() -> None:
    assert not is_disk_full(PermissionError(errno.EACCES, "No space left, said somebody"))
