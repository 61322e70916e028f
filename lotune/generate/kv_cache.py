"""The keys and values of running answers: slots of one length, written in place.

Shapes: S slots, n rows of a pass, H key heads, C capacity in tokens, D head width, T tokens a row in a pass. Every row
begins at place 0 of its slot and has a length of its own, so a new row can enter beside running ones without padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class _Slots:
    """What all layers share: the size of the buffers, and where the next forward pass writes."""

    def __init__(self, slots: int, capacity: int) -> None:
        self.slots, self.capacity = slots, capacity
        self.first = 0
        self.places: torch.Tensor | None = None
        self.width = 0


class _SlotLayer(CacheLayerMixin):
    """Buffers (S, H, C, D) of one layer."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, shared: _Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shared = shared

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = (self.shared.slots, key_states.shape[1], self.shared.capacity)
        self.keys = key_states.new_zeros((*shape, key_states.shape[3]))
        self.values = value_states.new_zeros((*shape, value_states.shape[3]))
        self.is_initialized = True

    def write(
        self, slots: torch.Tensor, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values (N, H, D) at places (N,) of slots (N,); all that is stored, (S, H, C, D) each."""
        if not self.is_initialized:
            self.lazy_initialization(keys[None].transpose(1, 2), values[None].transpose(1, 2))
        self.keys[slots, :, places] = keys
        self.values[slots, :, places] = values
        return self.keys, self.values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store (n, H, T, D) and give back what the queries attend to: the prompts themselves, or their slots."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        shared = self.shared
        slots = slice(shared.first, shared.first + len(key_states))
        if shared.places is None:
            self.keys[slots, :, : key_states.shape[2]] = key_states
            self.values[slots, :, : value_states.shape[2]] = value_states
            return key_states, value_states
        rows = torch.arange(slots.start, slots.stop, device=key_states.device)[:, None]
        self.keys[rows, :, shared.places] = key_states.transpose(1, 2)
        self.values[rows, :, shared.places] = value_states.transpose(1, 2)
        return self.keys[slots, :, : shared.width], self.values[slots, :, : shared.width]

    def resize(self, kept_rows: int, kept_width: int) -> None:
        """New buffers of the shared size with the running rows copied."""
        if not self.is_initialized:
            return
        old_keys, old_values = self.keys, self.values
        self.lazy_initialization(old_keys, old_values)
        self.keys[:kept_rows, :, :kept_width] = old_keys[:kept_rows, :, :kept_width]
        self.values[:kept_rows, :, :kept_width] = old_values[:kept_rows, :, :kept_width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """A prompt attends to itself only; where a slot is attended to the caller passes the finished mask."""
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.shared.capacity


class SlotCache(Cache):
    """A transformers cache of `slots` rows of at most `capacity` tokens, told what each of its passes is for."""

    def __init__(self, slots: int, capacity: int) -> None:
        self.shared = _Slots(slots, capacity)
        make: Any = lambda: _SlotLayer(self.shared)  # noqa: E731 - transformers asks for a class, and calls it
        super().__init__(layer_class_to_replicate=make)

    def fill_from(self, slot: int) -> None:
        """The next pass reads prompts (n, T), one a slot from `slot` on, padded at the end to one length."""
        self.shared.first, self.shared.places = slot, None

    def write_at(self, slot: int, places: torch.Tensor, width: int) -> None:
        """The next pass reads tokens at places (n, T) int64 of the slots from `slot` on; width: the largest, + 1."""
        self.shared.first, self.shared.places, self.shared.width = slot, places, width

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` places of one slot to another."""
        for layer in self._slot_layers():
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def resize(self, slots: int, capacity: int, kept_rows: int) -> None:
        """Other numbers of slots and of places; the first `kept_rows` rows stay."""
        kept_width = min(capacity, self.shared.capacity)
        self.shared.slots, self.shared.capacity = slots, capacity
        for layer in self._slot_layers():
            layer.resize(kept_rows, kept_width)

    def at(self, number: int) -> _SlotLayer:
        """The buffers of a layer."""
        while len(self.layers) <= number:
            self.layers.append(_SlotLayer(self.shared))
        layer = self.layers[number]
        assert isinstance(layer, _SlotLayer)
        return layer

    def _slot_layers(self) -> Iterator[_SlotLayer]:
        return (layer for layer in self.layers if isinstance(layer, _SlotLayer))
