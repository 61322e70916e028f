"""What a PEFT method is: a row in METHODS (`lotune.model.methods.registry`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.model.settings import AdapterSettings

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter on disk that training continues from: its folder, PEFT's configuration, the names of its tensors."""

    folder: Path
    config: Any
    tensor_names: Collection[str]


def _nothing(*_: Any) -> None:
    """Leave model and configuration as they are."""


@dataclass(frozen=True)
class Method:
    """One way to add trainable parameters. Callables take the method's own settings or PEFT's configuration.

    PEFT saves and loads the adapter in its own format; what else differs between methods stands here.
    """

    settings: type[AdapterSettings]
    """The settings of the method; their `method` is its name, and PEFT's `peft_type` in lower case."""
    configure: Callable[[Any, PreTrainedModel], PeftConfig]
    """Return PEFT's configuration. Raises: ModelError where settings and model do not fit."""
    parameter_count: Callable[[Any, PreTrainedModel], int]
    """Return the number of trainable parameters by a closed formula; the model may be on the meta device.

    Raises: ModelError where settings and model do not fit.
    """
    mergeable: bool
    """Whether the adapter can be added into the base's weights."""
    identity_at_init: bool
    """Whether a fresh adapter leaves the model's outputs as they are."""
    saved_values: Callable[[Any], Mapping[str, float]]
    """Return the settings that a saved adapter fixes, by name, from its configuration."""
    check_saved: Callable[[SavedAdapter], None] = _nothing
    """Raise ModelError where training cannot continue from a saved adapter."""
    continue_saved: Callable[[SavedAdapter, Any, PreTrainedModel], None] = _nothing
    """Change a saved adapter's configuration to what the settings say of training.

    Raises: ModelError where settings and saved adapter disagree.
    """
    attach: Callable[[PeftModel], None] = _nothing
    """Prepare the base inside a PEFT model, fresh or loaded."""
    initialise: Callable[[PeftModel, Any, PreTrainedTokenizerBase | None], None] = _nothing
    """Set the weights of a fresh adapter where PEFT's own are not wanted."""
    unfreeze: Callable[[PeftModel], None] | None = None
    """Let a loaded adapter train, where PEFT itself loads adapters of the method frozen only."""
    selectable: Callable[[Any], bool] = lambda config: False
    """Whether each request of a batch can choose its adapter, by PEFT's configuration."""
    needs_wrapper: Callable[[Any], bool] = lambda config: False
    """Whether PEFT's wrapper decides in each call whether the adapter acts, so that the base cannot be called alone."""
    dropout_layers: Callable[[nn.Module], Iterable[nn.Module]] = lambda model: ()
    """Return the modules of an adapted model whose children are the adapter's dropout layers, in the model's order."""
    num_virtual_tokens: Callable[[Any], int] = lambda settings: 0
    """Return the number of tokens that the adapter puts before each prompt; they take room in the context."""

    @property
    def name(self) -> str:
        """The name of the method in settings and adapter_config.json."""
        return str(self.settings.model_fields["method"].default)
