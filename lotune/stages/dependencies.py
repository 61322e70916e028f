"""Dependencies of stages on settings and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lotune.recipe import Recipe, input_files, row_limits
from lotune.settings import flatten, is_auto

Stage = Literal["prepare", "pretrain", "tune", "validate", "repair", "merge", "evaluate"]

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
        "retention.validation",
        "retention.validation_rows",
        "retention.abilities",
        "retention.replay",
        "retention.divergence",
        "evaluate.on_too_long",
    ),
    "pretrain": ("seed", "pretrain"),
    "tune": (
        *("seed", "base", "task", "data", "adapter", "tune", "checkpoints.count", "checkpoints.spacing"),
        *("retention.replay", "retention.divergence"),
    ),
    "validate": ("task", "evaluate.on_too_long", "retention.task", "retention.abilities", "retention.min_retained"),
    "repair": (
        *("retention.action", "retention.repair_steps", "retention.min_retained"),
        *("retention.strength", "retention.strength_groups"),
    ),
    "merge": ("base", "task", "checkpoints.merged", "checkpoints.merge_check_rows", "evaluate.dtype"),
    "evaluate": (
        *("seed", "base", "task", "data", "adapter", "tune", "checkpoints"),
        *("retention", "evaluate", "score"),
    ),
}
"""Settings (single ones or whole groups) whose change invalidates a stage.

`device`, `fsdp`, `threads`, `save_every_minutes` and EXECUTION_ONLY_SETTINGS invalidate none.
"""


def stage_inputs(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """Return the inputs of a stage: settings by dotted key, files and folders as a Path, the prompt format version.

    >>> sorted(stage_inputs(Recipe(), "pretrain"))
    ['pretrain', 'seed']
    """
    keys = STAGE_KEYS[stage]
    excluded = {*EXECUTION_ONLY_SETTINGS, *WITHOUT_EFFECT.get(stage, ())}
    if stage == "tune" and recipe.task.scorer_changes_targets:
        excluded.discard("task.scorer")
    inputs = {key: value for key, value in _values(recipe).items() if _in_groups(key, keys) and key not in excluded}
    if stage == "tune" and recipe.retention.action == "stop":
        inputs |= {"retention.action": "stop", "retention.min_retained": recipe.retention.min_retained}
    # The rows of a step decide the weights; how they are divided into micro-batches does not.
    if "tune.micro_batch_rows" in inputs and not is_auto(recipe.tune.micro_batch_rows):
        inputs["tune.micro_batch_rows"] = recipe.tune.micro_batch_rows * recipe.tune.gradient_accumulation_steps
    inputs |= {key: value for key, value in (input_files(recipe) | row_limits(recipe)).items() if key in inputs}
    if _in_groups("task.labels", keys) and (labels := recipe.task.prompt_settings.get("labels")):
        inputs["task.labels, in order"] = list(labels)  # the last one is the positive one
    if stage == "prepare":
        inputs["form of texts"] = PROMPT_FORMAT_VERSION
    return inputs


WITHOUT_EFFECT: Mapping[Stage, tuple[str, ...]] = {
    "prepare": ("retention.replay.rows_per_epoch",),
    "tune": ("task.scorer", "task.max_new_tokens"),
    "merge": ("task.scorer",),
}
"""Settings of a group without effect on a stage that depends on the rest of the group."""
EXECUTION_ONLY_SETTINGS = (
    *(
        "tune.gradient_accumulation_steps",
        "tune.max_batch_tokens",
        "tune.gradient_checkpointing",
        "tune.compile",
        "tune.tensorboard",
    ),
    *("pretrain.compile", "pretrain.gradient_checkpointing", "pretrain.micro_batch_tokens", "evaluate.engine"),
    *("pretrain.validate_every", "pretrain.sample_prompts", "pretrain.sample_tokens", "pretrain.sample_temperature"),
    *("pretrain.tensorboard", "pretrain.continuation_rows", "pretrain.continuation_tokens"),
    *("adapter.force_base", "adapter.budget"),
)
"""Settings that change how a stage computes, not its result; they may change before a stopped training resumes.

Dropout of the base itself (as in GPT-2) still depends on the micro-batches; dropout of an adapter does not. Of
`tune.gradient_accumulation_steps`, the rows per step count: its product with `tune.micro_batch_rows`.
"""
PROMPT_FORMAT_VERSION = 7
"""Increased when the same settings produce other texts (scratchpad, generator), so that old rows are prepared again."""


def _values(recipe: Recipe) -> dict[str, Any]:
    """Return all settings by dotted key, those of listed abilities under the name of each."""
    values, retention = flatten(recipe), recipe.retention
    del values["retention.abilities"]
    for ability in retention.abilities:
        values |= {f"{retention.key_of(ability)}.{key}": value for key, value in flatten(ability).items()}
    return values


def _in_groups(key: str, keys: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in keys)
