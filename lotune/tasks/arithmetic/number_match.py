r"""The judge of arithmetic answers: the number that a text ends on, and rules that compare it with the key's.

What counts as the number: the last one inside the last `\boxed{}`, else after the last `final`, else of the whole text.
All comparisons are exact (decimal or fraction arithmetic); reading takes time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_UP, Context, Decimal, InvalidOperation
from functools import cache

from lotune.errors import SettingsError

MAX_EXPONENT_DIGITS = 9
"""A number with more digits in its exponent is taken for none: nobody's answer is that large."""
MAX_DIGITS = 100
"""The most digits that a rule may ask for."""


@dataclass(frozen=True)
class Number:
    """A number as read: a decimal, or, where there is a denominator, a fraction of integers (the sign on top)."""

    numerator: Decimal
    denominator: Decimal | None = None

    def __str__(self) -> str:
        return str(self.numerator) if self.denominator is None else f"{self.numerator}/{self.denominator}"


Rule = Callable[[Number, Decimal], bool]
"""Whether an answer matches a key that is no fraction."""

# Each to its plain form, one character for one, so that places in the text stay the same. A dash (—) is no minus sign.
_PLAIN = str.maketrans(
    dict(zip("０１２３４５６７８９", "0123456789", strict=True))
    | dict(zip("．＋／（）｛｝＝：＾Ｅｅ", ".+/(){}=:^Ee", strict=True))
    | dict.fromkeys("−－﹣‐‑‒–", "-")
)

