"""The rows of a run: nothing is lost without a count, and no evaluation row is trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotune.data.examples import Example, as_record, from_record
from lotune.data.settings import DataSettings
from lotune.errors import DataError, SettingsError
from lotune.tasks.arithmetic.task import ArithmeticSettings, ArithmeticTask
from lotune.tasks.build_datasets import (
    EvaluationSet,
    build_datasets,
    evaluation_rows,
    evaluation_set,
    retention_validation,
    right_by_rule,
)
from lotune.tasks.custom import CustomSettings, CustomTask
from lotune.tasks.instructions.task import InstructionsSettings, InstructionsTask
from lotune.tasks.reading.task import ReadingSettings, ReadingTask
from lotune.tasks.registry import build_task, task_settings
from lotune.tasks.sentence_classification import SentenceClassificationTask

TASK = ArithmeticTask(ArithmeticSettings())


def row(number: int, text: str = "") -> dict[str, str]:
    return {"problem": text or f"计算 {number} + 1 等于多少？", "solution": f"{number} + 1 = {number + 1}"}


def write(path: Path, rows: Sequence[Any]) -> Path:
    lines = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def prompts(examples: Sequence[Example]) -> set[str]:
    return {example.prompt for example in examples}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    numbers=st.lists(st.integers(0, 40), min_size=8, max_size=60),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    drawn=st.none() | st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_every_row_of_a_file_is_accounted_for(
    tmp_path: Path, numbers: list[int], sizes: tuple[int, int], drawn: int | None, seed: int
) -> None:
    file = write(tmp_path / "rows.jsonl", [row(number) for number in numbers])
    how = DataSettings(train=file, validation_rows=sizes[0], test_rows=sizes[1], sample={"rows": drawn})
    if len(set(numbers)) <= sum(sizes):
        with pytest.raises(DataError):
            build_datasets(TASK, how, seed, {})
        return
    data = build_datasets(TASK, how, seed, {})
    counts = data.counts
    assert (counts.read, counts.duplicates) == (len(numbers), len(numbers) - len(set(numbers)))
    assert (counts.validation, counts.test) == (len(data.validation), len(data.test)) == sizes
    assert counts.kept == len(data.train) == sum(counts.kinds.values())
    parts = (counts.duplicates, counts.not_sampled, counts.validation, counts.test, counts.overlap.removed, counts.kept)
    assert counts.read == sum(parts)
    sides = [prompts(data.train), prompts(data.validation), prompts(data.test)]
    assert len(sides[0] | sides[1] | sides[2]) == sum(map(len, sides))
    if drawn is not None:
        assert counts.kept <= drawn
    assert build_datasets(TASK, how, seed, {}) == data


@pytest.mark.parametrize(("rows", "test", "validation"), [(3, 1, 1), (60, 20, 8), (1000, 200, 100), (4000, 500, 100)])
def test_default_splits_leave_most_rows_to_train_on(rows: int, test: int, validation: int, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(number) for number in range(rows)])
    data = build_datasets(TASK, DataSettings(train=file), 0, {})
    assert (len(data.test), len(data.validation)) == (test, validation)
    assert data.counts.kept == len(data.train) == rows - test - validation
    # A number that the settings name is meant.
    named = build_datasets(TASK, DataSettings(train=file, test_rows=rows - 2, validation_rows=1), 0, {})
    assert (len(named.train), len(named.test)) == (1, rows - 2)


def test_rows_of_an_evaluation_set_are_removed_from_training(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [row(number) for number in range(40)])
    test = write(tmp_path / "test.jsonl", [row(3), row(4, "计算　４ + 1 等于多少？"), row(99)])
    how = DataSettings(train=train, test=test, validation_rows=5)
    retained = [Example("q", TASK.settings.instruction_prefix + prompt_of(7), "")]
    data = build_datasets(TASK, how, 1, {"retention": retained})
    results = data.counts.overlap.sets
    met = {name: (one.exact, one.normalised) for name, one in results.items()}
    in_validation = {number for number in (3, 4, 7) if prompt_of(number) in prompts(data.validation)}
    assert met["test"] == (int(3 not in in_validation), int(4 not in in_validation))
    assert met["retention"] == (int(7 not in in_validation), 0)
    assert data.counts.overlap.removed == 3 - len(in_validation)
    assert not prompts(data.train) & {prompt_of(3), prompt_of(4), prompt_of(7)}
    assert (data.counts.test, data.counts.validation) == (0, 5)


def prompt_of(number: int) -> str:
    [example] = TASK.examples([("x", row(number))], training=False)
    return example.prompt


def test_a_validation_file_takes_no_training_row(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [row(number) for number in range(30)])
    validation = write(tmp_path / "validation.jsonl", [row(number) for number in range(20, 60)])
    how = DataSettings(train=train, validation=validation, validation_rows=12, test_rows=4)
    data = build_datasets(TASK, how, 1, {})
    assert (len(data.validation) + data.counts.validation_removed, data.counts.validation) == (12, 0)
    assert data.counts.test == 4
    assert not prompts(data.train) & prompts(data.validation)
    assert data.counts.kept == 30 - 4 - data.counts.overlap.removed


def test_validation_rows_of_the_test_are_removed(tmp_path: Path) -> None:
    """Two rows with one problem and two solutions are no duplicates, and can be split to different sides."""
    problems = [f"计算 {number % 40} + 1 等于多少？" for number in range(80)]
    rows = [{"problem": problem, "solution": f"{index}"} for index, problem in enumerate(problems)]
    how = DataSettings(train=write(tmp_path / "rows.jsonl", rows), validation_rows=12, test_rows=12)
    removed = []
    for seed in range(5):
        data = build_datasets(TASK, how, seed, {})
        assert not prompts(data.validation) & prompts(data.test)
        assert len(data.validation) + data.counts.validation_removed == data.counts.validation == 12
        removed.append(data.counts.validation_removed)
    assert any(removed)


def test_malformed_validation_rows_are_counted(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [row(number) for number in range(9)])
    validation = write(tmp_path / "validation.jsonl", [row(50), "{broken", {"problem": "?", "answer": "2"}])
    how = {"train": train, "validation": validation, "test_rows": 2}
    with pytest.raises(DataError, match=r"validation\.jsonl:2"):
        build_datasets(TASK, DataSettings(**how), 0, {})
    counts = build_datasets(TASK, DataSettings(**how, on_error="skip"), 0, {}).counts
    assert (counts.malformed, len(counts.malformed_rows), counts.read) == (2, 2, 9)


def test_rows_of_one_fault_are_listed_together(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"problems": "1 + 1", "Solution": "2"}] * 14)
    with pytest.raises(DataError) as caught:
        build_datasets(TASK, DataSettings(train=file), 0, {})
    text = str(caught.value)
    assert text.count("is not an arithmetic row") == 1
    assert "rows.jsonl:10 is no" in text
    assert "and 4 more" in text
    assert "nearest to 'problem' is 'problems'; nearest to 'solution' is 'Solution'" in text


def test_generated_rows(tmp_path: Path) -> None:
    how = DataSettings(generated_rows=60, validation_rows=10, test_rows=25)
    data = build_datasets(TASK, how, 2, {})
    assert (data.counts.read, data.counts.validation, data.counts.test) == (70, 10, 0)
    assert (len(data.validation), len(data.test)) == (10, 25)
    assert data.counts.kept == len(data.train) == 60 - data.counts.overlap.removed
    assert any("=?\n" in example.target for example in data.train)
    assert not any("=?\n" in example.target for example in data.test)
    assert prompts(build_datasets(TASK, how, 3, {}).train) != prompts(data.train)


def test_every_row_without_an_answer_is_named(tmp_path: Path) -> None:
    rows: list[Any] = [row(number) for number in range(20)]
    rows[4] = {"problem": "计算 4 + 1 等于多少？", "solution": ""}
    rows[11] = {"question": "?"}
    file = write(tmp_path / "rows.jsonl", rows)
    how = {"train": file, "validation_rows": 2, "test_rows": 2}
    with pytest.raises(DataError, match="2 of 20 rows cannot be used") as caught:
        build_datasets(TASK, DataSettings(**how), 0, {})
    text = str(caught.value)
    assert "rows.jsonl:5 has no solution" in text
    assert "rows.jsonl:12 is not an arithmetic row" in text
    assert len(text.splitlines()) <= 3
    data = build_datasets(TASK, DataSettings(**how, on_error="skip"), 0, {})
    assert (data.counts.read, data.counts.malformed, data.counts.kept) == (18, 2, 14)
    assert [text.split(" ")[0].rpartition("/")[2] for text in data.counts.malformed_rows] == [
        "rows.jsonl:5",
        "rows.jsonl:12",
    ]


def test_lines_that_are_no_json_are_named_and_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [*(row(number) for number in range(12)), "{broken"])
    with pytest.raises(DataError, match=r"rows\.jsonl:13"):
        build_datasets(TASK, DataSettings(train=file, validation_rows=1, test_rows=1), 0, {})
    counts = build_datasets(
        TASK, DataSettings(train=file, validation_rows=1, test_rows=1, on_error="skip"), 0, {}
    ).counts
    assert (counts.malformed, counts.read, counts.kept) == (1, 12, 10)


def test_no_rows_left_to_train_on(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(number) for number in range(6)])
    one = write(tmp_path / "one.jsonl", [row(99)])
    with pytest.raises(DataError, match="no training row is left"):
        build_datasets(TASK, DataSettings(train=file, test=file, validation=one), 0, {})
    with pytest.raises(DataError, match="every validation row is also in the test set"):
        build_datasets(TASK, DataSettings(train=file, test=file, validation_rows=2), 0, {})
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        build_datasets(TASK, DataSettings(train=tmp_path / "missing.jsonl"), 0, {})


def test_a_test_file_is_drawn_from_by_seed(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(number) for number in range(30)])
    few = evaluation_rows(TASK, file, 10, 1)
    assert len(few) == 10
    assert prompts(few) != prompts(evaluation_rows(TASK, file, 10, 2))
    assert len(evaluation_rows(TASK, file, None, 1)) == 30
    assert len(evaluation_rows(TASK, None, 7, 1)) == 7


def test_all_rows_of_a_file_are_evaluated_unless_a_limit_is_set(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [row(number) for number in range(30)])
    test = write(tmp_path / "test.jsonl", [row(number) for number in range(100, 800)])
    validation = write(tmp_path / "validation.jsonl", [row(number) for number in range(1000, 1150)])
    files = {"train": train, "test": test, "validation": validation}
    complete = build_datasets(TASK, DataSettings(**files), 1, {})
    assert (len(complete.test), len(complete.validation)) == (700, 150)
    few = build_datasets(TASK, DataSettings(**files, test_rows=9, validation_rows=8), 1, {})
    assert (len(few.test), len(few.validation)) == (9, 8)
    assert complete.file_rows == few.file_rows == {"test": 700, "validation": 150}
    generated = build_datasets(TASK, DataSettings(generated_rows=40), 1, {})
    assert (len(generated.test), len(generated.validation), generated.file_rows) == (500, 100, {})


def test_equal_shares_of_sentences_are_those_of_the_labels(tmp_path: Path) -> None:
    rows = [{"sentence": f"Sentence {number}.", "label": str(int(number % 4 == 0))} for number in range(80)]
    file = write(tmp_path / "rows.jsonl", rows)
    how = DataSettings(train=file, validation_rows=4, test_rows=4, sample={"stratify": "equal"})
    kinds = build_datasets(SentenceClassificationTask(), how, 1, {}).counts.kinds
    assert kinds.keys() == {"0", "1"}
    assert kinds["0"] == kinds["1"] >= 12


def test_equal_shares_of_rows_without_kinds_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"question": f"{number}?", "answer": "a"} for number in range(20)])
    task = CustomTask(CustomSettings())
    for rows in (None, 5):
        how = DataSettings(train=file, validation_rows=4, test_rows=4, sample={"stratify": "equal", "rows": rows})
        with pytest.raises(SettingsError, match=r"data\.sample\.stratify: is equal, but no row has a kind"):
            build_datasets(task, how, 1, {})


def test_a_test_row_without_a_reference_stays(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row(1), {"problem": "计算 2 + 1 等于多少？"}])
    examples = evaluation_rows(TASK, file, None, 0)
    assert [TASK.judge(example, "2").correct for example in examples] == [True, None]


def test_reading_trains_on_every_question_and_tests_on_the_first() -> None:
    task = ReadingTask()
    data = build_datasets(task, DataSettings(generated_rows=30, validation_rows=5, test_rows=6), 1, {})
    assert len(data.test) == 6
    assert data.counts.read > 35
    assert not prompts(data.train) & prompts(data.test)


@given(
    st.builds(
        Example,
        *(st.text() for _ in range(3)),
        st.lists(st.text(), max_size=3).map(tuple),
        st.text(),
        st.lists(st.text(), max_size=2).map(tuple),
        st.none() | st.tuples(st.text(), st.text(), st.text()),
    )
)
def test_an_example_survives_its_file(example: Example) -> None:
    try:
        line = json.dumps(as_record(example), ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair is no text
        return
    assert from_record(json.loads(line)) == example


@pytest.mark.parametrize(
    ("task", "row", "remedy"),
    [
        ({"name": "sentences"}, {"sentence": "It rains.", "label": "good"}, "task.labels"),
        ({"name": "sentences"}, {"sentence": "It rains.", "gold": "1"}, "task.columns={label: COLUMN}"),
        ({"name": "sentences"}, {"text": "It rains.", "label": "1"}, "task.columns={sentence: COLUMN, label: COLUMN}"),
        ({"name": "choice"}, {"question": "Q", "A": "a", "B": "b", "key": "A"}, "task.columns={answer: COLUMN}"),
        ({"name": "choice"}, {"question": "Q", "A": "a", "B": "b", "answer": "x"}, "task.columns={answer: COLUMN}"),
        ({"name": "choice"}, {"q": "Q", "A": "a", "B": "b", "answer": "A"}, "task.columns={question: COLUMN, A:"),
        ({"name": "arithmetic"}, {"task": "1 + 1", "key": "2"}, "task.columns={problem: COLUMN, solution: COLUMN}"),
        ({"name": "arithmetic"}, {"problem": "1 + 1", "key": "2"}, "task.columns={solution: COLUMN}"),
        ({"name": "instructions"}, {"instruction": "Hi", "output": ""}, "task.columns"),
        ({"name": "custom", "scorer": "exact"}, {"question": "Q", "gold": "A"}, "task.answer_column"),
        ({"name": "custom", "prompt": "{text}"}, {"question": "Q", "answer": "A"}, "task.prompt"),
        (
            {"name": "custom", "scorer": "label", "labels": {"0": "no", "1": "yes"}},
            {"question": "Q", "answer": "maybe"}, "task.labels",
        ),
    ],
)  # fmt: skip
def test_a_refused_row_names_the_setting_that_mends_it(
    tmp_path: Path, task: dict[str, Any], row: dict[str, str], remedy: str
) -> None:
    file = tmp_path / "rows.jsonl"
    write(file, [row] * 3)
    with pytest.raises(DataError) as error:
        build_datasets(build_task(task_settings(**task)), DataSettings(train=file), 0, {})
    assert remedy in error.value.remedy
    assert "data.on_error=skip" in error.value.remedy
    assert len(str(error.value).splitlines()) <= 3


def test_training_answers_are_scored_under_each_rule() -> None:
    """The working of 1 / 3 ends at 0.333333: right to five digits, and not exactly."""
    quotient = {"problem": "计算 1 / 3 等于多少？", "solution": f"1 / 3 = 0.{'3' * 28}"}
    rows = [("a", quotient), ("b", row(5)), ("c", {"problem": "Why?", "solution": "Nobody knows."})]
    task = ArithmeticTask(ArithmeticSettings(scorer="relative:0.1"))
    assert right_by_rule(task, list(task.examples(rows, training=True))) == {
        "relative:0.1": {"right": 2, "rows": 2}, "exact": {"right": 1, "rows": 2},
        "significant:5": {"right": 2, "rows": 2}, "decimals:2": {"right": 2, "rows": 2},
        "relative:1e-4": {"right": 2, "rows": 2},
    }  # fmt: skip
    reading = ReadingTask(ReadingSettings())
    assert right_by_rule(reading, list(reading.examples([], training=True))) == {}


def test_of_many_training_answers_evenly_spaced_ones_are_scored() -> None:
    task = ArithmeticTask(ArithmeticSettings())
    rows = [(str(number), row(number)) for number in range(5, 15)]
    rows[1::2] = [(name, {**one, "solution": "x = 1 / 3 = 0.33333333"}) for name, one in rows[1::2]]
    every, some = (right_by_rule(task, list(task.examples(rows, training=True)), most)["exact"] for most in (10, 5))
    assert every == {"right": 5, "rows": 10}
    assert some == {"right": 5, "rows": 5}


READING = ReadingTask(ReadingSettings(language="en"))


def passages(examples: Sequence[Example]) -> set[str]:
    return {example.prompt_parts[1] for example in examples if example.prompt_parts}


def squad(path: Path, numbers: Sequence[int]) -> Path:
    """A file in SQuAD's layout with two questions to each numbered passage."""
    paragraphs = [
        {"title": "", "context": f"Box {n} is red and has {n} keys.", "qas": [
            {"id": f"{n}-colour", "question": f"What colour is box {n}?", "answers": [{"text": "red"}]},
            {"id": f"{n}-keys", "question": f"How many keys has box {n}?", "answers": [{"text": str(n)}]},
        ]}
        for n in numbers
    ]  # fmt: skip
    READING.write(path, paragraphs)
    return path


