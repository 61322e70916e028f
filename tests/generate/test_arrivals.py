"""The engine's protocol: requests come, end and are cancelled at any time, from any thread; each has its events."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotune.errors import DataError, RunError, SettingsError
from lotune.generate.engine import Engine, generate_completions
from lotune.generate.llama_forward import ForwardInput, LlamaForward
from lotune.generate.requests import NO_ADAPTER, Completion, ErrorEvent, Event, FinishEvent, Request, TokenEvent
from lotune.generate.running import TokenSelector
from lotune.generate.sampling import Sampling
from lotune.generate.slot_model import SlotModel
from tests.generate.test_engine import bloom, llama, made, mistral, theirs
from tests.generate.test_prefix_sharing import sharing
from tests.generate.test_transformers_fallback import rwkv

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast


def completion_of(events: list[Event]) -> Completion:
    """The answer at the end of the events of a request, which are in order and agree with it."""
    *tokens, last = events
    assert isinstance(last, FinishEvent)
    assert all(isinstance(event, TokenEvent) for event in tokens)
    assert tuple(event.token_id for event in tokens if isinstance(event, TokenEvent)) == last.completion.token_ids
    assert "".join(event.text for event in tokens if isinstance(event, TokenEvent)) + last.text == last.completion.text
    return last.completion


def answer(engine: Engine, id: int) -> Completion:
    return completion_of(list(engine.events(id)))


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [llama, mistral, bloom, rwkv], ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("batch_tokens", [60, 1000])
def test_requests_join_at_any_time(
    shape: Callable[[], PreTrainedModel],
    batch_tokens: int,
    byte_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, submitted, draw = made(shape), sharing(20, seed=batch_tokens), random.Random(batch_tokens)
    expected = [theirs(model, request) for request in submitted]
    engine, left = Engine(model, byte_tokenizer, batch_tokens=batch_tokens), list(submitted)
    sizes, forward = list[int](), SlotModel.logits

    def watched(self: SlotModel, inputs: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        sizes.append(self.slots * self.capacity)
        return forward(self, inputs, keep)

    monkeypatch.setattr(SlotModel, "logits", watched)
    ids = [engine.submit(left.pop(0))]
    answers = []
    for index in range(20):
        events = list[Event]()
        for event in engine.events(ids[index]):
            events.append(event)
            for _ in range(draw.choice((0, 0, 0, 1, 3))):
                if left:
                    ids.append(engine.submit(left.pop(0)))
        answers.append(completion_of(events).token_ids)
        if left:
            ids.append(engine.submit(left.pop(0)))
    assert answers == expected
    longest = max(len(request.prompt_ids) + request.max_new_tokens for request in submitted)
    assert max(sizes, default=0) <= max(batch_tokens, longest)


def test_one_that_comes_later_does_not_wait_for_those_that_run(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = Engine(tiny_llama, byte_tokenizer)
    long = [engine.submit(Request((5, 6 + number), 40, 40)) for number in range(9)]
    events = engine.events(long[0])
    first = [next(events) for _ in range(4)]
    late = engine.submit(Request((7, 8), 4, 4))
    assert len(answer(engine, late).token_ids) == 4
    assert engine._rows[long[0]].outcome is None
    assert len([*first, *events]) == 41
    assert {len(answer(engine, id).token_ids) for id in long[1:]} == {40}


@pytest.mark.parametrize("shape", [llama, rwkv], ids=lambda shape: shape.__name__)
def test_many_threads_submit_at_once(
    shape: Callable[[], PreTrainedModel], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    model, submitted = made(shape), sharing(24, seed=3)
    alone = [generate_completions(model, byte_tokenizer, [request], batch_tokens=500)[0] for request in submitted]
    engine, result = Engine(model, byte_tokenizer, batch_tokens=500), dict[int, Completion]()

    def client(first: int) -> None:
        ids = {index: engine.submit(submitted[index]) for index in range(first, 24, 6)}
        result.update({index: answer(engine, id) for index, id in ids.items()})

    threads = [threading.Thread(target=client, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [result[index] for index in range(24)] == alone
    assert not engine._rows
    assert engine.is_idle


def test_tokens_of_a_model_without_slots_come_one_by_one(
    byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, request = Engine(made(rwkv), byte_tokenizer), Request((5, 6, 7), 30, 30)
    complete = answer(engine, engine.submit(request))
    free, advance = threading.Event(), TokenSelector.advance

    def held(self: TokenSelector, logits: Any, rows: Any, largest: Any = None) -> list[int]:
        assert len(rows[0].ids) < 3 or free.wait(60)
        return advance(self, logits, rows, largest)

    monkeypatch.setattr(TokenSelector, "advance", held)
    events = engine.events(engine.submit(request))
    first = [next(events) for _ in range(3)]  # the fourth is not chosen before these are read
    free.set()
    assert completion_of([*first, *events]) == complete


def test_a_waiting_and_a_running_request_are_cancelled(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = Engine(tiny_llama, byte_tokenizer, batch_tokens=70)
    submitted = [Request((5, 6, 7 + number), 20, 20) for number in range(5)]
    alone = [generate_completions(tiny_llama, byte_tokenizer, [request], batch_tokens=60)[0] for request in submitted]
    ids = [engine.submit(request) for request in submitted]
    events = engine.events(ids[0])
    first = [next(events) for _ in range(3)]
    running = next(id for id in ids[1:] if engine._rows[id].ids)
    waiting = next(id for id in ids[1:] if not engine._rows[id].ids)
    further = [id for id in ids[1:] if id not in (running, waiting)]
    assert engine.cancel(waiting)
    assert engine.cancel(running)
    cut, unread = answer(engine, running), answer(engine, waiting)
    assert (unread.finish_reason, unread.token_ids) == ("cancelled", ())
    assert cut.finish_reason == "cancelled"
    assert 0 < len(cut.token_ids) < 20
    assert cut.token_ids == alone[ids.index(running)].token_ids[: len(cut.token_ids)]
    assert completion_of([*first, *events]) == alone[0]
    assert [answer(engine, id) for id in further] == [alone[ids.index(id)] for id in further]
    assert not engine.cancel(running)
    with pytest.raises(KeyError):
        engine.events(running)


def test_a_reader_that_leaves_cancels_its_request(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_llama.train()
    engine = Engine(tiny_llama, byte_tokenizer)
    events: Any = engine.events(engine.submit(Request((5, 6, 7), 30, 30)))
    next(events)
    assert not tiny_llama.training
    events.close()
    assert engine.is_idle
    assert tiny_llama.training


def test_a_wrong_request_ends_itself_and_nobody_else(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine, good = Engine(tiny_llama, byte_tokenizer), sharing(6, seed=8)
    alone = [generate_completions(tiny_llama, byte_tokenizer, [request], batch_tokens=500)[0] for request in good]
    wrong = {
        "has token ids from 5 to 900": Request((5, 900), 3),
        "at most 256": Request((5,) * 250, 20),
        "has no prompt": Request((), 5),
        "names the adapter 'mine'": Request((5,), 5, adapter="mine"),
        "has stop_ids": Request((5,), 5, stop_ids=(900,)),
        "expand_samples": Request((5,), 5, samples=2, sampling=Sampling(1.0)),
    }
    ids = [engine.submit(request) for pair in zip(good, wrong.values(), strict=True) for request in pair]
    for index, message in enumerate(wrong):
        [event] = engine.events(ids[2 * index + 1])
        assert isinstance(event, ErrorEvent)
        assert isinstance(event.error, DataError | SettingsError)
        assert message in str(event.error)
    assert [answer(engine, id) for id in ids[::2]] == alone
    with pytest.raises(DataError, match="request 1: has token ids from 5 to 900"):
        next(engine.stream([good[0], Request((5, 900), 3)]))


def test_a_row_that_fails_while_it_runs_ends_alone(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, choose = Engine(tiny_llama, byte_tokenizer), Sampling.choose

    def choose_or_fail(self: Sampling, logits: Any, seen: Any, generator: Any) -> int:
        if self.seed == 13 and len(seen) > 5:
            raise RuntimeError("probabilities do not add up")
        return choose(self, logits, seen, generator)

    monkeypatch.setattr(Sampling, "choose", choose_or_fail)
    drawn = [Request((5, 6, 7), 9, 9, sampling=Sampling(1.0, seed=seed)) for seed in (12, 13, 14)]
    first, bad, last = (engine.submit(request) for request in drawn)
    assert len(answer(engine, first).token_ids) == len(answer(engine, last).token_ids) == 9
    *tokens, event = engine.events(bad)
    assert len(tokens) == 3
    assert isinstance(event, ErrorEvent)
    assert "do not add up" in str(event.error)


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def test_a_pass_that_fails_ends_the_rows_in_it(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = Request((5, 6, 7), 20, 20)
    complete = generate_completions(tiny_llama, byte_tokenizer, [submitted], batch_tokens=60)[0]
    engine = Engine(tiny_llama, byte_tokenizer, batch_tokens=50)
    ids = [engine.submit(submitted) for _ in range(3)]
    events = engine.events(ids[0])
    next(events)
    [waiting] = (id for id in ids if not engine._rows[id].ids)
    with monkeypatch.context() as patch:
        patch.setattr(LlamaForward, "forward", failing(MemoryError("no room")))
        *_, last = events
    *_, of_the_other = engine.events(next(id for id in ids[1:] if id != waiting))
    for event in (last, of_the_other):
        assert isinstance(event, ErrorEvent)
        assert isinstance(event.error, MemoryError)
    assert answer(engine, waiting) == complete


def test_an_interrupted_pass_ends_the_requests_of_others(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, submitted = Engine(tiny_llama, byte_tokenizer), Request((5, 6, 7), 20, 20)
    actual, other = engine.submit(submitted), engine.submit(submitted)
    events = engine.events(actual)
    next(events)
    with monkeypatch.context() as patch:
        patch.setattr(LlamaForward, "forward", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            list(events)
    *_, last = engine.events(other)
    assert isinstance(last, ErrorEvent)
    assert isinstance(last.error, RunError)


def test_a_named_adapter_leaves_all_rows_on_the_fast_pass(
    byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = get_peft_model(made(llama), lora, adapter_name="first").eval()
        model.add_adapter("second", lora)
    submitted = sharing(12, seed=2)
    named = [replace(item, adapter=(None, "second", NO_ADAPTER)[index % 3]) for index, item in enumerate(submitted)]
    alone = [generate_completions(model, byte_tokenizer, [item], batch_tokens=500)[0] for item in named]
    engine, passes, forward = Engine(model, byte_tokenizer), list[ForwardInput](), LlamaForward.forward

    def watched(self: LlamaForward, inputs: ForwardInput, mask: Any, cache: Any) -> torch.Tensor:
        passes.append(inputs)
        return forward(self, inputs, mask, cache)

    monkeypatch.setattr(LlamaForward, "forward", watched)
    monkeypatch.setattr(SlotModel, "_transformers_logits", lambda *_: pytest.fail("a slow pass"))
    ids = [engine.submit(request) for request in named]
    assert [answer(engine, id) for id in ids] == alone
    assert any(len({*(inputs.adapter_names or ())}) == 3 for inputs in passes)
    passes.clear()
    assert [answer(engine, engine.submit(item)) for item in named[::3]] == alone[::3]
    assert all(inputs.adapter_names is None for inputs in passes)


def test_an_adapter_that_replaces_a_part_is_read_by_transformers(
    byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    model: Any = get_peft_model(made(llama), lora, adapter_name="first").eval()
    engine, request, fast = Engine(model, byte_tokenizer), Request((5, 6, 7), 12, 12), LlamaForward.forward
    with model.disable_adapter():
        expected = theirs(model, request)

    def watched(self: LlamaForward, inputs: ForwardInput, mask: Any, cache: Any) -> torch.Tensor:
        assert inputs.adapter_names is None
        return fast(self, inputs, mask, cache)

    monkeypatch.setattr(LlamaForward, "forward", watched)
    assert answer(engine, engine.submit(replace(request, adapter=NO_ADAPTER))).token_ids == expected


def test_an_engine_is_reset_between_requests_only(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = Engine(tiny_llama, byte_tokenizer)
    id = engine.submit(Request((5, 6, 7), 5))
    with pytest.raises(RuntimeError, match="between requests"):
        engine.reset()
    before = answer(engine, id)
    engine.reset()
    assert answer(engine, engine.submit(Request((5, 6, 7), 5))) == before


ASKED = sharing(10, seed=11)


@pytest.fixture(scope="module")
def alone(byte_tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, list[Completion]]:
    """A model and its answers to each request alone."""
    model = made(llama)
    return model, [generate_completions(model, byte_tokenizer, [item], batch_tokens=90)[0] for item in ASKED]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    moves=st.lists(st.tuples(st.sampled_from(["submit", "submit", "cancel", "read", "read"]), st.integers(0, 9))),
    batch_tokens=st.sampled_from([40, 150, 2000]),
)
def test_other_requests_do_not_change_an_answer(
    alone: tuple[PreTrainedModel, list[Completion]],
    byte_tokenizer: PreTrainedTokenizerFast,
    moves: list[tuple[str, int]],
    batch_tokens: int,
) -> None:
    model, answers = alone
    engine = Engine(model, byte_tokenizer, batch_tokens=batch_tokens)
    ids, readers, read = list[tuple[int, int]](), list[Any](), list[list[Event]]()
    for move, place in moves:
        if move == "submit":
            ids.append((place, engine.submit(ASKED[place])))
            readers.append(engine.events(ids[-1][1]))
            read.append([])
        elif ids and move == "cancel":
            engine.cancel(ids[place % len(ids)][1])
        elif ids and (event := next(readers[place % len(ids)], None)) is not None:
            read[place % len(ids)].append(event)
    for (place, _), reader, events in zip(ids, readers, read, strict=True):
        completion = completion_of([*events, *reader])
        if completion.finish_reason == "cancelled":
            assert completion.token_ids == answers[place].token_ids[: len(completion.token_ids)]
        else:
            assert completion == answers[place]
    assert engine.is_idle
