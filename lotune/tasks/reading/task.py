"""Reading: a passage, a question, a short answer from the passage; the ability that the contest asks to be retained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lotune.data.rows import OnError, RowFile, file_digest, nearest_names, read_rows
from lotune.data.templates import TEMPLATES
from lotune.errors import DataError
from lotune.tasks.metrics import mean_score
from lotune.tasks.reading.emf1 import emf1
from lotune.tasks.reading.squad import read_items, squad_scores, write_items
from lotune.tasks.settings import TaskSettings, check_columns, check_judge
from lotune.tasks.task import Example, Judged, Row

METRICS = {"contest_f1": "f1", "contest_em": "em", "squad_f1": "squad_f1", "squad_em": "squad_em"}
"""Names of the means over a test set, and of the per-example figures that they are means of; all 0 to 100."""


@dataclass(frozen=True)
class ReadingTask:
    """The contest's retention protocol: the first question of every paragraph, greedy, 20 new tokens, one at least.

    Rows are paragraphs in SQuAD's layout (`squad.read_items`). The answer is the first line of what was generated; the
    contest's F1 and EM compare it with the first gold answer, the official ones with all of them.
    """

    settings: TaskSettings = field(default_factory=lambda: TaskSettings(name="reading"))
    name: str = "reading"
    metric: str = "contest_f1"
    min_new_tokens: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises: SettingsError for a judge or columns: there is one way of judging, and one layout."""
        check_judge(self.settings, "")
        check_columns(self.settings, ())

    @property
    def rule(self) -> str:
        """There is but one."""
        return ""

    @property
    def score_of(self) -> Mapping[str, str]:
        """All metrics are means of a per-example score."""
        return METRICS

    @property
    def max_new_tokens(self) -> int:
        """Longest answer in tokens: the protocol's 20 unless the settings say otherwise."""
        return self.settings.max_new_tokens or 20

    def read(self, path: Path, on_error: OnError = "stop") -> RowFile:
        """Paragraphs: of a file in SQuAD's layout, where a fault always stops, or one a line of a .jsonl file."""
        if path.suffix == ".jsonl":
            return read_rows(path, on_error=on_error)
        return RowFile(path, [(id, dict(row)) for id, row in read_items(path)], (), file_digest(path))

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write paragraphs in SQuAD's layout."""
        write_items(path, rows)

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """An example for the first question of each paragraph; with `training`, for every question.

        Raises: DataError for a row that is no paragraph with questions and answers.
        """
        for id, row in rows:
            try:
                questions = row["qas"] if training else row["qas"][:1]
                found = [_example(row["context"], qa) for qa in questions]
            except (KeyError, IndexError, TypeError):
                expected = "title, context, qas with id, question, answers"
                near = nearest_names(("context", "qas"), row)
                raise DataError(id, f"is no paragraph in SQuAD's layout{near}", expected) from None
            if not found:
                raise DataError(id, "has no question", "one at least")
            yield from found

    def generate(self, rows: int, seed: int) -> list[Row]:
        """Generated paragraphs with questions, the same for the same seed and language."""
        from lotune.tasks.reading.passages import passages

        return list(passages(rows, seed, self.settings.language, "unseen"))

    def practice(self, rows: int, seed: int) -> Iterable[Row]:
        """Generated paragraphs with names that `generate` never gives."""
        from lotune.tasks.reading.passages import passages

        return passages(rows, seed, self.settings.language, "train")

    def stream(self, rows: int, seed: int) -> Iterable[Row]:
        """The same paragraphs; the layout is one document, so they are held in memory."""
        return self.generate(rows, seed)

    def judge(self, example: Example, text: str) -> Judged:
        """Both metrics of the first line of the stripped output; right where the contest's EM is 100."""
        answer = first_line(text)
        if not example.answers:
            return Judged(answer, "", None)
        label = example.answers[0]
        f1, em = emf1(answer, label)
        squad_f1, squad_em = squad_scores(answer, example.answers)
        return Judged(answer, label, em == 100.0, {"f1": f1, "em": em, "squad_f1": squad_f1, "squad_em": squad_em})

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Means of the contest's and of the official F1 and EM, 0 to 100.

        Raises: DataError where nothing can be judged.
        """
        return {name: mean_score(judged, figure) for name, figure in METRICS.items()}


def first_line(text: str) -> str:
    r"""What counts as the answer: the first line of the stripped text.

    >>> first_line(" Denver Broncos\n\nExplanation: they won.")
    'Denver Broncos'
    """
    return text.strip().partition("\n")[0].rstrip()


def _example(passage: str, qa: Mapping[str, Any]) -> Example:
    answers = tuple(answer["text"] for answer in qa["answers"])
    parts = TEMPLATES["retention"].parts(passage, qa["question"])
    return Example(qa["id"], "".join(parts), answers[0], answers, prompt_parts=parts)
