"""Verify the answers in a bundle: all of them are there, and judged again they give the claimed figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from lotune import __version__
from lotune.contest.bundle import ANSWERS, SCORECARD, SELF_TEST, self_test
from lotune.contest.bundle_check import Bundle, checked, equal, outcome
from lotune.contest.logs import (
    RETENTION_LOG,
    TRAINING_LOG,
    RetentionAnswers,
    logged_answers,
    retention_log,
    training_log,
)
from lotune.contest.manifest import Claims, claims_of, training_of
from lotune.contest.scores import score
from lotune.data.examples import Example, from_record
from lotune.errors import DataError
from lotune.evaluate.abilities import AbilitySettings
from lotune.evaluate.measured_retention import measure_retention
from lotune.evaluate.predict import Prediction, keep_predictions, read_predictions
from lotune.evaluate.retention import RetentionMetric, gate_passed
from lotune.evaluate.scorecard import Check, Scorecard, Target
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.runs import METRICS_FILE
from lotune.tasks.registry import RETENTION_TASK
from lotune.tasks.task import Task

BASE = "base"
"""Name of the answers of the untuned model."""


@dataclass(frozen=True)
class JudgedRows:
    """A set of rows in a bundle with their task, and the folder of the answers; `ability` is None for the task's."""

    task: Task
    rows: str
    folder: str
    ability: AbilitySettings | None = None
    min_retained: float = 0.0


def answer_checks(bundle: Bundle, target: JudgedRows, abilities: Sequence[JudgedRows]) -> Iterator[Check]:
    """Yield the checks of the answers: complete, judged again with the same figures, and scored by the same formula."""
    yield checked("answers", lambda: _answers(bundle, target))
    yield checked("retention log", lambda: _retention_log(bundle, abilities))
    figures = list[Target]()
    yield checked("accuracy", lambda: _accuracy(bundle, target, figures))
    lines = list[RetentionMetric]()
    yield checked("retention", lambda: _retention(bundle, abilities, lines))
    yield checked("score", lambda: _score(bundle.claims, figures))
    reading = any(one.ability.gate and one.ability.task == RETENTION_TASK for one in abilities if one.ability)
    yield checked("verdict", lambda: _verdict(bundle.claims, figures, lines, reading))
    yield checked("scorecard", lambda: _scorecard(bundle))
    yield checked("logs", lambda: _logs(bundle, abilities))


def _answers(bundle: Bundle, target: JudgedRows) -> Check:
    predictions = _stored(bundle, target, bundle.claims.chosen_checkpoint)
    handed_in = [orjson.loads(line) for line in bundle.archive.read(ANSWERS).splitlines()]
    texts = {prediction.example_id: prediction.text for prediction in predictions}
    faults = []
    if {row["id"]: row["answer"] for row in handed_in} != texts or len(handed_in) != len(texts):
        faults.append(f"{ANSWERS} differs from the predictions of {bundle.claims.chosen_checkpoint}")
    return outcome("answers", faults, f"{len(texts)} answers to the test questions")


def _retention_log(bundle: Bundle, abilities: Sequence[JudgedRows]) -> Check:
    counts = logged_answers(bundle.archive.read(RETENTION_LOG).decode())
    faults, total = [], 0
    for one in abilities:
        label, rows = one.ability.label if one.ability else "", len(rows_of(bundle, one))
        for model in (BASE, bundle.claims.chosen_checkpoint):
            number = counts.get(f"{label}, {model}", 0)
            total += number
            faults += [] if number == rows else [f"{number} of {rows} questions of {label}, {model}"]
    return outcome("retention log", faults, f"{total} answers")


def _accuracy(bundle: Bundle, target: JudgedRows, figures: list[Target]) -> Check:
    claims = bundle.claims
    before, after = (_scored(judged_answers(bundle, target, model)) for model in (BASE, claims.chosen_checkpoint))
    again = measure_target(target.task, before, after)
    figures.append(again)
    found = {"task": again.task, "metric": again.metric, "scorer": again.scorer, "rows": again.n}
    claimed = {"task": claims.task, "metric": claims.metric, "scorer": claims.scorer, "rows": claims.n}
    differing = [name for name in found if found[name] != claimed[name]]
    faults = [f"{name}: {claimed[name]!r} claimed, {found[name]!r} found" for name in differing]
    for name, value, said in (("base", again.base_value, claims.base_value), ("tuned", again.value, claims.value)):
        faults += [] if equal(value, said) else [f"{name}: {said!r} claimed, {value!r} when judged again"]
    evidence = f"{again.metric} {again.base_value!r} -> {again.value!r} on {again.n} rows, judged again"
    return outcome("accuracy", faults, evidence)


def _retention(bundle: Bundle, abilities: Sequence[JudgedRows], lines: list[RetentionMetric]) -> Check:
    claims = bundle.claims
    for one in abilities:
        if one.ability is not None:
            answers = [judged_answers(bundle, one, model) for model in (BASE, claims.chosen_checkpoint)]
            lines += measure_retention(one.task, one.ability, one.min_retained, *answers)
    found = {(line.task, line.metric): (line.base, line.tuned, line.is_gated, line.passed) for line in lines}
    said = {(line.task, line.metric): (line.base, line.tuned, line.gated, line.passed) for line in claims.retention}
    faults = [f"{task} {metric} is not claimed" for task, metric in found if (task, metric) not in said]
    for (task, metric), (base, tuned, gated, passed) in said.items():
        again = found.get((task, metric))
        if again is None:
            faults.append(f"{task} {metric} cannot be measured from the bundle")
        elif not (equal(again[0], base) and equal(again[1], tuned)) or again[2:] != (gated, passed):
            faults.append(f"{task} {metric}: {base!r} -> {tuned!r} claimed, {again[0]!r} -> {again[1]!r} judged again")
    return outcome("retention", faults, f"{len(lines)} metrics, judged again")


