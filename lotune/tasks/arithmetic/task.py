"""Arithmetic, the first phase of the contest: a problem in words, and an answer that is scored by its number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.rows import OnError, RowFile, closest_columns_hint, from_conversation, read_rows, write_jsonl
from lotune.data.templates import TEMPLATES, Template
from lotune.errors import DataError
from lotune.tasks.arithmetic.number_match import USUAL_RULES, match_numbers, verdicts
from lotune.tasks.arithmetic.problem_types import distinct_limit, generate_rows, problem_type_of, recognise
from lotune.tasks.arithmetic.worked_solutions import scratchpad_target
from lotune.tasks.metrics import accuracy, num_without_reference
from lotune.tasks.settings import NUMBER_SCORERS, RowSettings, check_columns, one_of
from lotune.tasks.task import Example, Row, Score, Task

EXPERT_PREFIX = "You are an expert in mathematics, accurately calculating the following problem. "
"""A prefix that a contestant put before every problem; rows with it are recognised, too."""


class ArithmeticSettings(RowSettings):
    """Generation, prompt and scorer of arithmetic."""

    name: Literal["arithmetic"] = "arithmetic"
    """Name of the task."""
    max_new_tokens: int = Field(880, ge=1)
    language: Literal["zh", "en", "both"] = "zh"
    """Language of the generated rows."""
    mixture: Literal["deduplicated", "raw"] = "deduplicated"
    """Mixture of problem types: that of the contest's rows without duplicates (harder), or of its raw file."""
    scorer: Annotated[str, one_of(NUMBER_SCORERS)] = "significant:5"
    """How to compare an answer with its reference: exact, significant:DIGITS, decimals:DIGITS or relative:TOLERANCE."""
    scratchpad: bool = True
    """Whether training answers show a scratchpad, the worked calculation, before the result."""


