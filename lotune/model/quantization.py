"""A base whose frozen weights are held in 8 or 4 bits while an adapter is trained on it.

8 bits: torchao's int8 weights with one scale per row. 4 bits: bitsandbytes' NF4, after "QLoRA: Efficient Finetuning of
Quantized LLMs" (Dettmers et al., 2023). Only weights are rounded, so a plain model with the rounded weights
(`load_dequantized`) computes the same. An adapter is merged into that model, so the measured model is the shipped one.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from lotune.errors import SettingsError, install_extra
from lotune.model.loading import LoadedModel, load_model, resolve_device, resolve_dtype
from lotune.model.optional_libraries import unhide_optional_libraries
from lotune.model.settings import BaseSettings

if TYPE_CHECKING:
    import torch

Quantization = Literal["none", "8bit", "4bit"]
QUANTIZATION_LIBRARIES = {"8bit": "torchao", "4bit": "bitsandbytes"}


def check_quantization(kind: Quantization, device: str) -> None:
    """Raise SettingsError if the library is missing or does not support the device."""
    if kind == "none":
        return
    unhide_optional_libraries()
    library = QUANTIZATION_LIBRARIES[kind]
    if find_spec(library) is None:
        found = f"{kind} weights need {library}, which is not installed"
        raise SettingsError("tune.quantization", found, remedy=install_extra("quantize"))
    if resolve_device(device).startswith("mps"):
        raise SettingsError(
            "tune.quantization", f"{library} does not compute on mps", "cuda or cpu", "tune.quantization=none"
        )


def load_quantized(settings: BaseSettings, device: str, kind: Quantization) -> LoadedModel:
    """Return the base as `load_model` does, with its linear layers (not the output head) in 8 or 4 bits.

    Raises: SettingsError as `check_quantization` does; ModelError as `load_model` does.
    """
    check_quantization(kind, device)
    dtype = resolve_dtype(settings.dtype, resolve_device(device))
    base = load_model(settings, device, None if kind == "none" else _config(kind, dtype))
    for module in base.model.modules():
        # On some CPUs, bitsandbytes would rearrange the weights for inference, after which no gradient passes them.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  # no attribute of nn.Module's type
    return base


def load_dequantized(settings: BaseSettings, device: str, kind: Quantization) -> LoadedModel:
    """Return a plain base with the weights that `load_quantized` computes with, rounded to its own dtype."""
    plain = load_model(settings, device)
    if kind == "none":
        return plain
    from torch import nn

    quantized = dict(load_quantized(settings, device, kind).model.named_modules())
    for name, module in plain.model.named_modules():
        if isinstance(module, nn.Linear) and is_quantized(quantized[name].weight):
            module.weight.data.copy_(_plain_weight(quantized[name].weight))
    return plain


def is_quantized(weight: Any) -> bool:
    """Return whether a weight is held in 8 or 4 bits."""
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
