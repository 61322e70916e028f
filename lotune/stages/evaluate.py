"""`lotune evaluate`: base and tuned model on the test and on what must be kept, and the scorecard of both."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lotune.contest.scores import PUBLISHED, place, score
from lotune.data.examples import Example
from lotune.evaluate.alone import compare_alone, rows_alone, wider_line, wider_target
from lotune.evaluate.facts import facts_of
from lotune.evaluate.parameters import count_adapter
from lotune.evaluate.predict import Prediction
from lotune.evaluate.retention import RetentionLine, gate, gate_passed, least_kept, with_intervals
from lotune.evaluate.scorecard import (
    Alone,
    AskedRows,
    Check,
    Checkpoint,
    Score,
    Scorecard,
    Target,
    Verdict,
    make_scorecard,
    measure_parameters,
    measure_target,
    read_scorecard,
    write_scorecard,
)
from lotune.model.base import Base, count_parameters, dtype_name, load_base, resolve_device, resolve_dtype
from lotune.model.quantize import load_as_trained
from lotune.recipe import Options, Recipe, stage_inputs
from lotune.report.progress import say
from lotune.report.terminal import show_scorecard
from lotune.runs import Run, inputs_mark, read_json, write_json
from lotune.stages.asking import (
    Asking,
    answering_in,
    answering_with,
    ask,
    ask_alone,
    asked_settings,
    computes_on,
    measured_rows,
)
from lotune.stages.merging import unchecked_notes
from lotune.stages.number_formats import with_kept
from lotune.stages.prepare import ensure_prepared, opened, read_examples, retention_task_settings, right_clause
from lotune.tasks.registry import build_task
from lotune.tasks.task import Task

BASE = "base"
"""Name under which the untuned model's predictions stand."""
RETAINED = "retention"
"""Folder of the predictions on what is kept, where that is the tuned task itself."""


NO_ANSWER_DEPENDS_ON = (
    *("score.", "retention.threshold", "evaluate.checkpoints", "task.judge"),
    *("checkpoints.merged", "checkpoints.check_rows", "merging", "tuning"),
)
"""Settings whose change asks no question again: the answers that are there are judged anew."""


@dataclass(frozen=True)
class Tested:
    """A model's predictions on the test rows and on the retention rows.

    `alone` is what asking some rows of both again alone found, empty where the model answers in float32.
    """

    target: list[Prediction]
    retained: list[Prediction]
    alone: tuple[Alone, ...] = ()

    def share(self, number: int) -> float:
        """Return the share of verdicts that differ alone, on the test rows (0) or the retention rows (1)."""
        return self.alone[number].share if self.alone else 0.0


def evaluate(recipe: Recipe, options: Options) -> Scorecard | dict[str, Any]:
    """The scorecard of a run, made where it is missing or what it depends on changed; earlier stages first."""
    with opened(recipe, options) as (run, recipe):
        counts = ensure_prepared(run, recipe)
        from lotune.stages.tune import ensure_tuned

        tuning = ensure_tuned(run, recipe, options)
        recipe = with_kept(recipe, run.folder)
        if options.dry_run:
            return {"counts": counts, **tuning}
        card = ensure_evaluated(run, recipe, tuning, counts)
    show(card)
    say(f"everything is in {recipe.folder}")
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
        run.forget_stage("evaluate")
        _forget_predictions_of_other_inputs(run, inputs)
        card = _evaluate(run, recipe, tuning, counts)
        write_scorecard(folder / "scorecard.json", card)
        run.finish_stage("evaluate", inputs, [folder / "scorecard.json", *(folder / "predictions").rglob("*.jsonl")])
    return read_scorecard(folder / "scorecard.json")


def _drop_altered_predictions(run: Run) -> None:
    """Delete the predictions that are no longer what a finished evaluation wrote: their rows are asked again."""
    for path, text in run.altered(["evaluate"]).items():
        if path.startswith("predictions/") and text != "missing":
            say(f"{path} has changed since it was written: its rows are asked again")
            (run.folder / path).unlink()


