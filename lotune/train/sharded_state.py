"""Sharded tensors on disk: each process writes and reads its own shards, and none holds whole tensors.

The files are those of torch.distributed.checkpoint with safetensors as storage: one per process, whose header has the
offset of each shard in its tensor, so any number of processes can read them. Planner and storage are called directly,
because torch's own `save` and `load` send plans between processes as pickles; here no process needs another's plan.
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
    """Return whether the installed PyTorch can store shards in safetensors, as 2.9 and later can."""
    try:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    except ImportError:
        return False
    return "save_distributed" in inspect.signature(HuggingFaceStorageWriter).parameters


def write_shard(folder: Path, tensors: Mapping[str, Any], world: ProcessGroup) -> Path:
    """Write this process's shards, and in the leader also the unsharded tensors; return the file."""
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    own = {name: tensor.detach() for name, tensor in tensors.items() if world.is_main_process or is_sharded(tensor)}
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    planner.set_up_planner(own)
    writer.set_up_storage_writer(is_coordinator=world.is_main_process)
    local = writer.prepare_local_plan(planner.create_local_plan())
    plan = writer.prepare_global_plan([local] * world.size)[world.rank]  # it names the file of each rank
    written = writer.write_data(planner.finish_plan(plan), planner).wait()
    return folder / str(written[0].storage_data.relative_path)


def read_shards(folder: Path, owner: Callable[[str], Any]) -> dict[str, torch.Tensor]:
    """Return the tensors in a folder by name: this process's shards if the `owner` of the name is sharded, else whole.

    Raises: RunError if the installed PyTorch cannot read them.
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
    """Return an empty tensor for a stored one, sharded if its owner is sharded and has the same shape."""
    dtype = stored.properties.dtype
    if is_sharded(owner) and owner.shape == stored.size:
        return torch.empty_like(owner.detach(), dtype=dtype)
    return torch.empty(stored.size, dtype=dtype)
