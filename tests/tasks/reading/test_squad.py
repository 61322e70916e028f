"""SQuAD's layout and official metric."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import DataError
from lotune.tasks.reading.squad import normalise_squad_answer, read_items, squad_scores, write_items
from lotune.tasks.reading.task import ReadingSettings, ReadingTask


def paragraph(id: str = "q1", title: str = "T") -> dict:
    answers = [{"text": "Denver", "answer_start": 3}]
    return {"title": title, "context": "In Denver.", "qas": [{"id": id, "question": "Where?", "answers": answers}]}


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("system", "em", "f1", "missing"),
    [
        ("bert_ensemble", 86.20624408703878, 92.19557978351145, 0),
        ("logistic_regression", 40.14191106906339, 50.98153647324461, 13),
    ],
)
def test_two_published_systems(system: str, em: float, f1: float, missing: int, reference_data: Path) -> None:
    task = ReadingTask(ReadingSettings(questions_per_passage="all"))
    examples = list(task.examples(task.read(reference_data / "squad/dev-v1.1.json").rows, training=False))
    assert len(examples) == 10570
    predictions = json.loads((reference_data / f"squad/predictions/{system}.json").read_text())
    assert sum(example.id not in predictions for example in examples) == missing
    answered = [(example, predictions[example.id]) for example in examples if example.id in predictions]
    scores = [squad_scores(text, example.references) for example, text in answered]  # a missing answer counts 0
    assert sum(score for _, score in scores) / len(examples) == pytest.approx(em, abs=1e-9)
    assert sum(score for score, _ in scores) / len(examples) == pytest.approx(f1, abs=1e-9)
    for (example, text), (squad_f1, squad_em) in list(zip(answered, scores, strict=True))[:300]:
        result = task.judge(example, text).scores
        assert (result["squad_f1"], result["squad_em"]) == (squad_f1, squad_em)


@pytest.mark.parametrize(
    ("name", "paragraphs", "questions"),
    [
        ("squad/dev-v1.1.json", 2067, 10570),
        ("cmrc2018/cmrc2018_dev.json", 848, 3219),
        ("cmrc2018/cmrc2018_trial.json", 256, 1002),
    ],
)
def test_real_files_are_read(name: str, paragraphs: int, questions: int, reference_data: Path) -> None:
    items = read_items(reference_data / name)
    assert len(items) == paragraphs
    assert sum(len(row["qas"]) for _, row in items) == questions
    assert items[0][0] == items[0][1]["qas"][0]["id"]


def test_written_rows_read_back(tmp_path: Path) -> None:
    rows = [paragraph("a"), paragraph("b"), paragraph("c", "Other"), paragraph("d")]
    write_items(tmp_path / "out.json", rows)
    assert [row for _, row in read_items(tmp_path / "out.json")] == rows
    assert len(json.loads((tmp_path / "out.json").read_text())["data"]) == 3


def broken(**changes: object) -> dict:
    return {**paragraph(), **changes}


@pytest.mark.parametrize(
    ("paragraphs", "words"),
    [
        (None, "data[0] is not a paragraph"),
        ([broken(context="")], "data[0].paragraphs[0] has no context"),
        ([broken(qas=[])], "has no questions"),
        ([broken(qas=[{"id": "x", "question": "?", "answers": [], "is_impossible": True}])], "qas[0] has no answer"),
        ([broken(qas=[{"id": "x", "question": "?", "answers": {"text": "a"}}])], "has an answer without text"),
        ([broken(qas=[{"id": 3, "question": "?", "answers": []}])], "qas[0] has no id"),
        ([broken(qas=[{"id": "x", "answers": []}])], "qas[0] has no question"),
        ([broken(qas=[{"id": "x", "question": "?", "answers": [{"text": " "}]}])], "has an answer without text"),
        ([paragraph(), paragraph()], "paragraphs[1] repeats the id 'q1'"),
        ([], "holds no paragraphs"),
    ],
)
def test_faults_are_named(tmp_path: Path, paragraphs: object, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": paragraphs}]}))
    with pytest.raises(DataError) as caught:
        read_items(path)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("document", ["[]", "{}", '{"data": {}}', "3"])
def test_another_layout_is_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / "other.json").write_text(document)
    with pytest.raises(DataError, match="not in SQuAD's layout"):
        read_items(tmp_path / "other.json")


@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=3))
def test_laws_of_the_official_metric(prediction: str, golds: list[str]) -> None:
    f1, em = squad_scores(prediction, golds)
    assert 0 <= f1 <= 100
    assert em in (0, 100)
    if em and normalise_squad_answer(prediction):
        assert f1 == 100
    assert squad_scores(prediction, [*golds, prediction])[1] == 100  # more gold answers never lower a figure
    assert squad_scores(prediction, [*golds, "x"])[0] >= f1
