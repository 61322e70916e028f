"""Load the model to evaluate: a complete model, or an adapter with its base, in the dtype of the answers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.distributed import world_size
from lotune.errors import ModelError, SettingsError
from lotune.files import read_json
from lotune.memory import free_memory_bytes
from lotune.model.answering import TOO_LARGE, AnswerDtype, choose_answer_dtype
from lotune.model.loading import (
    LoadedModel,
    base_folder,
    load_model,
    load_tokenizer,
    resolve_device,
)
from lotune.model.settings import ADAPTER_CONFIG, BaseSettings
from lotune.recipe import Recipe
from lotune.tasks.task import Task

if TYPE_CHECKING:
    from lotune.generate.answering_model import AnsweringModel
    from lotune.model.int8 import Int8Report


def check_engine(recipe: Recipe, task: Task) -> None:
    """Raise SettingsError if the engine of the settings is vLLM and cannot answer a task."""
    if recipe.evaluate.engine == "lotune":
        return
    unsupported = "several processes under torchrun" if world_size() > 1 else ""
    if task.chooses_by_likelihood:
        unsupported = "choice by likelihood"
    if task.scores_references:
        unsupported = "the likelihood of references"
    if unsupported:
        raise _not_with_vllm(unsupported)


def _not_with_vllm(feature: str) -> SettingsError:
    return SettingsError("evaluate.engine", f"vllm does not support this: {feature}", remedy="evaluate.engine=lotune")


def resolve_answer_dtype(recipe: Recipe, settings: BaseSettings) -> AnswerDtype:
    """Return the dtype that the settings give a model's answers, and the reason."""
    if recipe.evaluate.quantize != "none":
        return AnswerDtype("float32", "the weights that become int8")
    dtype = recipe.base.dtype if recipe.evaluate.dtype == "auto" else recipe.evaluate.dtype
    return choose_answer_dtype(dtype, settings, resolve_device(recipe.device))


def is_memory_decision(decision: AnswerDtype) -> bool:
    """Return whether a dtype was chosen because the weights are too large for the free memory."""
    return decision.why.startswith(TOO_LARGE)


def with_resolved_dtype(recipe: Recipe, model: str) -> Recipe:
    """Return the recipe with the dtype that `model` answers in as `evaluate.dtype`; log it if memory decides."""
    # The free memory changes while a command runs: measured once, it cannot give the report another dtype.
    decision = resolve_answer_dtype(recipe, resolve_weights(recipe, model)[0])
    if is_memory_decision(decision):
        print_status(f"{model} answers in {decision.dtype}: {decision.why}")
    return with_evaluate_dtype(recipe, decision.dtype)


def with_evaluate_dtype(recipe: Recipe, dtype: str) -> Recipe:
    """Return the recipe with another `evaluate.dtype`."""
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"dtype": dtype})})


def check_quantize(recipe: Recipe) -> None:
    """Raise SettingsError if the settings ask for int8 together with what it does not go with."""
    if recipe.evaluate.quantize == "none":
        return
    if not resolve_device(recipe.device).startswith("cpu"):
        raise SettingsError("evaluate.quantize", "int8 is for a CPU", "device=cpu, or none")
    if recipe.evaluate.dtype not in ("auto", "float32"):
        raise SettingsError("evaluate.quantize", f"int8 beside evaluate.dtype={recipe.evaluate.dtype}", "float32")
    if recipe.evaluate.engine != "lotune":
        raise _not_with_vllm("evaluate.quantize")


def with_answer_dtype(recipe: Recipe, settings: BaseSettings) -> BaseSettings:
    """Return a model's settings with the dtype that it answers in."""
    return settings.model_copy(update={"dtype": resolve_answer_dtype(recipe, settings).dtype})


def resolve_weights(recipe: Recipe, model: str) -> tuple[BaseSettings, Path | None]:
    """Return the settings of a complete model and None, or those of an adapter's base and the adapter's folder.

    The base is the model that the settings name (--base), else the model that the adapter was trained on.

    Raises: ModelError for a folder that is missing, or an adapter that names no base; SettingsError for a base beside a
    complete model.
    """
    settings = recipe.base.model_copy(update={"model": model})
    folder, named = base_folder(settings), "model" in recipe.base.model_fields_set
    if folder is None or not (folder / ADAPTER_CONFIG).is_file():
        if named:
            raise SettingsError("--base", f"{model} is a complete model, not an adapter", remedy="remove it")
        return settings, None
    config = read_json(folder / ADAPTER_CONFIG)
    base = recipe.base.model if named else config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or not base:
        raise ModelError(model, "is an adapter that names no base", remedy="name it with --base")
    return settings.model_copy(update={"model": base}), folder


