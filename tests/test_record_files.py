"""Record files: whole records whatever happened to the process that wrote them, and resuming by id and fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import RunError
from lotune.record_files import (
    append_record,
    encode_records,
    record_lines,
    require_fingerprint,
    stored_records,
    write_records,
)


@pytest.mark.parametrize("torn", ["", '{"step": 2, "lo', "x" * 200_000])
def test_an_unfinished_line_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    append_record(path, {"step": 1})
    with path.open("a") as file:
        file.write(torn)
    append_record(path, {"step": 2})
    assert path.read_text() == '{"step":1}\n{"step":2}\n'


def test_a_file_of_one_unfinished_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{")
    append_record(tmp_path / "a.jsonl", 1)
    assert (tmp_path / "a.jsonl").read_text() == "1\n"


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers(-9, 9))), st.integers(0, 200))
def test_of_a_file_cut_anywhere_the_whole_records_are_read(records: list[dict[str, object]], cut: int) -> None:
    data = encode_records(records)
    complete = [json.loads(line) for _, line in record_lines(data[: max(0, len(data) - cut)])]
    assert complete == records[: len(complete)]
    assert len(encode_records(records[: len(complete) + 1])) > len(data) - cut or len(complete) == len(records)


def test_records_are_found_again_by_id_and_prompt(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [{"id": "1", "prompt": "x", "answer": 1}, {"id": "1", "prompt": "y"}])
    append_record(tmp_path / "b.jsonl", {"id": "1", "prompt": "x", "answer": 2})
    with (tmp_path / "b.jsonl").open("a") as file:
        file.write('7\n{"id": "2"')
    stored = stored_records([tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "none.jsonl"])
    assert list(stored) == [("1", "x"), ("1", "y")]
    assert stored["1", "x"]["answer"] == 2


def test_a_file_of_another_fingerprint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    require_fingerprint(path, "m")
    write_records(path, [{"id": "1", "fingerprint": "m"}])
    require_fingerprint(path, "m")
    with pytest.raises(RunError, match="of another model or other settings"):
        require_fingerprint(path, "n")
