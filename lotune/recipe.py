"""A recipe: the whole of a run's settings, and which stage depends on which of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from lotune.data.settings import TEST_ROWS, VALIDATION_ROWS, DataSettings, most_rows
from lotune.errors import DataError, SettingsError
from lotune.evaluate.settings import RETENTION_ROWS, EvaluateSettings, RetentionSettings, ScoreSettings
from lotune.model.settings import AdapterSettings, BaseSettings
from lotune.settings import Settings, flatten, read_settings
from lotune.tasks.settings import TaskSettings
from lotune.train.parallel import ALONE, World
from lotune.train.settings import CheckpointSettings, PretrainSettings, TuneSettings

Stage = Literal["prepare", "pretrain", "tune", "validate", "merge", "evaluate"]


class Recipe(Settings):
    """A run: what differs from these defaults stands in the recipe file."""

    name: str | None = Field(None, pattern=r"^[^/\\]+$")
    """Name of the run and of its folder; null takes the recipe file's name."""
    runs: Path = Path("runs")
    """Folder that holds the run folders."""
    seed: int = Field(0, ge=0)
    """Seed of everything drawn by chance."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model computes: auto takes the first GPU, else the processor."""
    shard: Literal["auto", "yes", "no"] = "auto"
    """Whether several processes (torchrun) divide the weights: auto does so where they do not fit on each GPU."""
    threads: int | None = Field(None, ge=1, le=4096)
    """Processor threads; null takes one for each core."""
    save_every_minutes: float = Field(5.0, ge=0)
    """Minutes between two saved states of a training, from which it goes on after a crash; 0 saves every step."""
    base: BaseSettings = Field(default_factory=BaseSettings)
    task: TaskSettings = Field(default_factory=TaskSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)
    tune: TuneSettings = Field(default_factory=TuneSettings)
    checkpoints: CheckpointSettings = Field(default_factory=CheckpointSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    score: ScoreSettings = Field(default_factory=ScoreSettings)
    pretrain: PretrainSettings | None = None

    @field_validator("shard", mode="before")
    @classmethod
    def _yes_or_no(cls, value: object) -> object:
        """YAML reads a bare yes and no as truth values."""
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.runs / (self.name or "run")


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
        "retention.replay_rows",
        "evaluate.on_too_long",
    ),
    "pretrain": ("seed", "pretrain"),
    "tune": ("seed", "base", "task", "data", "adapter", "tune", "checkpoints.count", "retention.replay_rows"),
    "validate": ("task", "evaluate.on_too_long"),
    "merge": ("base", "task", "checkpoints.merged", "checkpoints.check_rows", "evaluate.dtype"),
    "evaluate": (
        *("seed", "base", "task", "data", "adapter", "tune", "checkpoints"),
        *("retention", "evaluate", "score"),
    ),
}
"""The settings (single ones or whole groups) whose change redoes a stage.

`device`, `shard`, `threads` and `save_every_minutes` redo none, nor do those of WITHOUT_EFFECT.
"""


