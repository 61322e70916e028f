"""The scorecard for people."""

import io
import json
from dataclasses import replace

from rich.console import Console

from lotune.contest.scores import contest_score
from lotune.evaluate.retention import gate
from lotune.evaluate.scorecard import (
    Check,
    Checkpoint,
    ContestScore,
    Scorecard,
    make_scorecard,
    measure_parameters,
)
from lotune.evaluate.statistics import Interval
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.report.sections import checkpoints_table, key_figures, kinds_table, retention_table
from lotune.report.terminal import show_scorecard, verdict_sentence
from lotune.tasks.arithmetic.task import ArithmeticTask
from lotune.tasks.reading.task import ReadingTask
from lotune.tasks.task import Score


def card(tuned_em: float = 49.0, name: str = "step-000020") -> Scorecard:
    def verdicts(*right: bool | None) -> list[ScoredExample]:
        return [ScoredExample(str(n), "[red]+" if n % 2 else "/", Score("", "", item)) for n, item in enumerate(right)]

    base = {"contest_f1": 60.0, "contest_em": 50.0, "squad_f1": 61.0, "squad_em": 51.0}
    return make_scorecard(
        target=measure_target(ArithmeticTask(), verdicts(*[False] * 10, None), verdicts(*[True] * 10, None)),
        retention=gate(base, {**base, "contest_em": tuned_em}),
        parameters=measure_parameters(3_407_872, 8_030_261_248, "llama3-8b"),
        score=ContestScore(rule="phase1", value=0.9999, rank=1, published=20),
        chosen_checkpoint=name,
        checkpoints=[
            Checkpoint(name="step-000010", step=10, validation_value=0.4, validation_loss=0.5, value=1.0, score=0.99),
            Checkpoint(name=name, step=20, validation_value=0.8, validation_loss=0.4, value=1.0, score=0.99),
        ],
        checks=[Check(name="merge", passed=True, detail="logits within 1e-4 [/bold]")],
        notes=["3 passages were cut"],
    )


def printed(card: Scorecard, width: int = 110) -> str:
    stream = io.StringIO()
    show_scorecard(card, Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


def test_a_valid_card() -> None:
    text = printed(card())
    assert "VALID: arithmetic 0.0 % -> 100.0 % with 0.042 % of the parameters trained." in text
    for words in (
        *("95 % interval", "98.0 %", "3,407,872", "8,030,000,000 (llama3-8b)", "0.0424 %", "place 1 among the 20"),
        *(
            "step-000020 (chosen)",
            "best of 2 on the test: step-000010",
            "10 rows gained, 0 lost",
            "3 passages were cut",
        ),
        *("[red]+", "[/bold]", "reported", "passed, 90 %", "cannot be judged: 1"),
    ):
        assert words in text, words


def test_a_measured_ratio_has_no_rank() -> None:
    own = measure_parameters(3_407_872, 8_030_261_248, "measured")
    score = contest_score("phase1", 0.9999, own.convention, is_contest_task=True)
    result = card().model_copy(update={"parameters": own, "score": score})
    assert "score (phase1): 0.9999" in printed(result)
    assert "published" not in printed(result)
    assert "published" in key_figures(card())[3].note
    assert "published" not in key_figures(result)[3].note


def test_an_invalid_scorecard_gives_reasons() -> None:
    text = printed(card(tuned_em=30.0))
    assert text.splitlines()[1].startswith("NOT VALID: ")
    assert "reading contest_em: 60.0% of the base kept, 90% needed" in text


def test_it_fits_a_narrow_terminal() -> None:
    assert all(len(line) <= 80 for line in printed(card(), 80).splitlines())


def test_the_sentence_is_plain() -> None:
    assert verdict_sentence(card()).startswith("VALID: ")


def test_without_variation_no_interval_is_estimated() -> None:
    def verdicts(score: float) -> list[ScoredExample]:
        return [ScoredExample(str(n), "ab"[n % 2], Score("", "", True, {"contest_f1": score})) for n in range(12)]

    target = measure_target(ReadingTask(), verdicts(40.0), verdicts(60.0))
    kinds = target.by_category.values()
    assert [target.interval, target.base_interval, target.difference_interval] == [None] * 3
    assert [item.interval for item in kinds] == [None] * 2
    points = [item.model_copy(update={"value": 60.0, "validation_value": 55.0}) for item in card().checkpoints]
    complete = card().model_copy(update={"target": target, "checkpoints": tuple(points)})
    again = Scorecard.model_validate(json.loads(json.dumps(complete.model_dump(mode="json"))))
    assert again == complete
    text = printed(again)
    assert "reading 40.00 -> 60.00" in text, "a mean stays a mean, in points"
    assert text.count("not estimable") == 1 + 2 + 4 + 2, "the target, its kinds, what was kept, the test's figures"
    assert "60.0 to 60.0" not in text
    tables = [kinds_table(again.target), retention_table(again.retention), checkpoints_table(again)]
    assert [str(table.rows).count("not estimable") for table in tables] == [6, 12, 4]


def test_report_and_terminal_show_the_intervals_of_figures_and_retention() -> None:
    plain = card()
    spans = {"base_interval": Interval(55.0, 65.0), "retained_interval": Interval(0.95, 1.01)}
    points = [
        checkpoint.model_copy(update={"validation_interval": Interval(0.3, 0.5)}) for checkpoint in plain.checkpoints
    ]
    lines = [replace(plain.retention[0], **spans), *plain.retention[1:]]  # type: ignore[arg-type]
    complete = plain.model_copy(update={"retention": tuple(lines), "checkpoints": tuple(points)})
    assert "100.0 %   95.0 to 101.0 %" in printed(complete, 80)
    tables = [str(table.rows) for table in (retention_table(complete.retention), checkpoints_table(complete))]
    assert "60.00 (55.0 to 65.0)" in tables[0]
    assert "40.0 % (30.0 to 50.0 %)" in tables[1]
