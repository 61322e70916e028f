"""Adapters: the few parameters that are trained, added to a frozen base through PEFT."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lotune.errors import ModelError
from lotune.model.settings import AdapterSettings

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

MINDFORMERS_NAMES: Mapping[str, str] = {
    "q_proj": "wq",
    "k_proj": "wk",
    "v_proj": "wv",
    "o_proj": "wo",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
    "self_attn": "attention",
    "mlp": "feed_forward",
}
"""Hugging Face's name of a part of a Llama-like model -> MindFormers' name of it."""

ALL_LINEAR = "all-linear"

_STATE_SPACE = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
"""Types of model (`model_type` in config.json) with Mamba layers."""
_READ = ("out_proj", "dt_proj")
"""Linear modules whose weights a Mamba layer's kernels read: they are not called, so an adapter has no effect."""


@dataclass(frozen=True)
class Method:
    """One way to add parameters: a row in METHODS.

    `configure` makes PEFT's configuration from the settings and the targeted modules by full name.
    `mergeable`: the adapter can be added into the base's weights.
    `identity_at_init`: a fresh adapter changes nothing.
    """

    name: str
    configure: Callable[[AdapterSettings, Mapping[str, nn.Module], list[str]], PeftConfig]
    mergeable: bool
    identity_at_init: bool


def _lora(settings: AdapterSettings, modules: Mapping[str, nn.Module], names: list[str]) -> PeftConfig:
    """LoRA: W + (alpha / rank)·B·A with B zero at the start (Hu et al. 2021, arXiv 2106.09685)."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=int(settings.alpha) if settings.alpha.is_integer() else settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=names,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in modules.values()),
        task_type="CAUSAL_LM",
    )


METHODS: Mapping[str, Method] = {"lora": Method("lora", _lora, mergeable=True, identity_at_init=True)}


def add_adapter(base_model: PreTrainedModel, settings: AdapterSettings, seed: int) -> PeftModel:
    """The model with a fresh float32 adapter: only its parameters train; the same weights for the same seed.

    The adapter is put into `base_model` itself, which is frozen (`PeftModel.disable_adapter` gives the base back).
    Raises: ModelError where the targets match nothing or PEFT refuses them, or the model already has an adapter.
    """
    from peft import get_peft_model

    if has_adapter(base_model):
        raise ModelError("model", "already has an adapter", "a base model", "load the base again")
    modules = find_targets(base_model, settings.target_modules)
    config = METHODS[settings.method].configure(settings, modules, _short_names(base_model, modules))
    base_model.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = get_peft_model(base_model, config)
        except ValueError as error:
            found = f"PEFT refuses {settings.target_modules!r}: {' '.join(str(error).split())[:240]}"
            raise ModelError("adapter.target_modules", found, remedy=f"other modules, or {ALL_LINEAR}") from None
    return model.eval()


def has_adapter(model: nn.Module) -> bool:
    """Whether a model carries an adapter beside its weights.

    >>> has_adapter(nn.Linear(3, 2))
    False
    """
    if "peft" not in sys.modules:  # nobody can have put one there
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


def find_targets(model: nn.Module, target_modules: str | Sequence[str]) -> dict[str, nn.Module]:
    """The linear modules that `target_modules` means, by full name, in the model's order.

    A list holds module names (q_proj) or ends of them (self_attn.q_proj); a text is one pattern for the whole name, or
    "all-linear" for every linear module but the output head and those whose weights a Mamba layer reads without a call.
    MindFormers' names (wq, attention.wo) stand for Hugging Face's wherever the model does not use them itself.
    Raises: ModelError for a name or pattern that matches nothing, with what there is, or that an adapter cannot change.
    """
    linear = _linear_modules(model)
    if target_modules == ALL_LINEAR:
        head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
        return {name: module for name, module in linear.items() if module is not head and not _is_read(model, name)}
    wanted = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    match = _matches_pattern if isinstance(target_modules, str) else _matches_name
    hits = {target: [name for name in linear if match(target, name)] for target in wanted}
    nothing = [target for target, names in hits.items() if not names]
    if nothing or not wanted:
        suffixes = dict.fromkeys(name.rpartition(".")[2] for name in linear)
        found = f"{', '.join(map(repr, nothing)) or 'an empty list'} matches no linear module"
        raise ModelError("adapter.target_modules", found, f"of {', '.join(suffixes)}", f"or {ALL_LINEAR}")
    chosen = {name for names in hits.values() for name in names}
    _refuse_tied(model, linear, chosen)
    _refuse_read(model, chosen)
    return {name: module for name, module in linear.items() if name in chosen}


def target_shapes(model: nn.Module, target_modules: str | Sequence[str]) -> list[tuple[int, int]]:
    """(inputs, outputs) of every targeted module; enough for `lora_count`, and works on the meta device."""
    return [_shape(module) for module in find_targets(model, target_modules).values()]


def lora_count(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """The closed formula of LoRA's parameters: rank·(inputs + outputs) for every targeted module.

    >>> lora_count([(4096, 4096), (4096, 1024)] * 32, rank=8)  # Llama-3-8B, queries and values
    3407872
    """
    return sum(rank * (inputs + outputs) for inputs, outputs in shapes)


def trainable_count(model: nn.Module) -> int:
    """The number of parameters that train.

    >>> trainable_count(nn.Linear(3, 2).requires_grad_(False))
    0
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def mindformers_name(name: str) -> str:
    """A module's full name with MindFormers' names of its parts.

    >>> mindformers_name("model.layers.0.self_attn.q_proj")
    'model.layers.0.attention.wq'
    """
    return ".".join(MINDFORMERS_NAMES.get(part, part) for part in name.split("."))


