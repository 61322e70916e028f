"""Written working: every number that it reaches is exact, and every step follows from what it shows."""

from __future__ import annotations

import re
from decimal import ROUND_DOWN, Context, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.tasks.arithmetic.problem_types import PROBLEM_TYPES, generate_rows, recognise
from lotune.tasks.arithmetic.scratchpad import (
    LONGEST_POWER,
    MANTISSA_DIGITS,
    TRIAL_DIGITS,
    format_decimal,
    multiple_columns,
    power_blocks,
    product_block,
    quotient_block,
    root_block,
    rounded_product_block,
    scaled,
    scientific,
    sum_block,
    sum_columns,
    to_scientific,
    total_blocks,
    unscaled,
)
from lotune.tasks.arithmetic.task import ArithmeticSettings, ArithmeticTask
from lotune.tasks.arithmetic.worked_solutions import WORKING, rounded, scratchpad_target


@st.composite
def decimals(draw: st.DrawFn, most: int = 999_999, places: int = 3) -> str:
    """A decimal with at most three decimals, as a question prints it."""
    return unscaled(draw(st.integers(-most, most)), draw(st.integers(0, places)))


nonzero = decimals().filter(lambda text: Decimal(text) != 0)


def columns(line: str, width: int) -> list[str]:
    """The steps of a line of working."""
    results = [line[i : i + width] for i in range(0, len(line), width)]
    assert all(len(result) == width for result in results)
    return results


def digits_of(steps: list[str]) -> int:
    """The number that the last digits of the steps make, lowest first."""
    return int("".join(step[-1] for step in reversed(steps)))


def cut(value: Fraction, digits: int) -> Decimal:
    """`value`, cut after so many significant digits."""
    context = Context(prec=digits, rounding=ROUND_DOWN)
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))


def signed(heading: str) -> tuple[str, str]:
    """The two numbers of a heading, each with its sign and as many digits as the other; both signs follow."""
    first, second, signs = re.fullmatch(r"([+-]\d+)([+-]\d+)([+-]{2})", heading).groups()  # type: ignore[union-attr]
    assert len(first) == len(second)
    assert signs == first[0] + second[0]
    return first, second


def assert_ends_on(text: str, result: str) -> None:
    assert text.endswith(f"\n={result}\n")
    assert " " not in text
    assert "\n\n" not in text


