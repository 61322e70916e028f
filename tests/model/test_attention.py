"""Packed attention beside the plain formula, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lotune.model.attention import _fused, _grouped, groups, packed_arguments, use_packed_attention


def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Softmax attention by its formula, each row by itself after what all share, (T, H, E) in float64."""
    found = []
    shared, *others = zip(*(tensor.double().split(lengths) for tensor in (query, key, value)), strict=True)
    for number, own in enumerate(others):
        q, k, v = (torch.cat(parts).transpose(0, 1) for parts in zip(shared, own, strict=True))
        later = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(1, 2) * 0.3).masked_fill(later, float("-inf")).softmax(-1)
        found.append((weights @ v).transpose(0, 1)[lengths[0] if number else 0 :])
    return torch.cat(found)


ROWS = st.lists(st.integers(1, 40), min_size=1, max_size=9)
BLOCKS = st.builds(lambda count, length: [length] * count, st.integers(1, 9), st.integers(1, 40))


@given(st.integers(0, 12), st.one_of(ROWS, BLOCKS), st.sampled_from([_fused, _grouped]))
@example(0, [7, 7, 7], _fused)
@example(0, [7, 7, 7], _grouped)
@settings(max_examples=30)
def test_rows_attend_to_themselves_and_what_they_share(shared: int, own: list[int], attend: Any) -> None:
    """Queries, keys and values may be parts of one tensor, as where one matrix gives all three, in any layout."""
    torch.manual_seed(0)
    lengths = [shared, *own]
    joint = torch.randn(sum(lengths), 6, 8, requires_grad=True)
    weights = torch.randn(sum(lengths), 2, 8)
    expected = reference(*joint.split(2, 1), lengths)
    wanted = torch.autograd.grad((expected * weights).sum(), joint)
    parts = joint.split(2, 1) if len(own) % 2 else joint.mT.contiguous().mT.split(2, 1)
    found = attend(*parts, torch.tensor(lengths), 0.3)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), joint), wanted, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 9), st.lists(st.integers(1, 99), min_size=1, max_size=30))
def test_every_token_is_some_row_s_own_once(shared: int, own: list[int]) -> None:
    found = groups((shared, *own))
    places = torch.cat([group.places.flatten()[group.own] for group in found])
    assert places.sort().values.tolist() == list(range(shared + sum(own)))
    real = sum(len(group.real) for group in found)
    assert real == sum(own) + shared * len(own)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_without_packed_rows_a_model_answers_as_before(tiny_llama: Any, heads: int) -> None:
    """Padded on the left, as generation does, and packed: each row's logits are those that it has alone."""
    model = tiny_llama if heads == 2 else type(tiny_llama)(_with_heads(tiny_llama.config, heads)).eval()
    ids = torch.arange(2, 22)[None]
    alone = model(input_ids=ids).logits
    use_packed_attention(model)
    assert torch.equal(model(input_ids=ids).logits, alone)
    mask = torch.tensor([[0, 0, 0] + [1] * 17])
    padded = model(input_ids=torch.cat([ids[:, :3] * 0 + 1, ids[:, :17]], 1), attention_mask=mask).logits
    torch.testing.assert_close(padded[:, 3:], alone[:, :17], rtol=1e-4, atol=1e-5)
    twice, places = torch.cat([ids, ids[:, :5]], 1), torch.cat([torch.arange(20), torch.arange(5)])[None]
    packed = model(input_ids=twice, position_ids=places, **packed_arguments(torch.tensor([0, 20, 5]))).logits
    torch.testing.assert_close(packed, torch.cat([alone, alone[:, :5]], 1), rtol=1e-4, atol=1e-5)


def _with_heads(config: Any, heads: int) -> Any:
    config.num_key_value_heads = heads
    return config


@pytest.mark.slow
def test_a_compiled_model_takes_packed_rows(tiny_llama: Any) -> None:
    use_packed_attention(tiny_llama)
    compiled = torch.compile(tiny_llama.model)
    for lengths in ([3, 9], [5, 2, 8], [4, 4, 4, 7]):
        ids = torch.arange(2, 2 + sum(lengths))[None]
        words = {"input_ids": ids, "position_ids": ids * 0 + 1, **packed_arguments(torch.tensor([0, *lengths]))}
        found, expected = compiled(**words).last_hidden_state, tiny_llama.model(**words).last_hidden_state
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
