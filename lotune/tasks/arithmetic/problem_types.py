"""The fourteen problem types of the contest's first phase: drawn, worded, solved and recognised.

The Chinese wording and the form of each solution are the contest's own; the English wording is ours. `Decimal` results
have 28 significant digits, Python's default precision, in any context of the caller; `float` results are Python's
shortest repr. 1,948 real rows of the contest are reproduced exactly by these rules.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from functools import cache
from itertools import accumulate
from random import Random
from typing import Literal

from lotune.errors import SettingsError

Operands = tuple[str, ...]
Mixture = Literal["deduplicated", "raw"]
Language = Literal["zh", "en", "both"]

ENGLISH_CATEGORY = "english"
"""Category of other problems that are not Chinese: the contest's rows from the MATH collection."""
OTHER_CATEGORY = "other"
"""Category of other problems in Chinese."""

_CONTEXT = Context(prec=28, rounding=ROUND_HALF_EVEN)

# Operands as printed in a problem. Their lengths are bounded, so that arithmetic on any text that matches is fast.
_DECIMAL = r"-?[0-9]{1,12}(?:\.[0-9]{1,12})?"
_MAGNITUDE = r"[0-9]{1,12}(?:\.[0-9]{1,12})?"
_INTEGER = r"-?[0-9]{1,12}"
_NATURAL = r"[1-9][0-9]{0,11}"
_EXPONENT = r"[0-9]{1,2}"
_LIST = r"[0-9]{1,9}(?:, [0-9]{1,9}){0,99}"


@dataclass(frozen=True)
class ProblemType:
    """A problem type. In its texts {0}, {1}, … stand for operands, {all} for all of them, {result} for the result."""

    draw: Callable[[Random], Operands]
    """Draws the operands as they are printed in the problem."""
    distinct: int
    """Number of distinct problems."""
    result: Callable[..., str]
    """Computes the result from the operands, in the contest's notation."""
    zh: str
    zh_solution: str
    en: str
    en_solution: str
    patterns: tuple[str, ...]
    """Regular expression of each operand, or of the whole list for {all}."""

    def problem_zh(self, operands: Operands) -> str:
        """Return the problem in the contest's wording."""
        return self.zh.format(*operands, all=", ".join(operands))

    def problem_en(self, operands: Operands) -> str:
        """Return the problem in English."""
        return self.en.format(*operands, all=", ".join(operands))

    def solution(self, operands: Operands, language: Literal["zh", "en"] = "zh") -> str:
        """Return the solution; in Chinese it is exactly the contest's.

        Raises: ArithmeticError if there is none (a division by zero, the root of a negative number).
        """
        text = self.zh_solution if language == "zh" else self.en_solution
        return text.format(*operands, result=self.result(*operands))

    def parse(self, problem: str) -> Operands | None:
        """Return the operands of a problem of this type in either language, None for any other text."""
        for text in (self.zh, self.en):
            if match := _expression(text, self.patterns).fullmatch(problem):
                return tuple(match[1].split(", ")) if "{all}" in text else self._in_order(text, match)
        return None

    @staticmethod
    def _in_order(text: str, match: re.Match[str]) -> Operands:
        # A wording may name its operands in another order: the English one of `mass` has {1} before {0}.
        order = [int(number) for number in re.findall(r"\{(\d)\}", text)]
        return tuple(match[1 + order.index(operand)] for operand in range(len(order)))


@cache
def _expression(text: str, patterns: tuple[str, ...]) -> re.Pattern[str]:
    escaped = re.escape(text).replace(r"\{all\}", f"({patterns[0]})")
    return re.compile(re.sub(r"\\\{(\d)\\\}", lambda slot: f"({patterns[int(slot[1])]})", escaped))


def _between(random: Random, low: int, high: int) -> int:
    # random() is the only method of Random that gives the same numbers in every version of Python.
    return low + int(random.random() * (high - low + 1))


def _hundredths(random: Random, low: int, high: int) -> str:
    return f"{_between(random, low, high) / 100:.2f}"


def _nonzero(draw: Callable[[], str]) -> str:
    while not float(text := draw()):
        pass
    return text


def _two_decimals(random: Random) -> Operands:
    return _hundredths(random, -999_999, 999_999), _hundredths(random, -999_999, 999_999)


def _division(random: Random) -> Operands:
    dividend = _hundredths(random, -999_999, 999_999)
    return dividend, _nonzero(lambda: _hundredths(random, -999_999, 999_999))


