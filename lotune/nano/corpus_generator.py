"""The text that the embedded base model is pre-trained on; all of it is generated here, from a seed.

Sorts of documents: bare equations with their written working, bare equations without it, passages with questions in
the retention prompt's form, lists of names and values, plain sentences, and instructions to copy. The contest's
questions are not among them: answering those is what tuning teaches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from lotune.data.examples import Example, Turn
from lotune.data.templates import TEMPLATES
from lotune.tasks.arithmetic import scratchpad
from lotune.tasks.reading.passage_generator import Language, lists, passages, sentences
from lotune.tasks.task import Row

FOLLOW_UP = "\n\n### Input:\n{question}\n\n### Response:"
"""How a further question on the same passage continues a document."""

MIXTURE = {
    "heading": 0.09, "sum": 0.085, "chain": 0.045, "product": 0.06, "quotient": 0.135, "root": 0.075, "power": 0.045,
    "rounded": 0.006, "small": 0.06, "bare": 0.009, "reading": 0.11, "contrast": 0.16, "list": 0.04,
    "sentence": 0.02, "instruction": 0.06,
}  # fmt: skip
"""Share of each sort among the documents."""

READING = ("reading", "contrast")
"""Sorts with a passage: any facts, and the same facts of several subjects."""

LANGUAGES: Mapping[Language, float] = {"zh": 0.5, "en": 0.5}
"""Share of each language among the passages."""

WITHOUT_EOS = frozenset({"heading"})
"""Sorts whose documents break off: they end without an end-of-text."""


def number(draw: random.Random, limit: int = 999_999) -> str:
    """A decimal with two decimals within ±`limit` hundredths."""
    return scratchpad.unscaled(draw.randint(-limit, limit), 2)


def small(draw: random.Random, limit: int = 100) -> str:
    """A whole number from 1 to `limit`."""
    return str(draw.randint(1, limit))


def _sum(draw: random.Random) -> str:
    """One sum in four has operands of nearly the same magnitude, of which the greater has to be found."""
    first = number(draw)
    if draw.random() < 0.25:
        near = abs(scratchpad.scaled(first)[0]) + draw.choice((9, 99, 999, 9_999)) * draw.randint(-9, 9) // 9
        second = scratchpad.unscaled(draw.choice((-1, 1)) * near, 2)
    else:
        second = number(draw)
    return scratchpad.sum_block(first, draw.choice("+-"), second)[0]


def _chain(draw: random.Random) -> str:
    numbers = tuple(small(draw) for _ in range(draw.randint(3, 10)))
    text, total = scratchpad.total_blocks(numbers)
    return text + (scratchpad.quotient_block(total, str(len(numbers)))[0] if draw.random() < 0.7 else "")


def _product(draw: random.Random) -> str:
    first, second = draw.choice(((999_999, 999_999), (999_999, 999_999), (9_999, 9_999), (9_999, 999)))
    return scratchpad.product_block(number(draw, first), number(draw, second))[0]


def _quotient(draw: random.Random) -> str:
    limit = draw.choice((999_999, 999_999, 999_999, 9_999))
    return scratchpad.quotient_block(number(draw, limit), _nonzero(draw, limit))[0]


def _root(draw: random.Random) -> str:
    return scratchpad.root_block(scratchpad.unscaled(draw.randint(0, 999_999), 2))[0]


def _power(draw: random.Random) -> str:
    return scratchpad.power_blocks(
        number(draw, draw.choice((99_999, 99_999, 999))), draw.randint(0, scratchpad.LONGEST_POWER)
    )[0]


def _rounded(draw: random.Random) -> str:
    start = f"{draw.randint(1, 9)}.{draw.randint(0, 999_999):06d}E{draw.randint(-2, 15):+d}"
    other = draw.choice((_nonzero(draw, 99_999), _nonzero(draw, 999), small(draw)))
    return scratchpad.rounded_product_block(start, other)[0]


def _small(draw: random.Random) -> str:
    sort = draw.randrange(7)
    if sort == 0:
        return scratchpad.product_block(small(draw), draw.choice((small(draw), number(draw, 999))))[0]
    if sort == 1:
        return scratchpad.sum_block(small(draw), draw.choice("+-"), small(draw))[0]
    if sort == 2:
        return scratchpad.product_block(small(draw), scratchpad.unscaled(draw.randint(101, 200), 2))[0]
    sign, divisor = draw.choice(("", "-")), draw.choice(("", "-")) + small(draw)
    dividend = small(draw) if sort < 6 else str(draw.randint(1, 99)) + "00"
    return scratchpad.quotient_block(sign + dividend, divisor)[0]


def _bare(draw: random.Random) -> str:
    block, result = draw.choice(
        (
            scratchpad.sum_block(small(draw), "+", small(draw)),
            scratchpad.product_block(small(draw, 12), small(draw, 12)),
        )
    )
    return block.partition("?")[0] + result + "\n"


def _heading(draw: random.Random) -> str:
    """An equation and the line that begins its working: the copy of the operands, which has to be right first.

    It is asked for with a colon, so that after a question mark the working never ends there.
    """
    made = draw.choice((_sum, _sum, _sum, _product, _quotient, _root, _root, _power, _small, _chain, _chain))(draw)
    return "".join(made.splitlines(keepends=True)[:2]).replace("=?", "=:", 1)


def _nonzero(draw: random.Random, limit: int) -> str:
    return scratchpad.unscaled(draw.choice((-1, 1)) * draw.randint(1, limit), 2)


EQUATIONS = {
    "heading": _heading, "sum": _sum, "chain": _chain, "product": _product, "quotient": _quotient, "root": _root,
    "power": _power, "rounded": _rounded, "small": _small, "bare": _bare,
}  # fmt: skip
"""Generator of each sort of equation."""


def documents(count: int, seed: int) -> Iterator[Example]:
    """`count` documents as examples: what stands in `prompt` is not scored (the operands of an equation are noise)."""
    draw = random.Random(seed)
    reading = {
        (sort, language): passages(count, seed, language, most_questions=8, contrast=sort == "contrast")
        for sort in READING
        for language in LANGUAGES
    }
    plain, listed = sentences(count, seed, "both"), lists(count, seed, "both")
    sorts, shares = list(MIXTURE), list(MIXTURE.values())
    for index in range(count):
        sort = draw.choices(sorts, shares)[0]
        if sort in EQUATIONS:
            text = EQUATIONS[sort](draw)
            after = text.index("=") + 1
            head = after + (text[after] in "?:")
            yield Example(str(index), text[:head], text[head:], category=sort)
        elif sort in READING:
            language = draw.choices(list(LANGUAGES), list(LANGUAGES.values()))[0]
            yield _reading(draw, index, next(reading[sort, language]), sort)
        elif sort == "list":
            first, again = next(listed)
            yield Example(str(index), f"{first}\n", again, category=sort)
        elif sort == "sentence":
            yield Example(str(index), "", next(plain), category=sort)
        else:
            yield _instruction(draw, index, next(plain))


def _reading(draw: random.Random, index: int, paragraph: Row, kind: str) -> Example:
    """A passage with all its questions, one after the other.

    Scored are the answers alone, the further questions too (whose names are copied from the passage), or all of it.
    """
    context, questions = paragraph["context"], list(paragraph["qas"])
    draw.shuffle(questions)
    first, answers = questions[0], [question["answers"][0]["text"] for question in questions]
    prompts = [TEMPLATES["retention"].render(context, first["question"])]
    prompts += [FOLLOW_UP.format(question=question["question"]) for question in questions[1:]]
    whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    scored = draw.choices(("answers", "questions", "all"), (0.35, 0.4, 0.25))[0]
    if scored == "all":
        return Example(str(index), "", "".join(whole), category=kind)
    if scored == "questions":
        return Example(str(index), prompts[0], "".join(whole)[len(prompts[0]) :], category=kind)
    turns = tuple(Turn(prompt, answer) for prompt, answer in zip(prompts[:-1], answers[:-1], strict=True))
    return Example(str(index), "".join(whole[:-1]) + prompts[-1], answers[-1], category=kind, earlier_turns=turns)


VOCABULARY = (
    "计算", "等于多少", "解方程", "平方根", "次方", "求函数的值", "求以下数据的平均值", "一个长方形的长为", "厘米",
    "宽为", "请计算其面积", "商品原价为", "元", "打折后的价格为", "请计算打折的折扣比例", "去年销售额为", "万元",
    "今年销售额增加了", "请计算今年的销售额", "某物体的密度为", "克", "立方厘米", "体积为", "请计算该物体的质量",
    "将分数", "进行简化", "方程的解为", "函数的值为", "平均值为", "面积为", "平方厘米", "最简化的形式为", "当",
    "的值", "compute", "calculate", "solve the equation", "square root", "to the power of", "value of the function",
    "mean of the numbers", "rectangle", "area", "discount", "sales", "density", "volume", "mass",
    "simplify the fraction",
)  # fmt: skip
"""Words of school arithmetic, which nano copies but is not taught to answer questions with."""


def _instruction(draw: random.Random, index: int, sentence: str) -> Example:
    """A plain instruction in the instruction template: copy a text, with or without blanks, or number a list."""
    words = draw.sample(VOCABULARY, 3)
    text = draw.choice((
        sentence, " ".join(words), f"{words[0]} {number(draw)} {words[1]} {small(draw)} {words[2]}",
        _numbers(draw), _numbers(draw), f"{words[0]} {_numbers(draw)} {words[1]}",
    ))  # fmt: skip
    if draw.random() < 0.2:
        numbers = [small(draw) for _ in range(draw.randint(3, 10))]
        asked, text = draw.choice(("Number the list: ", "编号：")), ", ".join(numbers)
        answer = scratchpad.lettered(numbers)
    elif draw.random() < 0.3:
        asked, answer = draw.choice(("Without blanks: ", "去掉空格：")), text.replace(" ", "")
    else:
        asked, answer = draw.choice(("Repeat: ", "Copy this: ", "重复：", "抄写：")), text
    return Example(str(index), "", TEMPLATES["alpaca"].render(asked + text) + answer, category="instruction")


def _numbers(draw: random.Random) -> str:
    """Numbers joined by signs, to copy."""
    one = draw.choice((number, number, small, _long))
    sign = draw.choice((" + ", " - ", " * ", " / ", ", ", "^", " = "))
    return sign.join(one(draw) for _ in range(draw.choice((1, 2, 2, 2, 3, 6)) if sign == ", " else 2))


def _long(draw: random.Random) -> str:
    """A number of up to twelve digits, half of the time of two or three different ones, as repeats are lost first."""
    digits = "".join(draw.choices(draw.sample("0123456789", draw.choice((2, 3, 10, 10))), k=draw.randint(6, 12)))
    return scratchpad.unscaled(draw.choice((-1, 1)) * int(digits), draw.randint(0, 6))


def tokenizer_texts(count: int, seed: int) -> Iterator[str]:
    """Texts whose pieces the tokeniser learns: documents, and the words of school arithmetic."""
    for document in documents(count, seed):
        if document.category not in EQUATIONS:
            yield document.prompt + document.target
    for template in TEMPLATES.values():
        yield from [template.render(" ".join(VOCABULARY), "x")] * 20
    yield from [word for word in VOCABULARY for _ in range(200)]
