"""What someone claims about an adapter: rank, layers, number of parameters, ratio."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from lotune.errors import SettingsError
from lotune.evaluate.parameter_ratio import BASE_TOTALS
from lotune.model.methods.target_names import read_targets


@dataclass(frozen=True)
class ClaimedRatio:
    """A ratio as it was written; `step` is the worth of its last digit, 0 for a fraction."""

    text: str
    value: Fraction
    step: Fraction

    def fits(self, count: int, total: int) -> bool:
        """Return whether the ratio is count / total, rounded or cut to the digits that were written.

        >>> [read_ratio(text).fits(159, 10_000) for text in ("0.016", "0.015", "0.017", "159/10000")]
        [True, True, False, True]
        """
        beyond = Fraction(count, total) - self.value
        return -self.step / 2 <= beyond < self.step if self.step else beyond == 0

    def counts(self, total: int) -> tuple[int, int]:
        """Return the smallest and the largest number of parameters that have this ratio.

        >>> read_ratio("0.000424393").counts(8_030_000_000)
        (3407872, 3407883)
        """
        low, high = (self.value - self.step / 2) * total, (self.value + self.step) * total
        return -(-low.numerator // low.denominator), high.numerator // high.denominator


@dataclass(frozen=True)
class Claim:
    """A claim; what is None is not claimed."""

    rank: int | None = None
    targets: str | list[str] | None = None
    count: int | None = None
    ratio: ClaimedRatio | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is claimed."""
        return self == Claim()


def read_claim(rank: int | None, targets: str | None, count: str | None, ratio: str | None) -> Claim:
    """Return the claim in the options of a command.

    Raises: SettingsError for a number that cannot be read, or that is rounded to millions.
    """
    return Claim(
        rank,
        None if targets is None else read_targets(targets),
        None if count is None else read_count(count),
        None if ratio is None else read_ratio(ratio),
    )


def read_count(text: str) -> int:
    """Return a number of parameters, which may have separators of thousands.

    >>> read_count("4,194,304"), read_count("4194304")
    (4194304, 4194304)
    """
    plain = re.sub(r"(?<=\d)[,_ ](?=\d{3}(?!\d))", "", text.strip())
    if not re.fullmatch(r"\d{1,18}", plain) or int(plain) < 1:
        expected = "the exact number of parameters, such as 4194304"
        raise SettingsError(
            "--count", f"cannot read {text!r}", expected, "a number rounded to millions tells too little"
        )
    return int(plain)


def read_ratio(text: str) -> ClaimedRatio:
    """Return a ratio: a decimal number, a percentage, or a fraction of two numbers.

    >>> read_ratio("0.0424393 %").value == read_ratio("0.000424393").value, read_ratio("5505024/8030000000").step
    (True, Fraction(0, 1))
    """
    plain = text.replace(" ", "").replace(",", "")
    if match := re.fullmatch(r"(\d{1,18})/(\d{1,18})", plain):
        if int(match[2]) > 0:
            return ClaimedRatio(text, Fraction(int(match[1]), int(match[2])), Fraction(0))
    elif match := re.fullmatch(r"(\d{0,18})(?:\.(\d{1,30}))?(?:[eE]([+-]?\d{1,2}))?(%?)", plain):
        whole, decimals, exponent, percent = match.groups(default="")
        scale = Fraction(10) ** (int(exponent or 0) - (2 if percent else 0) - len(decimals))
        if whole or decimals:
            return ClaimedRatio(text, int(whole + decimals) * scale, scale)
    raise SettingsError(
        "--ratio", f"cannot read {text!r}", "a number such as 0.000424393, 0.0424 % or 3407872/8030000000"
    )


def conventions(total: int | None) -> Mapping[str, int]:
    """Return the totals that a ratio may divide by, by the name of the convention.

    Of the contest's totals, which are rounded down to millions, only that of the base itself counts; if the base is
    unknown (None), all of them do.

    >>> conventions(8_030_261_248)
    {'measured': 8030261248, 'llama3-8b': 8030000000}
    """
    rounded = {name: divisor for name, divisor in BASE_TOTALS.items() if divisor is not None}
    if total is None:
        return rounded
    own = {name: divisor for name, divisor in rounded.items() if divisor == total // 10**6 * 10**6}
    return {**{name: total for name, divisor in BASE_TOTALS.items() if divisor is None}, **own}
