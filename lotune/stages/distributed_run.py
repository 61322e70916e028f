"""A verb under torchrun: the first process leads, the others take part in its trainings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from typing import Any

from lotune.distributed import END_OF_RUN, init_process_group, raise_on_lost_process
from lotune.model.loading import resolve_device
from lotune.recipe import Recipe, RunOptions
from lotune.stages import pretrain, tune
from lotune.train.loop import NotFiniteError

FOLLOWER_STAGES: Mapping[str, Callable[[Recipe, RunOptions], None]] = {
    "tune": tune.follow_tuning,
    "pretrain": pretrain.follow_pretraining,
}
"""What a follower does when the leader names a training."""

StageFunction = Callable[[Recipe, RunOptions], Any]


def run_distributed(stage: StageFunction, recipe: Recipe, options: RunOptions) -> Any:
    """Return the result of a verb's stage in the leader, and None in its followers, once the leader is done.

    Raises: LostProcessError if another process is gone.
    """
    with init_process_group(resolve_device(recipe.device)) as world, raise_on_lost_process(world):
        options = replace(options, world=world)
        if not world.is_main_process:
            return _follower_loop(recipe, options)
        try:
            return stage(recipe, options)
        finally:
            world.send_to_followers(END_OF_RUN)


def _follower_loop(recipe: Recipe, options: RunOptions) -> None:
    """Take part in each training that the leader begins, and print nothing."""
    try:
        while (name := options.world.receive()) != END_OF_RUN:
            with redirect_stderr(StringIO()):
                FOLLOWER_STAGES[name](recipe, options)
    except (NotFiniteError, KeyboardInterrupt) as error:  # the leader meets the same
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else error.exit_status)
