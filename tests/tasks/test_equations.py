"""Equations: what is generated, that workings end with the exact result, and which rows are refused."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import DataError
from lotune.tasks.arithmetic.scratchpad import unscaled
from lotune.tasks.equations import FINITE_DIVISORS, OPERATIONS, EquationsTask, work_out
from lotune.tasks.task import Example

TASK = EquationsTask()
DECIMALS = st.builds(unscaled, st.integers(-10_000, 10_000), st.integers(0, 3))


def example_of(equation: object) -> Example:
    [example] = TASK.examples([("row 1", {"equation": equation})], training=True)
    return example


def exact_result(a: str, operator: str, b: str) -> Fraction:
    first, second = Fraction(a), Fraction(b)
    if operator == "/":
        return first / second
    return first * second if operator == "*" else first + second if operator == "+" else first - second


@given(a=DECIMALS, operator=st.sampled_from("+-*"), b=DECIMALS)
def test_the_working_of_an_equation_ends_with_its_result(a: str, operator: str, b: str) -> None:
    example = example_of(f"{a}{operator}{b}=?")
    assert example.prompt == f"{a}{operator}{b}=?"
    assert example.category == OPERATIONS[operator]
    assert Fraction(example.references[0]) == exact_result(a, operator, b)
    assert example.target.endswith(f"\n={example.references[0]}\n")
    assert TASK.judge(example, example.target).correct is True
    assert TASK.judge(example, f" {Fraction(example.references[0]) + 1}").correct is False


@given(a=st.integers(-100, 100), divisor=st.sampled_from(FINITE_DIVISORS), sign=st.sampled_from((1, -1)))
def test_generated_quotients_are_exact(a: int, divisor: int, sign: int) -> None:
    _, result = work_out(str(a), "/", str(sign * divisor))
    assert Fraction(result) == Fraction(a, sign * divisor)


def test_the_divisors_are_those_with_finite_decimals() -> None:
    assert [divisor for divisor in range(1, 101) if 10**9 % divisor == 0] == list(FINITE_DIVISORS)


def test_all_operations_are_generated_alike_and_exact() -> None:
    rows = [(str(number), row) for number, row in enumerate(TASK.generate_rows(800, 1))]
    examples = list(TASK.examples(rows, training=False))
    counts = Counter(example.category for example in examples)
    assert set(counts) == set(OPERATIONS.values())
    assert min(counts.values()) > 150
    assert max(len(example.target) for example in examples) < TASK.max_new_tokens


def test_training_and_test_rows_of_a_seed_differ() -> None:
    test, training = ({row["equation"] for row in rows} for rows in (TASK.generate_rows(200, 1), _training(200)))
    assert len(test & training) < 20  # small quotients occur by chance


def _training(rows: int) -> list[dict[str, str]]:
    return [dict(row) for row in TASK.generate_training_rows(rows, 1)]


@pytest.mark.parametrize("answer", [" 5.6", "5.60", "2.3 + 3.3 = 5.6.", "\n+023+033\n=5.60\n", "the sum is\n\n5.6"])
def test_the_last_number_of_an_answer_counts(answer: str) -> None:
    assert TASK.judge(example_of("2.3+3.3=?"), answer).correct is True
    assert TASK.judge(example_of("2.3+3.3=?"), f"{answer} or 7").correct is False


@pytest.mark.parametrize("equation", ["1+1", "1+1=", "1/0=?", "1/0.00=?", "a+1=?", "1+1=?\n", "1 + 1=?", "", None, 7])
def test_what_is_no_equation_is_refused(equation: object) -> None:
    with pytest.raises(DataError, match="has no equation that can be computed") as error:
        example_of(equation)
    assert error.value.where == "row 1"
