"""Curves follow a file that grows, is torn, and is written anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
from hypothesis import given
from hypothesis import strategies as st

from lotune.record_files import filter_records
from lotune.studio.run_live import Curves, LiveRuns


def line(number: int) -> bytes:
    return json.dumps({"number": number, "loss": 1 / number, "tokens": 10, "seconds": 0.5}).encode() + b"\n"


def found(name: str, step: int) -> bytes:
    return json.dumps({"validation": {"name": name, "step": step, "value": 0.5, "loss": 1.0}}).encode() + b"\n"


@given(st.lists(st.integers(1, 60), max_size=12))
def test_reading_in_any_parts_gives_what_reading_at_once_does(cuts: list[int]) -> None:
    import tempfile

    content = b"".join([*(line(n) for n in range(1, 9)), b"not json\n", b"[1]\n", found("step-000008", 8), line(9)])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "metrics.jsonl"
        curves, written = Curves(file), 0
        for cut in cuts:
            with file.open("ab") as out:
                out.write(content[written : written + cut])
            written = min(len(content), written + cut)
            curves.update()
        with file.open("ab") as out:
            out.write(content[written:])
        curves.update()
    assert [step for step, _ in curves.steps] == list(range(1, 10))
    assert [one["name"] for one in curves.validations] == ["step-000008"]


def test_a_resumed_run_has_no_step_twice(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    curves = Curves(file)
    curves.update()
    file.write_bytes(b"".join(map(line, range(1, 8))))
    curves.update()
    filter_records(file, lambda record: record["number"] <= 4)
    with file.open("ab") as out:
        out.write(line(5) + line(6) + line(7) + line(8))
    curves.update()
    assert [step for step, _ in curves.steps] == list(range(1, 9))
    file.unlink()
    curves.update()
    assert curves.steps == []


def test_a_picture_has_pace_only_while_a_process_works(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(map(line, range(1, 5))))
    (tmp_path / "plan.json").write_text('{"title": "tuning", "steps": 10}')
    live = LiveRuns()
    seen = live.picture(tmp_path, psutil.Process(os.getpid()))
    assert (seen["step"], seen["steps"], seen["tokens_per_second"], seen["seconds_left"]) == (4, 10, 20.0, 3.0)
    assert seen["memory_bytes"] > 2**20
    assert "seconds_left" not in live.picture(tmp_path, None)


def test_answers_of_checkpoints_stand_beside_those_of_the_base(tmp_path: Path) -> None:
    def answers(name: str, ids: range, text: str) -> None:
        rows = ({"id": f"r:{n}", "prompt": "p", "answer": text, "reference": "k", "correct": n == 1} for n in ids)
        (tmp_path / "validation").mkdir(exist_ok=True)
        (tmp_path / "validation" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    (tmp_path / "metrics.jsonl").write_bytes(found("step-000001", 1) + found("step-000002", 2))
    answers("base", range(3), "before")
    answers("step-000001", range(8), "after")
    seen = LiveRuns().picture(tmp_path, None)["answers"]
    assert [row["id"] for row in seen] == ["r:0", "r:1", "r:2"]
    assert seen[1]["base"]["answer"] == "before"
    assert seen[1]["checkpoints"]["step-000001"]["answer"] == "after"
    assert "step-000002" not in seen[1]["checkpoints"]
