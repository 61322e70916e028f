"""Rows of other shapes through the command line: recognised, trained on, asked, and gone on from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import call

from lotune.recipe import read_recipe
from lotune.tasks.instructions.row_formats import conversation_of
from lotune.tasks.registry import build_task

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "own-rows.md"
RECIPE = """
seed: 3
device: cpu
base: {{model: {base}, dtype: float32}}
task: {{name: instructions, max_new_tokens: 6}}
data: {{train: {rows}, validation_rows: 3, test_rows: 4}}
tune: {{micro_batch_rows: 8, steps: 3}}
checkpoints: {{count: 1, merge_check_rows: 2}}
retention: {{rows: 2, replay: {{rows: 0}}, validation_rows: 0}}
"""


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def talk(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def section(title: str) -> str:
    """One section of the page about one's own rows."""
    return re.split(r"^## ", PAGE.read_text(encoding="utf-8").partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]


def block(title: str, language: str) -> str:
    match = re.search(rf"^```{language}\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


@pytest.mark.parametrize(
    ("title", "language", "template", "columns"),
    [
        ("Alpaca", "jsonl", "auto", {}),
        ("Messages", "jsonl", "auto", {}),
        ("Conversations", "jsonl", "auto", {}),
        ("Prompt and completion", "jsonl", "plain", {}),
        ("Columns with other names", "csv", "auto", {"instruction": "question", "output": "answer"}),
    ],
)
def test_the_rows_of_the_page_are_recognised(
    title: str, language: str, template: str, columns: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"rows.{language}"
    file.write_text(block(title, language), encoding="utf-8")
    result = call("init", file.name, "--json")
    returned = json.loads(result.stdout)
    assert (returned["task"], returned["columns"], returned["recipe"]) == ("instructions", columns, "rows.yaml")
    recipe = read_recipe(tmp_path / "rows.yaml")
    assert (recipe.task.template, recipe.task.columns, recipe.data.train) == (template, columns, Path(file.name))
    task = build_task(recipe.task)
    answers = [conversation_of(*row).answers for row in task.read(file).rows]
    assert re.findall("⟦(.*?)<\\|endoftext\\|>⟧", result.stderr) == [item for row in answers for item in row]
    if title == "Messages":
        assert block("How rows become prompts", "text").strip() in result.stderr


def test_the_column_map_of_the_page_reads_its_table(tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(block("Columns with other names", "yaml"), encoding="utf-8")
    (tmp_path / "rows.csv").write_text(block("Columns with other names", "csv"), encoding="utf-8")
    recipe = read_recipe(tmp_path / "shown.yaml")
    task = build_task(recipe.task)
    examples = list(task.examples(task.read(tmp_path / "rows.csv").rows, training=True))
    assert [example.target for example in examples] == ["Kunming", "Lu Xun"]


def test_init_distinguishes_the_contests_rows_and_passages_from_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for form, name in (("rows", "arithmetic"), ("conversation", "arithmetic")):
        call("sample", "--task", "arithmetic", "--rows", 5, "--form", form, "--out", f"{form}.jsonl")
        assert json.loads(call("init", f"{form}.jsonl", "--json").stdout)["task"] == name
    call("sample", "--task", "reading", "--rows", 3, "--out", "passages.json")
    assert json.loads(call("init", "passages.json", "--json").stdout)["task"] == "reading"
    (tmp_path / "passages.json").write_text('{"data": [{"paragraphs": [{"context": ""}]}]}')
    assert "data[0].paragraphs[0] has no context" in call("init", "passages.json", "--force", status=2).stderr


def test_init_overwrites_only_with_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": ""}, *[{"prompt": "a", "completion": "b"}] * 5])
    output = call("init", "rows.jsonl").stderr
    assert output.count("⟦b<|endoftext|>⟧") == 3
    (tmp_path / "rows.yaml").write_text("seed: 5\n")
    assert "--force" in call("init", "rows.jsonl", status=2).stderr
    assert (tmp_path / "rows.yaml").read_text() == "seed: 5\n"
    call("init", "rows.jsonl", "--force")
    assert read_recipe(tmp_path / "rows.yaml").task.name == "instructions"
    write(tmp_path / "bare.jsonl", [{"prompt": "a"}])
    assert "bare.jsonl:1: has no answer to train on" in call("init", "bare.jsonl", status=2).stderr


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [talk(f"{n}?", f"It is {n}.", f"And {n} + 1?", f"{n + 1}") for n in range(30)]
    return write(tmp_path_factory.mktemp("rows") / "talk.jsonl", rows)


@pytest.fixture
def recipe(small_base: Path, conversations: Path, tmp_path: Path) -> Path:
    path = tmp_path / "talk.yaml"
    path.write_text(RECIPE.format(base=small_base, rows=conversations))
    return path


@pytest.mark.slow
def test_conversations_are_trained_on_and_the_adapter_is_continued(recipe: Path, tmp_path: Path) -> None:
    words = ("run", recipe, f"runs={tmp_path / 'runs'}", "--json")
    card = json.loads(call(*words, "adapter.rank=2", "name=first").stdout)
    assert (card["target"]["task"], card["target"]["scorer"], card["target"]["n"]) == ("instructions", "exact", 4)
    counts = json.loads((tmp_path / "runs" / "first" / "data" / "counts.json").read_text())
    assert counts["tokens"]["first"].count("⟦") == 2
    assert counts["too_long"] == {"validation": 0, "test": 0, "retention": 0}
    lines = (tmp_path / "runs" / "first" / "predictions" / "instructions" / "base.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        assert re.search(r"It is (\d+)\.\n\n### Instruction:\nAnd \1 \+ 1\?\n\n### Response:$", line["prompt"])
        assert line["reference"].isdecimal()
    adapter = tmp_path / "runs" / "first" / "checkpoints" / card["chosen_checkpoint"] / "adapter"
    again = json.loads(call(*words, f"adapter.init_from={adapter}", "name=second").stdout)
    assert again["parameters"] == card["parameters"]
    assert all(check["passed"] for check in again["checks"])
    output = call(*words, f"adapter.init_from={adapter}", "adapter.rank=4", "name=third", status=2).stderr
    assert "has rank 2, the recipe adapter.rank=4" in output
    assert "has no adapter_config.json" in call(*words, "adapter.init_from=missing", "name=fourth", status=2).stderr
    assert not (tmp_path / "runs" / "fourth" / "data").exists()
    (adapter / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text() + "\n")
    output = call("tune", recipe, f"runs={tmp_path / 'runs'}", f"adapter.init_from={adapter}", "name=second").stderr
    assert "changed: adapter.init_from: content changed (invalidates tune, evaluate)" in output


def test_the_last_answer_only(recipe: Path, tmp_path: Path) -> None:
    def supervised(answers: str) -> int:
        words = ("prepare", recipe, f"runs={tmp_path / 'runs'}", f"task.train_on_turns={answers}", "--json")
        return int(json.loads(call(*words).stdout)["tokens"]["supervised"])

    assert supervised("all") > 2 * supervised("last")


def test_rows_that_are_too_long_are_counted(recipe: Path, tmp_path: Path) -> None:
    rows = [talk(f"{n}?", "yes") for n in range(20)]
    test = write(tmp_path / "test.jsonl", [*rows[:2], talk("long " * 300, "yes"), talk("short?", "long " * 300)])
    train = write(tmp_path / "train.jsonl", [*rows[2:], talk("long " * 400, "no")])
    words = ("prepare", recipe, f"runs={tmp_path / 'runs'}", f"data.train={train}", f"data.test={test}", "--json")
    result = call(*words)
    counts = json.loads(result.stdout)
    asked = {
        count["name"]: (count["rows"], count["file_rows"], count["too_long"], count["cut"]) for count in counts["asked"]
    }
    in_validation = 1 - counts["tokens"]["dropped_too_long"]
    assert asked == {"validation": (3, None, in_validation, 0), "test": (4, 4, 1, 0), "retention": (2, None, 0, 0)}
    assert "test: 1 of 4 prompts too long for the model: counted as wrong" in result.stderr
    data = tmp_path / "runs" / "talk" / "data"
    assert len((data / "test.jsonl").read_text().splitlines()) == 4
    output = call(
        *words, "evaluate.on_too_long=stop", "data.train=" + str(write(tmp_path / "x.jsonl", rows[2:])), status=2
    )
    assert "test rows: 1 prompts are too long for the model: test.jsonl:3" in output.stderr
    cut = json.loads(call(*words, "evaluate.on_too_long=truncate").stdout)["asked"][1]
    assert (cut["too_long"], cut["cut"]) == (0, 1)
    alone = write(tmp_path / "alone.jsonl", [talk("long " * 300, "yes")])
    assert "test rows: all prompts are too long for the model" in call(*words, f"data.test={alone}", status=2).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.train=null"], "the task instructions has no generator"),
        (
            ["task.scorer=letter"],
            "task.scorer is 'letter': expected one of exact, contains, number, rouge-l, f1, bits-per-byte, ",
        ),
        (["task.columns.instuction=question"], "did you mean instruction?"),
        (["task.columns.messages=mesages"], "nearest to 'mesages' is 'messages'"),
        (["task.train_on_turns=first"], "task.train_on_turns is 'first'"),
    ],
)
def test_invalid_settings_exit_with_status_2(recipe: Path, tmp_path: Path, words: list[str], message: str) -> None:
    result = call("prepare", recipe, f"runs={tmp_path / 'runs'}", *words, status=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alpaca_en_demo.json", "alpaca_zh_demo.json"])
def test_real_rows_tune_nano(reference_data: Path, tmp_path: Path, name: str) -> None:
    recipe = tmp_path / "real.yaml"
    recipe.write_text(RECIPE.format(base="nano", rows=reference_data / "sft" / name))
    words = ("data.sample.rows=24", "data.max_length=400", "tune.micro_batch_rows=4", "retention.language=en")
    words += ("task.scorer=bits-per-byte",)
    card = json.loads(call("run", recipe, f"runs={tmp_path / 'runs'}", *words, "--json").stdout)
    assert (card["target"]["task"], card["target"]["metric"]) == ("instructions", "bits_per_byte")
    [test] = [rows for rows in card["asked"] if rows["name"] == "test"]
    assert card["target"]["n"] + test["left_out"] == 4  # a prompt and its reference may not fit the context together
    assert all(check["passed"] for check in card["checks"])
    counts = json.loads((tmp_path / "runs" / "real" / "data" / "counts.json").read_text())
    assert counts["rows"]["read"] >= 998
    assert counts["tokens"]["rows"] + counts["tokens"]["dropped_too_long"] == counts["rows"]["kept"] <= 24
    assert 0 < counts["tokens"]["longest"] <= 400
