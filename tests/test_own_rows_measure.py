"""The measurement of benchmarks/own_rows: its order, its resumption and its table, with a stand-in for lotune."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.own_rows.measure import GRID, Measurement, table
from benchmarks.own_rows.page import page
from benchmarks.own_rows.real import FILES, measure_real, real_table

BEST = 7
"""The cell of the grid with the highest validation figure."""


@dataclass
class StandIn:
    """Writes what lotune would write; `fail_after` commands it fails."""

    fail_after: int = 1_000
    commands: list[list[str]] = field(default_factory=list)

    def __call__(self, folder: Path, words: Sequence[str]) -> None:
        if len(self.commands) == self.fail_after:
            raise ChildProcessError(words[0])
        self.commands.append(list(words))
        if words[0] == "init":
            recipe = "task: {name: sentences, instruction: 'Which, {labels}?', labels: {positive: positive}}"
            (folder / words[1]).with_suffix(".yaml").write_text(recipe)
        elif words[0] == "evaluate":
            out, right = folder / words[words.index("--out") + 1], 9 if "grid" in words[2] else 6
            lines = [{"id": f"row {number:02}", "correct": number < right} for number in range(10)]
            out.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
        else:
            named = (word.removeprefix("name=") for word in words if word.startswith("name="))
            name = next(named, Path(words[1]).stem)
            run = folder / "runs" / name
            run.mkdir(parents=True)
            value = 0.9 if name == f"grid-{BEST}" else 0.5
            points = [{"name": "step-1", "value": 0.1}, {"name": "step-2", "value": value}]
            (run / "tuning.json").write_text(json.dumps({"checkpoints": points, "chosen": "step-2"}))
            kept = [
                {"metric": name, "retained": value, "is_gated": True} for name, value in (("f1", 0.98), ("em", 0.97))
            ]
            target = {"metric": "accuracy", "value": 0.75, "base_value": 0.0, "better": True}
            card = {"valid": True, "reasons": [], "target": target, "retention": kept}
            (run / "scorecard.json").write_text(json.dumps(card))


def measurement(folder: Path, command: StandIn) -> Measurement:
    return Measurement("reviews", folder / "reviews", folder / "results.jsonl", ("threads=1",), command)


def test_the_first_run_takes_no_setting_but_those_of_every_run(tmp_path: Path) -> None:
    command = StandIn()
    record = measurement(tmp_path, command).held_out_of_first_run()
    assert command.commands[:2] == [["init", "reviews.csv", "--force"], ["run", "reviews.yaml", "threads=1"]]
    assert command.commands[2] == [
        *("evaluate", "--model", "runs/reviews/checkpoints/step-2/adapter", "--task", "sentences"),
        *("--data", "reviews-held-out.csv", "--out", "first.jsonl"),
        *("task.instruction=Which, {labels}?", 'task.labels={"positive": "positive"}'),
    ]
    assert record["verdicts"] == "1111110000"


def test_a_stopped_measurement_continues_and_repeats_nothing(tmp_path: Path) -> None:
    made: list[list[str]] = []
    for fail_after in (2, 3, 5, 1_000, 1_000):
        command = StandIn(fail_after)
        try:
            measurement(tmp_path, command).held_out_of_first_run()
            measurement(tmp_path, command).best_of_grid()
        except ChildProcessError:
            assert fail_after < 1_000
        made += command.commands
    assert len(made) == 2 + 1 + len(GRID) + 1
    assert len({tuple(words) for words in made}) == len(made)
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [record["id"].removeprefix("reviews: ") for record in records] == [
        *("first run", "held out, first run", *(f"grid {number}" for number in range(len(GRID)))),
        "held out, best of grid",
    ]
    assert records[-1]["cell"]["run"] == f"grid-{BEST}"


def test_the_grid_has_twelve_different_settings() -> None:
    assert len({tuple(settings.items()) for settings in GRID}) == len(GRID) == 12


def test_the_table_shows_what_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = measurement(tmp_path, StandIn())
    assert "| reviews | – | – | – | – | – | – | – | – |" in table(["reviews"], measured.results)
    measured.first_run()
    row = table(["reviews", "stars"], measured.results).splitlines()[2]
    assert row.startswith("| reviews | VALID | 0.0 % | 75.0 % | 97.0 % | ")
    assert row.endswith(" | – | – | – |")
    measured.held_out_of_first_run()
    measured.best_of_grid()
    lines = table(["reviews", "stars"], measured.results).splitlines()
    assert "| 60.0 % | 90.0 % | -60.0 to +0.0 |" in lines[2]
    assert lines[3].startswith("| stars | – |")


def test_a_file_of_public_data_is_copied_and_measured_once(tmp_path: Path) -> None:
    source = tmp_path / "data" / FILES["math-300"]
    source.parent.mkdir(parents=True)
    source.write_text("{}\n")
    command, results = StandIn(), tmp_path / "results.jsonl"
    for _ in range(2):
        measure_real("math-300", tmp_path / "data", tmp_path / "math-300", results, ("threads=1",), command)
    assert command.commands == [["init", "math-300.jsonl", "--force"], ["run", "math-300.yaml", "threads=1"]]
    rows = real_table(results).splitlines()
    assert "| math-300.jsonl | accuracy | 0.0 % | 75.0 % | 97.0 % | " in rows[2]
    assert rows[2].endswith(" | yes | VALID |")
    assert rows[3] == "| choice-2000.json | – | – | – | – | – | – | – |"


def test_the_page_has_every_set_and_file(tmp_path: Path) -> None:
    measured = measurement(tmp_path, StandIn())
    measured.first_run()
    text = page(measured.results)
    assert "| reviews | VALID | 0.0 % | 75.0 % | 97.0 % | " in text
    assert text.count("| – | – | – | – | – | – | – |") == 7 + 4
    assert "learning rates 0.002, 0.005 and 0.012, 200 and 600 steps and 0 and 300 replay rows" in text


def test_a_grid_goes_on_from_the_results_alone(tmp_path: Path) -> None:
    measurement(tmp_path, StandIn()).first_run()
    command = StandIn()
    elsewhere = Measurement("reviews", tmp_path / "other" / "reviews", tmp_path / "results.jsonl", (), command)
    elsewhere.best_of_grid()
    assert command.commands[0] == ["init", "reviews.csv", "--force"]
    assert [words[0] for words in command.commands[1:]] == ["tune"] * len(GRID) + ["evaluate"]