@given(decimals(), decimals(), st.sampled_from("+-"))
def test_sums(a: str, b: str, operator: str) -> None:
    text, result = sum_block(a, operator, b)
    total = Decimal(a) + Decimal(b) if operator == "+" else Decimal(a) - Decimal(b)
    assert Decimal(result) == total
    assert_ends_on(text, result)
    heading, operands, steps, _ = text.splitlines()
    assert heading == f"{a}{operator}{b}=?"
    scale = max(scaled(a)[1], scaled(b)[1])
    assert digits_of(columns(steps, 5)) == abs(total).scaleb(scale)
    numbers, compared, operation = re.fullmatch(r"(.*[+-])(\d*)(.)[+-]", operands).groups()  # type: ignore[union-attr]
    first, second = signed(numbers)
    if first[0] == second[0]:
        assert (compared, operation) == ("", "+")
    else:  # digits in pairs, highest first, down to the first two that are unlike
        pairs = [item + other for item, other in zip(first[2:], second[2:], strict=True)]
        assert compared == "".join(pairs)[: len(compared)]
        assert all(pair[0] == pair[1] for pair in pairs[: len(compared) // 2 - 1])
        assert abs(int(first)) == abs(int(second)) or compared[-2] != compared[-1]
        assert operation == ("-" if abs(int(first)) >= abs(int(second)) else "~")
    assert (int(first), int(second)) == (Decimal(a).scaleb(scale), Decimal(operator + "1") * Decimal(b).scaleb(scale))
    assert operands[-1] == ("-" if total < 0 else "+")
    assert len(first) == len(second) == len(columns(steps, 5)) + 1


@given(st.integers(0, 10**8), st.integers(0, 10**8), st.sampled_from("+-"))
def test_every_column_of_a_sum_follows_from_what_it_shows(x: int, y: int, operation: str) -> None:
    upper, lower = max(x, y), min(x, y)
    carry = 0
    sign = 1 if operation == "+" else -1
    for operator, a, b, came, digit in columns(sum_columns(upper, lower, 10, operation), 5):
        assert (operator, int(came)) == (operation, carry)
        value = int(a) + sign * (int(b) + carry)
        assert int(digit) == value % 10
        carry = int(not 0 <= value <= 9)
    assert carry == 0


@given(st.integers(0, 10**8), st.integers(0, 9), st.integers(0, 10**9), st.sampled_from([1, -1]))
def test_every_column_of_a_multiple_follows_from_what_it_shows(x: int, factor: int, start: int, sign: int) -> None:
    if sign < 0:
        start += factor * x
    steps = columns(multiple_columns(x, factor, start, 12, sign), 7)
    carry = 0
    for letter, digit, tens, ones, other, goes, result in steps:
        assert "abcdefghijABCDEFGHIJ".index(letter) == factor + (0 if sign > 0 else 10)
        assert int(tens + ones) == int(digit) * factor
        value = int(other) + sign * (int(tens + ones) + carry)
        carry = int(goes)
        assert value == sign * 10 * carry + int(result)
    assert carry == 0
    assert digits_of(steps) == start + sign * factor * x


@given(decimals(), decimals())
def test_products(a: str, b: str) -> None:
    text, result = product_block(a, b)
    assert Decimal(result) == Decimal(a) * Decimal(b)
    assert_ends_on(text, result)
    lines = text.splitlines()
    if Decimal(result) == 0:
        assert lines == [f"{a}*{b}=?", f"={result}"]
        return
    heading, sign = lines[1].split("*")
    assert sign == ("-" if Decimal(result) < 0 else "+")
    first, second = signed(heading)
    assert [number[0] == "-" for number in (first, second)] == [Decimal(number) < 0 for number in (a, b)]
    x, y = abs(int(first)), abs(int(second))
    rows = [line.split(":") for line in lines[2:-1]]
    assert [left for left, _ in rows] == [str(y)[:end] for end in range(len(str(y)), 0, -1)]
    running, returned = 0, ""
    for left, steps in rows:  # the lowest digit of a row is final, the others are added to in the next
        digit, displayed = left[-1], columns(steps, 7)
        assert "".join(step[4] for step in reversed(displayed)) == str(running).zfill(len(displayed))
        total = digits_of(displayed)
        assert total == running + int(digit) * x
        running, returned = total // 10, str(total % 10) + returned
    assert int(str(running) + returned) == x * y


@given(decimals(), nonzero)
def test_quotients(a: str, b: str) -> None:
    text, result = quotient_block(a, b)
    assert_ends_on(text, result)
    exact = Fraction(a) / Fraction(b)
    assert cut(Fraction(result), 6) == cut(exact, 6)
    assert abs(Fraction(result)) <= abs(exact)
    if Fraction(result) != exact:
        assert len(result.replace("-", "").replace(".", "").strip("0")) <= 7
    lines = text.splitlines()
    if exact == 0:
        assert lines == [f"{a}/{b}=?", "=0"]
        return
    first, second = signed(lines[1].split("/")[0])
    assert [number[0] == "-" for number in (first, second)] == [Decimal(number) < 0 for number in (a, b)]
    remainder, divisor, width = abs(int(first)), abs(int(second)), len(first) - 1
    for row in lines[2:-1]:
        trial, steps = row.split(":")
        *highest, digit = trial.split(",")
        assert highest == [str(number).zfill(width)[:TRIAL_DIGITS] for number in (remainder, divisor)]
        displayed = columns(steps, 7)
        assert int("".join(step[4] for step in reversed(displayed))) == remainder
        left = digits_of(displayed)
        assert left == remainder - int(digit) * divisor
        assert 0 <= left < divisor
        remainder = 10 * left


@given(decimals().map(lambda text: text.lstrip("-")))
def test_roots(a: str) -> None:
    text, result = root_block(a)
    assert_ends_on(text, result)
    with localcontext(Context(prec=60)):
        exact = Decimal(a).sqrt()
    returned, root, remainder = Decimal(result), 0, None
    for row in text.splitlines()[2:-1]:
        trial, steps = row.split(":")
        *highest, digit = trial.split(",")
        displayed = columns(steps, 7)
        started = int("".join(step[4] for step in reversed(displayed)))
        assert highest == [str(number).zfill(len(displayed))[:TRIAL_DIGITS] for number in (started, 20 * root)]
        assert remainder is None or started // 100 == remainder
        remainder = digits_of(displayed)
        assert remainder == started - (20 * root + int(digit)) * int(digit)
        root = 10 * root + int(digit)
        assert 0 <= remainder <= 2 * root
    if returned**2 == Decimal(a):
        return
    with localcontext(Context(prec=6, rounding=ROUND_DOWN)):
        assert +returned == +exact


@given(decimals(99_999), st.integers(0, 5))
def test_powers(a: str, n: int) -> None:
    text, result = power_blocks(a, n)
    assert_ends_on(text, result)
    exact = Fraction(a) ** n if n or Fraction(a) else Fraction(1)
    if n <= 2:
        assert Fraction(result) == exact
    else:  # each of n - 2 factors is cut after MANTISSA_DIGITS digits, and so is the square
        assert abs(Fraction(result) - exact) <= abs(exact) * (n - 1) * Fraction(10) ** (1 - MANTISSA_DIGITS)


@given(nonzero, nonzero)
def test_rounded_products(a: str, b: str) -> None:
    start = to_scientific(a)
    assert abs(Fraction(Decimal(start)) - Fraction(a)) <= abs(Fraction(a)) * Fraction(10) ** (1 - MANTISSA_DIGITS)
    text, result = rounded_product_block(start, b)
    assert_ends_on(text, result)
    exact = Fraction(Decimal(start)) * Fraction(b)
    assert cut(exact, MANTISSA_DIGITS) == Decimal(result)


@given(st.lists(decimals(), min_size=2, max_size=8))
def test_long_sums(numbers: list[str]) -> None:
    text, result = total_blocks(tuple(numbers))
    assert Decimal(result) == sum(map(Decimal, numbers))
    marked = [chr(ord("a") + index) + number for index, number in enumerate(numbers)]
    assert text.startswith("".join(marked) + "=?\n")
    blocks = text.split("=?\n")[1:]
    assert len(blocks) == len(numbers)
    assert blocks[0] == f"{marked[0]}+{marked[1]}"
    reached = [block.splitlines()[-2][1:] for block in blocks[1:-1]]  # what one block reaches, the next begins with
    begins = [block.splitlines()[-1] for block in blocks[1:-1]]
    assert all(begun.startswith(item + "+") for item, begun in zip(reached, begins, strict=True))


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6))
def test_numbers_in_their_forms(value: Decimal) -> None:
    assert Decimal(format_decimal(value)) == value
    assert "E" not in format_decimal(value)
    assert Decimal(unscaled(*scaled(f"{value:f}"))) == value
    if value:
        assert abs(Decimal(rounded(str(value))) / value - 1) <= Decimal("5.1e-6")
    for digits in ("25", "1234567", "123456789"):
        assert scientific(digits, 3).count(".") == 1


