"""A base whose frozen weights are held in 8 or 4 bit while an adapter is trained on it.

8 bit: torchao's weights in int8, one scale a row; 4 bit: bitsandbytes' NF4, after "QLoRA: Efficient Finetuning of
Quantized LLMs" (Dettmers et al., 2023). Only weights are rounded, so that a plain model with the rounded weights
(`load_dequantized`) computes the same: that is what an adapter is merged into, and what was measured is what is
shipped.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from lotune.errors import SettingsError, install_extra
from lotune.model.loading import LoadedModel, load_model, resolve_device, resolve_dtype
from lotune.model.probed import let_in
from lotune.model.settings import BaseSettings

if TYPE_CHECKING:
    import torch

Quantization = Literal["none", "8bit", "4bit"]
QUANTIZATION_LIBRARIES = {"8bit": "torchao", "4bit": "bitsandbytes"}


def check_quantize(kind: Quantization, device: str) -> None:
    """Raise SettingsError if library or device cannot hold weights in this way."""
    if kind == "none":
        return
    let_in()
    library = QUANTIZATION_LIBRARIES[kind]
    if find_spec(library) is None:
        found, remedy = (
            f"{kind} weights need {library}, which is not installed",
            install_extra("quantize"),
        )
        raise SettingsError("tune.quantization", found, remedy=remedy)
    if resolve_device(device).startswith("mps"):
        raise SettingsError(
            "tune.quantization", f"{library} does not compute on mps", "cuda or cpu", "tune.quantization=none"
        )


def load_quantized(settings: BaseSettings, device: str, kind: Quantization) -> LoadedModel:
    """Return the base as `load_model` does, its linear layers (not the output head) in 8 or 4 bit.

    Raises: as `load_model` and `check_quantize`.
    """
    check_quantize(kind, device)
    dtype = resolve_dtype(settings.dtype, resolve_device(device))
    base = load_model(settings, device, None if kind == "none" else _config(kind, dtype))
    for module in base.model.modules():
        # bitsandbytes would lay weights out anew for inference in bfloat16, and they could not be trained further
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  # for the type, it is a module's
    return base


def load_dequantized(settings: BaseSettings, device: str, kind: Quantization) -> LoadedModel:
    """Return a plain base with the weights that `load_quantized` computes with, rounded to its own dtype."""
    plain = load_model(settings, device)
    if kind == "none":
        return plain
    from torch import nn

    held = dict(load_quantized(settings, device, kind).model.named_modules())
    for name, module in plain.model.named_modules():
        if isinstance(module, nn.Linear) and is_quantized(held[name].weight):
            module.weight.data.copy_(_plain_weight(held[name].weight))
    return plain


def is_quantized(weight: Any) -> bool:
    """Return whether a weight is held in 8 or 4 bit."""
    return hasattr(weight, "quant_state") or _is_torchao(weight)


def _is_torchao(weight: Any) -> bool:
    return type(weight).__module__.startswith("torchao.")


def _plain_weight(weight: Any) -> torch.Tensor:
    if _is_torchao(weight):
        plain: torch.Tensor = weight.dequantize()
        return plain
    from bitsandbytes.functional import dequantize_4bit  # type: ignore[import-untyped,unused-ignore]

    dequantized: torch.Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return dequantized


def _config(kind: Quantization, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind == "8bit":
        from torchao.quantization import Int8WeightOnlyConfig  # type: ignore[import-untyped,unused-ignore]

        return TorchAoConfig(Int8WeightOnlyConfig())
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
