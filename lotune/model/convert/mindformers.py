"""Fine-tuning configurations of MindFormers: read as what they say, and turned into a recipe of lotune.

The layout is that of MindFormers 1.0 to 1.2 (github.com/mindspore-lab/mindformers, research/*/finetune_*.yaml).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lotune.errors import SettingsError
from lotune.model.catalogue import CATALOGUE, catalogue_name
from lotune.model.shapes import ModelShape, shape_of_config
from lotune.settings import load_yaml

MAX_BYTES = 200_000
"""Size of a file beyond which it is no configuration; real ones have some kilobytes."""
MAX_ALIASES = 12
"""References to anchors beyond which a file is refused, as they can multiply; real ones have about four."""
MAX_VALUES = 5_000
"""Number of values beyond which a file is refused."""


@dataclass(frozen=True)
class MindFormersTuning:
    """What a fine-tuning configuration of MindFormers says about base, adapter and training; None is unsaid."""

    architecture: str
    base_name: str | None
    """Name of the checkpoint or of the model."""
    base_config: Mapping[str, Any] | None
    """The base's sizes in the form of config.json; None for an architecture that lotune has no formula for."""
    method: str | None
    rank: int | None
    alpha: float | None
    dropout: float | None
    target_modules: str | None
    learning_rate: float | None
    batch_size: int | None
    rows_per_step: int | None
    """Rows of an optimizer step, over all devices."""
    sequence_length: int | None
    seed: int | None
    values: Mapping[str, Any] = field(repr=False)
    """All values of the file by dotted key."""

    @property
    def shape(self) -> ModelShape | None:
        """The shape of the base; None if there is no formula for it."""
        return None if self.base_config is None else shape_of_config(self.base_config)

    @property
    def catalogued(self) -> str | None:
        """The name in the catalogue of a base of this shape; the one that the file names, if there are several."""
        shape = self.shape
        fitting = [] if shape is None else [name for name, entry in CATALOGUE.items() if entry.shape == shape]
        named = None if self.base_name is None else catalogue_name(self.base_name.removesuffix("_lora"))
        return named if named in fitting else next(iter(fitting), None)


def is_mindformers(values: object) -> bool:
    """Return whether the content of a YAML file is a configuration of MindFormers.

    >>> is_mindformers({"model": {"model_config": {}}}), is_mindformers({"base": {"model": "nano"}})
    (True, False)
    """
    model = values.get("model") if isinstance(values, dict) else None
    return isinstance(model, dict) and isinstance(model.get("model_config"), dict)


def load_bounded_yaml(path: Path) -> Any:
    """Return the content of a YAML file from outside: safe types only, and bounded in size.

    Raises: SettingsError if it cannot be read, or is larger than a configuration.
    """
    import yaml

    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SettingsError(str(path), f"cannot be read: {reason}", "a YAML file", "check the path") from None
    if len(content) > MAX_BYTES:
        raise SettingsError(str(path), f"has more than {MAX_BYTES:,} bytes", "a configuration")
    try:
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        aliases = 0  # `load_yaml` names the line
    if aliases > MAX_ALIASES:
        raise SettingsError(str(path), f"has {aliases} references to anchors", f"at most {MAX_ALIASES}")
    try:
        return load_yaml(text, str(path))
    except RecursionError:
        raise SettingsError(str(path), "is nested too deeply", "a configuration") from None


def read_mindformers(path: Path) -> MindFormersTuning:
    """Return what a fine-tuning configuration of MindFormers says.

    Raises: SettingsError if it cannot be read, is none, or holds a number that cannot be.
    """
    content = load_bounded_yaml(path)
    if not is_mindformers(content):
        raise SettingsError(str(path), "has no model.model_config", "a configuration of MindFormers")
    values = dict(islice(_flat(content, "", str(path)), MAX_VALUES + 1))
    if len(values) > MAX_VALUES:
        raise SettingsError(str(path), f"has more than {MAX_VALUES:,} values", "a configuration")
    read = _Values(values, str(path))
    model, pet = "model.model_config", "model.model_config.pet_config"
    batch_size = read.integer("runner_config.batch_size") or read.integer("train_dataset.batch_size")
    names = ("model.model_config.checkpoint_name_or_path", "load_checkpoint", "trainer.model_name")
    return MindFormersTuning(
        architecture=read.text(f"{model}.type") or "",
        base_name=next((name for key in names if (name := read.text(key))), None),
        base_config=_base_config(read),
        method=read.text(f"{pet}.pet_type"),
        rank=read.integer(f"{pet}.lora_rank"),
        alpha=read.number(f"{pet}.lora_alpha"),
        dropout=read.number(f"{pet}.lora_dropout"),
        target_modules=_targets(read.values.get(f"{pet}.target_modules")),
        learning_rate=read.number("lr_schedule.learning_rate") or read.number("optimizer.learning_rate"),
        batch_size=batch_size,
        rows_per_step=None if batch_size is None else batch_size * _copies(read),
        sequence_length=read.integer(f"{model}.seq_length"),
        seed=read.integer("seed", least=0),
        values=values,
    )


