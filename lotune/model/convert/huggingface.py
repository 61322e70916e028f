"""Models that transformers knows, of which only weights or tokeniser are in another format: pickles become safetensors.

Names and configuration stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lotune.errors import ModelError
from lotune.model.convert.foreign import ForeignModel
from lotune.model.convert.sources import generation_config, has_weights, tensors_in_folder
from lotune.model.weight_files import CONFIG, read_object


def recognise_huggingface(source: Path) -> str:
    """Return what a source is if it is a folder of a model that transformers knows; else nothing."""
    if not source.is_dir() or not (source / CONFIG).is_file() or not has_weights(source):
        return ""
    kind = str(read_object(source / CONFIG, str(source)).get("model_type"))
    return f"{kind} in Hugging Face's layout" if _is_known(kind) else ""


def read_huggingface(source: Path) -> ForeignModel:
    """Return the model in a folder of Hugging Face's layout.

    Raises: ModelError if transformers does not know it, and as `tensors_in_folder`.
    """
    config = read_object(source / CONFIG, str(source))
    kind = str(config.get("model_type"))
    if not _is_known(kind):
        found = f"is a {kind!r}, which needs custom code"
        raise ModelError(
            f"{source}/{CONFIG}", found, "a model that transformers knows", "lotune runs no code of a model"
        )
    config.pop("auto_map", None)
    config.setdefault("architectures", [_architectures()[kind]])
    notes = [f"architecture: {kind}"]
    return ForeignModel(config, tensors_in_folder(source), source, notes, True, generation_config(source))


def _is_known(kind: str) -> bool:
    return kind in _architectures()


def _architectures() -> Mapping[str, str]:
    """Return the causal language model of transformers for each `model_type`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
