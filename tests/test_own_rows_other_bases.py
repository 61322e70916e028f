"""The comparison of benchmarks/own_rows/other_bases: its tunings, its resumption and its table, without a tuning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.own_rows.curves import largest_rise
from benchmarks.own_rows.measure import Measurement
from benchmarks.own_rows.other_bases import BASE, COMMON, FACTORS, OtherBase, make_base, table

OWN_RATE = 0.1
COMMON_WORDS = [*COMMON, "tune.steps=40"]


@dataclass
class StandIn:
    """Writes what lotune would write: the validation loss is lowest at `best_rate`, the loss falls from 4 to 2."""

    best_rate: float = OWN_RATE
    fail_after: int = 1_000
    commands: list[list[str]] = field(default_factory=list)

    def __call__(self, folder: Path, words: Sequence[str]) -> None:
        if len(self.commands) == self.fail_after:
            raise ChildProcessError(words[0])
        self.commands.append(list(words))
        if words[0] == "init":
            (folder / words[1]).with_suffix(".yaml").write_text("task: {name: sentences}")
            return
        settings = dict(word.split("=", 1) for word in words[2:])
        rate = float(settings.get("tune.learning_rate", OWN_RATE))
        run = folder / "runs" / settings["name"]
        run.mkdir(parents=True, exist_ok=True)
        steps = [
            {"number": number, "loss": 4.0 if number <= 20 else 2.0, "learning_rate": rate * min(1, number / 10)}
            for number in range(1, 41)
        ]
        lines = [json.dumps(line) + "\n" for line in (*steps, {"validation": {"name": "step-40"}})]
        (run / "metrics.jsonl").write_text("".join(lines))
        losses = [1.0 + abs(rate - self.best_rate), 9.0]
        (run / "training.json").write_text(json.dumps({"checkpoints": [{"loss": loss} for loss in losses]}))


def other(folder: Path, command: StandIn, case: str = "prompt-tuning") -> OtherBase:
    return OtherBase(
        case, Measurement("stars", folder / "stars", folder / "results.jsonl", ("tune.steps=40",), command)
    )


def test_the_default_tuning_takes_no_rate_and_its_curve_is_kept(tmp_path: Path) -> None:
    command = StandIn()
    record = dict(other(tmp_path, command).with_defaults())
    assert command.commands == [
        ["init", "stars.csv", "--force"],
        ["tune", "stars.yaml", "name=prompt-tuning-defaults", "adapter.method=prompt_tuning", *COMMON_WORDS],
    ]
    assert record.pop("seconds") >= 0
    curve = {"rate": OWN_RATE, "steps": 40, "validation": 1.0, "start": 4.0, "end": 2.0, "rise": 1.0}
    assert record == {"id": "stars: prompt-tuning, defaults"} | curve


def test_the_own_rate_is_found_by_a_tuning_without_one_and_five_others_follow(tmp_path: Path) -> None:
    command = StandIn()
    rates = [record["rate"] for record in other(tmp_path, command).rates()]
    assert rates == pytest.approx([OWN_RATE * factor for factor in FACTORS])
    first, *rest = command.commands[1:]
    shared = ["tune", "stars.yaml", "name=prompt-tuning-rates", "adapter.method=prompt_tuning", *COMMON_WORDS]
    assert first == [*shared, "checkpoints.count=1"]
    assert [words[:-1] for words in rest] == [first] * 5
    assert [words[-1] for words in rest] == [f"tune.learning_rate={rate:.2g}" for rate in rates[1:]]


def test_six_rates_reach_beyond_the_bound_on_both_sides() -> None:
    assert len(set(FACTORS)) == 6
    assert min(FACTORS) < 1 / 3 < 3 < max(FACTORS)


def test_a_stopped_comparison_continues_and_repeats_nothing(tmp_path: Path) -> None:
    made: list[list[str]] = []
    for fail_after in (0, 2, 3, 1_000, 1_000):
        command = StandIn(fail_after=fail_after)
        try:
            other(tmp_path, command).rates()
        except ChildProcessError:
            assert fail_after < 1_000
        made += command.commands
    assert len(made) == 1 + len(FACTORS)
    assert len({tuple(words) for words in made}) == len(made)
    ids = [json.loads(line)["id"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert ids == [f"stars: prompt-tuning, rate x {factor:g}" for factor in FACTORS]


@pytest.mark.parametrize(("best", "shown", "fits"), [(0.2, "0.2 | 2", "yes"), (0.4, "0.4 | 4", "no")])
def test_the_table_tells_whether_the_own_rate_is_near_the_best(
    tmp_path: Path, best: float, shown: str, fits: str
) -> None:
    compared = other(tmp_path, StandIn(best))
    assert "| prompt-tuning | stars | – | – |" in table(["stars"], tmp_path / "results.jsonl")
    compared.rates()
    own = 1 + best - OWN_RATE
    row = table(["stars"], tmp_path / "results.jsonl", ["prompt-tuning"]).splitlines()[2]
    assert row.startswith(f"| prompt-tuning | stars | 40 | 0.1 | {shown} | {own:.3g}, best 1 | {fits} | – | ")


def test_the_table_tells_whether_the_loss_falls_and_stays_down(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    for name, end, rise in (("stars", 2.0, 1.1), ("dates", 3.5, 1.1), ("pairs", 2.0, 2.1)):
        record = {"id": f"{name}: prompt-tuning, defaults", "steps": 40, "start": 4.0, "end": end, "rise": rise}
        with results.open("a") as file:
            file.write(json.dumps(record) + "\n")
    rows = table(["stars", "dates", "pairs"], results, ["prompt-tuning"]).splitlines()[2:5]
    assert rows[0].endswith("| 40 | 4 → 2 | 50 % | 1.10 | yes |")
    assert rows[1].endswith("| 40 | 4 → 3.5 | 12 % | 1.10 | no |")
    assert rows[2].endswith("| 40 | 4 → 2 | 50 % | 2.10 | no |")


def test_a_rise_counts_from_the_lowest_mean_before_it() -> None:
    losses = [8.0] * 10 + [2.0] * 10 + [6.0] * 10 + [1.0] * 10
    assert largest_rise(losses) == 3.0
    assert largest_rise(losses[:20]) == 1.0


def test_a_rise_is_measured_over_a_tenth_of_the_steps() -> None:
    losses = [2.0] * 200 + [8.0] * 10 + [2.0] * 190
    assert largest_rise(losses) == (10 * 8.0 + 30 * 2.0) / 40 / 2.0


def test_an_existing_base_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / BASE).mkdir()
    make_base(tmp_path / BASE)
    assert list((tmp_path / BASE).iterdir()) == []