@dataclass(frozen=True)
class _Values:
    """The values of a file by dotted key, read as the type that they have to be."""

    values: Mapping[str, Any]
    path: str

    def text(self, key: str) -> str | None:
        """Return a text; None for an empty or missing one."""
        value = self.values.get(key)
        return str(value) if value not in (None, "") else None

    def number(self, key: str) -> float | None:
        """Return a number that is not negative; YAML reads 1e-5 as a text."""
        value = self.values.get(key)
        if value in (None, ""):
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = -1.0
        if isinstance(value, bool) or not 0 <= number < 1e18:
            raise SettingsError(self.path, f"{key} is {value!r:.60}", "a number from 0 on")
        return number

    def integer(self, key: str, least: int = 1) -> int | None:
        """Return an integer."""
        number = self.number(key)
        if number is not None and (number != int(number) or number < least):
            raise SettingsError(self.path, f"{key} is {self.values[key]!r:.60}", f"an integer from {least} on")
        return None if number is None else int(number)


def _flat(value: Any, prefix: str, path: str) -> Iterator[tuple[str, Any]]:
    """Yield all values by dotted key; items of a list have their number."""
    if prefix.count(".") > 20:
        raise SettingsError(path, "is nested too deeply", "a configuration")
    items: Iterator[tuple[Any, Any]]
    if isinstance(value, dict) and value:
        items = iter(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = iter(enumerate(value))
    else:
        yield prefix.removesuffix("."), value
        return
    for key, inner in items:
        yield from _flat(inner, f"{prefix}{key}.", path)


def _targets(value: Any) -> str | None:
    """Return the pattern of target_modules; a list is one of alternatives."""
    names = value if isinstance(value, list) else [value] if value else []
    return "|".join(map(str, names)) or None


def _copies(read: _Values) -> int:
    """Return how many batches of `batch_size` rows make up an optimizer step."""
    copies = read.integer("runner_config.gradient_accumulation_steps") or 1
    if read.values.get("use_parallel"):
        copies *= read.integer("parallel_config.data_parallel") or 1
        if (read.integer("parallel_config.pipeline_stage") or 1) > 1:
            copies *= read.integer("parallel_config.micro_batch_num") or 1
    return copies


def _base_config(read: _Values) -> dict[str, Any] | None:
    """Return the base's sizes in the form of config.json, for architectures of Llama's kind."""
    kind, prefix = read.text("model.model_config.type"), "model.model_config"
    hidden, heads = read.integer(f"{prefix}.hidden_size"), read.integer(f"{prefix}.num_heads")
    layers, vocabulary = read.integer(f"{prefix}.num_layers"), read.integer(f"{prefix}.vocab_size")
    if kind not in ("LlamaConfig", "InternLMConfig", "InternLM2Config") or None in (hidden, heads, layers, vocabulary):
        return None
    assert hidden is not None
    biased = bool(read.values.get(f"{prefix}.has_bias"))
    family = {"InternLMConfig": "internlm", "InternLM2Config": "internlm2"}.get(kind, "llama")
    if read.values.get(f"{prefix}.qkv_has_bias"):
        family = "qwen2"
    return {
        "model_type": family, "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers,
        "vocab_size": vocabulary, "num_key_value_heads": read.integer(f"{prefix}.n_kv_heads") or heads,
        "intermediate_size": _inner_size(read, hidden), "bias": biased, "attention_bias": biased,
        "tie_word_embeddings": bool(read.values.get(f"{prefix}.tie_word_embeddings")),
    }  # fmt: skip


def _inner_size(read: _Values, hidden: int) -> int:
    """Return the size of the feed-forward part, by MindFormers' rule where the file does not name it."""
    prefix = "model.model_config"
    if (given := read.integer(f"{prefix}.intermediate_size")) is not None:
        return given
    multiple, multiplier = read.integer(f"{prefix}.multiple_of") or 256, read.number(f"{prefix}.ffn_dim_multiplier")
    inner = 4 * hidden if multiplier is None else int((multiplier + 0.01) * 4 * hidden)
    return multiple * -(-int(2 * inner / 3) // multiple)
