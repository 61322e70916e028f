"""Answers that give a model's name away, so that a battle is no longer blind."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

KNOWN = (
    "alpaca", "baichuan", "chatglm", "chatgpt", "claude", "command-r", "deepseek", "ernie", "falcon", "gemini",
    "gemma", "glm", "gpt", "grok", "hunyuan", "internlm", "kimi", "koala", "llama", "lotune", "minimax", "mistral",
    "mixtral", "nemotron", "openai", "anthropic", "phi", "qwen", "tongyi", "vicuna", "wenxin", "yi",
    "文心一言", "通义千问", "智谱", "豆包", "混元", "书生",
)  # fmt: skip
"""Names of families of models and of who makes them."""
_I_AM = re.compile(
    r"\b(?:i\s+am|i['’]?m|my\s+name\s+is|this\s+is|call\s+me|as)\s+(?:an?\s+|the\s+)?[^.!?\n]{0,60}"
    r"|\b(?:trained|created|developed|made|built)\s+by\s+[^.!?\n]{0,60}"
    r"|(?:我是|我叫|我的名字是|作为|由|叫做)[^。！？\n]{0,30}",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\b(?:who|what)\s+(?:are|r)\s+(?:you|u)\b|\byour\s+name\b|\bwhich\s+(?:language\s+)?model\b|\bwho\s+(?:made|created|trained)\s+you\b"
    r"|你是谁|你叫什么|你的名字|什么模型|哪个模型|谁(?:开发|训练|创造)了?你",
    re.IGNORECASE,
)


def names_itself(prompts: Iterable[str], answers: Iterable[str], names: Iterable[str]) -> bool:
    """Return whether an answer names one of the models, or a known family of models as itself.

    `names` are those of the models of the battle. A name that no other word is like, such as `nano-2` or `qwen`, counts
    anywhere in an answer. Other names and the known families count in a sentence such as "I am …", or anywhere if a
    prompt asks for the name.

    >>> names_itself(["Hi"], ["I am Qwen, made by Alibaba."], ["base", "tuned"])
    True
    >>> names_itself(["Who wrote Llama Llama Red Pajama?"], ["Anna Dewdney wrote it."], ["base"])
    False
    """
    answers = [_plain(answer) for answer in answers]
    own = [_plain(name) for name in names]
    unlike = [name for name in own if not name.isalpha() or not name.isascii() or any(map(name.startswith, KNOWN))]
    if any(_has_word(answer, name) for answer in answers for name in unlike):
        return True
    asked = any(_ASKS.search(prompt) for prompt in prompts)
    spoken = [name for name in own if len(name) > 2 or not name.isascii()]
    parts = answers if asked else [part for answer in answers for part in _I_AM.findall(answer)]
    return any(_has_word(part, name) for part in parts for name in (*spoken, *KNOWN))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _has_word(text: str, name: str) -> bool:
    if not name.isascii():
        return name in text
    return re.search(rf"(?<![a-z]){re.escape(name)}(?![a-z])", text) is not None