def folders_of(recipe: Recipe, model: str) -> tuple[Path | None, ...]:
    """Return the folders that a model is read from: that of a complete model, and that of an adapter."""
    settings, adapter = resolve_weights(recipe, model)
    return base_folder(settings) if adapter is None else None, adapter


def load_model_or_adapter(recipe: Recipe, model: str) -> LoadedModel:
    """Load the model that `model` names; an adapter stays unmerged beside the weights of its base.

    Raises: ModelError as `resolve_weights`, `load_model` and `load_adapter`; SettingsError as `check_quantize`.
    """
    check_quantize(recipe)
    loaded = load_unquantized(recipe, model)
    if recipe.evaluate.quantize == "int8":
        quantize_and_tell(loaded.model, model)
    return loaded


def quantize_and_tell(model: Any, name: str) -> Int8Report:
    """Replace a model's linear layers by int8 ones where that is faster, say what was done, and return it."""
    from lotune.model.int8 import quantize_int8

    report = quantize_int8(model)
    if report.layers:
        faster = f"their products are {report.speedup:.1f} times as fast as in float32 here"
        print_status(f"{name}: {report.layers} linear layers in int8; {faster}")
    else:
        print_status(f"{name} stays in float32: {report.why}")
    return report


def load_unquantized(recipe: Recipe, model: str) -> LoadedModel:
    """Load a model as `load_model_or_adapter` does, without `evaluate.quantize`."""
    from lotune.model.checkpoints import base_digest, load_adapter

    settings, adapter = resolve_weights(recipe, model)
    try:
        base = load_model(with_answer_dtype(recipe, settings), recipe.device)
    except ModelError as error:
        if adapter is None or "model" in recipe.base.model_fields_set:
            raise
        found = f"its base cannot be loaded: {error.where}: {error.found}"
        raise ModelError(model, found, "the model that it was trained on", "name it with --base") from error
    if adapter is None:
        return base
    if base_digest(adapter) is None:  # PEFT itself records no digest
        print_status(f"{model} does not record which weights it was trained on; those of {base.name} may differ")
    adapted: Any = load_adapter(base, adapter, force_base=recipe.adapter.force_base)
    adapted.name_or_path = model
    return replace(base, name=model, model=adapted)


def answer_dtype_context(recipe: Recipe, model: Any, in_shards: bool) -> AbstractContextManager[None]:
    """Return a context in which a model answers in float32, if the evaluation does and its whole weights fit."""
    from lotune.model.eval_mode import REDUCED_DTYPES, in_float32_for_now

    weights = [weight for weight in model.parameters() if weight.dtype in REDUCED_DTYPES]
    free, needed = (
        free_memory_bytes(weights[0].device) if weights else None,
        sum(4 * weight.numel() for weight in weights),
    )
    # The float32 copy exists beside the reduced weights, so it needs free memory of its own.
    is_float32 = resolve_answer_dtype(recipe, recipe.base).dtype == "float32" and not in_shards
    return in_float32_for_now(model) if is_float32 and needed < (free or 0) else nullcontext()


def load_for_generation(recipe: Recipe, model: str) -> AnsweringModel:
    """Load the model that `model` names into the engine of the settings.

    Raises: ModelError as `load_model_or_adapter` and VllmModel do; SettingsError for an adapter with vLLM.
    """
    from lotune.generate.answering_model import AnsweringModel

    if recipe.evaluate.engine == "vllm":
        settings, adapter = resolve_weights(recipe, model)
        if adapter is not None:
            raise _not_with_vllm("an unmerged adapter")
        from lotune.generate.vllm import VllmModel

        tokenizer, _ = load_tokenizer(settings)
        return AnsweringModel(VllmModel(with_answer_dtype(recipe, settings), tokenizer), tokenizer)
    base = load_model_or_adapter(recipe, model)
    return AnsweringModel(base.model, base.tokenizer)


def device_and_dtype(recipe: Recipe, model: Any = None) -> dict[str, str]:
    """Return the device and the dtype that a model answers in: by the settings, and int8 if the model's layers are."""
    from lotune.model.int8 import is_int8

    dtype = "int8" if model is not None and is_int8(model) else resolve_answer_dtype(recipe, recipe.base).dtype
    return {"device": resolve_device(recipe.device), "dtype": dtype}
