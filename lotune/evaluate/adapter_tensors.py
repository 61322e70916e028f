"""The layout of a saved adapter, from the names and shapes of its tensors, with a check of the file and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lotune.errors import ModelError
from lotune.evaluate.adapter_layout import AdapterLayout
from lotune.evaluate.parameter_ratio import AdapterTensor, count_adapter
from lotune.model.loading import PICKLES
from lotune.model.shapes import ModelShape

WEIGHTS = "adapter_model.safetensors"
MAX_HEADER_BYTES = 10_000_000
"""Size of a safetensors header beyond which it is damaged or hostile; that of an adapter has some hundred kilobytes."""
WRAPPER = "base_model.model."
"""What PEFT puts before the name of each module of the base."""
NUMPY_DTYPES = ("F64", "F32", "F16")
"""Dtypes of safetensors that NumPy has; for any other, torch reads the tensors."""


def measure_adapter(folder: Path) -> tuple[AdapterLayout, Mapping[str, tuple[int, int]], tuple[AdapterTensor, ...]]:
    """Return the layout of a saved adapter, (inputs, outputs) of each module with LoRA, and all of its tensors.

    Raises: ModelError if the weights are pickles, missing, damaged or not finite, or if a module lacks one of its two
    matrices or has two of different ranks.
    """
    _check_file(folder)
    counted = count_adapter(folder)
    _check_numbers(folder / WEIGHTS, counted.tensors)
    ranks, shapes = _pairs(folder, counted.tensors)
    return AdapterLayout(ranks, counted.trainable), shapes, counted.tensors


def misfits(shapes: Mapping[str, tuple[int, int]], base: ModelShape) -> list[str]:
    """Return in words which modules of an adapter the base lacks, or has in another shape; the first of each kind."""
    lacking = [name for name in shapes if name not in base.linear]
    if lacking:
        return [f"the adapter changes {len(lacking)} modules that the base lacks, such as {lacking[0]}"]
    other = [name for name, shape in shapes.items() if shape != base.linear[name]]
    if not other:
        return []
    (inputs, outputs), (own_inputs, own_outputs) = shapes[other[0]], base.linear[other[0]]
    own = f"the base has one of {own_inputs} inputs and {own_outputs} outputs"
    return [f"{len(other)} modules do not fit: {other[0]} is for {inputs} inputs and {outputs} outputs, {own}"]


def _check_file(folder: Path) -> None:
    """Raise ModelError if there are no weights in safetensors, or if their header cannot be one."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        found = f"holds weights only as pickle ({', '.join(pickles[:2])}), which can run code when opened"
        raise ModelError(str(folder), found if pickles else f"holds no {WEIGHTS}", "a saved adapter in safetensors")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER_BYTES:
        found = f"its header claims to have {size:,} bytes"
        raise ModelError(str(path), found, f"at most {MAX_HEADER_BYTES:,}", "save the adapter again")


def _check_numbers(path: Path, tensors: tuple[AdapterTensor, ...]) -> None:
    """Raise ModelError if a number is not finite; one tensor is read at a time."""
    from safetensors import safe_open

    in_numpy = all(tensor.dtype in NUMPY_DTYPES for tensor in tensors)
    finite = _finite_in_numpy if in_numpy else _finite_in_torch
    with safe_open(str(path), framework="numpy" if in_numpy else "pt") as file:
        faulty = [tensor.name for tensor in tensors if not finite(file.get_tensor(tensor.name))]
    if faulty:
        found = f"{len(faulty)} of {len(tensors)} tensors hold numbers that are not finite, such as {faulty[0]}"
        raise ModelError(str(path), found, "finite numbers", "take an earlier checkpoint")


def _finite_in_numpy(tensor: Any) -> bool:
    import numpy

    return bool(numpy.isfinite(tensor).all())


def _finite_in_torch(tensor: Any) -> bool:
    import torch

    # Types of 8 bits have no test of their own.
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.float()).all())


def _pairs(folder: Path, tensors: tuple[AdapterTensor, ...]) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """Return the rank and (inputs, outputs) of each module with LoRA.

    Raises: ModelError unless each module has two matrices of one rank.
    """
    first, second = (_matrices(tensors, part) for part in (".lora_A.", ".lora_B."))
    alone = sorted(first.keys() ^ second.keys())
    if alone:
        raise ModelError(str(folder), f"{alone[0]} has only one of LoRA's two matrices", "both lora_A and lora_B")
    other = [name for name in first if first[name][0] != second[name][1]]
    if other:
        found = f"the matrices of {other[0]} have ranks {first[other[0]][0]} and {second[other[0]][1]}"
        raise ModelError(str(folder), found, "one rank", "save the adapter again")
    ranks = {name: shape[0] for name, shape in first.items()}
    return ranks, {name: (shape[1], second[name][0]) for name, shape in first.items()}


def _matrices(tensors: tuple[AdapterTensor, ...], part: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the matrices of one side by module; those of embeddings and convolutions are left out."""
    found: dict[str, tuple[int, ...]] = {}
    for tensor in tensors:
        module, separator, _ = tensor.name.removeprefix(WRAPPER).partition(part)
        if separator and len(tensor.shape) == 2:
            found[module] = tensor.shape
    return found
