"""Bits per byte of reference answers: transformers' figures, the direction of the metric, and a run from end to end."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.examples import Example
from lotune.evaluate.compare import compare_predictions
from lotune.evaluate.facts import Facts
from lotune.evaluate.learning import CheckpointScores, learning_course
from lotune.evaluate.metric_intervals import metric_intervals
from lotune.evaluate.predict import Prediction, predict, read_predictions
from lotune.evaluate.reference_bits import REFERENCE_ONLY
from lotune.evaluate.scorecard import Checkpoint, best_on_test
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.generate.answering_model import AnsweringModel
from lotune.stages.validate import CheckpointResult, best_checkpoint
from lotune.tasks.custom import CustomSettings, CustomTask
from lotune.tasks.task import Score

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TASK = CustomTask(CustomSettings(scorer="bits-per-byte", max_new_tokens=4))
ANSWERS = ["Kunming is in Yunnan.", "在云南。", "yes", "  two\n lines ", "Łódź", "1 < 2 & 3"]
EXAMPLES = [Example(f"r{n}", "Where? " * (1 + n % 3), text, (text,)) for n, text in enumerate(ANSWERS)]


@pytest.fixture
def answering(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> AnsweringModel:
    return AnsweringModel(tiny_llama, byte_tokenizer)


def asked(
    answering: AnsweringModel, examples: Sequence[Example] = EXAMPLES, out: Path | None = None, **more: Any
) -> dict[str, Prediction]:
    predictions = predict(TASK, examples, answering, batch_tokens=300, out=out, **{"context": 256, **more})
    return {prediction.example_id: prediction for prediction in predictions}


@pytest.mark.oracle
def test_the_bits_are_those_of_transformers(answering: AnsweringModel) -> None:
    import torch

    found, bits, num_bytes = asked(answering), 0.0, 0
    for example in EXAMPLES:
        prompt, answer = (answering.tokenizer.encode(text) for text in (example.prompt, example.target))
        with torch.no_grad():
            logits = answering.model(torch.tensor([prompt + answer])).logits[0].double()
        losses = torch.nn.functional.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(answer), reduction="sum")
        expected = float(losses) / math.log(2) / len(example.target.encode())
        assert found[example.id].score.scores["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
        bits, num_bytes = bits + float(losses) / math.log(2), num_bytes + len(example.target.encode())
    scores = [prediction.score for prediction in found.values()]
    assert TASK.metrics(scores)["bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5)
    low, high = metric_intervals(TASK, scores)["bits_per_byte"] or (0.0, 0.0)
    assert low < bits / num_bytes < high


def test_without_answers_the_bits_are_the_same(answering: AnsweringModel) -> None:
    whole, alone = asked(answering), asked(answering, references_only=True)
    for id, prediction in alone.items():
        assert (prediction.text, prediction.finish_reason) == ("", REFERENCE_ONLY)
        assert "rouge_l" not in prediction.score.scores
        bits = whole[id].score.scores["bits_per_byte"]
        assert prediction.score.scores["bits_per_byte"] == pytest.approx(bits, abs=1e-6)
    assert set(TASK.metrics([one.score for one in alone.values()])) == {"bits_per_byte", "unjudgeable"}


def test_a_second_start_scores_only_changed_references(
    answering: AnsweringModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "base.jsonl"
    first = asked(answering, out=out)
    scored: list[str] = []
    score = answering.loglikelihood.score
    monkeypatch.setattr(
        answering.loglikelihood,
        "score",
        lambda rows, **more: (scored.extend(r.where for r in rows), score(rows, **more))[1],
    )
    assert asked(answering, out=out) == first
    assert scored == []
    changed = [replace(EXAMPLES[0], target="Dali", references=("Dali",)), *EXAMPLES[1:]]
    again = asked(answering, changed, out)
    assert scored == ["row r0"]
    assert again["r0"].score.scores["reference_bytes"] == 4
    assert {one.example_id: one for one in read_predictions(out)} == again


def test_answers_of_another_scorer_are_asked_again_and_serve_it(answering: AnsweringModel, tmp_path: Path) -> None:
    out, exact = tmp_path / "base.jsonl", CustomTask(CustomSettings(scorer="exact", max_new_tokens=4))
    list(predict(exact, EXAMPLES, answering, batch_tokens=300, out=out, context=256))
    found = asked(answering, out=out)
    assert all("bits_per_byte" in prediction.score.scores for prediction in found.values())
    kept = list(predict(exact, EXAMPLES, answering, batch_tokens=300, out=out, context=256))
    assert {one.example_id: one.text for one in kept} == {id: one.text for id, one in found.items()}
    asked(answering, out=tmp_path / "alone.jsonl", references_only=True)
    again = predict(exact, EXAMPLES, answering, batch_tokens=300, out=tmp_path / "alone.jsonl", context=256)
    assert all(prediction.finish_reason != REFERENCE_ONLY for prediction in again)


def test_rows_that_do_not_fit_are_left_out(answering: AnsweringModel) -> None:
    long = Example("long", "Where?", "word " * 60, ("word " * 60,))
    bare = Example("bare", "Where?", "")
    found = asked(answering, [*EXAMPLES, long, bare], context=100)
    assert (found["long"].finish_reason, found["long"].score.correct) == ("too_long", None)
    assert found["bare"].score.correct is None
    figures = TASK.metrics([prediction.score for prediction in found.values()])
    assert figures["unjudgeable"] == 2
    assert figures["bits_per_byte"] > 0


def scored(rows: Sequence[tuple[float, int]]) -> list[ScoredExample]:
    scores = [{"bits_per_byte": bits, "reference_bytes": float(size), "rouge_l": 9.0} for bits, size in rows]
    return [ScoredExample(f"r{n}", "", Score("a", "b", False, row)) for n, row in enumerate(scores)]


SIZES = st.integers(1, 400)
ROWS = st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9), SIZES), min_size=2, max_size=30)


@given(ROWS)
def test_fewer_bits_are_better_and_bytes_count_alike(rows: list[tuple[float, float, int]]) -> None:
    base, tuned = ([(row[side], row[2]) for row in rows] for side in (0, 1))
    found, swapped = (
        measure_target(TASK, scored(base), scored(tuned)),
        measure_target(TASK, scored(tuned), scored(base)),
    )
    total = sum(size for _, size in base)
    assert found.value == pytest.approx(sum(bits * size for bits, size in tuned) / total)
    assert (found.gained, found.lost) == (swapped.lost, swapped.gained)
    assert found.gained == sum(after < before for before, after, _ in rows)
    assert not (found.better and found.value >= found.base_value)
    assert not (found.better and swapped.better)
    assert found.lower_is_better
    assert not found.in_points
    assert found.beside["rouge_l"].value == 9.0


def test_a_gain_is_a_fall() -> None:
    before, after = [(2.0 + n / 50, 10 * n + 1) for n in range(30)], [(1.5 + n / 40, 10 * n + 1) for n in range(30)]
    gain = measure_target(TASK, scored(before), scored(after))
    assert gain.better
    assert gain.difference_interval is not None
    assert gain.difference_interval.high < 0
    loss = measure_target(TASK, scored(after), scored(before))
    assert not loss.better
    assert loss.p_value > 0.9


def test_validation_without_answers_has_a_course() -> None:
    def checkpoint(bits: float, loss: float) -> CheckpointScores:
        rows = scored([(bits + n / 50, 10 * n + 1) for n in range(30)])
        alone = [row._replace(score=replace(row.score, scores={**row.score.scores})) for row in rows]
        for row in alone:
            del row.score.scores["rouge_l"]  # type: ignore[attr-defined]
        return CheckpointScores(1, loss, alone)

    falling, rising = ([checkpoint(bits, 1.0) for bits in course] for course in ((3.0, 2.0), (2.0, 3.0)))
    found = [learning_course(TASK, course) for course in (falling, rising)]
    assert [course.unfinished for course in found if course is not None] == [True, False]


def test_every_choice_follows_the_direction() -> None:
    results = [
        CheckpointResult("a", 1, 2.0, 1.0),
        CheckpointResult("b", 2, 1.0, 2.0),
        CheckpointResult("c", 3, 3.0, 0.1),
    ]
    assert best_checkpoint(results, "bits_per_byte").name == "b"
    assert best_checkpoint(results, "rouge_l").name == "c"
    points = [Checkpoint(name="a", step=1, value=2.0), Checkpoint(name="b", step=2, value=1.0)]
    best = best_on_test(points, "bits_per_byte")
    assert best is not None
    assert best.checkpoint == "b"


def test_comparisons_follow_the_direction() -> None:
    facts = Facts("custom", "bits-per-byte", "plain", "the likelihood of the reference")

    def side(bits: float) -> list[Prediction]:
        rows = scored([(bits + n / 100, n + 1) for n in range(20)])
        return [Prediction(row.id, "p", "a", row.score, "", facts=facts) for row in rows]

    found = compare_predictions(side(2.0), side(1.5), ("a", "b"))
    assert (found.score, found.verdict, found.lower_is_better) == ("bits_per_byte", "B is better", True)
    assert (found.b_better_on, found.a_better_on) == (20, 0)
    assert found.difference == pytest.approx(-0.5)
    assert {one.better for one in found.differing} == {"B"}
    assert found.a.value == pytest.approx(sum((2 + n / 100) * (n + 1) for n in range(20)) / 210)


RECIPE = """
seed: 3
device: cpu
base: {{model: {base}, dtype: float32}}
task: {{name: instructions, max_new_tokens: 6, scorer: bits-per-byte}}
data: {{train: {rows}, validation_rows: 6, test_rows: 12}}
adapter: {{rank: 4}}
tune: {{micro_batch_rows: 8, steps: 24, learning_rate: 0.01}}
checkpoints: {{count: 2, merge_check_rows: 2}}
retention: {{rows: 2, replay: {{rows: 0}}}}
"""


@pytest.mark.slow
def test_a_run_from_end_to_end(small_base: Path, tmp_path: Path) -> None:
    answer = "The number {} is <i>short</i>, and that is all."
    rows = [{"instruction": f"Tell me about {n} <b>.", "output": answer.format(n)} for n in range(80)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "open.yaml"
    recipe.write_text(RECIPE.format(base=small_base, rows=tmp_path / "rows.jsonl"))
    result = call("run", recipe, f"runs={tmp_path / 'runs'}", "--json")
    card, folder = json.loads(result.stdout), tmp_path / "runs" / "open"
    target = card["target"]
    assert (target["metric"], target["lower_is_better"], card["score"]) == ("bits_per_byte", True, None)
    assert target["value"] < target["base_value"]
    assert target["better"]
    assert target["beside"]["rouge_l"]["n"] == 12
    assert not any("beyond chance" in reason for reason in card["reasons"])
    values = [point["validation_value"] for point in card["checkpoints"]]
    assert card["chosen_checkpoint"] == card["checkpoints"][values.index(min(values))]["name"]
    answers = read_predictions(folder / "validation" / f"{card['chosen_checkpoint']}.jsonl")
    assert {answer.finish_reason for answer in answers} == {REFERENCE_ONLY}
    for page in ("report.html", "report.md"):
        text = (folder / page).read_text()
        assert "Answers side by side" in text
        assert text.count("bits per byte of the reference") == 20
        assert page.endswith("md") or "<i>short" not in text
    again = json.loads(call("run", recipe, f"runs={tmp_path / 'runs'}", "--json").stdout)
    assert again == card
    base, tuned = (
        folder / "predictions" / "instructions" / f"{name}.jsonl" for name in ("base", card["chosen_checkpoint"])
    )
    said = call("compare", base, tuned).stdout
    assert "B is better" in said
    assert f"A: {base}: bits_per_byte {target['base_value']:.3f}" in said
    exact = json.loads(call("run", recipe, f"runs={tmp_path / 'runs'}", "task.scorer=rouge-l", "--json").stdout)
    assert exact["target"]["value"] == pytest.approx(target["beside"]["rouge_l"]["value"])
