"""Reading: a passage, a question, a short answer from the passage; the ability that the contest asks to be retained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.rows import OnError, RowFile, closest_columns_hint, read_rows
from lotune.data.templates import TEMPLATES
from lotune.errors import DataError
from lotune.files import file_digest
from lotune.tasks.metrics import mean_score
from lotune.tasks.reading.cmrc import cmrc_scores
from lotune.tasks.reading.contest_metric import contest_f1_em
from lotune.tasks.reading.squad import read_items, squad_scores, write_items
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Example, Row, Score, Task

METRICS = ("contest_f1", "contest_em", "squad_f1", "squad_em", "cmrc_f1", "cmrc_em")
"""Names of the figures of each example and of their means over a test set; all 0 to 100."""


class ReadingSettings(TaskSettings):
    """How reading is generated and asked; it has one prompt and one way of judging."""

    own_template: ClassVar[str] = "retention"

    name: Literal["reading"] = "reading"
    """Name of the task."""
    max_new_tokens: int = Field(20, ge=1)
    language: Literal["zh", "en", "both"] = "zh"
    """Language of the generated rows."""
    questions_per_passage: Literal["first", "all"] = "first"
    """Questions asked about each passage: the first, as in the contest, or all, as in SQuAD."""


@dataclass(frozen=True)
class ReadingTask(Task):
    """The contest's retention protocol: the first question of every paragraph, greedy, 20 new tokens, one at least.

    Rows are paragraphs in SQuAD's layout (`squad.read_items`); with `questions_per_passage: all` each of their
    questions is asked. The answer is the first line of the generated text; the contest's F1 and EM compare it with the
    first gold answer, the official ones of SQuAD 1.1 and of CMRC 2018 with all of them.
    """

    settings: ReadingSettings = field(default_factory=ReadingSettings)
    name: str = "reading"
    metric: str = "contest_f1"
    stop: tuple[str, ...] = ()

    @property
    def score_name_by_metric(self) -> Mapping[str, str]:
        """All metrics are means of a per-example score."""
        return dict(zip(METRICS, METRICS, strict=True))

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """Paragraphs: of a file in SQuAD's layout, where a fault always stops, or one a line of a .jsonl file."""
        if path.suffix == ".jsonl":
            return read_rows(path, on_error=on_error, max_row_bytes=max_row_bytes)
        return RowFile(path, [(id, dict(row)) for id, row in read_items(path, max_row_bytes)], (), file_digest(path))

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write paragraphs in SQuAD's layout."""
        write_items(path, rows)

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """An example for the first question of each paragraph; with `training`, or as the settings say, for every one.

        Raises: DataError for a row that is no paragraph with questions, and, with `training`, for one without a key.
        """
        every = training or self.settings.questions_per_passage == "all"
        for id, row in rows:
            try:
                found = [_example(row["context"], qa) for qa in (row["qas"] if every else row["qas"][:1])]
            except (KeyError, IndexError, TypeError):
                expected = "title, context, qas with id, question, and answers where there are keys"
                near = closest_columns_hint(("context", "qas"), row)
                raise DataError(id, f"is no paragraph in SQuAD's layout{near}", expected) from None
            if not found:
                raise DataError(id, "has no question", "one at least")
            if training and (bare := [example.id for example in found if not example.references]):
                raise DataError(
                    id,
                    f"has no answer to train on for {', '.join(bare)}",
                    "a key for each question",
                    "test on it (data.test)",
                )
            yield from found

    def generate_rows(self, rows: int, seed: int) -> Iterable[Row]:
        """Generated paragraphs with questions, the same for the same seed and language."""
        from lotune.tasks.reading.passage_generator import passages

        return passages(rows, seed, self.settings.language, "unseen")

    def generate_training_rows(self, rows: int, seed: int) -> Iterable[Row]:
        """Generated paragraphs with names that `generate_rows` never gives."""
        from lotune.tasks.reading.passage_generator import passages

        return passages(rows, seed, self.settings.language, "train")

    def judge(self, example: Example, text: str) -> Score:
        """All figures of the first line of the stripped output; right where the contest's EM is 100."""
        answer = first_line(text)
        if not example.references:
            return Score(answer, "", None)
        label = example.references[0]
        f1, em = contest_f1_em(answer, label)
        figures = (f1, em, *squad_scores(answer, example.references), *cmrc_scores(answer, example.references))
        return Score(answer, label, em == 100.0, dict(zip(METRICS, figures, strict=True)))

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Means of the contest's and of the official F1 and EM, 0 to 100.

        Raises: DataError where nothing can be judged.
        """
        return {name: mean_score(judged, name) for name in METRICS}


def first_line(text: str) -> str:
    r"""What counts as the answer: the first line of the stripped text.

    >>> first_line(" Denver Broncos\n\nExplanation: they won.")
    'Denver Broncos'
    """
    return text.strip().partition("\n")[0].rstrip()


def _example(passage: str, qa: Mapping[str, Any]) -> Example:
    answers = tuple(answer["text"] for answer in qa.get("answers") or ())
    parts = TEMPLATES["retention"].parts(passage, qa["question"])
    return Example(qa["id"], "".join(parts), answers[0] if answers else "", answers, prompt_parts=parts)
