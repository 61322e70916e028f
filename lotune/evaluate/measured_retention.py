"""The metrics of the retention gate, with intervals, from the answers of base and tuned model to the same rows."""

from __future__ import annotations

from collections.abc import Sequence

from lotune.evaluate.abilities import AbilitySettings
from lotune.evaluate.predict import Prediction
from lotune.evaluate.retention import CONTEST_METRICS, RetentionMetric, add_intervals, gate
from lotune.tasks.metrics import weights_of
from lotune.tasks.task import Score, Task


def measure_retention(
    task: Task, ability: AbilitySettings, min_retained: float, base: Sequence[Prediction], tuned: Sequence[Prediction]
) -> list[RetentionMetric]:
    """Return the metrics of an ability with their intervals; base and tuned model have answered the same rows."""
    # If the likelihood of references is the metric, the overlap of generated answers beside it is only reported.
    gating = (task.metric,) if task.scores_references else CONTEST_METRICS
    metrics = gate(
        _points(task, base), _points(task, tuned),
        min_retained=min_retained, ability=ability.label, gating=gating, is_gated=ability.gate,
    )  # fmt: skip
    return [_with_intervals(task, metric, base, tuned) for metric in metrics]


def _with_intervals(
    task: Task, metric: RetentionMetric, base: Sequence[Prediction], tuned: Sequence[Prediction]
) -> RetentionMetric:
    name = task.score_name_by_metric.get(metric.metric)
    before, after = (
        {row.example_id: row.score for row in predictions if row.score.correct is not None}
        for predictions in (base, tuned)
    )
    points = [[_point(scores[id], name) for id in before] for scores in (before, after)]
    weights = weights_of([score.scores for score in before.values()], name) if name else None
    return add_intervals(metric, *points, is_accuracy=name is None, weights=weights)


def _point(score: Score, name: str | None) -> float:
    return 100.0 * bool(score.correct) if name is None else score.scores[name]


def _points(task: Task, predictions: Sequence[Prediction]) -> dict[str, float]:
    """Return all means of scores in their units, or, for a task without such means, its main metric in points."""
    metrics = task.metrics([prediction.score for prediction in predictions])
    means = {name: metrics[name] for name in task.score_name_by_metric if name in metrics}
    return means or {task.metric: 100 * metrics[task.metric]}