def test_every_kind_but_those_without_operations_has_working() -> None:
    assert {kind for kind in PROBLEM_TYPES if not any(WORKING[kind](*o)[0] for o in _operands(kind))} == set()


def _operands(kind: str) -> list[tuple[str, ...]]:
    from random import Random

    draw = Random(1)
    return [PROBLEM_TYPES[kind].draw(draw) for _ in range(30)]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_training_answer_is_correct_under_its_scorer(language: str) -> None:
    """2,000 questions in both mixes; a power whose rounded steps end beside the key is wrong at most."""
    wrong, lacking, longest = [], 0, 0
    for mixture in ("deduplicated", "raw"):
        task = ArithmeticTask(ArithmeticSettings(mixture=mixture, language=language))
        rows = ((str(number), row) for number, row in enumerate(generate_rows(1000, 7, mixture, language), 1))
        for example in task.examples(rows, training=True):
            verdict = task.judge(example, example.target)
            lacking += example.target == example.references[0]
            longest = max(longest, len(example.target))
            if not verdict.correct:
                wrong.append((example.category, example.target.splitlines()[-1], example.references[0]))
    assert wrong == []
    assert lacking < 1000
    assert longest < 900


def test_powers_of_the_contest_are_right_to_five_digits() -> None:
    """Operands as the contest draws them: exponents up to the longest that is written out."""
    from random import Random

    task, draw, wrong, total = ArithmeticTask(), Random(3), [], 0
    for kind in ("power", "function"):
        for _ in range(1500):
            operands = PROBLEM_TYPES[kind].draw(draw)
            if int(operands[-1]) > LONGEST_POWER:
                continue
            solution = PROBLEM_TYPES[kind].solution(operands)
            [example] = task.examples(
                [("1", {"problem": PROBLEM_TYPES[kind].problem_zh(operands), "solution": solution})], training=True
            )
            total += 1
            if not task.judge(example, example.target).correct:
                wrong.append((operands, example.target.splitlines()[-1], solution))
    assert total > 500
    assert wrong == []


