"""Continuations of articles: what a model writes after the first sentence is compared with the rest by ROUGE-L."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.cleaning import Cleaning
from lotune.data.corpus import Corpus
from lotune.data.rows import OnError, RowFile, write_jsonl
from lotune.data.sentences import sentence_ends
from lotune.errors import DataError
from lotune.tasks.scorers import TextScored, score_text
from lotune.tasks.task import Example, Row, Score
from lotune.tasks.text import PlainTextSettings, article_rows

SCORER = "rouge-l"


class ContinuationSettings(PlainTextSettings):
    """The prompt is the beginning of the article, and the scorer is fixed."""

    name: Literal["text_continuation"] = "text_continuation"
    """Name of the task."""
    cleaning: Cleaning = "none"
    """How to clean articles; wiki removes title, line breaks and the empty brackets that extraction leaves."""
    reference_characters: int = Field(300, ge=1)
    """Maximum number of characters of the rest of an article that a continuation is compared with."""

    @property
    def scorer_name(self) -> str:
        """The scorer, ROUGE-L."""
        return SCORER


@dataclass(frozen=True)
class ContinuationTask(TextScored):
    """Rows {"text"}: the prompt is the first sentence, and the target is what follows it in whole sentences."""

    settings: ContinuationSettings = field(default_factory=ContinuationSettings)
    name: str = "text_continuation"

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """Return the articles of a file or folder that have a sentence and something after it.

        Any fault is an error, whatever `on_error` is. Raises: DataError.
        """
        corpus = Corpus(path, self.settings.cleaning, max_row_bytes)
        return article_rows(corpus, lambda text: split_article(text, self.settings.reference_characters) is not None)

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write articles as jsonl, one at a time."""
        write_jsonl(path, rows)

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """Yield an example for each row. Raises: DataError for a row without text, or with a single sentence."""
        for id, row in rows:
            text = row.get("text")
            parts = split_article(text, self.settings.reference_characters) if isinstance(text, str) else None
            if parts is None:
                raise DataError(id, "has no text of two sentences", "`text` with a sentence and what follows it")
            yield Example(id, parts[0], parts[1], (parts[1],))

    def judge(self, example: Example, text: str) -> Score:
        """Return ROUGE-L of a continuation, which is cut to the length of the rest that it is compared with."""
        return score_text(SCORER, text.strip()[: self.settings.reference_characters], example.references[0])


def split_article(text: str, characters: int) -> tuple[str, str] | None:
    """Return the first sentence of a text and what follows, at most `characters` long; None if either is empty.

    What follows ends with a sentence if one fits.

    >>> split_article("数学是科学。它很古老。它很新。", 6), split_article("One of 3.14 only.", 9)
    (('数学是科学。', '它很古老。'), None)
    """
    ends = sentence_ends(text := text.strip())
    if not ends or not (rest := text[ends[0] :].strip()):
        return None
    fitting = [end for end in sentence_ends(rest) if end <= characters]
    return text[: ends[0]], rest[: fitting[-1] if fitting else characters]
