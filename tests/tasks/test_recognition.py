"""Recognition of files as people bring them: the task, its columns, and the reasons that `lotune init` prints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lotune.data.examples import Example
from lotune.errors import DataError, SettingsError
from lotune.tasks.answer_measures import scorer_for
from lotune.tasks.candidates import Candidate, Wanted
from lotune.tasks.columns import columns_of
from lotune.tasks.recognition import candidate_of
from lotune.tasks.registry import build_task

Rows = Sequence[Mapping[str, Any]]
REVIEW = "We came on day {} and the rooms were {}."


def labelled_rows(text: str, label: str, values: Sequence[Any], count: int = 60, **more: Any) -> Rows:
    cells = [values[7 * number % len(values)] for number in range(count)]
    return [
        {text: REVIEW.format(number, cell), **{name: make(number) for name, make in more.items()}, label: cell}
        for number, cell in enumerate(cells)
    ]


def answered_rows(question: str, answer: str, count: int = 40, **more: Any) -> Rows:
    return [
        {
            **{name: make(number) for name, make in more.items()},
            question: f"Who lives in house number {number}?",
            answer: f"Resident {number * 7 % 41} of it",
        }
        for number in range(count)
    ]


def write(folder: Path, name: str, rows: Rows, mark: str = "") -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        text = table.getvalue()
    path.write_text(mark + text, encoding="utf-8", newline="")
    return path


def first_example(candidate: Candidate, path: Path) -> Example:
    task = build_task(candidate.settings)
    return next(iter(task.examples(task.read(path).rows, training=True)))


LABELS: Mapping[str, tuple[str, Rows, dict[str, str], str, list[str]]] = {
    "words": (
        "reviews.csv", labelled_rows("review", "sentiment", ["bad", "good"]),
        {"sentence": "review", "label": "sentiment"}, "Which sentiment fits this text?", ["bad", "good"],
    ),
    "an unknown name": (
        "mail.jsonl", labelled_rows("text", "department", ["sales", "billing", "returns", "repairs", "other"]),
        {"sentence": "text", "label": "department"}, "Which department fits this text?",
        ["billing", "other", "repairs", "returns", "sales"],
    ),
    "Chinese": (
        "zh.csv", [{"评论": f"第{n}天的房间{'很好' if n % 3 else '太脏'}", "情感": "好" if n % 3 else "差"}
                   for n in range(60)],
        {"sentence": "评论", "label": "情感"}, "这段文字的情感是什么？请回答", ["好", "差"],
    ),
    "identifiers, dates and empty columns": (
        "export.tsv",
        labelled_rows("message", "team", ["red", "blue"], id=lambda n: 1000 + 3 * n, date=lambda n: f"2024-05-{n % 28}",
                      note=lambda n: "", origin=lambda n: "web"),
        {"sentence": "message", "label": "team"}, "Which team fits this text?", ["blue", "red"],
    ),
    "stars": (
        "stars.csv", labelled_rows("comment", "stars", ["1", "2", "3", "4", "5"]),
        {"sentence": "comment", "label": "stars"}, "Which value of stars fits this text?", ["1", "2", "3", "4", "5"],
    ),
    "yes and no as numbers": (
        "mail.jsonl", labelled_rows("text", "is_spam", [0, 1]),
        {"sentence": "text", "label": "is_spam"}, "Does this text count as spam?", ["no", "yes"],
    ),
    "true and false": (
        "mail.jsonl", labelled_rows("text", "toxic", [False, True]),
        {"sentence": "text", "label": "toxic"}, "Does this text count as toxic?", ["no", "yes"],
    ),
    "a known meaning of numbers": (
        "mail.jsonl", labelled_rows("text", "sentiment", [-1, 0, 1]),
        {"sentence": "text", "label": "sentiment"}, "Which sentiment", ["negative", "neutral", "positive"],
    ),
    "numbers alone": (
        "mail.jsonl", labelled_rows("text", "label", [0, 1]),
        {"sentence": "text", "label": "label"}, "Which label fits this text?", [],
    ),
    "pairs": (
        "pairs.tsv", labelled_rows("sentence1", "label", ["same", "other"], sentence2=lambda n: f"Day {n} was fine."),
        {"first": "sentence1", "second": "sentence2", "label": "label"}, "Which label fits these two texts?",
        ["other", "same"],
    ),
    "blanks around names": (
        "blank.csv", labelled_rows(" review ", "  sentiment", ["bad", "good"]),
        {"sentence": "review", "label": "sentiment"}, "Which sentiment fits this text?", ["bad", "good"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_texts_with_labels(name: str, mark: str, tmp_path: Path) -> None:
    file, rows, columns, instruction, words = LABELS[name]
    path = write(tmp_path, file, rows, mark)
    candidate = candidate_of(path)
    settings: Any = candidate.settings
    assert (settings.name, settings.columns) == ("sentences", columns)
    assert settings.instruction.startswith(instruction)
    assert sorted(settings.labels.values()) == sorted(words)
    assert first_example(candidate, path).target


def test_each_decision_names_what_changes_it(tmp_path: Path) -> None:
    rows = labelled_rows("message", "team", ["red", "blue"], id=lambda n: n, note=lambda n: "")
    decisions = [str(decision) for decision in candidate_of(write(tmp_path, "a.csv", rows)).decisions]
    assert decisions == [
        "task: sentences, texts with one of 2 labels (--task)",
        "columns: sentence is 'message', label is 'team' (--column ROLE=NAME)",
        "labels: blue, red, the words of the file (task.labels, task.instruction)",
        "measure: accuracy, as each answer is a label; the commonest, red, alone would have 50.0 % (--task)",
        "left out: 'id' (an identifier), 'note' (empty) (--column ROLE=NAME)",
    ]


def test_numbers_without_a_meaning_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", labelled_rows("text", "label", ["0", "1", "2"]))
    asked = [str(decision) for decision in candidate_of(path).decisions if "labels:" in decision.text]
    assert "the file does not say what they mean" in asked[0]
    assert "task.labels, such as {0: WORD, 1: WORD}" in asked[0]


def test_several_columns_of_labels_are_listed(tmp_path: Path) -> None:
    rows = labelled_rows("text", "colour", ["red", "blue"], size=lambda n: ["small", "large"][n % 2])
    path = write(tmp_path, "a.csv", rows)
    candidate = candidate_of(path)
    assert candidate.settings.columns["label"] == "colour"  # type: ignore[attr-defined]
    assert [other.change for other in candidate.others] == ["--column label=size"]
    chosen = candidate_of(path, Wanted(columns={"label": "size"}))
    assert chosen.settings.columns == {"sentence": "text", "label": "size"}  # type: ignore[attr-defined]


def test_other_texts_are_listed(tmp_path: Path) -> None:
    rows = labelled_rows("text", "team", ["red", "blue"], title=lambda n: f"Letter {n}")
    others = candidate_of(write(tmp_path, "a.csv", rows)).others
    assert [other.change for other in others] == ["--column sentence=title"]
    rows = answered_rows("question", "answer", note=lambda n: f"Note {n} of the clerk")
    others = candidate_of(write(tmp_path, "b.csv", rows)).others
    assert [other.change for other in others] == ["--column output=note"]


def test_lists_of_labels_are_refused(tmp_path: Path) -> None:
    rows = [{"text": f"Letter {n}.", "labels": ["a", "b"][: n % 2 + 1]} for n in range(30)]
    with pytest.raises(DataError) as caught:
        candidate_of(write(tmp_path, "a.jsonl", rows))
    assert "pretrain" not in caught.value.remedy


def test_a_file_sorted_by_label_is_recognised(tmp_path: Path) -> None:
    rows = sorted(labelled_rows("text", "team", ["red", "blue"], 2500), key=lambda row: str(row["team"]))
    assert candidate_of(write(tmp_path, "a.csv", rows)).settings.name == "sentences"


@pytest.mark.parametrize(
    ("question", "answer", "columns"),
    [
        ("prompt", "completion", {}),
        ("prompt", "response", {"completion": "response"}),
        ("instruction", "response", {"output": "response"}),
        ("input", "output", {"instruction": "input"}),
        ("question", "answer", {"instruction": "question", "output": "answer"}),
        ("source", "target", {"instruction": "source", "output": "target"}),
        ("text", "summary", {"instruction": "text", "output": "summary"}),
        ("问题", "答案", {"instruction": "问题", "output": "答案"}),
        ("said", "meant", {"instruction": "said", "output": "meant"}),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_texts_with_answers(question: str, answer: str, columns: dict[str, str], suffix: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"id": lambda n: f"row-{n}", "empty": lambda n: ""}
    for others in ({}, more):
        path = write(tmp_path, f"rows{suffix}", answered_rows(question, answer, **others))
        candidate = candidate_of(path)
        settings: Any = candidate.settings
        assert (settings.name, settings.columns) == ("instructions", columns)
        assert settings.template == ("plain" if question == "prompt" else "auto")
        example = first_example(candidate, path)
        assert "Who lives in house number 0?" in example.prompt
        assert example.references == ("Resident 0 of it",)


def test_a_context_is_the_input(tmp_path: Path) -> None:
    rows = answered_rows("question", "answer", context=lambda n: f"House {n} is old.")
    candidate = candidate_of(write(tmp_path, "a.csv", rows))
    assert candidate.settings.columns == {  # type: ignore[attr-defined]
        "instruction": "question", "output": "answer", "input": "context",
    }  # fmt: skip


def test_numbers_in_json_are_answers(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} times 1.5?", "answer": n * 1.5} for n in range(30)]
    path = write(tmp_path, "a.jsonl", rows)
    candidate = candidate_of(path)
    assert candidate.settings.scorer == "significant:5"  # type: ignore[attr-defined]
    task = build_task(candidate.settings)
    example = first_example(candidate, path)
    assert task.judge(example, "0").correct
    assert not task.judge(example, "It is 0.5").correct


@pytest.mark.parametrize(
    ("wanted", "columns"),
    [
        (Wanted("instructions"), {"instruction": "text", "output": "team"}),
        (Wanted(columns={"question": "text", "answer": "team"}), {"instruction": "text", "output": "team"}),
        (Wanted(columns={"prompt": "text", "completion": "team"}), {"prompt": "text", "completion": "team"}),
        (Wanted("sentences", {"text": "team", "label": "text"}), {"sentence": "team", "label": "text"}),
    ],
)
def test_the_user_decides(wanted: Wanted, columns: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", labelled_rows("text", "team", ["red", "blue"]))
    assert candidate_of(path, wanted).settings.columns == columns  # type: ignore[attr-defined]


def test_a_custom_task_names_prompt_and_answer(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", answered_rows("said", "meant"))
    settings: Any = candidate_of(path, Wanted("custom")).settings
    assert (settings.prompt, settings.answer_column, settings.scorer) == ("{said}", "meant", "exact")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted("sentense"), "did you mean sentences?"),
        (Wanted(columns={"label": "teem"}), "has no column 'teem'; nearest to 'teem' is 'team'"),
        (Wanted(columns={"colour": "team"}), "no task has the roles colour"),
        (Wanted("choice", {"label": "team"}), "choice has no role label"),
    ],
)
def test_wrong_wishes_are_refused(wanted: Wanted, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", labelled_rows("text", "team", ["red", "blue"]))
    with pytest.raises(SettingsError) as caught:
        candidate_of(path, wanted)
    assert said in str(caught.value)


def test_a_table_of_many_texts_is_refused_with_the_options(tmp_path: Path) -> None:
    rows = [{name: f"{name} of day {n}: something" for name in ("morning", "noon", "evening")} for n in range(30)]
    path = write(tmp_path, "a.csv", rows)
    with pytest.raises(DataError) as caught:
        candidate_of(path)
    assert "--column question=NAME --column answer=NAME" in caught.value.remedy
    chosen = candidate_of(path, Wanted(columns={"question": "noon", "answer": "evening"}))
    assert chosen.settings.columns == {"instruction": "noon", "output": "evening"}  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="--column sentence=NAME --column label=NAME"):
        candidate_of(path, Wanted("sentences"))


@pytest.mark.parametrize(
    ("answers", "scorer"),
    [
        (["Kunming", "Lu Xun"], "exact"),
        (["1.5", "-2", "3e5"], "significant:5"),
        (["48210933", "17209384"], "exact"),
        (["We add 3 and 4.\n#### 7", "So it is 12.\n#### 12"], "number"),
        (["A long answer that goes on and on, as free texts do, for more than a line or so."] * 3, "bits-per-byte"),
        (["这是一段比较长的回答，里面有许多内容，没有人会一字不差地写出来的，所以不能要求相等。"] * 3, "bits-per-byte"),
    ],
)
def test_the_measure_fits_the_answers(answers: list[str], scorer: str) -> None:
    assert scorer_for(answers)[0] == scorer


def test_kinds_of_columns() -> None:
    uuid = "123e4567-e89b-12d3-a456-42661417{:04}"
    rows = [
        {"id": n, "key": uuid.format(n), "n": 10 + n, "price": n * 0.5 % 7 + n, "name": f"Item {n}",
         "size": "SML"[n % 3], "empty": None, "same": "x", "url": f"https://a.b/{n}", "turns": [n]}
        for n in range(40)
    ]  # fmt: skip
    assert {column.name: column.kind for column in columns_of(rows)} == {
        "id": "identifier", "key": "identifier", "n": "identifier", "price": "number", "name": "text", "size": "label",
        "empty": "empty", "same": "constant", "url": "metadata", "turns": "nested",
    }  # fmt: skip


@pytest.mark.parametrize("period", [2, 3, 7, 10])
def test_labels_that_take_turns_are_all_seen(tmp_path: Path, period: int) -> None:
    """Every n-th row of a long file would have the same label."""
    names = [f"kind{number}" for number in range(period)]
    rows = (f"the text of line {number} is here,{names[number % period]}\n" for number in range(4 * 2520))
    file = tmp_path / "turns.csv"
    file.write_text("text,label\n" + "".join(rows))
    assert candidate_of(file).settings.prompt_settings["labels"] == {name: name for name in names}
