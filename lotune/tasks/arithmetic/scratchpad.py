"""Scratchpads: calculations digit by digit, in a form that a small model can learn (Nye et al., 2021).

A block begins with a bare equation and ends with its result, so that blocks can follow one another:

    -6797.66-280.27=?                      what is to be computed
    -0679766-0028027--+-                   both numbers, zero-padded; their signs; the operation; the result's sign
    +6703+6219+7007+9807+7007+6006+0000    a column a step, lowest first: both digits, the carry, the digit below
    =-7077.93

The input of each step stands right before it: a column repeats the digits that it adds, and its operation or factor.
docs/log.md has the experiments. The decomposition of products and division with remainders follow "Goat: Fine-tuned
LLaMA Outperforms GPT-4 on Arithmetic Tasks" (Liu and Low, 2023); the layout is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

QUOTIENT_DIGITS = 7
"""Digits of a quotient that long division writes; at least six of them are significant."""
ROOT_DIGITS = 6
"""Digits of a root."""
TRIAL_DIGITS = 5
"""Leading digits of remainder and divisor that precede each digit of a quotient or a root."""
MANTISSA_DIGITS = 7
"""Digits of the mantissa of a rounded step of a power."""


def reversed_digits(number: int, num_digits: int = 0) -> str:
    """Return the digits of a non-negative integer, lowest first, padded with zeros to `num_digits`.

    >>> reversed_digits(27, 4)
    '7200'
    """
    return str(number).zfill(num_digits)[::-1]


def scaled(text: str) -> tuple[int, int]:
    """Return an exact decimal as (integer, number of decimals).

    >>> scaled("-12.30")
    (-1230, 2)
    """
    # Integers throughout: float arithmetic would lose digits of a product.
    _, _, decimals = text.partition(".")
    return int(text.replace(".", "")), len(decimals)


def unscaled(number: int, decimals: int) -> str:
    """Return `number` / 10**`decimals` as text with exactly that many decimals.

    >>> unscaled(-1230, 2), unscaled(5, 3)
    ('-12.30', '0.005')
    """
    sign, digits = "-" if number < 0 else "", str(abs(number)).zfill(decimals + 1)
    return sign + (f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits)


def sum_block(a: str, operator: str, b: str) -> tuple[str, str]:
    """Return scratchpad and result of `a` + or - `b`.

    >>> print(sum_block("-97.66", "-", "80.27")[0], end="")
    -97.66-80.27=?
    -09766-08027--+-
    +6703+6219+7007+9807+0011
    =-177.93

    If the signs differ, the magnitudes are compared: their digits stand in pairs, highest first, up to the first pair
    that differs. The operation is then - (first minus second) or ~ (second minus first).

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
    same_sign = (x < 0) == (signed < 0)
    operation = "+" if same_sign else "-" if abs(x) >= abs(y) else "~"
    # One digit more than the longer operand, for the carry out of the highest column.
    num_digits = max(len(str(abs(x))), len(str(abs(y)))) + 1
    compared = "" if same_sign else _compared(f"{abs(x):0{num_digits - 1}d}", f"{abs(y):0{num_digits - 1}d}")
    heading = f"{pad_with_signs(x, signed, num_digits)}{compared}{operation}{'-' if total < 0 else '+'}"
    upper, lower = sorted((abs(x), abs(y)), reverse=True) if operation == "~" else (abs(x), abs(y))
    columns = sum_columns(upper, lower, num_digits, "+" if same_sign else "-")
    result = unscaled(total, decimals)
    return f"{a}{operator}{b}=?\n{heading}\n{columns}\n={result}\n", result


def pad_with_signs(x: int, y: int, num_digits: int) -> str:
    """Return two signed numbers, each zero-padded to `num_digits` digits, and then both signs side by side.

    >>> pad_with_signs(-27, 5, 3)
    '-027+005-+'
    """
    # The sign of the result is decided in one token, so both signs are repeated right before it (docs/log.md).
    return f"{x:+0{num_digits + 1}d}{y:+0{num_digits + 1}d}{'-' if x < 0 else '+'}{'-' if y < 0 else '+'}"


def _compared(x: str, y: str) -> str:
    """Return pairs of digits of two numbers of the same length, highest first, up to the first pair that differs."""
    pairs = [first + second for first, second in zip(x, y, strict=True)]
    return "".join(pairs[: 1 + next((i for i, pair in enumerate(pairs) if pair[0] != pair[1]), len(pairs))])


