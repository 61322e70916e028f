"""Answers to many prompts at once: a finished row leaves the batch and a waiting one takes its place.

Shapes: n running rows, V vocabulary. Rows stand side by side in the slots of one cache, each at its own length, and no
row sees another or any padding. So in float32 an answer does not depend on what it is generated with (matrix products
of another height may differ in their last bit, which shows only where the two best logits are that close).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from lotune.errors import DataError, ModelError
from lotune.generate.lean import Lean
from lotune.generate.requests import BASE, Completion, Ending, OnToken, Request, Row, end_ids
from lotune.generate.slotted import Slotted, standing
from lotune.model.attention import NAME as PACKED
from lotune.model.attention import use_packed_attention
from lotune.model.base import known_context
from lotune.model.rest import at_rest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    on_done: Callable[[int, Completion], None] | None = None,
    on_token: OnToken | None = None,
) -> list[Completion]:
    """Answers, in the order of the requests; `on_done(number of the request, answer)` is called as each ends.

    At most `batch_tokens` tokens, prompts and longest possible answers together, are held at once (one row at least).
    Raises: as `Engine.stream` does.
    """
    answers: dict[int, Completion] = {}
    for index, completion in Engine(model, tokenizer).stream(requests, batch_tokens=batch_tokens, on_token=on_token):
        answers[index] = completion
        if on_done is not None:
            on_done(index, completion)
    return [answers[index] for index in range(len(requests))]


class Engine:
    """A model that is asked again and again: what a prompt has in common with the one before is not read twice.

    Keys and values are kept between calls, so the weights must not change while an engine is in use.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._base, self._in_use = _base(model), False
        kinds = _attention_kinds(self._base)
        self._blocks = bool(kinds) and _takes_widths(self._base)
        plain = self._blocks and kinds == {"full_attention": None}
        self._lean = Lean.of(model, self._base) if plain else None
        self._slotted = Slotted(model, kinds, self._blocks, self._lean) if kinds else None

    @torch.inference_mode()
    def stream(
        self, requests: Sequence[Request], *, batch_tokens: int, on_token: OnToken | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """(number of the request, answer) as the answers end; at most `MOST_SLOTS` rows run at once.

        Raises: DataError for a request that is empty, out of the vocabulary or longer than the model's context;
        ModelError for an adapter that prepends tokens of its own, or that cannot be chosen a request; RuntimeError
        while another stream of the engine is open.
        """
        if self._in_use:
            raise RuntimeError("an engine answers one stream at a time: exhaust or close the one before")
        check_requests(self.model, self._base, requests)
        if self._slotted is None and any(request.adapter is not None for request in requests):
            expected = "an architecture whose attention takes a mask"
            raise ModelError("adapter", "cannot be chosen a request with this model", expected, "merge it")
        rows = [Row(index, request) for index, request in enumerate(requests)]
        ending = Ending(self.tokenizer, end_ids(self._base, self.tokenizer), on_token)
        attention = self._base.config._attn_implementation
        called = self._lean is None or any(request.adapter is not None for request in requests)
        self._in_use = True
        if self._blocks and called:
            use_packed_attention(self._base)
        try:
            with at_rest(self.model):
                if self._slotted is not None:
                    yield from self._slotted.run(rows, ending, batch_tokens)
                else:
                    yield from _run_aligned(self.model, ending, rows, batch_tokens)
        finally:
            self._in_use = False
            if self._blocks and called:
                self._base.set_attn_implementation(attention)


def _run_aligned(
    model: PreTrainedModel, ending: Ending, rows: Sequence[Row], batch_tokens: int
) -> Iterator[tuple[int, Completion]]:
    """For models whose attention takes no mask of ours: batches of equally long prompts, which shrink as rows end."""
    ordered = sorted(rows, key=lambda row: (len(row.request.prompt_ids), -row.need), reverse=True)
    for _, group in groupby(ordered, key=lambda row: len(row.request.prompt_ids)):
        waiting = sorted(group, key=lambda row: row.need, reverse=True)
        while waiting:
            late = {row.index: answer for row in waiting if (answer := ending.late(row)) is not None}
            yield from late.items()
            waiting = [row for row in waiting if row.index not in late]
            if not waiting:
                break
            count = max(1, batch_tokens // waiting[0].need)
            running, waiting = waiting[:count], waiting[count:]
            yield from _run_batch(model, ending, running)


def _run_batch(model: PreTrainedModel, ending: Ending, running: list[Row]) -> Iterator[tuple[int, Completion]]:
    cache = DynamicCache(config=model.config)
    input_ids = torch.tensor([row.request.prompt_ids for row in running], device=model.device)
    while running:
        output = model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        kept = []
        for place, token in enumerate(ending.choose(output.logits[:, -1], running)):
            if (completion := ending.append(running[place], token)) is None:
                kept.append(place)
            else:
                yield running[place].index, completion
        if kept and len(kept) < len(running):
            places: Any = torch.tensor(kept, device=model.device)
            cache.reorder_cache(places)
        running = [running[place] for place in kept]
        input_ids = torch.tensor([[row.last] for row in running], device=model.device)


def _base(model: Any) -> PreTrainedModel:
    """The transformers model inside an adapted one."""
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return base


def _attention_kinds(base: PreTrainedModel) -> dict[str, int | None]:
    """The kinds of attention of a model whose cache and masks may be ours, each with its window; empty for any other.

    Rotary embeddings that change with the longest row of the batch would let one answer change another.
    """
    config = base.config.get_text_config(decoder=True)
    parameters = inspect.signature(base.forward).parameters
    ours = (
        getattr(base, "_supports_attention_backend", False)
        and getattr(config, "_attn_implementation", None) in ("sdpa", "eager", PACKED)
        and {"position_ids", "past_key_values", "logits_to_keep"} <= parameters.keys()
        and not any(kind in str(getattr(config, "rope_parameters", "")) for kind in ("dynamic", "longrope"))
    )
    window = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"])
    if not ours or not types <= {"full_attention", "sliding_attention"}:
        return {}
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(types)}


def _takes_widths(base: PreTrainedModel) -> bool:
    """Whether rows may attend to widths of their own: on the processor, where attention is ours to set."""
    kinds = {parameter.kind for parameter in inspect.signature(base.forward).parameters.values()}
    ours = base.config._attn_implementation in ("sdpa", PACKED)
    return ours and base.device.type == "cpu" and inspect.Parameter.VAR_KEYWORD in kinds


def _check_switching(model: Any) -> None:
    """Raises: ModelError for a model whose adapters cannot be chosen a row."""
    plain = all(one.peft_type.value == "LORA" and not one.use_dora for one in model.peft_config.values())
    merged = any(getattr(layer, "merged", False) for layer in model.modules())
    if not plain or merged or len(standing(model)) != 1:
        expected = "unmerged LoRA adapters without DoRA, one of them active"
        raise ModelError("adapter", "cannot be chosen a request with this model", expected, "set one, or merge it")


def check_requests(model: Any, base: Any, requests: Sequence[Request]) -> None:
    """Nothing, where a model can answer all requests; `base` is the one inside an adapted model.

    Raises: DataError for a request that is empty, out of the vocabulary or longer than the context, or names an unknown
    adapter; ModelError for an adapter that prepends tokens of its own, or that cannot be chosen a request.
    """
    context, vocabulary = known_context(base.config), base.config.get_text_config(decoder=True).vocab_size
    if any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values()):
        raise ModelError(
            "adapter", "prepends tokens of its own to every prompt", "one that changes weights", "merge it"
        )
    known = getattr(model, "peft_config", {})
    for number, request in enumerate(requests):
        where = request.where or f"request {number}"
        if request.adapter is not None and request.adapter not in (known and (*known, BASE)):
            choices = ", ".join((*known, BASE)) if known else "none: the model has no adapters"
            raise DataError(where, f"names the adapter {request.adapter!r}", choices, "load it first")
        if request.adapter is not None:
            _check_switching(model)
        length = len(request.prompt_ids) + request.max_new_tokens
        if not request.prompt_ids or request.max_new_tokens < 1:
            raise DataError(where, "has no prompt or asks for no token", "one token of each at least")
        if context is not None and length > context:
            found = f"needs {length} tokens, {request.max_new_tokens} of them new"
            raise DataError(where, found, f"at most {context}, the model's context", "shorten the prompt or the answer")
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
            found = f"has token ids from {min(request.prompt_ids)} to {max(request.prompt_ids)}"
            raise DataError(where, found, f"0 to {vocabulary - 1}", "use the model's own tokeniser")
