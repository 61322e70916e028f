"""Multiple choice: a question with lettered options, answered by a letter.

Four layouts of rows are read: the contest's (`instruction`, `input`, `output`), MMLU's csv files (no header: question,
four options and, if it has references, the letter), CMMLU's (a header with Question, A to D, Answer), and a user's own:
`question`, `options` as a list or one column per letter, and `answer` as a letter, the text of an option or its index
from 0. All are rendered in the contest's wording.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.rows import OnError, RowFile, read_rows, rows_on_disk
from lotune.data.tables import looks_like_header
from lotune.data.templates import Template
from lotune.errors import DataError
from lotune.tasks.metrics import accuracy, num_without_reference
from lotune.tasks.settings import LIKELIHOOD_SCORERS, RowSettings, check_columns, one_of
from lotune.tasks.task import Example, Row, Score, Task
from lotune.tasks.user_rows import named_columns, text_or_empty

LETTERS = "ABCDEFGHIJ"
INSTRUCTION = (
    "Here is a question{about}, the correct answer is one of the options {letters}. Please select the correct option "
    "and answer the question with 'The right option is'."
)
"""The contest's wording. Its own rows have the letters "A/B/C/D" and always a domain."""
PLAIN_INSTRUCTION = "Choose the right option of this question{about}: {letters}."
"""A shorter wording of the instruction."""
STEP_BY_STEP_PREFIX = "Let's think step by step. "
CHOICE_FIELDS = ("question", "options", "answer", "domain", "instruction", "input", "output", *LETTERS)
# `input` of a contest row: "Question: … " and the options on lines of their own; both blanks are optional.
_CONTEST_INPUT = re.compile(r"Question: ?(.*?) ?\nA\.(.*)", re.DOTALL)
_DOMAIN = re.compile(r"about (.+?), the correct answer is")
# The last cell of a row of MMLU: a letter, or nothing in a file without references.
_MMLU_ANSWER = re.compile(r"\s*[A-D]?\s*")
# The phrases after which an answer in the contest's form names its letter.
_ANNOUNCED = re.compile(r"option is|answer is|答案(?:是|为|：)", re.IGNORECASE)
_ENGLISH_WORD = re.compile(r"A (?!(?:is|was|or|and)\b)[a-z]|I(?:'| (?!(?:is|was|or|and)\b)[a-z])")
"""The article "A" and the pronoun "I", which are not letters of options.

Before is, was, or, and they are: "A is right", "A or B".
"""


@dataclass(frozen=True)
class MultipleChoiceQuestion:
    """A question with its options. `letter` is that of the correct option, empty if the row has no reference."""

    text: str
    options: tuple[str, ...]
    letter: str
    domain: str

    def shuffled(self, rng: random.Random) -> MultipleChoiceQuestion:
        """Return the same question with its options in a random order."""
        order = list(range(len(self.options)))
        rng.shuffle(order)
        letter = LETTERS[order.index(LETTERS.index(self.letter))] if self.letter else ""
        return replace(self, options=tuple(self.options[index] for index in order), letter=letter)

    @property
    def text_with_options(self) -> str:
        """Question and options in the layout of the contest's `input`."""
        lines = [f"{letter}.{option}" for letter, option in zip(LETTERS, self.options, strict=False)]
        # The blank before the line end is the contest's.
        return "\n".join([f"Question: {self.text} ", *lines])


class ChoiceSettings(RowSettings):
    """Wording, scorer and augmentation of multiple choice."""

    prompt_fields: ClassVar[tuple[str, ...]] = ("instruction_style",)

    name: Literal["choice"] = "choice"
    """Name of the task."""
    max_new_tokens: int = Field(32, ge=1)
    scorer: Annotated[str, one_of(rf"letter|{LIKELIHOOD_SCORERS}")] = "letter"
    """How to compare an answer with its reference: letter, likelihood:letter, likelihood:text or
    likelihood:text-normalised."""
    augmented_copies: int = Field(0, ge=0, le=100)
    """Additional copies of each training row, with shuffled options."""
    include_option_text: bool = False
    """Whether training answers name the text of the right option after its letter."""
    step_by_step_prefix: bool = False
    """Whether training answers begin with "Let's think step by step."."""
    instruction_style: Literal["contest", "plain"] = "contest"
    """Wording of the instruction: the contest's, or a shorter one."""

    @property
    def chooses_by_likelihood(self) -> bool:
        """Whether the model ranks the options by likelihood."""
        return (self.scorer or "").startswith("likelihood")


