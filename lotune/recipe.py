"""The recipe: all settings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lotune.contest.exam_files import ExamSettings
from lotune.data.settings import TEST_ROWS, VALIDATION_ROWS, DataSettings, row_limit
from lotune.distributed import SINGLE_PROCESS, ProcessGroup
from lotune.errors import DataError, SettingsError, install_extra
from lotune.evaluate.abilities import AbilitySettings
from lotune.evaluate.retention import RETENTION_ROWS, RETENTION_VALIDATION_ROWS, RetentionSettings
from lotune.evaluate.settings import EvaluateSettings, ScoreSettings
from lotune.model.methods.registry import DEFAULT_METHOD, METHODS, AnyAdapterSettings, adapter_settings
from lotune.model.settings import BaseSettings
from lotune.recipes.shipped import recipe_file, recipe_names
from lotune.report.languages import Language
from lotune.settings import Settings, Switch, join_names, read_settings
from lotune.tasks.registry import DEFAULT_TASK, AnyTaskSettings, task_settings
from lotune.train.settings import CheckpointSettings, PretrainSettings, TuneSettings


class Recipe(Settings):
    """All settings of a run; a recipe file holds those that differ from the defaults."""

    name: str | None = Field(None, pattern=r"^[^/\\]+$")
    """Name of the run and its folder; null: the name of the recipe file."""
    runs: Path = Path("runs")
    """Folder for the run folders."""
    seed: int = Field(0, ge=0)
    """Random seed of the run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device; auto: the first GPU, otherwise the CPU."""
    fsdp: Switch = "auto"
    """Whether processes under torchrun shard the weights (FSDP2); auto: only if they do not fit on each GPU."""
    threads: int | None = Field(None, ge=1, le=4096)
    """Number of CPU threads; null: one per core."""
    save_every_minutes: float = Field(5.0, ge=0)
    """Minutes between saved training states, from which a crashed run resumes; 0: save after every step."""
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
    exam: ExamSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_task_and_method(cls, values: Any) -> Any:
        """Name the default task and method in settings that name none."""
        if not isinstance(values, dict):
            return values
        # pydantic tells the models of a union apart by this field, and requires it even if it has a default.
        defaults = {"task": {"name": DEFAULT_TASK}, "adapter": {"method": DEFAULT_METHOD}}
        named = {key: tag | values[key] for key, tag in defaults.items() if isinstance(values.get(key), dict)}
        return values | named

    @property
    def merged_checkpoints(self) -> Literal["all", "chosen", "none"]:
        """The checkpoints to merge; "auto" is the chosen one if the method can be merged."""
        if self.checkpoints.merged != "auto":
            return self.checkpoints.merged
        return "chosen" if METHODS[self.adapter.method].mergeable else "none"

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.runs / (self.name or "run")


@dataclass(frozen=True)
class RunOptions:
    """Options of a command that are not settings of its recipe."""

    dry_run: bool = False
    json: bool = False
    debug: bool = False
    language: Language = "en"
    """Language of the scorecard in the terminal, and of the report."""
    world: ProcessGroup = SINGLE_PROCESS
    """The processes that run the command together."""


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a file, or the shipped one of this name, with `key=value` overrides.

    Without a name, the run gets that of the file.
    Raises: SettingsError listing all errors at once, or the names of the shipped recipes if there is no such file.
    """
    file = recipe_file(path)
    if not file.exists():
        expected = f"a YAML file, or a recipe of lotune: {join_names(recipe_names())}"
        remedy = "check the path; `lotune run --list` describes the recipes of lotune"
        raise SettingsError(str(path), "cannot be read: No such file or directory", expected, remedy)
    recipe = read_settings(Recipe, file, overrides)
    return recipe if recipe.name else recipe.model_copy(update={"name": file.stem})


PRETRAINING_PATHS = ("init_from", "corpus", "tokenizer", "config_file")
"""Settings of pre-training that hold a path."""


def input_files(recipe: Recipe) -> dict[str, Path]:
    """Return the input files and folders of a recipe by dotted key; a tokeniser may also be a name of the hub."""
    paths = {
        "data.train": recipe.data.train,
        "data.validation": recipe.data.validation,
        "data.test": recipe.data.test,
        **{f"{recipe.retention.key_of(one)}.data": one.data for one in recipe.retention.measured},
        **{f"{recipe.retention.key_of(one)}.validation": one.validation for one in recipe.retention.measured},
        "retention.replay.data": recipe.retention.replay.data,
        **{f"pretrain.{name}": getattr(recipe.pretrain, name, None) for name in PRETRAINING_PATHS},
        "adapter.init_from": recipe.adapter.init_from,
        "exam.dev": recipe.exam.dev if recipe.exam else None,
    }
    by_name = {"pretrain.tokenizer"}
    return {key: path for key, path in paths.items() if path is not None and (key not in by_name or path.exists())}