_INTEGER = r"(?>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = rf"""
    (?:(?P<minus>(?<![0-9)])-) | (?:[=≈({{\[:]|\A)[ ]*+(?P<apart>-)[ ]++)?
    (?:
        \\[dt]?frac \{{ [ ]*+ (?P<top>-?{_INTEGER}) [ ]*+ \}} [ ]*+ \{{ [ ]*+ (?P<bottom>-?{_INTEGER}) [ ]*+ \}}
      | (?P<a>{_INTEGER}) / (?P<b>-?{_INTEGER}) (?!\.[0-9]|[eE][-+]?[0-9])
      | (?P<mantissa>{_INTEGER}(?:\.[0-9]++)? | (?<![0-9.])\.[0-9]++)
        (?: [eE] (?P<e>[-+]?[0-9]++)
          | [ ]*+ (?:×|\\times) [ ]*+ 10\^ (?: (?P<power>[-+]?[0-9]++) | \{{ [ ]*+ (?P<braced>[-+]?[0-9]++) [ ]*+ \}} )
        )?
    )
"""


@cache
def _expression() -> re.Pattern[str]:
    return re.compile(_NUMBER, re.VERBOSE)


def read_number(text: str) -> Number | None:
    r"""The number that counts in a text, None where there is none.

    Integers, decimals, thousands separators, full-width digits, 2.7E+34, 2.7×10^34 and 2.7 \times 10^{34} are read; a
    fraction is integer/integer without blanks, or \frac{}{}. Any minus sign counts, but after a digit or ")" it is
    subtraction. A marker (`\boxed{}`, `final`) with no number behind it leaves none.

    >>> str(read_number(r"6 - 2 = 4, final, 12.50 / -3.10 = −4.032")), str(read_number(r"so \boxed{\frac{3}{4}} of 8"))
    ('-4.032', '3/4')
    >>> str(read_number("１，２３４.５")), str(read_number("2.7×10^34")), read_number("no number")
    ('1234.5', '2.7E+34', None)
    """
    region = _counted_part(_plain(text))
    end = len(region)
    while end >= 0:  # no number goes over a line end, so lines are looked at from the last on
        start = region.rfind("\n", 0, end)
        last = None
        for match in _expression().finditer(region[max(start, 0) : end]):
            last = match
        if last is not None:
            return _value(last)
        end = start
    return None


def _plain(text: str) -> str:
    text = re.sub("(?<=[０-９])，(?=[０-９])", ",", text).translate(_PLAIN)
    return text.replace("{,}", ",").replace(",\\!", ",")


def _counted_part(text: str) -> str:
    marker = r"\boxed{"
    start = text.rfind(marker)
    if start >= 0:
        return _until_closed(text[start + len(marker) :])
    finals = [match.end() for match in re.finditer("final", text, re.IGNORECASE)]
    return text[finals[-1] :] if finals else text


def _until_closed(text: str) -> str:
    depth = 1
    for match in re.finditer(r"[{}]", text):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[: match.start()]
    return text


def _value(match: re.Match[str]) -> Number | None:
    negative = bool(match["minus"] or match["apart"])
    if match["mantissa"]:
        exponent = match["e"] or match["power"] or match["braced"] or "0"
        return _decimal(match["mantissa"], exponent, negative)
    top, bottom = (_integer(text) for text in (match["a"] or match["top"], match["b"] or match["bottom"]))
    if not bottom:
        return None
    sign = -1 if negative != (bottom < 0) else 1
    return Number(top.copy_negate() if sign < 0 and top else top, bottom.copy_abs())


def _integer(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def _decimal(mantissa: str, exponent: str, negative: bool) -> Number | None:
    if len(exponent.lstrip("+-").lstrip("0")) > MAX_EXPONENT_DIGITS:
        return None
    try:
        value = Decimal(f"{mantissa.replace(',', '')}E{exponent}")
    except InvalidOperation:  # beyond what this platform's decimals hold
        return None
    return Number(value.copy_negate() if negative else value)


def within(answer: Number, key: Decimal, tolerance: Decimal) -> bool:
    """Whether |answer − key| ≤ tolerance, exactly, and without ever writing a huge number out.

    >>> within(Number(Decimal("0.35")), Decimal("0.345"), Decimal("0.005"))
    True
    """
    numerator, scale = answer.numerator, answer.denominator or Decimal(1)
    product = _product(key, scale)
    bound = _product(tolerance, scale)
    # The smallest decimal of so few digits that is not below the distance; the bound is one of them.
    upwards = _context(len(bound.as_tuple().digits), ROUND_UP)
    return upwards.subtract(numerator, product).copy_abs() <= bound


def _product(a: Decimal, b: Decimal) -> Decimal:
    return _context(_digits(a) + _digits(b)).multiply(a, b)


def _digits(value: Decimal) -> int:
    return len(value.as_tuple().digits)


def _context(digits: int, rounding: str | None = None) -> Context:
    return Context(prec=max(digits, 1), rounding=rounding, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


def exact(answer: Number, key: Decimal) -> bool:
    """Equal as numbers.

    >>> exact(Number(Decimal("2.50")), Decimal("2.5")), exact(Number(Decimal(5), Decimal(2)), Decimal("2.5"))
    (True, True)
    """
    return within(answer, key, Decimal(0))


def significant(digits: int) -> Rule:
    """A key of at most `digits` significant digits, trailing zeros not counted, must be equal; a longer one within half
    a unit of its last counted digit.

    >>> rule = significant(5)
    >>> rule(Number(Decimal("0.46389")), Decimal("0.46388957")), rule(Number(Decimal("12.341")), Decimal("12.34"))
    (True, False)
    """

    def matches(answer: Number, key: Decimal) -> bool:
        counted = len("".join(map(str, key.as_tuple().digits)).strip("0"))
        if counted <= digits:
            return exact(answer, key)
        return within(answer, key, Decimal((0, (5,), key.adjusted() - digits)))

    return matches


def decimals(places: int) -> Rule:
    """Within half a unit of the `places`-th decimal.

    >>> decimals(2)(Number(Decimal("0.35")), Decimal("0.345")), decimals(2)(Number(Decimal("0.351")), Decimal("0.345"))
    (True, False)
    """
    return lambda answer, key: within(answer, key, Decimal((0, (5,), -places - 1)))


def relative(tolerance: Decimal) -> Rule:
    """Within `tolerance` times the key's magnitude.

    >>> relative(Decimal("1e-4"))(Number(Decimal("10001")), Decimal("10000"))
    True
    """
    return lambda answer, key: within(answer, key, _product(tolerance, key.copy_abs()))


def _no_argument(text: str) -> Rule:
    if text:
        raise ValueError
    return exact


def _count(make: Callable[[int], Rule], least: int) -> Callable[[str], Rule]:
    def read(text: str) -> Rule:
        if not re.fullmatch("[0-9]{1,4}", text) or not least <= int(text) <= MAX_DIGITS:
            raise ValueError
        return make(int(text))

    return read


def _tolerance(text: str) -> Rule:
    if not re.fullmatch(r"[0-9]{1,100}(\.[0-9]{1,100})?([eE][-+]?[0-9]{1,3})?", text) or Decimal(text) >= 1:
        raise ValueError
    return relative(Decimal(text))


NUMBER_RULES: Mapping[str, Callable[[str], Rule]] = {
    "exact": _no_argument,
    "significant": _count(significant, 1),
    "decimals": _count(decimals, 0),
    "relative": _tolerance,
}
"""Rules by the part of their name before the colon: each reads the part after it."""


USUAL_RULES = ("exact", "significant:5", "decimals:2", "relative:1e-4")
"""One rule of each kind, under which training answers are judged."""


@cache
def rule_named(rule: str) -> Rule:
    """The rule of a name such as `exact`, `significant:5`, `decimals:2` or `relative:1e-4`.

    Raises: SettingsError where there is none, with the choices.
    """
    name, _, argument = rule.partition(":")
    try:
        return NUMBER_RULES[name](argument)
    except (KeyError, ValueError):
        choices = f"exact, significant:1 to {MAX_DIGITS}, decimals:0 to {MAX_DIGITS}, relative:TOLERANCE below 1"
        raise SettingsError(
            "task.scorer", f"{rule!r} is not a judging rule", choices, "such as significant:5"
        ) from None


def match_numbers(answer_text: str, key_text: str, rule: str) -> tuple[str | None, str, bool | None]:
    """What was read in the answer, the key's number (its text where it is none), and the verdict.

    A fraction as key wants the same numerator and denominator under every rule. The verdict is None where the key is no
    number.

    Raises: SettingsError for a rule that does not exist.

    >>> match_numbers("final, 3 * 4 = 12", "3 * 4 = 12", "exact"), match_numbers("2/8", "最简化的形式为：1/4", "exact")
    (('12', '12', True), ('2/8', '1/4', False))
    """
    rule_named(rule)
    answer, key = read_number(answer_text), read_number(key_text)
    read = None if answer is None else str(answer)
    return read, key_text if key is None else str(key), _is_right(answer, key, rule)


def verdicts(answer_text: str, key_text: str, rules: Iterable[str]) -> dict[str, bool | None]:
    """Return the verdict under each rule; None where the key is no number.

    Raises: SettingsError for a rule that does not exist.

    >>> verdicts("1 / 3 = 0.333333", "1 / 3 = 0.3333333333333333333333333333", ["exact", "significant:5"])
    {'exact': False, 'significant:5': True}
    """
    answer, key = read_number(answer_text), read_number(key_text)
    return {rule: _is_right(answer, key, rule) for rule in rules}


def _is_right(answer: Number | None, key: Number | None, rule: str) -> bool | None:
    matches = rule_named(rule)
    if key is None:
        return None
    if answer is None:
        return False
    return answer == key if key.denominator is not None else matches(answer, key.numerator)
