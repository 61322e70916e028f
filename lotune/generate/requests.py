"""Requests to the engine, their completions, and the events of a request while it is answered."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lotune.errors import SettingsError
from lotune.generate.sampling import GREEDY, Sampling

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FinishReason = Literal["eos", "stop", "length", "cancelled", "deadline"]
OnToken = Callable[[int], bool | None]
"""A callback that receives each token id of an answer as it is chosen; it ends the answer by returning True."""

TopLogprobs = tuple[tuple[int, float], ...]
"""Token ids with their log-probabilities in nats, the likeliest first."""

NO_ADAPTER = "__base__"
"""PEFT's name for the base without an adapter."""


class GrammarState(Protocol):
    """Which tokens may come next in one answer that follows a grammar."""

    @property
    def may_end(self) -> bool:
        """Whether the text so far is complete."""

    @property
    def must_end(self) -> bool:
        """Whether nothing may follow the text so far."""

    def mask(self, logits: Tensor) -> Tensor:
        """Return a copy of logits (V,) with -inf for all tokens that must not come next, ends included."""

    def accept(self, token: int) -> None:
        """Add a token to the text. Raises: ModelError for a token that must not come next."""


class Grammar(Protocol):
    """The texts that an answer may be, such as those that a JSON schema describes; it serves any number of answers."""

    def start(self) -> GrammarState:
        """Return the state of a new answer."""


@dataclass(frozen=True)
class Request:
    """One prompt, and the settings of its answer.

    The answer has at most `max_new_tokens` tokens, and no end-of-text before `min_new_tokens`. It is cut before the
    first of the `stop` texts, and a token of `stop_ids`, or a stop text that is a special token, ends it like an
    end-of-text. It also ends `timeout_seconds` after the request was made. `logprobs` requests the log-probability of
    each token, in nats, before sampling changes it, and `top_logprobs` those of as many of the likeliest tokens beside
    it. `grammar` restricts the answer to its texts. `adapter` is the name of a loaded adapter, NO_ADAPTER for the base,
    or None for the active adapter. `label` names the row in messages. The first of `samples` answers has the seed of
    `sampling`, the others have seeds derived from it.

    Raises: SettingsError for fewer than 1 samples, or for several at temperature 0, where all are equal.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    label: str = ""
    stop_ids: tuple[int, ...] = ()
    sampling: Sampling = GREEDY
    logprobs: bool = False
    timeout_seconds: float | None = None
    adapter: str | None = None
    samples: int = 1
    top_logprobs: int = 0
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise SettingsError("samples", f"is {self.samples}", "1 or more", "1 asks for one answer")
        if self.samples > 1 and self.sampling.temperature == 0:
            found = f"is {self.samples} at temperature 0, where all are the same"
            raise SettingsError("samples", found, "1, or a temperature above 0", "raise the temperature")

    def expand_samples(self) -> Iterator[Request]:
        """Yield each sample as a request of its own. Raising the number of samples keeps the earlier ones."""
        yield replace(self, samples=1)
        draw = random.Random(f"samples of {self.sampling.seed}")
        for _ in range(1, self.samples):
            yield replace(self, samples=1, sampling=replace(self.sampling, seed=draw.getrandbits(63)))


@dataclass(frozen=True)
class Completion:
    """One answer: its text without special tokens, its token ids without the end-of-text, and why it ended.

    The text is that of all ids decoded at once, cut before a stop text. `logprobs` and `top_logprobs` have one value
    per id, if requested.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[TopLogprobs, ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """One more token of an answer; `text` is the new text that can be shown, the others are set if requested."""

    token_id: int
    text: str
    logprob: float | None = None
    top_logprobs: TopLogprobs = ()


@dataclass(frozen=True)
class FinishEvent:
    """The end of an answer; `text` is the rest that no token event contained."""

    completion: Completion
    text: str


@dataclass(frozen=True)
class ErrorEvent:
    """The end of a request without an answer, and the reason."""

    error: Exception


Event = TokenEvent | FinishEvent | ErrorEvent
"""Token events of a request come first, in order; one finish or error event comes last."""


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that end an answer: those of the generation config and the tokeniser's end-of-text."""
    # Some models name only one of the two, or different tokens: chat models often add the end of a turn.
    ids: list[Any] = [tokenizer.eos_token_id]
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids += configured if isinstance(configured, list | tuple) else [configured]
    return tuple(sorted({int(id) for id in ids if id is not None}))


def expand_requests(tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request]) -> Iterator[Request]:
    """Yield one request per answer; stop texts that are special tokens become stop ids."""
    # Decoded text leaves special tokens out, so a stop text that is one would never be seen there.
    decoder = getattr(tokenizer, "added_tokens_decoder", {})
    special = {str(token): number for number, token in decoder.items() if token.special}
    for request in requests:
        ids = tuple(special[text] for text in request.stop if text in special)
        yield from (replace(request, stop_ids=(*request.stop_ids, *ids)) if ids else request).expand_samples()
