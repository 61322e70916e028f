"""Drafts: what is looked up, that answers are the same with and without them, and that fewer passes are made."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lotune.generate.continuous_batching import MAX_STEP_TOKENS, ContinuousBatcher
from lotune.generate.engine import Engine, generate_completions
from lotune.generate.llama_forward import ForwardInput
from lotune.generate.prompt_lookup import (
    COOLDOWN,
    DEFAULT_DRAFT_LENGTH,
    MAX_CANDIDATES,
    MAX_DRAFT_LENGTH,
    MAX_MATCH,
    NgramIndex,
    propose_draft,
)
from lotune.generate.requests import NO_ADAPTER, Completion, Request
from lotune.generate.running import RunningRequest
from lotune.generate.sampling import Sampling
from lotune.generate.slot_model import SlotModel
from tests.generate.test_engine import SLOTTED, ids, llama, made

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

tokens = st.lists(st.integers(0, 3), max_size=40)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what each pass reads."""
    shapes: list[tuple[int, ...]] = []
    forward = SlotModel.logits

    def watched(self: SlotModel, inputs: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        shapes.append(tuple(inputs.input_ids.shape))
        return forward(self, inputs, keep)

    monkeypatch.setattr(SlotModel, "logits", watched)
    return shapes


def alike(one: list[int], other: list[int]) -> int:
    """How many tokens two rows end with alike, MAX_MATCH at most."""
    pairs = zip(reversed(one[-MAX_MATCH:]), reversed(other[-MAX_MATCH:]), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@given(tokens, tokens)
def test_the_longest_matching_context_is_found(row: list[int], end: list[int]) -> None:
    result, place = NgramIndex(row).look_up(end)
    last = [place for place in range(1, len(row)) if end and row[place - 1] == end[-1]][-MAX_CANDIDATES:]
    assert result == max((alike(row[:place], end) for place in last), default=0)
    if last:
        assert place == max(place for place in last if alike(row[:place], end) == result)


@given(tokens, tokens, st.integers(0, 20))
def test_a_draft_follows_the_longest_matching_context(row: list[int], before: list[int], most: int) -> None:
    own, past = NgramIndex(row), NgramIndex(before)
    result, positions = propose_draft(own, past, most), [(*trail.look_up(row), trail) for trail in (own, past)]
    same, place, trail = positions[0] if positions[0][0] >= positions[1][0] else positions[1]
    assert len(result) <= most
    if not same or not most:
        assert result == []
        return
    known = trail.ids[place : place + most]
    assert result[: len(known)] == known
    if trail is own:  # what repeats goes on
        complete = [*row, *result]
        assert len(result) == most
        assert all(complete[len(row) + n] == complete[place + n] for n in range(most))
    else:
        assert result == known


@given(st.lists(tokens, min_size=1, max_size=6))
def test_a_trail_can_grow_in_parts(parts: list[list[int]]) -> None:
    grown = NgramIndex()
    for part in parts:
        grown.extend(part)
    complete = NgramIndex(token for part in parts for token in part)
    assert (grown.ids, grown.look_up(complete.ids)) == (complete.ids, complete.look_up(complete.ids))


def test_drafts_grow_after_accepted_and_shrink_after_rejected_ones() -> None:
    row = RunningRequest(0, Request((5, 6, 7, 5, 6), 100))
    assert row.draft(NgramIndex(), 100) == [7, 5, 6, 7, 5, 6, 7, 5, 6][:DEFAULT_DRAFT_LENGTH]
    steps = (
        (0, DEFAULT_DRAFT_LENGTH // 2),
        (0, DEFAULT_DRAFT_LENGTH // 4),
        (1, DEFAULT_DRAFT_LENGTH),
        (DEFAULT_DRAFT_LENGTH, 2 * DEFAULT_DRAFT_LENGTH),
    )
    for right, length in steps:
        row.update_draft_budget(min(row.draft_budget, DEFAULT_DRAFT_LENGTH), right)
        assert len(row.draft(NgramIndex(), 100)) == length
    for _ in range(9):
        row.update_draft_budget(row.draft_budget, row.draft_budget)
    assert len(row.draft(NgramIndex(), 100)) == MAX_DRAFT_LENGTH
    row.update_draft_budget(0, 0)
    assert len(row.draft(NgramIndex(), 100)) == MAX_DRAFT_LENGTH
    assert row.draft(NgramIndex(), 0) == []


def test_a_rejected_draft_delays_the_next() -> None:
    row = RunningRequest(0, Request((5, 6, 7, 5, 6), 100))
    while row.draft_budget:
        row.update_draft_budget(len(row.draft(NgramIndex(), 100)), 0)
    for token in range(COOLDOWN):
        assert row.draft(NgramIndex(), 100) == []
        row.ids.append(10 + token)
    row.ids += [7, 5, 6]
    assert row.draft(NgramIndex(), 100) == [10]  # what followed 7, 5, 6
    row.update_draft_budget(1, 1)
    assert len(row.draft(NgramIndex(), 100)) == 2


def test_the_last_token_of_an_answer_is_never_drafted() -> None:
    row = RunningRequest(0, Request((5, 6, 5, 6, 5, 6), 3))
    assert row.draft(NgramIndex(), 9) == [5, 6]
    row.ids.append(5)
    assert row.draft(NgramIndex(), 9) == [6]
    row.ids.append(6)
    assert row.draft(NgramIndex(), 9) == []


def repeating(count: int, seed: int) -> list[Request]:
    """Prompts that repeat themselves, so that what comes is drafted, rightly or not."""
    draw, submitted = random.Random(seed), []
    for number in range(count):
        part = [draw.randrange(2, 300) for _ in range(draw.randint(1, 6))]
        prompt = (*part * draw.randint(1, 5), *part[: draw.randint(1, len(part))])
        submitted.append(Request(prompt, draw.randint(1, 30), min_new_tokens=draw.choice((0, 9)), label=str(number)))
    return submitted


@pytest.mark.oracle
@pytest.mark.parametrize("shape", SLOTTED, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("company", [1, 3])
def test_answers_are_those_of_one_token_at_a_time(
    shape: Callable[[], PreTrainedModel], company: int, byte_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch, passes: list[tuple[int, ...]],
) -> None:  # fmt: skip
    model, submitted = made(shape), repeating(24, 5)

    def answers() -> list[Completion]:
        engine, result = Engine(model, byte_tokenizer), []
        for first in range(0, len(submitted), company):
            part = dict(engine.stream(submitted[first : first + company], batch_tokens=400))
            result += [part[index] for index in range(len(part))]
        return result

    drafted, made_with = answers(), len(passes)
    assert any(width > 1 for _, width in passes)
    passes.clear()
    monkeypatch.setitem(MAX_STEP_TOKENS, "cpu", 1)
    plain = answers()
    assert ids(drafted) == ids(plain)
    assert [item.finish_reason for item in drafted] == [item.finish_reason for item in plain]
    assert made_with <= len(passes)


def test_drawn_answers_and_their_log_probabilities_are_the_same(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = Sampling(temperature=0.3, top_p=0.9, repetition_penalty=1.1)
    submitted = [
        replace(request, sampling=replace(how, seed=number), logprobs=True)
        for number, request in enumerate(repeating(12, 6))
    ]
    drafted = [
        generate_completions(tiny_llama, byte_tokenizer, [request], batch_tokens=200)[0] for request in submitted
    ]
    monkeypatch.setitem(MAX_STEP_TOKENS, "cpu", 1)
    plain = generate_completions(tiny_llama, byte_tokenizer, submitted, batch_tokens=400)
    assert ids(drafted) == ids(plain)
    for item, other in zip(drafted, plain, strict=True):
        assert item.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert len(item.logprobs) == len(item.token_ids)


def test_an_answer_that_was_given_before_is_read_in_one_pass(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, passes: list[tuple[int, ...]]
) -> None:
    engine, request = Engine(tiny_llama, byte_tokenizer), Request(tuple(range(2, 40)), 5, 5)
    [(_, first)] = engine.stream([request], batch_tokens=100)
    passes.clear()
    [(_, again)] = engine.stream([request], batch_tokens=100)
    assert again.token_ids == first.token_ids
    assert len(passes) == 1


def test_an_answer_is_cancelled_and_stopped_inside_a_draft(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, passes: list[tuple[int, ...]]
) -> None:
    engine, request = Engine(tiny_llama, byte_tokenizer), Request(tuple(range(2, 40)), 9, 9)
    [(_, complete)] = engine.stream([request], batch_tokens=100)
    seen: list[int] = []

    def third(_: int, token: int) -> bool:
        seen.append(token)
        return len(seen) == 3

    passes.clear()
    [(_, cut)] = engine.stream([request], batch_tokens=100, on_token=third)
    assert len(passes) == 1
    assert passes[0][1] > 3
    assert (cut.finish_reason, cut.token_ids, tuple(seen)) == (
        "cancelled",
        complete.token_ids[:3],
        complete.token_ids[:3],
    )
    stop = next((token for token in complete.token_ids if token != complete.token_ids[0]), complete.token_ids[0])
    ended = replace(request, min_new_tokens=0, stop_ids=(stop,))
    passes.clear()
    [(_, stopped)] = engine.stream([ended], batch_tokens=100)
    assert len(passes) == 1
    assert stopped.token_ids == complete.token_ids[: complete.token_ids.index(stop)]
    [(_, again)] = engine.stream([request], batch_tokens=100)  # what the slot holds is still right
    assert again.token_ids == complete.token_ids


def test_the_stored_context_is_bounded(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lotune.generate.continuous_batching.MAX_HISTORY", 50)
    engine = Engine(tiny_llama, byte_tokenizer)
    assert isinstance(engine._backend, ContinuousBatcher)
    for request in repeating(30, 7):
        list(engine.stream([request], batch_tokens=100))
        assert len(engine._backend.draft_history.ids) <= 50 + MAX_MATCH + request.max_new_tokens + 1


def assert_the_books_are_right(engine: Engine) -> None:
    """Each slot holds the keys and values of the tokens that it is said to hold."""
    assert isinstance(engine._backend, ContinuousBatcher)
    slots = engine._backend.slots
    for slot, held in enumerate(slots.cached_ids):
        if held:
            fresh: Any = slots.model(input_ids=torch.tensor([held]), use_cache=True).past_key_values
            for layer, expected in zip(slots.cache.layers, fresh.layers, strict=True):
                for actual, values in ((layer.keys, expected.keys), (layer.values, expected.values)):
                    assert torch.allclose(actual[slot, :, : len(held)], values[0], atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_random_streams_with_cancelling_and_closing(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw, engine = random.Random(seed), Engine(tiny_llama, byte_tokenizer)
    head = tuple(draw.randrange(2, 300) for _ in range(20))
    known = [
        replace(item, prompt_ids=(*head[: draw.choice((0, 18, 20))], *item.prompt_ids)) for item in repeating(16, seed)
    ]
    with monkeypatch.context() as plain:
        plain.setitem(MAX_STEP_TOKENS, "cpu", 1)
        complete = [
            generate_completions(tiny_llama, byte_tokenizer, [item], batch_tokens=100)[0].token_ids for item in known
        ]
    for _ in range(12):
        chosen = [draw.randrange(len(known)) for _ in range(draw.randint(1, 9))]
        cuts = {index: draw.randint(1, 9) for index in range(len(chosen)) if draw.random() < 0.3}
        said = [0] * len(chosen)

        def on_token(number: int, _: int, said: list[int] = said, cuts: dict[int, int] = cuts) -> bool:
            said[number] += 1
            return said[number] == cuts.get(number)

        answers = engine.stream(
            [known[item] for item in chosen], batch_tokens=draw.choice((90, 400)), on_token=on_token
        )
        with closing(answers):  # type: ignore[type-var]
            for number, answer in islice(answers, draw.choice((1, 2, 99))):
                expected = complete[chosen[number]]
                assert answer.token_ids == expected[: cuts.get(number, len(expected))]
        assert_the_books_are_right(engine)


@pytest.mark.oracle
def test_each_request_drafts_with_its_own_adapter(byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: Any) -> None:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = get_peft_model(made(llama), settings, adapter_name="first")
    model.eval()
    submitted = [
        replace(item, adapter=(None, "first", NO_ADAPTER)[index % 3]) for index, item in enumerate(repeating(18, 8))
    ]
    drafted, engine = list[tuple[int, ...]](), Engine(model, byte_tokenizer)
    for first in range(0, len(submitted), 3):
        part = dict(engine.stream(submitted[first : first + 3], batch_tokens=400))
        drafted += ids([part[index] for index in range(3)])
    monkeypatch.setitem(MAX_STEP_TOKENS, "cpu", 1)
    assert drafted == ids(generate_completions(model, byte_tokenizer, submitted, batch_tokens=400))
