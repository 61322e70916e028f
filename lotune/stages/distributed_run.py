"""Run a command under torchrun: the main process runs its stage, and the followers join each training."""

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
from lotune.stages import pretrain, tuning
from lotune.train.loop import NotFiniteError

FOLLOWER_STAGES: Mapping[str, Callable[[Recipe, RunOptions], None]] = {
    "tune": tuning.follow_tuning,
    "pretrain": pretrain.follow_pretraining,
}
"""What a follower runs when the main process names a training."""

StageFunction = Callable[[Recipe, RunOptions], Any]


def run_distributed(stage: StageFunction, recipe: Recipe, options: RunOptions) -> Any:
    """Run a stage in the main process and return its result; a follower returns None when the main process is done.

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
    """Join each training that the main process starts, and print nothing."""
    try:
        while (name := options.world.receive()) != END_OF_RUN:
            with redirect_stderr(StringIO()):
                FOLLOWER_STAGES[name](recipe, options)
    except (NotFiniteError, KeyboardInterrupt) as error:  # the main process meets the same error and reports it
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else error.exit_status)
