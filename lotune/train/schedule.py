"""Pure functions of a schedule: learning rate of a step, steps of a training, steps at which checkpoints are due."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lotune.errors import SettingsError
from lotune.train.settings import TrainingSettings


def lr_factor(
    step: int, steps: int, warmup_steps: int, schedule: str, min_lr_ratio: float = 0.0, decay_ratio: float = 0.2
) -> float:
    """Return the learning rate at a step (counted from 1 to `steps`), as a fraction of the peak.

    It rises linearly over the warm-up and then falls by the schedule to `min_lr_ratio`. With wsd (warm-up, stable,
    decay) it stays at the peak until the last `decay_ratio` of the steps. A training of one step uses the peak.

    >>> [round(lr_factor(s, 10, 2, "linear"), 2) for s in (1, 2, 6, 10)]
    [0.5, 1.0, 0.5, 0.0]
    >>> round(lr_factor(6, 10, 2, "cosine"), 2)
    0.5
    >>> [round(lr_factor(s, 10, 2, "wsd"), 2) for s in (2, 8, 9, 10)]
    [1.0, 1.0, 0.5, 0.0]
    """
    if step <= warmup_steps:
        return step / warmup_steps
    if schedule == "constant" or steps == 1:
        return 1.0
    if schedule == "wsd":
        stable = max(warmup_steps, steps - max(1, round(steps * decay_ratio)))
        progress = max(0.0, (step - stable) / max(1, steps - stable))
    else:
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    # decay falls from 1 at the end of the warm-up to 0 at the last step.
    decay = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
    return min_lr_ratio + (1 - min_lr_ratio) * decay


def lr_factors(settings: TrainingSettings, steps: int) -> list[float]:
    """Return the learning rate of each of `steps` steps, as a fraction of the peak.

    >>> lr_factors(TrainingSettings(lr_schedule="linear", warmup_steps=1), 3)
    [1.0, 0.5, 0.0]
    """
    warmup = resolve_warmup_steps(steps, settings.warmup_steps, settings.warmup_ratio)
    schedule = settings.lr_schedule, settings.min_lr_ratio, settings.decay_ratio
    return [lr_factor(step, steps, warmup, *schedule) for step in range(1, steps + 1)]


def end_early(planned: Sequence[float], decided_at: int, settings: TrainingSettings) -> list[float]:
    """Return the learning rates of a training that ends early: the planned ones up to a step, then a linear fall.

    The fall takes `decay_ratio` of all steps, and at most the planned ones.

    >>> end_early([1.0] * 100, 8, TrainingSettings())
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    ratio, low, high = settings.decay_ratio, settings.min_lr_ratio, planned[decided_at - 1]
    decay = min(max(1, round(decided_at * ratio / (1 - ratio))), len(planned) - decided_at)
    return [*planned[:decided_at], *(low + (high - low) * (decay - i) / decay for i in range(1, decay + 1))]


def resolve_warmup_steps(steps: int, warmup_steps: int | None, warmup_ratio: float) -> int:
    """Return the number of warm-up steps: the given one, else a fraction of all steps; always fewer than all steps.

    >>> resolve_warmup_steps(100, None, 0.03), resolve_warmup_steps(100, 500, 0.03)
    (3, 99)
    """
    warmup = round(steps * warmup_ratio) if warmup_steps is None else warmup_steps
    return max(0, min(warmup, steps - 1))


def checkpoint_steps(steps: int, count: int) -> list[int]:
    """Return the steps after which checkpoints are due: the i-th of `count` after round(i · steps / count).

    Halves are rounded up. This is the contest's rule: five checkpoints of ten epochs follow epochs 2, 4, 6, 8 and 10.

    >>> checkpoint_steps(10, 5), checkpoint_steps(7, 2)
    ([2, 4, 6, 8, 10], [4, 7])

    Raises: SettingsError if there are more checkpoints than steps.
    """
    if count > steps:
        raise SettingsError(
            "checkpoints.count", f"{count} checkpoints in {steps} steps", "at least as many steps",
            "lower checkpoints.count or train longer",
        )  # fmt: skip
    return [(2 * i * steps + count) // (2 * count) for i in range(1, count + 1)]


def tuning_steps(rows: int, step_rows: int, epochs: float, steps: int | None) -> int:
    """Return the number of optimiser steps of a training: the given one, else that of the epochs, at least one.

    >>> tuning_steps(100, 32, 2, None), tuning_steps(100, 32, 2, 5)
    (6, 5)
    """
    if steps is not None:
        return steps
    return max(1, round(rows * epochs / min(step_rows, rows)))
