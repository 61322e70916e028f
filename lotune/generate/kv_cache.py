"""The keys and values of running answers: slots of one capacity, written in place.

Every row begins at position 0 of its slot and has a length of its own, so a new row can enter beside running ones
without padding.

Shapes: S slots, n rows of a pass, G key heads, C capacity in tokens, E head size, T tokens of a row in a pass, L real
tokens of all rows, W attended length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class _Slots:
    """The state that all layers share: the size of the buffers, and where the next forward pass writes.

    `position_ids` (n, T) is None if the next pass reads prompts from their beginning.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        self.slots, self.capacity = slots, capacity
        self.first_slot = 0
        self.position_ids: torch.Tensor | None = None
        self.attended_length = 0


class _SlotLayer(CacheLayerMixin):
    """The buffers (S, G, C, E) of one layer."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, shared: _Slots) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shared = shared

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        # (n, G, T, E) -> (S, G, C, E); some models have keys and values of different sizes
        shape = (self.shared.slots, key_states.shape[1], self.shared.capacity)
        self.keys = key_states.new_zeros((*shape, key_states.shape[3]))
        self.values = value_states.new_zeros((*shape, value_states.shape[3]))
        self.is_initialized = True

    def write(
        self, slots: torch.Tensor, position_ids: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values (L, G, E) at positions (L,) of slots (L,).

        Return the whole buffers of keys and of values, (S, G, C, E) each.
        """
        if not self.is_initialized:
            # (L, G, E) -> (1, G, L, E)
            self.lazy_initialization(keys[None].transpose(1, 2), values[None].transpose(1, 2))
        self.keys[slots, :, position_ids] = keys
        self.values[slots, :, position_ids] = values
        return self.keys, self.values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values (n, G, T, E), and return those that the queries attend to.

        These are the arguments themselves for prompts, and (n, G, W, E) of the slots for later tokens.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        shared = self.shared
        slots = slice(shared.first_slot, shared.first_slot + len(key_states))
        if shared.position_ids is None:
            self.keys[slots, :, : key_states.shape[2]] = key_states
            self.values[slots, :, : value_states.shape[2]] = value_states
            return key_states, value_states
        slot_indices = torch.arange(slots.start, slots.stop, device=key_states.device)[:, None]  # (n, 1)
        # the two indices enclose a slice, so PyTorch puts their shape first: (n, T, G, E)
        self.keys[slot_indices, :, shared.position_ids] = key_states.transpose(1, 2)
        self.values[slot_indices, :, shared.position_ids] = value_states.transpose(1, 2)
        return self.keys[slots, :, : shared.attended_length], self.values[slots, :, : shared.attended_length]

    def resize(self, remaining_rows: int, remaining_length: int) -> None:
        """Allocate buffers of the shared size, and copy the first tokens of the first rows into them."""
        if not self.is_initialized:
            return
        old_keys, old_values = self.keys, self.values
        self.lazy_initialization(old_keys, old_values)
        self.keys[:remaining_rows, :, :remaining_length] = old_keys[:remaining_rows, :, :remaining_length]
        self.values[:remaining_rows, :, :remaining_length] = old_values[:remaining_rows, :, :remaining_length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the sizes for prompts, which attend to themselves only; other passes bring a finished mask."""
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.shared.capacity


class SlotCache(Cache):
    """A transformers cache of `slots` rows with a capacity of `capacity` tokens each.

    Call `fill_from` or `write_at` before each pass of a transformers model.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        self.shared = _Slots(slots, capacity)
        make_layer: Any = lambda: _SlotLayer(self.shared)  # noqa: E731 - transformers expects a class, and calls it
        super().__init__(layer_class_to_replicate=make_layer)

    def fill_from(self, slot: int) -> None:
        """Let the next pass read prompts (n, T), one for each slot from `slot` on, padded at the end to one length."""
        self.shared.first_slot, self.shared.position_ids = slot, None

    def write_at(self, slot: int, position_ids: torch.Tensor, attended_length: int) -> None:
        """Let the next pass read tokens at positions (n, T) int64 of the slots from `slot` on.

        `attended_length` is the largest position + 1.
        """
        self.shared.first_slot, self.shared.position_ids = slot, position_ids
        self.shared.attended_length = attended_length

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        for layer in self._slot_layers():
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def save(self, slot: int, length: int) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Return copies of the first `length` keys and values (G, T, E) of a slot, for each layer."""
        layers = self._slot_layers()
        return tuple((layer.keys[slot, :, :length].clone(), layer.values[slot, :, :length].clone()) for layer in layers)

    def restore(self, saved: Sequence[tuple[torch.Tensor, torch.Tensor]], slot: int, length: int) -> None:
        """Write the first `length` saved keys and values to a slot."""
        for number, (keys, values) in enumerate(saved):
            layer = self.at(number)
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            layer.keys[slot, :, :length] = keys[:, :length]
            layer.values[slot, :, :length] = values[:, :length]

    def resize(self, slots: int, capacity: int, remaining_rows: int) -> None:
        """Change the number of slots and their capacity; the first `remaining_rows` rows stay."""
        remaining_length = min(capacity, self.shared.capacity)
        self.shared.slots, self.shared.capacity = slots, capacity
        for layer in self._slot_layers():
            layer.resize(remaining_rows, remaining_length)

    def at(self, number: int) -> _SlotLayer:
        """Return the buffers of a layer."""
        while len(self.layers) <= number:
            self.layers.append(_SlotLayer(self.shared))
        layer = self.layers[number]
        assert isinstance(layer, _SlotLayer)
        return layer

    def _slot_layers(self) -> Iterator[_SlotLayer]:
        return (layer for layer in self.layers if isinstance(layer, _SlotLayer))
