"""A recipe: the whole of a run's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lotune.data.settings import TEST_ROWS, VALIDATION_ROWS, DataSettings, most_rows
from lotune.distributed import SINGLE_PROCESS, ProcessGroup
from lotune.errors import DataError, SettingsError
from lotune.evaluate.settings import RETENTION_ROWS, EvaluateSettings, RetentionSettings, ScoreSettings
from lotune.model.methods.registry import DEFAULT_METHOD, METHODS, AnyAdapterSettings, adapter_settings
from lotune.model.settings import BaseSettings
from lotune.settings import Settings, Switch, read_settings
from lotune.tasks.registry import DEFAULT_TASK, AnyTaskSettings, task_settings
from lotune.train.settings import CheckpointSettings, PretrainSettings, TuneSettings


class Recipe(Settings):
    """A run: what differs from these defaults stands in the recipe file."""

    name: str | None = Field(None, pattern=r"^[^/\\]+$")
    """Name of the run and of its folder; null takes the recipe file's name."""
    runs: Path = Path("runs")
    """Folder that holds the run folders."""
    seed: int = Field(0, ge=0)
    """Seed of everything that is drawn at random."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model computes; auto: the first GPU, otherwise the CPU."""
    fsdp: Switch = "auto"
    """Whether several processes (torchrun) shard the weights; auto: only if they do not fit on each GPU."""
    threads: int | None = Field(None, ge=1, le=4096)
    """CPU threads; null: one per core."""
    save_every_minutes: float = Field(5.0, ge=0)
    """Minutes between two saved states, from which a training resumes after a crash; 0: save after every step."""
    base: BaseSettings = Field(default_factory=BaseSettings)
    task: AnyTaskSettings = Field(default_factory=lambda: task_settings(DEFAULT_TASK))
    data: DataSettings = Field(default_factory=DataSettings)
    adapter: AnyAdapterSettings = Field(default_factory=adapter_settings)
    tune: TuneSettings = Field(default_factory=TuneSettings)
    checkpoints: CheckpointSettings = Field(default_factory=CheckpointSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    score: ScoreSettings = Field(default_factory=ScoreSettings)
    pretrain: PretrainSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_task_and_method(cls, values: Any) -> Any:
        """Take settings that name no task or method for those of the default one."""
        if not isinstance(values, dict):
            return values
        defaults = {"task": {"name": DEFAULT_TASK}, "adapter": {"method": DEFAULT_METHOD}}
        named = {key: tag | values[key] for key, tag in defaults.items() if isinstance(values.get(key), dict)}
        return values | named

    @property
    def merged_checkpoints(self) -> Literal["all", "chosen", "none"]:
        """Which checkpoints are merged: "auto" is the chosen one where the method can be merged."""
        if self.checkpoints.merged != "auto":
            return self.checkpoints.merged
        return "chosen" if METHODS[self.adapter.method].mergeable else "none"

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.runs / (self.name or "run")


@dataclass(frozen=True)
class RunOptions:
    """How a verb is carried out, apart from what its recipe says."""

    dry_run: bool = False
    json: bool = False
    debug: bool = False
    world: ProcessGroup = SINGLE_PROCESS
    """The processes that carry it out together."""


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, with `key=value` overrides; its name is the file's unless it has its own.

    Raises: SettingsError naming every fault at once.
    """
    recipe = read_settings(Recipe, path, overrides)
    return recipe if recipe.name else recipe.model_copy(update={"name": path.stem})


PRETRAINING_PATHS = ("init_from", "corpus", "tokenizer", "config_file")
"""Settings of pre-training that name a file or a folder."""


def input_files(recipe: Recipe) -> dict[str, Path]:
    """The input files and folders that a recipe names, by dotted key."""
    named = {
        "data.train": recipe.data.train,
        "data.validation": recipe.data.validation,
        "data.test": recipe.data.test,
        "retention.data": recipe.retention.data,
        **{f"pretrain.{name}": getattr(recipe.pretrain, name, None) for name in PRETRAINING_PATHS},
        "adapter.init_from": recipe.adapter.init_from,
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


def require_input_files(recipe: Recipe) -> None:
    """Nothing, where every file or folder of rows that a recipe names is there. Raises: DataError naming the others."""
    faults = [
        f"{key}: {path} is a folder without files" if path.is_dir() else f"{key}: there is no file {path}"
        for key, path in input_files(recipe).items()
        if not key.endswith(".init_from") and not key.startswith("pretrain.") and not _is_there(path)
    ]
    if faults:
        raise DataError(
            "recipe", "; ".join(faults), "files of rows, or folders", "check the paths: they count from where you are"
        )


def _is_there(path: Path) -> bool:
    """Whether a path is a file, or a folder with something in it."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def check_method(recipe: Recipe) -> None:
    """Raise SettingsError where a recipe asks for merged models of a method that cannot be merged."""
    method = recipe.adapter.method
    if recipe.merged_checkpoints != "none" and not METHODS[method].mergeable:
        found = f"is {recipe.checkpoints.merged}, and {method} adapters cannot be merged into a base"
        raise SettingsError("checkpoints.merged", found, "auto or none", "use the adapter beside its base")


def check_extras(recipe: Recipe) -> None:
    """Raise SettingsError where a recipe asks for files of TensorBoard and it is not installed."""
    if recipe.tune.tensorboard and find_spec("tensorboard") is None:
        raise SettingsError(
            "tune.tensorboard",
            "TensorBoard is not installed",
            remedy="pip install '.[tensorboard]' in lotune's source folder",
        )


def check_pretraining_paths(recipe: Recipe) -> None:
    """Nothing, where what pre-training reads is there. Raises: DataError naming all that is not."""
    missing = [f"{key}: there is no {path}" for key, path in input_files(recipe).items() if not path.exists()]
    faults = [fault for fault in missing if fault.startswith("pretrain.")]
    if faults:
        raise DataError("recipe", "; ".join(faults), remedy="check the paths: they count from where you are")