@dataclass(frozen=True)
class Options:
    """How a verb is carried out, apart from what its recipe says."""

    dry_run: bool = False
    json: bool = False
    debug: bool = False
    world: World = ALONE
    """The processes that carry it out together."""


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, with `key=value` overrides; its name is the file's unless it has its own.

    Raises: SettingsError naming every fault at once.
    """
    recipe = read_settings(Recipe, path, overrides)
    return recipe if recipe.name else recipe.model_copy(update={"name": path.stem})


def stage_inputs(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """What a stage depends on: its settings by dotted key, a file or folder as a Path, and the form of its texts.

    >>> sorted(stage_inputs(Recipe(), "pretrain"))
    ['pretrain', 'seed']
    """
    keys = STAGE_KEYS[stage]
    without = {*WITHOUT_EFFECT, *UNTRAINED.get(stage, ())}
    if stage == "tune" and recipe.task.name == "custom" and recipe.task.judge == "label":
        without.discard("task.judge")  # answers that are trained on are then the words of the labels
    inputs = {key: value for key, value in flatten(recipe).items() if _covered(key, keys) and key not in without}
    if "tune.batch_rows" in inputs:
        inputs["tune.batch_rows"] = recipe.tune.batch_rows * recipe.tune.accumulation
    inputs |= {key: value for key, value in (_files(recipe) | row_limits(recipe)).items() if key in inputs}
    if _covered("task.labels", keys) and recipe.task.labels:
        inputs["task.labels, in order"] = list(recipe.task.labels)  # the last one is the positive one
    if stage == "prepare":
        inputs["form of texts"] = TEXT_FORM
    return inputs


UNTRAINED: Mapping[Stage, tuple[str, ...]] = {"tune": ("task.judge", "task.max_new_tokens"), "merge": ("task.judge",)}
"""Settings of the task that change how a stage's model is asked or judged, and no weight."""
WITHOUT_EFFECT = (
    *("tune.accumulation", "tune.batch_tokens", "tune.gradient_checkpointing", "tune.compile", "tune.tensorboard"),
    *("pretrain.compile", "pretrain.gradient_checkpointing", "pretrain.pass_tokens", "evaluate.engine"),
    "adapter.force_base",
)
"""Settings of how a stage computes, not what comes out: they may be changed before a stopped training goes on.

What a base's own dropout (GPT-2's, for one) drops still depends on the passes; an adapter's dropout does not.
Of `tune.accumulation` the rows of a step count, which are `tune.batch_rows` times it.
"""
TEXT_FORM = 5
"""Goes up where the same settings make other texts: another written working, another generator. Rows that an older
lotune prepared in the other form are then made anew."""
PRETRAINING_PATHS = ("start", "text", "tokenizer", "architecture")
"""Settings of pre-training that name a file or a folder."""


def _covered(key: str, keys: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in keys)


def _files(recipe: Recipe) -> dict[str, Path]:
    """The input files and folders that a recipe names, by dotted key."""
    named = {
        "data.train": recipe.data.train,
        "data.validation": recipe.data.validation,
        "data.test": recipe.data.test,
        "retention.data": recipe.retention.data,
        **{f"pretrain.{name}": getattr(recipe.pretrain, name, None) for name in PRETRAINING_PATHS},
        "adapter.start": recipe.adapter.start,
    }
    return {key: path for key, path in named.items() if path is not None}


def row_limits(recipe: Recipe) -> dict[str, Any]:
    """How many rows of each evaluation set are asked at most, by dotted key; None is a whole file."""
    data, retention = recipe.data, recipe.retention
    return {
        "data.validation_rows": most_rows(data.validation_rows, data.validation, VALIDATION_ROWS),
        "data.test_rows": most_rows(data.test_rows, data.test, TEST_ROWS),
        "retention.rows": most_rows(retention.rows, retention.data, RETENTION_ROWS),
    }


def check_files(recipe: Recipe) -> None:
    """Nothing, where every file or folder of rows that a recipe names is there. Raises: DataError naming the others."""
    faults = [
        f"{key}: {path} is a folder without files" if path.is_dir() else f"{key}: there is no file {path}"
        for key, path in _files(recipe).items()
        if not key.endswith(".start") and not key.startswith("pretrain.") and not _is_there(path)
    ]
    if faults:
        raise DataError(
            "recipe", "; ".join(faults), "files of rows, or folders", "check the paths: they count from where you are"
        )


def _is_there(path: Path) -> bool:
    """Whether a path is a file, or a folder with something in it."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def check_extras(recipe: Recipe) -> None:
    """Raise SettingsError where a recipe asks for files of TensorBoard and it is not installed."""
    if recipe.tune.tensorboard and find_spec("tensorboard") is None:
        raise SettingsError(
            "tune.tensorboard", "TensorBoard is not installed", remedy="pip install 'lotune[tensorboard]'"
        )


def check_pretraining_paths(recipe: Recipe) -> None:
    """Nothing, where what pre-training reads is there. Raises: DataError naming all that is not."""
    missing = [f"{key}: there is no {path}" for key, path in _files(recipe).items() if not path.exists()]
    faults = [fault for fault in missing if fault.startswith("pretrain.")]
    if faults:
        raise DataError("recipe", "; ".join(faults), remedy="check the paths: they count from where you are")
