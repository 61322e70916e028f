"""Copying: repeat one line, such as names or numbers, exactly."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lotune.data.rows import closest_columns_hint
from lotune.data.templates import TEMPLATES
from lotune.errors import DataError
from lotune.tasks.arithmetic.random_numbers import joined_numbers
from lotune.tasks.metrics import accuracy
from lotune.tasks.reading.task import first_line
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Example, Row, Score, Task

if TYPE_CHECKING:
    from lotune.tasks.reading.passage_generator import Language, Names

COPY_INSTRUCTIONS: Mapping[str, tuple[str, ...]] = {"en": ("Repeat: ", "Copy this: "), "zh": ("重复：", "抄写：")}
"""The words before a text to copy, by language."""


class CopyingSettings(TaskSettings):
    """Generation of texts to copy; prompt and scorer are fixed."""

    own_template: ClassVar[str] = "alpaca"

    name: Literal["copying"] = "copying"
    """Name of the task."""
    max_new_tokens: int = Field(112, ge=1)
    language: Literal["zh", "en", "both"] = "zh"
    """Language of the generated rows."""


@dataclass(frozen=True)
class CopyingTask(Task):
    """Rows {"instruction", "text"}: the answer is right if its first line is the text.

    A row without an instruction gets the first English one of COPY_INSTRUCTIONS.
    """

    settings: CopyingSettings = field(default_factory=CopyingSettings)
    name: str = "copying"
    metric: str = "accuracy"

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """Yield an example for each row. Raises: DataError for a row whose text is not one line."""
        template = TEMPLATES[self.settings.own_template]
        for id, row in rows:
            text, instruction = row.get("text"), row.get("instruction", COPY_INSTRUCTIONS["en"][0])
            if not isinstance(text, str) or not isinstance(instruction, str):
                near = closest_columns_hint(("text",), row)
                raise DataError(id, f"has {', '.join(row) or 'nothing'}{near}", "text and, if any, instruction")
            if not text or first_line(text) != text:
                raise DataError(id, "its text is not one line", "a line without blanks at its ends")
            yield Example(id, template.render(instruction + text), text, (text,), category=category_of(text))

    def generate_rows(self, rows: int, seed: int) -> Iterator[Row]:
        """Generate numbers, names, and names with numbers, in equal parts. The same seed gives the same rows."""
        return _rows(rows, seed, self.settings.language, "unseen")

    def generate_training_rows(self, rows: int, seed: int) -> Iterator[Row]:
        """Generate rows with names that never occur in those of `generate_rows`."""
        return _rows(rows, seed, self.settings.language, "train")

    def judge(self, example: Example, text: str) -> Score:
        """Return whether the first line of the answer is the text."""
        answer, reference = first_line(text), example.references[0]
        return Score(answer, reference, answer == reference)

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Return the accuracy, 0 to 1. Raises: DataError without rows."""
        return {"accuracy": accuracy(judged)}


def category_of(text: str) -> str:
    """Return what a text consists of.

    >>> category_of("-12.50 + 3"), category_of("白石 秋云"), category_of("Talvo 7^2")
    ('numbers', 'words', 'words and numbers')
    """
    if not any(character.isalpha() for character in text):
        return "numbers"
    return "words and numbers" if any(character.isdigit() for character in text) else "words"


def _rows(rows: int, seed: int, language: Language, names: Names) -> Iterator[Row]:
    # `names` is in the seed, so that the numbers of training and test rows differ, too.
    rng = random.Random(f"copying {seed} {language} {names}")
    for _ in range(rows):
        chosen = rng.choice(("zh", "en")) if language == "both" else language
        yield {"instruction": rng.choice(COPY_INSTRUCTIONS[chosen]), "text": _text(rng, chosen, names)}


def _text(rng: random.Random, language: str, names: Names) -> str:
    """Return numbers joined by a sign, one to three invented names, or a name and numbers."""
    from lotune.tasks.reading.passage_generator import coin_name

    # nano copies these nearly always, but plain sentences only one time in four (docs/log.md).
    kind = rng.randrange(3)
    if kind == 0:
        return joined_numbers(rng)
    if kind == 1:
        return " ".join(coin_name(rng, language, names) for _ in range(rng.randint(1, 3)))
    return f"{coin_name(rng, language, names)} {joined_numbers(rng)}"
