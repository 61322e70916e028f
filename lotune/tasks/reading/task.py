"""Reading comprehension: a passage, a question, a short answer from the passage.

It is the ability that the contest requires to be retained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""Names of the scores of an example, and of their means over a test set; all 0 to 100."""


class ReadingSettings(TaskSettings):
    """Generation of reading rows and choice of questions; prompt and scorer are fixed."""

    own_template: ClassVar[str] = "retention"

    name: Literal["reading"] = "reading"
    """Name of the task."""
    max_new_tokens: int = Field(20, ge=1)
    language: Literal["zh", "en", "both"] = "zh"
    """Language of the generated rows."""
    questions_per_passage: Literal["first", "all"] = "first"
    """Questions of each passage to use: the first, as in the contest, or all, as in SQuAD."""


def as_article(row: Row) -> Iterator[Row]:
    r"""Yield the passage of a paragraph as an article, with its title before it.

    >>> next(as_article({"title": "K2", "context": "K2 is high.", "qas": []}))
    {'text': 'K2\n\nK2 is high.'}
    """
    yield {"text": f"{row['title']}\n\n{row['context']}"}


def as_pairs(row: Row) -> Iterator[Row]:
    """Yield each question of a paragraph with its answer, without the passage.

    >>> next(as_pairs({"qas": [{"question": "How high?", "answers": [{"text": "8,611 m"}]}]}))
    {'question': 'How high?', 'answer': '8,611 m'}
    """
    for qa in row["qas"]:
        yield {"question": qa["question"], "answer": qa["answers"][0]["text"]}


@dataclass(frozen=True)
class ReadingTask(Task):
    """The contest's retention protocol: the first question of every paragraph, greedy decoding, 1 to 20 new tokens.

    Rows are paragraphs in SQuAD's layout (`squad.read_items`). With `questions_per_passage: all`, all their questions
    are used. The answer is the first line of the generated text. The contest's F1 and EM compare it with the first gold
    answer, the official metrics of SQuAD 1.1 and CMRC 2018 with all gold answers.
    """

    settings: ReadingSettings = field(default_factory=ReadingSettings)
    name: str = "reading"
    metric: str = "contest_f1"
    stop: tuple[str, ...] = ()
    forms: ClassVar[Mapping[str, Callable[[Row], Iterable[Row]]]] = {"articles": as_article, "pairs": as_pairs}

    @property
    def score_name_by_metric(self) -> Mapping[str, str]:
        """The score behind each metric; all metrics are means of a per-example score."""
        return dict(zip(METRICS, METRICS, strict=True))

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """Return the paragraphs of a file in SQuAD's layout, or of a .jsonl file with one paragraph per line.

        In SQuAD's layout any fault is an error, whatever `on_error` is: the file is one document.
        """
        if path.suffix == ".jsonl":
            return read_rows(path, on_error=on_error, max_row_bytes=max_row_bytes)
        return RowFile(path, [(id, dict(row)) for id, row in read_items(path, max_row_bytes)], (), file_digest(path))

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write paragraphs in SQuAD's layout."""
        write_items(path, rows)

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """Yield an example for the first question of each paragraph, or for all if `training` or the settings say so.

        Raises: DataError for a row that is not a paragraph with questions and, with `training`, for a question without
        an answer.
        """
        # The contest evaluates on first questions only; training may use all of them.
        all_questions = training or self.settings.questions_per_passage == "all"
        for id, row in rows:
            try:
                examples = [_example(row["context"], qa) for qa in (row["qas"] if all_questions else row["qas"][:1])]
            except (KeyError, IndexError, TypeError):
                expected = "title, context, and qas with id, question and, if known, answers"
                near = closest_columns_hint(("context", "qas"), row)
                raise DataError(id, f"is not a paragraph in SQuAD's layout{near}", expected) from None
            if not examples:
                raise DataError(id, "has no question", "one at least")
            if training and (unanswered := [example.id for example in examples if not example.references]):
                raise DataError(
                    id,
                    f"has no answer to train on for {', '.join(unanswered)}",
                    "an answer to each question",
                    "test on it (data.test)",
                )
            yield from examples

    def generate_rows(self, rows: int, seed: int) -> Iterable[Row]:
        """Generate paragraphs with questions. The same seed and language give the same paragraphs."""
        from lotune.tasks.reading.passage_generator import passages

        return passages(rows, seed, self.settings.language, "unseen")

    def generate_training_rows(self, rows: int, seed: int) -> Iterable[Row]:
        """Generate paragraphs with names that never occur in those of `generate_rows`."""
        from lotune.tasks.reading.passage_generator import passages

        return passages(rows, seed, self.settings.language, "train")

    def judge(self, example: Example, text: str) -> Score:
        """Return all scores of the first line of the answer; it is correct if the contest's EM is 100."""
        answer = first_line(text)
        if not example.references:
            return Score(answer, "", None)
        reference = example.references[0]
        f1, em = contest_f1_em(answer, reference)
        scores = (f1, em, *squad_scores(answer, example.references), *cmrc_scores(answer, example.references))
        return Score(answer, reference, em == 100.0, dict(zip(METRICS, scores, strict=True)))

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Return the means of the contest's and of the official F1 and EM, 0 to 100.

        Raises: DataError if no row can be scored.
        """
        return {name: mean_score(judged, name) for name in METRICS}


def first_line(text: str) -> str:
    r"""Return the first line of the stripped text, which is what counts as the answer.

    >>> first_line(" Denver Broncos\n\nExplanation: they won.")
    'Denver Broncos'
    """
    return text.strip().partition("\n")[0].rstrip()


def _example(passage: str, qa: Mapping[str, Any]) -> Example:
    answers = tuple(answer["text"] for answer in qa.get("answers") or ())
    # The parts let an over-long prompt be shortened inside the passage; cutting its end would lose the question.
    parts = TEMPLATES["retention"].parts(passage, qa["question"])
    return Example(qa["id"], "".join(parts), answers[0] if answers else "", answers, prompt_parts=parts)
