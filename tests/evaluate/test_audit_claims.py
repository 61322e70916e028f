"""Reading what is claimed about an adapter."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import SettingsError
from lotune.evaluate.audit_claims import conventions, read_claim, read_count, read_ratio


@pytest.mark.parametrize("text", ["4194304", "4,194,304", " 4_194_304 ", "4 194 304"])
def test_counts(text: str) -> None:
    assert read_count(text) == 4_194_304


@pytest.mark.parametrize("text", ["4M", "4.2M", "3 M", "0", "-5", "4,19", "", "1e6", "9" * 30])
def test_a_rounded_or_unreadable_count_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="exact number"):
        read_count(text)


@pytest.mark.parametrize("text", ["", ".", "a", "1/0", "-0.1", "1e999", "nan", "0.1%%"])
def test_an_unreadable_ratio_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        read_ratio(text)


def test_forms_of_a_ratio() -> None:
    assert read_ratio("4.24393e-4").value == read_ratio("0.0424393%").value == Fraction(424393, 10**9)
    assert read_ratio("4194304 / 7321000000").fits(4_194_304, 7_321_000_000)
    assert not read_ratio("4194304/7321000000").fits(4_194_304, 7_321_948_160)
    assert read_ratio("0.000572914082775577").fits(4_194_304, 7_321_000_000)


@given(st.integers(1, 10**8), st.sampled_from([8_030_000_000, 8_030_261_248]), st.integers(6, 12))
def test_a_rounded_or_cut_ratio_fits_its_count(count: int, total: int, digits: int) -> None:
    rounded, cut = f"{count / total:.{digits}f}", f"{count / total:.{digits + 8}f}"[:-8]
    for text in (rounded, cut):
        ratio = read_ratio(text)
        assert ratio.fits(count, total)
        low, high = ratio.counts(total)
        assert low <= count <= high
        assert not ratio.fits(high + 2, total)


def test_conventions() -> None:
    assert conventions(7_321_948_160) == {"measured": 7_321_948_160, "internlm-7b": 7_321_000_000}
    assert conventions(2_164_416) == {"measured": 2_164_416}
    assert set(conventions(None)) == {"llama3-8b", "internlm-7b"}


def test_a_claim_of_nothing() -> None:
    assert read_claim(None, None, None, None).is_empty
    assert not read_claim(8, None, None, None).is_empty
