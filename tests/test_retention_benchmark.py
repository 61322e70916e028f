"""The benchmark of the remedies against forgetting, with made-up runs: its resumption, its tables and its page."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import test_docs

from benchmarks.measured import record_id, records
from benchmarks.retention.__main__ import main
from benchmarks.retention.measure import Measurement, figures, kept
from benchmarks.retention.page import page
from benchmarks.retention.remedies import ABILITIES, HARSH, NONE, REMEDIES, SETS, run_words
from benchmarks.retention.table import HEAD, Records, further_steps, outcomes, table, verdict_lines
from lotune.recipe import Recipe
from lotune.recipes.shipped import recipe_names
from lotune.settings import read_settings

RIGHT = {"replay-own": 40, "strength": 30}
"""Right answers of 50 by remedy, where they are not 42."""


@dataclass
class StandIn:
    """Writes what lotune would write; it fails after `fail_after` commands, and always for the run `fails`."""

    fail_after: int = 1_000
    fails: str = ""
    commands: list[list[str]] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    """Runs whose folder was there before their command."""

    def __call__(self, folder: Path, words: Sequence[str]) -> float:
        name = next((word.removeprefix("name=") for word in words if word.startswith("name=")), words[0])
        if len(self.commands) == self.fail_after or name == self.fails:
            raise subprocess.CalledProcessError(1, words[0])
        self.commands.append(list(words))
        if words[0] == "init":
            (folder / words[1]).with_suffix(".yaml").write_text("task: {name: sentences}")
        else:
            self.copied += [name] if words[0] == "tune" and (folder / "runs" / name / "training.json").exists() else []
            write_run(folder / "runs" / name, RIGHT.get(name, 42))
        return 10.0


def write_run(run: Path, right: int) -> None:
    lines = [{"id": f"row {number:02}", "correct": number < right} for number in range(50)]
    repair = {"steps": 200, "replay_rows": 1000, "start": "step-2", "seconds": 6.0}
    card = {
        "valid": True,
        "target": {"task": "sentences", "base_value": 0.1},
        "chosen_checkpoint": "step-2",
        "retention": [
            retention_line("reading", "contest_f1", 0.97, True),
            retention_line("reading", "contest_em", 0.96, True),
            retention_line("reading", "bleu", 0.1, False),
            retention_line("copying", "accuracy", 0.5, False),
            retention_line("equations", "accuracy", None, False),
        ],
        "divergence": [{"set": "test prompts", "value": 0.123, "interval": [0.1, 0.2], "rows": 9, "tokens": 99}],
        "repair": repair if run.name.startswith("repair") else None,
        "strength": {"chosen": [0.7], "seconds": 2.0} if run.name == "strength" else None,
    }
    write(run / "scorecard.json", card)
    write(run / "training.json", {})
    predictions = run / "predictions" / "sentences" / "step-2.jsonl"
    predictions.parent.mkdir(parents=True, exist_ok=True)
    predictions.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))


def retention_line(task: str, metric: str, retained: float | None, is_gated: bool) -> dict[str, Any]:
    interval = None if retained is None else [round(retained - 0.05, 2), round(retained + 0.05, 2)]
    return {"task": task, "metric": metric, "retained": retained, "retained_interval": interval, "is_gated": is_gated}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def measurement(folder: Path, command: StandIn, name: str = "reviews") -> Measurement:
    return Measurement(name, folder / name, folder / "results.jsonl", ("threads=1",), command)


def record(
    right: int, reading: float = 0.97, others: float | None = 0.96, seconds: float = 10.0, **more: Any
) -> dict[str, Any]:
    """A made-up record of 1,000 test rows."""
    fractions = {"copying": {"accuracy": [others, None]}, "equations": {"accuracy": [others, None]}}
    return {
        "verdicts": "1" * right + "0" * (1_000 - right),
        "kept": {"reading": {"contest_f1": [reading, [0.9, 1.0]], "contest_em": [reading, None]}, **fractions},
        "divergence": {"test prompts": [0.5, None], "replay rows": [0.25, None]},
        "seconds": seconds,
        "repair": None,
        "strength": None,
        **more,
    }


def made_up() -> Records:
    """Records of which the remedies differ in what they lose, keep and take."""
    found = {
        "demo: none": record(900, reading=0.4, others=0.5),
        "demo: replay-generated": record(890, others=0.5, seconds=18.0),  # just good enough
        "demo: replay-own": record(889, seconds=12.0),  # loses more than a point
        "demo: divergence-generated": record(905, others=0.9, seconds=18.1),  # takes too long
        "demo: divergence-own": record(905, seconds=15.0),  # keeps everything at little cost
        "demo: repair-generated": record(905, reading=0.949, others=None),
        "orders: none": record(900, reading=0.6),
        "orders: divergence-own": record(900, seconds=15.0),
        "orders: strength": record(900, strength=[0.7]),
    }
    return {id: {"id": id, **content} for id, content in found.items()}


def test_a_record_has_the_figures_of_the_chosen_checkpoint(tmp_path: Path) -> None:
    write_run(tmp_path / "repair-own", 42)
    found = figures(tmp_path / "repair-own")
    assert found["verdicts"] == "1" * 42 + "0" * 8
    assert found["kept"] == {
        "reading": {"contest_f1": [0.97, [0.92, 1.02]], "contest_em": [0.96, [0.91, 1.01]]},
        "copying": {"accuracy": [0.5, [0.45, 0.55]]},
        "equations": {"accuracy": [None, None]},
    }
    assert found["divergence"] == {"test prompts": [0.123, [0.1, 0.2]]}


def test_an_ability_without_a_gated_metric_counts_with_all_of_its_metrics() -> None:
    lines = [retention_line("copying", metric, 0.5, False) for metric in ("accuracy", "chrf")]
    assert set(kept(lines)["copying"]) == {"accuracy", "chrf"}


def test_remedies_after_a_tuning_continue_a_copy_of_it(tmp_path: Path) -> None:
    command = StandIn()
    measured = measurement(tmp_path, command)
    for remedy in REMEDIES:
        measured.measure(remedy)
    assert command.copied == [name for name, remedy in REMEDIES.items() if remedy.continues]
    assert command.commands[0] == ["init", "reviews.csv", "--force"]
    assert command.commands[1:3] == [[*run_words(verb, "reviews", NONE), "threads=1"] for verb in ("tune", "run")]
    assert len(command.commands) == 1 + 2 * len(REMEDIES)


def test_the_time_of_a_continued_tuning_counts(tmp_path: Path) -> None:
    measured = measurement(tmp_path, StandIn())
    assert [measured.measure(remedy)["seconds"] for remedy in (NONE, "repair-own", "strength")] == [10.0, 10.0, 20.0]


def test_a_stopped_run_begins_anew_as_its_time_is_not_known(tmp_path: Path) -> None:
    command = StandIn()
    rest = tmp_path / "reviews" / "runs" / "repair-own" / "training.json"
    write(rest, {})
    measurement(tmp_path, command).measure("repair-own")
    assert command.copied == []


def test_without_a_finished_run_to_continue_a_remedy_tunes_itself(tmp_path: Path) -> None:
    command = StandIn()
    (tmp_path / "reviews" / "runs" / NONE).mkdir(parents=True)  # begun, and without a record
    measurement(tmp_path, command).measure("strength")
    assert command.copied == []


def test_a_stopped_copy_does_not_pass_as_a_run(tmp_path: Path) -> None:
    command = StandIn()
    measured = measurement(tmp_path, command)
    measured.measure(NONE)
    (tmp_path / "reviews" / "runs" / ".strength.part").mkdir()
    measured.measure("strength")
    assert command.copied == ["strength"]
    assert {path.name for path in (tmp_path / "reviews" / "runs").iterdir()} == {NONE, "strength"}


def test_a_stopped_benchmark_continues_and_repeats_nothing(tmp_path: Path) -> None:
    made: list[list[str]] = []
    for fail_after in (0, 3, 7, 1_000, 1_000):
        command = StandIn(fail_after)
        try:
            for name in ("demo", "orders"):
                for remedy in REMEDIES:
                    measurement(tmp_path, command, name).measure(remedy)
        except subprocess.CalledProcessError:
            assert fail_after < 1_000
        made += command.commands
    assert len({tuple(words) for words in made}) == 1 + 4 * len(REMEDIES)  # the shipped recipe needs no `init`
    assert list(records(tmp_path / "results.jsonl")) == [
        record_id(name, remedy) for name in ("demo", "orders") for remedy in REMEDIES
    ]


def test_a_remedy_that_fails_is_left_out_and_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="failed: orders: replay-own"):
        main(["run", str(tmp_path), "orders"], StandIn(fails="replay-own"))
    assert len(records(tmp_path / "results.jsonl")) == len(REMEDIES) - 1
    again = StandIn()
    main(["run", str(tmp_path), "orders", "--set", "threads=1"], again)
    assert again.commands == [[*run_words(verb, "orders", "replay-own"), "threads=1"] for verb in ("tune", "run")]
    assert "| replay, own rows | 80.0 % | -4.0 [-10.0, +0.0] |" in capsys.readouterr().out


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path), "nothing"], StandIn())


@pytest.mark.parametrize("set_name", SETS)
@pytest.mark.parametrize("remedy", REMEDIES)
def test_the_settings_of_a_run_exist(set_name: str, remedy: str) -> None:
    words = run_words("run", set_name, remedy)
    assert words[1] in recipe_names() or SETS[set_name].own_rows
    known = "retention.abilities" in test_docs.KEYS
    assert read_settings(Recipe, None, [word for word in words[3:] if known or "abilities" not in word])


def test_a_remedy_changes_what_it_is_named_after() -> None:
    changed = {
        name: {key for key, value in remedy.settings.items() if HARSH.get(key) != value}
        for name, remedy in REMEDIES.items()
    }
    assert changed.pop(NONE) == set()
    assert changed.pop("strength") == {"retention.strength"}
    assert changed.pop("repair-generated") == {"retention.action"}
    assert changed.pop("repair-own") == {"retention.action", "retention.replay.source"}
    assert all({"retention.replay.source", "retention.replay.rows"} <= keys for keys in changed.values())


def test_only_remedies_that_leave_the_tuning_as_it_is_continue_it() -> None:
    from lotune.stages.dependencies import STAGE_KEYS

    of_tuning = [key for stage in ("prepare", "tune") for key in STAGE_KEYS[stage]]
    for remedy in REMEDIES.values():
        touched = [key for key in remedy.settings for prefix in of_tuning if f"{key}.".startswith(f"{prefix}.")]
        assert not (remedy.continues and touched)


def test_the_table_has_a_row_for_each_remedy_and_dashes_for_what_is_missing() -> None:
    lines = table("demo", made_up()).splitlines()
    assert len(lines) == 2 + len(REMEDIES)
    assert {line.count("|") for line in lines} == {len(HEAD) + 1}
    assert lines[2] == "| none | 90.0 % | – | 40.0 % [90, 100] | 40.0 % | 50.0 % | 50.0 % | 0.5 | 0.25 | 1.00× |"
    assert "| 89.0 % | -1.0 [-1.7, -0.4] | 97.0 % [90, 100] | 97.0 % |" in lines[3]
    assert lines[-1] == f"| strength |{' – |' * (len(HEAD) - 1)}"


def test_nothing_is_compared_before_the_run_without_a_remedy_is_measured() -> None:
    found = {id: content for id, content in made_up().items() if not id.endswith("none")}
    assert outcomes("demo", found) == {}
    assert verdict_lines(list(SETS), found) == []


def test_remedies_are_judged_by_what_they_keep_lose_and_take() -> None:
    found = outcomes("demo", made_up())
    assert [name for name, one in found.items() if one.is_worth_it] == ["replay-generated", "divergence-own"]
    assert [name for name, one in found.items() if one.keeps_all] == ["replay-own", "divergence-own"]
    assert found["repair-generated"].smallest("copying") == (None, None)


def test_the_verdict_names_remedies_of_every_set_before_those_of_some() -> None:
    without, worth_it, keep_all = verdict_lines(list(SETS), made_up())
    assert without == "Without a remedy, reading keeps 40.0 % on demo, 60.0 % on orders."
    first = "replay with divergence, own rows (every set)"
    assert worth_it.endswith(f"1.8 times the time: {first}; replay, generated rows (demo); strength (orders).")
    assert keep_all.endswith(f"whatever they cost: {first}; replay, own rows (demo); strength (orders).")


def test_what_followed_a_tuning_is_said() -> None:
    repair = {"steps": 200, "replay_rows": 1000, "start": "step-000400", "seconds": 9.0}
    found = {**made_up(), "orders: repair-own": record(900, repair=repair)}
    assert further_steps("orders", found) == [
        "repair, own rows: 200 further steps with 1,000 replay rows, from step-000400.",
        "strength: the strength 0.7 was chosen.",
    ]


def test_the_page_is_written_from_the_records_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, file = tmp_path / "results.jsonl", tmp_path / "retention.md"
    results.write_text("".join(json.dumps(line) + "\n" for line in made_up().values()))
    main(["page", str(tmp_path), "--page", str(file)])
    text = file.read_text(encoding="utf-8")
    assert text == page(list(SETS), records(results))
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        *(
            "# Remedies against forgetting, measured",
            "## In short",
            "## What was measured",
            "## How to read the tables",
        ),
        *("## Demo", "## Reviews", "## Orders", "## Repeat it"),
    ]
    assert all(table(name, made_up()) in text for name in SETS)
    assert "- Not measured yet: 15 of 24 runs." in text
    assert all(remedy.about in text for remedy in REMEDIES.values())
    assert str(tmp_path) not in text


def test_the_page_passes_the_tests_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "docs" / "retention.md"
    file.parent.mkdir()
    file.write_text(page(list(SETS), made_up()), encoding="utf-8")
    (tmp_path / "docs" / "how-to").mkdir()
    (tmp_path / "docs" / "how-to" / "keep-abilities.md").touch()
    monkeypatch.setattr(test_docs, "KEYS", {*test_docs.KEYS, "retention.abilities"})
    monkeypatch.setattr(
        test_docs, "reads", lambda words, reads=test_docs.reads: "abilities=" in words[-1] or reads(words)
    )
    test_docs.test_settings_in_the_documentation_exist(file)
    test_docs.test_links_lead_somewhere(file)
    assert test_docs.commands(file) == []  # its commands take hours, and the documentation's are run by a test
    outside = [line for line in file.read_text(encoding="utf-8").splitlines() if line[:1] not in ("|", "-")]
    assert max(map(len, outside)) <= 120


def test_the_abilities_are_those_of_the_setting() -> None:
    assert all(f"task: {ability}," in HARSH["retention.abilities"] for ability in ABILITIES)