def watched(test: EvaluationSet, path: Path | None = None, rows: int | None = None, data: Path | None = None) -> Any:
    return retention_validation(READING, path, rows, 1, test.examples, data)


def test_generated_retention_rows_to_validate_on_share_nothing_with_the_test() -> None:
    test = evaluation_set(READING, None, 200, 5)
    rows = watched(test, rows=60)
    assert 50 <= len(rows) <= 60
    assert not prompts(rows) & prompts(test.examples)
    assert not passages(rows) & passages(test.examples)
    assert prompts(rows) == prompts(watched(test, rows=60))
    assert watched(test, rows=0) == []


def test_retention_rows_of_a_file_leave_out_the_passages_of_the_test(tmp_path: Path) -> None:
    test = evaluation_set(READING, squad(tmp_path / "test.json", range(10)), None, 1)
    rows = watched(test, squad(tmp_path / "validation.json", range(5, 20)))
    assert len(rows) == 10
    assert not passages(rows) & passages(test.examples)
    assert len(watched(test, tmp_path / "validation.json", 4)) == 4
    with pytest.raises(DataError, match=r"retention\.validation"):
        watched(test, tmp_path / "test.json")


def test_a_task_that_generates_no_rows_leaves_some_of_its_file(tmp_path: Path) -> None:
    task = InstructionsTask(InstructionsSettings())
    file = write(tmp_path / "rows.jsonl", [{"instruction": f"Say {n}.", "output": str(n)} for n in range(30)])
    test = evaluation_set(task, file, 20, 1)
    rows = retention_validation(task, None, 100, 1, test.examples, file)
    assert len(rows) == 10
    assert not prompts(rows) & prompts(test.examples)
    whole = evaluation_set(task, file, None, 1)
    assert list(retention_validation(task, None, 100, 1, whole.examples, file)) == [], "the test asks every row"
