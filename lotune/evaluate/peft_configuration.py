"""What PEFT's adapter_config.json says about an adapter: method, base, ranks, and the parameters that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from lotune.errors import ModelError
from lotune.evaluate.adapter_layout import AdapterLayout, layout_of_ranks
from lotune.model.known_bases import read_config
from lotune.model.methods.target_names import matches_pattern
from lotune.model.shapes import ModelShape


class PeftConfiguration(BaseModel):
    """The settings of PEFT that decide which parameters an adapter has, under PEFT's names and with its defaults."""

    model_config = ConfigDict(extra="allow", frozen=True)

    peft_type: str
    base_model_name_or_path: str | None = None
    r: PositiveInt = 8
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    rank_pattern: dict[str, PositiveInt] | None = Field(default_factory=dict)
    modules_to_save: list[str] | None = None
    use_dora: bool | None = False
    num_virtual_tokens: PositiveInt | None = None

    @property
    def method(self) -> str:
        """The method, in lower case."""
        return self.peft_type.lower()

    @property
    def rank(self) -> int | None:
        """The rank of LoRA; None for another method."""
        return self.r if self.method == "lora" else None

    @property
    def uncounted(self) -> list[str]:
        """The settings in use whose parameters no formula here counts."""
        extra: dict[str, Any] = self.model_extra or {}
        return [name for name in UNCOUNTED if extra.get(name) not in (None, False, "none", [], {})]


UNCOUNTED = ("bias", "target_parameters", "trainable_token_indices", "lora_bias", "layer_replication", "arrow_config")
"""Settings of PEFT's LoRA that add parameters for which there is no formula here; all are unset by default."""
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
"""Names of the embedding of tokens, of which a configuration gives the size but not the name."""


def read_peft_configuration(path: Path) -> PeftConfiguration:
    """Return the settings in an adapter_config.json. Raises: ModelError if it is damaged or of another kind."""
    content = read_config(path, str(path.parent))
    try:
        return PeftConfiguration.model_validate(content)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg'].lower()}" for one in error.errors(include_url=False)]
        raise ModelError(str(path), "; ".join(faults[:3]), "an adapter_config.json of PEFT") from None


def peft_layout(config: PeftConfiguration, base: ModelShape) -> tuple[AdapterLayout | None, str]:
    """Return the layout that follows from a configuration, or None and the reason why there is no prediction.

    Raises: ModelError if its target_modules do not fit the base, or a pattern in it cannot be read.
    """
    if config.method == "prompt_tuning" and base.width is not None and config.num_virtual_tokens is not None:
        return AdapterLayout({}, config.num_virtual_tokens * base.width), ""
    if config.rank is None:
        return None, f"there is no formula for the parameters of {config.method}"
    if config.uncounted:
        return None, f"there is no formula for the parameters of {', '.join(config.uncounted)}"
    if not config.target_modules:
        return None, "the configuration names no target_modules"
    extra = 0
    for name in config.modules_to_save or []:
        parameters = _saved_parameters(base, name.rpartition(".")[2])
        if parameters is None:
            return None, f"there is no formula for the parameters of {name} in modules_to_save"
        extra += parameters
    modules = [name for name in base.targets(config.target_modules) if _is_adapted(config, name)]
    ranks = {name: _rank_of(config, name) for name in modules}
    if config.use_dora:
        extra += sum(base.linear[name][1] for name in modules)  # a magnitude for each output
    return layout_of_ranks(base, ranks, extra), ""


def _is_adapted(config: PeftConfiguration, name: str) -> bool:
    """Return whether exclude_modules and layers_to_transform leave a module in."""
    excluded, layers = config.exclude_modules or [], config.layers_to_transform
    if isinstance(excluded, str):
        if matches_pattern(excluded, name):
            return False
    elif any(name == one or name.endswith(f".{one}") for one in excluded):
        return False
    if layers is None:
        return True
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return bool(numbers) and numbers[0] in ([layers] if isinstance(layers, int) else layers)


def _rank_of(config: PeftConfiguration, name: str) -> int:
    """Return the rank of a module: that of the first pattern of rank_pattern that its name ends with."""
    patterns = (config.rank_pattern or {}).items()
    matching = (own for key, own in patterns if matches_pattern(rf"(.*\.)?({key})", name))
    return next(matching, config.r)


def _saved_parameters(base: ModelShape, name: str) -> int | None:
    """Return the parameters of a module that is trained in full, by the last part of its name; None if unknown."""
    if name in EMBEDDINGS and base.head is not None and base.width is not None:
        return base.linear[base.head][1] * base.width
    shapes = [shape for module, shape in base.linear.items() if module.rpartition(".")[2] == name]
    return sum(inputs * outputs for inputs, outputs in shapes) if shapes else None
