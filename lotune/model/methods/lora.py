"""LoRA: W + (alpha / rank)·B·A with B zero at the start (Hu et al. 2021, arXiv 2106.09685).

PEFT adapters with rsLoRA or DoRA can be loaded, merged and trained further; fresh ones are plain LoRA.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lotune.errors import ModelError
from lotune.model.methods.method import Method, SavedAdapter
from lotune.model.settings import AdapterSettings

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn
    from transformers import PreTrainedModel


class LoraSettings(AdapterSettings):
    """Low-rank updates of linear layers."""

    method: Literal["lora"] = "lora"
    """How trainable parameters are added."""
    rank: int = Field(8, ge=1)
    """Rank of each low-rank update."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the update: it is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Fraction of the update's inputs to drop during training."""
    target_modules: str | list[str] = ["q_proj", "v_proj"]
    """Linear layers to tune: names, or one regular expression; MindFormers' names (.*wq|.*wv) are translated."""


def lora_count(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Return the number of LoRA's parameters by the closed formula: rank·(inputs + outputs) for every targeted module.

    >>> lora_count([(4096, 4096), (4096, 1024)] * 32, rank=8)  # Llama-3-8B, queries and values
    3407872
    """
    return sum(rank * (inputs + outputs) for inputs, outputs in shapes)


def _configure(settings: LoraSettings, base: PreTrainedModel) -> PeftConfig:
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    from lotune.model.methods.targets import find_targets, short_names

    modules = find_targets(base, settings.target_modules)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=int(settings.alpha) if settings.alpha.is_integer() else settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=short_names(base, modules),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in modules.values()),
        task_type="CAUSAL_LM",
    )


def _parameter_count(settings: LoraSettings, base: PreTrainedModel) -> int:
    from lotune.model.methods.targets import target_shapes

    return lora_count(target_shapes(base, settings.target_modules), settings.rank)


def _saved_values(config: Any) -> Mapping[str, float]:
    return {"rank": config.r, "alpha": config.lora_alpha}


def _check_saved(saved: SavedAdapter) -> None:
    bias = getattr(saved.config, "bias", "none")
    if bias != "none":
        raise ModelError(str(saved.folder), f"trains biases of the base, too (bias: {bias})", "bias: none")


def _continue_saved(saved: SavedAdapter, settings: LoraSettings, base: PreTrainedModel) -> None:
    """Set the dropout of the settings. Raises: ModelError if the settings target other modules."""
    from lotune.model.methods.targets import find_targets

    if "target_modules" in settings.model_fields_set:
        requested, saved_modules = set(find_targets(base, settings.target_modules)), _adapted_modules(saved)
        if requested != saved_modules:
            found = f"adapts {_summarise_modules(saved_modules)}, the recipe {_summarise_modules(requested)}"
            raise ModelError(str(saved.folder), found, "the same modules", "leave adapter.target_modules out")
    saved.config.lora_dropout = settings.dropout


def _adapted_modules(saved: SavedAdapter) -> set[str]:
    """Return the full names of the modules that a saved adapter changes."""
    names = (name.removeprefix("base_model.model.") for name in saved.tensor_names)
    return {name.rpartition(".lora_A.")[0] for name in names if ".lora_A." in name}


def _summarise_modules(modules: set[str]) -> str:
    """Return the number of modules and the last parts of their names, for a message."""
    return f"{len(modules)} modules ({', '.join(sorted({name.rpartition('.')[2] for name in modules}))})"


def _dropout_layers(model: nn.Module) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if name.endswith("lora_dropout")]


LORA = Method(
    LoraSettings,
    _configure,
    _parameter_count,
    mergeable=True,
    identity_at_init=True,
    saved_values=_saved_values,
    check_saved=_check_saved,
    continue_saved=_continue_saved,
    selectable=lambda config: not config.use_dora,
    needs_wrapper=lambda config: bool(getattr(config, "alora_invocation_tokens", None)),
    dropout_layers=_dropout_layers,
)
