"""The retention gate on answers: the metrics of base and tuned model on the same rows, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from lotune.evaluate.predict import Prediction
from lotune.evaluate.retention import RetentionMetric, RetentionSettings, add_intervals, gate
from lotune.tasks.task import Task


def measure_retention(
    task: Task, settings: RetentionSettings, base: Sequence[Prediction], tuned: Sequence[Prediction]
) -> list[RetentionMetric]:
    """Return the gate's metrics with their intervals, from the answers of base and tuned model to the same rows."""
    metrics = gate(_points(task, base), _points(task, tuned), settings)
    return [_with_intervals(task, metric, base, tuned) for metric in metrics]


def _with_intervals(
    task: Task, metric: RetentionMetric, base: Sequence[Prediction], tuned: Sequence[Prediction]
) -> RetentionMetric:
    score = task.score_name_by_metric.get(metric.metric)
    before, after = (
        {
            row.example_id: 100.0 * bool(row.score.correct) if score is None else row.score.scores[score]
            for row in predictions
            if row.score.correct is not None
        }
        for predictions in (base, tuned)
    )
    return add_intervals(metric, list(before.values()), [after[id] for id in before], is_accuracy=score is None)


def _points(task: Task, predictions: Sequence[Prediction]) -> dict[str, float]:
    """Return the metrics in points, 0 to 100: all means of scores, or the main metric of a task without them."""
    metrics = task.metrics([prediction.score for prediction in predictions])
    return {name: metrics[name] for name in task.score_name_by_metric} or {task.metric: 100 * metrics[task.metric]}
