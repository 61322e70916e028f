"""Log-probabilities of given continuations: what prompts share is read once, and the figures stay the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from lotune.generate import loglikelihood
from lotune.generate.backends import slot_batcher
from lotune.generate.llama_forward import ForwardInput
from lotune.generate.loglikelihood import Continuation, LogLikelihood
from lotune.generate.slot_model import SlotModel
from tests.generate.test_engine import SLOTTED, bloom, llama, made
from tests.generate.test_transformers_fallback import mamba

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def questions(count: int, seed: int = 0) -> list[Continuation]:
    """Rows in any order: examples that all begin with, a question, one of four options of 1 to 5 tokens."""
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(2, 300) for _ in range(draw.randint(low, high)))

    examples = tokens(60, 60)
    prompts = [examples + tokens(2, 30) for _ in range(count)]
    rows = [Continuation(prompt, tokens(1, 5)) for prompt in prompts for _ in range(4)]
    alike = [Continuation(prompts[0], (9, 8, number)) for number in range(3)]
    return draw.sample([*rows, *alike, Continuation((5,), (6, 7)), Continuation((5, 8), (6,))], len(rows) + 5)


def alone(model: PreTrainedModel, row: Continuation) -> list[float]:
    """The same of one row, from the whole of transformers' logits."""
    ids = torch.tensor([[*row.prompt_ids, *row.ids]])
    with torch.no_grad():
        values = model(ids, use_cache=False).logits[0].log_softmax(-1)
    first = len(row.prompt_ids) - 1
    return [float(values[first + number, token]) for number, token in enumerate(row.ids)]


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [*SLOTTED, bloom, mamba], ids=lambda shape: shape.__name__)
def test_figures_are_those_of_transformers(shape: Callable[[], PreTrainedModel]) -> None:
    model, rows = made(shape), questions(6)
    expected = [alone(model, row) for row in rows]
    for batch_tokens in (1, 700, 20_000):
        results = LogLikelihood(model).score(rows, batch_tokens=batch_tokens)
        for values, expected_values in zip(results, expected, strict=True):
            assert values == pytest.approx(expected_values, abs=1e-5, rel=1e-5)


def test_few_logits_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = made(llama), questions(6)
    expected = LogLikelihood(model).score(rows, batch_tokens=20_000)
    monkeypatch.setattr(loglikelihood, "MAX_LOGITS", 300 * 12)
    for values, expected_values in zip(LogLikelihood(model).score(rows, batch_tokens=20_000), expected, strict=True):
        assert values == pytest.approx(expected_values, abs=1e-5)


def test_shared_prefixes_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read, forward = list[int](), SlotModel.logits

    def watched(self: SlotModel, inputs: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        read.append(sum(inputs.lengths) if inputs.lengths is not None else inputs.input_ids.numel())
        return forward(self, inputs, keep)

    monkeypatch.setattr(SlotModel, "logits", watched)
    examples = tuple(range(2, 102))
    rows = [
        Continuation((*examples, 150 + question, 7), (200 + option, 3)) for question in range(5) for option in range(4)
    ]
    LogLikelihood(made(llama)).score(rows, batch_tokens=20_000)
    assert read == [101, 4 * 1, 20 * 2]  # the first prompt, what the others have beside it, and the options


def test_a_model_is_probed_once_for_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    probed, model = list[object](), made(llama)
    monkeypatch.setattr(loglikelihood, "slot_batcher", lambda one: probed.append(one) or slot_batcher(one))
    weighs = LogLikelihood(model)
    for group in range(3):
        rows = [Continuation((*range(2, 60), 100 + group), (200 + option,)) for option in range(4)]
        for row, values in zip(rows, weighs.score(rows, batch_tokens=1000), strict=True):
            assert values == pytest.approx(alone(model, row), abs=1e-5)
    assert probed == [model]


def test_without_anything_shared_no_slots_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loglikelihood, "continuation_logits", lambda *_: pytest.fail("nothing is shared"))
    model, draw = made(llama), random.Random(1)
    rows = [Continuation(tuple(draw.randrange(2, 300) for _ in range(20)), (5, 6)) for _ in range(6)]
    results = LogLikelihood(model).score(rows, batch_tokens=100)
    for row, values in zip(rows, results, strict=True):
        assert values == pytest.approx(alone(model, row), abs=1e-5)
