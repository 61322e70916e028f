"""The type of a PEFT method; METHODS has one of each (`lotune.model.methods.registry`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lotune.model.settings import AdapterSettings
from lotune.model.shapes import ModelShape

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lotune.model.fully_tuned import FullTuningConfig


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter on disk that training continues from: its folder, PEFT's configuration, the names of its tensors."""

    folder: Path
    config: Any
    tensor_names: Collection[str]


def _nothing(*_: Any) -> None:
    """Leave model and configuration as they are."""


def _add_with_peft(base: PreTrainedModel, config: Any) -> PeftModel:
    from peft import get_peft_model

    model: Any = get_peft_model(base, config)
    return cast("PeftModel", model)


def _load_with_peft(base: PreTrainedModel, folder: Path, config: Any, trainable: bool) -> PeftModel:
    from peft import PeftModel

    device = str(next(base.parameters()).device)
    model: PeftModel = PeftModel.from_pretrained(
        base, str(folder), config=config, is_trainable=trainable, torch_device=device
    )
    return model


def _tensors_of_peft(model: PeftModel) -> Mapping[str, Tensor]:
    from peft import get_peft_model_state_dict

    tensors: Mapping[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return tensors


def _nothing_sized(*_: Any) -> Mapping[str, tuple[int, str]]:
    return {}


@dataclass(frozen=True)
class Method:
    """One way to add trainable parameters. The callables take the method's own settings or PEFT's configuration.

    PEFT saves and loads adapters, unless the method does so itself; this class has all else in which methods differ.
    """

    settings: type[AdapterSettings]
    """The settings of the method. Their `method` is its name, which is PEFT's `peft_type` in lower case."""
    configure: Callable[[Any, PreTrainedModel], PeftConfig | FullTuningConfig]
    """Return PEFT's configuration, or one of its kind. Raises: ModelError if the settings do not fit the model."""
    parameter_count: Callable[[Any, PreTrainedModel], int]
    """Return the number of trainable parameters by a closed formula; the model may be on the meta device.

    Raises: ModelError if the settings do not fit the model.
    """
    mergeable: bool
    """Whether the adapter can be added into the base's weights."""
    identity_at_init: bool
    """Whether a fresh adapter leaves the model's outputs as they are."""
    saved_values: Callable[[Any], Mapping[str, float]]
    """Return the settings that a saved adapter determines, by name, from its configuration."""
    learning_rate: Callable[[Any, PreTrainedModel], tuple[float, str]]
    """Return the peak learning rate of AdamW that suits settings and base, and the reason; the base may be on meta."""
    sized: Callable[[Any, PreTrainedModel, int, int | None], Mapping[str, tuple[int, str]]] = _nothing_sized
    """Return the settings that are "auto", by name, each with its reason, for so many supervised tokens.

    The last argument is the largest number of parameters that the adapter may have; None is no limit.
    """
    count_on_shape: Callable[[Any, ModelShape], int] | None = None
    """Return what `parameter_count` does, from the shape of the base, without torch; None if it takes the model."""
    size_setting: str | None = None
    """The setting, a positive integer, that the number of parameters is proportional to; None if there is none."""
    check_saved: Callable[[SavedAdapter], None] = _nothing
    """Raise ModelError if training cannot continue from a saved adapter."""
    continue_saved: Callable[[SavedAdapter, Any, PreTrainedModel], None] = _nothing
    """Apply the settings of the training to a saved adapter's configuration.

    Raises: ModelError if the settings contradict the saved adapter.
    """
    attach: Callable[[PeftModel], None] = _nothing
    """Prepare the base inside a PEFT model, fresh or loaded."""
    initialise: Callable[[PeftModel, Any, PreTrainedTokenizerBase | None], None] = _nothing
    """Set the weights of a fresh adapter, if the method does not use PEFT's own initial values."""
    unfreeze: Callable[[PeftModel], None] | None = None
    """Make a loaded adapter trainable; None if PEFT itself can load adapters of the method as trainable."""
    selectable: Callable[[Any], bool] = lambda config: False
    """Whether each request of a batch can choose its adapter, by PEFT's configuration."""
    needs_wrapper: Callable[[Any], bool] = lambda config: False
    """Whether PEFT's wrapper decides in each call whether the adapter acts, so that the base cannot be called alone."""
    dropout_layers: Callable[[nn.Module], Iterable[nn.Module]] = lambda model: ()
    """Return the modules of an adapted model whose children are the adapter's dropout layers, in the model's order."""
    proportional: Callable[[Any, str], bool] | None = None
    """Whether the change of the model is proportional to a tensor, by PEFT's configuration and the tensor's name.

    None if it is proportional to no tensor, so that an adapter has no strength that could be lowered.
    """
    trains_base: bool = False
    """Whether the weights of the base themselves are trained, so that they can be neither quantised nor sharded."""
    add: Callable[[PreTrainedModel, Any], Any] = _add_with_peft
    """Return a model with a fresh adapter, by the configuration of `configure`."""
    load: Callable[[PreTrainedModel, Path, Any, bool], Any] = _load_with_peft
    """Return a model with a saved adapter, by its folder and configuration; the last argument: whether it is trained.

    Raises: ValueError, RuntimeError or KeyError if the adapter does not fit the model.
    """
    tensors: Callable[[Any], Mapping[str, Tensor]] = _tensors_of_peft
    """Return the tensors of an adapted model that are saved, by name."""
    num_virtual_tokens: Callable[[Any], int] = lambda settings: 0
    """Return the number of tokens that the adapter puts before each prompt; they count against the context."""

    @property
    def name(self) -> str:
        """The name of the method in settings and adapter_config.json."""
        return str(self.settings.model_fields["method"].default)
