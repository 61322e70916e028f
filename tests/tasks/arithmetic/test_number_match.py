"""The judge: which number of an answer counts, and when it equals the key's."""

from __future__ import annotations

import time
import tracemalloc
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lotune.errors import SettingsError
from lotune.tasks.arithmetic.number_match import USUAL_RULES, _expression, _value, match_numbers, read_number, verdicts
from lotune.tasks.arithmetic.problem_types import generate_rows

READ = {
    "": None,
    "no number": None,
    "7": "7",
    "a = 1, b = -2.50": "-2.50",
    "1,234,567.89": "1234567.89",
    "1,2345": "2345",
    "12,34": "34",
    "[74, 13]": "13",
    "１２．５０": "12.50",
    "－３": "-3",
    "１，２３４": "1234",
    "1{,}234 or 1,\\!234": "1234",
    "2.7E+34": "2.7E+34",
    "2.7e-3": "0.0027",
    "2.7×10^34": "2.7E+34",
    "2.7 × 10^{34}": "2.7E+34",
    r"2.7 \times 10^{34}": "2.7E+34",
    r"2.7\times 10^{-3}": "0.0027",
    "2.7×10^−3": "0.0027",
    "2.7×1034": "1034",
    "-.5": "-0.5",
    "3.": "3",
    "1.2.3": "3",
    # signs
    "5-3": "3",
    "5 - 3": "3",
    "(2)-3": "3",
    "（2）－3": "3",
    "5--3": "-3",
    "5 - -3": "-3",
    "x = −3": "-3",
    "x = –3": "-3",
    "x = - 3": "-3",
    "答案——3": "3",
    # fractions
    "1/4": "1/4",
    "-1/4": "-1/4",
    "1/-4": "-1/4",
    "1/4.": "1/4",
    "12.50 / 3.10": "3.10",
    "12.50/3.10": "3.10",
    "1/3.5": "3.5",
    "1/1,111.5": "1111.5",
    "1 / 4": "4",
    "1/0": None,
    r"\frac{3}{4}": "3/4",
    r"-\dfrac{ 3 }{ 4 }": "-3/4",
    r"\frac{-3}{4}": "-3/4",
    r"\frac{x}{2}": "2",
    # which part counts
    r"\boxed{1} then \boxed{2} and 3": "2",
    r"\boxed{\frac{1}{2}} = 0.5": "1/2",
    r"\boxed{\text{even}} 4": None,
    r"\boxed{12": "12",
    "1 + 1, final, 1 + 1 = 2": "2",
    "final 1, Final answer: 2": "2",
    r"final 3, \boxed{4}, final 5": "4",
    "3 is final": None,
    "面积为 3192 平方厘米": "3192",
    "1E+9999999999": None,
}


@pytest.mark.parametrize(("text", "number"), READ.items())
def test_the_number_that_counts(text: str, number: str | None) -> None:
    result = read_number(text)
    assert (None if result is None else str(result)) == number


VERDICTS = [
    ("2.50", "2.5", "exact", True),
    ("2.5001", "2.5", "exact", False),
    ("5/2", "2.5", "exact", True),
    ("1/3", "0.3333333333333333", "significant:5", True),
    ("1/4", "1/4", "significant:5", True),
    ("2/8", "1/4", "relative:0.5", False),
    ("0.25", "1/4", "exact", False),
    ("-1/4", r"\boxed{-\frac{1}{4}}", "exact", True),
    # a key of at most five significant digits, trailing zeros not counted
    ("72478.0", "72478.0000", "significant:5", True),
    ("72478.1", "72478.0000", "significant:5", False),
    ("1200001", "1200000", "significant:5", False),
    ("0", "0.00", "significant:5", True),
    ("0.00001", "0.00", "significant:5", False),
    # a longer one: half a unit of the fifth digit, both ends included
    ("72479000", "72478608.3184", "significant:5", True),
    ("72479108.3184", "72478608.3184", "significant:5", True),
    ("72479108.3185", "72478608.3184", "significant:5", False),
    ("-0.069283", "-0.06928276208526476834197246135", "significant:5", True),
    ("0.069283", "-0.06928276208526476834197246135", "significant:5", False),
    ("1.000000", "0.999995", "significant:5", True),
    ("1.000001", "0.999995", "significant:5", False),
    ("0.9999995", "1.0000001", "significant:5", True),
    ("3.2858×10^37", "3.285780438165902935930888960E+37", "significant:5", True),
    ("0.35", "0.345", "decimals:2", True),
    ("0.3501", "0.345", "decimals:2", False),
    ("10001", "10000", "relative:1e-4", True),
    ("10001.01", "10000", "relative:1e-4", False),
    ("no idea", "10000", "relative:1e-4", False),
    ("3", "even", "exact", None),
    ("", "", "exact", None),
    ("1E+999999999", "1", "decimals:2", False),
    ("1", "1E+999999999", "decimals:2", False),
    ("1E-999999999", "0", "decimals:2", True),
    ("1E+999999999", "1E+999999999", "significant:5", True),
    ("1E+999999999", "1.23456E-999999999", "significant:5", False),
    ("0E+999999999", "0", "relative:1e-4", True),
]


