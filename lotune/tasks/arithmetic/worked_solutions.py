"""The answer that an arithmetic row is trained on: the working of its kind of question, then its solution."""

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
"""Largest exponent of a function whose value is worked out: one product more than of a power."""
Worked = tuple[str, str]
"""Working, ending with a line break, and the result that it reaches; both empty where there is none."""


def _equation(a: str, b: str) -> Worked:
    opposite = "0" if b == "0" else b[1:] if b.startswith("-") else f"-{b}"
    text, result = quotient_block(opposite, a)
    return f"{b}:{opposite}\n{text}", result


def _power(a: str, n: str) -> Worked:
    return power_blocks(a, int(n)) if int(n) <= LONGEST_POWER else ("", "")


def _function(x: str, a: str, n: str) -> Worked:
    if int(n) > LONGEST_FUNCTION or scaled(x)[0] == 0:
        return "", ""
    text, result = power_blocks(x, int(n))
    further, total = (product_block if int(n) <= 2 else rounded_product_block)(result, a)
    return f"{a}*{x}^{n}=?\n{text}{further}", total


def _mean(*numbers: str) -> Worked:
    text, total = total_blocks(numbers)
    further, result = quotient_block(total, str(len(numbers)))
    return text + further, result


def _discount(a: str, b: str) -> Worked:
    text, difference = sum_block(a, "-", b)
    further, result = quotient_block(f"{difference}00" if difference != "0" else "0", a)
    return text + further, result


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
    "sales": lambda a, p: product_block(a, unscaled(100 + int(p), 2)),
    "mass": product_block,
    "fraction": _fraction,
}
"""Working by kind of question; the operands are as printed in the question."""


def scratchpad_target(kind: str, operands: tuple[str, ...], solution: str) -> str:
    """The answer to train on: the working, then the solution in its own form, with the number that the working reaches.

    A solution may have 28 digits that no working on paper reaches; where its number is not exactly the working's, it is
    written as far as the working goes, or rounded where there is none.

    >>> scratchpad_target("divide", ("1", "3"), "1 / 3 = 0.3333333333333333333333333333").splitlines()[-1]
    '1 / 3 = 0.333333'
    """
    text, result = WORKING[kind](*operands) if kind in WORKING else ("", "")
    numbers = list(_NUMBER.finditer(solution))
    if not numbers or (not result and text):
        return text + solution
    last = numbers[-1]
    shown = result or rounded(last.group())
    if Decimal(last.group()) == Decimal(shown):
        return text + solution
    return text + solution[: last.start()] + shown + solution[last.end() :]


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:E[+-]?\d+)?")


def rounded(number: str) -> str:
    """A number of more than SHOWN_DIGITS digits, rounded to as many.

    >>> rounded("2148437500.000000000000000000"), rounded("81"), rounded("2.769155521409239378157128235E+34")
    ('2.14844E+9', '81', '2.76916E+34')
    """
    value = Decimal(number)
    if len(value.normalize().as_tuple().digits) <= SHOWN_DIGITS:
        return number
    return f"{value:.{SHOWN_DIGITS - 1}E}"


SHOWN_DIGITS = 6
"""Digits of a number that is written without working."""
