"""`lotune evaluate`: base and tuned model on the test and retention rows, and the scorecard of both."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from lotune.console import print_status
from lotune.contest.scores import contest_score, score
from lotune.evaluate.audit_claims import conventions
from lotune.evaluate.batching_effect import widen_metric, widen_target
from lotune.evaluate.divergence import BaseDivergence
from lotune.evaluate.measured_retention import measure_retention
from lotune.evaluate.parameter_ratio import count_adapter
from lotune.evaluate.predict import Prediction
from lotune.evaluate.repair import Repair
from lotune.evaluate.replay import ReplayCounts
from lotune.evaluate.retention import RetentionMetric, gate_passed, min_retained
from lotune.evaluate.scorecard import (
    Check,
    Checkpoint,
    ContestScore,
    EvaluationSetCounts,
    Scorecard,
    Target,
    make_scorecard,
    measure_parameters,
    read_scorecard,
    write_scorecard,
)
from lotune.evaluate.strength import StrengthSearch
from lotune.evaluate.target import ScoredExample, measure_target, with_majority
from lotune.files import read_json, write_json
from lotune.fingerprints import inputs_fingerprint
from lotune.model.loading import count_parameters, load_model
from lotune.recipe import Recipe, RunOptions
from lotune.report.languages import Language
from lotune.report.terminal import show_scorecard
from lotune.runs import Run
from lotune.stages.abilities import abilities_of
from lotune.stages.answered_sets import (
    TARGET,
    AnsweredSet,
    ModelPredictions,
    answered_sets,
    predict_test_sets,
    tuned_model,
)
from lotune.stages.auto_settings import with_stored_settings
from lotune.stages.claims import claims_of_run
from lotune.stages.dependencies import stage_inputs
from lotune.stages.divergence import base_divergences
from lotune.stages.merging import repair_inputs, unchecked_notes
from lotune.stages.model_loading import device_and_dtype, resolve_answer_dtype, with_answer_dtype, with_evaluate_dtype
from lotune.stages.next_steps import with_guidance
from lotune.stages.predictions import with_long_prompt_counts
from lotune.stages.prepare import accepted_references_clause, ensure_prepared, open_prepared_run, read_examples
from lotune.tasks.registry import build_task
from lotune.tasks.task import Task

BASE = "base"
"""Name of the untuned model's predictions."""
RESCORE_ONLY_SETTINGS = (
    *(
        "score.",
        "retention.min_retained",
        "retention.action",
        "retention.strength",
        "evaluate.checkpoints",
        "task.scorer",
    ),
    *("checkpoints.merged", "checkpoints.merge_check_rows", "merging", "tuning"),
)
"""Prefixes of settings whose change keeps the stored answers, which are only scored again."""


def evaluate(recipe: Recipe, options: RunOptions) -> Scorecard | dict[str, Any]:
    """Return the scorecard of a run, or the estimates of a dry run; run earlier stages first if needed."""
    with open_prepared_run(recipe, options) as (run, recipe):
        counts = ensure_prepared(run, recipe)
        from lotune.stages.tune import ensure_tuned

        tuning = ensure_tuned(run, recipe, options)
        recipe = with_stored_settings(recipe, run.folder)
        if options.dry_run:
            return {"counts": counts, **tuning}
        card = ensure_evaluated(run, recipe, tuning, counts)
    show(card, options.language)
    print_status(f"results: {recipe.folder}")
    return card


def show(card: Scorecard, language: Language = "en") -> None:
    """Print the scorecard for people."""
    from rich.console import Console

    show_scorecard(card, Console(), language)


def ensure_evaluated(run: Run, recipe: Recipe, tuning: dict[str, Any], counts: dict[str, Any]) -> Scorecard:
    """Return the scorecard in the run folder; make it if it is missing or an input has changed."""
    folder = run.folder
    inputs = {
        **stage_inputs(recipe, "evaluate"),
        "training": folder / "training.json",
        "tuning": folder / "tuning.json",
        "merging": folder / "merging.json",
        **repair_inputs(folder, tuning),
        "test.rows": folder / "data" / "test.jsonl",
        **{f"{one.test_set}.rows.file": one.file(folder, one.test_set) for one in abilities_of(recipe)},
    }
    if run.stage_state("evaluate", inputs) != "done":
        # Before the stage is invalidated: only its record says which files have changed since.
        _drop_altered_predictions(run)
        run.invalidate_stage("evaluate")
        _drop_predictions_of_other_inputs(run, inputs)
        card = with_guidance(_evaluate(run, recipe, tuning, counts), recipe, tuning, counts, folder)
        write_scorecard(folder / "scorecard.json", card)
        run.mark_stage_done("evaluate", inputs, [folder / "scorecard.json", *(folder / "predictions").rglob("*.jsonl")])
    return read_scorecard(folder / "scorecard.json")


