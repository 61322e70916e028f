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
from lotune.model.shapes import ModelShape
from lotune.settings import AUTO, AutoCount, is_auto

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn
    from transformers import PreTrainedModel


class LoraSettings(AdapterSettings):
    """Low-rank updates of linear layers."""

    method: Literal["lora"] = "lora"
    """How trainable parameters are added."""
    rank: AutoCount = AUTO
    """Rank of each low-rank update; auto: 8, more if many tokens are to be learned and the base is large."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the update: it is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Fraction of the update's inputs to drop during training."""
    target_modules: str | list[str] = ["q_proj", "v_proj"]
    """Linear layers to tune: names, or one regular expression; MindFormers' names (.*wq|.*wv) are translated."""


LEAST_RANK = 8
"""Rank of an update where the settings name none and nothing is known of the rows."""
REFERENCE_ALPHA = 32
"""The alpha that the published learning rates are stated for."""
RATE_EXPONENTS = {"llama": 0.781, "qwen": 0.0775}
"""How the best rate falls with the width, by architecture; others take Qwen's, the more careful one below 2,000."""


def lora_count(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Return the number of LoRA's parameters by the closed formula: rank·(inputs + outputs) for every targeted module.

    >>> lora_count([(4096, 4096), (4096, 1024)] * 32, rank=8)  # Llama-3-8B, queries and values
    3407872
    """
    return sum(rank * (inputs + outputs) for inputs, outputs in shapes)


def lora_rate(hidden_size: int, architecture: str, alpha: float) -> float:
    """Return the peak learning rate of LoRA for a base of that width: 5e-4 · (2000 / hidden size)^p · 32 / alpha.

    It does not depend on the rank. Source: "LoRA Without Regret" (Thinking Machines Lab, 2025), fitted with Adam.

    >>> round(lora_rate(192, "llama", 16), 5), round(lora_rate(896, "qwen2", 32), 5)
    (0.00624, 0.00053)
    """
    family = next((name for name in RATE_EXPONENTS if name in architecture), "qwen")
    return float(5e-4 * (2000 / hidden_size) ** RATE_EXPONENTS[family] * REFERENCE_ALPHA / alpha)


def lora_rank(parameters_per_rank: int, supervised_tokens: int, base_parameters: int) -> int:
    """Return the rank that holds so many tokens: 8, doubled while the adapter is too small for them.

    An adapter learns about two bits a parameter and a token to learn has about one, so half as many parameters as
    tokens are enough. More than 64, or than 1 % of the base, is never taken.

    >>> lora_rank(3_072, 5_000, 2_164_416), lora_rank(425_984, 20_000_000, 8_000_000_000)
    (8, 32)
    """
    rank, most = LEAST_RANK, base_parameters // 100
    while rank < 64 and 2 * rank * parameters_per_rank < supervised_tokens and 2 * rank * parameters_per_rank <= most:
        rank *= 2
    return rank


def _rank(settings: LoraSettings) -> int:
    return LEAST_RANK if is_auto(settings.rank) else settings.rank


def _learning_rate(settings: LoraSettings, base: PreTrainedModel) -> tuple[float, str]:
    config = base.config.get_text_config()
    rate = lora_rate(config.hidden_size, config.model_type, settings.alpha)
    return rate, f"LoRA with alpha {settings.alpha:g} on {config.model_type} of width {config.hidden_size:,}"


def _sized(
    settings: LoraSettings, base: PreTrainedModel, supervised_tokens: int, at_most: int | None = None
) -> dict[str, tuple[int, str]]:
    if not is_auto(settings.rank) or settings.init_from is not None:
        return {}
    from lotune.model.loading import count_parameters
    from lotune.model.methods.targets import target_shapes

    each = lora_count(target_shapes(base, settings.target_modules), 1)
    rank = lora_rank(each, supervised_tokens, count_parameters(base))
    if at_most is not None and rank * each > at_most:
        rank = at_most // each
        return {"rank": (rank, f"{rank * each:,} parameters, as many as adapter.budget allows")}
    return {"rank": (rank, f"{rank * each:,} parameters for {supervised_tokens:,} supervised tokens")}


def _configure(settings: LoraSettings, base: PreTrainedModel) -> PeftConfig:
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    from lotune.model.methods.targets import find_targets, short_names

    modules = find_targets(base, settings.target_modules)
    return LoraConfig(
        r=_rank(settings),
        lora_alpha=int(settings.alpha) if settings.alpha.is_integer() else settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=short_names(base, modules),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in modules.values()),
        task_type="CAUSAL_LM",
    )


def _count_on_shape(settings: LoraSettings, shape: ModelShape) -> int:
    return lora_count(shape.target_shapes(settings.target_modules), _rank(settings))


def _parameter_count(settings: LoraSettings, base: PreTrainedModel) -> int:
    from lotune.model.methods.targets import shape_of_model

    return _count_on_shape(settings, shape_of_model(base))


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
    learning_rate=_learning_rate,
    # DoRA divides the sum of weight and update by its norm.
    proportional=lambda config, tensor: not config.use_dora and (".lora_B." in tensor or ".lora_embedding_B" in tensor),
    sized=_sized,
    count_on_shape=_count_on_shape,
    size_setting="rank",
)
