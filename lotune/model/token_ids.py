"""The special tokens that a model's files name by number: whole numbers of its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lotune.errors import ModelError
from lotune.model.weight_files import CONFIG, read_object

GENERATION = "generation_config.json"
SPECIAL_TOKEN_FIELDS = ("eos_token_id", "bos_token_id", "pad_token_id")
NO_PADDING = -1
"""What configurations of older models have for a padding token that they lack."""


def check_token_ids(folder: Path, name: str) -> None:
    """Check that the special tokens in a model's configurations are tokens of its vocabulary.

    A number beyond the vocabulary is no fault if it is the architecture's default: a smaller vocabulary left it behind.
    Raises: ModelError naming file and key.
    """
    config = read_object(folder / CONFIG, name)
    text = config.get("text_config")
    inner: Mapping[str, Any] = text if isinstance(text, dict) else {}
    vocabulary = next((size for one in (inner, config) if isinstance(size := one.get("vocab_size"), int)), None)
    named = [(CONFIG, config), (CONFIG, inner)]
    if (folder / GENERATION).is_file():
        named.append((GENERATION, read_object(folder / GENERATION, name)))
    for file, values in named:
        for key in SPECIAL_TOKEN_FIELDS:
            _check(f"{name}/{file}: {key}", values.get(key), vocabulary, _defaults(config, inner, key))


def _check(where: str, value: Any, vocabulary: int | None, defaults: set[Any]) -> None:
    many = (
        value
        if isinstance(value, list) and where.endswith(SPECIAL_TOKEN_FIELDS[0])
        else []
        if value is None
        else [value]
    )
    for one in many:
        whole = isinstance(one, int) and not isinstance(one, bool)
        absent = one == NO_PADDING and where.endswith(SPECIAL_TOKEN_FIELDS[2])
        known = whole and (one in defaults or 0 <= one < (one + 1 if vocabulary is None else vocabulary))
        if not (known or (whole and absent)):
            expected = "a whole number" if vocabulary is None else f"a whole number from 0 to {vocabulary - 1}"
            raise ModelError(where, f"is {value!r}"[:80], expected, "take it from the model's tokeniser")


def _defaults(config: Mapping[str, Any], inner: Mapping[str, Any], key: str) -> set[Any]:
    """Return the defaults of a configuration's architectures for a key."""
    from transformers import CONFIG_MAPPING

    kinds = (str(one.get("model_type")) for one in (config, inner))
    return {getattr(CONFIG_MAPPING[kind](), key, None) for kind in kinds if kind in CONFIG_MAPPING}
