r"""Match arithmetic answers: extract the number of an answer and compare it with that of the reference.

The number that counts is the last one inside the last `\boxed{}`, else after the last `final`, else in the whole text.
All comparisons are exact (decimal arithmetic). Parsing takes time linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_UP, Context, Decimal, InvalidOperation
from functools import cache

from lotune.errors import SettingsError

MAX_EXPONENT_DIGITS = 9
"""Maximum number of digits in an exponent; a longer one makes the text no number."""
MAX_DIGITS = 100
"""Maximum argument of `significant` and `decimals`."""


@dataclass(frozen=True)
class Number:
    """An extracted number: a decimal or, with a denominator, a fraction of integers with its sign in the numerator."""

    numerator: Decimal
    denominator: Decimal | None = None

    def __str__(self) -> str:
        return str(self.numerator) if self.denominator is None else f"{self.numerator}/{self.denominator}"


Rule = Callable[[Number, Decimal], bool]
"""Whether an answer matches a reference that is not a fraction."""

# Plain forms, one character for one: the rules of signs look at the neighbours. A dash (—) is not a minus sign.
_PLAIN = str.maketrans(
    dict(zip("０１２３４５６７８９", "0123456789", strict=True))
    | dict(zip("．＋／（）｛｝＝：＾Ｅｅ", ".+/(){}=:^Ee", strict=True))
    | dict.fromkeys("−－﹣‐‑‒–", "-")
)

# Thousands separators count only between groups of three: "3,14" is two numbers. Atomic groups and possessive
# quantifiers keep the engine from trying a long run of digits at every shorter length.
_INTEGER = r"(?>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
# A minus sign belongs to the number unless a digit or ")" stands before it, where it is a subtraction. With blanks
# after it, it counts only at the start of a term: "x = - 5". Three forms follow: \frac{}{}, integer/integer without
# blanks (so that an echoed "12.50 / 3.10" is not its own quotient), and a decimal, perhaps with an exponent.
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
    r"""Return the number that counts in a text, None if there is none.

    Integers, decimals, thousands separators, full-width digits, 2.7E+34, 2.7×10^34 and 2.7 \times 10^{34} are read. A
    fraction is integer/integer without blanks, or \frac{}{}. Any minus sign counts, but after a digit or ")" it is a
    subtraction. If no number follows a marker (`\boxed{}`, `final`), the text has none.

    >>> str(read_number(r"6 - 2 = 4, final, 12.50 / -3.10 = −4.032")), str(read_number(r"so \boxed{\frac{3}{4}} of 8"))
    ('-4.032', '3/4')
    >>> str(read_number("１，２３４.５")), str(read_number("2.7×10^34")), read_number("no number")
    ('1234.5', '2.7E+34', None)
    """
    region = _counted_part(_plain(text))
    end = len(region)
    # No number continues over a line end, so the lines are searched from the last one, which mostly has the number.
    while end >= 0:
        start = region.rfind("\n", 0, end)
        last = None
        for match in _expression().finditer(region[max(start, 0) : end]):
            last = match
        if last is not None:
            return _value(last)
        end = start
    return None


def _plain(text: str) -> str:
    # A full-width comma separates thousands only between full-width digits; elsewhere it is Chinese punctuation. LaTeX
    # writes thousands as 1{,}000 or 1,\!000.
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
    except InvalidOperation:  # beyond the range of this platform's decimals
        return None
    return Number(value.copy_negate() if negative else value)


def within(answer: Number, reference: Decimal, tolerance: Decimal) -> bool:
    """Return whether |answer − reference| ≤ tolerance, computed exactly and without expanding a huge exponent.

    >>> within(Number(Decimal("0.35")), Decimal("0.345"), Decimal("0.005"))
    True
    """
    # Both sides are multiplied by the denominator, as a quotient may have no finite decimal.
    numerator, scale = answer.numerator, answer.denominator or Decimal(1)
    product = _product(reference, scale)
    bound = _product(tolerance, scale)
    # Rounding the distance up to as many digits as the bound has keeps the comparison exact: the bound is itself such a
    # decimal, so a distance above it stays above. A full subtraction of 1E+999999999 − 1 would need that many digits.
    round_up = _context(len(bound.as_tuple().digits), ROUND_UP)
    return round_up.subtract(numerator, product).copy_abs() <= bound


def _product(a: Decimal, b: Decimal) -> Decimal:
    return _context(_digits(a) + _digits(b)).multiply(a, b)


def _digits(value: Decimal) -> int:
    return len(value.as_tuple().digits)


def _context(digits: int, rounding: str | None = None) -> Context:
    return Context(prec=max(digits, 1), rounding=rounding, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])


def exact(answer: Number, reference: Decimal) -> bool:
    """Return whether both are equal as numbers.

    >>> exact(Number(Decimal("2.50")), Decimal("2.5")), exact(Number(Decimal(5), Decimal(2)), Decimal("2.5"))
    (True, True)
    """
    return within(answer, reference, Decimal(0))


def significant(digits: int) -> Rule:
    """Return the rule that compares `digits` significant digits.

    A reference of at most that many digits, trailing zeros not counted, must be equal. For a longer one the answer may
    differ by half a unit of the last digit that counts.

    >>> rule = significant(5)
    >>> rule(Number(Decimal("0.46389")), Decimal("0.46388957")), rule(Number(Decimal("12.341")), Decimal("12.34"))
    (True, False)
    """

    def matches(answer: Number, reference: Decimal) -> bool:
        num_digits = len("".join(map(str, reference.as_tuple().digits)).strip("0"))
        if num_digits <= digits:
            return exact(answer, reference)
        return within(answer, reference, Decimal((0, (5,), reference.adjusted() - digits)))

    return matches


def decimals(count: int) -> Rule:
    """Return the rule that allows a difference of half a unit of the decimal with this number.

    >>> decimals(2)(Number(Decimal("0.35")), Decimal("0.345")), decimals(2)(Number(Decimal("0.351")), Decimal("0.345"))
    (True, False)
    """
    return lambda answer, reference: within(answer, reference, Decimal((0, (5,), -count - 1)))


def relative(tolerance: Decimal) -> Rule:
    """Return the rule that allows a difference of `tolerance` times the magnitude of the reference.

    >>> relative(Decimal("1e-4"))(Number(Decimal("10001")), Decimal("10000"))
    True
    """
    return lambda answer, reference: within(answer, reference, _product(tolerance, reference.copy_abs()))


def _no_argument(text: str) -> Rule:
    if text:
        raise ValueError
    return exact


def _count(make: Callable[[int], Rule], minimum: int) -> Callable[[str], Rule]:
    def parse(text: str) -> Rule:
        if not re.fullmatch("[0-9]{1,4}", text) or not minimum <= int(text) <= MAX_DIGITS:
            raise ValueError
        return make(int(text))

    return parse


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
"""Parser of the argument, the part after the colon, by the name of the rule before it."""


USUAL_RULES = ("exact", "significant:5", "decimals:2", "relative:1e-4")
"""One rule of each kind, under which training targets are scored."""


@cache
def rule_named(rule: str) -> Rule:
    """Return the rule of a name such as `exact`, `significant:5`, `decimals:2` or `relative:1e-4`.

    Raises: SettingsError with the choices if there is no such rule.
    """
    name, _, argument = rule.partition(":")
    try:
        return NUMBER_RULES[name](argument)
    except (KeyError, ValueError):
        choices = f"exact, significant:1 to {MAX_DIGITS}, decimals:0 to {MAX_DIGITS}, relative:TOLERANCE below 1"
        raise SettingsError(
            "task.scorer", f"{rule!r} is not a scorer of numbers", choices, "such as significant:5"
        ) from None


def match_numbers(answer_text: str, reference_text: str, rule: str) -> tuple[str | None, str, bool | None]:
    """Return the number of the answer, that of the reference (or its text), and whether they match.

    A reference that is a fraction requires the same numerator and denominator under every rule. The last value is None
    if the reference is not a number.

    Raises: SettingsError if there is no such rule.

    >>> match_numbers("final, 3 * 4 = 12", "3 * 4 = 12", "exact"), match_numbers("2/8", "最简化的形式为：1/4", "exact")
    (('12', '12', True), ('2/8', '1/4', False))
    """
    rule_named(rule)
    answer, reference = read_number(answer_text), read_number(reference_text)
    extracted = None if answer is None else str(answer)
    expected = reference_text if reference is None else str(reference)
    return extracted, expected, _matches(answer, reference, rule)


def verdicts(answer_text: str, reference_text: str, rules: Iterable[str]) -> dict[str, bool | None]:
    """Return whether the answer is correct under each rule; None if the reference is not a number.

    Raises: SettingsError if there is no such rule.

    >>> verdicts("1 / 3 = 0.333333", "1 / 3 = 0.3333333333333333333333333333", ["exact", "significant:5"])
    {'exact': False, 'significant:5': True}
    """
    answer, reference = read_number(answer_text), read_number(reference_text)
    return {rule: _matches(answer, reference, rule) for rule in rules}


def _matches(answer: Number | None, reference: Number | None, rule: str) -> bool | None:
    matches = rule_named(rule)
    if reference is None:
        return None
    if answer is None:
        return False
    # The problem asks for lowest terms, so 2/8 is not 1/4.
    return answer == reference if reference.denominator is not None else matches(answer, reference.numerator)
