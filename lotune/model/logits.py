"""Logits that are not finite: detected when tokens are chosen or scored, and traced to the layer that causes them.

A logit of -inf marks a token that must not be chosen. NaN, +inf, and rows of -inf only are errors.

Shapes: n rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lotune.errors import CheckError
from lotune.model.parts import token_reader, virtual_ids

if TYPE_CHECKING:
    from torch import Tensor


class NotFiniteLogitsError(CheckError):
    """The logits of `model` after the tokens `ids` of `row` are not finite; `largest` is the largest of them.

    `adapter` is the adapter that the row named; `layer` is the first module whose output is not finite, if known.
    """

    def __init__(
        self,
        row: str,
        ids: Sequence[int],
        largest: float,
        adapter: str | None = None,
        model: str = "the model",
        layer: str = "",
    ) -> None:
        self.row, self.ids, self.largest, self.adapter = row, tuple(ids), largest, adapter
        self.model, self.layer = model, layer
        found = "no logit is finite" if largest == -math.inf else f"the logits hold {largest}"
        source = f"; the first output that is not finite is that of {layer}" if layer else ""
        remedy = "check the weights, or compute in float32 (base.dtype=float32)"
        super().__init__(f"{model}, {row}", found + source, "finite logits; -inf for masked tokens only", remedy)

    def traced(self, model: Any) -> NotFiniteLogitsError:
        """Return the same error with the model's name and the layer, which a second pass with hooks finds.

        It lists no virtual tokens.
        """
        name, layer = getattr(model, "name_or_path", "") or self.model, first_bad_layer(model, self.ids, self.adapter)
        virtual = virtual_ids(model)
        ids = self.ids[len(virtual) :] if virtual and self.ids[: len(virtual)] == virtual else self.ids
        return NotFiniteLogitsError(self.row, ids, self.largest, self.adapter, name, layer)

    def named(self, model: str, row: str | None = None) -> NotFiniteLogitsError:
        """Return the same error with another name of the model and, if given, of the row."""
        return NotFiniteLogitsError(row or self.row, self.ids, self.largest, self.adapter, model, self.layer)


def largest_logits(logits: Tensor) -> list[float]:
    """Return the largest logit of each row of logits (n, V), which tells whether the row is usable.

    NaN and +inf are larger than all others; -inf is the largest only where no logit is finite.

    >>> import torch
    >>> largest_logits(torch.tensor([[1.0, 3.0, -math.inf], [1.0, math.nan, 3.0]]))
    [3.0, nan]
    """
    largest: list[float] = logits.amax(-1).tolist()
    return largest


def first_bad_layer(model: Any, ids: Sequence[int], adapter: str | None = None) -> str:
    """Return the first module whose output is not finite when the model reads `ids`; empty if there is none."""
    import torch

    from lotune.model.eval_mode import eval_mode
    from lotune.model.finite import noting_faults

    kwargs = {} if adapter is None else {"adapter_names": [adapter]}
    model = token_reader(model)
    read = torch.tensor([list(ids)], device=model.device)
    with eval_mode(model), torch.no_grad(), noting_faults(model) as faults:
        with suppress(RuntimeError, ValueError, TypeError):  # the layer is only a hint: the error is raised either way
            model(input_ids=read, use_cache=False, **kwargs)
        return faults[0].removeprefix("base_model.model.") if faults else ""
