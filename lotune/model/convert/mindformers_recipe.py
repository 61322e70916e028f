"""A recipe of lotune from a fine-tuning configuration of MindFormers, and what the recipe cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lotune.errors import SettingsError
from lotune.model.catalogue import CATALOGUE
from lotune.model.convert.mindformers import MindFormersTuning, read_mindformers

OPTIMIZERS = ("adamw", "adamweightdecay", "fp32stateadamweightdecay", "fusedadamweightdecay", "pmadamw")
"""MindFormers' names of AdamW, in lower case."""
SCHEDULES = {
    "CosineWithWarmUpLR": "cosine", "CosineAnnealingLR": "cosine", "LinearWithWarmUpLR": "linear",
    "ConstantWarmUpLR": "constant",
}  # fmt: skip
"""The courses of the learning rate that both programs have, by MindFormers' name."""
DTYPES = ("bfloat16", "float32")
"""Dtypes that both programs can train in."""
READABLE = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
"""Endings of files of rows that lotune reads."""
USED = (
    "seed", "run_mode", "use_parallel", "runner_config.epochs", "runner_config.batch_size",
    "runner_config.gradient_accumulation_steps", "parallel_config.data_parallel", "train_dataset.batch_size",
    "model.model_config.type", "model.model_config.seq_length", "model.model_config.hidden_size",
    "model.model_config.num_layers", "model.model_config.num_heads", "model.model_config.n_kv_heads",
    "model.model_config.vocab_size", "model.model_config.intermediate_size", "model.model_config.multiple_of",
    "model.model_config.ffn_dim_multiplier", "model.model_config.has_bias", "model.model_config.qkv_has_bias",
    "model.model_config.tie_word_embeddings", "model.model_config.pet_config.pet_type",
    "model.model_config.pet_config.lora_rank", "model.model_config.pet_config.lora_alpha",
    "model.model_config.pet_config.lora_dropout", "model.model_config.pet_config.target_modules", "model.arch.type",
    "trainer.type", "trainer.model_name", "model.model_config.checkpoint_name_or_path",
)  # fmt: skip
"""Values that a recipe holds whatever they are, or that say which base it names."""
REASONS = {
    "parallel": "how MindSpore divides the work; torchrun decides that here",
    "context": "settings of MindSpore on Ascend",
    "callbacks": "checkpoints and logs have settings of their own: checkpoints.count",
    "model": "belongs to the base, or to its answers",
    "processor": "the tokeniser comes with the base",
    "runner_wrapper": "gradients are not scaled in float32 and bfloat16",
    "load_checkpoint": "weights of MindSpore: take the base's safetensors, and name their folder in base.model",
    "train_dataset": "how MindSpore feeds rows",
    "eval_dataset": "how MindSpore feeds rows",
}
"""Why values are left out, by the beginning of their key."""


class Left(NamedTuple):
    """A value that a recipe does not hold: its dotted key in the file, the value, and why it is left out."""

    key: str
    value: Any
    why: str


def recipe_of(path: Path) -> tuple[dict[str, Any], list[Left]]:
    """Return a recipe as nested values, and what it does not hold of a configuration of MindFormers.

    Raises: SettingsError if the file cannot be read, is none, or does not train LoRA.
    """
    tuning = read_mindformers(path)
    if (tuning.method or "").lower() != "lora" or tuning.rank is None or tuning.target_modules is None:
        found = f"trains {tuning.method or 'all parameters'}" if tuning.method != "lora" else "lacks rank or targets"
        raise SettingsError(str(path), found, "model.model_config.pet_config with pet_type: lora, rank and targets")
    carried = _Carried(tuning.values)
    adapter = {"rank": tuning.rank, "alpha": tuning.alpha, "dropout": tuning.dropout}
    groups: dict[str, dict[str, Any]] = {
        "base": {"model": _base_model(tuning), **carried.dtype()},
        "data": {"train": carried.rows(), "max_length": tuning.sequence_length},
        "adapter": {"method": "lora", **adapter, "target_modules": tuning.target_modules},
        "tune": {**carried.tune(tuning), **_batch(tuning)},
    }
    recipe: dict[str, Any] = {} if tuning.seed is None else {"seed": tuning.seed}
    for name, group in groups.items():
        if held := {key: value for key, value in group.items() if value is not None}:
            recipe[name] = held
    return recipe, list(_left(tuning, carried.keys))


def _base_model(tuning: MindFormersTuning) -> str:
    """Return the hub name of a base in the catalogue, or else what the file calls it."""
    if tuning.catalogued is not None:
        return CATALOGUE[tuning.catalogued].hub_names[0]
    return tuning.base_name or tuning.architecture


