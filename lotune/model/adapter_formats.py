"""Formats of adapter_config.json: that of the installed PEFT, or of version 0.10.

PEFT 0.10 refuses a file with a field that it does not know, and later versions write all of theirs. A field may be left
out if it has its default, as the adapter then computes the same without it.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from lotune.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

PEFT_0_10 = "peft-0.10"
PEFT_0_10_FIELDS = (
    *("peft_type", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode"),
    *("r", "target_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "modules_to_save"),
    *("init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    *("megatron_config", "megatron_core", "loftq_config", "use_dora", "layer_replication"),
)
"""The fields of PEFT 0.10's LoraConfig and of the classes that it extends (`peft/tuners/lora/config.py`)."""
PEFT_0_10_INITIALISATIONS = ("gaussian", "pissa", "loftq")
"""The values of its `init_lora_weights` besides true and false; `pissa_niter_NUMBER` is another."""
NOTE_FIELDS = ("peft_version", "runtime_config")
"""Fields of later versions that say nothing about what the adapter computes."""
REMEDY = "adapter.format=peft, or continue from an adapter without it"


def check_fits_peft_0_10(config: Any, where: str) -> None:
    """Raise ModelError if PEFT 0.10 cannot hold a LoRA configuration of PEFT; `where` names the setting or folder."""
    for field in fields(config):
        value = getattr(config, field.name)
        known = field.name in (*PEFT_0_10_FIELDS, *NOTE_FIELDS)
        if not known and value != _default(field) and value:
            found = f"sets {field.name}, which PEFT 0.10 does not have"
            raise ModelError(where, found, "a plain LoRA adapter for adapter.format=peft-0.10", REMEDY)
    start = config.init_lora_weights
    if isinstance(start, str) and not start.startswith(PEFT_0_10_INITIALISATIONS):
        found = f"has init_lora_weights {start!r}, which PEFT 0.10 does not have"
        raise ModelError(where, found, "true or false for adapter.format=peft-0.10", REMEDY)


def _default(field: Any) -> Any:
    return field.default if field.default is not MISSING else field.default_factory()


def in_peft_0_10(values: dict[str, Any]) -> dict[str, Any]:
    """Return the content of an adapter_config.json with the fields of PEFT 0.10 alone.

    >>> in_peft_0_10({"r": 8, "peft_version": "0.21.2"})
    {'r': 8}
    """
    return {name: value for name, value in values.items() if name in PEFT_0_10_FIELDS}


def rewrite_in_peft_0_10(file: Path) -> None:
    """Rewrite an adapter_config.json with the fields of PEFT 0.10 alone."""
    import json

    values = in_peft_0_10(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")
