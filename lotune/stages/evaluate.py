"""`lotune evaluate`: base and tuned model on the test and on what must be kept, and the scorecard of both."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lotune.console import print_status
from lotune.contest.scores import ContestScore, contest_score, score
from lotune.data.examples import Example
from lotune.evaluate.alone import compare_alone, rows_alone, wider_line, wider_target
from lotune.evaluate.facts import facts_of
from lotune.evaluate.parameter_ratio import count_adapter
from lotune.evaluate.predict import Prediction
from lotune.evaluate.retention import RetentionMetric, add_intervals, gate, gate_passed, min_retained
from lotune.evaluate.scorecard import (
    Alone,
    AskedRows,
    Check,
    Checkpoint,
    Scorecard,
    Target,
    make_scorecard,
    measure_parameters,
    read_scorecard,
    write_scorecard,
)
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.files import read_json, write_json
from lotune.fingerprints import inputs_fingerprint
from lotune.model.loading import LoadedModel, count_parameters, dtype_name, load_model, resolve_device, resolve_dtype
from lotune.model.methods.registry import METHODS
from lotune.model.quantization import load_dequantized
from lotune.recipe import Recipe, RunOptions
from lotune.report.terminal import show_scorecard
from lotune.runs import Run
from lotune.stages.dependencies import stage_inputs
from lotune.stages.merging import unchecked_notes
from lotune.stages.model_loading import answering_in, answering_with, asked_settings, device_and_dtype
from lotune.stages.predictions import PredictionJob, ask_alone, measured_rows, run_predictions
from lotune.stages.prepare import (
    ensure_prepared,
    open_prepared_run,
    read_examples,
    retention_task_settings,
    right_clause,
)
from lotune.stages.run_dtypes import with_kept_dtypes
from lotune.tasks.registry import build_task
from lotune.tasks.task import Task

BASE = "base"
"""Name under which the untuned model's predictions stand."""
RETENTION_FOLDER = "retention"
"""Folder of the predictions on what is kept, where that is the tuned task itself."""


RESCORE_ONLY_SETTINGS = (
    *("score.", "retention.min_retained", "evaluate.checkpoints", "task.scorer"),
    *("checkpoints.merged", "checkpoints.merge_check_rows", "merging", "tuning"),
)
"""Settings whose change asks no question again: the answers that are there are judged anew."""


@dataclass(frozen=True)
class ModelPredictions:
    """A model's predictions on the test rows and on the retention rows.

    `alone` is what asking some rows of both again alone found, empty where the model answers in float32.
    """

    target: list[Prediction]
    retained: list[Prediction]
    alone: tuple[Alone, ...] = ()

    def share(self, number: int) -> float:
        """Return the share of verdicts that differ alone, on the test rows (0) or the retention rows (1)."""
        return self.alone[number].share if self.alone else 0.0


def evaluate(recipe: Recipe, options: RunOptions) -> Scorecard | dict[str, Any]:
    """The scorecard of a run, made where it is missing or what it depends on changed; earlier stages first."""
    with open_prepared_run(recipe, options) as (run, recipe):
        counts = ensure_prepared(run, recipe)
        from lotune.stages.tune import ensure_tuned

        tuning = ensure_tuned(run, recipe, options)
        recipe = with_kept_dtypes(recipe, run.folder)
        if options.dry_run:
            return {"counts": counts, **tuning}
        card = ensure_evaluated(run, recipe, tuning, counts)
    show(card)
    print_status(f"everything is in {recipe.folder}")
    return card


def show(card: Scorecard) -> None:
    """Print the scorecard for people."""
    from rich.console import Console

    show_scorecard(card, Console())


