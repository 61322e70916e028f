"""Instructions and conversations with the answer that the model should give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.chat_template import CHAT, ChatTemplate
from lotune.data.conversation import conversation_example
from lotune.data.rows import OnError, RowFile, read_rows
from lotune.data.templates import Template, template_named
from lotune.errors import DataError
from lotune.tasks.instructions.row_formats import INSTRUCTION_FIELDS, check_formats, conversation_of
from lotune.tasks.scorers import TextScored, score_text
from lotune.tasks.settings import AUTO, TEXT_SCORERS, RowSettings, check_columns, one_of
from lotune.tasks.task import Example, Row, Score


class InstructionsSettings(RowSettings):
    """Prompt template, trained turns and scorer of instructions."""

    name: Literal["instructions"] = "instructions"
    """Name of the task."""
    max_new_tokens: int = Field(256, ge=1)
    scorer: Annotated[str, one_of(TEXT_SCORERS)] = "exact"
    """How to compare an answer with its reference: exact, contains, number, rouge-l, f1, significant:DIGITS,
    decimals:DIGITS, relative:TOLERANCE, or bits-per-byte, the likelihood of the reference."""
    template: str = AUTO
    """Prompt template: alpaca, plain, qa, retention, internlm, or chat, the tokeniser's chat template. auto takes the
    template that the model was trained with, else the tokeniser's, else alpaca."""
    source: str = "article"
    """Column that names what a row was made from, as the files of `lotune synthesize` do: rows of one article are not
    divided between training and test. Nothing happens in a file without this column."""
    train_on_turns: Literal["all", "last"] = "all"
    """Turns of the assistant to train on: all of them, or only the last."""

    @property
    def prompt_template(self) -> Template:
        """The prompt template. For the tokeniser's chat template, it has only the name and the prefix."""
        if self.template == CHAT:
            return Template(CHAT, without_input="", with_input="", instruction_prefix=self.instruction_prefix)
        name = "alpaca" if self.template == AUTO else self.template
        return replace(template_named(name), instruction_prefix=self.instruction_prefix)


@dataclass(frozen=True)
class InstructionsTask(TextScored):
    """Instructions in Alpaca's format, conversations, or prompts with completions (see `row_formats`).

    The prompt template of the settings renders each format. The model generates the last answer of a row, and this
    answer is scored. Training includes the earlier answers, unless `train_on_turns` is `last`. A row without an answer
    has no target and cannot be scored.
    """

    settings: InstructionsSettings = field(default_factory=InstructionsSettings)
    chat_template: ChatTemplate | None = None
    """The tokeniser's chat template; None if the rows are rendered in a template of lotune."""
    name: str = "instructions"

    def __post_init__(self) -> None:
        """Raise SettingsError for a column that the task does not have."""
        check_columns(self.settings, INSTRUCTION_FIELDS)

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """Return the rows of a json, jsonl, csv, tsv or parquet file, with the columns renamed as the settings say.

        Raises: DataError if the rows have an unknown format, or several formats.
        """
        file = read_rows(path, on_error=on_error, max_row_bytes=max_row_bytes, columns=self.settings.columns)
        check_formats(file)
        return file

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """Yield one example per row, with its earlier turns before the last question.

        Raises: DataError for a row of an unknown format or, with `training`, for a row without an answer.
        """
        template = self.chat_template or self.settings.prompt_template
        all_turns = self.settings.train_on_turns == "all"
        for id, row in rows:
            conversation = conversation_of(id, row)
            if training and not conversation.answers[-1].strip():
                remedy = (
                    "name its column in task.columns, such as {output: COLUMN}, or use it as a test row (data.test)"
                )
                raise DataError(id, f"has no answer to train on (it has {', '.join(row)})", "an answer", remedy)
            example = conversation_example(id, conversation, template, train_on_earlier=all_turns)
            source = row.get(self.settings.source)
            yield replace(example, source=source) if isinstance(source, str) and source else example

    def with_chat_template(self, chat_template: ChatTemplate) -> InstructionsTask:
        """Return the task with prompts in a tokeniser's chat template."""
        return replace(self, chat_template=chat_template)

    def judge(self, example: Example, text: str) -> Score:
        """Return the score under the settings' scorer; `correct` is None without a reference."""
        if not example.references:
            return Score(text.strip(), "", None)
        return score_text(self.scorer, text, example.references[0])
