"""Several processes that train one model, as torchrun starts them: who they are and what they tell one another.

The first process leads: it alone writes the run folder (but for a state in shards, of which each process writes its
own), speaks to the person, validates and asks questions. The others follow: they compute their share of the trainings
that it begins, and wait in between. Messages are JSON and numbers are tensors; nothing is pickled.
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
"""The leader's last message."""
POLL_SECONDS = 0.05
"""Between two looks for a message: waiting in torch itself would leave signals unheard."""
COLLECTIVE_TIMEOUT = timedelta(days=7)
"""How long processes wait for the leader, which may test a checkpoint; one that dies is noticed at once."""
LEAVING_SECONDS = 10.0
"""How long the leader, which may hold the store, waits for the others to have read its last message."""


class LostProcessError(RunError):
    """Another process of the training is gone."""


class Channel:
    """The leader's messages to all other processes, in order."""

    def __init__(self, store: Any) -> None:
        self._store, self._number = store, 0

    def send(self, message: Any) -> None:
        """Leave a message for all others."""
        self._store.set(f"message/{self._number}", orjson.dumps(message))
        self._number += 1

    def receive(self) -> Any:
        """The next message, waited for."""
        key = f"message/{self._number}"
        while not self._store.check([key]):
            time.sleep(POLL_SECONDS)
        self._number += 1
        return orjson.loads(self._store.get(key))

    def leave(self, size: int) -> None:
        """Say that this process has no more to read, or, as the leader, wait until `size` have said so."""
        self._store.add("left", 1)
        until = time.monotonic() + LEAVING_SECONDS
        while size and self._store.add("left", 0) < size and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a training, and which of them this one is: `rank` from 0, which leads, to `size` - 1.

    `control` is the group over which numbers travel that are not gradients: on the processor, with long patience.
    """

    rank: int = 0
    size: int = 1
    channel: Channel | None = None
    control: Any = None

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes, speaks and asks."""
        return self.rank == 0

    def send_to_followers(self, message: Any) -> None:
        """Send a message, plain JSON, to all followers; nothing where there are none."""
        if self.channel is not None:
            self.channel.send(message)

    def receive(self) -> Any:
        """The leader's next message."""
        assert self.channel is not None, "one process alone has nobody to hear"
        return self.channel.receive()

    def all_gather(self, *values: float) -> list[tuple[float, ...]]:
        """The values of all processes, by rank; all have to call it."""
        if self.size == 1:
            return [values]
        import torch
        import torch.distributed as dist

        own = torch.tensor(values, dtype=torch.float64)
        everyone = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(everyone, own, group=self.control)
        return [tuple(one.tolist()) for one in everyone]

    def all_gather_bytes(self, data: bytes) -> list[bytes]:
        """What every process gives, by rank; all have to call it."""
        if self.size == 1:
            return [data]
        import torch
        import torch.distributed as dist

        lengths = [int(length) for (length,) in self.all_gather(len(data))]
        own = torch.zeros(max(*lengths, 1), dtype=torch.uint8)
        own[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        everyone = [torch.empty_like(own) for _ in lengths]
        dist.all_gather(everyone, own, group=self.control)
        return [bytes(one[:length].tolist()) for one, length in zip(everyone, lengths, strict=True)]

    def all_reduce_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give each of the parameters that every process holds whole the sum of its gradients, in one message."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        whole = [p for p in parameters if not is_sharded(p)]
        if not whole:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in whole]
        bucket = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(bucket)
        for parameter, part in zip(whole, bucket.split([p.numel() for p in whole]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give all processes the leader's values of tensors that each holds whole."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            if not is_sharded(tensor):
                dist.broadcast(tensor.detach(), 0)

    def lost_process_error(self, step: int | None = None) -> LostProcessError:
        """The error that says that another process is gone, after which step of a training."""
        done = "" if step is None else f" after step {step}"
        return LostProcessError(
            f"process {self.rank + 1} of {self.size}",
            f"lost the others{done}: one of them ended or cannot be reached",
            remedy="see what it said; the same command goes on from the last saved state, with any number of processes",
        )


SINGLE_PROCESS = ProcessGroup()
"""One process, the usual case."""


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is divided among the processes, each of which holds a part of it."""
    return hasattr(tensor, "full_tensor")


_LOST = re.compile(
    r"gloo/|Connection (closed|reset|refused)|Broken pipe|NCCL|TCPStore|[Ss]ocket (Timeout|closed)|failed to recv", re.I
)


def is_connection_lost(error: BaseException) -> bool:
    """Whether an error of torch means that another process is gone.

    >>> is_connection_lost(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2312"))
    True
    >>> is_connection_lost(RuntimeError("shape '[2, 3]' is invalid for input of size 5"))
    False
    """
    return isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))


def world_size() -> int:
    """How many processes torchrun, or what else sets its variables, has started.

    >>> world_size()
    1
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def init_process_group(device: str) -> Iterator[ProcessGroup]:
    """The processes that torchrun has started, connected: over NCCL for "cuda", else over gloo.

    Raises: SettingsError where there are more processes than GPUs, or the device knows no others.
    """
    if world_size() < 2:
        yield SINGLE_PROCESS
        return
    import torch.distributed as dist

    kind = device.partition(":")[0]
    if kind == "mps":
        raise SettingsError("device", "mps works in one process", "cpu or cuda under torchrun")
    if kind == "cuda":
        _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    groups = PrefixStore("groups", store)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", store=groups, rank=rank, world_size=size)
    channel = Channel(PrefixStore("channel", store))
    yield ProcessGroup(rank, size, channel, dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT))
    channel.leave(0 if rank else size)
    dist.destroy_process_group()  # not after an error: it might wait for what is lost


def _take_gpu(number: int) -> None:
    import torch

    there = torch.cuda.device_count()
    if number >= there:
        found, expected = f"starts process {number + 1} on a machine with {there} GPUs", "one process a GPU"
        raise SettingsError("torchrun", found, expected, f"--nproc-per-node {there}")
    torch.cuda.set_device(number)


@contextmanager
def raise_on_lost_process(world: ProcessGroup) -> Iterator[None]:
    """Raises: LostProcessError in place of what a missing process makes the others fail with."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or not is_connection_lost(error):
            raise
        raise world.lost_process_error() from error