def ensure_evaluated(run: Run, recipe: Recipe, tuning: dict[str, Any], counts: dict[str, Any]) -> Scorecard:
    """The scorecard in the run folder, made anew where it is missing or what it depends on changed."""
    folder = run.folder
    inputs = {
        **stage_inputs(recipe, "evaluate"),
        "training": folder / "training.json",
        "tuning": folder / "tuning.json",
        "merging": folder / "merging.json",
        "test.rows": folder / "data" / "test.jsonl",
        "retention.rows.file": folder / "data" / "retention.jsonl",
    }
    if run.stage_state("evaluate", inputs) != "done":
        _drop_altered_predictions(run)
        run.invalidate_stage("evaluate")
        _forget_predictions_of_other_inputs(run, inputs)
        card = _evaluate(run, recipe, tuning, counts)
        write_scorecard(folder / "scorecard.json", card)
        run.mark_stage_done("evaluate", inputs, [folder / "scorecard.json", *(folder / "predictions").rglob("*.jsonl")])
    return read_scorecard(folder / "scorecard.json")


def _drop_altered_predictions(run: Run) -> None:
    """Delete the predictions that are no longer what a finished evaluation wrote: their rows are asked again."""
    for path, text in run.altered(["evaluate"]).items():
        if path.startswith("predictions/") and text != "missing":
            print_status(f"{path} has changed since it was written: its rows are asked again")
            (run.folder / path).unlink()


def _forget_predictions_of_other_inputs(run: Run, inputs: dict[str, Any]) -> None:
    """Predictions left by an interrupted evaluation are used on only where everything they depend on is the same."""
    relevant = {key: value for key, value in inputs.items() if not key.startswith(RESCORE_ONLY_SETTINGS)}
    for name in ("test.rows", "retention.rows.file"):  # an answer depends on what is asked, and not on its key
        relevant[name] = [[one.id, one.prompt] for one in read_examples(inputs[name])]
    fingerprint, memory = inputs_fingerprint(relevant), run.folder / "predictions" / "inputs.json"
    if not memory.exists() or read_json(memory) != fingerprint:
        shutil.rmtree(run.folder / "predictions", ignore_errors=True)
        write_json(memory, fingerprint)


def _evaluate(run: Run, recipe: Recipe, tuning: dict[str, Any], counts: dict[str, Any]) -> Scorecard:
    recipe = answering_in(recipe, answering_with(recipe, recipe.base).dtype)
    task, retained = build_task(recipe.task), build_task(retention_task_settings(recipe))
    rows = {name: read_examples(run.folder / "data" / f"{name}.jsonl") for name in ("test", "retention")}
    base = load_model(asked_settings(recipe, recipe.base), recipe.device)
    total = count_parameters(base.model)
    before = _test(run, recipe, BASE, base, (task, retained), rows)
    chosen = tuning["chosen"]
    names = [one["name"] for one in tuning["checkpoints"]] if recipe.evaluate.checkpoints == "all" else [chosen]
    after = {name: _test(run, recipe, name, tuned_model(run, recipe, name), (task, retained), rows) for name in names}
    lines = {name: _gate(recipe, retained, before, tested) for name, tested in after.items()}
    targets = {name: _target(task, before, tested) for name, tested in after.items()}
    alone = [one for tested in (before, *after.values()) for one in tested.alone]
    trainable = count_adapter(run.folder / "checkpoints" / chosen / "adapter").trainable
    parameters = measure_parameters(trainable, total, recipe.score.base_total)
    scores = {name: score(recipe.score.rule, parameters.ratio, _fraction(target)) for name, target in targets.items()}
    return make_scorecard(
        target=targets[chosen],
        retention=lines[chosen],
        parameters=parameters,
        score=_score(recipe, scores[chosen]),
        chosen_checkpoint=chosen,
        checkpoints=[_point(one, targets, lines, scores) for one in tuning["checkpoints"]],
        checks=_checks(tuning, trainable, counts),
        base=recipe.base.model,
        asked_alone=alone,
        notes=[
            f"tuned in {recipe.base.dtype}",
            "asked on {device} in {dtype}".format(**device_and_dtype(recipe)),
            *(f"{one.model}, {one.set}: {one.describe()}" for one in alone),
            *_notes(counts),
            *unchecked_notes(tuning["merge_checks"], names, recipe.checkpoints.merge_check_rows, recipe.adapter.method),
        ],
        asked=_asked(counts, before),
    )


