"""Requests that join those that run: answers are those of transformers whenever and beside whatever they come."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lotune.errors import DataError
from lotune.generate.continuous_batching import ContinuousBatcher
from lotune.generate.engine import Engine
from lotune.generate.llama_forward import ForwardInput
from lotune.generate.requests import Request
from tests.generate.test_engine import bloom, llama, made, mistral, theirs
from tests.generate.test_prefix_sharing import sharing
from tests.generate.test_transformers_fallback import rwkv

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [llama, mistral, bloom, rwkv], ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("batch_tokens", [60, 1000])
def test_requests_join_at_any_time(
    shape: Callable[[], PreTrainedModel],
    batch_tokens: int,
    byte_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, asked, draw = made(shape), sharing(20, seed=batch_tokens), random.Random(batch_tokens)
    expected = [theirs(model, request) for request in asked]
    engine, queue, left = Engine(model, byte_tokenizer), SimpleQueue[Request | None](), list(asked)
    sizes, forward = list[int](), ContinuousBatcher._forward

    def watched(self: ContinuousBatcher, rows: Any, what: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        sizes.append(self.cache.shared.slots * self.cache.shared.capacity)
        return forward(self, rows, what, keep)

    def come(least: int) -> None:
        for _ in range(max(least, draw.choice((0, 0, 0, 1, 3)))):
            if left:
                queue.put(left.pop(0))

    def on_token(*_: int) -> None:
        come(0)

    monkeypatch.setattr(ContinuousBatcher, "_forward", watched)
    come(1)
    answers = {}
    for number, answer in engine.stream(queue, batch_tokens=batch_tokens, on_token=on_token):
        answers[number] = answer.token_ids
        come(1)
        if not left:
            queue.put(None)
    assert [answers[number] for number in range(20)] == expected
    longest = max(len(request.prompt_ids) + request.max_new_tokens for request in asked)
    assert max(sizes, default=0) <= max(batch_tokens, longest)


def test_one_that_comes_later_does_not_wait_for_those_that_run(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine, queue = Engine(tiny_llama, byte_tokenizer), SimpleQueue[Request | None]()
    for number in range(9):
        queue.put(Request((5, 6 + number), 40, 40))
    seen = list[tuple[int, int]]()

    def on_token(*token: int) -> None:
        seen.append((token[0], token[1]))
        if len(seen) == 30:
            queue.put(Request((7, 8), 4, 4))
            queue.put(None)

    ended = [number for number, _ in engine.stream(queue, batch_tokens=5000, on_token=on_token)]
    assert ended[0] == 9
    assert sorted(ended) == list(range(10))


def test_a_stream_without_requests_waits_for_them(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine, queue = Engine(tiny_llama, byte_tokenizer), SimpleQueue[Request | None]()
    stream = engine.stream(queue, batch_tokens=100)
    for number in range(2):
        threading.Timer(0.05, queue.put, [Request((5, 6 + number), 3, 3)]).start()
        found, answer = next(stream)
        assert (found, len(answer.token_ids)) == (number, 3)
    queue.put(None)
    assert list(stream) == []


def test_what_comes_is_checked(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    engine, queue = Engine(tiny_llama, byte_tokenizer), SimpleQueue[Request | None]()
    good, bad = Request((5, 6), 3), Request((5, 900), 3)
    engine.check([good])
    with pytest.raises(DataError, match="request 0: has token ids"):
        engine.check([bad])
    queue.put(good)
    queue.put(bad)
    with pytest.raises(DataError, match="has token ids from 5 to 900"):
        list(engine.stream(queue, batch_tokens=100))
    assert len(list(engine.stream([good], batch_tokens=100))) == 1