def _line(random: Random) -> Operands:
    return _nonzero(lambda: str(_between(random, -100, 100))), str(_between(random, -100, 100))


def _power_operands(random: Random) -> Operands:
    # 0 to the power of 0 is undefined for Decimal, and the contest has no such row.
    while (operands := (_hundredths(random, -99_999, 99_999), str(_between(random, 0, 5)))) == ("0.00", "0"):
        pass
    return operands


def _function_operands(random: Random) -> Operands:
    return _hundredths(random, 0, 1000), str(_between(random, 1, 100)), str(_between(random, 1, 99))


def _list(random: Random) -> Operands:
    return tuple(str(_between(random, 1, 100)) for _ in range(_between(random, 3, 10)))


def _two_integers(high: int) -> Callable[[Random], Operands]:
    return lambda random: (str(_between(random, 1, high)), str(_between(random, 1, high)))


def _proper_fraction(random: Random) -> Operands:
    while (a := _between(random, 1, 9)) >= (b := _between(random, 2, 10)):
        pass
    return str(a), str(b)


def _reduced(a: str, b: str) -> str:
    fraction = Fraction(int(a), int(b))
    return f"{fraction.numerator}/{fraction.denominator}"


def _mean(*numbers: str) -> str:
    return str(sum(map(int, numbers)) / len(numbers))


def _function_value(x: str, a: str, n: str) -> str:
    # The order is a * x**n, as the contest computed it: another order rounds the 28th digit differently.
    return str(_CONTEXT.multiply(Decimal(a), _CONTEXT.power(Decimal(x), Decimal(n))))


_OPERANDS = 2 * 999_999 + 1  # from -9999.99 to 9999.99 in hundredths

