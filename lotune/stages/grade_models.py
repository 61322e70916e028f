"""`lotune grade contest --data`: ask the checkpoints of teams, and the base, on rows that the teams have not seen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.contest.answers import default_rule
from lotune.contest.archive_reader import Archive
from lotune.contest.bundle_check import Bundle
from lotune.contest.manifest import five_evenly_spaced
from lotune.contest.models import Claimed, GradedCheckpoint, GradedTeam, best_checkpoint, grade_checkpoint
from lotune.contest.scores import check_rule
from lotune.errors import DataError, SettingsError
from lotune.evaluate.abilities import AbilitySettings
from lotune.evaluate.measured_retention import measure_retention
from lotune.evaluate.parameter_ratio import count_adapter, ratio
from lotune.evaluate.predict import Prediction
from lotune.evaluate.retention import MIN_RETAINED
from lotune.evaluate.target import measure_target
from lotune.model.loading import count_parameters
from lotune.recipe import Recipe, RunOptions
from lotune.report.terminal import percent
from lotune.settings import read_settings
from lotune.stages.check_bundle import opened_bundle
from lotune.stages.evaluate import scored_examples
from lotune.stages.grade_contest import contest_task
from lotune.stages.model_loading import load_for_generation, resolve_weights, with_resolved_dtype
from lotune.stages.predictions import PredictionJob, run_predictions
from lotune.stages.prompt_template import build_prompted_task, resolve_auto, with_stored_template
from lotune.tasks.build_datasets import evaluation_set
from lotune.tasks.registry import RETENTION_TASK, build_task, task_settings
from lotune.tasks.settings import TaskSettings
from lotune.text_display import print_visible


@dataclass(frozen=True)
class ModelTest:
    """The hidden test: task, rows and retention rows, the base, and the rule; `ratio` is that of models alone."""

    task: str
    scorer: str | None
    data: Path
    retention: Path
    base: str
    ratio: float | None
    rule: str | None
    base_total: str = "measured"
    """Convention of the ratio's divisor."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to ask: a folder of a complete model, or of an adapter of the test's base."""

    name: str
    folder: Path
    ratio: float


@dataclass(frozen=True)
class Answers:
    """The answers of one model to the hidden rows and to the retention rows."""

    target: list[Prediction]
    retention: list[Prediction]
    parameters: int
    """Number of parameters of the model."""


def grade_models(things: Sequence[Path], test: ModelTest, options: RunOptions) -> list[dict[str, Any]]:
    """Return the result of each team, the best first; `things` are bundles and folders of merged models.

    Raises: HostileArchiveError for a bundle that must not be unpacked; SettingsError without a ratio.
    """
    task = contest_task(test.task, test.scorer)
    rule = test.rule or default_rule(task)
    check_rule(rule, "--rule")
    # Both files are read here, so that a fault in the second is known before the base has answered the first.
    for asked, path in ((task, test.data), (build_task(_retention_settings()), test.retention)):
        evaluation_set(asked, path, None, 0)
    with ExitStack() as stack:
        # All archives are opened, and refused if they are hostile, before the first model is asked.
        teams = [_team(path, test, stack) for path in things]
        base = _ask(test, test.base)
        graded = [
            _grade(team, claimed, [(one, _ask(test, str(one.folder))) for one in candidates(base)], base, test, rule)
            for team, claimed, candidates in teams
        ]
    graded.sort(key=lambda one: (not one.best.valid, -one.best.score))
    if not options.json:
        _show(graded, rule)
    return [asdict(one) for one in graded]


def _team(path: Path, test: ModelTest, stack: ExitStack) -> tuple[str, Claimed | None, Any]:
    """Return the name of a team, its claims, and a function that unpacks its checkpoints one after the other."""
    if path.is_dir():
        candidate = Candidate(path.name, path, _folder_ratio(path, test))
        name = f"{path.parent.name}/{path.name}" if path.parent.name else path.name
        return name, None, lambda base: iter([candidate])
    bundle = stack.enter_context(opened_bundle(path))
    claims = bundle.claims
    spacing = five_evenly_spaced([one.step for one in bundle.manifest.checkpoints], claims.steps, claims.training)
    if not spacing.passed:
        print_status(f"warning: {path.name}: not the contest's checkpoints: {spacing.detail}")
    claimed = Claimed(claims.chosen_checkpoint, claims.value, claims.ratio, claims.score)
    return bundle.manifest.team, claimed, lambda base: _bundled(bundle, base.parameters, test.base_total)


def _folder_ratio(path: Path, test: ModelTest) -> float:
    if test.ratio is None:
        raise SettingsError("--ratio", f"{path} is a model alone, whose ratio is unknown", "--ratio, or a bundle")
    return test.ratio


def _bundled(bundle: Bundle, base_parameters: int, convention: str) -> Iterator[Candidate]:
    """Yield the checkpoints of a bundle, each with its ratio from its adapter's tensors and the parameters of the base.

    A checkpoint is unpacked when it is asked for, and removed when the next one is.
    """
    for one in bundle.manifest.checkpoints:
        part = "merged" if one.merged == "included" else "adapter"
        folder = bundle.folder / "checkpoints" / one.name
        for needed in {"adapter", part}:
            _extract(bundle.archive, f"checkpoints/{one.name}/{needed}/", bundle.folder)
        trainable = count_adapter(folder / "adapter").trainable
        yield Candidate(one.name, folder / part, ratio(trainable, base_parameters, convention))
        shutil.rmtree(folder)


def _extract(archive: Archive, below: str, folder: Path) -> None:
    if not archive.extract(below, folder):
        raise DataError(f"{archive.path}: {below}", "is empty", "the files of a checkpoint")


def _grade(
    team: str,
    claimed: Claimed | None,
    asked: Sequence[tuple[Candidate, Answers]],
    base: Answers,
    test: ModelTest,
    rule: str,
) -> GradedTeam:
    task, reading = contest_task(test.task, test.scorer), build_task(_retention_settings())
    ability = AbilitySettings(task=RETENTION_TASK, data=test.retention)
    checkpoints = []
    for one, answers in asked:
        target = measure_target(task, scored_examples(base.target), scored_examples(answers.target))
        lines = measure_retention(reading, ability, MIN_RETAINED, base.retention, answers.retention)
        checkpoints.append(grade_checkpoint(one.name, target, lines, one.ratio, rule))
    return GradedTeam(team, tuple(checkpoints), best_checkpoint(checkpoints), claimed)


def _retention_settings() -> TaskSettings:
    return task_settings(RETENTION_TASK)


def _ask(test: ModelTest, model: str) -> Answers:
    """Return the answers of a model, in the prompt template of its training, to both sets of rows."""
    words = [f"task.name={test.task}", *([f"task.scorer={test.scorer}"] if test.scorer else [])]
    recipe = read_settings(Recipe, None, words)
    if (Path(model) / "adapter_config.json").is_file():
        recipe = recipe.model_copy(update={"base": type(recipe.base)(model=test.base)})
    weights, _ = resolve_weights(recipe, model)
    settings = resolve_auto(with_stored_template(recipe.task, model, force=False), weights)
    recipe = with_resolved_dtype(recipe, model)
    answering = load_for_generation(recipe, model)
    batch_tokens, answers = recipe.evaluate.max_batch_tokens, []
    name = f"{Path(model).parent.name}/{Path(model).name}" if Path(model).is_dir() else model
    print_status(f"asking {name}")
    for task, path in (
        (build_prompted_task(settings, weights), test.data),
        (build_task(_retention_settings()), test.retention),
    ):
        rows = evaluation_set(task, path, None, recipe.seed).examples
        job = PredictionJob(f"{name}, {task.name}", answering, batch_tokens)
        answers.append(run_predictions(job, task, rows))
    return Answers(answers[0], answers[1], count_parameters(answering.model))


def _show(graded: Sequence[GradedTeam], rule: str) -> None:
    first = graded[0].best
    base = ", ".join(f"{one.name} {one.base:.2f}" for one in first.retention)
    print_visible(f"base: accuracy {percent(first.base_accuracy, 2)}, {base}")
    for place, one in enumerate(graded, 1):
        best = one.best
        rank = f"{place}." if best.valid else "no rank:"
        print_visible(f"{rank} {one.team}: {_line(best)} ({rule})")
        if one.claimed is not None:
            said = "no score" if one.claimed.score is None else f"score {one.claimed.score:.6f}"
            figures = f"accuracy {percent(one.claimed.accuracy, 2)}, ratio {one.claimed.ratio:.6g}, {said}"
            print_visible(f"   claimed: {one.claimed.checkpoint}, {figures}, on rows of its own")
        for checkpoint in one.checkpoints if len(one.checkpoints) > 1 else ():
            print_visible(f"   {_line(checkpoint)}")


def _line(one: GradedCheckpoint) -> str:
    kept = "not measurable" if one.retained is None else percent(one.retained)
    verdict = "valid" if one.valid else f"not valid: {'; '.join(one.reasons)}"
    metrics = ", ".join(f"{metric.name} {metric.tuned:.2f}" for metric in one.retention)
    figures = (
        f"accuracy {percent(one.accuracy, 2)}, ratio {one.ratio:.6g}, {metrics} (kept {kept}), score {one.score:.6f}"
    )
    return f"{one.name}: {figures}, {verdict}"
