"""The weights in files of PyTorch and safetensors, tensor by tensor. No pickle is executed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lotune.errors import ModelError
from lotune.model.convert.foreign import StoredTensor
from lotune.model.loading import one_line
from lotune.model.token_ids import GENERATION
from lotune.model.weight_files import INDEX, WEIGHTS, is_inside, read_object, weight_files

BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
DAMAGED = "download it again"


def tensors_in_folder(folder: Path) -> list[StoredTensor]:
    """Return the tensors of a model's folder: those of its safetensors, else those of pytorch_model*.bin.

    Raises: ModelError if a file is missing, damaged, outside the folder or holds anything but tensors.
    """
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        tensors = [tensor for file in weight_files(folder, str(folder)) for tensor in _safetensors(file)]
    else:
        tensors = [tensor for file in _bin_files(folder) for tensor in pickled_tensors(load_pickled(file), file)]
    names = [tensor.name for tensor in tensors]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ModelError(str(folder), f"holds {twice} twice", "each tensor in one file", DAMAGED)
    return tensors


def has_weights(folder: Path) -> bool:
    """Return whether a folder holds weights that `tensors_in_folder` reads."""
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX, BIN, BIN_INDEX))


def generation_config(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's generation_config.json, such as the tokens that end an answer; None without."""
    return read_object(folder / GENERATION, str(folder)) if (folder / GENERATION).is_file() else None


def load_pickled(path: Path) -> Any:
    """Return the content of a file of `torch.save`, with its tensors mapped into memory: no code of it is run.

    Raises: ModelError if it is damaged or holds more than tensors and plain values.
    """
    load = partial(torch.load, path, map_location="cpu", weights_only=True)
    try:
        try:
            return load(mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):  # files of PyTorch before 1.6
                raise
            return load()
    except pickle.UnpicklingError as error:
        found = f"is no file of weights alone, and would run code when opened: {one_line(error)[:120]}"
        raise ModelError(str(path), found, "tensors and plain values", "take a copy in safetensors") from None
    except FileNotFoundError:
        raise ModelError(str(path), "does not exist", "a file of torch.save", "check the path") from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, OSError, AttributeError) as error:
        raise ModelError(str(path), f"is damaged: {one_line(error)[:160]}", "a file of torch.save", DAMAGED) from None


def pickled_tensors(state: Any, path: Path) -> list[StoredTensor]:
    """Return the tensors of a state dictionary. Raises: ModelError if it holds anything else."""
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ModelError(str(path), "holds no state dictionary", "tensors by name", "take another copy of the model")
    for name, value in state.items():
        # A view of few bytes as many would fill the disk.
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or _is_expanded(value):
            found = f"{name} is no plain tensor"
            raise ModelError(str(path), found, "dense tensors by name", "take another copy of the model")
    return [StoredTensor(name, tuple(value.shape), value.dtype, partial(_same, value)) for name, value in state.items()]


def _is_expanded(tensor: torch.Tensor) -> bool:
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach()


def _safetensors(path: Path) -> Iterator[StoredTensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            for name in names:
                view = file.get_slice(name)
                dtype = SAFETENSORS_DTYPES.get(view.get_dtype(), torch.int8)
                yield StoredTensor(name, tuple(view.get_shape()), dtype, partial(_read_safetensors, path, name))
    except (SafetensorError, OSError) as error:
        raise ModelError(str(path), f"is damaged: {one_line(error)}", "safetensors", DAMAGED) from None


SAFETENSORS_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Floating-point dtypes of weights by their names in safetensors; every other one is refused as quantised."""


def _read_safetensors(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def _bin_files(folder: Path) -> list[Path]:
    """Return the files pytorch_model*.bin of a folder. Raises: ModelError if one is missing or outside the folder."""
    names = [BIN]
    if not (folder / BIN).is_file() and (folder / BIN_INDEX).is_file():
        weights, where = read_object(folder / BIN_INDEX, str(folder)).get("weight_map"), str(folder / BIN_INDEX)
        if not isinstance(weights, dict) or not weights or not all(isinstance(name, str) for name in weights.values()):
            raise ModelError(where, "names no files", "weight_map: the file of each weight", DAMAGED)
        names = sorted(set(weights.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".bin") or not is_inside(folder / name, folder):
            raise ModelError(str(folder / BIN_INDEX), f"names {name!r}", "*.bin in the same folder", DAMAGED)
        if not (folder / name).is_file():
            raise ModelError(str(folder), f"has no {name}", f"{WEIGHTS} or {BIN}, or their parts", DAMAGED)
    return [folder / name for name in names]
