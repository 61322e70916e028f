"""The trained nano in float32: greedy answers are transformers' own, token for token, in any company."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from lotune.data.templates import TEMPLATES
from lotune.generate.engine import Engine
from lotune.generate.requests import Request
from lotune.model.base import load_base
from lotune.model.settings import BaseSettings
from lotune.tasks.reading.passages import passages, sentences
from lotune.tasks.registry import build_task
from lotune.tasks.settings import TaskSettings
from tests.generate.test_engine import theirs

PROMPTS = 200
CLOSE = 1e-4
"""Where the two best logits are less apart, either token is right."""


def prompts(tokenizer: Any) -> list[Request]:
    """Questions on passages (two on each), contest questions, equations and beginnings of sentences, by turns."""
    task = build_task(TaskSettings(name="arithmetic"))
    rows = ((str(number), row) for number, row in enumerate(task.practice(PROMPTS, 11)))
    asked = [example.prompt for example in task.examples(rows, training=False)]
    reading = [
        TEMPLATES["retention"].render(row["context"], question["question"])
        for row in passages(PROMPTS // 2, 11, "both", "unseen")
        for question in row["qas"][:2]
    ]
    plain = [text[: 4 + len(text) // 2] for text in sentences(PROMPTS, 11, "both")]
    texts = [text for four in zip(asked, reading[::2], reading[1::2], plain, strict=False) for text in four][:PROMPTS]
    draw = random.Random(1)
    return [Request(tuple(tokenizer(text)["input_ids"]), draw.choice((8, 24, 40))) for text in texts]


@pytest.mark.slow
@pytest.mark.oracle
def test_two_hundred_answers_are_those_of_transformers() -> None:
    base = load_base(BaseSettings(dtype="float32"), "cpu")
    model: Any = base.model
    asked, draw = prompts(base.tokenizer), random.Random(3)
    assert len(asked) == PROMPTS
    expected = [theirs(model, request) for request in asked]
    engine = Engine(model, base.tokenizer)  # type: ignore[arg-type]
    for batch_tokens in (400, 4_000, 60_000):
        order = draw.sample(range(PROMPTS), PROMPTS)
        cancelled = set(draw.sample(order, 20))
        answers = dict(
            engine.stream(
                [asked[place] for place in order],
                batch_tokens=batch_tokens,
                on_token=lambda number, _, order=order, cancelled=cancelled: order[number] in cancelled,
            )
        )
        for number, place in enumerate(order):
            wanted = expected[place][:1] if place in cancelled else expected[place]
            assert same(model, asked[place], answers[number].token_ids, wanted), place


def same(model: Any, request: Request, ours: tuple[int, ...], others: tuple[int, ...]) -> bool:
    """Whether two answers are equal up to where the logits of their tokens are not told apart."""
    for place, (one, other) in enumerate(zip((*ours, 0), (*others, 0), strict=False)):
        if one != other:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[*request.prompt_ids, *ours[:place]]])).logits[0, -1]
            return float(logits.max() - logits[[one, other]].min()) <= CLOSE
    return True
