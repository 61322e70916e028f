"""Prompts that begin alike are read from there on only, and the answers are the same; deadlines; cancelling."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lotune.errors import DataError, ModelError
from lotune.generate.continuous_batching import MAX_STEP_TOKENS
from lotune.generate.engine import Engine, generate_completions
from lotune.generate.llama_forward import ForwardInput
from lotune.generate.prefix_sharing import MIN_SHARED_TOKENS, common_prefix_length
from lotune.generate.requests import NO_ADAPTER, Request
from lotune.generate.slot_model import SlotModel
from tests.generate.test_engine import SLOTTED, ids, llama, made, theirs

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast


def sharing(count: int, seed: int = 0) -> list[Request]:
    """Prompts of a common head, one of four middles and an end of their own; some are another's beginning."""
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(2, 300) for _ in range(draw.randint(low, high)))

    head, middles = tokens(20, 20), [tokens(0, 40) for _ in range(4)]
    return [Request(head + draw.choice(middles) + tokens(1, 12), draw.randint(1, 20)) for _ in range(count)]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens, padding included, each pass has read."""
    sizes: list[int] = []
    forward = SlotModel.logits

    def watched(self: SlotModel, inputs: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        sizes.append(inputs.input_ids.numel())
        return forward(self, inputs, keep)

    monkeypatch.setattr(SlotModel, "logits", watched)
    return sizes


@pytest.mark.oracle
@pytest.mark.parametrize("shape", SLOTTED, ids=lambda shape: shape.__name__)
def test_answers_are_those_of_transformers(
    shape: Callable[[], PreTrainedModel], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    model, submitted = made(shape), sharing(24)
    expected = [theirs(model, request) for request in submitted]
    for batch_tokens in (100, 400, 5000):
        assert ids(generate_completions(model, byte_tokenizer, submitted, batch_tokens=batch_tokens)) == expected
    engine = Engine(model, byte_tokenizer)
    one_by_one = [next(engine.stream([request], batch_tokens=256))[1].token_ids for request in submitted]
    assert one_by_one == expected


def test_a_shared_beginning_is_read_once(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, read: list[int]
) -> None:
    head = tuple(range(2, 102))
    submitted = [Request((*head, 150 + number, 7), 1) for number in range(10)]
    generate_completions(tiny_llama, byte_tokenizer, submitted, batch_tokens=10_000)
    assert read == [101, 9 * 1, 10]  # the first prompt, what the others have beside it, and the last token of each
    read.clear()
    engine = Engine(tiny_llama, byte_tokenizer)
    for request in submitted[:3]:
        list(engine.stream([request], batch_tokens=200))
    assert read == [102, 2, 2]


def test_a_prefix_of_running_rows_is_reused(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, read: list[int], monkeypatch: Any
) -> None:
    monkeypatch.setitem(MAX_STEP_TOKENS, "cpu", 1)
    head = tuple(range(2, 60))
    submitted = [Request((*head, 100 + number), 5 + number, min_new_tokens=5 + number) for number in range(6)]
    expected = [
        ids(generate_completions(tiny_llama, byte_tokenizer, [request], batch_tokens=100)) for request in submitted
    ]
    read.clear()
    answers = ids(generate_completions(tiny_llama, byte_tokenizer, submitted, batch_tokens=140))
    assert [[answer] for answer in answers] == expected
    assert max(read[1:]) <= 2  # after the first prompt never more than a token for each of two rows


def test_many_random_batches_with_cancelling(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    submitted = sharing(60, seed=5)
    alone = [
        ids(generate_completions(tiny_llama, byte_tokenizer, [request], batch_tokens=200))[0] for request in submitted
    ]
    engine, draw = Engine(tiny_llama, byte_tokenizer), random.Random(2)
    for _ in range(8):
        chosen = draw.sample(range(60), draw.randint(1, 30))
        ends = {number: draw.randint(1, 4) for number in range(len(chosen)) if draw.random() < 0.3}
        told: dict[int, int] = {}

        def cancel(number: int, _: int, told: dict[int, int] = told, ends: dict[int, int] = ends) -> bool:
            told[number] = told.get(number, 0) + 1
            return told[number] == ends.get(number)

        answers = dict(
            engine.stream([submitted[i] for i in chosen], batch_tokens=draw.choice((90, 500)), on_token=cancel)
        )
        for number, place in enumerate(chosen):
            expected = alone[place][: ends.get(number)]
            assert answers[number].token_ids == expected
            assert (answers[number].finish_reason == "cancelled") == (len(alone[place]) >= ends.get(number, 10**6))


def test_a_stream_that_was_left_does_no_harm(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    submitted = sharing(12, seed=9)
    expected = ids(generate_completions(tiny_llama, byte_tokenizer, submitted, batch_tokens=300))
    engine = Engine(tiny_llama, byte_tokenizer)
    left = engine.stream(submitted, batch_tokens=300)
    next(left)
    left.close()
    answers = dict(engine.stream(submitted, batch_tokens=300))
    assert [answers[number].token_ids for number in range(12)] == expected


def test_an_answer_ends_at_its_deadline(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("lotune.generate.running.time.monotonic", lambda: now[0])
    prompt = tuple(range(5, 30))
    submitted = [
        Request(prompt, 20, min_new_tokens=20),
        Request(prompt, 20, min_new_tokens=20, timeout_seconds=7.5),
        Request(prompt, 20, min_new_tokens=20, timeout_seconds=0.0),
    ]

    def tick(number: int, _: int) -> None:
        now[0] += 1 if number == 0 else 0

    complete, cut, none = generate_completions(tiny_llama, byte_tokenizer, submitted, batch_tokens=500, on_token=tick)
    assert [answer.finish_reason for answer in (complete, cut, none)] == ["length", "deadline", "deadline"]
    assert cut.token_ids == complete.token_ids[: len(cut.token_ids)]
    assert len(cut.token_ids) in (8, 9)  # the order of the two requests is unspecified
    assert none.token_ids == ()


def test_short_common_prefixes_are_not_shared() -> None:
    same = list(range(MIN_SHARED_TOKENS))
    assert common_prefix_length(same[:-1], same[:-1]) == 0
    assert common_prefix_length(same, (*same, 5)) == MIN_SHARED_TOKENS
    assert common_prefix_length((*same, 1, 2, 3), (*same, 1, 4, 3)) == MIN_SHARED_TOKENS + 1


@pytest.mark.oracle
def test_each_request_has_its_own_adapter(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model: Any = get_peft_model(made(llama), settings, adapter_name="first")
    model.add_adapter("second", settings)
    model.eval()
    names = [None, "first", "second", NO_ADAPTER]
    submitted = [replace(request, adapter=names[index % 4]) for index, request in enumerate(sharing(20))]
    expected = []
    for request in submitted:
        model.set_adapter("second" if request.adapter == "second" else "first")
        with model.disable_adapter() if request.adapter == NO_ADAPTER else nullcontext():
            expected.append(theirs(model, request))
    model.set_adapter("first")
    assert len(set(expected[:4])) > 1
    for batch_tokens in (60, 2000):
        assert ids(generate_completions(model, byte_tokenizer, submitted, batch_tokens=batch_tokens)) == expected


def test_an_unknown_adapter_is_refused(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="names the adapter 'mine'"):
        generate_completions(tiny_llama, byte_tokenizer, [Request((5, 6), 2, adapter="mine")], batch_tokens=50)


def test_an_interrupted_pass_leaves_no_state(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C in the middle of a step, a follow-up request continues the text and uses no partly written cache."""
    activation = tiny_llama.model.layers[1].mlp.act_fn
    prompt, forward = tuple(range(5, 45)), activation.forward
    engine, passes, output = Engine(tiny_llama, byte_tokenizer), [0], list[int]()

    def interrupted(*given: Any, **named: Any) -> Any:
        passes[0] += 1
        if passes[0] == 4:
            raise KeyboardInterrupt
        return forward(*given, **named)

    monkeypatch.setattr(activation, "forward", interrupted)
    submitted = [Request(prompt, 20, min_new_tokens=20)]
    with pytest.raises(KeyboardInterrupt):
        list(engine.stream(submitted, batch_tokens=100, on_token=lambda _, token: output.append(token)))
    assert len(output) == 3
    again = Request((*prompt, *output, 7), 8)
    expected = generate_completions(tiny_llama, byte_tokenizer, [again], batch_tokens=100)
    assert [answer for _, answer in engine.stream([again], batch_tokens=100)] == expected