def _batch(tuning: MindFormersTuning) -> dict[str, int]:
    """Return the rows of a micro-batch, and how many make up a step, so that a step has as many rows as there."""
    if tuning.batch_size is None or tuning.rows_per_step is None:
        return {}
    copies = tuning.rows_per_step // tuning.batch_size
    return {"micro_batch_rows": tuning.batch_size, **({"gradient_accumulation_steps": copies} if copies > 1 else {})}


class _Carried:
    """The values that a recipe holds only if lotune has their like; `keys` are those that it does."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.keys: set[str] = set(USED)

    def _take(self, key: str, convert: Callable[[Any], Any]) -> Any:
        """Return the converted value of a key; None if it is missing or has no like here."""
        value = self._values.get(key)
        try:
            converted = None if value in (None, "") else convert(value)
        except (TypeError, ValueError, KeyError):
            return None
        if converted is not None:
            self.keys.add(key)
        return converted

    def dtype(self) -> dict[str, str]:
        """Return the dtype of the base, if both programs can train in it."""
        dtype = self._take("model.model_config.compute_dtype", lambda name: name if name in DTYPES else None)
        return {} if dtype is None else {"dtype": dtype}

    def rows(self) -> str | None:
        """Return the training rows, if they are in a file that lotune reads; MindRecord is none."""
        key = "train_dataset.data_loader.dataset_dir"
        rows: str | None = self._take(key, lambda path: path if str(path).endswith(READABLE) else None)
        return rows

    def tune(self, tuning: MindFormersTuning) -> dict[str, Any]:
        """Return the settings of the training."""
        rate = tuning.learning_rate or 0
        self.keys |= {"lr_schedule.learning_rate", "optimizer.learning_rate"} if rate else set()
        take, optimizer, schedule = self._take, "optimizer", "lr_schedule"
        ratio = take(f"{schedule}.warmup_ratio", float)
        betas: list[Any] = take(f"{optimizer}.betas", list) or [None, None]
        return {
            "epochs": take("runner_config.epochs", float),
            "optimizer": take(f"{optimizer}.type", lambda name: "adamw" if str(name).lower() in OPTIMIZERS else None),
            "learning_rate": tuning.learning_rate,
            "lr_schedule": take(f"{schedule}.type", lambda name: SCHEDULES.get(str(name))),
            "warmup_ratio": ratio,
            # There, the ratio prevails; here, the number does.
            "warmup_steps": take(f"{schedule}.warmup_steps", int) if ratio is None else None,
            "min_lr_ratio": take(f"{schedule}.lr_end", lambda end: float(end) / rate if rate else None),
            "weight_decay": take(f"{optimizer}.weight_decay", float),
            "adam_beta1": take(f"{optimizer}.beta1", float) if betas[0] is None else float(betas[0]),
            "adam_beta2": take(f"{optimizer}.beta2", float) if betas[0] is None else float(betas[1]),
            "adam_epsilon": take(f"{optimizer}.eps", float),
            "max_grad_norm": self._clipping(),
            "gradient_checkpointing": take("recompute_config.recompute", lambda on: True if on is True else None),
        }

    def _clipping(self) -> float | None:
        """Return the largest norm of a gradient; 0 if gradients are not clipped."""
        clips = self._take("runner_wrapper.use_clip_grad", lambda on: on if isinstance(on, bool) else None)
        norm: float | None = self._take("runner_wrapper.max_grad_norm", float)
        return 0.0 if clips is False else norm


def _left(tuning: MindFormersTuning, used: set[str]) -> Iterator[Left]:
    """Yield every value that has content and that the recipe does not hold."""
    for key, value in tuning.values.items():
        # The usual file repeats the settings of a data set, by reference, in those of its task.
        source = key.replace("_dataset_task.dataset_config.", "_dataset.")
        is_repeated = source != key and tuning.values.get(source) == value
        if key not in used and not is_repeated and value not in (None, "", [], {}):
            yield Left(key, value, _reason(key))
    if tuning.catalogued is None:
        yield Left("model.model_config.type", tuning.architecture, "not in the catalogue: check base.model")
    elif tuning.architecture.startswith("InternLM"):
        why = "the base on the hub needs code of its own: convert it, and name its folder in base.model"
        yield Left("model.model_config.type", tuning.architecture, why)


def _reason(key: str) -> str:
    if key == "lr_schedule.total_steps":
        return "length of the schedule alone; here it is that of the training, which follows from the epochs"
    if key == "model.model_config.compute_dtype":
        return "base.dtype is bfloat16, float32, or the faster of them (auto)"
    if key == "lr_schedule.warmup_steps":
        return "warmup_ratio prevails there"
    if key == "train_dataset.data_loader.dataset_dir":
        return "lotune does not read MindRecord: name the rows that it was made from in data.train"
    return next((why for beginning, why in REASONS.items() if key.startswith(beginning)), "has no like in a recipe")
