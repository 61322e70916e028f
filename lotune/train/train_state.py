"""The state of a training on disk: a training that was stopped resumes to the same weights, bit for bit.

A state is one file, `step-000000120.<checksum>.safetensors`, with the trained weights, the optimisers' moments and the
random generators; its header has the step and the notes of the stage. The checksum is that of the content, so a
truncated or altered file is detected, and the state before it is used.

If the trained weights are sharded, a state is a folder `step-000000120.<checksum>` with a file from each process and
`state.json`, which has the step, the notes and the checksum of each file. The folder's checksum is that of state.json.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lotune.disk_space import disk_full_as_run_error
from lotune.distributed import SINGLE_PROCESS, ProcessGroup, is_sharded
from lotune.errors import LotuneError, RunError
from lotune.files import file_digest, write_atomically
from lotune.train.optimizers import Optimizers
from lotune.train.sharded_state import read_shards, supports_sharded_safetensors, write_shard

STATES_KEPT = 2
"""Number of states to keep on disk: the newest, and the one before it."""
GPU_RANDOM = "random/cuda/0"
"""Name of the random state of the process's GPU."""
CHECKSUM_DIGITS = 32
"""Hexadecimal digits of the sha256 in a state's name."""
HEADER = "state.json"
"""The file of a sharded state that describes it and lists its other files."""


@dataclass(frozen=True)
class SavedState:
    """A training after `step`; `notes` are plain JSON of the stage."""

    step: int
    notes: Any
    file: str | None = None
    """Name of the file or folder that the state was read from."""


@dataclass(frozen=True)
class LoadedState:
    """The newest intact state of a folder, if any, and the names of the damaged ones."""

    state: SavedState | None
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class Training:
    """The subject of a state: a model's trained weights and its optimisers.

    `inputs_fingerprint` identifies the inputs of the training. A state does not depend on the number of processes in
    `world`, so another number of processes can resume from it.
    """

    model: torch.nn.Module
    optimizers: Optimizers
    inputs_fingerprint: str
    world: ProcessGroup = SINGLE_PROCESS

    @property
    def in_shards(self) -> bool:
        """Whether the trained weights are sharded over the processes."""
        return any(is_sharded(weight) for weight in _trained(self).values())


def save_state(folder: Path, training: Training, step: int, notes: Any) -> Path:
    """Write the state after `step` atomically, delete all but the STATES_KEPT newest states, and return the file.

    Other states of this step and of later steps are deleted, too. They are damaged or belong to other inputs, and would
    be taken for newer states of this training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = orjson.dumps({"step": step, "fingerprint": training.inputs_fingerprint, "notes": notes}).decode()
    temporary = folder / f".{os.getpid()}.tmp"
    try:
        tensors = _tensors(training)
        with disk_full_as_run_error(folder, sum(tensor.nbytes for tensor in tensors.values())):
            save_file(tensors, temporary, metadata={"lotune": header})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        path = folder / f"step-{step:09d}.{_checksum(temporary)}.safetensors"
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _keep_newest(folder, path)
    return path


def save_shards(folder: Path, training: Training, step: int, notes: Any) -> None:
    """Write the state after `step` as a folder with a file from each process; all processes call it.

    Raises: RunError in every process if one of them has no disk space left.
    """
    world, temporary = training.world, folder / f".step-{step:09d}.tmp"
    try:
        files = _write_shards(temporary, training)
        if world.is_main_process:
            header = orjson.dumps(
                {"step": step, "fingerprint": training.inputs_fingerprint, "notes": notes, "files": files}
            )
            write_atomically(temporary / HEADER, header)
            path = folder / f"step-{step:09d}.{_checksum(temporary / HEADER)}"
            shutil.rmtree(path, ignore_errors=True)  # an earlier copy of the same state, which may be damaged
            os.replace(temporary, path)
            _keep_newest(folder, path)
    finally:
        if world.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_shards(folder: Path, training: Training) -> dict[str, str]:
    """Write this process's file, and return the checksums of all files by name.

    Raises: RunError in every process if one of them cannot write.
    """
    tensors = _state_tensors(training)
    try:
        with disk_full_as_run_error(folder.parent, sum(tensor.nbytes for tensor in tensors.values())):
            file = write_shard(folder, tensors, training.world)
        own = {"file": file.name, "checksum": _checksum(file)}
    except LotuneError as error:
        own = {"where": error.where, "found": error.found, "remedy": error.remedy}
    answers = [orjson.loads(answer) for answer in training.world.all_gather_bytes(orjson.dumps(own))]
    for answer in answers:
        if "found" in answer:
            raise RunError(**answer)
    return {answer["file"]: answer["checksum"] for answer in answers}


def _keep_newest(folder: Path, path: Path) -> None:
    """Delete all states but the one at `path` and the STATES_KEPT - 1 before it."""
    states = _states(folder)
    remaining = [path, *[old for old in states if _step(old) < _step(path)][: STATES_KEPT - 1]]
    for old in states:
        if old not in remaining:
            _delete(old)


def load_state(folder: Path, training: Training) -> LoadedState:
    """Restore the newest intact state of the same inputs in a folder; leave other states alone."""
    for leftover in folder.glob(".*.tmp"):  # from a crash
        _delete(leftover)
    damaged = []
    for path in _states(folder):
        header = _header(path)
        if header is None:
            damaged.append(path.name)
        elif header["fingerprint"] == training.inputs_fingerprint:
            _restore(training, path)
            return LoadedState(SavedState(header["step"], header["notes"], path.name), tuple(damaged))
    return LoadedState(None, tuple(damaged))


def save_together(folder: Path, training: Training, step: int, notes: Callable[[], Any]) -> None:
    """Save the state in the leader, or in all processes if weights are sharded; all processes call it."""
    sharded, leads = training.in_shards, training.world.is_main_process
    if sharded and supports_sharded_safetensors():
        save_shards(folder, training, step, notes() if leads else None)
    elif leads:
        save_state(folder, training, step, notes())
    elif sharded:
        for tensor in _state_tensors(training).values():
            _full_tensor(tensor)


def sync_follower(folder: Path, training: Training, seed: int) -> int:
    """Load the leader's state and weights into a follower (see `sync_followers`); return the number of steps done."""
    state = training.world.receive()
    if state["file"] is not None:
        _restore(training, folder / state["file"])
    training.world.broadcast(_trained(training).values())
    # A seed of its own: with equal random numbers, rows of different processes would get the same random dropout.
    torch.manual_seed(seed + 1_000_003 * training.world.rank + state["step"])
    return int(state["step"])


