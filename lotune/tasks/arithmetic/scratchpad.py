"""Written working: how an answer is reached, digit by digit, in a form that a small model can learn.

Every block starts with a bare equation and ends with its result, so that blocks can follow one another:

    -6797.66-280.27=?                      what is to be computed
    -0679766-0028027--+-                   both numbers, zero-padded; their signs; the operation; the result's sign
    +6703+6219+7007+9807+7007+6006+0000    a column a step, lowest first: both digits, the carry, the digit below
    =-7077.93

What a step needs stands right before it, which is what makes it learnable: a column holds the digits it adds.
Decomposing products and dividing with remainders follows "Goat: Fine-tuned LLaMA Outperforms GPT-4 on Arithmetic Tasks"
(Liu and Low, 2023); the layout is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

QUOTIENT_DIGITS = 7
"""Digits of a quotient that long division writes: six are significant at least."""
ROOT_DIGITS = 6
"""Digits of a root that are written."""
TRIAL_DIGITS = 5
"""Digits of remainder and divisor that stand before a digit of a quotient or a root."""
MANTISSA_DIGITS = 7
"""Digits that a rounded step of a power keeps."""


def reversed_digits(number: int, width: int = 0) -> str:
    """Digits of a non-negative integer, lowest first, padded with zeros to `width`.

    >>> reversed_digits(27, 4)
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
    -09766-08027--+-
    +6703+6219+7007+9807+0011
    =-177.93

    Where the signs differ, magnitudes are compared: their digits stand in pairs, highest first, as far as the first two
    that are unlike. The operation is then - (first less second) or ~ (second less first).

    >>> print(sum_block("-27", "+", "2.8")[0], sum_block("-27", "+", "28")[0], end="")
    -27+2.8=?
    -0270+0028-+20--
    -0802-7214-2002-0000
    =-24.2
     -27+28=?
    -027+028-+2278~+
    -8701-2200-0000
    =1
    """
    (x, x_decimals), (y, y_decimals) = scaled(a), scaled(b)
    decimals = max(x_decimals, y_decimals)
    x, y = x * 10 ** (decimals - x_decimals), y * 10 ** (decimals - y_decimals)
    signed = y if operator == "+" else -y
    total = x + signed
    same = (x < 0) == (signed < 0)
    operation = "+" if same else "-" if abs(x) >= abs(y) else "~"
    width = max(len(str(abs(x))), len(str(abs(y)))) + 1
    compared = "" if same else _compared(f"{abs(x):0{width - 1}d}", f"{abs(y):0{width - 1}d}")
    heading = f"{signs_shown(x, signed, width)}{compared}{operation}{'-' if total < 0 else '+'}"
    upper, lower = sorted((abs(x), abs(y)), reverse=True) if operation == "~" else (abs(x), abs(y))
    columns = sum_columns(upper, lower, width, "+" if same else "-")
    result = unscaled(total, decimals)
    return f"{a}{operator}{b}=?\n{heading}\n{columns}\n={result}\n", result


def signs_shown(x: int, y: int, width: int) -> str:
    """Two numbers with their signs, each zero-padded to `width` digits, and both signs side by side.

    >>> signs_shown(-27, 5, 3)
    '-027+005-+'
    """
    return f"{x:+0{width + 1}d}{y:+0{width + 1}d}{'-' if x < 0 else '+'}{'-' if y < 0 else '+'}"


def _compared(x: str, y: str) -> str:
    """The pairs of digits of two numbers of one length, highest first, as far as the first that are unlike."""
    pairs = [first + second for first, second in zip(x, y, strict=True)]
    return "".join(pairs[: 1 + next((i for i, pair in enumerate(pairs) if pair[0] != pair[1]), len(pairs))])


def sum_columns(upper: int, lower: int, width: int, operation: str) -> str:
    """Columns of a sum or difference, lowest first: operation, both digits, the carry that came, the result's digit.

    >>> sum_columns(27, 5, 2, "+"), sum_columns(27, 8, 2, "-")
    ('+7502+2013', '-7809-2011')
    """
    text, carry, direction = "", 0, 1 if operation == "+" else -1
    for first, second in zip(reversed_digits(upper, width), reversed_digits(lower, width), strict=True):
        value = int(first) + direction * (int(second) + carry)
        text += f"{operation}{first}{second}{carry}{value % 10}"
        carry = 0 if 0 <= value <= 9 else 1
    return text


def product_rows(x: int, y: int) -> str:
    """Rows of a product: for each digit of `y`, from the lowest, that many times `x` is added to the sum so far.

    Both are copied first, zero-padded, with their signs, and the result's sign follows. A row begins with the digits of
    `y` that are left, of which it takes the last; the lowest digit of its sum is final and is left behind.

    >>> print(product_rows(-24, 31), end="")
    -024+031-+*-
    31:b404004b202002b000000
    3:d412214d206007d000000
    """
    width, running = max(len(str(abs(x))), len(str(abs(y)))) + 1, 0
    lines = [f"{signs_shown(x, y, width)}*{'-' if (x < 0) != (y < 0) else '+'}"]
    x, left = abs(x), str(abs(y))
    for end in range(len(left), 0, -1):
        digit = int(left[end - 1])
        lines.append(f"{left[:end]}:{multiple_columns(x, digit, running, width, 1)}")
        running = (running + x * digit) // 10
    return "\n".join(lines) + "\n"


def multiple_columns(x: int, factor: int, start: int, width: int, direction: int) -> str:
    """Columns of start + factor·x (`direction` 1) or start − factor·x (-1), lowest first.

    A column: the factor as a letter (a is 0, j is 9; a capital where it is taken away), the digit of `x`, their product
    in two digits, the digit of `start`, the carry that goes on, the result's digit.

    >>> multiple_columns(24, 3, 2, 3, 1), multiple_columns(24, 3, 80, 3, -1)
    ('d412214d206007d000000', 'D412028D206800D000000')
    """
    text, carry, letter = "", 0, ("abcdefghij" if direction > 0 else "ABCDEFGHIJ")[factor]
    for digit, other in zip(reversed_digits(x, width), reversed_digits(start, width), strict=True):
        product = int(digit) * factor
        value = int(other) + direction * (product + carry)
        carry = abs(value // 10)
        text += f"{letter}{digit}{product:02d}{other}{carry}{value % 10}"
    return text


def product_block(a: str, b: str) -> tuple[str, str]:
    """Working and exact result of `a` * `b`.

    >>> print(product_block("-2.4", "31")[0], end="")
    -2.4*31=?
    -024+031-+*-
    31:b404004b202002b000000
    3:d412214d206007d000000
    =-74.4
    """
    (x, x_decimals), (y, y_decimals) = scaled(a), scaled(b)
    result = unscaled(x * y, x_decimals + y_decimals)
    if x * y == 0:
        return f"{a}*{b}=?\n={result}\n", result
    return f"{a}*{b}=?\n{product_rows(x, y)}={result}\n", result


def quotient_block(a: str, b: str) -> tuple[str, str]:
    """Working and result of `a` / `b` by long division with remainders, cut after QUOTIENT_DIGITS digits.

    Both numbers are shifted to the same number of digits; the sign and the power of ten of the first quotient digit
    follow. Each row holds the highest digits of what is left and of the divisor, the quotient digit that they give, and
    the columns of what it leaves; this remainder times ten is the start of the next row.

    >>> print(quotient_block("-3", "8")[0], end="")
    -3/8=?
    -03+08-+/-0
    03,08,0:A800303A000000
    30,08,3:D824036D000300
    60,08,7:H856064H000600
    40,08,5:F840040F000400
    =-0.375
    """
    (x, x_decimals), (y, y_decimals) = scaled(a), scaled(b)
    if x == 0:
        return f"{a}/{b}=?\n=0\n", "0"
    sign, signs = "-" if (x < 0) != (y < 0) else "+", (-1 if x < 0 else 1, -1 if y < 0 else 1)
    x, y = abs(x), abs(y)
    shift = len(str(x)) - x_decimals - len(str(y)) + y_decimals
    width = max(len(str(x)), len(str(y)))
    remainder, divisor = int(str(x).ljust(width, "0")), int(str(y).ljust(width, "0"))
    heading = signs_shown(signs[0] * remainder, signs[1] * divisor, width + 1)
    lines, digits = [f"{heading}/{sign}{shift}"], ""
    while remainder and len(digits) < QUOTIENT_DIGITS:
        digit = remainder // divisor
        lines.append(f"{highest(remainder, divisor, width + 1)}{digit}:")
        lines[-1] += multiple_columns(divisor, digit, remainder, width + 1, -1)
        remainder = (remainder - digit * divisor) * 10
        digits += str(digit)
    value = Decimal(int(digits)).scaleb(shift - len(digits) + 1)
    result = ("-" if sign == "-" else "") + format_decimal(value)
    return f"{a}/{b}=?\n" + "\n".join(lines) + f"\n={result}\n", result


def highest(remainder: int, divisor: int, width: int) -> str:
    """The TRIAL_DIGITS highest digits of two numbers of `width` digits, from which a quotient's digit is guessed.

    >>> highest(12345678, 765432, 8)
    '12345,00765,'
    """
    return "".join(f"{number:0{width}d}"[:TRIAL_DIGITS] + "," for number in (remainder, divisor))


def root_block(a: str) -> tuple[str, str]:
    """Working and result of the square root of `a`, digit by digit, cut after ROOT_DIGITS digits.

    The radicand is taken two digits at a time. Each row holds the highest digits of the remainder and of twenty times
    the root so far, a digit d, and the columns of the remainder less d times the trial divisor, which is twenty times
    the root so far, plus d; what it leaves, with the next two digits, is the start of the next row.

    >>> print(root_block("2.25")[0], end="")
    √2.25=?
    02,25+0
    02,00,1:B101201B000000
    0125,0020,5:F525520F210210F000100F000000
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
    lines = [",".join(f"{pair:02d}" for pair in pairs) + f"{shift:+d}"]
    root, remainder, step = 0, pairs[0], 0
    while step < ROOT_DIGITS and (step < len(pairs) or remainder):
        digit = max(d for d in range(10) if (20 * root + d) * d <= remainder)
        trial = 20 * root + digit
        width = step + 3 if step else 2
        lines.append(f"{highest(remainder, 20 * root, width)}{digit}:")
        lines[-1] += multiple_columns(trial, digit, remainder, width, -1)
        root, step = 10 * root + digit, step + 1
        remainder = (remainder - trial * digit) * 100 + (pairs[step] if step < len(pairs) else 0)
    result = format_decimal(Decimal(root).scaleb(shift - step + 1))
    return f"√{a}=?\n" + "\n".join(lines) + f"\n={result}\n", result