@dataclass(frozen=True)
class ArithmeticTask(Task):
    """The contest's arithmetic: rows {"problem", "solution"}, or the same as a conversation.

    Training targets have a scratchpad before the solution if the settings ask for it and the problem type has one. A
    row without a solution has no target and cannot be scored.
    """

    settings: ArithmeticSettings = field(default_factory=ArithmeticSettings)
    name: str = "arithmetic"
    metric: str = "accuracy"
    is_contest_task: bool = True
    min_new_tokens: int = 0  # the contest set a minimum only for reading
    stop: tuple[str, ...] = ("\n###",)
    """The next tag of the prompt template ends an answer."""

    def __post_init__(self) -> None:
        """Raise SettingsError for a column that the task does not have."""
        check_columns(self.settings, ("problem", "solution", "conversations"))

    def read(self, path: Path, on_error: OnError = "stop", max_row_bytes: int = MAX_ROW_BYTES) -> RowFile:
        """Return the rows of a json, jsonl, csv or tsv file."""
        return read_rows(path, on_error=on_error, max_row_bytes=max_row_bytes, columns=self.settings.columns)

    def write(self, path: Path, rows: Iterable[Row]) -> None:
        """Write rows as jsonl, one at a time."""
        write_jsonl(path, rows)

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterator[Example]:
        """Yield one example per row, its problem after the instruction prefix.

        With `training`, targets begin with a scratchpad if the settings ask for it.

        Raises: DataError for a row in neither form and, with `training`, for one without a solution.
        """
        template = self.settings.prompt_template
        for id, row in rows:
            yield self._example(id, row, template, training)

    def _example(self, id: str, row: Row, template: Template, training: bool) -> Example:
        problem, solution = problem_and_solution(row, id)
        if training and not solution:
            raise DataError(id, "has no solution to train on", "problem and solution", _NO_SOLUTION)
        # The template adds the prefix: a row that has it already must not get it twice.
        problem = problem.removeprefix(self.settings.instruction_prefix)
        bare = problem.removeprefix(EXPERT_PREFIX)
        target = solution
        if training and self.settings.scratchpad and (recognised := recognise(bare)):
            target = scratchpad_target(*recognised, solution)
        references = (solution,) if solution else ()
        return Example(id, template.render(problem), target, references, category=problem_type_of(bare))

    def generate_training_rows(self, rows: int, seed: int) -> Iterator[Row]:
        """Generate rows as `generate_rows` does; arithmetic has no invented names to keep apart."""
        return self.generate_rows(rows, seed)

    def generate_rows(self, rows: int, seed: int) -> Iterator[Row]:
        """Generate rows one at a time in the mixture and language of the settings. The same seed gives the same rows.

        The rows of the mixture `deduplicated` are distinct up to `distinct_limit` (about 551,000 in Chinese). Beyond
        it the mixture keeps its proportions and repeats rows. The mixture `raw` repeats rows, like the contest's file.
        """
        mixture, language = self.settings.mixture, self.settings.language
        distinct = mixture == "deduplicated" and rows <= distinct_limit(mixture, language)
        return generate_rows(rows, seed, mixture, language, distinct)

    def judge(self, example: Example, text: str) -> Score:
        """Return the score under the settings' rule; `correct` is None if the reference is not a number.

        Raises: SettingsError if there is no such rule.
        """
        return Score(*match_numbers(text, example.references[0] if example.references else "", self.scorer))

    def verdicts(self, example: Example, text: str) -> dict[str, bool | None]:
        """Return whether an answer is correct under the rule of the settings and under one rule of each other kind."""
        reference = example.references[0] if example.references else ""
        return verdicts(text, reference, dict.fromkeys((self.scorer, *USUAL_RULES)))

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Return `accuracy`, 0 to 1, of the rows that can be scored, and `unjudgeable`, the number of others.

        Raises: DataError if no row can be scored.
        """
        return {"accuracy": accuracy(judged), "unjudgeable": float(num_without_reference(judged))}


_COLUMNS = "name the file's columns: task.columns={problem: COLUMN, solution: COLUMN}"
_NO_SOLUTION = "name the column of the solution: task.columns={solution: COLUMN}, or use it as a test row (data.test)"


def problem_and_solution(row: Row, where: str = "") -> tuple[str, str]:
    """Return problem and solution of a row in the contest's or in the conversation form.

    The solution is an empty string if the row has none. If the problem of a conversation is an alpaca prompt, its
    instruction is extracted.

    Raises: DataError for a row in neither form.

    >>> problem_and_solution({"problem": "计算 1 + 1 等于多少？", "solution": "1 + 1 = 2"})
    ('计算 1 + 1 等于多少？', '1 + 1 = 2')
    """
    if "conversations" in row:
        prompt, solution = from_conversation(row, where)
        return _out_of_prompt(prompt), solution
    problem, solution = row.get("problem"), row.get("solution", "")
    if not isinstance(problem, str) or not problem.strip() or not isinstance(solution, str):
        expected = "problem and solution as texts, or conversations"
        near = closest_columns_hint(("problem", "solution"), row)
        raise DataError(
            where, f"is not an arithmetic row (it has {', '.join(row) or 'nothing'}{near})", expected, _COLUMNS
        )
    return problem, solution


def _out_of_prompt(prompt: str) -> str:
    # Contestants wrote whole prompts into conversations; a second template around them would be a prompt in a prompt.
    prefix, suffix = TEMPLATES["alpaca"].without_input.split("{instruction}")
    stripped = prompt.rstrip()
    if stripped.startswith(prefix) and stripped.endswith(suffix):
        return stripped[len(prefix) : len(stripped) - len(suffix)]
    return prompt


def by_kind(judged: Sequence[Score], examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Return accuracy (0 to 1), number of correct answers and of scored rows by category, in alphabetical order.

    A category without a row that can be scored is left out. `judged` and `examples` have the same order.
    """
    by_category: dict[str, list[bool]] = {}
    for score, example in zip(judged, examples, strict=True):
        if score.correct is not None:
            by_category.setdefault(example.category, []).append(score.correct)
    return {
        category: {"accuracy": sum(correct) / len(correct), "right": sum(correct), "n": len(correct)}
        for category, correct in sorted(by_category.items())
    }
