"""Which stage depends on which settings and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lotune.recipe import Recipe, input_files, row_limits
from lotune.settings import flatten

Stage = Literal["prepare", "pretrain", "tune", "validate", "merge", "evaluate"]

STAGE_KEYS: Mapping[Stage, tuple[str, ...]] = {
    "prepare": (
        "seed",
        "base.model",
        "task",
        "data",
        "retention.task",
        "retention.data",
        "retention.rows",
        "retention.language",
        "retention.replay.rows",
        "evaluate.on_too_long",
    ),
    "pretrain": ("seed", "pretrain"),
    "tune": ("seed", "base", "task", "data", "adapter", "tune", "checkpoints.count", "retention.replay.rows"),
    "validate": ("task", "evaluate.on_too_long"),
    "merge": ("base", "task", "checkpoints.merged", "checkpoints.merge_check_rows", "evaluate.dtype"),
    "evaluate": (
        *("seed", "base", "task", "data", "adapter", "tune", "checkpoints"),
        *("retention", "evaluate", "score"),
    ),
}
"""The settings (single ones or whole groups) whose change redoes a stage.

`device`, `fsdp`, `threads` and `save_every_minutes` redo none, nor do those of EXECUTION_ONLY_SETTINGS.
"""


def stage_inputs(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """What a stage depends on: its settings by dotted key, a file or folder as a Path, and the form of its texts.

    >>> sorted(stage_inputs(Recipe(), "pretrain"))
    ['pretrain', 'seed']
    """
    keys = STAGE_KEYS[stage]
    without = {*EXECUTION_ONLY_SETTINGS, *UNTRAINED.get(stage, ())}
    if stage == "tune" and recipe.task.scorer_changes_targets:
        without.discard("task.scorer")
    inputs = {key: value for key, value in flatten(recipe).items() if _in_groups(key, keys) and key not in without}
    if "tune.micro_batch_rows" in inputs:
        inputs["tune.micro_batch_rows"] = recipe.tune.micro_batch_rows * recipe.tune.gradient_accumulation_steps
    inputs |= {key: value for key, value in (input_files(recipe) | row_limits(recipe)).items() if key in inputs}
    if _in_groups("task.labels", keys) and (labels := recipe.task.prompt_settings.get("labels")):
        inputs["task.labels, in order"] = list(labels)  # the last one is the positive one
    if stage == "prepare":
        inputs["form of texts"] = PROMPT_FORMAT_VERSION
    return inputs


UNTRAINED: Mapping[Stage, tuple[str, ...]] = {"tune": ("task.scorer", "task.max_new_tokens"), "merge": ("task.scorer",)}
"""Settings of the task that change how a stage's model is asked or judged, and no weight."""
EXECUTION_ONLY_SETTINGS = (
    *(
        "tune.gradient_accumulation_steps",
        "tune.max_batch_tokens",
        "tune.gradient_checkpointing",
        "tune.compile",
        "tune.tensorboard",
    ),
    *("pretrain.compile", "pretrain.gradient_checkpointing", "pretrain.micro_batch_tokens", "evaluate.engine"),
    "adapter.force_base",
)
"""Settings of how a stage computes, not what comes out: they may be changed before a stopped training goes on.

What a base's own dropout (GPT-2's, for one) drops still depends on the passes; an adapter's dropout does not.
Of `tune.gradient_accumulation_steps` the rows of a step count, which are `tune.micro_batch_rows` times it.
"""
PROMPT_FORMAT_VERSION = 5
"""Goes up where the same settings make other texts: another written working, another generator. Rows that an older
lotune prepared in the other form are then made anew."""


def _in_groups(key: str, keys: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in keys)
