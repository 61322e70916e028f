"""Answers to many prompts at once: a finished row leaves the batch and a waiting one takes its place.

Shapes: n running rows, V vocabulary. Rows stand side by side in the slots of one cache, each at its own length, and no
row sees another or any padding. So in float32 an answer does not depend on what it is generated with (matrix products
of another height may differ in their last bit, which shows only where the two best logits are that close).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import DynamicCache

from lotune.errors import DataError, ModelError
from lotune.generate.cache import SlotCache
from lotune.generate.sampling import GREEDY, Sampling, cut_at_stop, tokens_to_watch
from lotune.model.attention import NAME as PACKED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

StoppedBy = Literal["eos", "stop", "length", "cancelled"]
OnToken = Callable[[int, int], bool | None]
"""Is told each token of an answer, as (number of the request, token id), and ends that answer by returning True."""

PREFILL_TOKENS = 4096
"""Most tokens of prompts, with padding, in one forward pass."""
GROWTH = 1.25
"""The cache is laid out anew where that makes room for this many times as many rows."""


@dataclass(frozen=True)
class Request:
    """One prompt. The answer has at most `max_new_tokens` tokens, and no end-of-text before `min_new_tokens`.

    It ends before any of the `stop` texts, and with any of the `stop_ids`, as with an end-of-text. `logprobs` asks for
    the log-probability of each token of the answer, in nats, as the model has it before sampling changes it. Several
    samples are several requests with seeds of their own. `where` names the row in messages.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    where: str = ""
    stop_ids: tuple[int, ...] = ()
    sampling: Sampling = GREEDY
    logprobs: bool = False


@dataclass(frozen=True)
class Completion:
    """One answer: its text without special tokens, its token ids without the end-of-text, and what ended it.

    The text is that of all ids decoded at once, cut before a stop text. `logprobs`: of each id, where asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    stopped_by: StoppedBy
    logprobs: tuple[float, ...] = ()


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
    Raises: as `stream` does.
    """
    answers: dict[int, Completion] = {}
    for index, completion in stream(model, tokenizer, requests, batch_tokens=batch_tokens, on_token=on_token):
        answers[index] = completion
        if on_done is not None:
            on_done(index, completion)
    return [answers[index] for index in range(len(requests))]


