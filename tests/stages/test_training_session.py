"""Where a stopped training goes on: metrics.jsonl ends at the step of the state."""

from __future__ import annotations

from pathlib import Path

from lotune.record_files import filter_records
from lotune.stages.training_session import _step_of


def test_later_lines_and_lines_of_another_training_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    actual = ['{"number":1,"loss":2.0}', '{"validation":{"step":2,"loss":1.0}}', '{"number":3,"loss":1.5}']
    further = ["7", '"text"', "[]", "{}", "null", '{"number":"x"}', '{"validation":3}', '{"number":4}', '{"number":']
    path.write_text("\n".join([*further[:4], *actual, *further[4:]]))
    filter_records(path, lambda line: _step_of(line) <= 3)
    assert path.read_text().splitlines() == actual