def tuned_model(run: Run, recipe: Recipe, name: str) -> LoadedModel:
    """Return the model of a checkpoint in `evaluate.dtype`: the merged folder if it is there, else merged in memory.

    An adapter that cannot be merged stays beside its base.
    """
    from lotune.model.checkpoints import load_adapter, merge

    folder, settings = run.folder / "checkpoints" / name, asked_settings(recipe, recipe.base)
    if (folder / "merged").is_dir():
        return load_model(settings.model_copy(update={"model": str(folder / "merged")}), recipe.device)
    base = load_dequantized(recipe.base, recipe.device, recipe.tune.quantization)
    dtype = resolve_dtype(recipe.base.dtype, resolve_device(recipe.device))
    answers_in = resolve_dtype(settings.dtype, recipe.device)
    if not METHODS[recipe.adapter.method].mergeable:
        for parameter in base.model.parameters():
            parameter.data = parameter.data.to(answers_in)
        adapted: Any = load_adapter(base, folder / "adapter", force_base=True)
        return LoadedModel(name, adapted, base.tokenizer, None, answers_in)
    merged = merge(base, folder / "adapter")
    for parameter in merged.parameters():
        parameter.data = parameter.data.to(dtype).to(answers_in)  # what a merged folder holds, read in the format asked
    return LoadedModel(name, merged, base.tokenizer, None, answers_in)


def _test(
    run: Run, recipe: Recipe, name: str, model: LoadedModel, tasks: tuple[Task, Task], rows: dict[str, list[Example]]
) -> ModelPredictions:
    from lotune.generate.answering_model import AnsweringModel
    from lotune.model.eval_mode import REDUCED_DTYPES

    answering = AnsweringModel(model.model, model.tokenizer)
    found, alone, target = list[list[Prediction]](), list[Alone](), tasks[0].name
    settings = recipe.task, retention_task_settings(recipe)
    parts = zip(tasks, settings, (rows["test"], rows["retention"]), (target, RETENTION_FOLDER), strict=True)
    for task, its, examples, asked in parts:
        folder = asked if task.name == target else task.name  # one task may be both: its answers stay apart
        out = run.folder / "predictions" / folder / f"{name}.jsonl"
        title, batch_tokens = f"{name}, {task.name}", recipe.evaluate.max_batch_tokens
        on_too_long = recipe.evaluate.on_too_long
        facts = facts_of(its, task, on_too_long=on_too_long)
        asking = PredictionJob(title, answering, batch_tokens, facts=facts, on_too_long=on_too_long)
        found.append(run_predictions(asking, task, examples, out))
        if model.dtype in REDUCED_DTYPES:
            again = replace(asking, title=f"{title}, alone")
            kept = run.folder / "predictions" / "alone" / folder / out.name
            answers = ask_alone(again, task, rows_alone(examples, recipe.seed), kept)
            what = {"set": "test" if asked == target else RETENTION_FOLDER, "model": name}
            alone.append(compare_alone(found[-1], answers, dtype_name(model.dtype)).model_copy(update=what))
    return ModelPredictions(found[0], found[1], tuple(alone))


def _asked(counts: dict[str, Any], before: ModelPredictions) -> list[AskedRows]:
    """The rows of each evaluation set; of those that are tested, what their answers say."""
    sets = [AskedRows(**one) for one in counts["asked"]]
    answers = {"test": before.target, "retention": before.retained}
    return [measured_rows(one, answers[one.name]) if one.name in answers else one for one in sets]


def scored_examples(predictions: Sequence[Prediction]) -> list[ScoredExample]:
    """What the scorecard needs of predictions."""
    return [ScoredExample(one.example_id, one.category, one.score) for one in predictions]


def _gate(recipe: Recipe, task: Task, before: ModelPredictions, after: ModelPredictions) -> list[RetentionMetric]:
    figures = [_points(task, tested.retained) for tested in (before, after)]
    lines = gate(figures[0], figures[1], recipe.retention)
    lines = [_with_intervals(task, line, before.retained, after.retained) for line in lines]
    return [wider_line(line, before.share(1), after.share(1)) for line in lines]


