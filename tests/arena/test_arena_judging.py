"""A judge sees both orders, a scorer compares with the reference, and both are compared with people."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from arena_votes import vote
from chat_server import FakeServer

from lotune.arena.judging import Question, agreement, judge_prompt, model_judge, read_verdict, scorer_judge
from lotune.arena.store import VoteStore
from lotune.errors import DataError, SettingsError
from lotune.stages.arena_judge import JudgeOptions, judge_battles, read_questions


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (("[[A]]", "[[B]]"), "model_a"),  # the same answer in both orders
        (("[[B]]", "[[A]]"), "model_b"),
        (("[[A]]", "[[A]]"), "tie"),  # always the first one
        (("[[C]]", "[[C]]"), "tie"),
        (("[[A]]", "no idea"), None),
    ],
)
def test_two_opinions_make_a_verdict(replies: tuple[str, str], expected: str | None) -> None:
    given = iter(replies)
    assert model_judge(lambda prompt: next(given))(Question("?"), "a", "b") == expected


def test_texts_of_models_stay_as_they_are_in_the_prompt() -> None:
    prompt = judge_prompt("{a}?", "{b} [[B]]", "second")
    assert "{a}?" in prompt
    assert "{b} [[B]]" in prompt
    assert read_verdict("[[A]] at first, but [[C]]") == "tie"


def test_a_scorer_judges_by_the_reference() -> None:
    judge = scorer_judge(lambda text, reference: text == reference)
    question = Question("1 + 1?", "2")
    answers = (("2", "3"), ("3", "2"), ("2", "2"), ("3", "3"))
    assert [judge(question, *pair) for pair in answers] == ["model_a", "model_b", "tie", "both_bad"]


def test_agreement_counts_what_both_decided(tmp_path: Path) -> None:
    store = VoteStore(tmp_path / "votes.sqlite")
    people = [vote(n, verdict="model_b") for n in range(4)]
    judged: list[Any] = [
        replace(people[0], battle="j0", judge="exact"),
        replace(people[1], battle="j1", judge="exact", model_a="tuned", model_b="base", verdict="model_b"),
        replace(people[2], battle="j2", judge="exact", verdict="tie"),
        vote(9, battle="j3", judge="exact"),
    ]
    store.add_all([*people, *judged])
    found = agreement(store, "exact")
    assert (found.same, found.battles) == (1, 2)
    assert found.describe() == "takes the side of people in 1 of 2 battles (50%)"


def test_battles_on_a_file_of_questions(tmp_path: Path) -> None:
    """One model adds, the other one does not; a judge that likes right answers, and the scorer, see it alike."""
    file, votes = tmp_path / "questions.jsonl", tmp_path / "votes.sqlite"
    file.write_text("\n".join(f'{{"prompt": "{n} + 1?", "answer": "{n + 1}"}}' for n in range(5)))
    seen = []

    class Models(FakeServer):
        def text(self, body: dict[str, Any], kind: str) -> str:
            asked = body["messages"][-1]["content"]
            seen.append(body["model"])
            if body["model"] == "judge":
                number = int(re.findall(r"(\d+) \+ 1\?", asked)[0])
                first, second = re.findall(r"\[Answer [AB]\]\n(.*)", asked)
                right = [text == str(number + 1) for text in (first, second)]
                return f"[[{'C' if right[0] == right[1] else 'A' if right[0] else 'B'}]]"
            number = int(asked.split()[0])
            return str(number + 1) if body["model"] == "adds" else str(number)

    with Models(names=("adds", "repeats", "judge")).running() as server:
        by_model = judge_battles(votes, file, JudgeOptions(server.url, ["adds", "repeats"], judge="judge"))
        asked = len(seen)
        again = judge_battles(votes, file, JudgeOptions(server.url, ["adds", "repeats"], judge="judge"))
        assert seen[asked:].count("judge") == 0  # known battles are not judged again
        by_scorer = judge_battles(votes, file, JudgeOptions(server.url, ["adds", "repeats"], scorer="number"))
    assert (by_model["added"], again["added"], again["known"], by_scorer["added"]) == (5, 0, 5, 5)
    assert {(one.judge, one.verdict) for one in VoteStore(votes).votes()} == {
        ("judge", "model_a"), ("number", "model_a"),
    }  # fmt: skip


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("What is 1 + 1?\n\nAnd 2?\n")
    assert [question.prompt for question in read_questions(file, with_references=False)] == ["What is 1 + 1?", "And 2?"]
    with pytest.raises(DataError, match=r"questions.txt:1: has no reference"):
        read_questions(file, with_references=True)
    for options, said in (
        (JudgeOptions("http://127.0.0.1:9", ["a"], judge="j"), "1 models"),
        (JudgeOptions("http://127.0.0.1:9", ["a", "b"]), "needs one judge"),
        (JudgeOptions("http://127.0.0.1:9", ["a", "b"], scorer="f1"), "gives scores"),
        (JudgeOptions("http://127.0.0.1:9", ["a", "b"], scorer="none"), "no scorer"),
    ):
        with pytest.raises(SettingsError, match=said):
            judge_battles(tmp_path / "votes.sqlite", file, options)
