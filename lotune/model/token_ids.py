"""A check of the special token ids in a model's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lotune.errors import ModelError
from lotune.model.weight_files import CONFIG, read_object

GENERATION = "generation_config.json"
SPECIAL_TOKEN_FIELDS = ("eos_token_id", "bos_token_id", "pad_token_id")
NO_PADDING = -1
"""The padding token of configurations of older models that have none."""


def check_token_ids(folder: Path, name: str) -> None:
    """Check that the special token ids in a model's configurations are ids of its vocabulary.

    An id beyond the vocabulary is accepted if it is the architecture's default, which a config.json with a smaller
    vocabulary may have kept.

    Raises: ModelError that names file and key.
    """
    config = read_object(folder / CONFIG, name)
    text = config.get("text_config")
    inner: Mapping[str, Any] = text if isinstance(text, dict) else {}
    sizes = (level.get("vocab_size") for level in (inner, config))
    vocabulary = next((size for size in sizes if isinstance(size, int)), None)
    files = [(CONFIG, config), (CONFIG, inner)]
    if (folder / GENERATION).is_file():
        files.append((GENERATION, read_object(folder / GENERATION, name)))
    for file, values in files:
        for key in SPECIAL_TOKEN_FIELDS:
            _check(f"{name}/{file}: {key}", values.get(key), vocabulary, _defaults(config, inner, key))


def _check(where: str, value: Any, vocabulary: int | None, defaults: set[Any]) -> None:
    # Only end-of-text may be several tokens.
    several = isinstance(value, list) and where.endswith(SPECIAL_TOKEN_FIELDS[0])
    for id in value if several else [] if value is None else [value]:
        is_integer = isinstance(id, int) and not isinstance(id, bool)
        is_absent = id == NO_PADDING and where.endswith(SPECIAL_TOKEN_FIELDS[2])
        is_token = is_integer and (id in defaults or 0 <= id < (id + 1 if vocabulary is None else vocabulary))
        if not (is_token or (is_integer and is_absent)):
            expected = "a whole number" if vocabulary is None else f"a whole number from 0 to {vocabulary - 1}"
            raise ModelError(where, f"is {value!r}"[:80], expected, "take it from the model's tokeniser")


def _defaults(config: Mapping[str, Any], inner: Mapping[str, Any], key: str) -> set[Any]:
    """Return the default values of a key in the configuration's architectures."""
    from transformers import CONFIG_MAPPING

    types = (str(level.get("model_type")) for level in (config, inner))
    return {getattr(CONFIG_MAPPING[name](), key, None) for name in types if name in CONFIG_MAPPING}