def _forget_predictions_of_other_inputs(run: Run, inputs: dict[str, Any]) -> None:
    """Predictions left by an interrupted evaluation are used on only where everything they depend on is the same."""
    relevant = {key: value for key, value in inputs.items() if not key.startswith(NO_ANSWER_DEPENDS_ON)}
    for name in ("test.rows", "retention.rows.file"):  # an answer depends on what is asked, and not on its key
        relevant[name] = [[one.id, one.prompt] for one in read_examples(inputs[name])]
    mark, memory = inputs_mark(relevant), run.folder / "predictions" / "inputs.json"
    if not memory.exists() or read_json(memory) != mark:
        shutil.rmtree(run.folder / "predictions", ignore_errors=True)
        write_json(memory, mark)


def _evaluate(run: Run, recipe: Recipe, tuning: dict[str, Any], counts: dict[str, Any]) -> Scorecard:
    recipe = answering_in(recipe, answering_with(recipe, recipe.base).dtype)
    task, retained = build_task(recipe.task), build_task(retention_task_settings(recipe))
    rows = {name: read_examples(run.folder / "data" / f"{name}.jsonl") for name in ("test", "retention")}
    base = load_base(asked_settings(recipe, recipe.base), recipe.device)
    total = count_parameters(base.model)
    before = _test(run, recipe, BASE, base, (task, retained), rows)
    chosen = tuning["chosen"]
    names = [one["name"] for one in tuning["checkpoints"]] if recipe.evaluate.checkpoints == "all" else [chosen]
    after = {name: _test(run, recipe, name, tuned_model(run, recipe, name), (task, retained), rows) for name in names}
    lines = {name: _gate(recipe, retained, before, tested) for name, tested in after.items()}
    targets = {name: _target(task, before, tested) for name, tested in after.items()}
    alone = [one for tested in (before, *after.values()) for one in tested.alone]
    trainable = count_adapter(run.folder / "checkpoints" / chosen / "adapter").trainable
    parameters = measure_parameters(trainable, total, recipe.score.totals)
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
            "asked on {device} in {dtype}".format(**computes_on(recipe)),
            *(f"{one.model}, {one.set}: {one.describe()}" for one in alone),
            *_notes(counts),
            *unchecked_notes(tuning["merge_checks"], names, recipe.checkpoints.check_rows),
        ],
        asked=_asked(counts, before),
    )


def tuned_model(run: Run, recipe: Recipe, name: str) -> Base:
    """Return the model of a checkpoint in `evaluate.dtype`: the merged folder if it is there, else merged in memory."""
    from lotune.model.checkpoints import merge

    folder, settings = run.folder / "checkpoints" / name, asked_settings(recipe, recipe.base)
    if (folder / "merged").is_dir():
        return load_base(settings.model_copy(update={"model": str(folder / "merged")}), recipe.device)
    base = load_as_trained(recipe.base, recipe.device, recipe.tune.quantize)
    merged = merge(base, folder / "adapter")
    dtype = resolve_dtype(recipe.base.dtype, resolve_device(recipe.device))
    answers_in = resolve_dtype(settings.dtype, recipe.device)
    for parameter in merged.parameters():
        parameter.data = parameter.data.to(dtype).to(answers_in)  # what a merged folder holds, read in the format asked
    return Base(name, merged, base.tokenizer, None, answers_in)


