"""The state of a training on disk, so that what is stopped at any moment goes on to the same weights, bit for bit.

One file a state: `step-000000120.<checksum>.safetensors` holds the trained weights, the optimisers' moments and the
random generators; its header holds the step and the notes of the stage. The checksum in the name is that of the
content, so a file that was cut short or altered is noticed, and the state before it is used.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lotune.disk import writing
from lotune.train.loop import Optimizers, Step

KEPT = 2
"""States that stay on disk: the newest, and one before it."""
CHECKSUM_DIGITS = 32
"""Hexadecimal digits of the sha256 in a file's name."""


@dataclass(frozen=True)
class State:
    """A training as it was after `step`; `notes` are the stage's own, plain JSON."""

    step: int
    notes: Any


@dataclass(frozen=True)
class Found:
    """What a folder of states gave: the newest whole one, if any, and the files that were damaged."""

    state: State | None
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class Training:
    """What a state is of: the model's trained weights and its optimisers, from inputs that `mark` identifies."""

    model: torch.nn.Module
    optimizers: Optimizers
    mark: str


def save_state(folder: Path, training: Training, step: int, notes: Any) -> Path:
    """Write the state after `step`, atomically; only the KEPT newest stay. The result is the file."""
    folder.mkdir(parents=True, exist_ok=True)
    header = orjson.dumps({"step": step, "mark": training.mark, "notes": notes}).decode()
    temporary = folder / f".{os.getpid()}.tmp"
    try:
        tensors = _tensors(training)
        with writing(folder, sum(tensor.nbytes for tensor in tensors.values())):
            save_file(tensors, temporary, metadata={"lotune": header})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        path = folder / f"step-{step:09d}.{_checksum(temporary)}.safetensors"
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for old in _files(folder)[KEPT:]:
        old.unlink()
    return path


def load_state(folder: Path, training: Training) -> Found:
    """Bring a training to the newest state in a folder that is whole and of the same inputs; others are left alone."""
    for left in folder.glob(".*.tmp"):  # of a crash
        left.unlink()
    damaged = []
    for path in _files(folder):
        if _checksum(path) != path.name.split(".")[1]:
            damaged.append(path.name)
            continue
        header = _header(path)
        if header is None:
            damaged.append(path.name)
        elif header["mark"] == training.mark:
            _restore(training, load_file(path))
            return Found(State(header["step"], header["notes"]), tuple(damaged))
    return Found(None, tuple(damaged))


def watched(
    steps: Iterable[Step],
    folder: Path,
    training: Training,
    notes: Callable[[], Any],
    *,
    minutes: float,
    always: Container[int] = (),
) -> Iterator[Step]:
    """The steps; after the caller has dealt with one, the state is saved where that is due.

    It is due every `minutes`, after each step of `always`, and when Ctrl-C or SIGTERM asks to stop: the state is then
    saved and KeyboardInterrupt raised. A second Ctrl-C stops at once.
    """
    saved = time.monotonic()
    with stop_requests() as wanted:
        for step in steps:
            yield step
            if wanted() or step.number in always or time.monotonic() - saved >= 60 * minutes:
                save_state(folder, training, step.number, notes())
                saved = time.monotonic()
            if wanted():
                raise KeyboardInterrupt


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that tells whether somebody asked to stop, by Ctrl-C or SIGTERM; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _files(folder: Path) -> list[Path]:
    """State files, newest first."""
    return sorted(folder.glob("step-*.*.safetensors"), reverse=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:CHECKSUM_DIGITS]


def _header(path: Path) -> dict[str, Any] | None:
    try:
        with safe_open(path, framework="pt") as file:
            found: dict[str, Any] = orjson.loads((file.metadata() or {})["lotune"])
            return found
    except (OSError, SafetensorError, KeyError, orjson.JSONDecodeError):
        return None


def _trained(training: Training) -> dict[str, torch.Tensor]:
    return {name: weight.data for name, weight in training.model.named_parameters() if weight.requires_grad}


def _tensors(training: Training) -> dict[str, torch.Tensor]:
    """Everything that a later step depends on, by name; copies, so that no two share memory."""
    tensors = {f"weights/{name}": weight for name, weight in _trained(training).items()}
    for member, optimizer in enumerate(training.optimizers.members):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{member}/{index}/{key}": value for key, value in values.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors |= {f"random/cuda/{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _restore(training: Training, tensors: dict[str, torch.Tensor]) -> None:
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
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            torch.cuda.set_rng_state(tensors[f"random/cuda/{device}"], device)