def _score(claims: Claims, figures: Sequence[Target]) -> Check:
    if claims.rule is None or claims.score is None:
        return Check(name="score", passed=None, detail=f"{claims.metric} has no score of the contest")
    if not figures:
        return Check(name="score", passed=False, detail="the accuracy could not be judged again")
    [target] = figures
    value = score(claims.rule, claims.ratio, target.value / 100 if target.in_points else target.value)
    faults = [] if equal(value, claims.score) else [f"{claims.score!r} claimed, {value!r} by {claims.rule}"]
    return outcome("score", faults, f"{value!r} by {claims.rule}")


def _verdict(claims: Claims, figures: Sequence[Target], lines: Sequence[RetentionMetric], reading: bool) -> Check:
    reasons = [f"{line.task} {line.metric} was not kept" for line in lines if line.is_gated and not line.passed]
    reasons += [] if gate_passed(lines) or reasons else ["retention was not measured"]
    reasons += [] if reading else ["the gate is not on reading, the contest's retention test"]
    reasons += [] if figures and figures[0].better else ["the target is not better than the base beyond chance"]
    if claims.valid:
        return outcome("verdict", reasons, "valid, as claimed")
    # A run may also be invalid by a check of its own, which a bundle does not hold.
    return Check(name="verdict", passed=True, detail="; ".join(["claimed as not valid", *reasons]))


def _scorecard(bundle: Bundle) -> Check:
    card = Scorecard.model_validate_json(bundle.archive.read(SCORECARD))
    same = claims_of(card, training_of(card, bundle.claims.steps)) == bundle.claims
    return outcome("scorecard", [] if same else [f"{SCORECARD} and the manifest claim different figures"], "as claimed")


def _logs(bundle: Bundle, abilities: Sequence[JudgedRows]) -> Check:
    """Return whether both logs and the self-test say what the records, the answers and the scorecard do."""
    if bundle.manifest.lotune != __version__:
        detail = f"not compared: lotune {bundle.manifest.lotune} wrote them, and this is {__version__}"
        return Check(name="logs", passed=None, detail=detail)
    archive, models = bundle.archive, (BASE, bundle.claims.chosen_checkpoint)
    metrics = _unpacked(bundle, METRICS_FILE)
    answers = [
        RetentionAnswers(one.ability.label, model, rows_of(bundle, one), _stored(bundle, one, model))
        for one in abilities
        if one.ability
        for model in models
    ]
    card = Scorecard.model_validate_json(archive.read(SCORECARD))
    same = {
        # That of a repair may follow, whose records are not in the bundle.
        TRAINING_LOG: archive.read(TRAINING_LOG).decode().startswith(training_log({"tuning": metrics})),
        RETENTION_LOG: archive.read(RETENTION_LOG).decode() == retention_log(answers),
        SELF_TEST: archive.read(SELF_TEST).decode() == self_test(card),
    }
    faults = [f"{name} says something else than the records" for name, is_same in same.items() if not is_same]
    return outcome("logs", faults, f"{', '.join(same)} say what the records do")


def rows_of(bundle: Bundle, one: JudgedRows) -> list[Example]:
    """Return the rows of a set."""
    return [from_record(orjson.loads(line)) for line in bundle.archive.read(one.rows).splitlines() if line.strip()]


def predictions_path(one: JudgedRows, model: str) -> str:
    """Return the member with the answers of a model to a set of rows."""
    return f"predictions/{one.folder}/{model}.jsonl"


def _stored(bundle: Bundle, one: JudgedRows, model: str) -> list[Prediction]:
    return read_predictions(_unpacked(bundle, predictions_path(one, model)))


def _unpacked(bundle: Bundle, path: str) -> Path:
    if path not in bundle.archive:
        raise DataError(path, "is missing", "the answers to all rows")
    target = bundle.folder / path
    if not target.exists():
        bundle.archive.extract(path, bundle.folder)
    return target


def judged_answers(bundle: Bundle, one: JudgedRows, model: str) -> list[Prediction]:
    """Return the answers of a model, judged again. Raises: DataError unless there is one to every row."""
    examples, path = rows_of(bundle, one), _unpacked(bundle, predictions_path(one, model))
    stored = read_predictions(path)
    judged = keep_predictions(one.task, examples, path, stored[0].facts if stored else None)
    if len(judged) != len(examples) or len(stored) != len(examples):
        fault = f"{len(stored)} answers, {len(judged)} of them to the {len(examples)} rows of {one.rows}"
        raise DataError(predictions_path(one, model), fault, "one answer to each row and its prompt")
    return [judged[index] for index in range(len(examples))]


def _scored(predictions: Sequence[Prediction]) -> list[ScoredExample]:
    return [ScoredExample(row.example_id, row.category, row.score) for row in predictions]