def sum_columns(upper: int, lower: int, num_digits: int, operation: str) -> str:
    """Return the columns of a sum or difference, lowest first.

    A column: the operation, both digits, the carry in, the digit of the result.

    >>> sum_columns(27, 5, 2, "+"), sum_columns(27, 8, 2, "-")
    ('+7502+2013', '-7809-2011')
    """
    text, carry, direction = "", 0, 1 if operation == "+" else -1
    for first, second in zip(reversed_digits(upper, num_digits), reversed_digits(lower, num_digits), strict=True):
        value = int(first) + direction * (int(second) + carry)
        text += f"{operation}{first}{second}{carry}{value % 10}"
        carry = 0 if 0 <= value <= 9 else 1
    return text


def product_rows(x: int, y: int) -> str:
    """Return the rows of a product: each digit of `y`, from the lowest, times `x`, is added to the sum so far.

    The first line copies both numbers, zero-padded and with their signs, and adds the sign of the result. A row begins
    with the remaining digits of `y` and uses the last of them. The lowest digit of its sum is final and is dropped.

    >>> print(product_rows(-24, 31), end="")
    -024+031-+*-
    31:b404004b202002b000000
    3:d412214d206007d000000
    """
    num_digits, running = max(len(str(abs(x))), len(str(abs(y)))) + 1, 0
    lines = [f"{pad_with_signs(x, y, num_digits)}*{'-' if (x < 0) != (y < 0) else '+'}"]
    x, y_digits = abs(x), str(abs(y))
    for end in range(len(y_digits), 0, -1):
        digit = int(y_digits[end - 1])
        lines.append(f"{y_digits[:end]}:{multiple_columns(x, digit, running, num_digits, 1)}")
        running = (running + x * digit) // 10
    return "\n".join(lines) + "\n"


