"""The settings that "auto" stands for in a tuning: resolved from the prepared rows, kept in the run's folder.

They take the place of "auto" in the inputs of the stages, as the dtypes do. A tuning resumes with those that it began
with, whatever the rules of a later version are; they are resolved anew if anything else that it depends on has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.token_files import TokenFile
from lotune.evaluate.replay import replay_rows_per_epoch
from lotune.files import read_json, write_json
from lotune.fingerprints import inputs_fingerprint
from lotune.model.methods.registry import METHODS
from lotune.recipe import Recipe
from lotune.runs import Run
from lotune.settings import is_auto
from lotune.stages.budget import allowed_parameters, budget_fault
from lotune.stages.replay import divergence_of
from lotune.stages.run_dtypes import SETTINGS as DTYPE_SETTINGS
from lotune.stages.run_dtypes import with_stored_dtypes
from lotune.train.auto_settings import Choice, RowCounts, tuning_choices

FILE = "auto_settings.json"
"""File of a run with the resolved settings, each with its reason, and the fingerprint of the tuning's inputs."""
STEP_ROWS = "tune.micro_batch_rows"
"""The setting whose record has the rows of a whole step."""

Record = dict[str, Any]


def with_stored_settings(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with the settings and dtypes that a run's folder keeps in place of "auto"."""
    return with_stored_dtypes(with_settings(recipe, _read(folder)), folder)


def with_settings(recipe: Recipe, record: Record) -> Recipe:
    """Return the recipe with the settings of a record in place of "auto"."""
    for key, choice in record.get("settings", {}).items():
        if is_auto(_value(recipe, key)):
            value = choice["value"]
            if key == STEP_ROWS:  # the rows of a step decide the weights, not how it is divided
                value = max(1, value // recipe.tune.gradient_accumulation_steps)
            recipe = _replaced(recipe, key.split("."), value)
    return recipe


def _value(recipe: Recipe, key: str) -> Any:
    """Return the setting under a dotted key; None if there is none."""
    settings: Any = recipe
    for name in key.split("."):
        settings = getattr(settings, name, None)
    return settings


def _replaced(settings: Any, key: Sequence[str], value: Any) -> Any:
    """Return settings with another value under a key, given in its parts."""
    name, *inner = key
    return settings.model_copy(update={name: _replaced(getattr(settings, name), inner, value) if inner else value})


def _spacing(recipe: Recipe) -> dict[str, Choice]:
    """Return what `checkpoints.spacing=auto` stands for: who gives a length gets it."""
    if not is_auto(recipe.checkpoints.spacing):
        return {}
    if is_auto(recipe.tune.epochs) and recipe.tune.steps is None:
        return {"checkpoints.spacing": Choice("adaptive", "ends early once validation no longer rises")}
    return {"checkpoints.spacing": Choice("even", "the recipe gives the length")}


def resolve_run_settings(
    run: Run, recipe: Recipe, inputs_of: Callable[[Recipe], Mapping[str, Any]]
) -> tuple[Recipe, Record]:
    """Return the recipe with its settings in place of "auto", and the record for `store_settings`.

    `inputs_of` returns the inputs of a tuning.
    """
    record = _read(run.folder)
    # With the stored values in place, so that naming one of them changes nothing.
    # A budget that the stored size exceeds asks for another one; a larger budget leaves it as it is.
    if (
        not record
        or record.get("inputs") != _fingerprint(inputs_of(with_settings(recipe, record)))
        or budget_fault(with_settings(recipe, record)) is not None
    ):
        record = {"settings": {key: choice._asdict() for key, choice in _choices(recipe).items()}}
        record["inputs"] = _fingerprint(inputs_of(with_settings(recipe, record)))
    return with_settings(recipe, record), record


def store_settings(run: Run, record: Record) -> None:
    """Write the settings into the run, once the tuning that they are resolved for begins."""
    write_json(run.folder / FILE, record)


def print_setting_reasons(recipe: Recipe, record: Record) -> None:
    """Print the settings that the recipe leaves open, in the form of an override each, and why they are such."""
    for key, choice in record["settings"].items():
        if is_auto(_value(recipe, key)):
            print_status(f"auto: {key}={_text(choice['value'])} ({choice['why']})")


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _fingerprint(inputs: Mapping[str, Any]) -> str:
    return inputs_fingerprint({key: value for key, value in inputs.items() if key not in DTYPE_SETTINGS.values()})


def _choices(recipe: Recipe) -> dict[str, Choice]:
    """Return the settings of the tuning and the adapter that are "auto", by dotted key."""
    from lotune.model.loading import meta_model

    rows, method, adapter = TokenFile(recipe.folder / "data" / "train"), METHODS[recipe.adapter.method], recipe.adapter
    base, (counts, replay) = meta_model(recipe.base), _epoch(recipe, rows)
    sized = method.sized(adapter, base, rows.supervised(len(rows) - rows.replayed), allowed_parameters(recipe))
    if adapter.init_from is not None:
        from lotune.model.checkpoints import check_init_adapter

        adapter = check_init_adapter(adapter)
    tune = tuning_choices(recipe.tune, counts, Choice(*method.learning_rate(adapter, base)))
    return {
        **_spacing(recipe),
        **replay,
        **{f"tune.{name}": choice for name, choice in tune.items()},
        **{f"adapter.{name}": Choice(*choice) for name, choice in sized.items()},
    }


def _epoch(recipe: Recipe, rows: TokenFile) -> tuple[RowCounts, dict[str, Choice]]:
    """Return the rows of an epoch, and how many of them are replayed, if that is "auto"."""
    settings, lengths, task_rows = recipe.retention.replay, rows.lengths(), len(rows) - rows.replayed
    task, replay = int(lengths[:task_rows].sum()), int(lengths[task_rows:].sum())
    drawn = replay_rows_per_epoch(settings, rows.replayed, task, replay, divergence=divergence_of(recipe) > 0)
    tokens = task + (replay * drawn // rows.replayed if rows.replayed else 0)
    counts = RowCounts(task_rows + drawn, tokens, drawn)
    if not rows.replayed or not is_auto(settings.rows_per_epoch):
        return counts, {}
    why = f"of {rows.replayed:,}: {1 - task / tokens:.0%} of the tokens"
    return counts, {"retention.replay.rows_per_epoch": Choice(drawn, why)}


def _read(folder: Path) -> Record:
    record = read_json(folder / FILE) if (folder / FILE).exists() else {}
    return record if isinstance(record, dict) else {}