def sync_followers(training: Training, state: SavedState) -> None:
    """Send the followers the name of the state to resume from, and the leader's weights."""
    if training.world.size > 1:
        training.world.send_to_followers({"step": state.step, "file": state.file})
        training.world.broadcast(_trained(training).values())


def _states(folder: Path) -> list[Path]:
    """Return the states in a folder, newest first: files, and folders of sharded states."""
    return sorted((p for p in folder.glob("step-*.*") if p.suffix == ".safetensors" or p.is_dir()), reverse=True)


def _step(path: Path) -> str:
    return path.name.split(".")[0]


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _checksum(path: Path) -> str:
    return file_digest(path)[:CHECKSUM_DIGITS]


def _header(path: Path) -> dict[str, Any] | None:
    """Return the header of a state; None if the state is damaged."""
    listing = path / HEADER if path.is_dir() else path
    try:
        if _checksum(listing) != path.name.split(".")[1]:
            return None
        header: dict[str, Any]
        if path.is_dir():
            header = orjson.loads(listing.read_bytes())
            files = {file.name: _checksum(file) for file in path.glob("*.safetensors")}
            return header if header["files"] == files else None
        with safe_open(path, framework="pt") as file:
            header = orjson.loads((file.metadata() or {})["lotune"])
            return header
    except (OSError, SafetensorError, KeyError, orjson.JSONDecodeError):
        return None


def _trained(training: Training) -> dict[str, torch.Tensor]:
    return {name: weight.data for name, weight in training.model.named_parameters() if weight.requires_grad}


def _owners(training: Training) -> dict[str, torch.Tensor]:
    """Return the trained weights by the prefix of the names of the state's tensors that belong to them."""
    owners = {f"weights/{name}": weight for name, weight in _trained(training).items()}
    for member, optimizer in enumerate(training.optimizers.members):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        owners |= {f"optimizer/{member}/{index}": parameter for index, parameter in enumerate(parameters)}
    return owners


def _state_tensors(training: Training) -> dict[str, torch.Tensor]:
    """Return everything that a later step depends on, by name."""
    tensors = {f"weights/{name}": weight for name, weight in _trained(training).items()}
    for member, optimizer in enumerate(training.optimizers.members):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{member}/{index}/{key}": value for key, value in values.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors[GPU_RANDOM] = torch.cuda.get_rng_state()
    return tensors


def _tensors(training: Training) -> dict[str, torch.Tensor]:
    """Return copies of the tensors of a state, gathered from all shards."""
    # Copies, because safetensors refuses tensors that share memory.
    return {
        name: _full_tensor(tensor.detach()).cpu().clone().contiguous()
        for name, tensor in _state_tensors(training).items()
    }


def _full_tensor(tensor: Any) -> torch.Tensor:
    """Return a tensor gathered from the shards of all processes; all processes call it."""
    whole: torch.Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return whole


def _shard_like(tensor: torch.Tensor, owner: Any) -> torch.Tensor:
    """Return a whole tensor, or this process's shard of it if its owner is sharded."""
    if not is_sharded(owner) or tensor.ndim == 0:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(owner.device), owner.device_mesh, owner.placements, src_data_rank=None)


def _restore(training: Training, path: Path) -> None:
    """Restore the state in a file or folder; a process keeps only its own shards."""
    owners = _owners(training)

    def owner(name: str) -> torch.Tensor | None:
        return owners.get(name, owners.get(name.rpartition("/")[0]))

    if path.is_dir():
        tensors = read_shards(path, owner)
    else:
        tensors = {name: _shard_like(tensor, owner(name)) for name, tensor in load_file(path).items()}
    for name, weight in _trained(training).items():
        weight.copy_(tensors[f"weights/{name}"])
    for member, optimizer in enumerate(training.optimizers.members):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer/{member}/"):
                index, key = name.split("/")[2:]
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and GPU_RANDOM in tensors:
        torch.cuda.set_rng_state(tensors[GPU_RANDOM])
