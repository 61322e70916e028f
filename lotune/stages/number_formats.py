"""The number formats that "auto" stands for in a run: decided when a training begins, and kept in the run's folder.

A training goes on in the format that it was begun in, and base and tuned model answer in one, on whatever machine the
run is gone on with; the formats are inputs of the stages in the place of "auto". They are decided again where something
else that the training depends on has changed, as everything is then made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.files import read_json, write_json
from lotune.fingerprints import inputs_fingerprint
from lotune.recipe import Recipe
from lotune.runs import Run

FILE = "number-formats.json"
"""File of a run with the formats, what decided them, and the fingerprint of what else the training depends on."""
SETTINGS = {"tuning": "base.dtype", "answers": "evaluate.dtype", "pre-training": "pretrain.autocast_dtype"}
"""The settings that the formats stand for."""

Record = dict[str, Any]


def with_kept(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with the formats that a run's folder keeps in the place of "auto"."""
    return with_formats(recipe, _read(folder))


def with_formats(recipe: Recipe, record: Record) -> Recipe:
    """Return the recipe with the formats of a record in the place of "auto"."""
    kept = {name: record.get(name, {}).get("dtype", "auto") for name in SETTINGS}
    formats = {name: named if (named := _setting(recipe, name)) != "auto" else kept[name] for name in SETTINGS}
    for name, key in SETTINGS.items():
        part, _, field = key.partition(".")
        if (settings := getattr(recipe, part)) is not None:
            recipe = recipe.model_copy(update={part: settings.model_copy(update={field: formats[name]})})
    return recipe


def formats_of_tuning(recipe: Recipe) -> dict[str, Callable[[], Record]]:
    """Return what decides the formats of tuning and of answers, where the settings leave them open."""
    return {"tuning": partial(_tuning_format, recipe), "answers": partial(_answers_format, recipe)}


def _tuning_format(recipe: Recipe) -> Record:
    """The format that this machine tunes the base in, by the products of a step."""
    from lotune.data.token_files import TokenFile
    from lotune.model.dtype_benchmark import products_of, training_format
    from lotune.model.loading import meta_model, resolve_device

    rows, settings = TokenFile(recipe.folder / "data" / "train"), recipe.tune
    tokens = min(settings.max_batch_tokens, int(rows.lengths().mean() * min(settings.micro_batch_rows, len(rows))))
    found = training_format(resolve_device(recipe.device), products_of(meta_model(recipe.base), tokens))
    return found._asdict()


def _answers_format(recipe: Recipe) -> Record:
    from lotune.stages.model_loading import answering_with, too_large

    found = answering_with(recipe, recipe.base)
    if too_large(found):
        print_status(f"models answer in {found.dtype}: {found.why}")
    return found._asdict()


def settle(
    run: Run, recipe: Recipe, inputs: Mapping[str, Any], decide: Mapping[str, Callable[[], Record]]
) -> tuple[Recipe, Record]:
    """Return the recipe with its formats in the place of "auto", and the record for `keep`.

    `inputs` are those of the training; what a name in `decide` stands for gives the format and what decided it, and is
    called where the settings name none and the run keeps none.
    """
    mark = inputs_fingerprint({key: value for key, value in inputs.items() if key not in SETTINGS.values()})
    kept = _read(run.folder)
    record = {"inputs": mark, **(kept if kept.get("inputs") == mark else {})}
    for name, found in decide.items():
        named = _setting(recipe, name)
        if named != "auto":
            record[name] = {"dtype": named, "why": f"{SETTINGS[name]}={named}"}
        elif name not in record:
            record[name] = found()
    return with_formats(recipe, record), record


def keep(run: Run, record: Record) -> None:
    """Write the formats into the run, once the stage that they are decided for begins."""
    write_json(run.folder / FILE, record)


def explain(run: Run, recipe: Recipe, record: Record, name: str) -> None:
    """Say in one line which format a training computes in and why, unless the settings name it."""
    if _setting(recipe, name) == "auto":
        begun = ", in which this run began" if _read(run.folder).get(name) == record[name] else ""
        print_status(f"{name} computes in {record[name]['dtype']}{begun}: {record[name]['why']}")


def _setting(recipe: Recipe, name: str) -> str:
    """The format that the settings name, or "auto"; base.dtype names that of the answers too."""
    part, _, field = SETTINGS[name].partition(".")
    found = getattr(getattr(recipe, part), field, "auto")
    return str(recipe.base.dtype if name == "answers" and found == "auto" else found)


def _read(folder: Path) -> Record:
    found = read_json(folder / FILE) if (folder / FILE).exists() else {}
    return found if isinstance(found, dict) else {}
