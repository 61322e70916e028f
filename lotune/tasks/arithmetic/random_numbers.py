"""Random numbers as texts: the operands of equations, and numbers to copy."""

from __future__ import annotations

import random

from lotune.tasks.arithmetic.scratchpad import unscaled


def number(rng: random.Random, limit: int = 999_999) -> str:
    """Return a decimal with two decimals within ±`limit` hundredths."""
    return unscaled(rng.randint(-limit, limit), 2)


def nonzero(rng: random.Random, limit: int) -> str:
    """Return a decimal other than zero with two decimals within ±`limit` hundredths."""
    return unscaled(rng.choice((-1, 1)) * rng.randint(1, limit), 2)


def small(rng: random.Random, limit: int = 100) -> str:
    """Return an integer from 1 to `limit`."""
    return str(rng.randint(1, limit))


def long_number(rng: random.Random) -> str:
    """Return a number of up to twelve digits."""
    # Half of the numbers have two or three different digits: repeats are what a copy loses first.
    digits = "".join(rng.choices(rng.sample("0123456789", rng.choice((2, 3, 10, 10))), k=rng.randint(6, 12)))
    return unscaled(rng.choice((-1, 1)) * int(digits), rng.randint(0, 6))


def joined_numbers(rng: random.Random) -> str:
    """Return one to six numbers joined by a sign."""
    generate = rng.choice((number, number, small, long_number))
    sign = rng.choice((" + ", " - ", " * ", " / ", ", ", "^", " = "))
    return sign.join(generate(rng) for _ in range(rng.choice((1, 2, 2, 2, 3, 6)) if sign == ", " else 2))
