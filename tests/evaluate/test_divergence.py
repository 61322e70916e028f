"""The divergence of a tuned model from its base on rows, beside torch's own from whole logits."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tiny_models import causal_lm, with_random_adapter
from torch.nn.functional import kl_div

from lotune.data.tokenized import EncodedRow
from lotune.evaluate.divergence import MOST_ROWS, measure_divergence
from lotune.model.adapters import add_adapter
from lotune.model.methods.lora import LoraSettings
from lotune.model.methods.prompt_tuning import PromptTuningSettings
from lotune.model.parts import virtual_ids
from lotune.model.settings import AdapterSettings

SHAPE = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip


def base() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return causal_lm("LlamaConfig", **SHAPE).eval()


def rows(count: int, start: int = 1) -> list[EncodedRow]:
    draw = random.Random(0)
    lengths = [draw.randint(2, 20) for _ in range(count)]
    ids = [tuple(draw.randrange(90) for _ in range(length)) for length in lengths]
    return [EncodedRow(str(number), row, min(start, len(row) - 1)) for number, row in enumerate(ids)]


def plain(untuned: Any, tuned: Any, row: EncodedRow) -> float:
    """The divergence of the tokens from `completion_start` on, from one call of each model."""
    prefix = virtual_ids(tuned)
    inner = tuned.get_base_model()
    with torch.no_grad():
        expected = untuned(input_ids=torch.tensor([row.token_ids])).logits[0].log_softmax(-1)
        found = inner(input_ids=torch.tensor([(*prefix, *row.token_ids)])).logits[0, len(prefix) :].log_softmax(-1)
    scored = slice(max(1, row.completion_start) - 1, -1)
    return kl_div(found[scored], expected[scored], reduction="sum", log_target=True).item()


@pytest.mark.oracle
@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("settings", [LoraSettings(rank=2), PromptTuningSettings(num_virtual_tokens=5)])
def test_it_is_the_mean_of_the_divergence_that_torch_computes(settings: AdapterSettings, start: int) -> None:
    tuned = with_random_adapter(add_adapter(base(), settings, 0), 0.5).eval()
    some = rows(12, start)
    tokens = sum(len(row.token_ids) - max(1, row.completion_start) for row in some)
    expected = sum(plain(base(), tuned, row) for row in some) / tokens
    for untuned in (base(), tuned):  # a model of its own, and the tuned one without its adapter
        found = measure_divergence(untuned, tuned, some, "rows")
        assert found is not None
        assert found.value == pytest.approx(expected, rel=1e-4)
        assert (found.rows, found.tokens, found.set) == (12, tokens, "rows")
        assert found.interval is not None
        assert found.interval.low < found.value < found.interval.high


def test_a_fresh_adapter_is_at_its_base() -> None:
    fresh = add_adapter(base(), LoraSettings(rank=2), 0)
    found = measure_divergence(base(), fresh, rows(5), "rows")
    assert found is not None
    assert found.value == pytest.approx(0, abs=1e-6)


def test_at_most_a_hundred_rows_are_measured_and_none_gives_nothing() -> None:
    fresh = add_adapter(base(), LoraSettings(rank=2), 0)
    found = measure_divergence(fresh, fresh, rows(MOST_ROWS + 7), "rows")
    assert found is not None
    assert found.rows == MOST_ROWS
    assert measure_divergence(fresh, fresh, [], "rows") is None
