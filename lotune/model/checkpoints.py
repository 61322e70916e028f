"""Checkpoints on disk: adapters in PEFT's format, complete models in Hugging Face's; a folder is whole or not there."""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lotune.data.templates import FILE_NAME as TEMPLATE_FILE
from lotune.errors import ModelError
from lotune.model.adapters import METHODS
from lotune.model.base import Base, in_float32, quietly, round_weights

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def save_adapter(model: PeftModel, folder: Path, template_json: str | None = None) -> None:
    """Write the adapter alone: adapter_config.json, adapter_model.safetensors, and the prompt template where given."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = copy.deepcopy(model.peft_config["default"])
    config.inference_mode = True
    if isinstance(targets := getattr(config, "target_modules", None), set):
        config.target_modules = sorted(targets)  # type: ignore[attr-defined]  # the same file for the same adapter
    with _whole_folder(folder) as temporary:
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(kept, temporary / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(temporary))
        _write_template(temporary, template_json)


def load_adapter(base: Base, folder: Path) -> PeftModel:
    """The base with a saved adapter, in evaluation mode, nothing trainable; `base.model` itself carries it afterwards.

    Raises: ModelError where the folder holds no adapter in safetensors, one of an unknown method, or one whose
    tensors do not fit the base.
    """
    if any(isinstance(module, BaseTunerLayer) for module in base.model.modules()):
        raise ModelError(base.name, "already has an adapter", "a base model", "load the base again")
    config = _read_config(folder)
    found = _tensor_names(folder / ADAPTER_WEIGHTS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error of ours, below
            model = PeftModel.from_pretrained(base.model, str(folder), config=config, torch_device=_device(base.model))
    except (ValueError, RuntimeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [""])[-1].strip()
        raise ModelError(
            str(folder), f"does not fit {base.name}: {reason}", remedy="give the base it was made for"
        ) from error
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if found != expected:
        odd = sorted(found ^ expected)
        text = f"{len(odd)} tensors do not fit {base.name}, such as {odd[0]}"
        raise ModelError(str(folder), text, "one tensor for each adapted module", "give the base it was made for")
    return model.eval().requires_grad_(False)


def merge(base: Base, adapter_folder: Path) -> PreTrainedModel:
    """A new float32 model with the adapter added into the weights; the base is left as it is.

    The sum is computed in float32, so that saving rounds once.
    Raises: ModelError as `load_adapter`, and where the method cannot be merged or a merged weight is not finite.
    """
    method = METHODS[_method_name(_read_config(adapter_folder))]
    if not method.mergeable:
        raise ModelError(
            str(adapter_folder), f"{method.name} cannot be merged", remedy="use the adapter beside its base"
        )
    adapted: Any = load_adapter(in_float32(base), adapter_folder)
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(str(adapter_folder), str(error), "finite weights", "take an earlier checkpoint") from None
    assert isinstance(merged, PreTrainedModel)
    merged.eval().requires_grad_(False)
    return merged


def save_merged(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype,
    template_json: str | None = None,
) -> None:
    """Write a merged model as `save_full` does.

    Raises: ModelError where the adapter is still beside the weights.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ModelError(str(folder), "the model still has its adapter beside its weights", "a merged model")
    save_full(model, tokenizer, folder, dtype, template_json)


def save_full(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype,
    template_json: str | None = None,
) -> None:
    """Write a complete Hugging Face folder: configuration, weights rounded to `dtype`, tokeniser; tied weights once."""
    rounded = round_weights(model, dtype)
    if rounded.generation_config is not None:
        _mend_generation(rounded.generation_config)
    with quietly(), _whole_folder(folder) as temporary:
        rounded.save_pretrained(str(temporary))
        tokenizer.save_pretrained(str(temporary))
        _write_template(temporary, template_json)


def _mend_generation(config: Any) -> None:
    """Make a generation configuration savable: some published ones name a temperature without sampling."""
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = True


def _write_template(folder: Path, template_json: str | None) -> None:
    if template_json is not None:
        (folder / TEMPLATE_FILE).write_text(template_json, encoding="utf-8")


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends well, and is gone when it does not."""
    temporary, old = (folder.with_name(f".{folder.name}.{end}") for end in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)  # of a crash
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            _flush(path)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    """Have the file on the disk before its folder gets its name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read_config(folder: Path) -> PeftConfig:
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(str(folder), f"has no {ADAPTER_CONFIG}", "a folder in PEFT's format")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(str(folder), f"has no {ADAPTER_WEIGHTS}", "weights in safetensors; pickles are never opened")
    try:
        config: PeftConfig = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(str(folder), f"{ADAPTER_CONFIG} cannot be read: {error}") from None
    if _method_name(config) not in METHODS:
        raise ModelError(str(folder), f"is a {_method_name(config)} adapter", f"one of {', '.join(METHODS)}")
    return config


def _method_name(config: PeftConfig) -> str:
    kind = config.peft_type
    return str(getattr(kind, "value", kind)).lower()


def _tensor_names(path: Path) -> set[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(str(path), f"is damaged: {error}", "safetensors") from None


def _device(model: PreTrainedModel) -> str:
    return str(next(model.parameters()).device)
