"""Written working: how an answer is reached, digit by digit, in a form that a small model can learn.

Every block starts with a bare equation and ends with its result, so that blocks can follow one another:

    -6797.66-280.27=?        what is to be computed
    6679760,7208200+-        both magnitudes, lowest digit first, zero-padded; the operation on them; the result's sign
    3977070                  the result, lowest digit first: each digit needs only the column above and the carry
    =-7077.93

Digits stand lowest first wherever a carry runs, at a fixed width, because then every digit is computed from digits at
a constant distance. Decomposing products and dividing with remainders follows "Goat: Fine-tuned LLaMA Outperforms GPT-4 on
Arithmetic Tasks" (Liu and Low, 2023); the layout is our own.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

QUOTIENT_DIGITS = 7
"""Digits of a quotient that long division writes: six are significant at least."""
ROOT_DIGITS = 6
MANTISSA_DIGITS = 7
"""Digits that a rounded step of a power keeps."""


def low_first(number: int, width: int = 0) -> str:
    """Digits of a non-negative integer, lowest first, padded with zeros to `width`.

    >>> low_first(27, 4)
    '7200'
    """
    return str(number).zfill(width)[::-1]


def scaled(text: str) -> tuple[int, int]:
    """An exact decimal as (integer, number of decimals).

    >>> scaled("-12.30")
    (-1230, 2)
    """
    _, _, decimals = text.partition(".")
    return int(text.replace(".", "")), len(decimals)


def unscaled(number: int, decimals: int) -> str:
    """The decimal text of `number` / 10**`decimals`, with exactly that many decimals.

    >>> unscaled(-1230, 2), unscaled(5, 3)
    ('-12.30', '0.005')
    """
    sign, digits = "-" if number < 0 else "", str(abs(number)).zfill(decimals + 1)
    return sign + (f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits)


def sum_block(a: str, operator: str, b: str) -> tuple[str, str]:
    """Working and result of `a` + or - `b`.

    >>> print(sum_block("-97.66", "-", "80.27")[0], end="")
    -97.66-80.27=?
    66790,72080+-
    39771
    =-177.93
    """
    (x, x_decimals), (y, y_decimals) = scaled(a), scaled(b)
    decimals = max(x_decimals, y_decimals)
    x, y = x * 10 ** (decimals - x_decimals), y * 10 ** (decimals - y_decimals)
    signed = y if operator == "+" else -y
    total = x + signed
    same = (x < 0) == (signed < 0)
    operation = "+" if same else "-" if abs(x) >= abs(y) else "~"
    width = max(len(str(abs(x))), len(str(abs(y)))) + 1
    columns = f"{low_first(abs(x), width)},{low_first(abs(y), width)}{operation}{'-' if total < 0 else '+'}"
    result = unscaled(total, decimals)
    return f"{a}{operator}{b}=?\n{columns}\n{low_first(abs(total), width)}\n={result}\n", result


def product_rows(x: int, y: int) -> str:
    """Rows of a product of magnitudes: for each digit of `y`, from the lowest, the partial product and the running sum.

    After each row the running sum's lowest digit is final and is left behind; the last line is the product.

    >>> print(product_rows(24, 31), end="")
    42*13
    1:420,420
    3:270,470
    4470
    """
    width = len(str(x)) + 1
    lines, running, final = [f"{low_first(x)}*{low_first(y)}"], 0, ""
    for digit in low_first(y):
        partial = x * int(digit)
        running = running // 10 + partial
        lines.append(f"{digit}:{low_first(partial, width)},{low_first(running, width)}")
        final += str(running % 10)
    return "\n".join([*lines, final + low_first(running // 10, width - 1)]) + "\n"


def product_block(a: str, b: str) -> tuple[str, str]:
    """Working and exact result of `a` * `b`.

    >>> print(product_block("-2.4", "31")[0], end="")
    -2.4*31=?
    42*13
    1:420,420
    3:270,470
    4470
    =-74.4
    """
    (x, x_decimals), (y, y_decimals) = scaled(a), scaled(b)
    result = unscaled(x * y, x_decimals + y_decimals)
    if x * y == 0:
        return f"{a}*{b}=?\n={result}\n", result
    return f"{a}*{b}=?\n{product_rows(abs(x), abs(y))}={result}\n", result


def quotient_block(a: str, b: str) -> tuple[str, str]:
    """Working and result of `a` / `b` by long division with remainders, cut after QUOTIENT_DIGITS digits.

    Both magnitudes are shifted to the same number of digits; `@` is followed by the sign and the power of ten of the first quotient digit.
    Each line holds a quotient digit, its multiple of the divisor and ten times the new remainder, lowest digit first.

    >>> print(quotient_block("-3", "8")[0], end="")
    -3/8=?
    30/8@-0
    0:00,03
    3:42,06
    7:65,04
    5:04,00
    =-0.375
    """
    (x, x_decimals), (y, y_decimals) = scaled(a), scaled(b)
    if x == 0:
        return f"{a}/{b}=?\n=0\n", "0"
    sign = "-" if (x < 0) != (y < 0) else "+"
    x, y = abs(x), abs(y)
    shift = len(str(x)) - x_decimals - len(str(y)) + y_decimals
    width = max(len(str(x)), len(str(y)))
    dividend, divisor = int(str(x).ljust(width, "0")), int(str(y).ljust(width, "0"))
    lines = [f"{low_first(dividend, width + 1)}/{low_first(divisor)}@{sign}{shift}"]
    digits, remainder = "", dividend
    while remainder and len(digits) < QUOTIENT_DIGITS:
        digit = remainder // divisor
        multiple = digit * divisor
        remainder = (remainder - multiple) * 10
        digits += str(digit)
        lines.append(f"{digit}:{low_first(multiple, width + 1)},{low_first(remainder, width + 1)}")
    value = Decimal(int(digits)).scaleb(shift - len(digits) + 1)
    result = ("-" if sign == "-" else "") + plain(value)
    return f"{a}/{b}=?\n" + "\n".join(lines) + f"\n={result}\n", result


def root_block(a: str) -> tuple[str, str]:
    """Working and result of the square root of `a`, digit by digit, cut after ROOT_DIGITS digits.

    The radicand is taken two digits at a time; a line holds a digit d, the trial divisor (twenty times the root so far, plus d), its product
    with d, and the remainder with the next two digits brought down.

    >>> print(root_block("2.25")[0], end="")
    √2.25=?
    02,25@0
    1:1000000,10000000,52100000
    5:5200000,52100000,00000000
    =1.5
    """
    x, decimals = scaled(a)
    if decimals % 2:
        x, decimals = x * 10, decimals + 1
    if x == 0:
        return f"√{a}=?\n=0\n", "0"
    digits = str(x)
    digits = digits.zfill(len(digits) + len(digits) % 2)
    pairs = [int(digits[i : i + 2]) for i in range(0, len(digits), 2)]
    shift = len(pairs) - decimals // 2 - 1
    lines = [",".join(f"{pair:02d}" for pair in pairs) + f"@{shift}"]
    root, remainder, step = 0, pairs[0], 0
    while step < ROOT_DIGITS and (step < len(pairs) or remainder):
        digit = max(d for d in range(10) if (20 * root + d) * d <= remainder)
        trial = 20 * root + digit
        root, step = 10 * root + digit, step + 1
        following = pairs[step] if step < len(pairs) else 0
        left = (remainder - trial * digit) * 100 + following
        lines.append(f"{digit}:{low_first(trial, 7)},{low_first(trial * digit, 8)},{low_first(left, 8)}")
        remainder = left
    result = plain(Decimal(root).scaleb(shift - step + 1))
    return f"√{a}=?\n" + "\n".join(lines) + f"\n={result}\n", result


def rounded_product_block(a: str, b: str) -> tuple[str, str]:
    """Working of a product where `a` is a mantissa with an exponent; the result keeps MANTISSA_DIGITS digits, cut.

    >>> print(rounded_product_block("1.500000E+1", "3.0")[0], end="")
    1.500000E+1*3.0=?
    0000051*03
    0:00000000,00000000
    3:00000540,00000540
    000000540
    =4.500000E+1
    """
    mantissa, _, exponent = a.partition("E")
    (x, _), (y, y_decimals) = scaled(mantissa), scaled(b)
    rows = product_rows(abs(x), abs(y))
    digits = str(abs(x * y))
    power = int(exponent) + len(digits) - MANTISSA_DIGITS - y_decimals
    result = ("-" if x * y < 0 else "") + scientific(digits, power)
    return f"{a}*{b}=?\n{rows}={result}\n", result


def scientific(digits: str, power: int) -> str:
    """Digits as a mantissa of MANTISSA_DIGITS digits (cut, not rounded) with its exponent.

    >>> scientific("25", -2)
    '2.500000E-2'
    """
    kept = digits[:MANTISSA_DIGITS].ljust(MANTISSA_DIGITS, "0")
    return f"{kept[0]}.{kept[1:]}E{power:+d}"


def to_scientific(text: str) -> str:
    """A decimal other than zero as a mantissa with its exponent.

    >>> to_scientific("-12.30")
    '-1.230000E+1'
    """
    number, decimals = scaled(text)
    digits = str(abs(number))
    return ("-" if number < 0 else "") + scientific(digits, len(digits) - 1 - decimals)


def plain(value: Decimal) -> str:
    """A decimal without exponent and without trailing zeros.

    >>> plain(Decimal("1E+3")), plain(Decimal("0.2500"))
    ('1000', '0.25')
    """
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def power_blocks(a: str, n: int) -> tuple[str, str]:
    """Working and result of `a`**`n`: the square exactly, further factors in rounded steps.

    >>> power_blocks("2.5", 2)[1], power_blocks("2.5", 4)[1]
    ('6.25', '3.906250E+1')
    """
    if n == 0 or scaled(a)[0] == 0:
        return "", "1" if n == 0 else "0"
    if n == 1:
        return "", a
    text, result = product_block(a, a)
    for step in range(n - 2):
        start = to_scientific(result) if step == 0 else result
        block, result = rounded_product_block(start, a)
        text += block
    return text, result


LONGEST_POWER = 6
"""Largest exponent whose power is written out; beyond it the working would not fit a small model's context."""


