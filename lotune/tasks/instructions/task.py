"""Instructions: a task in words, or a conversation, and the answer that a row gives to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.examples import Turn
from lotune.data.rows import OnError, RowFile, read_rows
from lotune.data.templates import Template
from lotune.errors import DataError
from lotune.tasks.instructions.row_formats import INSTRUCTION_FIELDS, check_shapes, conversation_of
from lotune.tasks.scorers import TextScored, score_text
from lotune.tasks.settings import TEXT_SCORERS, RowSettings, check_columns, one_of
from lotune.tasks.task import Example, Row, Score


class InstructionsSettings(RowSettings):
    """How instructions are asked and judged."""

    name: Literal["instructions"] = "instructions"
    """Name of the task."""
    max_new_tokens: int = Field(256, ge=1)
    scorer: Annotated[str, one_of(TEXT_SCORERS)] = "exact"
    """How to compare an answer with its reference: exact, contains, number, rouge-l or f1."""
    train_on_turns: Literal["all", "last"] = "all"
    """Turns of the assistant that are trained on: all of them, or the last one only."""


@dataclass(frozen=True)
class InstructionsTask(TextScored):
    """Rows of one's own: alpaca's, conversations of many turns, prompts with completions (see `shapes`).

    Every shape is put into the prompt template of the settings. The last answer of a row is the one that is asked for
    and judged; the earlier ones are trained on too, unless the settings want the last only. A row without an answer has
    no target and is unjudgeable.
    """

    settings: InstructionsSettings = field(default_factory=InstructionsSettings)
    name: str = "instructions"

    def __post_init__(self) -> None:
        """Raises: SettingsError for a column that the task does not have."""
        check_columns(self.settings, INSTRUCTION_FIELDS)

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """The rows of a json, jsonl, csv, tsv or parquet file, their columns renamed as the settings say.

        Raises: DataError where they are of no known shape, or of several.
        """
        file = read_rows(path, on_error=on_error, max_row_bytes=max_row_bytes, columns=self.settings.columns)
        check_shapes(file)
        return file

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """An example a row, its earlier turns before the last question.

        Raises: DataError for a row of no known shape, and, with `training`, for one without an answer.
        """
        template = self.settings.prompt_template
        for id, row in rows:
            yield self._example(id, row, template, training)

    def _example(self, id: str, row: Row, template: Template, training: bool) -> Example:
        said = conversation_of(id, row)
        target = said.answers[-1]
        if not target.strip():
            if training:
                remedy = (
                    "name its column in task.columns, such as {output: COLUMN}, or use it as a test row (data.test)"
                )
                raise DataError(id, f"has no answer to train on (it has {', '.join(row)})", "an answer", remedy)
            target = ""
        prompts = template.render_turns(said.questions, said.system, said.input)
        scored = self.settings.train_on_turns == "all"
        turns = tuple(Turn(*pair, scored) for pair in zip(prompts[:-1], said.answers[:-1], strict=True))
        prompt = "".join(turn.prompt + turn.answer for turn in turns) + prompts[-1]
        return Example(id, prompt, target, (target,) if target else (), earlier_turns=turns)

    def judge(self, example: Example, text: str) -> Score:
        """Whether the answer is the row's, holds it, or ends in its number, as the rule has it; None without a key."""
        if not example.references:
            return Score(text.strip(), "", None)
        return score_text(self.scorer, text, example.references[0])