@torch.inference_mode()
def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    on_token: OnToken | None = None,
) -> Iterator[tuple[int, Completion]]:
    """(number of the request, answer) as the answers end.

    Raises: DataError for a request that is empty, out of the vocabulary or longer than the model's context; ModelError
    for an adapter that prepends tokens of its own.
    """
    base = _base(model)
    _check(model, base, requests)
    rows = [_Row(index, request) for index, request in enumerate(requests)]
    ending = _Ending(tokenizer, end_ids(base, tokenizer), on_token)
    kinds = _attention_kinds(base)
    was_training = model.training
    model.eval()
    try:
        if kinds:
            yield from _Slotted(model, kinds, ending).run(rows, batch_tokens)
        else:
            yield from _run_aligned(model, ending, rows, batch_tokens)
    finally:
        model.train(was_training)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end an answer: those of the model's generation config and the tokeniser's end-of-text."""
    found: list[Any] = [tokenizer.eos_token_id]
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found += configured if isinstance(configured, list | tuple) else [configured]
    return tuple(sorted({int(id) for id in found if id is not None}))


@dataclass(slots=True)
class _Row:
    """A request under way."""

    index: int
    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        self.generator.manual_seed(self.request.sampling.seed)

    @property
    def last(self) -> int:
        """The token to read next."""
        return self.ids[-1] if self.ids else self.request.prompt_ids[-1]

    @property
    def length(self) -> int:
        """How many tokens have been read: the place of `last`."""
        return len(self.request.prompt_ids) - 1 + len(self.ids)

    @property
    def need(self) -> int:
        """Most tokens that are ever read; the last one of an answer is not."""
        return len(self.request.prompt_ids) + self.request.max_new_tokens - 1


@dataclass(frozen=True)
class _Ending:
    """Chooses tokens and knows when an answer has ended."""

    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]
    on_token: OnToken | None

    def choose(self, logits: torch.Tensor, rows: Sequence[_Row]) -> list[int]:
        """The next token of each row, from logits (n, V); no end-of-text where the row may not end yet."""
        early = [place for place, row in enumerate(rows) if len(row.ids) < row.request.min_new_tokens]
        if early:
            logits = logits.clone()
            for place in early:
                logits[place, [*self.end_ids, *rows[place].request.stop_ids]] = float("-inf")
        chosen: list[int] = logits.argmax(-1).tolist()
        for place, row in enumerate(rows):
            request = row.request
            if not request.sampling.plain:
                seen = (*request.prompt_ids, *row.ids)
                chosen[place] = request.sampling.choose(logits[place], seen, row.generator)
            if request.logprobs:
                row.logprobs.append(float(logits[place].float().log_softmax(-1)[chosen[place]]))
        return chosen

    def append(self, row: _Row, token: int) -> Completion | None:
        """Add a token to an answer; the answer where it has ended."""
        if token in self.end_ids or token in row.request.stop_ids:
            return self._completion(row, "eos")
        row.ids.append(token)
        if self.on_token is not None and self.on_token(row.index, token):
            return self._completion(row, "cancelled")
        stop = row.request.stop
        if stop and cut_at_stop(self._text(row.ids[-tokens_to_watch(stop) :]), stop)[1]:
            completion = self._completion(row, "length")
            if completion.stopped_by == "stop":
                return completion
        return self._completion(row, "length") if len(row.ids) == row.request.max_new_tokens else None

    def _completion(self, row: _Row, stopped_by: StoppedBy) -> Completion:
        text, stopped = cut_at_stop(self._text(row.ids), row.request.stop)
        return Completion(text, tuple(row.ids), "stop" if stopped else stopped_by, tuple(row.logprobs[: len(row.ids)]))

    def _text(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


class _Slotted:
    """Continuous batching over the slots of one cache; running rows are always the first n slots."""

    def __init__(self, model: PreTrainedModel, kinds: dict[str, int | None], ending: _Ending) -> None:
        self.model, self.kinds, self.ending = model, kinds, ending
        self.device, self.dtype = model.device, model.dtype
        self.running: list[_Row] = []
        self.cache = SlotCache(0, 0)

    def run(self, rows: Sequence[_Row], batch_tokens: int) -> Iterator[tuple[int, Completion]]:
        waiting = sorted(rows, key=lambda row: (row.need, -row.index))  # the longest first: short ones fill up the end
        while waiting or self.running:
            if waiting:
                self._admit(waiting, batch_tokens)
            done = []
            for place, token in enumerate(self.ending.choose(self._step(), self.running)):
                row = self.running[place]
                if (completion := self.ending.append(row, token)) is not None:
                    done.append(place)
                    yield row.index, completion
            for place in reversed(done):
                self._leave(place)

    def _admit(self, waiting: list[_Row], batch_tokens: int) -> None:
        """Read prompts into the free slots; `waiting` is sorted, the next row is its last."""
        need = max(row.need for row in (*self.running, waiting[-1]))
        slots = min(max(1, batch_tokens // need), len(self.running) + len(waiting))
        if slots >= GROWTH * self.cache.shared.slots or need > self.cache.shared.capacity:
            self.cache.resize(slots, need, len(self.running))
        while waiting and len(self.running) < self.cache.shared.slots:
            count = min(self.cache.shared.slots - len(self.running), len(waiting))
            count = min(count, max(1, PREFILL_TOKENS // len(waiting[-1].request.prompt_ids)))
            self._read([waiting.pop() for _ in range(count)])

    def _read(self, rows: list[_Row]) -> None:
        """Read prompts but for their last tokens, which the next step reads together with the running rows'."""
        width = max(row.length for row in rows)
        if width:
            padded = [[*row.request.prompt_ids[:-1], *[0] * (width - row.length)] for row in rows]
            positions = torch.arange(width, device=self.device).expand(len(rows), -1)
            self.cache.fill_from(len(self.running))
            self._forward(torch.tensor(padded, device=self.device), positions, None)
        self.running += rows

    def _step(self) -> torch.Tensor:
        """Logits (n, V) after one more token of each running row."""
        last = torch.tensor([[row.last] for row in self.running], device=self.device)
        lengths = [row.length for row in self.running]
        places = torch.tensor(lengths, device=self.device)
        self.cache.step(places, max(lengths) + 1)
        return self._forward(last, places[:, None], self._masks(places, max(lengths) + 1))

    def _masks(self, lengths: torch.Tensor, width: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """What is added to the attention scores, (n, 1, 1, width), for each kind of attention of the model."""
        masks = {kind: self._mask(lengths, width, window) for kind, window in self.kinds.items()}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, lengths: torch.Tensor, width: int, window: int | None) -> torch.Tensor:
        places = torch.arange(width, device=self.device)
        hidden = places > lengths[:, None]
        if window is not None:
            hidden |= places <= lengths[:, None] - window
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(hidden, torch.finfo(self.dtype).min)[:, None, None]

    def _forward(self, input_ids: torch.Tensor, positions: torch.Tensor, mask: Any) -> torch.Tensor:
        output = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _leave(self, place: int) -> None:
        """Take a row out; the last one takes its slot."""
        last = self.running.pop()
        if place < len(self.running):
            self.running[place] = last
            self.cache.move(len(self.running), place, last.length)


def _run_aligned(
    model: PreTrainedModel, ending: _Ending, rows: Sequence[_Row], batch_tokens: int
) -> Iterator[tuple[int, Completion]]:
    """For models whose attention takes no mask of ours: batches of equally long prompts, which shrink as rows end."""
    ordered = sorted(rows, key=lambda row: (len(row.request.prompt_ids), -row.need), reverse=True)
    for _, group in groupby(ordered, key=lambda row: len(row.request.prompt_ids)):
        waiting = sorted(group, key=lambda row: row.need, reverse=True)
        while waiting:
            count = max(1, batch_tokens // waiting[0].need)
            running, waiting = waiting[:count], waiting[count:]
            yield from _run_batch(model, ending, running)


def _run_batch(model: PreTrainedModel, ending: _Ending, running: list[_Row]) -> Iterator[tuple[int, Completion]]:
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


def _check(model: Any, base: PreTrainedModel, requests: Sequence[Request]) -> None:
    config = base.config.get_text_config(decoder=True)
    context, vocabulary = getattr(config, "max_position_embeddings", None), config.vocab_size
    if any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values()):
        raise ModelError(
            "adapter", "prepends tokens of its own to every prompt", "one that changes weights", "merge it"
        )
    for number, request in enumerate(requests):
        where = request.where or f"request {number}"
        length = len(request.prompt_ids) + request.max_new_tokens
        if not request.prompt_ids or request.max_new_tokens < 1:
            raise DataError(where, "has no prompt or asks for no token", "one token of each at least")
        if context is not None and length > context:
            found = f"needs {length} tokens, {request.max_new_tokens} of them new"
            raise DataError(where, found, f"at most {context}, the model's context", "shorten the prompt or the answer")
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
            found = f"has token ids from {min(request.prompt_ids)} to {max(request.prompt_ids)}"
            raise DataError(where, found, f"0 to {vocabulary - 1}", "use the model's own tokeniser")
