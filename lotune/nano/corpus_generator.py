"""Generate the pre-training corpus of nano, the embedded base model, from a seed.

Document types: equations with a scratchpad, equations without one, passages with questions in the form of the retention
prompt, lists of names and values, plain sentences, and instructions to copy. The contest's questions are not among
them: tuning has to teach those.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from lotune.data.examples import Example, Turn
from lotune.data.templates import TEMPLATES
from lotune.tasks.arithmetic import scratchpad
from lotune.tasks.arithmetic.random_numbers import joined_numbers, nonzero, number, small
from lotune.tasks.copying import COPY_INSTRUCTIONS
from lotune.tasks.equations import sum_operands
from lotune.tasks.reading.passage_generator import Language, lists, passages, sentences
from lotune.tasks.task import Row

FOLLOW_UP = "\n\n### Input:\n{question}\n\n### Response:"
"""Prompt of a further question about the same passage."""

# The weights follow what nano got wrong (docs/log.md): headings are the cheapest way to practise copying operands, and
# `contrast` and `list` teach to bind a value to its name.

MIXTURE = {
    "heading": 0.09, "sum": 0.085, "chain": 0.045, "product": 0.06, "quotient": 0.135, "root": 0.075, "power": 0.045,
    "rounded": 0.006, "small": 0.06, "bare": 0.009, "reading": 0.11, "contrast": 0.16, "list": 0.04,
    "sentence": 0.02, "instruction": 0.06,
}  # fmt: skip
"""Fraction of the documents by type."""

READING = ("reading", "contrast")
"""Document types with a passage: any facts, and facts of the same relations for several subjects."""

LANGUAGES: Mapping[Language, float] = {"zh": 0.5, "en": 0.5}
"""Fraction of the passages by language."""

WITHOUT_EOS = frozenset({"heading"})
"""Document types that break off and have no end-of-text.

