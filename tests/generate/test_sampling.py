"""Choosing tokens: what stays, what goes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import SettingsError
from lotune.generate.sampling import apply_temperature, cut_at_stop, top_k_filter, top_p_filter

LOGITS = st.lists(st.integers(-20, 20), min_size=2, max_size=12).map(lambda row: torch.tensor([row]) / 4)


@given(LOGITS, st.floats(0.05, 1))
def test_top_p_keeps_the_fewest_that_reach_p(logits: torch.Tensor, p: float) -> None:
    remaining = top_p_filter(logits, p).isfinite()[0]
    probabilities = logits.softmax(-1)[0]
    mass = float(probabilities[remaining].sum())
    assert remaining[logits[0].argmax()]
    assert mass >= p - 1e-5
    assert mass - float(probabilities[remaining].min()) < p + 1e-5


@given(LOGITS, st.integers(1, 15))
def test_top_k_keeps_the_best(logits: torch.Tensor, k: int) -> None:
    remaining = top_k_filter(logits, k).isfinite()[0]
    assert int(remaining.sum()) >= min(k, logits.shape[1])
    if not remaining.all():
        assert logits[0][remaining].min() > logits[0][~remaining].max()


@given(LOGITS, st.floats(0.1, 3))
def test_a_temperature_keeps_the_order(logits: torch.Tensor, temperature: float) -> None:
    assert apply_temperature(logits, temperature).argmax() == logits.argmax()


@pytest.mark.parametrize(
    "call", [lambda x: apply_temperature(x, 0), lambda x: top_k_filter(x, 0), lambda x: top_p_filter(x, 0)]
)
def test_out_of_range_is_refused(call: object) -> None:
    with pytest.raises(SettingsError):
        call(torch.zeros(1, 4))  # type: ignore[operator]


def test_the_earliest_stop_string_counts_and_empty_ones_are_ignored() -> None:
    assert cut_at_stop("a b c", ["c", "b", ""]) == ("a ", True)
    assert cut_at_stop("a b c", [""]) == ("a b c", False)
