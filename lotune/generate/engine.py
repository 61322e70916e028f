"""Answers to many prompts at once: a finished row leaves the batch and a waiting one takes its place.

Shapes: n running rows, V vocabulary. Rows stand side by side in the slots of one cache, each at its own length, and no
row sees another or any padding. So in float32 an answer does not depend on what it is generated with (matrix products
of another height may differ in their last bit, which shows only where the two best logits are that close).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lotune.errors import DataError, ModelError, SettingsError
from lotune.generate.continuous_batching import ContinuousBatcher, active_adapters
from lotune.generate.llama_forward import LlamaForward
from lotune.generate.requests import NO_ADAPTER, Completion, OnToken, Request, Requests, eos_token_ids
from lotune.generate.running import RequestQueue, TokenSelector
from lotune.generate.transformers_fallback import TransformersBatcher
from lotune.model.attention import ATTENTION_NAME as PACKED
from lotune.model.attention import register_packed_attention
from lotune.model.eval_mode import eval_mode
from lotune.model.loading import declared_context_length
from lotune.model.logits import NotFiniteLogitsError
from lotune.model.methods.registry import is_selectable
from lotune.model.parts import token_reader, virtual_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    on_done: Callable[[int, Completion], None] | None = None,
    on_token: OnToken | None = None,
) -> list[Completion]:
    """Answers, in the order of the requests, the samples of one next to one another.

    `on_done(number of the answer, answer)` is called as each ends.

    At most `batch_tokens` tokens, prompts and longest possible answers together, are held at once (one row at least).
    Raises: as `Engine.stream` does.
    """
    answers: dict[int, Completion] = {}
    for index, completion in Engine(model, tokenizer).stream(requests, batch_tokens=batch_tokens, on_token=on_token):
        answers[index] = completion
        if on_done is not None:
            on_done(index, completion)
    return [answers[index] for index in range(len(answers))]


class Engine:
    """A model that is asked again and again: what a prompt has in common with the one before is not read twice.

    Keys and values are kept between calls, so the weights must not change while an engine is in use.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = token_reader(model), tokenizer
        self._base, self._in_use = _base(model), False
        self._prefix_ids = virtual_ids(model)
        check_requests(self.model, self._base, [])
        self._slotted = continuous_batcher_for(model)
        self._backend = self._slotted or TransformersBatcher(self.model, self._base)

    @torch.inference_mode()
    def stream(
        self, requests: Requests, *, batch_tokens: int, on_token: OnToken | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """(number of the answer, answer) as the answers end; at most `MAX_RUNNING` rows run at once.

        Answers are numbered through the requests in their order, the samples of one next to one another. A queue is
        read whenever there may be room, so that requests join those that run, and waited for where none does, until it
        gives None; what it gives should have been checked (`check`), as what is raised ends the stream.

        Raises: as `check` does; NotFiniteLogitsError where logits are not finite; RuntimeError while another stream of
        the engine is open.
        """
        if self._in_use:
            raise RuntimeError("an engine answers one stream at a time: exhaust or close the one before")
        arrivals = RequestQueue(self.tokenizer, requests, self.check, self._prefix_ids)
        ending = TokenSelector(self.tokenizer, eos_token_ids(self._base, self.tokenizer), on_token)
        attention = self._base.config._attn_implementation
        lean = self._slotted is not None and self._slotted.lean is not None
        plain = lean and isinstance(requests, Sequence) and not _any_adapter(requests)
        widths = self._slotted is not None and self._slotted.blocks and not plain
        self._in_use = True
        if widths:
            register_packed_attention(self._base)
        try:
            with eval_mode(self.model):
                yield from self._backend.run(arrivals, ending, batch_tokens)
        except NotFiniteLogitsError as error:
            raise error.traced(self.model) from None
        finally:
            self._in_use = False
            if widths:
                self._base.set_attn_implementation(attention)

    def check(self, requests: Sequence[Request], first: int = 0) -> None:
        """Nothing, where all requests can be answered; `first` is the number of the first one, for messages.

        Raises: DataError for a request that is empty, out of the vocabulary or longer than the model's context;
        SettingsError for a token to stop at that is not in it; ModelError for an adapter that prepends tokens of its
        own, or that cannot be chosen a request.
        """
        check_requests(self.model, self._base, requests, first)
        if self._slotted is None and _any_adapter(requests):
            expected = "an architecture whose attention takes a mask"
            raise ModelError("adapter", "cannot be chosen a request with this model", expected, "merge it")


def continuous_batcher_for(model: Any) -> ContinuousBatcher | None:
    """The slots for a plain or adapted model; None where it does not bear them."""
    base, model = _base(model), token_reader(model)
    kinds = _attention_kinds(base)
    if not kinds or any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values()):
        return None
    blocks = _supports_bucketed_decode(base)
    lean = LlamaForward.of(model, base) if blocks and kinds == {"full_attention": None} else None
    slotted = ContinuousBatcher(model, kinds, blocks, lean)
    return slotted if lean is not None or slotted.matches_transformers() else None