def _equation(a: str, b: str) -> str:
    return quotient_block(b[1:] if b.startswith("-") else "-" + b if b != "0" else "0", a)[0]


def _power(a: str, n: str) -> str:
    return power_blocks(a, int(n))[0]


def _function(x: str, a: str, n: str) -> str:
    if int(n) > LONGEST_POWER or scaled(x)[0] == 0:
        return ""
    text, result = power_blocks(x, int(n))
    if int(n) <= 2:
        return text + product_block(result, a)[0]
    return text + rounded_product_block(result, a)[0]


def _mean(*numbers: str) -> str:
    text, total = "", numbers[0]
    for number in numbers[1:]:
        block, total = sum_block(total, "+", number)
        text += block
    return text + quotient_block(total, str(len(numbers)))[0]


def _discount(a: str, b: str) -> str:
    text, difference = sum_block(a, "-", b)
    return text + quotient_block(difference + "00" if difference != "0" else "0", a)[0]


def _sales(a: str, p: str) -> str:
    return product_block(a, unscaled(100 + int(p), 2))[0]


def _fraction(a: str, b: str) -> str:
    divisor = int(a) // Fraction(int(a), int(b)).numerator
    return f"{a}/{divisor}={int(a) // divisor}\n{b}/{divisor}={int(b) // divisor}\n"


WORKING = {
    "add": lambda a, b: sum_block(a, "+", b)[0],
    "subtract": lambda a, b: sum_block(a, "-", b)[0],
    "multiply": lambda a, b: product_block(a, b)[0],
    "divide": lambda a, b: quotient_block(a, b)[0],
    "equation": _equation,
    "root": lambda a: root_block(a)[0],
    "power": _power,
    "function": _function,
    "mean": _mean,
    "area": lambda a, b: product_block(a, b)[0],
    "discount": _discount,
    "sales": _sales,
    "mass": lambda d, v: product_block(d, v)[0],
    "fraction": _fraction,
}
"""Working by kind of question; the operands are as printed in the question."""


def written_working(kind: str, operands: tuple[str, ...]) -> str:
    """The working that precedes the solution of a question, ending with a line break; empty where there is none.

    >>> written_working("area", ("4", "12"))
    '4*12=?\\n4*21\\n2:80,80\\n1:40,40\\n840\\n=48\\n'
    """
    block = WORKING.get(kind)
    return block(*operands) if block else ""
