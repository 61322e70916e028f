"""Training targets of arithmetic rows: a scratchpad for the type of the problem, then the solution."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction

from lotune.tasks.arithmetic.scratchpad import (
    LONGEST_POWER,
    power_blocks,
    product_block,
    quotient_block,
    root_block,
    rounded_product_block,
    scaled,
    sum_block,
    total_blocks,
    unscaled,
)

LONGEST_FUNCTION = 3
"""Largest exponent of a function with a scratchpad; the coefficient takes one product more than a power."""
Worked = tuple[str, str]
"""Scratchpad, ending with a line break, and its result; both are empty if there is none."""


def _equation(a: str, b: str) -> Worked:
    # ax + b = 0 is solved as -b / a, and b is written beside its opposite, so that only a sign has to change.
    opposite = "0" if b == "0" else b[1:] if b.startswith("-") else f"-{b}"
    text, result = quotient_block(opposite, a)
    return f"{b}:{opposite}\n{text}", result


def _power(a: str, n: str) -> Worked:
    return power_blocks(a, int(n)) if int(n) <= LONGEST_POWER else ("", "")


def _function(x: str, a: str, n: str) -> Worked:
    if int(n) > LONGEST_FUNCTION or scaled(x)[0] == 0:
        return "", ""
    text, result = power_blocks(x, int(n))
    # From the third power on the result is a mantissa with an exponent, which only the rounded product takes.
    coefficient_block, total = (product_block if int(n) <= 2 else rounded_product_block)(result, a)
    return f"{a}*{x}^{n}=?\n{text}{coefficient_block}", total


def _mean(*numbers: str) -> Worked:
    text, total = total_blocks(numbers)
    division, result = quotient_block(total, str(len(numbers)))
    return text + division, result


def _discount(a: str, b: str) -> Worked:
    text, difference = sum_block(a, "-", b)
    # Two zeros make per cent of the difference, and the division gives the percentage directly.
    division, result = quotient_block(f"{difference}00" if difference != "0" else "0", a)
    return text + division, result


def _fraction(a: str, b: str) -> Worked:
    divisor = int(a) // Fraction(int(a), int(b)).numerator
    return f"{a}/{divisor}={int(a) // divisor}\n{b}/{divisor}={int(b) // divisor}\n", ""


WORKING: Mapping[str, Callable[..., Worked]] = {
    "add": lambda a, b: sum_block(a, "+", b),
    "subtract": lambda a, b: sum_block(a, "-", b),
    "multiply": product_block,
    "divide": quotient_block,
    "equation": _equation,
    "root": root_block,
    "power": _power,
    "function": _function,
    "mean": _mean,
    "area": product_block,
    "discount": _discount,
    # p % more is the product with 1 + p / 100, which has two decimals.
    "sales": lambda a, p: product_block(a, unscaled(100 + int(p), 2)),
    "mass": product_block,
    "fraction": _fraction,
}
"""Scratchpad by problem type; the operands are as printed in the problem."""


def scratchpad_target(problem_type: str, operands: tuple[str, ...], solution: str) -> str:
    """Return the training target: the scratchpad, then the solution with the number that the scratchpad reaches.

    A solution may have 28 digits, more than any scratchpad reaches. If its number is not exactly that of the
    scratchpad, it is replaced by that one, or rounded to SIGNIFICANT_DIGITS digits if there is no scratchpad.

    >>> scratchpad_target("divide", ("1", "3"), "1 / 3 = 0.3333333333333333333333333333").splitlines()[-1]
    '1 / 3 = 0.333333'
    """
    text, result = WORKING[problem_type](*operands) if problem_type in WORKING else ("", "")
    numbers = list(_NUMBER.finditer(solution))
    # The scratchpad of a fraction has no single result: its solution stays as it is.
    if not numbers or (not result and text):
        return text + solution
    last = numbers[-1]
    answer = result or rounded(last.group())
    if Decimal(last.group()) == Decimal(answer):
        return text + solution
    return text + solution[: last.start()] + answer + solution[last.end() :]


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:E[+-]?\d+)?")


def rounded(number: str) -> str:
    """Return a number rounded to SIGNIFICANT_DIGITS significant digits if it has more.

    >>> rounded("2148437500.000000000000000000"), rounded("81"), rounded("2.769155521409239378157128235E+34")
    ('2.14844E+9', '81', '2.76916E+34')
    """
    value = Decimal(number)
    if len(value.normalize().as_tuple().digits) <= SIGNIFICANT_DIGITS:
        return number
    return f"{value:.{SIGNIFICANT_DIGITS - 1}E}"


SIGNIFICANT_DIGITS = 6
"""Significant digits of a number without a scratchpad."""