def _with_intervals(
    task: Task, line: RetentionMetric, before: Sequence[Prediction], after: Sequence[Prediction]
) -> RetentionMetric:
    score = task.score_name_by_metric.get(line.metric)
    base, tuned = (
        {
            one.example_id: 100.0 * bool(one.score.correct) if score is None else one.score.scores[score]
            for one in predictions
            if one.score.correct is not None
        }
        for predictions in (before, after)
    )
    return add_intervals(line, list(base.values()), [tuned[id] for id in base], is_accuracy=score is None)


def _points(task: Task, predictions: Sequence[Prediction]) -> dict[str, float]:
    """The retained metrics in points, 0 to 100: all means of scores, else the accuracy."""
    found = task.metrics([one.score for one in predictions])
    return {name: found[name] for name in task.score_name_by_metric} or {task.metric: 100 * found[task.metric]}


def _target(task: Task, before: ModelPredictions, after: ModelPredictions) -> Target:
    rows = scored_examples(before.target), scored_examples(after.target)
    found = measure_target(
        task.name, task.metric, *rows, scorer=task.scorer, score=task.score_name_by_metric.get(task.metric)
    )
    return wider_target(found, before.share(0), after.share(0))


def _fraction(target: Target) -> float:
    """The target's figure as 0 to 1: a mean of scores is 0 to 100."""
    return target.value / 100 if target.in_points else target.value


def _score(recipe: Recipe, value: float) -> ContestScore:
    is_contest_task = build_task(recipe.task).is_contest_task
    return contest_score(recipe.score.rule, value, recipe.score.base_total, is_contest_task=is_contest_task)


def _point(
    one: dict[str, Any], targets: dict[str, Target], lines: dict[str, list[RetentionMetric]], scores: dict[str, float]
) -> Checkpoint:
    name = one["name"]
    tested = name in targets
    return Checkpoint(
        name=name, step=one["step"], validation_value=one["value"], validation_interval=one.get("interval"),
        validation_loss=one["loss"], value=targets[name].value if tested else None,
        interval=targets[name].interval if tested else None, score=scores[name] if tested else None,
        retained=min_retained(lines[name]) if tested else None,
        gate_passed=gate_passed(lines[name]) if tested else None,
    )  # fmt: skip


def _checks(tuning: dict[str, Any], trainable: int, counts: dict[str, Any]) -> list[Check]:
    checks = [
        Check(
            name="parameters", passed=trainable == tuning["trainable"],
            detail=f"{trainable:,} in the saved adapter, {tuning['trainable']:,} while training",
        ),
        Check(
            name="supervision", passed=counts["tokens"]["supervised"] > 0,
            detail=f"{counts['tokens']['supervised']:,} of {counts['tokens']['tokens']:,} tokens are trained on",
        ),
    ]  # fmt: skip
    for name, found in tuning["merge_checks"].items():
        double = found.get("max_logit_difference_float64")
        exact = "" if double is None else f" ({double:.1e} in float64)"
        detail = (
            f"{name}: {found['rows']} rows, logits within {found['max_logit_difference']:.1e}{exact}, "
            f"{found['greedy_differences']} greedy answers differ at ties; rounding to {found['saved_dtype']} changes "
            f"{found['texts_changed']} texts and {found['verdicts_changed']} verdicts{_reduced(found.get('asked'))}"
        )
        checks.append(Check(name="merge", passed=found["passed"], detail=detail))
    return checks


def _reduced(asked: dict[str, Any] | None) -> str:
    """What a merge check found of the reduced number format that the evaluation asks in; empty for float32."""
    if asked is None:
        return ""
    texts = f"{asked['texts_changed']} texts and {asked['verdicts_changed']} verdicts"
    return f"; answering in {asked['dtype']} changes {texts} (logits: {asked['logit_difference']:.1e} of their norm)"


def _notes(counts: dict[str, Any]) -> list[str]:
    notes = []
    removed = counts["rows"]["overlap"]["removed"]
    if removed:
        notes.append(f"{removed} training rows were removed because an evaluation set asks the same")
    if shares := counts.get("right_by_rule"):
        notes.append(right_clause(shares))
    return notes
