"""Plain texts, measured by how likely a model finds them, in bits per byte.

`lotune evaluate --model MODEL --task text` is another measure: perplexity over whole articles, with windows
(`lotune.stages.evaluate_perplexity`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.corpus import Corpus
from lotune.data.folders import files_digest
from lotune.data.rows import OnError, RowFile, closest_columns_hint, rows_on_disk, write_jsonl
from lotune.data.templates import TEMPLATES, Template
from lotune.errors import DataError
from lotune.tasks.scorers import REFERENCE_SCORER, TextScored, score_text
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Example, Row, Score

TEXT_CHARACTERS = 400
"""Maximum number of characters of a plain text: many short rows show more of a model than few long ones."""


class PlainTextSettings(TaskSettings):
    """The settings of a task of bare texts."""

    own_template: ClassVar[str] = "plain"

    @property
    def prompt_template(self) -> Template:
        """The bare text."""
        return TEMPLATES[self.own_template]


class TextSettings(PlainTextSettings):
    """Texts have no prompt, and their scorer is fixed."""

    name: Literal["text"] = "text"
    """Name of the task."""
    # No figure needs generated answers. The check of a merged model compares a few tokens.
    max_new_tokens: int = Field(16, ge=1)

    @property
    def scorer_name(self) -> str:
        """The scorer that measures how likely the model finds the texts."""
        return REFERENCE_SCORER


@dataclass(frozen=True)
class TextTask(TextScored):
    """Rows {"text"}: the prompt is empty, and the target is the text, cut at a blank if it exceeds TEXT_CHARACTERS."""

    settings: TextSettings = field(default_factory=TextSettings)
    name: str = "text"

    @property
    def generates_answers(self) -> bool:
        """False: the text itself is scored."""
        return False

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """Return the texts of a jsonl or txt file, or of all such files in a folder, read as those of a corpus.

        Any fault is an error, whatever `on_error` is. Raises: DataError.
        """
        return article_rows(Corpus(path, max_row_bytes=max_row_bytes))

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write texts as jsonl, one at a time."""
        write_jsonl(path, rows)

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """Yield an example for each row. Raises: DataError for a row without text."""
        for id, row in rows:
            text = row.get("text")
            if not isinstance(text, str) or not text.strip():
                near = closest_columns_hint(("text",), row)
                raise DataError(id, f"has no text (it has {', '.join(row) or 'nothing'}{near})", "text")
            target = shorten(text.strip())
            yield Example(id, "", target, (target,))

    def judge(self, example: Example, text: str) -> Score:
        """Return the score of a generated text, which is right if it is the text itself."""
        return score_text(self.scorer, text, example.references[0])


def article_rows(corpus: Corpus, keeps: Callable[[str], bool] = lambda text: True) -> RowFile:
    """Return the articles of a corpus whose text is kept, as rows {"text"} named by file and line."""
    folder = f"{corpus.path.parent}{os.sep}"
    rows = rows_on_disk(
        (article.id.removeprefix(folder), {"text": article.target})
        for article in corpus.articles()
        if keeps(article.target)
    )
    return RowFile(corpus.path, rows, (), files_digest(corpus.files()))


def shorten(text: str, characters: int = TEXT_CHARACTERS) -> str:
    """Return the beginning of a text, at most `characters` long and cut at its last blank.

    A text without a blank in the second half of that length is cut anywhere, as Chinese has few blanks.

    >>> shorten("To be or not to be", 12), shorten("数学 是一门学科，历史也是", 6)
    ('To be or not', '数学 是一门')
    """
    if len(text) <= characters:
        return text
    cut = text.rfind(" ", characters // 2, characters + 1)
    return text[: cut if cut > 0 else characters]
