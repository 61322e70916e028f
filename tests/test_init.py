"""`lotune init` on files as people have them: recognised with task, columns and judge, and the recipe runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import RECIPE, call

from lotune.errors import DataError
from lotune.recipe import read_recipe
from lotune.tasks.recognition import settings_of
from lotune.tasks.registry import build_task

MARK = b"\xef\xbb\xbf"
TOWNS = ["Lima", "Cusco", "Ica", "Puno"]


def contest_row(number: int, letter: str = "B") -> dict[str, str]:
    options = "\n".join(f"{mark}.{number + index}" for index, mark in enumerate("ABCD"))
    return {
        "instruction": "Here is a question about number theory, the correct answer is one of the options A/B/C/D. "
        "Please select the correct option and answer the question with 'The right option is'.",
        "input": f"Question: Which number follows {number}? \n{options}",
        "output": f"The right option is {letter}.",
    }


def mmlu_lines(place: str, rows: int = 6) -> list[str]:
    return [f'"In {place}, is {row} near?",{",".join(TOWNS)},{"ABCD"[row % 4]}' for row in range(rows)]


def cmmlu_lines(rows: int = 6) -> list[str]:
    lines = [f"{row},第{row}个城市在哪里？,昆明,大理,丽江,曲靖,{'ABCD'[row % 4]}" for row in range(rows)]
    return [",Question,A,B,C,D,Answer", *lines]


def cola_lines(rows: int = 12) -> list[str]:
    return [f'ab{row % 3}\t{row % 2}\t{"" if row % 2 else "*"}\tShe said "{row} birds sing.' for row in range(rows)]


def mrpc_lines(rows: int = 12) -> list[str]:
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    return [header, *(f'{row % 2}\t{row}\t{row + 50}\tHe "saw {row} ships .\tShips: "{row} .' for row in range(rows))]


def qqp_lines(rows: int = 12) -> list[str]:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    return [header, *(f"{row}\t{row}\t{row + 50}\tWhy is {row}?\tHow is {row}?\t{row % 2}" for row in range(rows))]


def in_bytes(lines: list[str], end: bytes = b"\n", mark: bytes = b"") -> bytes:
    return mark + b"".join(line.encode() + end for line in lines)


CONTEST = json.dumps([contest_row(number) for number in range(12)], indent=4).encode()
MRPC = {"first": "#1 String", "second": "#2 String", "label": "Quality"}
QQP = {"first": "question1", "second": "question2", "label": "is_duplicate"}
COLA = {"sentence": "4", "label": "2"}
MOODS = [{"review": f"It was {word} on day {n}.", "mood": word} for n, word in enumerate(["bad", "good"] * 6)]
SUBJECTS = [
    {"question": f"{n} + 1?", "choices": ["0", str(n + 1)], "answer": 1, "subject": f"sums {n % 3}"} for n in range(12)
]
FILES: dict[str, tuple[str, bytes, str, dict[str, str], str, int]] = {
    "contest": ("choice.json", CONTEST, "choice", {}, "letter", 1),
    "mmlu": ("old_town_dev.csv", in_bytes(mmlu_lines('x')), "choice", {}, "letter", 1),
    "mmlu of windows": ("old_town_dev.csv", in_bytes(mmlu_lines('x'), b"\r\n", MARK), "choice", {}, "letter", 1),
    "cmmlu": ("arts.csv", in_bytes(cmmlu_lines()), "choice", {}, "letter", 1),
    "cola": ("CoLA_train.tsv", in_bytes(cola_lines()), "sentences", COLA, "label", 2),
    "cola of windows": ("CoLA_train.tsv", in_bytes(cola_lines(), b"\r\n", MARK), "sentences", COLA, "label", 2),
    "mrpc": ("msr_paraphrase_train.txt", in_bytes(mrpc_lines(), mark=MARK), "sentences", MRPC, "label", 2),
    "qqp": ("QQP_train.tsv", in_bytes(qqp_lines(), b"\r\n"), "sentences", QQP, "label", 2),
    "subjects": (
        "test.jsonl", in_bytes([json.dumps(row) for row in SUBJECTS]), "choice", {"domain": "subject"}, "letter", 3,
    ),
}  # fmt: skip


def init_in(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a file of FILES into a folder, make first.yaml from it there, and return what the command printed."""
    monkeypatch.chdir(folder)
    Path(FILES[name][0]).write_bytes(FILES[name][1])
    return call("init", FILES[name][0], "--out", "first.yaml", "--json")