def multiple_columns(x: int, factor: int, start: int, num_digits: int, direction: int) -> str:
    """Return the columns of start + factor·x (`direction` 1) or start − factor·x (-1), lowest first.

    A column: the factor as a letter (a is 0, j is 9; a capital if it is subtracted), the digit of `x`, their product in
    two digits, the digit of `start`, the carry out, the digit of the result.

    >>> multiple_columns(24, 3, 2, 3, 1), multiple_columns(24, 3, 80, 3, -1)
    ('d412214d206007d000000', 'D412028D206800D000000')
    """
    # With the factor once at the head of a row, the digit of the result stayed at chance (docs/log.md).
    text, carry, letter = "", 0, ("abcdefghij" if direction > 0 else "ABCDEFGHIJ")[factor]
    for digit, start_digit in zip(reversed_digits(x, num_digits), reversed_digits(start, num_digits), strict=True):
        product = int(digit) * factor
        value = int(start_digit) + direction * (product + carry)
        carry = abs(value // 10)
        text += f"{letter}{digit}{product:02d}{start_digit}{carry}{value % 10}"
    return text


def product_block(a: str, b: str) -> tuple[str, str]:
    """Return scratchpad and exact result of `a` * `b`.

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
    """Return scratchpad and result of `a` / `b` by long division, truncated after QUOTIENT_DIGITS digits.

    The first line shifts both numbers to the same number of digits and adds the sign and the power of ten of the first
    quotient digit. Each row holds the leading digits of remainder and divisor, the quotient digit that they give, and
    the columns of the new remainder. Ten times this remainder is the start of the next row.

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
    # The power of ten of the first quotient digit; that digit is 0 if the shifted dividend is below the divisor.
    shift = len(str(x)) - x_decimals - len(str(y)) + y_decimals
    num_digits = max(len(str(x)), len(str(y)))
    remainder, divisor = int(str(x).ljust(num_digits, "0")), int(str(y).ljust(num_digits, "0"))
    heading = pad_with_signs(signs[0] * remainder, signs[1] * divisor, num_digits + 1)
    lines, digits = [f"{heading}/{sign}{shift}"], ""
    while remainder and len(digits) < QUOTIENT_DIGITS:
        digit = remainder // divisor
        lines.append(f"{highest(remainder, divisor, num_digits + 1)}{digit}:")
        lines[-1] += multiple_columns(divisor, digit, remainder, num_digits + 1, -1)
        remainder = (remainder - digit * divisor) * 10
        digits += str(digit)
    value = Decimal(int(digits)).scaleb(shift - len(digits) + 1)
    result = ("-" if sign == "-" else "") + format_decimal(value)
    return f"{a}/{b}=?\n" + "\n".join(lines) + f"\n={result}\n", result


def highest(remainder: int, divisor: int, num_digits: int) -> str:
    """Return the TRIAL_DIGITS leading digits of two numbers, from which a digit of a quotient is guessed.

    >>> highest(12345678, 765432, 8)
    '12345,00765,'
    """
    return "".join(f"{number:0{num_digits}d}"[:TRIAL_DIGITS] + "," for number in (remainder, divisor))


def root_block(a: str) -> tuple[str, str]:
    """Return scratchpad and result of the square root of `a`, digit by digit, truncated after ROOT_DIGITS digits.

    The method takes two digits of the radicand at a time. Each row holds the leading digits of the remainder and of
    20·root, the next digit d of the root, and the columns of remainder − d·(20·root + d). The new remainder, with the
    next two digits of the radicand, is the start of the next row.

    >>> print(root_block("2.25")[0], end="")
    √2.25=?
    02,25+0
    02,00,1:B101201B000000
    0125,0020,5:F525520F210210F000100F000000
    =1.5
    """
    x, decimals = scaled(a)
    # Pairs are counted from the decimal point, so the number of decimals has to be even.
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
        # (10·root + d)² − 100·root² = d·(20·root + d): the largest d that the remainder allows
        digit = max(d for d in range(10) if (20 * root + d) * d <= remainder)
        trial = 20 * root + digit
        num_digits = step + 3 if step else 2
        lines.append(f"{highest(remainder, 20 * root, num_digits)}{digit}:")
        lines[-1] += multiple_columns(trial, digit, remainder, num_digits, -1)
        root, step = 10 * root + digit, step + 1
        remainder = (remainder - trial * digit) * 100 + (pairs[step] if step < len(pairs) else 0)
    result = format_decimal(Decimal(root).scaleb(shift - step + 1))
    return f"√{a}=?\n" + "\n".join(lines) + f"\n={result}\n", result


def rounded_product_block(a: str, b: str) -> tuple[str, str]:
    """Return scratchpad and result of a product in which `a`, or both, are mantissas with an exponent.

    The result is truncated to MANTISSA_DIGITS digits.

    >>> print(rounded_product_block("1.500000E+1", "3.0")[0], end="")
    1.500000E+1*3.0=?
    +01500000+00000030++*+
    30:a000000a000000a000000a000000a000000a500000a100000a000000
    3:d000000d000000d000000d000000d000000d515015d103004d000000
    =4.500000E+1
    """
    (a_mantissa, _, a_exponent), (b_mantissa, _, b_exponent) = a.partition("E"), b.partition("E")
    (x, x_decimals), (y, y_decimals) = scaled(a_mantissa), scaled(b_mantissa)
    rows = product_rows(x, y)
    digits = str(abs(x * y))
    power = int(a_exponent) + int(b_exponent or 0) + len(digits) - 1 - x_decimals - y_decimals
    result = ("-" if x * y < 0 else "") + scientific(digits, power)
    return f"{a}*{b}=?\n{rows}={result}\n", result


def scientific(digits: str, power: int) -> str:
    """Return digits as a mantissa of MANTISSA_DIGITS digits (truncated, not rounded) with its exponent.

    >>> scientific("25", -2)
    '2.500000E-2'
    """
    mantissa = digits[:MANTISSA_DIGITS].ljust(MANTISSA_DIGITS, "0")
    return f"{mantissa[0]}.{mantissa[1:]}E{power:+d}"


def to_scientific(text: str) -> str:
    """Return a decimal other than zero as a mantissa with its exponent.

    >>> to_scientific("-12.30")
    '-1.230000E+1'
    """
    number, decimals = scaled(text)
    digits = str(abs(number))
    return ("-" if number < 0 else "") + scientific(digits, len(digits) - 1 - decimals)


def format_decimal(value: Decimal) -> str:
    """Return a decimal as text without exponent and without trailing zeros.

    >>> format_decimal(Decimal("1E+3")), format_decimal(Decimal("0.2500"))
    ('1000', '0.25')
    """
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def power_blocks(a: str, n: int) -> tuple[str, str]:
    r"""Return scratchpad and result of `a`**`n`: the exact square, then truncated steps.

    From the exponent 4 on, the second step is the square of the square.

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
    # The square of the square saves a product, the most expensive block: some 300 tokens.
    for factor in [result] * (n >= 4) + [a] * (n - (4 if n >= 4 else 2)):
        block, result = rounded_product_block(result, factor)
        text += block
    return heading + text, result


def lettered(numbers: Sequence[str]) -> str:
    """Return numbers in one string, each after a letter that serves as its address.

    >>> lettered(("7", "8", "5"))
    'a7b8c5'
    """
    return "".join(chr(ord("a") + index) + number for index, number in enumerate(numbers))


def total_blocks(numbers: tuple[str, ...]) -> tuple[str, str]:
    """Return scratchpad and result of a sum of many numbers, which are first listed with letters.

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
    # Nearly all wrong means lost the list, so each summand has a letter by which the model finds it again.
    for index, number in enumerate(numbers[1:], 1):
        right = chr(ord("a") + index) + number
        block, total = sum_block(total, "+", number)
        text += f"{left}+{right}=?\n" + block.partition("\n")[2]
        left = total
    return text, total


LONGEST_POWER = 4
"""Largest exponent with a scratchpad; a fifth power needs 1,160 tokens, more than the context of nano."""
