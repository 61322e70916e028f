"""Several abilities in one run: each is measured, those that gate are watched, and those that replay are rehearsed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import RECIPE, call

from lotune.errors import SettingsError
from lotune.generate.requests import Completion
from lotune.recipe import Recipe, row_limits
from lotune.settings import read_settings
from lotune.stages.abilities import abilities_of
from lotune.stages.dependencies import stage_inputs
from lotune.stages.own_answers import sure_tokens
from lotune.stages.replay import has_replay_generator, source_of

ABILITIES = """
retention:
  min_retained: 0.0
  replay: {{rows: 6, source: generator}}
  abilities:
    - {{task: reading, rows: 4, validation_rows: 3, language: en}}
    - {{name: sums, task: arithmetic, rows: 5, replay: false, gate: false}}
    - {{name: facts, task: instructions, data: {facts}, gate: false}}
    - {{task: text, data: {texts}, gate: false}}
"""


def content(path: Path) -> Any:
    return json.loads(path.read_text())


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recipe_with(text: str, small_base: Path, tmp_path: Path) -> Path:
    kept = (line for line in RECIPE.format(base=small_base).splitlines() if not line.startswith("retention:"))
    path = tmp_path / "several.yaml"
    path.write_text("\n".join(kept) + "\n" + text)
    return path


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    rows = [{"instruction": f"Say {n} in words.", "output": f"number {n}"} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = ["The first of some texts.", "A second text, about ships and their sails.", "Third."]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def several(facts: Path) -> str:
    return ABILITIES.format(facts=facts, texts=facts.with_name("texts.jsonl"))


def test_each_ability_is_measured_and_what_was_replayed_is_said(small_base: Path, facts: Path, tmp_path: Path) -> None:
    recipe = recipe_with(several(facts), small_base, tmp_path)
    card = json.loads(call("run", recipe, f"runs={tmp_path}", "--json").stdout)
    folder = tmp_path / "several"
    lines = {(line["task"], line["metric"]): line["is_gated"] for line in card["retention"]}
    assert lines[("reading", "contest_f1")] is lines[("reading", "contest_em")] is True
    assert lines[("sums", "accuracy")] is lines[("facts", "accuracy")] is lines[("text", "bits_per_byte")] is False
    bits = next(line for line in card["retention"] if line["task"] == "text")
    assert bits["retained"] == pytest.approx(bits["base"] / bits["tuned"])
    assert bits["base_interval"][0] < bits["base"] < bits["base_interval"][1]
    sizes = {one["name"]: one["rows"] for one in card["asked"]}
    assert sizes == {"validation": 4, "test": 6, "retention-reading": 4, "retention-sums": 5} | {
        "retention-facts": 12,
        "retention-text": 3,
    }
    assert len(records(folder / "data" / "retention_validation-reading.jsonl")) == 3
    assert records(folder / "data" / "retention_validation-sums.jsonl") == [], "what does not gate is not watched"
    assert {path.name for path in (folder / "validation").iterdir() if path.is_dir()} == {"retention-reading"}
    answered = {path.parent.name for path in (folder / "predictions").rglob("base.jsonl")}
    assert answered == {"arithmetic", "reading", "sums", "facts", "text"}
    replayed = records(folder / "data" / "replay.jsonl")
    assert len(replayed) == 6
    assert all(row["prompt"].startswith("Read the passage") for row in replayed)
    note = next(note for note in card["notes"] if "were not replayed" in note)
    assert note == "the replay rows are of reading; sums, facts and text were not replayed, and show what else was kept"
    assert "sums: accuracy" in (folder / "report.md").read_text()
    # Every stage is found done again, under the names that the sets have.
    again = call("run", recipe, f"runs={tmp_path}").stderr
    assert "invalidates" not in again
    assert "tuning 5/5" not in again


def test_a_changed_file_of_an_ability_is_measured_again(small_base: Path, facts: Path, tmp_path: Path) -> None:
    recipe = recipe_with(several(facts), small_base, tmp_path)
    call("prepare", recipe, f"runs={tmp_path}")
    with facts.open("a") as file:
        file.write(json.dumps({"instruction": "Say 99 in words.", "output": "number 99"}) + "\n")
    call("prepare", recipe, f"runs={tmp_path}")
    assert len(records(tmp_path / "several" / "data" / "retention-facts.jsonl")) == 13


def settings(*overrides: str) -> Recipe:
    return read_settings(Recipe, None, overrides)


def test_the_settings_beside_the_list_describe_the_only_ability() -> None:
    one = abilities_of(settings("retention.task=choice", "retention.data=a.csv", "retention.rows=3"))
    assert [(ability.label, ability.test_set, ability.key) for ability in one] == [("choice", "retention", "retention")]
    several = settings("retention.abilities=[{task: reading}, {name: mmlu, task: choice, data: a.csv, gate: false}]")
    assert [ability.test_set for ability in abilities_of(several)] == ["retention-reading", "retention-mmlu"]
    limits = row_limits(several)
    assert limits["retention.abilities.reading.validation_rows"] == 100
    assert limits["retention.abilities.mmlu.validation_rows"] == 0
    assert stage_inputs(several, "prepare")["retention.abilities.mmlu.data"] == Path("a.csv")
    assert not any("abilities" in key for key in stage_inputs(settings(), "prepare"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[{taskk: reading}]", r"retention\.abilities\.0\.taskk: did you mean task\?"),
        ("[{task: reading, rows: few}]", r"retention\.abilities\.0\.rows is 'few'"),
        ("[{task: reading}, {task: reading}]", "two abilities are called reading: give each a name"),
        ("[{task: reading, gate: false}]", "no ability of the list has gate: true"),
        ("[{task: reading, name: ../x}]", r"retention\.abilities\.0\.name"),
    ],
)
def test_a_list_that_cannot_be_measured_is_refused(value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(f"retention.abilities={value}")


def test_a_list_and_a_setting_beside_it_contradict_each_other() -> None:
    with pytest.raises(SettingsError, match="rows is set beside the list"):
        settings("retention.abilities=[{task: reading}]", "retention.rows=3")
    stored = settings("retention.abilities=[{task: reading}]").model_dump(mode="json")
    assert Recipe.model_validate(stored).retention.abilities[0].task == "reading", "defaults are no contradiction"


def test_an_unknown_task_of_an_ability_is_named_with_its_key() -> None:
    with pytest.raises(SettingsError, match=r"retention\.abilities\.colour\.task: 'colour' is unknown"):
        abilities_of(settings("retention.abilities=[{task: colour}]"))


def test_the_source_of_replay_follows_the_abilities_that_replay() -> None:
    assert source_of(settings("retention.abilities=[{task: reading}]")) == "generator"
    silent = settings("retention.abilities=[{task: reading, replay: false}]")
    assert not has_replay_generator(silent)
    assert source_of(silent) == "base", "nano writes rows itself where no generator may"


def test_a_file_without_a_generator_leaves_rows_to_watch_or_the_base_answers(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"instruction": f"Say {n} in words.", "output": f"number {n}"} for n in range(150)]
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("lotune.stages.own_answers.SURE", 1e-9)  # a base with random weights is never sure
    retention = f"retention: {{task: instructions, data: {path}, replay: {{rows: 0}}}}\n"
    recipe = recipe_with(retention, small_base, tmp_path)
    call("prepare", recipe, f"runs={tmp_path}")
    data = tmp_path / "several" / "data"
    assert len(records(data / "retention.jsonl")) == 120
    assert len(records(data / "retention_validation.jsonl")) == 30
    assert records(data / "own_answers.jsonl") == []
    call("tune", recipe, f"runs={tmp_path}", "retention.rows=150")
    assert records(data / "retention_validation.jsonl") == []
    own = records(data / "own_answers.jsonl")
    assert 0 < len(own) <= 200
    answers = records(tmp_path / "several" / "validation" / "own_answers" / "base.jsonl")
    assert sum(answer["correct"] for answer in answers) > 0.8 * len(answers), "the references are the base's answers"
    tuned = content(tmp_path / "several" / "tuning.json")
    assert all(one["retained"] is not None for one in tuned["checkpoints"])


def test_tokens_of_which_a_model_is_sure_are_asked_for_in_turn(byte_tokenizer: Any) -> None:
    ids = tuple(byte_tokenizer.encode("ab c", add_special_tokens=False))
    completion = Completion("ab c", ids, "length", (-0.1, -2.0, -0.1, -0.2))
    assert list(sure_tokens("x", completion, byte_tokenizer)) == [(0, "x", "a"), (3, "xab ", "c")]
