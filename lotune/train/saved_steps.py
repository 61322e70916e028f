"""Saving of the training state between steps: at intervals, at checkpoints, and when the training is stopped."""

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
    ends_after: Callable[[int], bool] = lambda step: False,
) -> Iterator[Step]:
    """Yield the steps, and save the state after a step if it is due, when the caller requests the next step.

    It is due every `minutes`, after each step in `always`, if the loss of the next step is not finite, and when Ctrl-C
    or SIGTERM stops the training, which raises KeyboardInterrupt after saving. A second Ctrl-C stops at once. If there
    are several processes, the leader saves, by its own clock, and all stop after the same step. The steps also end
    after one for which `ends_after` is true in all processes.

    Raises: LostProcessError if another process has died; the leader has then saved the last complete step.
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
                if ends_after(done):
                    return
        except NotFiniteError:  # raised in all processes, before the step has changed the weights
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
    """Yield a function that returns whether Ctrl-C or SIGTERM was received; a second one raises KeyboardInterrupt."""
    requested = threading.Event()
    # Only the main thread can set signal handlers.
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
