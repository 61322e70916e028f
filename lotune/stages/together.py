"""A verb carried out by several processes, as torchrun starts them: the first does it, the others take part."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from typing import Any

from lotune.model.base import resolve_device
from lotune.recipe import Options, Recipe
from lotune.stages import pretrain, tune
from lotune.train.loop import NotFiniteError
from lotune.train.parallel import END, joined, loss_is_named

TRAININGS: Mapping[str, Callable[[Recipe, Options], None]] = {"tune": tune.take_part, "pretrain": pretrain.take_part}
"""What a follower does when the leader names a training."""

Stage = Callable[[Recipe, Options], Any]


def carry_out(stage: Stage, recipe: Recipe, options: Options) -> Any:
    """What a verb's stage finds, in the process that leads; None in the others, once the leader is done.

    Raises: LostError where another process is gone.
    """
    with joined(resolve_device(recipe.device)) as world, loss_is_named(world):
        options = replace(options, world=world)
        if not world.leads:
            return _follow(recipe, options)
        try:
            return stage(recipe, options)
        finally:
            world.tell(END)


def _follow(recipe: Recipe, options: Options) -> None:
    """Take part in each training that the leader begins, without a word: the leader speaks for all."""
    try:
        while (name := options.world.hear()) != END:
            with redirect_stderr(StringIO()):
                TRAININGS[name](recipe, options)
    except (NotFiniteError, KeyboardInterrupt) as error:  # the leader meets the same
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else error.exit_status)
