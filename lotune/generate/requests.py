"""What is asked of the engine, and what it answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from lotune.errors import SettingsError
from lotune.generate.sampling import GREEDY, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FinishReason = Literal["eos", "stop", "length", "cancelled", "deadline"]
OnToken = Callable[[int, int], bool | None]
"""Is told each token of an answer, as (number of the answer, token id), and ends that answer by returning True."""

NO_ADAPTER = "__base__"
"""The name of no adapter, as PEFT has it."""


@dataclass(frozen=True)
class Request:
    """One prompt. The answer has at most `max_new_tokens` tokens, and no end-of-text before `min_new_tokens`.

    It ends before any of the `stop` texts, and with any of the `stop_ids`, as with an end-of-text; so it does with a
    stop text that is a special token of the tokeniser. `logprobs` asks for the log-probability of each token of the
    answer, in nats, as the model has it before sampling changes it. It ends as it is `timeout_seconds` after it was
    asked for. `adapter` is one of those that the model has, or NO_ADAPTER for none of them; without it the model
    answers as it stands. `label` names the row in messages. `samples` answers are drawn, the first with the seed of
    `sampling`, the others with seeds that follow from it.

    Raises: SettingsError for samples below 1, or several that could not differ.
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

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise SettingsError("samples", f"is {self.samples}", "1 or more", "1 asks for one answer")
        if self.samples > 1 and self.sampling.temperature == 0:
            found = f"is {self.samples} at temperature 0, where all are the same"
            raise SettingsError("samples", found, "1, or a temperature above 0", "raise the temperature")

    def expand_samples(self) -> Iterator[Request]:
        """The samples as requests of their own; those of fewer are the first of more."""
        yield replace(self, samples=1)
        draw = random.Random(f"samples of {self.sampling.seed}")
        for _ in range(1, self.samples):
            yield replace(self, samples=1, sampling=replace(self.sampling, seed=draw.getrandbits(63)))


Requests = Sequence[Request] | SimpleQueue[Request | None]
RequestCheck = Callable[[Sequence[Request], int], None]


@dataclass(frozen=True)
class Completion:
    """One answer: its text without special tokens, its token ids without the end-of-text, and what ended it.

    The text is that of all ids decoded at once, cut before a stop text. `logprobs`: of each id, where asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[float, ...] = ()


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end an answer: those of the model's generation config and the tokeniser's end-of-text."""
    found: list[Any] = [tokenizer.eos_token_id]
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found += configured if isinstance(configured, list | tuple) else [configured]
    return tuple(sorted({int(id) for id in found if id is not None}))


def expand_requests(tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request]) -> Iterator[Request]:
    """A request for each answer, in order, samples of one next to one another; special tokens to stop at as ids."""
    decoder = getattr(tokenizer, "added_tokens_decoder", {})
    special = {str(token): number for number, token in decoder.items() if token.special}
    for request in requests:
        ids = tuple(special[text] for text in request.stop if text in special)
        yield from (replace(request, stop_ids=(*request.stop_ids, *ids)) if ids else request).expand_samples()
