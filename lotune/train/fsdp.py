"""Sharding of weights over processes (FSDP2), for a base that does not fit on one device.

Each process keeps a shard of every layer. A layer is gathered right before it computes, and released afterwards. An
adapter stays whole on each process, because it is small, and its gradients, states and files are then the same as those
of a single process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lotune.distributed import ProcessGroup, is_sharded
from lotune.errors import ModelError
from lotune.model.parts import decoder_of
from lotune.settings import Switch

MAX_WEIGHTS_FRACTION = 0.7
"""Fraction of a device's memory that weights may take; the rest is for activations."""


def needs_fsdp(setting: Switch, weight_bytes: int, device: str, world: ProcessGroup) -> bool:
    """Return whether to shard `weight_bytes` of weights; "auto" does if they would crowd a GPU.

    >>> needs_fsdp("on", 10, "cpu", ProcessGroup()), needs_fsdp("auto", 10, "cpu", ProcessGroup(0, 2))
    (False, False)
    """
    if world.size == 1 or setting == "off":
        return False
    if setting == "on":
        return True
    if not device.startswith("cuda"):
        return False
    return (
        weight_bytes > MAX_WEIGHTS_FRACTION * torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    )


def apply_fsdp(model: Any, world: ProcessGroup, device: str, whole: Iterable[nn.Parameter] = ()) -> None:
    """Shard a model's weights over the processes, in place, and move it to the device; weights in `whole` stay whole.

    All processes call it with the same model, which is on the CPU or the device.

    Raises: ModelError if the model has no list of layers.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder, head = decoder_of(inner), inner.get_output_embeddings()
    unsharded = set(whole) | _tied(decoder, head)
    mesh = init_device_mesh(device.partition(":")[0], (world.size,))
    options: dict[str, Any] = {"mesh": mesh, "ignored_params": unsharded, "reshard_after_forward": True}
    for layer in _layers(decoder):
        fully_shard(layer, **options)
    fully_shard(decoder, **options)
    if not unsharded & set(head.parameters()):
        fully_shard(head, **options)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the loss is a sum over all processes, not a mean
            module.set_force_sum_reduction_for_comms(True)  # gloo supports no other reduction
    for parameter in unsharded:
        parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def gather_full_model(model: nn.Module, fresh: nn.Module) -> nn.Module:
    """Copy the weights of a sharded model into `fresh`, an unsharded model of the same shape; all processes call it."""
    names = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            shard: Any = weight
            names[name].copy_(shard.full_tensor() if is_sharded(shard) else shard)
    return fresh


def local_bytes(parameters: Iterable[Any]) -> int:
    """Return the bytes of weights that this process holds; of a sharded weight, those of its shard."""
    tensors = (p.to_local() if is_sharded(p) else p for p in parameters)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _layers(decoder: nn.Module) -> nn.ModuleList:
    """Return the longest list of modules in a decoder. Raises: ModelError if there is none."""
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ModelError("fsdp", f"{type(decoder).__name__} has no list of layers to divide", remedy="fsdp=off")
    return max(lists, key=len)


def _tied(decoder: nn.Module, head: nn.Module) -> set[nn.Parameter]:
    """Return the weights that decoder and head share, which stay whole, as FSDP cannot shard them in both."""
    return set(decoder.parameters()) & set(head.parameters())
