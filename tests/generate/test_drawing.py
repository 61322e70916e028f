"""Drawn answers: the distribution is transformers' own, and a request's answer does not depend on its company."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotune.errors import DataError, SettingsError
from lotune.generate.engine import generate
from lotune.generate.likelihood import Continuation, log_probabilities
from lotune.generate.pieces import Pieces
from lotune.generate.requests import Request
from lotune.generate.sampling import Sampling

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

DRAWN = Sampling(temperature=0.9, top_k=20, top_p=0.9, repetition_penalty=1.2, seed=7)


@pytest.mark.oracle
@given(
    st.lists(st.integers(-40, 40), min_size=3, max_size=30), st.floats(0.2, 2), st.integers(1, 9), st.floats(0.1, 1),
    st.floats(0.6, 2),
)  # fmt: skip
def test_the_distribution_is_that_of_transformers(
    row: list[int], temperature: float, top_k: int, top_p: float, penalty: float
) -> None:
    from transformers.generation.logits_process import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = torch.tensor(row) / 7 + torch.arange(len(row)) * 1e-3  # no two alike
    seen = [0, 2, 2]
    found = Sampling(temperature, top_k, top_p, penalty).distribution(logits, seen).softmax(-1)
    theirs = logits[None].clone()
    for step in (
        RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k),
        TopPLogitsWarper(top_p),
    ):  # fmt: skip
        theirs = step(torch.tensor([seen]), theirs)
    expected = theirs.softmax(-1)[0]
    if (found - expected).abs().max() > 1e-5:  # a sum of probabilities that is top_p but for its last bit
        reached = found.sort(descending=True).values.cumsum(0)
        assert (reached - top_p).abs().min() < 1e-3 or top_p > 0.99


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"repetition_penalty": 0}])
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Sampling(**wrong)


def asked(count: int, sampling: Sampling) -> list[Request]:
    prompts = [tuple(2 + (7 * n + k) % 290 for k in range(1 + n % 6)) for n in range(count)]
    return [Request(prompt, 12, sampling=replace(sampling, seed=n), logprobs=True) for n, prompt in enumerate(prompts)]


def test_a_drawn_answer_depends_on_its_seed_alone(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    requests = asked(12, DRAWN)
    whole = generate(tiny_llama, byte_tokenizer, requests, batch_tokens=10_000)
    alone = generate(tiny_llama, byte_tokenizer, requests[::-1], batch_tokens=60)[::-1]
    assert [one.token_ids for one in alone] == [one.token_ids for one in whole]
    for one, other in zip(alone, whole, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    other = generate(tiny_llama, byte_tokenizer, asked(12, replace(DRAWN, top_k=None)), batch_tokens=10_000)
    greedy = generate(tiny_llama, byte_tokenizer, asked(12, Sampling()), batch_tokens=10_000)
    assert len({tuple(one.token_ids for one in answers) for answers in (whole, other, greedy)}) == 3


def test_tokens_are_drawn_as_often_as_they_are_likely(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt = (5, 9, 30)
    with torch.no_grad():
        likely = tiny_llama(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    requests = [Request(prompt, 1, 1, sampling=Sampling(temperature=1.0, seed=seed)) for seed in range(1500)]
    drawn = Counter(one.token_ids[0] for one in generate(tiny_llama, byte_tokenizer, requests, batch_tokens=50_000))
    likely[0] = 0  # no end-of-text before the minimum
    likely /= likely.sum()
    for token, probability in enumerate(likely.tolist()):
        spread = 5 * (1500 * probability * (1 - probability)) ** 0.5 + 2
        assert abs(drawn[token] - 1500 * probability) <= spread


@pytest.mark.oracle
def test_log_probabilities_are_those_of_transformers(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Of an answer, and of the same tokens given as a continuation, in any batch."""
    requests = asked(9, Sampling())
    answers = generate(tiny_llama, byte_tokenizer, requests, batch_tokens=200)
    given_rows = [
        Continuation(request.prompt_ids, answer.token_ids)
        for request, answer in zip(requests, answers, strict=True)
        if answer.token_ids
    ]
    assert len(given_rows) > 5
    for batch_tokens in (1, 40, 10_000):
        found = log_probabilities(tiny_llama, given_rows, batch_tokens=batch_tokens)
        for row, values in zip(given_rows, found, strict=True):
            ids = torch.tensor([[*row.prompt_ids, *row.ids]])
            labels = ids.clone()
            labels[0, : len(row.prompt_ids)] = -100
            with torch.no_grad():
                loss = tiny_llama(ids, labels=labels).loss.item()
            assert -sum(values) / len(values) == pytest.approx(loss, rel=1e-4)
    own = [answer.logprobs for answer in answers if answer.token_ids]
    for values, expected in zip(own, found, strict=True):
        assert values == pytest.approx(expected, abs=1e-4)


def test_continuations_that_cannot_be_are_refused(tiny_llama: LlamaForCausalLM) -> None:
    for row, found in ((Continuation((), (3,), "row 4"), "row 4"), (Continuation((3,), ()), "continuation 0")):
        with pytest.raises(DataError, match=found):
            log_probabilities(tiny_llama, [row], batch_tokens=10)
    with pytest.raises(DataError, match="at most"):
        log_probabilities(tiny_llama, [Continuation((3,) * 5000, (3,))], batch_tokens=10)


def test_stop_ids_and_cancelling(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    request = Request((5, 9, 30), 20)
    [whole] = generate(tiny_llama, byte_tokenizer, [request], batch_tokens=100)
    assert len(whole.token_ids) > 3
    third = whole.token_ids[2]
    first = whole.token_ids.index(third)
    [stopped] = generate(tiny_llama, byte_tokenizer, [replace(request, stop_ids=(third,))], batch_tokens=100)
    assert (stopped.token_ids, stopped.stopped_by) == (whole.token_ids[:first], "eos")
    seen: list[int] = []

    def until_two(index: int, token: int) -> bool:
        seen.append(token)
        return len(seen) == 2

    [cancelled] = generate(tiny_llama, byte_tokenizer, [request], batch_tokens=100, on_token=until_two)
    assert (cancelled.token_ids, cancelled.stopped_by) == (whole.token_ids[:2], "cancelled")
    assert tuple(seen) == whole.token_ids[:2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=2))
def test_pieces_join_to_the_whole_and_no_character_is_half(byte_tokenizer: Any, text: str, stop: list[str]) -> None:
    tokenizer = byte_tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    places = [place for place in map(whole.find, stop) if place >= 0]
    end = min(places, default=len(whole))
    pieces, shown = Pieces(tokenizer, stop), ""
    for token in ids:
        piece = pieces.push(token)
        if len(shown + piece) > end:  # the engine stops at a stop text
            break
        shown += piece
        assert "\ufffd" not in piece or "\ufffd" in text
        assert whole.startswith(shown)
    assert shown + pieces.finish(whole[:end]) == whole[:end]


def test_a_token_that_goes_beyond_a_stop_text_shows_nothing_of_it() -> None:
    class Whole:
        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(["Yes.", "\n###", " Instruction", ":\n"][: len(ids)])

    pieces = Pieces(Whole(), ("\n### Instruction:",))  # type: ignore[arg-type]
    assert [pieces.push(number) for number in range(4)] == ["Yes.", "", "", ""]
    assert pieces.finish("Yes.") == ""
