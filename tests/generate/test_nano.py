"""The trained nano in float32: greedy answers are transformers' own, token for token, in any company."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lotune.data.templates import TEMPLATES
from lotune.generate.engine import Engine
from lotune.generate.requests import Request
from lotune.model.loading import load_model
from lotune.model.settings import BaseSettings
from lotune.tasks.arithmetic.task import ArithmeticSettings
from lotune.tasks.reading.passage_generator import passages, sentences
from lotune.tasks.registry import build_task
from lotune.tasks.user_rows import generating
from tests.generate.test_engine import is_greedy

CLOSE = 1e-4
"""Where the two best logits are less apart, either token is right."""


def prompts(tokenizer: Any, count: int) -> list[Request]:
    """Questions on passages (two on each), contest questions, equations and beginnings of sentences, by turns."""
    task = build_task(ArithmeticSettings())
    rows = ((str(number), row) for number, row in enumerate(generating(task).generate_training_rows(count, 11)))
    submitted = [example.prompt for example in task.examples(rows, training=False)]
    reading = [
        TEMPLATES["retention"].render(row["context"], question["question"])
        for row in passages(count // 2, 11, "both", "unseen")
        for question in row["qas"][:2]
    ]
    plain = [text[: 4 + len(text) // 2] for text in sentences(count, 11, "both")]
    texts = [text for four in zip(submitted, reading[::2], reading[1::2], plain, strict=False) for text in four][:count]
    draw = random.Random(1)
    return [Request(tuple(tokenizer(text)["input_ids"]), draw.choice((8, 24, 40))) for text in texts]


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.soak)])
def test_answers_of_all_kinds_are_those_of_transformers(count: int) -> None:
    base = load_model(BaseSettings(dtype="float32"), "cpu")
    model: Any = base.model
    submitted, draw = prompts(base.tokenizer, count), random.Random(3)
    assert len(submitted) == count
    engine = Engine(model, base.tokenizer)  # type: ignore[arg-type]
    known: set[tuple[int, tuple[int, ...], bool]] = set()
    for batch_tokens in (400, 4_000, 60_000):
        order = draw.sample(range(count), count)
        cancelled = set(draw.sample(order, count // 10))
        answers = dict(
            engine.stream(
                [submitted[place] for place in order],
                batch_tokens=batch_tokens,
                on_token=lambda number, _, order=order, cancelled=cancelled: order[number] in cancelled,
            )
        )
        known |= {(place, answers[number].token_ids, place in cancelled) for number, place in enumerate(order)}
    assert {place for place, _, cut in known if not cut} == set(range(count))
    for place, answer, cut in known:
        assert len(answer) <= 1 or not cut
        complete = not cut or not answer  # an answer that ends before its first token cannot be cancelled
        assert is_greedy(model, submitted[place], answer, CLOSE, whole=complete), place