@dataclass(frozen=True)
class MultipleChoiceTask(Task):
    """Multiple choice in the contest's form, scored by the letter in an answer.

    Training rows may be augmented as the contestants did: extra copies with shuffled options, the text of the correct
    option in the answer, another wording of the instruction, "Let's think step by step" before the answer.
    """

    settings: ChoiceSettings = field(default_factory=ChoiceSettings)
    name: str = "choice"
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        """Raise SettingsError for a column that the task does not have."""
        check_columns(self.settings, CHOICE_FIELDS)

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """Return the rows of a json, jsonl, csv, tsv or parquet file, with columns renamed as the settings say.

        A table of five columns without a header is one of MMLU without references, unless its last column has letters
        only.
        """
        columns = self.settings.columns
        file = read_rows(path, on_error=on_error, columns=columns, headed=names_columns, max_row_bytes=max_row_bytes)
        if list(file.rows[0][1]) != [*"12345"]:
            return file
        # Three options and their letter are five columns, too; only the cells tell the two layouts apart.
        if all(_MMLU_ANSWER.fullmatch(row["5"]) for _, row in file.rows):
            return file
        return replace(file, rows=rows_on_disk((id, {**row, "6": ""}) for id, row in file.rows))

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """Yield one example per row and, with `training`, its augmented copies.

        Raises: DataError for a row in none of the layouts and, with `training`, for one without a reference.
        """
        template = self.settings.prompt_template
        for id, row in rows:
            question = parse_question(id, row)
            if training and not question.letter:
                raise DataError(id, "has no answer to train on", "the right option's letter", named_columns("answer"))
            yield self._example(id, question, template, training)
            for copy in range(1, self.settings.augmented_copies + 1 if training else 1):
                # Seeded by the row, so that a copy does not depend on which other rows there are.
                shuffled = question.shuffled(random.Random(f"{id}/{copy}"))
                yield replace(self._example(f"{id}#{copy}", shuffled, template, training), augmented_from=id)

    def _example(self, id: str, question: MultipleChoiceQuestion, template: Template, training: bool) -> Example:
        form = PLAIN_INSTRUCTION if self.settings.instruction_style == "plain" else INSTRUCTION
        about = f" about {question.domain}" if question.domain else ""
        letters = "/".join(LETTERS[: len(question.options)])
        prompt = template.render(form.format(about=about, letters=letters), question.text_with_options)
        references = (question.letter,) if question.letter else ()
        return Example(
            id, prompt, self._target(question, training), references, category=question.domain,
            choices=question.options, stem=question.text,
        )  # fmt: skip

    def _target(self, question: MultipleChoiceQuestion, training: bool) -> str:
        if not question.letter:
            return ""
        text = f"The right option is {question.letter}."
        if not training:
            return text
        if self.settings.include_option_text:
            text += question.options[LETTERS.index(question.letter)]
        return (STEP_BY_STEP_PREFIX if self.settings.step_by_step_prefix else "") + text

    def num_options(self, example: Example) -> int | None:
        """Return the number of the row's options."""
        return len(example.choices)

    def judge(self, example: Example, text: str) -> Score:
        """Return the score; `correct` is whether the answer names the reference letter, or None without one."""
        letter = extract_letter(text, len(example.choices))
        if not example.references:
            return Score(letter, "", None)
        return Score(letter, example.references[0], letter == example.references[0])

    def continuations(self, example: Example) -> tuple[str, ...]:
        """Return the contest's sentence with each letter, or the texts of the options."""
        if self.scorer == "likelihood:letter":
            return tuple(self.answer_text(example, index) for index in range(len(example.choices)))
        return example.choices

    def normalise(self, continuation: str, log_probability: float) -> float:
        """Return the log-probability in nats, or, for `likelihood:text-normalised`, the same per byte.

        Without it, short options have an advantage: each further token lowers the sum.
        """
        normalised = self.scorer == "likelihood:text-normalised"
        return log_probability / max(1, len(continuation.encode())) if normalised else log_probability

    def answer_text(self, example: Example, index: int) -> str:
        """Return the contest's sentence with the letter of that option."""
        return f"The right option is {LETTERS[index]}."

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Return `accuracy`, 0 to 1, and `unjudgeable`, the number of rows without a reference.

        Raises: DataError if no row has a reference.
        """
        return {"accuracy": accuracy(judged), "unjudgeable": float(num_without_reference(judged))}


def extract_letter(text: str, options: int = 4) -> str | None:
    """Return the letter that an answer names, None if it names none.

    The rule fits the answers that the contest published. It takes the first letter with no letter or digit beside it
    after "option is", "answer is", 答案是, 答案为 or 答案：. Without such a letter it takes the first one that
    stands alone and is not the article "A", an A before a lower-case word other than is, was, or, and.

    >>> texts = ("The right option is C.iant.uv.uv", "A cat sat: B", "I do not know")
    >>> [extract_letter(text) for text in texts]
    ['C', 'B', None]
    """
    standalone = re.compile(rf"(?<![A-Za-z0-9])[A-{LETTERS[max(options, 1) - 1]}](?![A-Za-z0-9])")
    announced = _ANNOUNCED.search(text)
    if announced and (after := standalone.search(text, announced.end())):
        return after.group()
    for match in standalone.finditer(text):
        if not _ENGLISH_WORD.match(text, match.start()):
            return match.group()
    return None


def parse_question(id: str, row: Row) -> MultipleChoiceQuestion:
    """Return the question of a row in any of the layouts.

    Raises: DataError for a row in none of them, or with an answer that is none of its options.
    """
    if isinstance(row.get("input"), str) and isinstance(row.get("instruction"), str):
        text, options = _parse_contest_input(id, row["input"])
        domain = _DOMAIN.search(row["instruction"])
        answer, about = row.get("output", ""), domain.group(1) if domain else ""
    else:
        text, options, answer = _parse_columns(id, row)
        about = text_or_empty(row.get("domain")) or (_domain_of_file(id) if _is_benchmark(row) else "")
    if len(options) < 2 or not str(text).strip():
        remedy = f"{named_columns('question', *'AB', 'answer')}, or options for a list"
        raise DataError(id, f"has no question with two options at least (it has {', '.join(row)})", _EXPECTED, remedy)
    if len(options) > len(LETTERS):
        raise DataError(id, f"has {len(options)} options", f"{len(LETTERS)} at most")
    return MultipleChoiceQuestion(str(text), options, _letter(id, answer, options), about)


_EXPECTED = "question, options and answer; question, A, B, C, D and answer; or the contest's instruction, input, output"


_ANSWER_REMEDY = (
    "name the column of the answer (a letter, a number from 0, or an option's text): task.columns={answer: COLUMN}"
)


def _parse_contest_input(id: str, text: str) -> tuple[str, tuple[str, ...]]:
    match = _CONTEST_INPUT.fullmatch(text)
    if match is None:
        raise DataError(
            id, "its input is not a question with options", "Question: … then A.…, B.… on lines of their own"
        )
    options, remaining = [], match.group(2)
    # An option may have several lines: it ends only before the next letter.
    for letter in LETTERS[1:]:
        option, separator, remaining = remaining.partition(f"\n{letter}.")
        options.append(option)
        if not separator:
            break
    return match.group(1), tuple(options)


def _parse_columns(id: str, row: Row) -> tuple[Any, tuple[str, ...], Any]:
    by_name = {name.strip().lower(): value for name, value in row.items()}
    numbered = [str(number) for number in range(1, len(row) + 1)]
    # Readers number the columns of a table without a header, such as MMLU's.
    if list(row) == numbered and len(row) >= 4:
        question, *options, answer = row.values()
        return question, tuple(text_or_empty(option).strip() for option in options), answer
    values = by_name.get("options", by_name.get("choices"))
    if not isinstance(values, list | tuple):
        values = [by_name[letter.lower()] for letter in LETTERS if letter.lower() in by_name]
    options = [text_or_empty(option).strip() for option in values]
    # A table has as many option columns as its longest question needs; the others leave some empty.
    while options and not options[-1]:
        options.pop()
    if "" in options:
        raise DataError(id, f"its option {LETTERS[options.index('')]} is empty", "a text for each option")
    return by_name.get("question", ""), tuple(options), by_name.get("answer", "")


def names_columns(first_row: Sequence[str], other_rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line of a table is a header, and not a row of MMLU: six cells, the last one a letter.

    >>> names_columns(["Capital of Peru", "Lima", "Cusco", "Ica", "Puno", "A"], [])
    False
    >>> names_columns(["id", "Question", "A", "B", "C", "D"], [])
    True
    """
    # The last cell of a header can be D, which looks like an answer; the cells before it are then A, B, C.
    is_row = len(first_row) == 6 and _MMLU_ANSWER.fullmatch(first_row[5]) and [*first_row[2:5]] != [*"ABC"]
    return not is_row and looks_like_header(first_row, other_rows)


