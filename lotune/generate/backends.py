"""The backends of an engine: the one that suits a model, and the check of requests before they run."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from lotune.errors import DataError, ModelError, SettingsError
from lotune.generate.continuous_batching import ContinuousBatcher
from lotune.generate.llama_forward import LlamaForward
from lotune.generate.requests import NO_ADAPTER, Request
from lotune.generate.running import RunningRequest, TokenSelector
from lotune.generate.slot_model import SlotModel, active_adapters
from lotune.generate.transformers_fallback import TransformersBatcher
from lotune.generate.vllm import VllmBackend, VllmModel
from lotune.model.attention import ATTENTION_NAME as PACKED
from lotune.model.loading import declared_context_length
from lotune.model.methods.registry import is_selectable
from lotune.model.parts import token_reader, virtual_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Backend(Protocol):
    """The part of an engine that answers requests, step by step. The engine never calls two methods at once."""

    waiting: list[RunningRequest]
    running: list[RunningRequest]
    whole_answers: bool
    """Whether a step produces complete answers, whose tokens become readable during the step."""

    def check(self, request: Request) -> None:
        """Raise a LotuneError for a request that the backend cannot answer."""

    def session(self) -> AbstractContextManager[None]:
        """Return a context in which the model is ready for steps."""

    def add(self, rows: list[RunningRequest]) -> None:
        """Add rows to those that wait."""

    def step(self, selector: TokenSelector, batch_tokens: int) -> None:
        """Generate the next tokens; hold at most `batch_tokens` tokens at once, but always one row."""

    def remove_ended(self) -> None:
        """Remove the rows that have an outcome."""

    def reset(self) -> None:
        """Forget the running rows and all cached prompts."""


def backend_for(model: Any) -> Backend:
    """Return the backend of a model: vLLM, continuous batching, or transformers' own `generate`.

    Raises: ModelError for a model that cannot generate.
    """
    if isinstance(model, VllmModel):
        return VllmBackend(model)
    return slot_batcher(model) or TransformersBatcher(token_reader(model), base_model(model))


def slot_batcher(model: Any) -> ContinuousBatcher | None:
    """Return the continuous batcher of a plain or adapted model; None if the model cannot use slots."""
    base, model = base_model(model), token_reader(model)
    windows = attention_windows(base)
    if not windows or any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values()):
        return None
    buckets = _supports_bucketed_decode(base)
    fast = LlamaForward.of(model, base) if buckets and windows == {"full_attention": None} else None
    batcher = ContinuousBatcher(SlotModel(model, base, windows, buckets, fast))
    # A fast forward pass has been compared with the model already.
    return batcher if fast is not None or batcher.matches_transformers() else None


def base_model(model: Any) -> PreTrainedModel:
    """Return the transformers model inside an adapted one, or the model itself."""
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "peft_config") else model
    return base


def attention_windows(base: PreTrainedModel) -> dict[str, int | None]:
    """Return the kinds of attention of a model, each with its window in tokens, None for full attention.

    The result is empty for a model that does not accept a cache and masks from its caller, or whose rotary embeddings
    change with the longest row of a batch, so that one answer would change another.
    """
    config = base.config.get_text_config(decoder=True)
    parameters = inspect.signature(base.forward).parameters
    supported = (
        getattr(base, "_supports_attention_backend", False)
        and getattr(config, "_attn_implementation", None) in ("sdpa", "eager", PACKED)
        and {"position_ids", "past_key_values", "logits_to_keep"} <= parameters.keys()
        and not any(kind in str(getattr(config, "rope_parameters", "")) for kind in ("dynamic", "longrope"))
    )
    window = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or ["full_attention" if window is None else "sliding_attention"])
    if not supported or not types <= {"full_attention", "sliding_attention"}:
        return {}
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(types)}


def _supports_bucketed_decode(base: PreTrainedModel) -> bool:
    """Return whether blocks of rows can have their own attended length: on a CPU, if the attention can be replaced."""
    kinds = {parameter.kind for parameter in inspect.signature(base.forward).parameters.values()}
    settable = base.config._attn_implementation in ("sdpa", PACKED)
    return settable and base.device.type == "cpu" and inspect.Parameter.VAR_KEYWORD in kinds


def _check_switching(model: Any) -> None:
    """Raise ModelError for a model whose rows cannot have different adapters."""
    merged = any(getattr(layer, "merged", False) for layer in model.modules())
    if not is_selectable(model) or merged or len(active_adapters(model)) != 1:
        expected = "unmerged adapters of a method that can be selected per request, one of them active"
        raise ModelError("adapter", "cannot be selected per request with this model", expected, "set one, or merge it")


def check_requests(model: Any, base: Any, requests: Sequence[Request], first: int = 0) -> None:
    """Check that a model can answer the requests; `base` is the model inside an adapted one.

    Raises: DataError for a request that is empty, outside the vocabulary or longer than the context, or that names an
    unknown adapter; SettingsError for a stop id outside the vocabulary; ModelError for an adapter that prepends tokens
    inside the model, or that cannot be selected per request.
    """
    context, vocabulary = declared_context_length(base.config), base.config.get_text_config(decoder=True).vocab_size
    prefix = len(virtual_ids(base))
    if any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values()):
        raise ModelError(
            "adapter", "prepends tokens of its own to every prompt", "one that changes weights", "merge it"
        )
    loaded = getattr(model, "peft_config", {})
    for number, request in enumerate(requests, first):
        where = request.label or f"request {number}"
        if request.adapter is not None and request.adapter not in (loaded and (*loaded, NO_ADAPTER)):
            choices = ", ".join((*loaded, NO_ADAPTER)) if loaded else "none: the model has no adapters"
            raise DataError(where, f"names the adapter {request.adapter!r}", choices, "load it first")
        if request.adapter is not None:
            _check_switching(model)
        length = len(request.prompt_ids) + request.max_new_tokens
        if not request.prompt_ids or request.max_new_tokens < 1:
            raise DataError(where, "has no prompt or asks for no token", "at least one token of each")
        if context is not None and 0 < context < length + prefix:
            context -= prefix
            found = f"needs {length} tokens, {request.max_new_tokens} of them new"
            raise DataError(where, found, f"at most {context}, the model's context", "shorten the prompt or the answer")
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
            found = f"has token ids from {min(request.prompt_ids)} to {max(request.prompt_ids)}"
            raise DataError(where, found, f"0 to {vocabulary - 1}", "use the model's own tokeniser")
        if any(not 0 <= token < vocabulary for token in request.stop_ids):
            found = f"has stop_ids from {min(request.stop_ids)} to {max(request.stop_ids)}"
            raise SettingsError(where, found, f"0 to {vocabulary - 1}", "use the model's own tokeniser")
