"""A preview shows rows as training encodes them, and says what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from studios import write_rows

from lotune.data.tokenized import encode_row
from lotune.errors import DataError
from lotune.stages.init import nano_tokenizer
from lotune.studio.reader import answer
from lotune.studio.recipe_forms import change_recipe
from lotune.studio.row_previews import HEAD_BYTES, first_recipe, head_of, preview, read_again
from lotune.studio.workspace import Workspace
from lotune.tasks.candidates import Wanted
from lotune.tasks.recognition import settings_of
from lotune.tasks.registry import build_task


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)  # as the reader does: paths of recipes begin there
    write_rows(tmp_path)
    return Workspace.at(tmp_path)


def made(workspace: Workspace, rows: str = "mood.csv", **wanted: Any) -> dict[str, Any]:
    return first_recipe(workspace, rows, "nano", Wanted(**wanted))


def test_the_tokens_are_those_of_the_training(workspace: Workspace) -> None:
    seen = preview(workspace, made(workspace)["file"])
    task, tokenizer = build_task(settings_of(Path("mood.csv"))), nano_tokenizer()
    examples = list(task.examples(task.read(Path("mood.csv")).rows[:5], training=True))
    for shown, example in zip(seen["rows"], examples, strict=True):
        row = encode_row(tokenizer, example)
        assert "".join(text for text, _ in shown) == tokenizer.decode(row.token_ids)
        assert "".join(text for text, trained in shown if trained) == tokenizer.decode(
            row.token_ids[row.completion_start :]
        )
    assert seen["counts"] == {
        "read": 60, "malformed": 0, "kinds": 2, "different": 60, "duplicates": 0, "encoded": 60, "limit": 1024,
        "too_long": 0, "longest": max(len(encode_row(tokenizer, one).token_ids) for one in task.examples(
            task.read(Path("mood.csv")).rows, training=True)),
        "validation": 8, "test": 20,
    }  # fmt: skip
    assert [column["name"] for column in seen["columns"]] == ["review", "mood"]
    assert seen["decisions"][0]["text"].startswith("task: sentences")


def test_other_columns_change_the_recipe_and_the_rows(workspace: Workspace) -> None:
    (workspace.folder / "qa.csv").write_text("a,b\n" + "".join(f"question {n}?,reply {n}\n" for n in range(30)))
    form = made(workspace, "qa.csv", columns={"question": "a", "answer": "b"})
    first = preview(workspace, form["file"])["rows"][0]
    assert "".join(text for text, trained in first if trained).startswith("reply 0")
    changed = read_again(workspace, form["file"], Wanted(None, {"question": "b", "answer": "a"}))
    assert changed["given"]["task.columns.output"] == "a"
    first = preview(workspace, form["file"])["rows"][0]
    assert "".join(text for text, trained in first if trained).startswith("question 0?")


def test_of_long_rows_only_the_first_are_encoded(workspace: Workspace) -> None:
    rows = (json.dumps({"instruction": f"{n} " + "word " * 500, "output": f"{n}"}) + "\n" for n in range(400))
    (workspace.folder / "long.jsonl").write_text("".join(rows))
    counts = preview(workspace, made(workspace, "long.jsonl")["file"])["counts"]
    assert (counts["read"], 100 < counts["encoded"] < 200) == (400, True)


def test_a_character_of_several_tokens_is_one_piece(workspace: Workspace) -> None:
    rows = "".join(f'{{"instruction": "𠮷{n}🙂", "output": "好🙂"}}\n' for n in range(20))
    (workspace.folder / "odd.jsonl").write_text(rows)
    shown = preview(workspace, made(workspace, "odd.jsonl")["file"])["rows"][0]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(text for text, _ in shown)
    assert ["🙂", 1] in shown


def test_rows_above_the_limit_are_counted(workspace: Workspace) -> None:
    form = made(workspace)
    change_recipe(workspace, form["file"], {"data.max_length": "10"})
    counts = preview(workspace, form["file"])["counts"]
    assert (counts["too_long"], counts["limit"]) == (60, 10)


def test_duplicates_and_unusable_rows_are_counted(workspace: Workspace) -> None:
    with (workspace.folder / "mood.csv").open("a") as file:
        file.write('"table 1 was warm",pos\n' * 5 + '"no label",\n')
    seen = preview(workspace, made(workspace)["file"])
    assert (seen["counts"]["duplicates"], seen["counts"]["malformed"]) == (6, 1)
    assert "has no label" in seen["malformed"][0]


def test_of_a_large_file_the_head_is_read(workspace: Workspace) -> None:
    with (workspace.folder / "large.csv").open("w") as file:
        file.write("review,mood\n")
        file.writelines(
            f'"table {n} was {"warm and so on " * 5}",{"pos" if n % 2 else "neg"}\n' for n in range(120_000)
        )
    with head_of(workspace.folder / "large.csv") as (part, is_part):
        assert is_part
        assert HEAD_BYTES - 1000 < part.stat().st_size <= HEAD_BYTES
        assert part.read_bytes().endswith(b"\n")
    with head_of(workspace.folder / "mood.csv") as (part, is_part):
        assert (part, is_part) == (workspace.folder / "mood.csv", False)
    (workspace.folder / "r.yaml").write_text("task: {name: sentences, columns: {sentence: review, label: mood}}\n"
                                             "data: {train: large.csv}\n")  # fmt: skip
    seen = preview(workspace, "r.yaml")
    assert seen["is_part"]
    assert seen["counts"]["read"] < 120_000


def test_a_task_that_generates_its_rows_shows_some(workspace: Workspace) -> None:
    (workspace.folder / "demo.yaml").write_text("seed: 1\n")
    seen = preview(workspace, "demo.yaml")
    assert seen["generated"]
    assert len(seen["rows"]) == 5
    assert any(trained for _, trained in seen["rows"][0])


@pytest.mark.parametrize(("name", "content"), [
    ("picture.csv", b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe" * 50), ("empty.csv", b""), ("empty.jsonl", b"\n\n"),
    ("odd.json", b"{]"), ("words.txt", b"\xff\xfe\x00"), ("deep.json", b"[" * 100_000), ("one.csv", b"a,b\n"),
])  # fmt: skip
def test_a_file_without_rows_is_refused_in_words(workspace: Workspace, name: str, content: bytes) -> None:
    (workspace.folder / name).write_bytes(content)
    with pytest.raises(DataError):
        made(workspace, name)
    reply = answer(workspace, {"call": "init", "rows": name, "base": "nano"})
    assert reply["status"] == 422
    assert name in reply["error"]["message"]
    assert not (workspace.folder / f"{Path(name).stem}.yaml").exists()


def test_the_reader_answers_every_call_that_it_lists(workspace: Workspace) -> None:
    form = answer(workspace, {"call": "init", "rows": "mood.csv", "base": "nano"})["result"]
    assert form["file"] == "mood.yaml"
    assert answer(workspace, {"call": "form", "recipe": "no.yaml"})["status"] == 404
    assert answer(workspace, {"call": "startable", "recipe": "mood.yaml", "allow_outside": False})["result"] == "mood"
    settings = answer(workspace, {"call": "settings"})["result"]
    assert sum(one["main"] for one in settings) == 6
    assert all(one["help"] for one in settings)
    assert {"key": "tune.lr_schedule"}.items() <= next(
        one for one in settings if one["choices"] and "cosine" in one["choices"]
    ).items()


def test_rows_outside_of_the_folder_are_read_only_if_allowed(workspace: Workspace, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside") / write_rows(tmp_path_factory.getbasetemp())
    outside.write_text((workspace.folder / "mood.csv").read_text())
    task = "task: {name: sentences, columns: {sentence: review, label: mood}}"
    (workspace.folder / "far.yaml").write_text(f"{task}\ndata: {{train: {outside}}}\n")
    refused = answer(workspace, {"call": "preview", "recipe": "far.yaml", "allow_outside": False})
    assert (refused["status"], refused["error"]["outside"]) == (403, [str(outside)])
    seen = answer(workspace, {"call": "preview", "recipe": "far.yaml", "allow_outside": True})["result"]
    assert seen["counts"]["read"] == 60


def test_another_reading_is_told(workspace: Workspace) -> None:
    rows = "".join(f"the table {n} was set,{('warm', 'cold')[n % 2]},{('in', 'out')[n % 3 % 2]}\n" for n in range(90))
    (workspace.folder / "both.csv").write_text(f"text,mood,place\n{rows}")
    told = [one["text"] for one in preview(workspace, made(workspace, "both.csv")["file"])["decisions"]]
    assert any(text.startswith("another reading: ") for text in told)