def _letter(id: str, answer: Any, options: Sequence[str]) -> str:
    letters = LETTERS[: len(options)]
    if answer is None or answer == "":
        return ""
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return letters[answer]
    text = str(answer).strip()
    # "(B)", "B." and "B．" are letters; the text of an option comes before its index, as options may be numbers.
    if match := re.fullmatch(rf"\(?([{letters}])\)?[.．]?", text):
        return match.group(1)
    if list(options).count(text) == 1:
        return letters[list(options).index(text)]
    if text.isdecimal() and int(text) < len(options):
        return letters[int(text)]
    if _ANNOUNCED.search(text) and (letter := extract_letter(text, len(options))):
        return letter
    raise DataError(
        id, f"its answer {text[:40]!r} is none of its options", f"one of {', '.join(letters)}", _ANSWER_REMEDY
    )


def _is_benchmark(row: Row) -> bool:
    """Return whether a row has the columns of MMLU or CMMLU, whose files are named after their subject."""
    return list(row) == [*"123456"] or list(row) == ["1", "Question", *"ABCD", "Answer"]


def _domain_of_file(id: str) -> str:
    """Return the subject of an MMLU or CMMLU file from the id of a row, such as "abstract_algebra_dev.csv:3"."""
    name = re.match(r"(.+)\.csv:\d+", id)
    return re.sub(r"_(dev|val|test)$", "", name.group(1)).replace("_", " ") if name else ""