def test_an_engine_keeps_to_the_budget_of_each_call(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, heights, forward = Engine(tiny_llama, byte_tokenizer), list[int](), SlotModel.logits

    def watched(self: SlotModel, inputs: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        heights.append(len(inputs.input_ids))
        return forward(self, inputs, keep)

    monkeypatch.setattr(SlotModel, "logits", watched)
    submitted = [Request((5, 6, 7 + number), 18, min_new_tokens=18) for number in range(20)]
    wide = dict(engine.stream(submitted, batch_tokens=500))
    assert max(heights) == 20
    heights.clear()
    assert dict(engine.stream(submitted, batch_tokens=90)) == wide
    assert max(heights) == 4


def test_two_streams_at_a_time(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Engine(tiny_llama, byte_tokenizer)
    submitted = [Request((5, 6), 3), Request((7, 8), 9)]
    first = engine.stream(submitted, batch_tokens=50)
    answers = dict([next(first)])
    second = dict(engine.stream(submitted))
    assert answers | dict(first) == second
    assert len(second) == 2


def test_another_active_adapter_computes_the_prefix_again(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model: Any = get_peft_model(made(llama), settings, adapter_name="first")
    model.add_adapter("second", settings)
    model.eval()
    engine, submitted = Engine(model, byte_tokenizer), Request(tuple(range(5, 60)), 8)
    for name in ("first", "second"):
        model.set_adapter(name)
        [(_, answer)] = engine.stream([submitted], batch_tokens=100)
        assert answer.token_ids == theirs(model, submitted)
    with model.disable_adapter():
        [(_, answer)] = engine.stream([submitted], batch_tokens=100)
        assert answer.token_ids == theirs(model, submitted)
        with pytest.raises(ModelError, match="cannot be selected"):
            list(engine.stream([replace(submitted, adapter="first")], batch_tokens=100))
