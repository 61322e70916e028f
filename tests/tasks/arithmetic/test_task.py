"""The arithmetic task: rows in both forms, prompts, training answers, verdicts and figures."""

from __future__ import annotations

import itertools
from pathlib import Path

import orjson
import pytest

from lotune.data.rows import to_conversation
from lotune.data.templates import TEMPLATES
from lotune.errors import DataError, SettingsError
from lotune.tasks.arithmetic.task import EXPERT_PREFIX, ArithmeticSettings, ArithmeticTask, by_kind
from lotune.tasks.arithmetic.worked_solutions import WORKING
from lotune.tasks.registry import TASKS, build_task, task_settings
from lotune.tasks.task import Example, Row

ROW = {"problem": "计算 1.50 + -2.25 等于多少？", "solution": "1.50 + -2.25 = -0.75"}
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n计算 1.50 + -2.25 等于多少？\n\n### Response:"
)


def example_of(row: Row, *, training: bool = False, **settings: object) -> Example:
    [example] = ArithmeticTask(ArithmeticSettings.model_validate(settings)).examples([("f:1", row)], training=training)
    return example


def test_an_example_of_the_contests_row() -> None:
    example = example_of(ROW)
    assert example.id == "f:1"
    assert example.prompt == PROMPT
    assert example.references == (ROW["solution"],)
    assert example.target == ROW["solution"]
    assert example.category == "add"


def test_training_answers_carry_the_working_and_end_in_the_solution() -> None:
    working, _ = WORKING["add"]("1.50", "-2.25")
    assert example_of(ROW, training=True).target == working + ROW["solution"]
    assert example_of(ROW, training=True, scratchpad=False).target == ROW["solution"]


@pytest.mark.parametrize("problem", [PROMPT, PROMPT + "\n", ROW["problem"]])
def test_the_conversation_form_is_the_same_example(problem: str) -> None:
    row = to_conversation("1", problem, ROW["solution"])
    assert example_of(row, training=True) == example_of(ROW, training=True)


def test_the_instruction_prefix_precedes_the_problem_once() -> None:
    example = example_of(ROW, instruction_prefix=EXPERT_PREFIX)
    assert f"### Instruction:\n{EXPERT_PREFIX}计算" in example.prompt
    with_prefix = {**ROW, "problem": EXPERT_PREFIX + ROW["problem"]}
    assert example_of(with_prefix, instruction_prefix=EXPERT_PREFIX) == example
    assert example_of(with_prefix, training=True).category == "add"
    assert example_of(with_prefix).prompt == example.prompt


def test_another_row_is_english_and_has_no_working() -> None:
    row = {"problem": "Find $x$ with braces {0}.", "solution": r"So $x = \boxed{5}$."}
    example = example_of(row, training=True)
    assert (example.category, example.target) == ("english", row["solution"])
    assert row["problem"] in example.prompt


@pytest.mark.parametrize(
    "row", [{}, {"problem": " ", "solution": "1"}, {"question": "1?"}, {"problem": "1?", "solution": 3}]
)
def test_a_row_in_neither_form_is_named(row: Row) -> None:
    with pytest.raises(DataError, match="f:1: is not an arithmetic row"):
        example_of(row)


def test_a_row_without_a_reference_can_be_answered_but_not_trained_on() -> None:
    example = example_of({"problem": "1 + 1?"})
    assert (example.target, example.references) == ("", ())
    assert ArithmeticTask().judge(example, "2").correct is None
    with pytest.raises(DataError, match="f:1: has no solution"):
        example_of({"problem": "1 + 1?"}, training=True)


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean alpaca"):
        example_of(ROW, template="alpacca")


@pytest.mark.parametrize("language", ["zh", "en", "both"])
@pytest.mark.parametrize("mixture", ["deduplicated", "raw"])
def test_every_training_answer_is_right(language: str, mixture: str) -> None:
    settings = {"language": language, "mixture": mixture}
    task = ArithmeticTask(ArithmeticSettings.model_validate(settings))
    rows = list(task.generate_rows(400, 3))
    assert rows == list(task.generate_rows(400, 3))
    for example in task.examples(((str(i), row) for i, row in enumerate(rows)), training=True):
        assert example.prompt.endswith(TEMPLATES["alpaca"].without_input[-len("### Response:") :])
        words = example.references[0].rpartition(" ")[0]
        assert example.target.splitlines()[-1].startswith(words)
        assert example.category not in ("english", "other")
        assert task.judge(example, example.target).correct is True


def test_more_rows_than_are_distinct_are_written_all_the_same() -> None:
    task = ArithmeticTask()
    assert len(list(itertools.islice(task.generate_rows(800_000, 1), 100))) == 100
    few = [row["problem"] for row in task.generate_rows(3_000, 1)]
    assert len(set(few)) == len(few)


def test_figures_leave_unjudgeable_rows_out() -> None:
    task = ArithmeticTask()
    examples = [example_of(ROW), example_of(ROW), example_of({"problem": "Who?", "solution": "me"})]
    judged = [task.judge(example, text) for example, text in zip(examples, ["-0.75", "0.75", "3"], strict=True)]
    assert [item.correct for item in judged] == [True, False, None]
    assert (judged[0].extracted, judged[0].reference, judged[2].reference) == ("-0.75", "-0.75", "me")
    assert task.metrics(judged) == {"accuracy": 0.5, "unjudgeable": 1.0}
    assert by_kind(judged, examples) == {"add": {"accuracy": 0.5, "right": 1, "n": 2}}


def test_the_scorer_is_the_one_of_the_settings() -> None:
    example = example_of({"problem": "?", "solution": "0.123456"})
    assert ArithmeticTask(ArithmeticSettings(scorer="significant:3")).judge(example, "0.123").correct is True
    assert ArithmeticTask(ArithmeticSettings(scorer="exact")).judge(example, "0.123").correct is False


@pytest.mark.oracle
def test_the_contests_answers_are_correct(reference_data: Path) -> None:
    lines = (reference_data / "contest" / "math-300.jsonl").read_bytes().splitlines()
    task = ArithmeticTask()
    examples = list(task.examples(((str(i), orjson.loads(line)) for i, line in enumerate(lines, 1)), training=True))
    judged = [task.judge(example, example.target) for example in examples]
    assert all(item.correct for item in judged)
    assert by_kind(judged, examples)["english"]["n"] == 6


def test_tasks_are_found_by_name() -> None:
    for name in TASKS:
        assert build_task(task_settings(name)).name == name
    with pytest.raises(SettingsError, match="did you mean arithmetic"):
        task_settings("aritmetic")