def _drop_altered_predictions(run: Run) -> None:
    """Delete the prediction files that were edited after a finished evaluation: their rows are answered again."""
    for path, text in run.altered(["evaluate"]).items():
        if path.startswith("predictions/") and text != "missing":
            print_status(f"{path} has changed since it was written: its rows are answered again")
            (run.folder / path).unlink()


def _drop_predictions_of_other_inputs(run: Run, inputs: dict[str, Any]) -> None:
    """Delete the predictions of an interrupted evaluation unless they depend on the same inputs."""
    relevant = {key: value for key, value in inputs.items() if not key.startswith(RESCORE_ONLY_SETTINGS)}
    for name, file in inputs.items():  # an answer depends on its prompt, and not on the reference
        if name == "test.rows" or name.endswith(".rows.file"):
            relevant[name] = [[example.id, example.prompt] for example in read_examples(file)]
    fingerprint, path = inputs_fingerprint(relevant), run.folder / "predictions" / "inputs.json"
    if not path.exists() or read_json(path) != fingerprint:
        shutil.rmtree(run.folder / "predictions", ignore_errors=True)
        # Before the first answer: without it, a stopped evaluation could not tell that its answers still count.
        write_json(path, fingerprint)


def _evaluate(run: Run, recipe: Recipe, tuning: dict[str, Any], counts: dict[str, Any]) -> Scorecard:
    # Base and tuned model must answer in one dtype, or rounding would count as an effect of the tuning.
    recipe = with_evaluate_dtype(recipe, resolve_answer_dtype(recipe, recipe.base).dtype)
    sets = answered_sets(run, recipe)
    base = load_model(with_answer_dtype(recipe, recipe.base), recipe.device)
    total = count_parameters(base.model)
    before = predict_test_sets(run, recipe, BASE, base, sets)
    chosen = tuning["chosen"]
    all_names = [checkpoint["name"] for checkpoint in tuning["checkpoints"]]
    names = all_names if recipe.evaluate.checkpoints == "all" else [chosen]
    after, divergence = dict[str, ModelPredictions](), tuple[BaseDivergence, ...]()
    for name in names:
        model = tuned_model(run, recipe, name)
        after[name] = predict_test_sets(run, recipe, name, model, sets)
        if name == chosen:
            divergence = base_divergences(base.model, model.model, base.tokenizer, run.folder, sets[0].examples)
    lines = {name: _retention_metrics(recipe, sets, before, tested) for name, tested in after.items()}
    targets = {name: _target(sets[0].task, before, tested) for name, tested in after.items()}
    if (majority := counts.get("majority")) is not None and not targets[chosen].is_mean:
        scored = scored_examples(after[chosen].answers[TARGET])
        targets[chosen] = with_majority(targets[chosen], sets[0].task, sets[0].examples, scored, majority["answer"])
    effects = [effect for tested in (before, *after.values()) for effect in tested.effects.values()]
    trainable = count_adapter(run.folder / "checkpoints" / chosen / "adapter").trainable
    parameters = measure_parameters(trainable, total, recipe.score.base_total)
    scores = {name: _contest_value(recipe, parameters.ratio, target) for name, target in targets.items()}
    checks = _checks(tuning, trainable, counts)
    return make_scorecard(
        target=targets[chosen],
        retention=lines[chosen],
        parameters=parameters,
        score=None if (value := scores[chosen]) is None else _contest_score(recipe, value, total),
        chosen_checkpoint=chosen,
        checkpoints=[_checkpoint(checkpoint, targets, lines, scores) for checkpoint in tuning["checkpoints"]],
        checks=checks,
        claims=claims_of_run(
            run, recipe, tuning, counts, sets, base.tokenizer, targets[chosen], lines[chosen], parameters.ratio, checks
        ),
        base=recipe.base.model,
        replay=ReplayCounts.from_counts(counts),
        repair=Repair(**tuning["repair"]) if tuning.get("repair") else None,
        strength=StrengthSearch(**tuning["strength"]) if tuning.get("strength") else None,
        divergence=divergence,
        batching_effects=effects,
        notes=[
            f"tuned in {recipe.base.dtype}",
            *filter(None, [tuning.get("outcome")]),
            "answered on {device} in {dtype}".format(**device_and_dtype(recipe)),
            *(f"{effect.model}, {effect.set}: {effect.describe()}" for effect in effects),
            *_notes(counts),
            *_other_total(recipe, total),
            *unchecked_notes(tuning["merge_checks"], names, recipe.checkpoints.merge_check_rows, recipe.adapter.method),
        ],
        evaluation_sets=_evaluation_set_counts(counts, before),
    )


