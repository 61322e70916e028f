"""TensorBoard's curves of a training, in the run's folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lotune.train.loop import Step


@contextmanager
def tensorboard_curves(folder: Path, enabled: bool) -> Iterator[Callable[[Step], None]]:
    """Return a context with a function that adds a step to TensorBoard's curves if they are enabled."""
    writers: list[Any] = []

    def draw(step: Step) -> None:
        if enabled:
            writers[:] = writers or [_summary_writer(folder, step.number)]
            _write_scalars(writers[0], step)

    yield draw
    for writer in writers:
        writer.close()


def _summary_writer(folder: Path, first_step: int) -> Any:
    """Return a TensorBoard writer for the steps from `first_step` on, which hides earlier records of the same steps."""
    from torch.utils.tensorboard import SummaryWriter

    path = folder / "tensorboard"
    if first_step == 1:
        shutil.rmtree(path, ignore_errors=True)
    return SummaryWriter(str(path), purge_step=first_step if first_step > 1 else None)


def _write_scalars(writer: Any, step: Step) -> None:
    for name in ("loss", "learning_rate", "gradient_norm"):
        writer.add_scalar(f"train/{name}", getattr(step, name), step.number)
    writer.flush()
