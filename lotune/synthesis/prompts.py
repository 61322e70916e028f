"""The messages that ask for pairs about an article, ask again with a reason, and ask for a grade."""

from __future__ import annotations

from typing import Any

from lotune.synthesis.settings import PairRules, SynthesisSettings

Messages = list[dict[str, str]]

SYSTEM = {
    "zh": "你根据文章编写问答对，用于训练语言模型。只输出 JSON，不要输出其他内容。",
    "en": "You write question-answer pairs about articles, to train a language model. Output JSON and nothing else.",
}
PROMPT = {
    "zh": """阅读下面的文章，编写 {fewest} 到 {most} 个问答对。

要求：
1. 只依据文章就能回答，答案的内容都来自文章。
2. 每个问题写出它所问的对象的名称，不用“他”“它”“这”“该”等代词，不说“文中”。
3. 问题 {question_min} 到 {question_max} 个字，答案 {answer_min} 到 {answer_max} 个字，问题互不重复。
4. 输出 JSON：{"pairs": [{"question": "问题", "answer": "答案"}]}

文章：
{article}""",
    "en": """Read the article below and write {fewest} to {most} question-answer pairs.

1. The article alone answers each question, and all that an answer says comes from it.
2. Each question names what it asks about, without pronouns such as he, it or this, and without "the article".
3. Questions have {question_min} to {question_max} characters, answers {answer_min} to {answer_max}. No question twice.
4. Output JSON: {"pairs": [{"question": "…", "answer": "…"}]}

Article:
{article}""",
}
AGAIN = {
    "zh": "上面的回答不合要求：{reason}。请重新输出全部问答对，只输出 JSON。",
    "en": "That reply breaks a rule: {reason}. Write all pairs again, as JSON and nothing else.",
}
GRADE = {
    "zh": """文章：
{article}

问答对：
{pairs}

这些问答对是否都能由文章回答、正确而清楚？打 1 到 5 分，只输出 JSON：{"grade": 分数}""",
    "en": """Article:
{article}

Pairs:
{pairs}

Does the article answer all of them, and are they right and clear? Grade from 1 to 5, as JSON: {"grade": number}""",
}


def request_messages(settings: SynthesisSettings, article: str) -> Messages:
    """Return the messages that ask for pairs about an article."""
    rules = settings.pair_rules
    values = {
        "fewest": rules.fewest, "most": rules.most,
        "question_min": rules.question_characters[0], "question_max": rules.question_characters[1],
        "answer_min": rules.answer_characters[0], "answer_max": rules.answer_characters[1],
        "article": article,
    }  # fmt: skip
    system = SYSTEM[settings.language] if settings.system is None else settings.system
    prompt = PROMPT[settings.language] if settings.prompt is None else settings.prompt
    asked = [{"role": "user", "content": filled(prompt, values)}]
    return [{"role": "system", "content": system}, *asked] if system else asked


def again_messages(settings: SynthesisSettings, reply: str, reason: str) -> Messages:
    """Return what follows a reply that breaks a rule."""
    return [
        {"role": "assistant", "content": reply},
        {"role": "user", "content": filled(AGAIN[settings.language], {"reason": reason})},
    ]


def grade_messages(settings: SynthesisSettings, article: str, pairs: str) -> Messages:
    """Return the messages that ask for a grade."""
    values = {"article": article, "pairs": pairs}
    return [{"role": "user", "content": filled(GRADE[settings.language], values)}]


def filled(template: str, values: dict[str, Any]) -> str:
    """Replace the names in braces that are known; other braces, and braces in the values, stay.

    >>> filled('{"pairs": []} {article}', {"article": "{fewest}", "fewest": 3})
    '{"pairs": []} {fewest}'
    """
    import re

    return re.sub(r"\{(\w+)\}", lambda match: str(values.get(match[1], match[0])), template)


def pairs_schema(rules: PairRules) -> dict[str, Any]:
    """Return the `response_format` of a reply."""
    text = {"type": "string"}
    pair = {
        "type": "object", "properties": {"question": text, "answer": text}, "required": ["question", "answer"],
        "additionalProperties": False,
    }  # fmt: skip
    pairs = {"type": "array", "items": pair, "minItems": rules.fewest, "maxItems": rules.most}
    schema = {
        "type": "object", "properties": {"pairs": pairs}, "required": ["pairs"], "additionalProperties": False,
    }  # fmt: skip
    return {"type": "json_schema", "json_schema": {"name": "pairs", "strict": True, "schema": schema}}