def _linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def _is_read(model: nn.Module, name: str) -> bool:
    """Whether a model reads the weights of a linear module and does not call it."""
    return getattr(getattr(model, "config", None), "model_type", "") in _STATE_SPACE and name.endswith(_READ)


def _refuse_read(model: nn.Module, chosen: set[str]) -> None:
    """Refuse modules whose weights are read by a kernel, where an adapter beside them would have no effect."""
    read = sorted(name for name in chosen if _is_read(model, name))
    if read:
        found = f"the kernels of a Mamba layer read the weights of {read[0]}, so an adapter would have no effect"
        raise ModelError("adapter.target_modules", found, "modules that are called, such as in_proj", ALL_LINEAR)


def _matches_pattern(pattern: str, name: str) -> bool:
    try:
        return any(re.fullmatch(pattern, known) for known in (name, mindformers_name(name)))
    except re.error as error:
        found = f"{pattern!r} is no pattern: {error}"
        raise ModelError("adapter.target_modules", found, "a regular expression, as in .*q_proj|.*v_proj") from None


def _matches_name(target: str, name: str) -> bool:
    return any(known == target or known.endswith(f".{target}") for known in (name, mindformers_name(name)))


def _short_names(model: nn.Module, modules: Mapping[str, nn.Module]) -> list[str]:
    """The last parts of the names where these mean exactly the same modules, else the full names."""
    last = {name.rpartition(".")[2] for name in modules}
    meant = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in last}
    return sorted(last) if meant == set(modules) else list(modules)


def _refuse_tied(model: nn.Module, linear: Mapping[str, nn.Module], chosen: set[str]) -> None:
    """Refuse the output head of a model that ties it to its embedding: merged, it would change the embedding too."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tied = [name for name in linear if name in chosen and id(_weight(linear[name])) in embeddings]
    if tied:
        raise ModelError(
            "adapter.target_modules", f"{tied[0]} shares its weights with the embedding", remedy=ALL_LINEAR
        )


def _shape(module: nn.Module) -> tuple[int, int]:
    outputs, inputs = _weight(module).shape
    return (outputs, inputs) if isinstance(module, Conv1D) else (inputs, outputs)


def _weight(module: nn.Module) -> Any:
    return module.weight