@pytest.mark.parametrize(("answer", "key", "rule", "right"), VERDICTS)
def test_verdicts(answer: str, key: str, rule: str, right: bool | None) -> None:
    assert match_numbers(answer, key, rule)[2] is right


RULES = ["exact", "significant:5", "decimals:2", "relative:1e-4"]
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=8)


@settings(deadline=None)
@given(answer=NUMBERS, key=NUMBERS, rule=st.sampled_from(RULES), near=st.booleans())
def test_rules_agree_with_fractions(answer: Decimal, key: Decimal, rule: str, near: bool) -> None:
    if near:
        answer = key + key.scaleb(-4).quantize(Decimal("1e-8")) if key else answer
    distance, size = abs(Fraction(answer) - Fraction(key)), abs(Fraction(key))
    bound = {"exact": Fraction(0), "decimals:2": Fraction(1, 200), "relative:1e-4": size / 10_000}.get(rule)
    if bound is None:
        counted = len(format(key, "f").replace(".", "").strip("-0"))
        bound = Fraction(0) if counted <= 5 else Fraction(1, 2) * Fraction(10) ** (key.adjusted() - 4)
    assert match_numbers(format(answer, "f"), format(key, "f"), rule)[2] is (distance <= bound)


@settings(deadline=None)
@given(text=st.text(), rule=st.sampled_from(RULES))
def test_no_text_is_refused(text: str, rule: str) -> None:
    read, _, right = match_numbers(text, text, rule)
    assert right is (None if read is None else True)


ODD = st.text(alphabet=r"0123456789０５,，.eE+-−–×^{}()/\frac boxed times10 final=：:[ " + "\n", max_size=80)


@settings(deadline=None)
@given(answer=ODD, key=ODD, rule=st.sampled_from(RULES))
def test_no_almost_number_is_refused(answer: str, key: str, rule: str) -> None:
    match_numbers(answer, key, rule)


@settings(deadline=None)
@given(value=NUMBERS)
def test_a_number_is_read_back(value: Decimal) -> None:
    for form in (f"{value:f}", f"{value:E}", f"x = {value:,f} 克", rf"\boxed{{{value:f}}}", f"7, final, {value:f}."):
        result = read_number(form)
        assert result is not None
        assert result.numerator == value


PIECES = [
    "1",
    "1,234",
    ",234",
    "1/",
    "1/1,111",
    "\\frac{1",
    "\\frac{",
    "\\frac{1}{",
    " ",
    "= ",
    "=  -",
    "- ",
    "1 ×",
    "1×10^{",
]
PIECES += ["\\boxed{", "}", "{", "final", "1E", "1E+", ".", "1.", "，", "9" * 50 + "/", "0" * 50 + "e"]


@pytest.mark.parametrize("piece", PIECES)
def test_long_texts_take_linear_time(piece: str) -> None:
    def seconds(length: int) -> float:
        texts = (piece * (length // len(piece)), "=" + piece * (length // len(piece)) + "7")
        results = []
        for _ in range(3):  # the least is what the machine's other work leaves undisturbed
            start = time.process_time()
            for text in texts:
                match_numbers(text, text, "significant:5")
            results.append(time.process_time() - start)
        return min(results)

    assert seconds(80_000) <= 8 * 3 * seconds(10_000) + 0.02, "eight times the text, where the square would be 64"


@pytest.mark.parametrize("rule", ["exact", "significant:5", "decimals:2", "relative:1e-4"])
def test_huge_numbers_cost_nothing(rule: str) -> None:
    numbers = ["1E+999999999", "1E-999999999", "9" * 100_000, "1/3", "1", "0", "-" + "7" * 50_000 + "/" + "3" * 50_000]
    tracemalloc.start()
    try:
        for answer in numbers:
            for key in numbers:
                assert match_numbers(answer, key, rule)[2] in (True, False)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


NO_RULES = ["", "exakt", "exact:1", "significant", "significant:0", "significant:x", "significant:５", "decimals:-1"]
NO_RULES += ["decimals:999", "relative:", "relative:2", "relative:-1", "relative:nan", "relative:1e-99999"]


@pytest.mark.parametrize("rule", NO_RULES)
def test_an_unknown_rule_names_the_choices(rule: str) -> None:
    with pytest.raises(SettingsError, match="exact, significant:1 to 100, decimals:0 to 100, relative:TOLERANCE"):
        match_numbers("1", "1", rule)


def test_every_generated_reference_is_a_correct_number() -> None:
    for row in generate_rows(3_000, 11, "raw", "both", distinct=False):
        for rule in RULES:
            assert match_numbers(row["solution"], row["solution"], rule)[2] is True


@given(st.text(st.sampled_from("12.,/-+E ={}()x\n"), max_size=60))
def test_the_number_of_the_last_line_that_has_one_counts(text: str) -> None:
    """Reading line by line from the end finds what reading everything finds."""
    matches = list(_expression().finditer(text))
    assert read_number(text) == (_value(matches[-1]) if matches else None)


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_verdicts_are_those_of_the_scorer(a: int, b: int) -> None:
    answer, key = f"{a / b:.6g}", f"{a / b}"
    assert verdicts(answer, key, USUAL_RULES) == {rule: match_numbers(answer, key, rule)[2] for rule in USUAL_RULES}