def _evaluation_set_counts(counts: dict[str, Any], before: ModelPredictions) -> list[EvaluationSetCounts]:
    """Return the counts of each evaluation set; the answers give those of the test and retention rows."""
    sets, answers = [EvaluationSetCounts(**record) for record in counts["asked"]], before.answers
    return [with_long_prompt_counts(rows, answers[rows.name]) if rows.name in answers else rows for rows in sets]


def scored_examples(predictions: Sequence[Prediction]) -> list[ScoredExample]:
    """Return the ids, categories and scores of predictions."""
    return [ScoredExample(prediction.example_id, prediction.category, prediction.score) for prediction in predictions]


def _retention_metrics(
    recipe: Recipe, sets: Sequence[AnsweredSet], before: ModelPredictions, after: ModelPredictions
) -> list[RetentionMetric]:
    """Return the metrics of all abilities, those of each in the order of the sets."""
    threshold, lines = recipe.retention.min_retained, list[RetentionMetric]()
    for one in sets:
        if one.ability is not None:
            answers = before.answers[one.name], after.answers[one.name]
            changed = before.changed_verdicts(one.name), after.changed_verdicts(one.name)
            metrics = measure_retention(one.task, one.ability, threshold, *answers)
            lines += [widen_metric(metric, *changed) for metric in metrics]
    return lines


def _target(task: Task, before: ModelPredictions, after: ModelPredictions) -> Target:
    rows = scored_examples(before.answers[TARGET]), scored_examples(after.answers[TARGET])
    target = measure_target(task, *rows)
    return widen_target(target, before.changed_verdicts(TARGET), after.changed_verdicts(TARGET))


def _contest_value(recipe: Recipe, ratio: float, target: Target) -> float | None:
    """Return the contest's score; None for a metric that is no fraction and has no upper bound."""
    if target.lower_is_better:
        return None
    # A mean of scores is 0 to 100.
    return score(recipe.score.rule, ratio, target.value / 100 if target.in_points else target.value)


def _contest_score(recipe: Recipe, value: float, total: int) -> ContestScore:
    comparable = build_task(recipe.task).is_contest_task and not _other_total(recipe, total)
    return contest_score(recipe.score.rule, value, recipe.score.base_total, is_contest_task=comparable)


def _other_total(recipe: Recipe, total: int) -> list[str]:
    """Return the remark that the ratio divides by the total of another base; none if it does not."""
    convention = recipe.score.base_total
    if convention in conventions(total):
        return []
    return [f"the ratio divides by the total of another base: score.base_total is {convention}, the base has {total:,}"]


def _checkpoint(
    checkpoint: dict[str, Any],
    targets: dict[str, Target],
    lines: dict[str, list[RetentionMetric]],
    scores: dict[str, float | None],
) -> Checkpoint:
    name = checkpoint["name"]
    tested = name in targets
    return Checkpoint(
        name=name, step=checkpoint["step"], validation_value=checkpoint["value"],
        validation_interval=checkpoint.get("interval"), validation_loss=checkpoint["loss"],
        validation_retained=checkpoint.get("retained"),
        value=targets[name].value if tested else None,
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
    for name, check in tuning["merge_checks"].items():
        double = check.get("max_logit_difference_float64")
        reduced = _reduced_dtype_clause(check.get("asked"))
        exact = "" if double is None else f" ({double:.1e} in float64)"
        detail = (
            f"{name}: {check['rows']} rows, logits within {check['max_logit_difference']:.1e}{exact}, "
            f"{check['greedy_differences']} greedy answers differ at ties; rounding to {check['saved_dtype']} changes "
            f"{check['texts_changed']} texts and {check['verdicts_changed']} verdicts{reduced}"
        )
        checks.append(Check(name="merge", passed=check["passed"], detail=detail))
    return checks


def _reduced_dtype_clause(check: dict[str, Any] | None) -> str:
    """Return the clause on the reduced dtype of the answers, as a merge check measured it; empty for float32."""
    if check is None:
        return ""
    texts = f"{check['texts_changed']} texts and {check['verdicts_changed']} verdicts"
    return f"; answering in {check['dtype']} changes {texts} (logits: {check['logit_difference']:.1e} of their norm)"


def _notes(counts: dict[str, Any]) -> list[str]:
    notes = ReplayCounts.from_counts(counts).notes()
    removed = counts["rows"]["overlap"]["removed"]
    if removed:
        notes.append(f"{removed} training rows were removed because an evaluation set contains them")
    if right_counts := counts.get("right_by_rule"):
        notes.append(accepted_references_clause(right_counts))
    return notes
