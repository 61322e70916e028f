"""Files are written whole or not at all, and what a crash left unfinished is taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from lotune import files
from lotune.errors import RunError
from lotune.files import read_json, write_atomically, write_json
from lotune.recipe import Recipe


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomically(path, "旧")

    def fail(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "旧"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_json_round_trip(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"path": Path("x/y"), "recipe": Recipe().score, 3: 0.1})
    expected = {"path": "x/y", "recipe": {"rule": "phase1", "base_total": "measured"}, "3": 0.1}
    assert read_json(tmp_path / "a.json") == expected
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(RunError, match="cannot be read"):
        read_json(tmp_path / "b.json")
