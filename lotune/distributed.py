"""Distributed training: the process group that torchrun starts, its messages and collectives.

The main process (rank 0) alone writes the run folder, prints, validates and tests; only sharded states are written by
all. The followers compute their part of each training and wait in between. Messages are JSON, numbers are tensors, and
nothing is pickled.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson

from lotune.errors import RunError, SettingsError

if TYPE_CHECKING:
    import torch

END_OF_RUN = "end"
"""The last message of the main process."""
POLL_SECONDS = 0.05
"""Seconds between two polls for a message; a blocking call of torch would not handle signals."""
COLLECTIVE_TIMEOUT = timedelta(days=7)
"""Timeout of collectives: the main process may test a checkpoint meanwhile. A dead process is noticed at once."""
LEAVING_SECONDS = 10.0
"""Seconds that the main process, which may host the store, waits until the others have read its last message."""


class LostProcessError(RunError):
    """Another process of the training has ended or cannot be reached."""


class Channel:
    """Messages from the main process to all followers, in order."""

    def __init__(self, store: Any) -> None:
        self._store, self._number = store, 0

    def send(self, message: Any) -> None:
        """Send a message to all followers."""
        # A key per message: a follower that is late reads all of them, in order.
        self._store.set(f"message/{self._number}", orjson.dumps(message))
        self._number += 1

    def receive(self) -> Any:
        """Wait for the next message and return it."""
        key = f"message/{self._number}"
        while not self._store.check([key]):
            time.sleep(POLL_SECONDS)
        self._number += 1
        return orjson.loads(self._store.get(key))

    def leave(self, size: int) -> None:
        """Announce that this process reads no more; with a `size`, wait until that many have announced it."""
        self._store.add("left", 1)
        deadline = time.monotonic() + LEAVING_SECONDS
        while size and self._store.add("left", 0) < size and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a training; `rank` of this one is 0 (the main process) to `size` - 1.

    `control` is the gloo group for numbers other than gradients, with a long timeout.
    """

    rank: int = 0
    size: int = 1
    channel: Channel | None = None
    control: Any = None

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files, prints, validates and tests."""
        return self.rank == 0

    def send_to_followers(self, message: Any) -> None:
        """Send a JSON message to all followers, if there are any."""
        if self.channel is not None:
            self.channel.send(message)

    def receive(self) -> Any:
        """Wait for the next message of the main process and return it."""
        assert self.channel is not None, "a single process receives no messages"
        return self.channel.receive()

    def all_gather(self, *values: float) -> list[tuple[float, ...]]:
        """Return the values of all processes by rank; a collective."""
        if self.size == 1:
            return [values]
        import torch
        import torch.distributed as dist

        # float64 holds numbers of tokens exactly up to 2**53.
        local = torch.tensor(values, dtype=torch.float64)
        gathered = [torch.empty_like(local) for _ in range(self.size)]
        dist.all_gather(gathered, local, group=self.control)
        return [tuple(values_of_rank.tolist()) for values_of_rank in gathered]

    def all_gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the bytes of all processes by rank; a collective."""
        if self.size == 1:
            return [data]
        import torch
        import torch.distributed as dist

        # all_gather takes tensors of one size, so the bytes are padded to the longest.
        lengths = [int(length) for (length,) in self.all_gather(len(data))]
        local = torch.zeros(max(*lengths, 1), dtype=torch.uint8)  # (longest,)
        local[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        gathered = [torch.empty_like(local) for _ in lengths]
        dist.all_gather(gathered, local, group=self.control)
        return [bytes(padded[:length].tolist()) for padded, length in zip(gathered, lengths, strict=True)]

    def all_reduce_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients of all unsharded parameters over the processes, in one all_reduce."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        # FSDP reduces the gradients of the sharded ones itself.
        unsharded = [p for p in parameters if not is_sharded(p)]
        if not unsharded:
            return
        # A parameter that no row of this process used has no gradient, but all processes must send the same tensors.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in unsharded]
        bucket = torch.cat([grad.flatten() for grad in grads])  # (all weights,)
        dist.all_reduce(bucket)
        for parameter, part in zip(unsharded, bucket.split([p.numel() for p in unsharded]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite the unsharded tensors of all processes with those of the main process."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            if not is_sharded(tensor):
                dist.broadcast(tensor.detach(), 0)

    def lost_process_error(self, step: int | None = None) -> LostProcessError:
        """Return the error for a lost process, with the last training step if known."""
        done = "" if step is None else f" after step {step}"
        return LostProcessError(
            f"process {self.rank + 1} of {self.size}",
            f"lost another process{done}: it ended or cannot be reached",
            remedy="see its output; the same command resumes from the last saved state, with any number of processes",
        )


SINGLE_PROCESS = ProcessGroup()
"""The group of a single process."""


def is_sharded(tensor: Any) -> bool:
    """Return whether a tensor is a DTensor, of which each process holds a part."""
    return hasattr(tensor, "full_tensor")


# torch has no exception type for it: gloo, NCCL and the store each raise RuntimeError with words of their own.
_LOST = re.compile(
    r"gloo/|Connection (closed|reset|refused)|Broken pipe|NCCL|TCPStore|[Ss]ocket (Timeout|closed)|failed to recv", re.I
)


def is_connection_lost(error: BaseException) -> bool:
    """Return whether an error of torch means that another process is lost.

    >>> is_connection_lost(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2312"))
    True
    >>> is_connection_lost(RuntimeError("shape '[2, 3]' is invalid for input of size 5"))
    False
    """
    return isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


def world_size() -> int:
    """Return the number of processes that torchrun started (WORLD_SIZE).

    >>> world_size()
    1
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def init_process_group(device: str) -> Iterator[ProcessGroup]:
    """Connect the processes that torchrun started: over NCCL for "cuda", otherwise over gloo.

    Raises: SettingsError if there are more processes than GPUs, or for "mps".
    """
    if world_size() < 2:
        yield SINGLE_PROCESS
        return
    import torch.distributed as dist

    kind = device.partition(":")[0]
    if kind == "mps":
        raise SettingsError("device", "mps supports a single process", "cpu or cuda under torchrun")
    if kind == "cuda":
        _select_gpu(int(os.environ.get("LOCAL_RANK", "0")))
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    # Prefixes keep torch's keys and the messages of the channel apart in the one store.
    groups = PrefixStore("groups", store)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", store=groups, rank=rank, world_size=size)
    channel = Channel(PrefixStore("channel", store))
    yield ProcessGroup(rank, size, channel, dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT))
    channel.leave(0 if rank else size)
    dist.destroy_process_group()  # not after an error: it could wait for a lost process


def _select_gpu(number: int) -> None:
    import torch

    count = torch.cuda.device_count()
    if number >= count:
        fault = f"starts process {number + 1} on a machine with {count} GPUs"
        raise SettingsError("torchrun", fault, "one process per GPU", f"--nproc-per-node {count}")
    torch.cuda.set_device(number)


@contextmanager
def raise_on_lost_process(world: ProcessGroup) -> Iterator[None]:
    """Raise LostProcessError in place of the error of torch that a lost process causes in this block."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or not is_connection_lost(error):
            raise
        raise world.lost_process_error() from error