PROBLEM_TYPES: Mapping[str, ProblemType] = {
    "add": ProblemType(
        draw=_two_decimals,
        distinct=_OPERANDS**2,
        result=lambda a, b: str(_CONTEXT.add(Decimal(a), Decimal(b))),
        zh="计算 {0} + {1} 等于多少？",
        zh_solution="{0} + {1} = {result}",
        en="What is {0} + {1}?",
        en_solution="{0} + {1} = {result}",
        patterns=(_DECIMAL, _DECIMAL),
    ),
    "subtract": ProblemType(
        draw=_two_decimals,
        distinct=_OPERANDS**2,
        result=lambda a, b: str(_CONTEXT.subtract(Decimal(a), Decimal(b))),
        zh="计算 {0} - {1} 等于多少？",
        zh_solution="{0} - {1} = {result}",
        en="What is {0} - {1}?",
        en_solution="{0} - {1} = {result}",
        patterns=(_DECIMAL, _DECIMAL),
    ),
    "multiply": ProblemType(
        draw=_two_decimals,
        distinct=_OPERANDS**2,
        result=lambda a, b: str(_CONTEXT.multiply(Decimal(a), Decimal(b))),
        zh="计算 {0} * {1} 等于多少？",
        zh_solution="{0} * {1} = {result}",
        en="What is {0} * {1}?",
        en_solution="{0} * {1} = {result}",
        patterns=(_DECIMAL, _DECIMAL),
    ),
    "divide": ProblemType(
        draw=_division,
        distinct=_OPERANDS * (_OPERANDS - 1),
        result=lambda a, b: str(_CONTEXT.divide(Decimal(a), Decimal(b))),
        zh="计算 {0} / {1} 等于多少？",
        zh_solution="{0} / {1} = {result}",
        en="What is {0} / {1}?",
        en_solution="{0} / {1} = {result}",
        patterns=(_DECIMAL, _DECIMAL),
    ),
    "equation": ProblemType(
        draw=_line,
        distinct=200 * 201,
        result=lambda a, b: str(-int(b) / int(a)),
        zh="解方程 {0}x + {1} = 0",
        zh_solution="方程的解为：{result}",
        en="Solve the equation {0}x + {1} = 0.",
        en_solution="The solution is x = {result}",
        patterns=(_INTEGER, _INTEGER),
    ),
    "root": ProblemType(
        draw=lambda random: (_hundredths(random, 0, 999_999),),
        distinct=1_000_000,
        result=lambda a: str(_CONTEXT.sqrt(Decimal(a))),
        zh="计算 {0} 的平方根？",
        zh_solution="√{0} = {result}",
        en="What is the square root of {0}?",
        en_solution="√{0} = {result}",
        patterns=(_MAGNITUDE,),
    ),
    "power": ProblemType(
        draw=_power_operands,
        distinct=(2 * 99_999 + 1) * 6 - 1,
        result=lambda a, n: str(_CONTEXT.power(Decimal(a), Decimal(n))),
        zh="计算 {0} 的 {1} 次方？",
        zh_solution="{0}^{1} = {result}",
        en="What is {0} to the power of {1}?",
        en_solution="{0}^{1} = {result}",
        patterns=(_DECIMAL, _EXPONENT),
    ),
    "function": ProblemType(
        draw=_function_operands,
        distinct=1001 * 100 * 99,
        result=_function_value,
        zh="当 x = {0} 时，求函数 y = {1}x^{2} 的值",
        zh_solution="函数的值为：{result}",
        en="Find the value of the function y = {1}x^{2} at x = {0}.",
        en_solution="The value of the function is {result}",
        patterns=(_MAGNITUDE, _INTEGER, _EXPONENT),
    ),
    "mean": ProblemType(
        draw=_list,
        distinct=sum(100**n for n in range(3, 11)),
        result=_mean,
        zh="求以下数据的平均值：[{all}]",
        zh_solution="平均值为 {result}",
        en="Find the mean of these numbers: [{all}]",
        en_solution="The mean is {result}",
        patterns=(_LIST,),
    ),
    "area": ProblemType(
        draw=_two_integers(100),
        distinct=100**2,
        result=lambda a, b: str(int(a) * int(b)),
        zh="一个长方形的长为 {0} 厘米，宽为 {1} 厘米，请计算其面积。",
        zh_solution="面积为 {result} 平方厘米",
        en="A rectangle is {0} centimetres long and {1} centimetres wide. What is its area?",
        en_solution="The area is {result} square centimetres",
        patterns=(_NATURAL, _NATURAL),
    ),
    "discount": ProblemType(
        draw=_two_integers(100),
        distinct=100**2,
        result=lambda a, b: str((int(a) - int(b)) / int(a) * 100),
        zh="商品原价为 {0} 元，打折后的价格为 {1} 元，请计算打折的折扣比例。",
        zh_solution="{result}",
        en="The price of an article went from {0} yuan to {1} yuan. By how many percent was it reduced?",
        en_solution="{result}",
        patterns=(_NATURAL, _NATURAL),
    ),
    "sales": ProblemType(
        draw=_two_integers(100),
        distinct=100**2,
        result=lambda a, p: str(int(a) + int(a) * int(p) / 100),
        zh="去年销售额为 {0} 万元，今年销售额增加了 {1}%，请计算今年的销售额。",
        zh_solution="{result}",
        en="Sales, in units of ten thousand yuan, were {0} last year and rose by {1}% this year. What are they now?",
        en_solution="{result}",
        patterns=(_NATURAL, _NATURAL),
    ),
    "mass": ProblemType(
        draw=_two_integers(10),
        distinct=10**2,
        result=lambda d, v: str(int(d) * int(v)),
        zh="某物体的密度为 {0} 克/立方厘米，体积为 {1} 立方厘米，请计算该物体的质量。",
        zh_solution="{result} 克",
        en="A body of {1} cubic centimetres has a density of {0} grams per cubic centimetre. What is its mass?",
        en_solution="{result} grams",
        patterns=(_NATURAL, _NATURAL),
    ),
    "fraction": ProblemType(
        draw=_proper_fraction,
        distinct=45,
        result=_reduced,
        zh="将分数 {0}/{1} 进行简化。",
        zh_solution="最简化的形式为：{result}",
        en="Reduce the fraction {0}/{1} to its lowest terms.",
        en_solution="In lowest terms it is {result}",
        patterns=(_NATURAL, _NATURAL),
    ),
}
"""Problem types by name."""

_NAMES = tuple(PROBLEM_TYPES)
# Per cent, in the order of the table above. Those of the raw file are inferred from how often its rows repeat.
_DEDUPLICATED = (16.7, 16.6, 16.7, 16.7, 7.4, 7.3, 7.3, 3.7, 3.7, 1.6, 1.2, 1.2, 0.02, 0.01)
_RAW = (11.25, 11.25, 11.25, 11.25, 30.0, 5.0, 5.0, 2.5, 2.5, 2.5, 1.25, 1.25, 2.5, 2.5)

