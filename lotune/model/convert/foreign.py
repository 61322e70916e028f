"""A model in a foreign layout: its configuration and its weights under the names of transformers, each read when asked.

Nothing is read but shapes until a weight is written, so that a model converts in the memory of its largest file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lotune.errors import ModelError


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its name, its shape and dtype, and how it is read."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def num_bytes(self) -> int:
        """The size of the tensor in memory.

        >>> StoredTensor("weight", (2, 3), torch.bfloat16, lambda: torch.zeros(2, 3)).num_bytes
        12
        """
        return self.num_elements * self.dtype.itemsize

    @property
    def num_elements(self) -> int:
        """The number of elements.

        >>> StoredTensor("weight", (2, 3), torch.float32, lambda: torch.zeros(2, 3)).num_elements
        6
        """
        return torch.Size(self.shape).numel()

    def renamed(self, name: str) -> StoredTensor:
        """Return the tensor under another name."""
        return StoredTensor(name, self.shape, self.dtype, self.read)

    def changed(self, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> StoredTensor:
        """Return a tensor that is computed from this one; `change` may permute, transpose and slice."""
        shape = tuple(change(torch.empty(self.shape, device="meta")).shape)
        return StoredTensor(name, shape, self.dtype, lambda: change(self.read()))


@dataclass(frozen=True)
class ForeignModel:
    """A model to write in Hugging Face's layout.

    `config` is the content of config.json. `tensors` have the names that transformers gives them. `tokenizer` is the
    file or folder of its tokeniser, None if none was found.
    `notes` say what was found and decided. `keeps_names` says that the tensors keep names that transformers translates
    when it loads them, as those of an older version of it. `generation` is the content of generation_config.json.
    """

    config: Mapping[str, Any]
    tensors: Sequence[StoredTensor]
    tokenizer: Path | None = None
    notes: Sequence[str] = ()
    keeps_names: bool = False
    generation: Mapping[str, Any] | None = None

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding."""
        text = self.config.get("text_config")
        size = self.config.get("vocab_size", text.get("vocab_size") if isinstance(text, Mapping) else None)
        return size if isinstance(size, int) else 0


LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Names of the number of layers in configurations."""


def check_tensors(model: ForeignModel, where: str) -> None:
    """Check names and shapes of the tensors against those that transformers expects for the configuration.

    Raises: ModelError if weights are missing, unknown, of another shape or not floating-point.
    """
    # A hostile configuration could name a billion layers, and building the model would take for ever.
    layers = max((count for name in LAYER_COUNTS if isinstance(count := model.config.get(name), int)), default=0)
    if layers > len(model.tensors):
        found = f"names {layers} layers, and the weights have {len(model.tensors)} tensors"
        raise ModelError(where, found, "at least one tensor for each layer", "take another copy of the model")
    if not model.keeps_names:
        _check_names(model, where)
    if integers := [tensor.name for tensor in model.tensors if not tensor.dtype.is_floating_point]:
        found, remedy = f"holds {_some(integers)} as integers", "take the copy that is not quantised"
        raise ModelError(where, found, "float32, float16 or bfloat16 weights", remedy)


def _check_names(model: ForeignModel, where: str) -> None:
    expected, found_shapes = _expected(model.config, where), {tensor.name: tensor.shape for tensor in model.tensors}
    if missing := sorted(set(expected) - set(found_shapes)):
        raise ModelError(where, f"lacks {_some(missing)}", "a complete model", "download the missing files again")
    if unknown := sorted(set(found_shapes) - set(expected)):
        found = f"has {_some(unknown)}, which {model.config['architectures'][0]} does not have"
        raise ModelError(where, found, "the weights of its configuration", "take config.json and weights from one copy")
    for name, shape in expected.items():
        if found_shapes[name] != shape:
            found = f"{name} has the shape {found_shapes[name]}"
            raise ModelError(where, found, f"{shape}, by its configuration", "take another copy of the model")


def _expected(config: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights that transformers expects by name; a shared weight has one name only."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from lotune.model.loading import loading_errors_as_model_errors, silence_transformers

    values = {name: value for name, value in config.items() if name != "architectures"}
    with silence_transformers(), loading_errors_as_model_errors(where, False), torch.device("meta"):
        settings = AutoConfig.for_model(**values)
        model: Any = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
        return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def _some(names: Collection[str]) -> str:
    """Return the number of tensors and the first name, for a message.

    >>> _some(["a", "b"])
    '2 tensors, such as a'
    """
    first = next(islice(names, 1), "")
    return f"the tensor {first}" if len(names) == 1 else f"{len(names)} tensors, such as {first}"
