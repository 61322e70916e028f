"""Equations: sums, differences, products and quotients without words, worked out digit by digit."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field

from lotune.data.rows import closest_columns_hint
from lotune.data.templates import TEMPLATES, Template
from lotune.errors import DataError
from lotune.tasks.arithmetic import scratchpad
from lotune.tasks.arithmetic.number_match import match_numbers
from lotune.tasks.arithmetic.random_numbers import nonzero, number, small
from lotune.tasks.metrics import accuracy
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Example, Row, Score, Task

OPERATIONS: Mapping[str, str] = {"+": "sum", "-": "difference", "*": "product", "/": "quotient"}
"""Categories by operator."""
FINITE_DIVISORS = (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 40, 50, 64, 80, 100)
"""Divisors up to 100 that divide any integer into a finite decimal."""
_EQUATION = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)([-+*/])(-?[0-9]+(?:\.[0-9]+)?)=\?")


class EquationsSettings(TaskSettings):
    """Length of an answer; prompt and scorer are fixed."""

    own_template: ClassVar[str] = "plain"

    name: Literal["equations"] = "equations"
    """Name of the task."""
    max_new_tokens: int = Field(288, ge=1)

    @property
    def prompt_template(self) -> Template:
        """The bare text."""
        return TEMPLATES[self.own_template]


@dataclass(frozen=True)
class EquationsTask(Task):
    """Rows {"equation"}, such as "-2.4*31=?": the prompt is the equation, the answer a scratchpad.

    An answer is right if its last number equals the result of the scratchpad. The result is exact, except for a
    quotient of more digits than a scratchpad has (`scratchpad.QUOTIENT_DIGITS`); no such quotient is generated.
    """

    settings: EquationsSettings = field(default_factory=EquationsSettings)
    name: str = "equations"
    metric: str = "accuracy"

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """Yield an example for each row. Raises: DataError for a row that is not an equation."""
        for id, row in rows:
            match = _EQUATION.fullmatch(str(row.get("equation", "")))
            if match is None or (match[2] == "/" and not scratchpad.scaled(match[3])[0]):
                near = closest_columns_hint(("equation",), row)
                found = f"has no equation that can be computed (it has {', '.join(row) or 'nothing'}{near})"
                raise DataError(id, found, "equation, such as 1.5+2=? with one of + - * /")
            working, result = work_out(*match.groups())
            yield Example(id, match[0], working, (result,), category=OPERATIONS[match[2]])

    def generate_rows(self, rows: int, seed: int) -> Iterator[Row]:
        """Generate about equally many equations of each operation. The same seed gives the same rows."""
        return _rows(rows, f"equations {seed} test")

    def generate_training_rows(self, rows: int, seed: int) -> Iterator[Row]:
        """Generate other equations than `generate_rows` does from the same seed."""
        return _rows(rows, f"equations {seed} train")

    def judge(self, example: Example, text: str) -> Score:
        """Return whether the last number of the answer equals the result."""
        return Score(*match_numbers(text, example.references[0], "exact"))

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Return the accuracy, 0 to 1. Raises: DataError without rows."""
        return {"accuracy": accuracy(judged)}


def work_out(a: str, operator: str, b: str) -> tuple[str, str]:
    r"""Return what follows an equation (its scratchpad without the equation itself), and its result.

    >>> work_out("-2.4", "*", "31")
    ('\n-024+031-+*-\n31:b404004b202002b000000\n3:d412214d206007d000000\n=-74.4\n', '-74.4')
    """
    if operator == "*":
        block, result = scratchpad.product_block(a, b)
    elif operator == "/":
        block, result = scratchpad.quotient_block(a, b)
    else:
        block, result = scratchpad.sum_block(a, operator, b)
    return block.removeprefix(f"{a}{operator}{b}=?"), result


def sum_operands(rng: random.Random) -> tuple[str, str, str]:
    """Return the operands of a sum or a difference, with the operator between them."""
    # One sum in four has operands of nearly the same magnitude, as most wrong sums compare such a pair wrongly.
    a = number(rng)
    if rng.random() < 0.25:
        near = abs(scratchpad.scaled(a)[0]) + rng.choice((9, 99, 999, 9_999)) * rng.randint(-9, 9) // 9
        b = scratchpad.unscaled(rng.choice((-1, 1)) * near, 2)
    else:
        b = number(rng)
    return a, rng.choice("+-"), b


def product_operands(rng: random.Random) -> tuple[str, str, str]:
    """Return the operands of a product of at most four and three digits, with the operator between them."""
    return number(rng, 9_999), "*", nonzero(rng, 999)


def quotient_operands(rng: random.Random) -> tuple[str, str, str]:
    """Return integers whose quotient is a decimal of few digits, with the operator between them."""
    # A quotient of arbitrary decimals fills QUOTIENT_DIGITS rows, which take nearly 400 tokens.
    signs = rng.choices(("", "-"), k=2)
    return signs[0] + small(rng), "/", signs[1] + str(rng.choice(FINITE_DIVISORS))


def _rows(rows: int, seed: str) -> Iterator[Row]:
    rng = random.Random(seed)
    for _ in range(rows):
        # Sums twice, as half of them are differences.
        operands = rng.choice((sum_operands, sum_operands, product_operands, quotient_operands))
        yield {"equation": f"{''.join(operands(rng))}=?"}