@pytest.mark.parametrize(
    ("kind", "operands"),
    [
        ("power", ("-999.99", "4")),
        ("function", ("10.00", "100", "3")),
        ("function", ("9.99", "99", "3")),
        ("mean", ("100",) * 10),
        ("mean", ("99",) * 9 + ("98",)),
        ("divide", ("-9999.99", "-7777.77")),
        ("multiply", ("-9999.99", "-9999.99")),
    ],
)
def test_the_longest_working_can_be_generated(kind: str, operands: tuple[str, ...]) -> None:
    """Nano's tokens are characters in working, so that its characters are a bound for its tokens."""
    answer = scratchpad_target(kind, operands, PROBLEM_TYPES[kind].solution(operands))
    assert "=?" in answer
    assert len(answer) <= ArithmeticTask().max_new_tokens


def _without_last_number(text: str) -> str:
    last = list(re.finditer(r"-?\d+(\.\d+)?(E[+-]?\d+)?", text))[-1]
    return text[: last.start()] + "#" + text[last.end() :]


@pytest.mark.parametrize("kind", list(PROBLEM_TYPES))
def test_an_answer_ends_in_the_form_of_the_solution(kind: str) -> None:
    for operands in _operands(kind):
        solution = PROBLEM_TYPES[kind].solution(operands)
        answer = scratchpad_target(kind, operands, solution)
        assert _without_last_number(answer.splitlines()[-1]) == _without_last_number(solution)
        assert recognise(PROBLEM_TYPES[kind].problem_zh(operands)) == (kind, operands)


def test_a_type_without_a_scratchpad_keeps_its_solution() -> None:
    assert "english" not in WORKING
    assert scratchpad_target("english", (), r"so \boxed{4}") == r"so \boxed{4}"


def test_a_block_names_what_it_computes_before_it_does() -> None:
    text, _ = WORKING["mean"]("3", "8", "5")
    assert [line for line in text.splitlines() if line.endswith("=?")] == ["a3b8c5=?", "a3+b8=?", "11+c5=?", "16/3=?"]
