"""The dtypes that "auto" stands for in a run: decided when a training starts, and stored in the run's folder.

A training resumes in the dtype that it started in, and base and tuned model answer in one dtype, on any machine. The
dtypes replace "auto" in the inputs of the stages. They are decided again if another input of the training has changed,
as everything is then computed again.
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

FILE = "dtypes.json"
"""File of a run with the dtypes, what decided them, and the fingerprint of what else the training depends on."""
SETTINGS = {"tuning": "base.dtype", "answers": "evaluate.dtype", "pre-training": "pretrain.autocast_dtype"}
"""The settings that the dtypes stand for."""

Record = dict[str, Any]


def with_stored_dtypes(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with the stored dtypes of a run in place of "auto"."""
    return with_dtypes(recipe, _read(folder))


def with_dtypes(recipe: Recipe, record: Record) -> Recipe:
    """Return the recipe with the dtypes of a record in place of "auto"."""
    recorded = {name: record.get(name, {}).get("dtype", "auto") for name in SETTINGS}
    dtypes = {name: dtype if (dtype := _setting(recipe, name)) != "auto" else recorded[name] for name in SETTINGS}
    for name, key in SETTINGS.items():
        group, _, field = key.partition(".")
        if (settings := getattr(recipe, group)) is not None:
            recipe = recipe.model_copy(update={group: settings.model_copy(update={field: dtypes[name]})})
    return recipe


def tuning_deciders(recipe: Recipe) -> dict[str, Callable[[], Record]]:
    """Return the functions that decide the dtypes of tuning and of answers, by name."""
    return {"tuning": partial(_tuning_dtype, recipe), "answers": partial(_answers_dtype, recipe)}


def _tuning_dtype(recipe: Recipe) -> Record:
    """Return the dtype in which the matrix products of a step are faster on this machine."""
    from lotune.data.token_files import TokenFile
    from lotune.model.dtype_benchmark import choose_training_dtype, matrix_products
    from lotune.model.loading import meta_model, resolve_device

    rows, settings = TokenFile(recipe.folder / "data" / "train"), recipe.tune
    # A timing is meaningful only for the shapes of a typical micro-batch.
    tokens = min(settings.max_batch_tokens, int(rows.lengths().mean() * min(settings.micro_batch_rows, len(rows))))
    decision = choose_training_dtype(resolve_device(recipe.device), matrix_products(meta_model(recipe.base), tokens))
    return decision._asdict()


def _answers_dtype(recipe: Recipe) -> Record:
    from lotune.stages.model_loading import is_memory_decision, resolve_answer_dtype

    decision = resolve_answer_dtype(recipe, recipe.base)
    if is_memory_decision(decision):
        print_status(f"models answer in {decision.dtype}: {decision.why}")
    return decision._asdict()


def resolve_run_dtypes(
    run: Run, recipe: Recipe, inputs: Mapping[str, Any], deciders: Mapping[str, Callable[[], Record]]
) -> tuple[Recipe, Record]:
    """Return the recipe with its dtypes in place of "auto", and the record for `store_dtypes`.

    `inputs` are those of the training. A decider, by the name of what it decides, returns a dtype and its reasons; it
    is called if neither the settings nor the run have a dtype.
    """
    fingerprint = inputs_fingerprint({key: value for key, value in inputs.items() if key not in SETTINGS.values()})
    stored = _read(run.folder)
    # With other inputs everything is trained again, so the dtype of this machine is the better one.
    record = {"inputs": fingerprint, **(stored if stored.get("inputs") == fingerprint else {})}
    for name, decide in deciders.items():
        dtype = _setting(recipe, name)
        if dtype != "auto":
            record[name] = {"dtype": dtype, "why": f"{SETTINGS[name]}={dtype}"}
        elif name not in record:
            record[name] = decide()
    return with_dtypes(recipe, record), record


def store_dtypes(run: Run, record: Record) -> None:
    """Write the dtypes into the run folder; call this when their stage starts."""
    write_json(run.folder / FILE, record)


def print_dtype_reason(run: Run, recipe: Recipe, record: Record, name: str) -> None:
    """Print the dtype of a training and the reason, unless the settings name the dtype."""
    if _setting(recipe, name) == "auto":
        began = ", in which this run began" if _read(run.folder).get(name) == record[name] else ""
        print_status(f"{name} computes in {record[name]['dtype']}{began}: {record[name]['why']}")


def _setting(recipe: Recipe, name: str) -> str:
    """Return the dtype that the settings name, or "auto"; base.dtype names that of the answers too."""
    group, _, field = SETTINGS[name].partition(".")
    dtype = getattr(getattr(recipe, group), field, "auto")
    return str(recipe.base.dtype if name == "answers" and dtype == "auto" else dtype)


def _read(folder: Path) -> Record:
    record = read_json(folder / FILE) if (folder / FILE).exists() else {}
    return record if isinstance(record, dict) else {}