def rounded_product_block(a: str, b: str) -> tuple[str, str]:
    """Working of a product where `a`, or both, are mantissas with an exponent; it keeps MANTISSA_DIGITS digits, cut.

    >>> print(rounded_product_block("1.500000E+1", "3.0")[0], end="")
    1.500000E+1*3.0=?
    +01500000+00000030++*+
    30:a000000a000000a000000a000000a000000a500000a100000a000000
    3:d000000d000000d000000d000000d000000d515015d103004d000000
    =4.500000E+1
    """
    (mantissa, _, exponent), (other, _, further) = a.partition("E"), b.partition("E")
    (x, x_decimals), (y, y_decimals) = scaled(mantissa), scaled(other)
    rows = product_rows(x, y)
    digits = str(abs(x * y))
    power = int(exponent) + int(further or 0) + len(digits) - 1 - x_decimals - y_decimals
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


def format_decimal(value: Decimal) -> str:
    """A decimal without exponent and without trailing zeros.

    >>> format_decimal(Decimal("1E+3")), format_decimal(Decimal("0.2500"))
    ('1000', '0.25')
    """
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def power_blocks(a: str, n: int) -> tuple[str, str]:
    r"""Working and result of `a`**`n`: the square exactly, then in rounded steps (from 4 on the square of the square).

    >>> power_blocks("2.5", 2)[1], power_blocks("2.5", 4)[1], power_blocks("-2.5", 5)[1]
    ('6.25', '3.906250E+1', '-9.765625E+1')
    >>> power_blocks("-2.5", 1)
    ('-2.5^1=?\n=-2.5\n', '-2.5')
    """
    heading = f"{a}^{n}=?\n"
    if n < 2 or scaled(a)[0] == 0:
        result = "1" if n == 0 else a
        return f"{heading}={result}\n", result
    text, result = product_block(a, a)
    if n > 2:
        result = to_scientific(result)
    for factor in [result] * (n >= 4) + [a] * (n - (4 if n >= 4 else 2)):
        block, result = rounded_product_block(result, factor)
        text += block
    return heading + text, result


def lettered(numbers: Sequence[str]) -> str:
    """Numbers after one another, each behind a letter by which it is found again.

    >>> lettered(("7", "8", "5"))
    'a7b8c5'
    """
    return "".join(chr(ord("a") + place) + number for place, number in enumerate(numbers))


def total_blocks(numbers: tuple[str, ...]) -> tuple[str, str]:
    """Working and result of a sum of many numbers, one after the other, which are written down with letters first.

    >>> print(total_blocks(("7", "8", "5"))[0], end="")
    a7b8c5=?
    a7+b8=?
    +07+08++++
    +7805+0011
    =15
    15+c5=?
    +015+005++++
    +5500+1012+0000
    =20
    """
    text, total, left = lettered(numbers) + "=?\n", numbers[0], "a" + numbers[0]
    for place, number in enumerate(numbers[1:], 1):
        right = chr(ord("a") + place) + number
        block, total = sum_block(total, "+", number)
        text += f"{left}+{right}=?\n" + block.partition("\n")[2]
        left = total
    return text, total


LONGEST_POWER = 4
"""Largest exponent whose power is written out; beyond it the working would not fit a small model's context."""