def _test(
    run: Run, recipe: Recipe, name: str, model: Base, tasks: tuple[Task, Task], rows: dict[str, list[Example]]
) -> Tested:
    from lotune.model.rest import REDUCED

    found, alone, target = list[list[Prediction]](), list[Alone](), tasks[0].name
    settings = recipe.task, retention_task_settings(recipe)
    parts = zip(tasks, settings, (rows["test"], rows["retention"]), (target, RETAINED), strict=True)
    for task, its, examples, asked in parts:
        folder = asked if task.name == target else task.name  # one task may be both: its answers stay apart
        out = run.folder / "predictions" / folder / f"{name}.jsonl"
        title, batch_tokens = f"{name}, {task.name}", recipe.evaluate.batch_tokens
        on_too_long = recipe.evaluate.on_too_long
        facts = facts_of(its, task, on_too_long=on_too_long)
        asking = Asking(title, model.model, model.tokenizer, batch_tokens, facts=facts, on_too_long=on_too_long)
        found.append(ask(asking, task, examples, out))
        if model.dtype in REDUCED:
            again = replace(asking, title=f"{title}, alone")
            kept = run.folder / "predictions" / "alone" / folder / out.name
            answers = ask_alone(again, task, rows_alone(examples, recipe.seed), kept)
            what = {"set": "test" if asked == target else RETAINED, "model": name}
            alone.append(compare_alone(found[-1], answers, dtype_name(model.dtype)).model_copy(update=what))
    return Tested(found[0], found[1], tuple(alone))


def _asked(counts: dict[str, Any], before: Tested) -> list[AskedRows]:
    """The rows of each evaluation set; of those that are tested, what their answers say."""
    sets = [AskedRows(**one) for one in counts["asked"]]
    answers = {"test": before.target, "retention": before.retained}
    return [measured_rows(one, answers[one.name]) if one.name in answers else one for one in sets]


def verdicts(predictions: Sequence[Prediction]) -> list[Verdict]:
    """What the scorecard needs of predictions."""
    return [Verdict(one.example_id, one.kind, one.judged) for one in predictions]


def _gate(recipe: Recipe, task: Task, before: Tested, after: Tested) -> list[RetentionLine]:
    figures = [_points(task, tested.retained) for tested in (before, after)]
    lines = gate(figures[0], figures[1], recipe.retention.threshold, task.name)
    lines = [_with_intervals(task, line, before.retained, after.retained) for line in lines]
    return [wider_line(line, before.share(1), after.share(1)) for line in lines]


def _with_intervals(
    task: Task, line: RetentionLine, before: Sequence[Prediction], after: Sequence[Prediction]
) -> RetentionLine:
    score = task.score_of.get(line.metric)
    base, tuned = (
        {
            one.example_id: 100.0 * bool(one.judged.right) if score is None else one.judged.scores[score]
            for one in predictions
            if one.judged.right is not None
        }
        for predictions in (before, after)
    )
    return with_intervals(line, list(base.values()), [tuned[id] for id in base], share=score is None)


def _points(task: Task, predictions: Sequence[Prediction]) -> dict[str, float]:
    """The retained metrics in points, 0 to 100: all means of scores, else the accuracy."""
    found = task.metrics([one.judged for one in predictions])
    return {name: found[name] for name in task.score_of} or {task.metric: 100 * found[task.metric]}


def _target(task: Task, before: Tested, after: Tested) -> Target:
    rows = verdicts(before.target), verdicts(after.target)
    found = measure_target(task.name, task.metric, *rows, judge=task.rule, score=task.score_of.get(task.metric))
    return wider_target(found, before.share(0), after.share(0))


def _fraction(target: Target) -> float:
    """The target's figure as 0 to 1: a mean of scores is 0 to 100."""
    return target.value / 100 if target.in_points else target.value


def _score(recipe: Recipe, value: float) -> Score:
    if recipe.score.rule != "phase1" or recipe.task.name != "arithmetic":
        return Score(rule=recipe.score.rule, value=value)
    return Score(rule=recipe.score.rule, value=value, place=place(value), published=len(PUBLISHED))


def _point(
    one: dict[str, Any], targets: dict[str, Target], lines: dict[str, list[RetentionLine]], scores: dict[str, float]
) -> Checkpoint:
    name = one["name"]
    tested = name in targets
    return Checkpoint(
        name=name, step=one["step"], validation_value=one["value"], validation_interval=one.get("interval"),
        validation_loss=one["loss"], value=targets[name].value if tested else None,
        interval=targets[name].interval if tested else None, score=scores[name] if tested else None,
        kept=least_kept(lines[name]) if tested else None, gate_passed=gate_passed(lines[name]) if tested else None,
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
