"""Ask some test rows of a bundle again, with the bundle's own model, and compare the answers with those handed in."""

from __future__ import annotations

from pathlib import Path

from lotune.contest.answer_check import JudgedRows, judged_answers, rows_of
from lotune.contest.bundle_check import Bundle
from lotune.data.disk_list import evenly_spaced
from lotune.errors import SettingsError
from lotune.evaluate.scorecard import Check
from lotune.recipe import Recipe
from lotune.stages.model_loading import load_for_generation, with_resolved_dtype
from lotune.stages.predictions import PredictionJob, run_predictions

MAX_CHANGED_VERDICTS = 0.01
"""Largest fraction of verdicts that another machine may change by rounding, as in the merge check."""


def rerun_check(bundle: Bundle, recipe: Recipe, target: JudgedRows, rows: int, base: str | None) -> Check:
    """Return whether the chosen checkpoint answers as the bundle says, on rows at equal distances.

    The merged model answers if the bundle has it, otherwise the adapter on `base`.
    Raises: ModelError if the model cannot be loaded.
    """
    recipe, model = _model(bundle, recipe, base)
    stored = {answer.example_id: answer for answer in judged_answers(bundle, target, bundle.claims.chosen_checkpoint)}
    asked = list(evenly_spaced(rows_of(bundle, target), rows))
    recipe = with_resolved_dtype(recipe, model)
    job = PredictionJob(
        "asking again", load_for_generation(recipe, model), recipe.evaluate.max_batch_tokens,
        on_too_long=recipe.evaluate.on_too_long,
    )  # fmt: skip
    again = run_predictions(job, target.task, asked)
    texts = sum(answer.text != stored[answer.example_id].text for answer in again)
    verdicts = sum(answer.score.correct != stored[answer.example_id].score.correct for answer in again)
    name = Path(model).parent.name
    detail = f"{len(again)} rows asked again of {name}: {texts} texts and {verdicts} verdicts differ"
    return Check(name="rerun", passed=verdicts <= MAX_CHANGED_VERDICTS * len(again), detail=detail)


def check_base(bundle: Bundle, base: str | None) -> None:
    """Raise SettingsError unless a base is given exactly if the bundle lacks the chosen merged model.

    The base that a bundle names is not loaded: it may be any folder or model of the hub.
    """
    included = _is_merged(bundle)
    if included and base is not None:
        raise SettingsError("--base", "the bundle holds the merged model, which needs no base", remedy="leave it out")
    if not included and base is None:
        fault = "the bundle holds no merged model of its chosen checkpoint"
        raise SettingsError("--rerun", fault, "the base of its adapter", "--base MODEL")


def _is_merged(bundle: Bundle) -> bool:
    chosen = bundle.claims.chosen_checkpoint
    return any(one.name == chosen and one.merged == "included" for one in bundle.manifest.checkpoints)


def _model(bundle: Bundle, recipe: Recipe, base: str | None) -> tuple[Recipe, str]:
    """Return the settings and the folder of the model to ask, unpacked."""
    chosen = bundle.claims.chosen_checkpoint
    included = _is_merged(bundle)
    evaluate = recipe.evaluate.model_copy(update={"engine": "lotune"})
    recipe = recipe.model_copy(update={"device": "auto", "evaluate": evaluate})
    part = "merged" if included else "adapter"
    folder = bundle.folder / "checkpoints" / chosen / part
    if not folder.exists():
        bundle.archive.extract(f"checkpoints/{chosen}/{part}/", bundle.folder)
    if not included:
        named = recipe.base.model_copy(update={"model": base})
        return recipe.model_copy(update={"base": named}), str(folder)
    # Without `model` among the fields that are set, which would name the base of an adapter.
    settings = type(recipe.base).model_validate(recipe.base.model_dump(exclude={"model"}))
    return recipe.model_copy(update={"base": settings}), str(folder)
