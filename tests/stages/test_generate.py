"""`lotune generate`: one answer a row in the file's order, and the template that a model was tuned in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import processes
import pytest
from command_line import call, save_template

from lotune.data.templates import TEMPLATES
from lotune.stages.prompt_template import with_stored_template
from lotune.tasks.arithmetic.task import ArithmeticSettings
from lotune.text_display import show_control_characters
from tests.generate.test_transformers_fallback import mamba

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows without keys, of different lengths."""
    file = tmp_path_factory.mktemp("rows") / "test.jsonl"
    lines = [{"problem": f"计算 {n}.00 + {'1' * (1 + n % 5)}.00 等于多少？"} for n in range(12)]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return file


@pytest.mark.slow
def test_one_answer_a_row_in_order(small_base: Path, rows: Path, tmp_path: Path) -> None:
    words = ("generate", "--model", small_base, "--task", "arithmetic", "--data", rows, "task.max_new_tokens=5")
    call(*words, "--out", tmp_path / "answers.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [f"test.jsonl:{n}" for n in range(1, 13)]
    assert not list(tmp_path.glob(".*"))
    call(*words, "--out", tmp_path / "answers.txt")
    assert len((tmp_path / "answers.txt").read_text().splitlines()) == 12
    [alone] = tmp_path.glob("answers.txt")
    before = alone.read_bytes()
    assert "already exists" in call(*words, "--out", alone, status=2).stderr
    call(*words, "--out", alone, "--force", "evaluate.max_batch_tokens=100")
    assert alone.read_bytes() == before, "an answer does not depend on the batch"


@pytest.mark.slow
def test_a_stopped_command_resumes(
    small_base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("generate", "--model", small_base, "--task", "arithmetic", "--data", rows, "task.max_new_tokens=5")
    call(*words, "--out", tmp_path / "whole.jsonl")
    complete = (tmp_path / "whole.jsonl").read_text()
    monkeypatch.setattr("lotune.stages.generate.write_jsonl", interrupted)
    call(*words, "--out", tmp_path / "again.jsonl", status=130)
    [part] = tmp_path.glob(".again.jsonl.*.part.jsonl")
    monkeypatch.undo()
    stored_lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(stored_lines[:5]))
    call(*words, "--out", tmp_path / "again.jsonl", "task.max_new_tokens=4")
    assert part.exists(), "answers of other settings are no beginning of these"
    call(*words, "--out", tmp_path / "again.jsonl", "--force")
    assert (tmp_path / "again.jsonl").read_text() == complete
    assert not part.exists()


def interrupted(*words: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_template_of_the_model_is_used_and_another_one_refused(
    small_base: Path, rows: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(small_base, model)
    save_template(model, TEMPLATES["qa"])
    output = call("generate", "--model", model, "--prompt", "Where is Kunming?", "task.max_new_tokens=3", "--json")
    assert json.loads(output.stdout)["prompt"] == "Where is Kunming?##"
    words = ("--model", model, "--task", "arithmetic", "--data", rows, "task.max_new_tokens=3")
    out = tmp_path / "answers.jsonl"
    call("generate", *words, "--out", out)
    refused = call("generate", *words, "--out", out, "task.template=alpaca", status=2).stderr
    assert "was trained with the template 'qa', but 'alpaca' was requested" in refused
    call("generate", *words, "--out", out, "task.template=alpaca", "--force-template", "--force")
    assert "'qa'" in call("evaluate", *words, "task.template=alpaca", status=2).stderr


@pytest.mark.slow
def test_a_model_in_the_home_folder_is_used_with_its_template(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_base, tmp_path / "model")
    save_template(tmp_path / "model", TEMPLATES["qa"])
    monkeypatch.setenv("HOME", str(tmp_path))
    output = call("generate", "--model=~/model", "--prompt", "Where?", "task.max_new_tokens=3", "--json")
    assert json.loads(output.stdout)["prompt"] == "Where?##"
    assert with_stored_template(ArithmeticSettings(), "~/model", force=False).template == "qa"


def test_the_rows_are_never_written_over(small_base: Path, rows: Path, tmp_path: Path) -> None:
    actual, link = tmp_path / "mine.jsonl", tmp_path / "link.jsonl"
    shutil.copy(rows, actual)
    link.symlink_to(actual)
    before = actual.read_bytes()
    words = ("--model", small_base, "--task", "arithmetic", "--data", actual, "--out")
    for verb, out in (("generate", actual), ("generate", link), ("evaluate", actual), ("evaluate", link)):
        assert "is an input, and would be overwritten" in call(verb, *words, out, status=2).stderr
    assert "is inside" in call("generate", *words, small_base / "config.txt", status=2).stderr
    assert actual.read_bytes() == before
    articles = tmp_path / "articles.jsonl"
    articles.write_text('{"text": "A text."}\n')
    text = ("evaluate", "--model", small_base, "--task", "text", "--data", articles, "--out", articles)
    assert "is an input, and would be overwritten" in call(*text, status=2).stderr
    assert articles.read_text() == '{"text": "A text."}\n'


def test_a_prompt_that_is_no_text(small_base: Path) -> None:
    assert (
        "--prompt: is not UTF-8 text" in call("generate", "--model", small_base, "--prompt", "\udcff", status=2).stderr
    )


def test_one_process_answers_a_prompt(small_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for words in (("generate", "--prompt", "x"), ("chat",)):
        assert "torchrun: " in call(*words, "--model", small_base, status=2).stderr


@pytest.mark.slow
def test_two_processes_answer_as_one_does(small_base: Path, rows: Path, tmp_path: Path) -> None:
    words = ("generate", "--model", small_base, "--task", "arithmetic", "--data", rows, "task.max_new_tokens=5")
    call(*words, "--out", tmp_path / "alone.jsonl")
    completed = processes.ranks(processes.LOTUNE, ["lotune", *words, "--out", tmp_path / "two.jsonl", "--json"])
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)["rows"] == 12
    assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "alone.jsonl").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["alone.jsonl", "two.jsonl"]


def test_several_answers_are_drawn_to_a_prompt(small_base: Path) -> None:
    words = ("generate", "--model", small_base, "--prompt", "12 + 3 =", "task.max_new_tokens=6", "--temperature", "2")
    result = json.loads(call(*words, "--samples", "3", "--json").stdout)
    assert len(set(result["answers"])) == 3
    assert result["answer"] == result["answers"][0]
    again = call(*words, "--samples", "3").stdout
    assert again == show_control_characters("\n\n".join(result["answers"])) + "\n"
    alone = json.loads(call(*words, "--json").stdout)
    assert (alone["answer"], "answers" in alone) == (result["answer"], False)
    other = json.loads(call(*words, "--seed", "1", "--json").stdout)
    assert other["answer"] != alone["answer"]


@pytest.mark.slow
def test_sampled_answers_depend_on_the_seed_and_not_on_other_rows(small_base: Path, rows: Path, tmp_path: Path) -> None:
    words = ("generate", "--model", small_base, "--task", "arithmetic", "--data", rows, "task.max_new_tokens=5")

    def answers(name: str, *more: object) -> list[str]:
        call(*words, "--out", tmp_path / name, *more)
        return [json.loads(line)["answer"] for line in (tmp_path / name).read_text().splitlines()]

    drawn = answers("drawn.jsonl", "--temperature", "2")
    assert answers("narrow.jsonl", "--temperature", "2", "evaluate.max_batch_tokens=100") == drawn
    assert answers("other.jsonl", "--temperature", "2", "--seed", "5") != drawn
    assert answers("greedy.jsonl") != drawn
    first = rows.read_text().splitlines()[0]
    twice = tmp_path / "twice.jsonl"
    twice.write_text(f"{first}\n{first}\n")
    call(*words[:6], twice, words[7], "--out", tmp_path / "twins.jsonl", "--temperature", "2")
    one, two = [json.loads(line)["answer"] for line in (tmp_path / "twins.jsonl").read_text().splitlines()]
    assert one != two, "rows draw with seeds of their own"


@pytest.mark.slow
def test_a_model_without_a_context_limit_generates(byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    mamba().save_pretrained(tmp_path / "mamba")
    byte_tokenizer.save_pretrained(tmp_path / "mamba")
    words = ("--model", tmp_path / "mamba", "--json")
    assert json.loads(call("generate", *words, "--prompt", "1 + 1 =", "task.max_new_tokens=4").stdout)["prompt"]
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "One text."}\n')
    result = json.loads(call("evaluate", *words, "--task", "text", "--data", texts).stdout)
    assert result["tokens"] == len("One text.")
    judged = json.loads(
        call("evaluate", *words, "--task", "arithmetic", "--limit", "3", "task.max_new_tokens=4").stdout
    )
    assert judged["n"] == 3


@pytest.mark.parametrize(("words", "message"), [
    (["--task", "arithmetic"], "no input"),
    (["--prompt", "x", "--data", "y"], "--prompt together with --data"),
    (["--task", "arithmetic", "--data", "ROWS", "--out", "a.csv"], "a.csv has an unknown suffix"),
    (["--data", "ROWS", "--out", "a.txt"], "--model without --task"),
    (["--prompt", "x", "--samples", "2"], "samples: is 2 at temperature 0"),
    (["--prompt", "x", "--samples", "2", "--dry-run"], "samples: is 2 at temperature 0"),
    (["--prompt", "x", "--temperature", "-1"], "temperature: is -1"),
    (["--prompt", "x", "--top-k", "5"], "--top-k: draws from nothing at temperature 0"),
    (["--prompt", "x", "--top-p", "0.5"], "--top-p: draws from nothing at temperature 0"),
    (["--task", "arithmetic", "--data", "ROWS", "--out", "a.txt", "--samples", "2", "--temperature", "1"],
     "--samples: with --data, each row gets one answer"),
    (["--task", "choice", "--data", "ROWS", "--out", "a.txt", "--top-k", "5", "--temperature", "1",
      "task.scorer=likelihood:letter"], "options are chosen by likelihood and cannot be sampled"),
])  # fmt: skip
def test_bad_input(rows: Path, words: list[str], message: str) -> None:
    assert message in call("generate", *(str(rows) if word == "ROWS" else word for word in words), status=2).stderr
