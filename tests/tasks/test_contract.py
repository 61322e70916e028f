"""What holds for every task in TASKS: a new row of the table is tested from here on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lotune.data.tokenized import check_scored_tokens, encode_prompt, encode_row
from lotune.errors import DataError, SettingsError
from lotune.evaluate.reference_bits import with_reference_scores
from lotune.generate.sampling import cut_at_stop
from lotune.recipe import Recipe
from lotune.settings import read_settings
from lotune.tasks.metrics import BITS_PER_BYTE, WEIGHTS
from lotune.tasks.registry import TASKS, build_task, task_settings
from lotune.tasks.task import Row, Task
from lotune.tasks.user_rows import generating

OWN_ROWS: dict[str, list[Row]] = {
    "instructions": [
        {"instruction": "Add.", "input": f"{number} and 1", "output": f" It is\n{number + 1}."} for number in range(8)
    ],
    "choice": [
        {"question": f"{number} + 1?", "A": "0", "B": str(number + 1), "C": "none", "answer": "B"}
        for number in range(8)
    ],
    "sentences": [{"sentence": f"The {number} cats sleeps.", "label": str(number % 2)} for number in range(8)],
    "custom": [{"question": f"{number} and 1?", "answer": f"It is {number + 1}."} for number in range(8)],
    "text_continuation": [{"text": f"Cat {number} sleeps. Nobody wakes it."} for number in range(8)],
    "text": [{"text": f"The {number} cats sleep, and nobody wakes them."} for number in range(8)],
}
"""Rows of the tasks that have no generator."""


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return build_task(task_settings(request.param))


@pytest.fixture
def rows(task: Task) -> list[Row]:
    return OWN_ROWS.get(task.name) or list(generating(task).generate_rows(8, seed=1))


def numbered(rows: list[Row]) -> list[tuple[str, Row]]:
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def test_the_name_of_a_task_is_its_key(task: Task) -> None:
    assert build_task(task_settings(task.name)) == task
    assert task.max_new_tokens > task.min_new_tokens >= 0
    assert build_task(task_settings(task.name, max_new_tokens=3)).max_new_tokens == 3


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_come_back_as_they_were_written(task: Task, rows: list[Row], name: str, tmp_path: Path) -> None:
    if (task.name, name) in (
        ("arithmetic", "rows.json"),
        ("reading", "rows.jsonl"),
        ("text", "rows.json"),
        ("text_continuation", "rows.json"),
    ):
        pytest.skip("not a layout that the task writes")
    task.write(tmp_path / name, rows)
    assert [row for _, row in task.read(tmp_path / name).rows] == rows


@pytest.mark.parametrize("training", [True, False])
def test_prompts_end_where_answers_begin(task: Task, rows: list[Row], training: bool, byte_tokenizer: Any) -> None:
    examples = list(task.examples(numbered(rows), training=training))
    assert len(examples) >= len(rows)
    for example in examples:
        row = encode_row(byte_tokenizer, example)
        check_scored_tokens(row, {byte_tokenizer.eos_token_id})
        assert list(row.token_ids[: row.completion_start]) == encode_prompt(byte_tokenizer, example, 10**6)[0]
        assert byte_tokenizer.decode(row.token_ids[row.completion_start : -1]) == example.target
        assert "".join(example.prompt_parts or (example.prompt,)) == example.prompt


@pytest.mark.parametrize("training", [True, False])
def test_targets_are_correct_and_not_cut(task: Task, rows: list[Row], training: bool) -> None:
    for example in task.examples(numbered(rows), training=training):
        assert cut_at_stop(example.target, task.stop) == (example.target, False)
        assert task.judge(example, example.target).correct is True
        assert task.judge(example, "").correct is False
        assert task.judge(example, "something else").correct is False


def test_figures_of_all_right_and_all_wrong(task: Task, rows: list[Row]) -> None:
    examples = list(task.examples(numbered(rows), training=False))
    judged = {text: [task.judge(example, text or example.target) for example in examples] for text in ("", "?")}
    if not task.generates_answers:
        scores = {BITS_PER_BYTE: 0.5, WEIGHTS[BITS_PER_BYTE]: 8.0}
        assert task.scores_references
        assert task.metrics([with_reference_scores(score, scores) for score in judged["?"]])[task.metric] == 0.5
        return
    best, worst = task.metrics(judged[""]), task.metrics(judged["?"])
    assert best[task.metric] == (100.0 if task.score_name_by_metric else 1.0)
    assert worst[task.metric] == 0.0
    assert set(task.score_name_by_metric) <= set(best)


def test_a_row_of_something_else_is_named(task: Task) -> None:
    for training in (True, False):
        with pytest.raises(DataError, match="row 7"):
            list(task.examples([("row 7", {"height": "1", "width": "2"})], training=training))


def test_the_seed_decides_generated_rows(task: Task) -> None:
    if task.name in OWN_ROWS:
        with pytest.raises(SettingsError, match="has no generator"):
            generating(task)
        return
    made = generating(task)
    assert list(made.generate_rows(5, 1)) == list(made.generate_rows(5, 1)) != list(made.generate_rows(5, 2))
    assert len(list(made.generate_training_rows(5, 1))) == 5


def test_an_unknown_scorer_or_column_is_refused(task: Task) -> None:
    foreign = {"arithmetic": "contains", "instructions": "letter", "custom": "likelihood:letter"}.get(
        task.name, "exact"
    )
    fields = TASKS[task.name].settings.model_fields
    known = (
        rf"task.scorer is '{foreign}': expected one of " if "scorer" in fields else "task.scorer is not a setting of "
    )
    with pytest.raises(SettingsError, match=known):
        read_settings(Recipe, None, [f"task.name={task.name}", f"task.scorer={foreign}"])
    with pytest.raises(SettingsError, match=r"task.columns: height is not a field of|task.columns is not a setting of"):
        build_task(read_settings(Recipe, None, [f"task.name={task.name}", "task.columns={height: h}"]).task)


def test_settings_of_another_task_are_refused_with_those_that_it_has(task: Task) -> None:
    own = {name: set(entry.settings.model_fields) for name, entry in TASKS.items()}
    foreign = sorted(set().union(*own.values()) - own[task.name])
    for name in foreign:
        with pytest.raises(SettingsError) as error:
            read_settings(Recipe, None, [f"task.name={task.name}", f"task.{name}=1"])
        assert f"task.{name} is not a setting of {task.name}, which has " in error.value.found
        assert all(word in error.value.found for word in own[task.name] - {"name"})