def _any_adapter(requests: Sequence[Request]) -> bool:
    return any(request.adapter is not None for request in requests)


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


def _supports_bucketed_decode(base: PreTrainedModel) -> bool:
    """Whether rows may attend to widths of their own: on the processor, where attention is ours to set."""
    kinds = {parameter.kind for parameter in inspect.signature(base.forward).parameters.values()}
    ours = base.config._attn_implementation in ("sdpa", PACKED)
    return ours and base.device.type == "cpu" and inspect.Parameter.VAR_KEYWORD in kinds


def _check_switching(model: Any) -> None:
    """Raises: ModelError for a model whose adapters cannot be chosen a row."""
    merged = any(getattr(layer, "merged", False) for layer in model.modules())
    if not is_selectable(model) or merged or len(active_adapters(model)) != 1:
        expected = "unmerged adapters of a kind that can be chosen, one of them active"
        raise ModelError("adapter", "cannot be chosen a request with this model", expected, "set one, or merge it")


def check_requests(model: Any, base: Any, requests: Sequence[Request], first: int = 0) -> None:
    """Nothing, where a model can answer all requests; `base` is the one inside an adapted model.

    Raises: DataError for a request that is empty, out of the vocabulary or longer than the context, or names an unknown
    adapter; SettingsError for a token to stop at that is out of the vocabulary; ModelError for an adapter that prepends
    tokens of its own, or that cannot be chosen a request.
    """
    context, vocabulary = declared_context_length(base.config), base.config.get_text_config(decoder=True).vocab_size
    prefix = len(virtual_ids(base))
    if any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values()):
        raise ModelError(
            "adapter", "prepends tokens of its own to every prompt", "one that changes weights", "merge it"
        )
    known = getattr(model, "peft_config", {})
    for number, request in enumerate(requests, first):
        where = request.label or f"request {number}"
        if request.adapter is not None and request.adapter not in (known and (*known, NO_ADAPTER)):
            choices = ", ".join((*known, NO_ADAPTER)) if known else "none: the model has no adapters"
            raise DataError(where, f"names the adapter {request.adapter!r}", choices, "load it first")
        if request.adapter is not None:
            _check_switching(model)
        length = len(request.prompt_ids) + request.max_new_tokens
        if not request.prompt_ids or request.max_new_tokens < 1:
            raise DataError(where, "has no prompt or asks for no token", "one token of each at least")
        if context is not None and 0 < context < length + prefix:
            found = f"needs {length} tokens, {request.max_new_tokens} of them new"
            context -= prefix
            raise DataError(where, found, f"at most {context}, the model's context", "shorten the prompt or the answer")
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
            found = f"has token ids from {min(request.prompt_ids)} to {max(request.prompt_ids)}"
            raise DataError(where, found, f"0 to {vocabulary - 1}", "use the model's own tokeniser")
        if any(not 0 <= token < vocabulary for token in request.stop_ids):
            found = f"has stop_ids from {min(request.stop_ids)} to {max(request.stop_ids)}"
            raise SettingsError(where, found, f"0 to {vocabulary - 1}", "use the model's own tokeniser")
