"""Answered examples before a question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lotune.data.examples import Example, Turn
from lotune.errors import DataError, SettingsError
from lotune.evaluate.few_shot import add_few_shot
from lotune.stages.evaluate_model import EvaluationData
from lotune.tasks.arithmetic.task import ArithmeticSettings
from lotune.tasks.custom import CustomSettings
from lotune.tasks.registry import build_task, task_settings

SHOT = Example("s", "Q: 1+1\nA: ", "2", references=("2", "two"))
TASK = build_task(CustomSettings())


def test_the_examples_stand_before_every_question() -> None:
    cut = Example("b", "head middle tail", "", prompt_parts=("head ", "middle", " tail"))
    plain, parted = add_few_shot(TASK, [Example("a", "Q: 2+2\nA: ", ""), cut], [SHOT, SHOT])
    assert plain.prompt == "Q: 1+1\nA: 2\n\nQ: 1+1\nA: 2\n\nQ: 2+2\nA: "
    assert parted.prompt_parts is not None
    assert "".join(parted.prompt_parts) == parted.prompt
    assert parted.prompt_parts[1] == "middle"


def test_invalid_shots_are_refused() -> None:
    with pytest.raises(DataError, match="has no answer to show"):
        add_few_shot(TASK, [SHOT], [Example("x", "Q", "")])
    with pytest.raises(SettingsError, match="are conversations"):
        add_few_shot(TASK, [Example("x", "a?b.c?", "", earlier_turns=(Turn("a?", "b."),))], [SHOT])


CHOICE = {"question": "Capital of Peru?", "options": ["Lima", "Cusco"], "answer": "Cusco"}
FACT = {"question": "Capital of Yunnan?", "answer": "Kunming"}


@pytest.mark.parametrize(("name", "settings", "row", "shown"), [
    ("choice", {}, CHOICE, "The right option is B."),
    ("choice", {"scorer": "likelihood:letter"}, CHOICE, "The right option is B."),
    ("choice", {"scorer": "likelihood:text"}, CHOICE, "Cusco"),
    ("choice", {"scorer": "likelihood:text-normalised"}, CHOICE, "Cusco"),
    ("sentences", {"labels": {"0": "no", "1": "yes"}}, {"sentence": "So.", "label": "1"}, "yes"),
    ("custom", {"scorer": "label", "labels": {"0": "no", "1": "yes"}}, {"question": "So?", "answer": "1"}, "yes"),
    ("custom", {"scorer": "exact"}, FACT, "Kunming"),
    ("custom", {"scorer": r"regex:(?i)answer:\s*(\w+)\.?$"}, FACT, None),
    ("custom", {"scorer": r"regex:answer:\s+\((\w+)\)"}, FACT, "answer: (Kunming)"),
    ("custom", {"scorer": r"regex:^\w+$"}, FACT, "Kunming"),
    ("custom", {"scorer": "f1"}, FACT, "Kunming"),
])  # fmt: skip
def test_shots_show_a_continuation_or_a_correct_answer(
    name: str, settings: dict[str, object], row: dict[str, object], shown: str | None
) -> None:
    task = build_task(task_settings(name, **settings))  # type: ignore[arg-type]
    [shot] = task.examples([("shots:1", row)], training=False)
    if shown is None:
        with pytest.raises(DataError, match="shots:1: its answer 'Kunming', shown as an example, would be judged wron"):
            add_few_shot(task, [SHOT], [shot])
        return
    [asked] = add_few_shot(task, [SHOT], [shot])
    assert asked.prompt == f"{shot.prompt}{shown}\n\n{SHOT.prompt}"
    if not settings.get("scorer", "").startswith("likelihood:text"):  # type: ignore[attr-defined]
        assert task.judge(shot, shown).correct


def test_examples_are_taken_from_a_file_or_generated(tmp_path: Path) -> None:
    task = build_task(ArithmeticSettings())

    def written(name: str, numbers: range) -> Path:
        rows = [{"problem": f"计算 {n} + 1 等于多少？", "solution": f"{n} + 1 = {n + 1}"} for n in numbers]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return tmp_path / name

    test, shots = written("test.jsonl", range(5)), written("shots.jsonl", range(3, 9))
    results = EvaluationData(test, None, 3, shots).read(task, 1).examples
    heads = {example.prompt[: -len(bare.prompt)] for example, bare in zip(results, _bare(task, test), strict=True)}
    assert len(heads) == 1  # the same examples for all questions, and no example is a question
    [head] = heads
    assert head.count("### Response:") == 3
    assert all(f"计算 {n} + 1 等" not in head for n in range(5))
    with pytest.raises(DataError, match="has 4 rows that are not test rows"):
        EvaluationData(test, None, 5, shots).read(task, 1)
    with pytest.raises(SettingsError, match="--shots-data"):
        EvaluationData(test, None, 2).read(task, 1)
    heads_by_seed = {EvaluationData(test, None, 1, shots).read(task, seed).examples[0].prompt for seed in range(8)}
    assert len(heads_by_seed) > 2
    assert EvaluationData(None, 4, 2).read(task, 1).examples[0].prompt.count("### Response:") == 3


def _bare(task: object, test: Path) -> list[Example]:
    return EvaluationData(test).read(task, 1).examples  # type: ignore[arg-type]
