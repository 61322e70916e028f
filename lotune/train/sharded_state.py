"""Tensors in shards on disk: each process writes and reads its own part, and none holds the whole.

The files are those of torch.distributed.checkpoint with safetensors as its storage: one a process, whose header says
where in each tensor its part begins, so any number of processes reads them. Planner and storage are called here one
after the other, as its own `save` and `load` send plans among the processes as pickles; there is nothing to agree on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lotune.distributed import ProcessGroup, is_sharded
from lotune.errors import RunError


def supports_sharded_safetensors() -> bool:
    """Whether the installed PyTorch keeps shards in safetensors: 2.9 and later do."""
    try:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    except ImportError:
        return False
    return "save_distributed" in inspect.signature(HuggingFaceStorageWriter).parameters


def write_shard(folder: Path, tensors: Mapping[str, Any], world: ProcessGroup) -> Path:
    """Write this process's part of all tensors, and the leader those that are whole; the result is the file."""
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    own = {name: tensor.detach() for name, tensor in tensors.items() if world.is_main_process or is_sharded(tensor)}
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    planner.set_up_planner(own)
    writer.set_up_storage_writer(is_coordinator=world.is_main_process)
    local = writer.prepare_local_plan(planner.create_local_plan())
    plan = writer.prepare_global_plan([local] * world.size)[world.rank]  # which gives each its file
    written = writer.write_data(planner.finish_plan(plan), planner).wait()
    return folder / str(written[0].storage_data.relative_path)


def read_shards(folder: Path, owner: Callable[[str], Any]) -> dict[str, torch.Tensor]:
    """The tensors in a folder by name, whole, or as this process's shards where the `owner` of the name is in shards.

    Raises: RunError where the installed PyTorch cannot read them.
    """
    if not supports_sharded_safetensors():
        found, remedy = f"is in shards, which PyTorch {torch.__version__} cannot read", "update torch"
        raise RunError(str(folder), found, "PyTorch 2.9 or later", remedy)
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    reader = HuggingFaceStorageReader(str(folder))
    metadata = reader.read_metadata()
    tensors = {name: _empty_like(stored, owner(name)) for name, stored in metadata.state_dict_metadata.items()}
    planner.set_up_planner(tensors, metadata)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    reader.read_data(planner.finish_plan(plan), planner).wait()
    return tensors


def _empty_like(stored: Any, owner: Any) -> torch.Tensor:
    """An empty tensor for a stored one, in shards where its owner is and has its shape."""
    dtype = stored.properties.dtype
    if is_sharded(owner) and owner.shape == stored.size:
        return torch.empty_like(owner.detach(), dtype=dtype)
    return torch.empty(stored.size, dtype=dtype)