def row_limits(recipe: Recipe) -> dict[str, Any]:
    """Return the maximum number of rows of each evaluation set by dotted key; None stands for the whole file."""
    data, abilities = recipe.data, {recipe.retention.key_of(one): one for one in recipe.retention.measured}
    return {
        "data.validation_rows": row_limit(data.validation_rows, data.validation, VALIDATION_ROWS),
        "data.test_rows": row_limit(data.test_rows, data.test, TEST_ROWS),
        **{f"{key}.rows": row_limit(one.rows, one.data, RETENTION_ROWS) for key, one in abilities.items()},
        **{f"{key}.validation_rows": watched_row_limit(one) for key, one in abilities.items()},
    }


def watched_row_limit(ability: AbilitySettings) -> int | None:
    """Return the maximum number of rows on which an ability is watched while tuning; 0 for one that does not gate."""
    if not ability.gate:
        return 0
    return row_limit(ability.validation_rows, ability.validation, RETENTION_VALIDATION_ROWS)


def require_input_files(recipe: Recipe) -> None:
    """Raise DataError unless all files and folders of rows in a recipe exist."""
    # All at once, before any work. Starting points and the corpus are left to the stages that read them: a finished
    # pre-training no longer needs its corpus.
    faults = [
        f"{key}: {path} is an empty folder" if path.is_dir() else f"{key}: {path} does not exist"
        for key, path in input_files(recipe).items()
        if not key.endswith(".init_from") and not key.startswith("pretrain.") and not _has_content(path)
    ]
    if faults:
        raise DataError(
            "recipe", "; ".join(faults), "files or folders of rows", "check the paths; they start at the current folder"
        )


def _has_content(path: Path) -> bool:
    """Return whether a path is a file, or a folder that is not empty."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def check_method(recipe: Recipe) -> None:
    """Raise SettingsError if a recipe requires merging or a strength of a method that cannot do it."""
    method = recipe.adapter.method
    if recipe.merged_checkpoints != "none" and not METHODS[method].mergeable:
        fault = f"is {recipe.checkpoints.merged}, and {method} adapters cannot be merged into a base"
        raise SettingsError("checkpoints.merged", fault, "auto or none", "use the adapter beside its base")
    if METHODS[method].trains_base and recipe.tune.quantization != "none":
        fault = f"is {recipe.tune.quantization}, and weights that are trained cannot be quantised"
        raise SettingsError("tune.quantization", fault, "none", "adapter.method=lora")
    if recipe.retention.strength not in ("auto", 1) and METHODS[method].proportional is None:
        fault = f"is {recipe.retention.strength}, and {method} adapters have no strength that can be lowered"
        raise SettingsError("retention.strength", fault, "auto or 1", "adapter.method=lora")


def check_run_settings(recipe: Recipe) -> None:
    """Raise SettingsError for settings that a run does not have."""
    if recipe.evaluate.quantize != "none":
        found = "a run's scorecard is that of the models as they were tuned"
        raise SettingsError("evaluate.quantize", found, "none", "measure one model with lotune evaluate --model")


def check_extras(recipe: Recipe) -> None:
    """Raise SettingsError if a recipe needs TensorBoard and it is not installed."""
    parts = {"tune": recipe.tune.tensorboard, "pretrain": recipe.pretrain is not None and recipe.pretrain.tensorboard}
    # `find_spec` does not import it, which takes seconds.
    for name, wanted in parts.items():
        if wanted and find_spec("tensorboard") is None:
            found, remedy = "TensorBoard is not installed", install_extra("tensorboard")
            raise SettingsError(f"{name}.tensorboard", found, remedy=remedy)


def check_pretraining_paths(recipe: Recipe) -> None:
    """Raise DataError unless all input paths of pre-training exist."""
    missing = [f"{key}: {path} does not exist" for key, path in input_files(recipe).items() if not path.exists()]
    faults = [fault for fault in missing if fault.startswith("pretrain.")]
    if faults:
        raise DataError("recipe", "; ".join(faults), remedy="check the paths; they start at the current folder")
