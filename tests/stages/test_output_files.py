"""Files that a verb writes: inputs stay as they are, valid lines stay, and other answers are refused."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from lotune.distributed import SINGLE_PROCESS, ProcessGroup
from lotune.errors import RunError, SettingsError
from lotune.record_files import encode_records
from lotune.stages.output_files import check_fingerprints, merge_rank_outputs, refuse_overwriting_inputs


def line(id: str, mark: str = "m", **more: str) -> bytes:
    return encode_records([{"id": id, **more, "fingerprint": mark}])


def test_no_output_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rows = tmp_path / "model", tmp_path / "rows.jsonl"
    folder.mkdir()
    rows.write_text("{}\n")
    (tmp_path / "link.jsonl").symlink_to(rows)
    (tmp_path / "hard.jsonl").hardlink_to(rows)
    monkeypatch.chdir(tmp_path)
    for out in (rows, Path("rows.jsonl"), Path("model/../rows.jsonl"), Path("link.jsonl"), Path("hard.jsonl")):
        with pytest.raises(SettingsError, match="is an input, and would be overwritten"):
            refuse_overwriting_inputs(out, None, folder, rows)
    with pytest.raises(SettingsError, match="is inside"):
        refuse_overwriting_inputs(folder / "deep" / "new.jsonl", folder)
    refuse_overwriting_inputs(tmp_path / "new.jsonl", rows, folder, tmp_path / "missing.jsonl")
    refuse_overwriting_inputs(None, rows)
    assert rows.read_text() == "{}\n"


@pytest.mark.parametrize("content", [
    line("1", "other"), line("1") + line("2", "other"), b'{"id": "1"}\n', b"[1]\n", b"a user's notes\n",
    b"notes without an end",
])  # fmt: skip
def test_answers_of_other_settings_are_refused_and_stay(tmp_path: Path, content: bytes) -> None:
    for name in ("out.jsonl", "out.jsonl.1-of-2"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RunError, match="of another model or other settings, or does not record which"):
            check_fingerprints(tmp_path / "out.jsonl", "m")
        assert (tmp_path / name).read_bytes() == content
        (tmp_path / name).unlink()


@pytest.mark.parametrize("content", [b"", line("1") + line("2"), line("1") + b'{"i', line("1") + b'{"id":"2", "an'])
def test_answers_of_the_same_settings_are_reused(tmp_path: Path, content: bytes) -> None:
    check_fingerprints(tmp_path / "out.jsonl", "m")
    (tmp_path / "out.jsonl").write_bytes(content)
    check_fingerprints(tmp_path / "out.jsonl", "m")


def test_parts_of_stopped_processes_are_gathered(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(line("1"))
    (tmp_path / "out.jsonl.1-of-2").write_bytes(line("2") + b'{"id": "9')
    (tmp_path / "out.jsonl.2-of-2").write_bytes(line("1") + line("3"))
    seen = []

    def work(own: Path | None) -> bytes:
        assert own is not None
        seen.append(own.read_bytes())
        return b"found\n"

    assert merge_rank_outputs(out, SINGLE_PROCESS, work) == [b"found\n"]
    assert seen == [line("1") + line("2") + line("3")]
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]


def test_with_several_processes_unselected_answers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(line("1") + line("2") + line("7"))
    monkeypatch.setattr(ProcessGroup, "all_gather", lambda self, *values: [values, values])
    monkeypatch.setattr(ProcessGroup, "all_gather_bytes", lambda self, data: [data, line("2", answer="b")])
    assert len(merge_rank_outputs(out, ProcessGroup(0, 2), lambda own: line("1", answer="a"))) == 2
    stored = {item["id"]: item.get("answer") for item in map(orjson.loads, out.read_text().splitlines())}
    assert stored == {"7": None, "1": "a", "2": "b"}
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]