With one, nano learnt to end real equations after their heading, too.
"""


def _sum(rng: random.Random) -> str:
    return scratchpad.sum_block(*sum_operands(rng))[0]


def _chain(rng: random.Random) -> str:
    numbers = tuple(small(rng) for _ in range(rng.randint(3, 10)))
    text, total = scratchpad.total_blocks(numbers)
    return text + (scratchpad.quotient_block(total, str(len(numbers)))[0] if rng.random() < 0.7 else "")


def _product(rng: random.Random) -> str:
    a_limit, b_limit = rng.choice(((999_999, 999_999), (999_999, 999_999), (9_999, 9_999), (9_999, 999)))
    return scratchpad.product_block(number(rng, a_limit), number(rng, b_limit))[0]


def _quotient(rng: random.Random) -> str:
    limit = rng.choice((999_999, 999_999, 999_999, 9_999))
    return scratchpad.quotient_block(number(rng, limit), nonzero(rng, limit))[0]


def _root(rng: random.Random) -> str:
    return scratchpad.root_block(scratchpad.unscaled(rng.randint(0, 999_999), 2))[0]


def _power(rng: random.Random) -> str:
    return scratchpad.power_blocks(
        number(rng, rng.choice((99_999, 99_999, 999))), rng.randint(0, scratchpad.LONGEST_POWER)
    )[0]


def _rounded(rng: random.Random) -> str:
    # The intermediate steps of powers: a mantissa with an exponent times a decimal.
    start = f"{rng.randint(1, 9)}.{rng.randint(0, 999_999):06d}E{rng.randint(-2, 15):+d}"
    factor = rng.choice((nonzero(rng, 99_999), nonzero(rng, 999), small(rng)))
    return scratchpad.rounded_product_block(start, factor)[0]


def _small(rng: random.Random) -> str:
    # The operands of equations, means, areas, discounts, sales and masses of the contest are integers up to 100.
    form = rng.randrange(7)
    if form == 0:
        return scratchpad.product_block(small(rng), rng.choice((small(rng), number(rng, 999))))[0]
    if form == 1:
        return scratchpad.sum_block(small(rng), rng.choice("+-"), small(rng))[0]
    if form == 2:
        return scratchpad.product_block(small(rng), scratchpad.unscaled(rng.randint(101, 200), 2))[0]
    sign, divisor = rng.choice(("", "-")), rng.choice(("", "-")) + small(rng)
    dividend = small(rng) if form < 6 else str(rng.randint(1, 99)) + "00"
    return scratchpad.quotient_block(sign + dividend, divisor)[0]


def _bare(rng: random.Random) -> str:
    block, result = rng.choice(
        (
            scratchpad.sum_block(small(rng), "+", small(rng)),
            scratchpad.product_block(small(rng, 12), small(rng, 12)),
        )
    )
    return block.partition("?")[0] + result + "\n"


def _heading(rng: random.Random) -> str:
    """Return an equation and the first line of its scratchpad, the copy of the operands.

    The equation ends with a colon instead of a question mark, after which a scratchpad never ends there.
    """
    block = rng.choice((_sum, _sum, _sum, _product, _quotient, _root, _root, _power, _small, _chain, _chain))(rng)
    return "".join(block.splitlines(keepends=True)[:2]).replace("=?", "=:", 1)


EQUATIONS = {
    "heading": _heading, "sum": _sum, "chain": _chain, "product": _product, "quotient": _quotient, "root": _root,
    "power": _power, "rounded": _rounded, "small": _small, "bare": _bare,
}  # fmt: skip
"""Generators of equations by document type."""


def documents(count: int, seed: int) -> Iterator[Example]:
    """Yield `count` documents as examples. Tokens of `prompt` have no loss: the operands of an equation are noise."""
    rng = random.Random(seed)
    reading = {
        (kind, language): passages(count, seed, language, max_questions=8, contrast=kind == "contrast")
        for kind in READING
        for language in LANGUAGES
    }
    plain_sentences, name_lists = sentences(count, seed, "both"), lists(count, seed, "both")
    kinds, weights = list(MIXTURE), list(MIXTURE.values())
    for index in range(count):
        kind = rng.choices(kinds, weights)[0]
        if kind in EQUATIONS:
            text = EQUATIONS[kind](rng)
            after_equals = text.index("=") + 1
            prompt_end = after_equals + (text[after_equals] in "?:")
            yield Example(str(index), text[:prompt_end], text[prompt_end:], category=kind)
        elif kind in READING:
            language = rng.choices(list(LANGUAGES), list(LANGUAGES.values()))[0]
            yield _reading(rng, index, next(reading[kind, language]), kind)
        elif kind == "list":
            original, reordered = next(name_lists)
            yield Example(str(index), f"{original}\n", reordered, category=kind)
        elif kind == "sentence":
            yield Example(str(index), "", next(plain_sentences), category=kind)
        else:
            yield _instruction(rng, index, next(plain_sentences))


def _reading(rng: random.Random, index: int, paragraph: Row, kind: str) -> Example:
    """Return a passage with all its questions, one after the other.

    The loss is on the answers alone, on the further questions, too (whose names are copied from the passage), or on
    everything.
    """
    # With a loss on answers alone nano learnt to read slowly: most of the copying is elsewhere (docs/log.md).
    context, questions = paragraph["context"], list(paragraph["qas"])
    rng.shuffle(questions)
    answers = [question["answers"][0]["text"] for question in questions]
    prompts = [TEMPLATES["retention"].render(context, questions[0]["question"])]
    prompts += [FOLLOW_UP.format(question=question["question"]) for question in questions[1:]]
    parts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    scored = rng.choices(("answers", "questions", "all"), (0.35, 0.4, 0.25))[0]
    text = "".join(parts)
    if scored == "all":
        return Example(str(index), "", text, category=kind)
    if scored == "questions":
        return Example(str(index), prompts[0], text[len(prompts[0]) :], category=kind)
    turns = tuple(Turn(prompt, answer) for prompt, answer in zip(prompts[:-1], answers[:-1], strict=True))
    return Example(str(index), "".join(parts[:-1]) + prompts[-1], answers[-1], category=kind, earlier_turns=turns)


ARITHMETIC_WORDS = (
    "计算", "等于多少", "解方程", "平方根", "次方", "求函数的值", "求以下数据的平均值", "一个长方形的长为", "厘米",
    "宽为", "请计算其面积", "商品原价为", "元", "打折后的价格为", "请计算打折的折扣比例", "去年销售额为", "万元",
    "今年销售额增加了", "请计算今年的销售额", "某物体的密度为", "克", "立方厘米", "体积为", "请计算该物体的质量",
    "将分数", "进行简化", "方程的解为", "函数的值为", "平均值为", "面积为", "平方厘米", "最简化的形式为", "当",
    "的值", "compute", "calculate", "solve the equation", "square root", "to the power of", "value of the function",
    "mean of the numbers", "rectangle", "area", "discount", "sales", "density", "volume", "mass",
    "simplify the fraction",
)  # fmt: skip
"""Words of school arithmetic, which nano learns to copy, but not to answer questions with."""


def _instruction(rng: random.Random, index: int, sentence: str) -> Example:
    """Return an instruction in the alpaca template: copy a text, with or without blanks, or letter a list."""
    terms = rng.sample(ARITHMETIC_WORDS, 3)
    text = rng.choice((
        sentence, " ".join(terms), f"{terms[0]} {number(rng)} {terms[1]} {small(rng)} {terms[2]}",
        joined_numbers(rng), joined_numbers(rng), f"{terms[0]} {joined_numbers(rng)} {terms[1]}",
    ))  # fmt: skip
    if rng.random() < 0.2:
        numbers = [small(rng) for _ in range(rng.randint(3, 10))]
        instruction, text = rng.choice(("Number the list: ", "编号：")), ", ".join(numbers)
        answer = scratchpad.lettered(numbers)
    elif rng.random() < 0.3:
        instruction, answer = rng.choice(("Without blanks: ", "去掉空格：")), text.replace(" ", "")
    else:
        instruction, answer = rng.choice((*COPY_INSTRUCTIONS["en"], *COPY_INSTRUCTIONS["zh"])), text
    return Example(str(index), "", TEMPLATES["alpaca"].render(instruction + text) + answer, category="instruction")


def tokenizer_texts(count: int, seed: int) -> Iterator[str]:
    """Yield the texts on which the tokeniser is trained: documents, and the words of school arithmetic."""
    for document in documents(count, seed):
        if document.category not in EQUATIONS:
            yield document.prompt + document.target
    for template in TEMPLATES.values():
        yield from [template.render(" ".join(ARITHMETIC_WORDS), "x")] * 20
    yield from [word for word in ARITHMETIC_WORDS for _ in range(200)]
