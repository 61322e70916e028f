"""When the state of a training is saved: by the clock, at checkpoints, and when somebody or something stops it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lotune.distributed import is_connection_lost
from lotune.train.loop import NotFiniteError, Step
from lotune.train.train_state import Training, save_together


def save_states_between(
    steps: Iterable[Step],
    folder: Path,
    training: Training,
    notes: Callable[[], Any],
    *,
    minutes: float,
    always: Container[int] = (),
) -> Iterator[Step]:
    """Yield the steps; save the state after a step, once the next one is asked for, if that is due.

    It is due every `minutes`, after each step in `always`, if the loss of the next step is not finite, and when Ctrl-C
    or SIGTERM stops the training: the state is then saved and KeyboardInterrupt raised. A second Ctrl-C stops at once.
    Of several processes the leader saves, by its own clock, and all stop after the same step.

    Raises: LostProcessError if another process is gone; the leader has then saved the last whole step.
    """
    saved, done = time.monotonic(), None
    with stop_on_signal() as stop_requested:
        try:
            for step in steps:
                yield step
                done = step.number
                votes = training.world.all_gather(stop_requested(), time.monotonic() - saved >= 60 * minutes)
                stop = any(requested for requested, _ in votes)
                if stop or done in always or votes[0][1]:
                    save_together(folder, training, done, notes)
                    saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
        except NotFiniteError:  # which all processes meet, before the weights have changed
            if done is not None:
                save_together(folder, training, done, notes)
            raise
        except RuntimeError as error:
            if training.world.size == 1 or not is_connection_lost(error):
                raise
            if done is not None and not training.in_shards:
                save_together(folder, training, done, notes)
            raise training.world.lost_process_error(done) from error


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """A block with a function that returns whether Ctrl-C or SIGTERM came; a second one raises KeyboardInterrupt."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return

    def request(number: int, frame: Any) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
