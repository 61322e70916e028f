"""Single choice: every layout reads to the same question, and the judge agrees with the contest's own results."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import DataError
from lotune.tasks.multiple_choice import (
    LETTERS,
    ChoiceSettings,
    MultipleChoiceQuestion,
    MultipleChoiceTask,
    extract_letter,
    parse_question,
)

CONTEST = {
    "instruction": (
        "Here is a question about arts, the correct answer is one of the options A/B/C/D. Please select the correct "
        "option and answer the question with 'The right option is'."
    ),
    "input": "Question: Who? \nA.one\nB.two\nlines\nC.three\nD.four",
    "output": "The right option is B.",
}
WANTED = MultipleChoiceQuestion("Who?", ("one", "two\nlines", "three", "four"), "B", "arts")


@pytest.mark.parametrize(("id", "row"), [
    ("a.json[0]", CONTEST),
    ("arts_dev.csv:1", dict(zip("123456", ("Who?", "one", "two\nlines", "three", "four", "B"), strict=True))),
    ("arts.csv:2", {"1": "0", "Question": "Who?", **dict(zip("ABCD", WANTED.options, strict=True)), "Answer": "B"}),
    ("x:1", {"question": "Who?", "options": list(WANTED.options), "answer": 1, "domain": "arts"}),
    ("x:1", {"question": "Who?", "choices": list(WANTED.options), "answer": "two\nlines", "domain": "arts"}),
])  # fmt: skip
def test_every_layout_reads_to_the_same_question(id: str, row: dict[str, Any]) -> None:
    assert parse_question(id, row) == WANTED


def test_the_contest_s_prompt_comes_back() -> None:
    [example] = MultipleChoiceTask(ChoiceSettings(template="plain")).examples([("1", CONTEST)], training=True)
    assert example.prompt == CONTEST["instruction"] + CONTEST["input"]
    assert (example.target, example.references, example.category) == (CONTEST["output"], ("B",), "arts")


@pytest.mark.parametrize(("row", "expected"), [
    ({"question": "Who?", "options": ["one"], "answer": "A"}, "two options"),
    ({"question": "", "options": ["one", "two"], "answer": "A"}, "two options"),
    ({"question": "Who?", "options": ["one", "two"], "answer": "C"}, "'C' is none of its options"),
    ({"question": "Who?", "options": ["one", "two"], "answer": 2}, "'2' is none of its options"),
    ({"question": "Who?", "options": ["one", "two"], "answer": "Vitamin A"}, "is none of its options"),
    ({"question": "Who?", "A": "one", "B": "", "C": "three", "answer": "A"}, "option B is empty"),
    ({"question": "Who?", "options": list("abcdefghijk"), "answer": "A"}, "11 options"),
    ({**CONTEST, "input": "Who?"}, "not a question with options"),
])  # fmt: skip
def test_a_row_that_is_no_question_is_named(row: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        parse_question("row 3", row)


@pytest.mark.parametrize(("answer", "letter"), [
    (" Vitamin C", "B"), ("b", None), ("C", "C"), ("(C)", "C"), ("1", "B"), (0, "A"), ("The right option is B.", "B"),
    (None, ""), ("", ""),
])  # fmt: skip
def test_the_reference_of_a_row(answer: Any, letter: str | None) -> None:
    row = {"question": "Which?", "A": " Vitamin A", "B": "Vitamin C ", "C": "Vitamin D", "D": "", "answer": answer}
    if letter is None:
        with pytest.raises(DataError):
            parse_question("train.csv:3", row)
        return
    result = parse_question("train.csv:3", row)
    assert (result.letter, result.options, result.domain) == (letter, ("Vitamin A", "Vitamin C", "Vitamin D"), "")


ROWS = [["Capital of Peru", "Lima", "Cusco", "Ica", "2", "A"], ["Who wrote it?", "one", "two", "three", "1", "C"]]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("keys", [True, False])
def test_a_table_without_a_header_keeps_its_first_row_and_all_its_options(
    tmp_path: Path, suffix: str, keys: bool
) -> None:
    rows = ROWS if keys else [row[:5] for row in reversed(ROWS)]
    file = tmp_path / f"world_facts_test{suffix}"
    file.write_text("".join(("," if suffix == ".csv" else "\t").join(row) + "\n" for row in rows))
    task = MultipleChoiceTask()
    examples = list(task.examples(task.read(file).rows, training=False))
    assert [example.references for example in examples] == ([("A",), ("C",)] if keys else [(), ()])
    assert [example.choices for example in examples] == [tuple(row[1:5]) for row in rows]
    for row, example in zip(rows, examples, strict=True):
        assert f"Question: {row[0]} \nA.{row[1]}\nB.{row[2]}\nC.{row[3]}\nD.{row[4]}" in example.prompt
        assert "A/B/C/D" in example.prompt
        assert suffix != ".csv" or example.category == "world facts"


def test_five_columns_may_be_three_options_and_a_letter(tmp_path: Path) -> None:
    file = tmp_path / "three.csv"
    file.write_text("Who wrote it?,one,two,three,C\nWho read it?,one,two,three,\n")
    task = MultipleChoiceTask()
    examples = list(task.examples(task.read(file).rows, training=False))
    assert [(example.choices, example.references) for example in examples] == [
        (("one", "two", "three"), key) for key in [("C",), ()]
    ]


@pytest.mark.parametrize(("columns", "asked"), [
    ({"question": "Q", "A": "a", "B": "b", "answer": "B"}, ["Who?"]),  # names settle that there is a header
    ({"question": "2", "A": "3", "B": "4", "answer": "6"}, ["Q", "Who?"]),
])  # fmt: skip
def test_columns_of_the_settings_settle_the_header(tmp_path: Path, columns: dict[str, str], asked: list[str]) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("id,Q,a,b,c,B\n7,Who?,one,two,three,A\n")
    task = MultipleChoiceTask(ChoiceSettings(columns=columns))
    assert [row["question"] for _, row in task.read(file).rows] == asked


@given(st.integers(2, 10), st.randoms(use_true_random=False), st.data())
def test_a_shuffled_question_has_the_same_right_option(options: int, draw: random.Random, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, options - 1))
    question = MultipleChoiceQuestion("Which?", tuple(f"option {n}" for n in range(options)), LETTERS[right], "")
    other = question.shuffled(draw)
    assert sorted(other.options) == sorted(question.options)
    assert other.options[LETTERS.index(other.letter)] == f"option {right}"


def test_training_rows_are_augmented_and_test_rows_are_not() -> None:
    settings = ChoiceSettings(
        augmented_copies=5, include_option_text=True, step_by_step_prefix=True, instruction_style="plain"
    )
    task = MultipleChoiceTask(settings)
    results = list(task.examples([("r", CONTEST)], training=True))
    assert [result.id for result in results] == ["r", "r#1", "r#2", "r#3", "r#4", "r#5"]
    assert len({result.prompt for result in results}) > 1
    for result in results:
        letter = result.references[0]
        assert result.target == f"Let's think step by step. The right option is {letter}.two\nlines"
        assert task.judge(result, result.target).correct
        assert f"\n{letter}.two\nlines" in result.prompt
        assert "Choose the right option of this question about arts: A/B/C/D." in result.prompt
    assert list(task.examples([("r", CONTEST)], training=True)) == results, "the same each time"
    [asked] = task.examples([("r", CONTEST)], training=False)
    assert asked.target == CONTEST["output"]


@pytest.mark.parametrize(("text", "letter"), [
    ("The right option is C.iant.uv.uv.uv", "C"), ("答案是B", "B"), ("答案：D。", "D"), ("A good answer is B", "B"),
    ("A good start, then C", "C"), ("A is right", "A"), ("A and B", "A"), ("(D)", "D"), ("AB12 3C", None), ("", None),
    ("The answer is unknown, B perhaps", "B"), ("Option E", None), ("I think C.", "C"),
])  # fmt: skip
def test_the_letter_of_an_answer(text: str, letter: str | None) -> None:
    assert extract_letter(text) == letter
    if not text.startswith("Option E"):
        assert extract_letter(text, len(LETTERS)) == letter


@pytest.mark.oracle
@pytest.mark.parametrize(("checkpoint", "right"), [(0, 1328), (3, 1748)])
def test_the_predictions_that_the_contest_published(reference_data: Path, checkpoint: int, right: int) -> None:
    lines = (reference_data / "contest" / f"choice-predictions-checkpoint-{checkpoint}.jsonl").read_bytes().splitlines()
    rows = [orjson.loads(line) for line in lines]
    assert len(rows) == 2000
    assert sum(extract_letter(row["response"]) == row["key"] for row in rows) == right


@pytest.mark.oracle
def test_real_files_are_read_whole(reference_data: Path) -> None:
    task = MultipleChoiceTask()
    contest = task.read(reference_data / "contest" / "choice-2000.json").rows
    for example, (_, row) in zip(task.examples(contest, training=True), contest, strict=True):
        assert row["input"].strip() in example.prompt
        assert task.judge(example, row["output"]).correct
    for folder in ("mmlu", "cmmlu"):
        files = sorted((reference_data / "choice" / folder).rglob("*.csv"))
        assert files
        for file in files:
            results = list(task.examples(task.read(file).rows, training=True))
            assert all(len(result.choices) == 4 and result.category for result in results), file


@pytest.mark.oracle
@pytest.mark.parametrize("judge", ["likelihood:letter", "likelihood:text", "likelihood:text-normalised"])
def test_the_likeliest_option_is_that_of_transformers(small_base: Path, judge: str) -> None:
    import torch

    from lotune.evaluate.predict import predict
    from lotune.generate.answering_model import AnsweringModel
    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    base: Any = load_model(BaseSettings(model=str(small_base), dtype="float32"), "cpu")
    task = MultipleChoiceTask(ChoiceSettings(scorer=judge))
    draw = random.Random(3)
    options = [
        ["".join(draw.choices("abcdefg ", k=draw.randint(1, 9))).strip() or "x" for _ in "1234"] for _ in range(9)
    ]
    rows = [(str(n), {"question": f"{n}?", "options": some, "answer": 0}) for n, some in enumerate(options)]
    examples = list(task.examples(rows, training=False))
    results = predict(
        task, examples, AnsweringModel(base.model, base.tokenizer), batch_tokens=400, out=None, context=1024
    )
    for example, prediction in zip(examples, results, strict=True):
        texts = [f"The right option is {letter}." for letter in "ABCD"] if "letter" in judge else example.choices
        weights = []
        for text in texts:
            prompt, answer = (
                base.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (example.prompt, text)
            )
            ids = torch.tensor([[*prompt, *answer]])
            labels = torch.tensor([[*[-100] * len(prompt), *answer]])
            with torch.no_grad():
                total = -base.model(ids, labels=labels).loss.item() * len(answer)
            weights.append(total / len(text.encode()) if "normalised" in judge else total)
        best = "ABCD"[max(range(4), key=weights.__getitem__)]
        assert prediction.score.extracted == best
        assert prediction.score.correct == (best == "A")


def test_copies_are_trained_on_only_and_never_beside_a_row_that_tests(tmp_path: Path) -> None:
    from lotune.data.settings import DataSettings
    from lotune.tasks.build_datasets import build_datasets

    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"Which is {n}?", "options": [f"{n}", "b", "c", "d"], "answer": 0} for n in range(40)]
    file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in [*rows, rows[3]]))
    task = MultipleChoiceTask(ChoiceSettings(augmented_copies=3))
    settings = DataSettings(train=file, validation_rows=5, test_rows=6)
    results = build_datasets(task, settings, 1, {})
    assert (len(results.validation), len(results.test), results.counts.test) == (5, 6, 6)
    asked = {re.findall("Which is [0-9]+", item.prompt)[0] for item in (*results.validation, *results.test)}
    trained = {re.findall("Which is [0-9]+", item.prompt)[0] for item in results.train}
    assert not asked & trained
    assert len(asked | trained) == 40
    assert not any(item.augmented_from for item in (*results.validation, *results.test))
    assert len(results.train) > 2.5 * len(trained)
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows[:10]))
    apart = build_datasets(task, settings.model_copy(update={"test": other, "test_rows": 10}), 1, {})
    assert not {f"Which is {n}" for n in range(10)} & {
        re.findall("Which is [0-9]+", item.prompt)[0] for item in apart.train
    }
