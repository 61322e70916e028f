"""Drawn answers: the distribution is transformers' own, and a request's answer does not depend on its company."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotune.errors import DataError, SettingsError
from lotune.generate.detokenizer import StreamingDetokenizer
from lotune.generate.engine import generate_completions
from lotune.generate.llama_forward import ForwardInput
from lotune.generate.loglikelihood import Continuation, LogLikelihood
from lotune.generate.requests import Request
from lotune.generate.sampling import PENALTIES, SEEDS, TEMPERATURES, Sampling
from lotune.generate.slot_model import SlotModel

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
    result = Sampling(temperature, top_k, top_p, penalty).distribution(logits, seen).softmax(-1)
    reference_values = logits[None].clone()
    for step in (
        RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k),
        TopPLogitsWarper(top_p),
    ):  # fmt: skip
        reference_values = step(torch.tensor([seen]), reference_values)
    expected = reference_values.softmax(-1)[0]
    if (result - expected).abs().max() > 1e-5:  # a sum of probabilities that is top_p but for its last bit
        reached = result.sort(descending=True).values.cumsum(0)
        assert (reached - top_p).abs().min() < 1e-3 or top_p > 0.99


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": 1e-45}, {"temperature": math.inf}, {"temperature": math.nan}, {"top_k": 0},
        {"top_p": 0}, {"top_p": math.nan}, {"repetition_penalty": 0}, {"repetition_penalty": math.inf},
        {"repetition_penalty": 1e-40}, {"seed": 2**64}, {"seed": -(2**63) - 1},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(SettingsError, match=f"{name}: is ") as caught:
        Sampling(**wrong)
    error = caught.value
    assert (error.where, error.found) == (name, f"is {value}")
    assert error.expected
    assert error.remedy


@pytest.mark.parametrize("heat", TEMPERATURES)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_ends_of_the_ranges_can_be_drawn_with(heat: float, penalty: float, seed: int) -> None:
    logits = torch.tensor([-1e4, 1e4, 0.5, float("-inf")])
    chosen = Sampling(heat, 3, 0.9, penalty, seed).choose(logits, [1], torch.Generator().manual_seed(seed))
    assert chosen in range(3)


@pytest.mark.parametrize(("samples", "how"), [(0, DRAWN), (-1, DRAWN), (2, Sampling())])
def test_samples_that_cannot_be_are_refused(samples: int, how: Sampling) -> None:
    with pytest.raises(SettingsError, match=f"samples: is {samples}"):
        Request((5,), 3, sampling=how, samples=samples)


def test_samples_differ_come_in_order_and_again(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    single = asked(4, DRAWN)
    several = [replace(request, samples=number) for number, request in enumerate(single, start=1)]
    answers = generate_completions(tiny_llama, byte_tokenizer, several, batch_tokens=10_000)
    assert len(answers) == 1 + 2 + 3 + 4
    assert [item.token_ids for item in generate_completions(tiny_llama, byte_tokenizer, several, batch_tokens=40)] == [
        item.token_ids for item in answers
    ]
    first = generate_completions(tiny_llama, byte_tokenizer, single, batch_tokens=10_000)
    assert [answers[place].token_ids for place in (0, 1, 3, 6)] == [item.token_ids for item in first]
    assert len({item.token_ids for item in answers[6:]}) == 4
    fewer = generate_completions(tiny_llama, byte_tokenizer, [replace(single[3], samples=3)], batch_tokens=10_000)
    assert [item.token_ids for item in fewer] == [item.token_ids for item in answers[6:9]]


def test_the_prompt_of_several_samples_is_read_once(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, forward = list[int](), SlotModel.logits

    def watched(self: SlotModel, inputs: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        read.append(inputs.input_ids.numel())
        return forward(self, inputs, keep)

    monkeypatch.setattr(SlotModel, "logits", watched)
    request = Request(tuple(range(2, 92)), 1, 1, sampling=DRAWN, samples=8)
    assert (
        len(
            {
                completion.token_ids
                for completion in generate_completions(tiny_llama, byte_tokenizer, [request], batch_tokens=10_000)
            }
        )
        > 2
    )
    assert read == [89, 8]  # the prompt, and its last token for each sample


def asked(count: int, sampling: Sampling) -> list[Request]:
    prompts = [tuple(2 + (7 * n + k) % 290 for k in range(1 + n % 6)) for n in range(count)]
    return [Request(prompt, 12, sampling=replace(sampling, seed=n), logprobs=True) for n, prompt in enumerate(prompts)]


def test_a_drawn_answer_depends_on_its_seed_alone(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    requests = asked(12, DRAWN)
    complete = generate_completions(tiny_llama, byte_tokenizer, requests, batch_tokens=10_000)
    alone = generate_completions(tiny_llama, byte_tokenizer, requests[::-1], batch_tokens=60)[::-1]
    assert [item.token_ids for item in alone] == [item.token_ids for item in complete]
    for item, other in zip(alone, complete, strict=True):
        assert item.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    other = generate_completions(tiny_llama, byte_tokenizer, asked(12, replace(DRAWN, top_k=None)), batch_tokens=10_000)
    greedy = generate_completions(tiny_llama, byte_tokenizer, asked(12, Sampling()), batch_tokens=10_000)
    assert len({tuple(item.token_ids for item in answers) for answers in (complete, other, greedy)}) == 3


def test_tokens_are_drawn_as_often_as_they_are_likely(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt = (5, 9, 30)
    with torch.no_grad():
        likely = tiny_llama(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    requests = [Request(prompt, 1, 1, sampling=Sampling(temperature=1.0, seed=seed)) for seed in range(1500)]
    drawn = Counter(
        completion.token_ids[0]
        for completion in generate_completions(tiny_llama, byte_tokenizer, requests, batch_tokens=50_000)
    )
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
    answers = generate_completions(tiny_llama, byte_tokenizer, requests, batch_tokens=200)
    given_rows = [
        Continuation(request.prompt_ids, answer.token_ids)
        for request, answer in zip(requests, answers, strict=True)
        if answer.token_ids
    ]
    assert len(given_rows) > 5
    for batch_tokens in (1, 40, 10_000):
        results = LogLikelihood(tiny_llama).score(given_rows, batch_tokens=batch_tokens)
        for row, values in zip(given_rows, results, strict=True):
            ids = torch.tensor([[*row.prompt_ids, *row.ids]])
            labels = ids.clone()
            labels[0, : len(row.prompt_ids)] = -100
            with torch.no_grad():
                loss = tiny_llama(ids, labels=labels).loss.item()
            assert -sum(values) / len(values) == pytest.approx(loss, rel=1e-4)
    own = [answer.logprobs for answer in answers if answer.token_ids]
    for values, expected in zip(own, results, strict=True):
        assert values == pytest.approx(expected, abs=1e-4)


def test_continuations_that_cannot_be_are_refused(tiny_llama: LlamaForCausalLM) -> None:
    for row, result in ((Continuation((), (3,), "row 4"), "row 4"), (Continuation((3,), ()), "continuation 0")):
        with pytest.raises(DataError, match=result):
            LogLikelihood(tiny_llama).score([row], batch_tokens=10)
    with pytest.raises(DataError, match="at most"):
        LogLikelihood(tiny_llama).score([Continuation((3,) * 5000, (3,))], batch_tokens=10)


@pytest.mark.parametrize("wrong", [300, -1])
def test_a_token_to_stop_at_is_in_the_vocabulary(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, wrong: int
) -> None:
    request = Request((5, 9), 4, min_new_tokens=2, stop_ids=(7, wrong), label="row q7")
    with pytest.raises(SettingsError, match=r"row q7: has stop_ids from .*\n.*0 to 299"):
        generate_completions(tiny_llama, byte_tokenizer, [request], batch_tokens=100)


def test_an_end_of_text_out_of_the_vocabulary_is_never_chosen_and_no_hindrance(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    [before] = generate_completions(tiny_llama, byte_tokenizer, [Request((5, 9), 4, 4)], batch_tokens=100)
    tiny_llama.generation_config.eos_token_id = [0, 5000]  # type: ignore[union-attr]
    assert generate_completions(tiny_llama, byte_tokenizer, [Request((5, 9), 4, 4)], batch_tokens=100) == [before]


def test_a_stop_text_that_is_a_special_token_ends_an_answer(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer: Any = copy.deepcopy(byte_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    [end] = tokenizer.convert_tokens_to_ids(["<|im_end|>"])
    assert end < 300

    def sure(module: Any, args: Any, output: Any) -> Any:
        output.logits[..., end] = 1e4
        return output

    request = Request((5, 9, 30), 6)
    [never] = generate_completions(tiny_llama, tokenizer, [request], batch_tokens=100)
    tiny_llama.register_forward_hook(sure)
    [unheard] = generate_completions(tiny_llama, tokenizer, [request], batch_tokens=100)
    assert unheard.token_ids == (end,) * 6 != never.token_ids
    [ended] = generate_completions(
        tiny_llama, tokenizer, [replace(request, stop=("<|im_end|>", "###"))], batch_tokens=100
    )
    assert (ended.token_ids, ended.finish_reason) == ((), "eos")


def test_stop_ids_and_cancelling(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    request = Request((5, 9, 30), 20)
    [complete] = generate_completions(tiny_llama, byte_tokenizer, [request], batch_tokens=100)
    assert len(complete.token_ids) > 3
    third = complete.token_ids[2]
    first = complete.token_ids.index(third)
    [stopped] = generate_completions(
        tiny_llama, byte_tokenizer, [replace(request, stop_ids=(third,))], batch_tokens=100
    )
    assert (stopped.token_ids, stopped.finish_reason) == (complete.token_ids[:first], "eos")
    seen: list[int] = []

    def until_two(index: int, token: int) -> bool:
        seen.append(token)
        return len(seen) == 2

    [cancelled] = generate_completions(tiny_llama, byte_tokenizer, [request], batch_tokens=100, on_token=until_two)
    assert (cancelled.token_ids, cancelled.finish_reason) == (complete.token_ids[:2], "cancelled")
    assert tuple(seen) == complete.token_ids[:2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=2))
def test_pieces_join_to_the_whole_and_no_character_is_half(byte_tokenizer: Any, text: str, stop: list[str]) -> None:
    tokenizer = byte_tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    complete = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    positions = [place for place in map(complete.find, stop) if place >= 0]
    end = min(positions, default=len(complete))
    pieces, displayed = StreamingDetokenizer(tokenizer, stop), ""
    for token in ids:
        piece = pieces.add_token(token)
        if len(displayed + piece) > end:  # the engine stops at a stop text
            break
        displayed += piece
        assert "\ufffd" not in piece or "\ufffd" in text
        assert complete.startswith(displayed)
    assert displayed + pieces.finalize(complete[:end]) == complete[:end]


def test_a_token_that_goes_beyond_a_stop_string_hides_the_stop_string() -> None:
    class Whole:
        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(["Yes.", "\n###", " Instruction", ":\n"][id] for id in ids)

    pieces = StreamingDetokenizer(Whole(), ("\n### Instruction:",))  # type: ignore[arg-type]
    assert [pieces.add_token(number) for number in range(4)] == ["Yes.", "", "", ""]
    assert pieces.finalize("Yes.") == ""
