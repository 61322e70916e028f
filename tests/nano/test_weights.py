"""What the shipped weights can do: go on with plain sentences, and read passages that they have never met."""

from __future__ import annotations

import json
import re
from random import Random

import pytest
from command_line import call

from lotune.generate.engine import generate_completions
from lotune.generate.requests import Request
from lotune.model.loading import load_model
from lotune.model.settings import BaseSettings
from lotune.tasks.reading import templates_en
from lotune.tasks.reading.passage_generator import _everyday


def known_sentences(language: str) -> list[re.Pattern[str]]:
    """A pattern for each sentence of everyday life; a slot takes any word of its table."""
    patterns = []
    for wording in templates_en.EVERYDAY[language].split("|"):
        parts = re.split(r"{(\w+?)2?}", wording)
        words = ("|".join(map(re.escape, templates_en.VOCABULARY[language][table].split(" "))) for table in parts[1::2])
        fixed = map(re.escape, parts[::2])
        text = next(fixed) + "".join(f"({slot}){further}" for slot, further in zip(words, fixed, strict=True))
        patterns.append(re.compile(text, re.IGNORECASE))
    return patterns


@pytest.mark.slow
@pytest.mark.parametrize("language", ["zh", "en"])
def test_nano_continues_plain_sentences(language: str) -> None:
    """Greedily, from the first half: the sentence ends, and is, but for one in eight, of those that its text holds."""
    base, draw = load_model(BaseSettings(dtype="float32"), "cpu"), Random(f"plain {language}")
    texts = [_everyday(draw, language) for _ in range(8)]
    starts = [text[: text.index(" ", len(text) // 3) if language == "en" else len(text) // 2] for text in texts]
    requests = [Request(tuple(base.tokenizer(start)["input_ids"]), 40) for start in starts]
    results = list(generate_completions(base.model, base.tokenizer, requests, batch_tokens=4_000))
    sentences = [start + result.text for start, result in zip(starts, results, strict=True)]
    assert [result.finish_reason for result in results] == ["eos"] * 8, sentences
    patterns = known_sentences(language)
    known = [sentence for sentence in sentences if any(pattern.fullmatch(sentence) for pattern in patterns)]
    assert len(known) >= 7, sentences


@pytest.mark.slow
def test_it_reads_passages_of_names_that_it_has_never_met() -> None:
    words = ("evaluate", "--model", "nano", "--task", "reading", "--limit", 40, "task.language=both", "--json")
    figures = json.loads(call(*words).stdout)
    assert figures["n"] == 40
    assert figures["metrics"]["contest_f1"] >= 80
    assert figures["metrics"]["contest_em"] >= 80
