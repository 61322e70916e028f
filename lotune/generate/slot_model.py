"""The forward passes of a model over the slots of one cache, and a record of the tokens in each slot.

Shapes: n rows of a pass, T tokens of a row in a pass, L real tokens of all rows, W attended length, D hidden size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lotune.generate.kv_cache import SlotCache
from lotune.generate.llama_forward import ForwardInput, LlamaForward
from lotune.generate.prefix_cache import StoredPrefix
from lotune.model.attention import register_packed_attention
from lotune.model.eval_mode import eval_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SlotModel:
    """A plain or adapted model with the slots of its cache.

    `cached_ids` has the token ids whose keys and values each slot holds; `adapters` has the name of the adapter that
    computed them, None for the active one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        base: PreTrainedModel,
        windows: dict[str, int | None],
        buckets: bool,
        fast: LlamaForward | None,
    ) -> None:
        """Wrap a model; `base` is the transformers model inside it.

        `windows` has the sliding window of each kind of attention, None for full attention. `buckets`: the attention
        accepts key spans (`lotune.model.attention`). `fast` is a faster forward pass, used whenever possible.
        """
        self.model, self.base, self.windows, self.fast = model, base, windows, fast
        self.buckets = buckets
        self.device, self.dtype = model.device, model.dtype
        self.active_adapters: list[str] = []
        self.fast_with_names = False
        self.clear()

    def clear(self) -> None:
        """Forget the content of all slots, and free their memory."""
        self.cache, self.cached_ids, self.adapters = SlotCache(0, 0), list[list[int]](), list[str | None]()

    @property
    def slots(self) -> int:
        """The number of slots."""
        return self.cache.shared.slots

    @property
    def capacity(self) -> int:
        """The maximum number of tokens in a slot."""
        return self.cache.shared.capacity

    @contextmanager
    def session(self) -> Iterator[None]:
        """Switch the model to evaluation mode and to the attention of the passes within the block."""
        # Keys of another active adapter are of no use.
        active = active_adapters(self.model)
        if active != self.active_adapters:
            self.active_adapters, self.cached_ids = active, [[] for _ in self.cached_ids]
        self.fast_with_names = bool(active) and self.fast is not None and self.fast.takes_adapter_names(self.model)
        attention, register = self.base.config._attn_implementation, self.buckets and self.fast is None
        if register:
            register_packed_attention(self.base)
        try:
            with eval_mode(self.model):
                yield
        finally:
            if register:
                self.base.set_attn_implementation(attention)

    def resize(self, slots: int, capacity: int, remaining: int) -> None:
        """Change the number of slots and their capacity; keep the content of the first `remaining` slots."""
        remaining = min(remaining, slots, self.slots)
        self.cache.resize(slots, capacity, remaining)
        self.cached_ids = [
            *(ids[:capacity] for ids in self.cached_ids[:remaining]),
            *([] for _ in range(slots - remaining)),
        ]
        self.adapters = [*self.adapters[:remaining], *[None] * (slots - remaining)]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        if source != target:
            self.cache.copy(source, target, length)
        self.cached_ids[target], self.adapters[target] = self.cached_ids[source][:length], self.adapters[source]

    def save(self, slot: int) -> StoredPrefix:
        """Return a copy of what a slot holds."""
        ids = tuple(self.cached_ids[slot])
        return StoredPrefix(ids, self.adapters[slot], self.cache.save(slot, len(ids)))

    def restore(self, prefix: StoredPrefix, target: int, length: int) -> None:
        """Write the first `length` tokens of a stored prefix to a slot."""
        self.cache.restore(prefix.layers, target, length)
        self.cached_ids[target], self.adapters[target] = list(prefix.ids[:length]), prefix.adapter

    def position_ids(self, starts: Sequence[int], length: int) -> Tensor:
        """Return `length` positions from each start, (n, T) int64, with those of padding clamped to the capacity."""
        # (n, 1) + (T,) -> (n, T)
        positions = torch.tensor(starts, device=self.device)[:, None] + torch.arange(length, device=self.device)
        return positions.clamp_(max=self.capacity - 1)

    def names(self, adapters: Sequence[str | None]) -> list[str] | None:
        """Return the adapter of each row (the active one if the row names none), or None if no row names one."""
        if all(name is None for name in adapters):
            return None
        [active] = self.active_adapters
        return [active if name is None else name for name in adapters]

    def logits(self, inputs: ForwardInput, keep: int | None = 1) -> Tensor:
        """Return logits (n * keep, V) after the last `keep` tokens of each row, or (L, V) after all real tokens.

        `keep` of None returns those of all tokens. If rows are padded and `keep` is a number, the result has no
        meaning: the call only fills the cache.
        """
        if self.fast is not None and (inputs.adapter_names is None or self.fast_with_names):
            return self._fast_logits(self.fast, inputs, keep)
        return self._transformers_logits(inputs, keep)

    def _fast_logits(self, fast: LlamaForward, inputs: ForwardInput, keep: int | None) -> Tensor:
        rows, length = inputs.position_ids.shape
        mask = None
        if not inputs.fresh and rows * length > 1:
            mask = self._mask(inputs.position_ids, inputs.attended_length, None)
        hidden = fast.forward(inputs, mask, self.cache)  # (L, D)
        if keep is None:
            names, scored = inputs.token_adapters(), inputs.scored_tokens()
            if scored is None:
                return fast.logits(hidden, names)
            return fast.logits(hidden[scored], None if names is None else [names[place] for place in scored])
        if inputs.lengths is not None:
            return hidden
        last = hidden.unflatten(0, (rows, length))[:, -keep:].flatten(0, 1)  # (L, D) -> (n * keep, D)
        names = None if inputs.adapter_names is None else [name for name in inputs.adapter_names for _ in range(keep)]
        return fast.logits(last, names)

    def _transformers_logits(self, inputs: ForwardInput, keep: int | None) -> Tensor:
        masks: Any = None
        if inputs.fresh:
            self.cache.fill_from(inputs.first_slot)
        else:
            self.cache.write_at(inputs.first_slot, inputs.position_ids, inputs.attended_length)
            masks = {
                kind: self._mask(inputs.position_ids, inputs.attended_length, window)
                for kind, window in self.windows.items()
            }
            masks = masks if len(masks) > 1 else next(iter(masks.values()))
        # The attention that accepts key spans is not registered for a model with a fast pass (see `session`).
        spans = None if self.fast is not None else inputs.key_spans
        output = self.model(
            input_ids=inputs.input_ids,
            attention_mask=masks,
            position_ids=inputs.position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep or 0,
            **({} if inputs.adapter_names is None else {"adapter_names": list(inputs.adapter_names)}),
            **({} if spans is None else {"key_spans": spans}),
        )
        logits: Tensor = output.logits  # (n, keep or T, V)
        if keep is None and inputs.lengths is not None:
            return torch.cat([row[:length] for row, length in zip(logits, inputs.lengths, strict=True)])  # (L, V)
        return logits.flatten(0, 1)

    def _mask(self, position_ids: Tensor, attended_length: int, window: int | None) -> Tensor:
        """Return the additive attention mask (n, 1, T, W) of queries at positions (n, T)."""
        columns = torch.arange(attended_length, device=self.device)
        hidden = columns > position_ids[..., None]  # (n, T, W)
        if window is not None:
            hidden |= columns <= position_ids[..., None] - window
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(hidden, torch.finfo(self.dtype).min)[:, None]  # (n, 1, T, W)


def active_adapters(model: Any) -> list[str]:
    """Return the adapters of a model that apply if a request names none; empty if they are turned off."""
    if not hasattr(model, "peft_config"):
        return []
    # In PEFT's layers this name is a flag, in transformers' models a method.
    off = any(getattr(layer, "disable_adapters", False) is True for layer in model.modules())
    return [] if off else list(model.active_adapters)