@pytest.mark.parametrize("name", FILES)
def test_a_well_known_file_is_recognised_and_its_recipe_runs(
    name: str, small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = init_in(tmp_path, name, monkeypatch)
    _, _, task, columns, judge, kinds = FILES[name]
    returned = json.loads(result.stdout)
    assert (returned["task"], returned["columns"], returned["scorer"], returned["kinds"]) == (
        task,
        columns,
        judge,
        kinds,
    )
    assert (returned["metric"], returned["malformed"]) == ("accuracy", 0)
    assert result.stderr.count("⟦") == 3 + 1  # three rows, and the sign is explained
    recipe = read_recipe(Path("first.yaml"))
    assert (recipe.task.name, recipe.task.columns) == (task, columns)
    assert getattr(recipe.task, "scorer", judge) == judge
    counts = json.loads(call("run", "first.yaml", f"base.model={small_base}", "--dry-run", "--json").stdout)["counts"]
    assert (counts["rows"]["read"], counts["rows"]["malformed"]) == (returned["rows"], 0)
    assert counts["tokens"]["rows"] > 0


def subjects(folder: Path, names: str = "abc", rows: int = 6) -> Path:
    folder.mkdir()
    for name in names:
        (folder / f"town_{name}_dev.csv").write_bytes(in_bytes(mmlu_lines(name, rows)))
    return folder


def test_a_folder_of_subjects_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = subjects(tmp_path / "dev.v1")
    result = json.loads(call("init", folder.name, "--json").stdout)
    assert (result["task"], result["rows"], result["kinds"], result["recipe"]) == ("choice", 18, 3, "dev.v1.yaml")
    recipe = read_recipe(Path("dev.v1.yaml"))
    assert recipe.data.train == Path("dev.v1")
    task = build_task(recipe.task)
    asked = list(task.examples(task.read(folder).rows, training=False))
    assert [example.category for example in asked[::6]] == ["town a", "town b", "town c"]
    assert [example.id for example in asked[5:7]] == ["town_a_dev.csv:6", "town_b_dev.csv:1"]
    assert "which is an input" in call("init", folder, "--out", folder / "x.yaml", status=2).stderr
    (folder / "QQP_train.tsv").write_bytes(in_bytes(qqp_lines()))
    output = call("init", folder, "--force", status=2).stderr
    assert output.startswith(f"{folder / 'QQP_train.tsv'}: does not fit the other files of {folder}")
    assert "expected: 6 columns without a header" in output


@pytest.mark.slow
def test_folders_are_trained_on_tested_and_distinguished(small_base: Path, tmp_path: Path) -> None:
    train, test = subjects(tmp_path / "train", rows=8), subjects(tmp_path / "test", "bcd", 4)
    recipe = yaml.safe_load(RECIPE.format(base=small_base))
    recipe["task"] = {"name": "choice", "max_new_tokens": 4}
    recipe["data"] = {"train": str(train), "test": str(test), "validation_rows": 4}
    (tmp_path / "towns.yaml").write_text(yaml.safe_dump(recipe))
    words = ("run", tmp_path / "towns.yaml", f"runs={tmp_path}", "--json")
    card = json.loads(call(*words).stdout)
    by_kind = card["target"]["by_kind"]
    assert {kind: figures["n"] for kind, figures in by_kind.items()} == {"town b": 4, "town c": 4, "town d": 4}
    counts = json.loads((tmp_path / "towns" / "data" / "counts.json").read_text())["rows"]
    assert counts["read"] == 24
    met = counts["overlap"]["sets"]["test"]
    assert met["rows"] == 12
    assert 4 <= met["seen"] <= 8  # the first four questions of b and c stand in both folders, or in validation
    (train / "town_a_dev.csv").rename(train / "town_z_dev.csv")
    output = call(*words).stderr
    assert "changed: data.train: content changed" in output
    figures = call("evaluate", "--model", small_base, "--task", "choice", "--data", test, "--json")
    assert {kind: one["n"] for kind, one in json.loads(figures.stdout)["by_kind"].items()} == {
        "town b": 4, "town c": 4, "town d": 4,
    }  # fmt: skip
    (test / "town_b_dev.csv").write_text("Is it?,Lima,Cusco,Ica,Puno,E\n")
    output = call("evaluate", "--model", small_base, "--task", "choice", "--data", test, status=2).stderr
    assert "1 of 9 rows cannot be used: town_b_dev.csv:1 its answer 'E' is none of its options" in output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contest", "cola", "mrpc"])
def test_a_recipe_of_init_runs_to_its_scorecard(
    name: str, small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_in(tmp_path, name, monkeypatch)
    _, _, task, _, judge, _ = FILES[name]
    words = (
        "retention.rows=2",
        "retention.validation_rows=0",
        "retention.replay.rows=0",
        "task.max_new_tokens=4",
        "checkpoints.merge_check_rows=2",
        "tune.steps=5",
        "--json",
    )
    card = json.loads(call("run", "first.yaml", f"base.model={small_base}", "device=cpu", *words).stdout)
    assert (card["target"]["task"], card["target"]["scorer"], card["target"]["metric"]) == (task, judge, "accuracy")


def test_a_users_labels_are_mapped(tmp_path: Path) -> None:
    file = tmp_path / "reviews.jsonl"
    file.write_bytes(in_bytes([json.dumps({"review": row["review"], "sentiment": row["mood"]}) for row in MOODS]))
    result = settings_of(file)
    assert (result.name, result.columns) == ("sentences", {"sentence": "review", "label": "sentiment"})
    assert result.labels == {"bad": "bad", "good": "good"}
    file = tmp_path / "bare.tsv"
    file.write_bytes(in_bytes([f"{'no' if n % 2 else 'yes'}\tThe {n}th bird sings well." for n in range(9)]))
    result = settings_of(file)
    assert (result.columns, list(result.labels)) == ({"sentence": "2", "label": "1"}, ["no", "yes"])
    task = build_task(result)
    assert len(list(task.examples(task.read(file).rows, training=True))) == 9


def test_instructions_with_long_answers_are_scored_by_words_in_common(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    row = {"instruction": "Tell.", "input": "", "output": "word " * 30}
    file.write_bytes(in_bytes([json.dumps(row)] * 3))
    assert settings_of(file).scorer == "bits-per-byte"
    file.write_bytes(in_bytes([json.dumps({**row, "output": "short"})] * 3))
    assert settings_of(file).scorer == "exact"
    mixed = [contest_row(1), *[row] * 9]  # a question with options among instructions makes no task of choices
    file.write_bytes(in_bytes([json.dumps(item) for item in mixed]))
    assert settings_of(file).name == "instructions"


@pytest.mark.parametrize(
    ("name", "lines", "columns"),
    [
        ("short.tsv", ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *(f"{n}\t{line}" for n, line in
                       enumerate(mrpc_lines()[1:]))], {"first": "5", "second": "6", "label": "2"}),
        ("short.tsv", [mrpc_lines()[0].removeprefix("Quality\t"), *mrpc_lines()[1:]],
         {"first": "4", "second": "5", "label": "1"}),
        ("long.tsv", [mrpc_lines()[0] + "\tnote", *mrpc_lines()[1:]], {"first": "4", "second": "5", "label": "1"}),
        ("long.tsv", [mrpc_lines()[0] + "\t", *mrpc_lines()[1:]], {"first": "4", "second": "5", "label": "1"}),
        ("short.csv", ["Question,A,B,C,D,Answer", *cmmlu_lines()[1:]],
         {"question": "2", "A": "3", "B": "4", "C": "5", "D": "6", "answer": "7"}),
        ("short.csv", ["question,answer", *(f"{n},Say {n}.,{n}" for n in range(5))],
         {"instruction": "2", "output": "3"}),
        ("broken.tsv", ["ab1\t1\tShe left.", *cola_lines()], {"sentence": "4", "label": "2"}),
    ],
)  # fmt: skip
def test_the_map_that_mends_a_header_of_another_width_is_shown_and_works(
    name: str, lines: list[str], columns: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(in_bytes(lines))
    output = call("init", file, status=2).stderr
    assert output.startswith(f"{file}:1: its ")
    assert "the rows below have" in output
    remedy = output.partition("give the map in the recipe: ")[2].partition(" (the columns: 1 '")
    displayed: dict[str, Any] = yaml.safe_load(remedy[0])["task"]
    assert displayed["columns"] == columns
    assert (
        displayed["name"] != "sentences" or "instruction" not in displayed
    )  # the task's own words, as these files are known
    recipe = tmp_path / "mended.yaml"
    recipe.write_text(yaml.safe_dump({"task": displayed, "data": {"train": str(file), "on_error": "skip"}}))
    task = build_task(read_recipe(recipe).task)
    examples = list(task.examples(task.read(file, "skip").rows, training=True))
    assert len(examples) == len(lines) - 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("articles.jsonl", b'{"id": "1", "title": "T", "text": "T\\n\\nBody."}\n', "pretrain: {corpus: "),
        ("results.jsonl", b'{"id": "1", "raw_answer": "x", "label": "y", "F1": 1.0}\n',
         "--column question=raw_answer --column answer=label"),
        ("odd.csv", b"height,width\n1,2\n", "--column question=NAME --column answer=NAME"),
        ("bare.tsv", b"1\t2\n3\t4\n", "its columns have no names: 1 '1', 2 '2'"),
        ("plain.txt", b"First Citizen:\n", "pretrain.corpus"),
        ("CoLA_dev.tsv", in_bytes(["ab1\t\tShe left.", "ab1\t*\tShe leave."]), "has no label to train on"),
        ("CoLA_dev.tsv", in_bytes(["ab1\t\tShe left."]), "`lotune generate --task sentences` answers rows without"),
    ],
)  # fmt: skip
def test_other_files_are_refused_with_a_remedy(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    result = call("init", tmp_path / name, "--out", tmp_path / "first.yaml", status=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 3
    assert not (tmp_path / "first.yaml").exists()


@pytest.mark.parametrize(
    ("path", "task", "columns", "judge"),
    [
        ("contest/choice-2000.json", "choice", {}, "letter"),
        ("contest/math-300.jsonl", "arithmetic", {}, "significant:5"),
        ("exam/CoLA_train.tsv", "sentences", COLA, None),
        ("cola/in_domain_train.tsv", "sentences", COLA, None),
        ("cola/out_of_domain_dev.tsv", "sentences", COLA, None),
        ("pairs/mrpc/msr_paraphrase_train.txt", "sentences", MRPC, None),
        ("pairs/mrpc/msr_paraphrase_test.txt", "sentences", MRPC, None),
        ("choice/mmlu/dev", "choice", {}, "letter"),
        ("choice/mmlu/val", "choice", {}, "letter"),
        ("choice/cmmlu/dev", "choice", {}, "letter"),
        ("squad/dev-v1.1.json", "reading", {}, None),
        ("cmrc2018/cmrc2018_trial.json", "reading", {}, None),
        ("sft/alpaca_en_demo.json", "instructions", {}, "bits-per-byte"),
        ("sft/alpaca_zh_demo.json", "instructions", {}, "bits-per-byte"),
    ],
)
def test_real_files(reference_data: Path, path: str, task: str, columns: dict[str, str], judge: str | None) -> None:
    result = settings_of(reference_data / path)
    own = result.model_dump()
    assert (result.name, own.get("columns", {}), own.get("scorer"), own.get("labels", {})) == (task, columns, judge, {})
    known = build_task(result)
    file = known.read(reference_data / path)
    usable = sum(1 for _ in known.examples(file.rows, training=True))
    assert usable >= len(file.rows) > 0


def test_each_subject_of_the_real_folders_is_a_kind(reference_data: Path) -> None:
    for folder in ("mmlu/dev", "mmlu/val", "cmmlu/dev"):
        path = reference_data / "choice" / folder
        task = build_task(settings_of(path))
        kinds = {example.category for example in task.examples(task.read(path).rows, training=False)}
        assert len(kinds) == len(list(path.iterdir()))
        for file in path.iterdir():
            assert settings_of(file).name == "choice"


@pytest.mark.parametrize("path", ["contest/emf1-answers-1000.jsonl", "contest/emf1-triples-1199.jsonl", "zh_wiki"])
def test_real_files_of_no_task_are_refused(reference_data: Path, path: str) -> None:
    with pytest.raises(DataError) as caught:
        settings_of(reference_data / path)
    assert ("pretrain:" if path == "zh_wiki" else "--column answer=label") in caught.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize("path", ["exam/CoLA_train.tsv", "pairs/mrpc/msr_paraphrase_test.txt", "choice/mmlu/dev"])
def test_recipes_of_real_files_run(reference_data: Path, path: str, tmp_path: Path) -> None:
    call("init", reference_data / path, "--out", tmp_path / "first.yaml")
    call("run", tmp_path / "first.yaml", f"runs={tmp_path}", "--dry-run")


def test_a_recipe_without_labels_takes_those_of_its_rows(small_base: Path, tmp_path: Path) -> None:
    metals = ["ore" if n % 3 else "tin" for n in range(40)]
    rows = [{"text": f"Letter {n} is about {metal}.", "metal": metal} for n, metal in enumerate(metals)]
    (tmp_path / "rows.jsonl").write_bytes(in_bytes([json.dumps(row) for row in rows]))
    recipe = tmp_path / "metals.yaml"
    task = {"name": "sentences", "columns": {"sentence": "text", "label": "metal"}}
    data = {"train": str(tmp_path / "rows.jsonl")}
    settings = {
        "base": {"model": str(small_base)},
        "task": task,
        "data": data,
        "retention": {"rows": 2, "replay": {"rows": 0}},
    }
    recipe.write_text(yaml.safe_dump(settings))
    said = call("prepare", recipe, f"runs={tmp_path}").stderr
    assert "labels found in data.train (task.labels): ore, tin" in said
    kept = read_recipe(tmp_path / "metals" / "recipe.yaml").task
    assert kept.labels == {"ore": "ore", "tin": "tin"}  # type: ignore[attr-defined]
    again = call("prepare", recipe, f"runs={tmp_path}").stderr
    assert "changed" not in again
    assert "preparing the rows" not in again