MIXTURES: Mapping[Mixture, Mapping[str, float]] = {
    "deduplicated": dict(zip(_NAMES, _DEDUPLICATED, strict=True)),
    "raw": dict(zip(_NAMES, _RAW, strict=True)),
}
"""Weights of the problem types: in the contest's Chinese rows without duplicates, and in its raw file."""

_MAX_SHORTFALL = 0.001  # of all rows, for one problem type


def distinct_limit(mixture: Mixture, language: Language = "zh") -> int:
    """Return the maximum number of distinct rows of a mixture.

    Small problem types are used up early (there are 45 fractions). The mixture counts as preserved while no type lacks
    more than a thousandth of all rows.

    >>> distinct_limit("deduplicated"), distinct_limit("raw")
    (551410, 1875)
    """
    total = sum(MIXTURES[mixture].values())
    copies = 2 if language == "both" else 1
    fractions = ((PROBLEM_TYPES[name].distinct, weight / total) for name, weight in MIXTURES[mixture].items())
    return min(
        int(copies * distinct / (fraction - _MAX_SHORTFALL))
        for distinct, fraction in fractions
        if fraction > _MAX_SHORTFALL
    )


def generate_rows(
    rows: int, seed: int, mixture: Mixture = "deduplicated", language: Language = "zh", distinct: bool = True
) -> Iterator[dict[str, str]]:
    """Yield rows {"problem", "solution"} of a mixture. The same arguments give the same rows on every machine.

    With `distinct` no problem occurs twice; the other types replace one whose problems are used up. The contest's raw
    file, which has many repetitions, is the mixture `raw` without `distinct`. With the language `both`, half of the
    rows are in each language.

    Raises: SettingsError for more distinct rows than the mixture has (see `distinct_limit`).

    >>> next(generate_rows(1, seed=1))
    {'problem': '计算 ...', 'solution': '...'}
    """
    if distinct and rows > (limit := distinct_limit(mixture, language)):
        raise SettingsError(
            "rows",
            f"{rows:,} distinct rows",
            f"{limit:,} at most in the mixture {mixture}",
            "request fewer rows, or use task.mixture=raw",
        )
    return _rows(rows, Random(seed), mixture, language, distinct)


def _rows(rows: int, random: Random, mixture: Mixture, language: Language, distinct: bool) -> Iterator[dict[str, str]]:
    names = list(MIXTURES[mixture])
    bounds = list(accumulate(MIXTURES[mixture].values()))
    num_unused = {name: PROBLEM_TYPES[name].distinct * (2 if language == "both" else 1) for name in names}
    seen: set[str] = set()
    for _ in range(rows):
        # bisect on random() and not random.choices, which may draw other names in another version of Python
        while not num_unused[name := names[bisect(bounds, random.random() * bounds[-1], hi=len(names) - 1)]]:
            pass
        row = _row(PROBLEM_TYPES[name], random, language)
        if distinct:
            while row["problem"] in seen:
                row = _row(PROBLEM_TYPES[name], random, language)
            seen.add(row["problem"])
            num_unused[name] -= 1
        yield row


def _row(problem_type: ProblemType, random: Random, language: Language) -> dict[str, str]:
    operands = problem_type.draw(random)
    if language == "zh" or (language == "both" and random.random() < 0.5):
        return {"problem": problem_type.problem_zh(operands), "solution": problem_type.solution(operands)}
    return {"problem": problem_type.problem_en(operands), "solution": problem_type.solution(operands, "en")}


def recognise(problem: str) -> tuple[str, Operands] | None:
    """Return type and operands of a problem in either language; None if it is none of the fourteen types.

    >>> recognise("解方程 82x + -45 = 0"), recognise("What is 1.50 / 0.00?")
    (('equation', ('82', '-45')), None)
    """
    problem = problem.strip()
    for name, problem_type in PROBLEM_TYPES.items():
        operands = problem_type.parse(problem)
        if operands is not None:
            # A problem without a solution, such as a division by zero, has no scratchpad either.
            try:
                problem_type.result(*operands)
            except ArithmeticError:
                return None
            return name, operands
    return None


def problem_type_of(problem: str) -> str:
    """Return the category under which a problem is reported: a name in PROBLEM_TYPES, `english` or `other`.

    >>> problem_type_of("What is 2.00 to the power of 3?"), problem_type_of("Find $x$."), problem_type_of("鸡兔同笼")
    ('power', 'english', 'other')
    """
    if recognised := recognise(problem):
        return recognised[0]
    return OTHER_CATEGORY if re.search(r"[\u4e00-\u9fff]", problem) else ENGLISH_CATEGORY
