"""Votes are kept, once each, exchanged without doubles, and cleaned of private data."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from arena_votes import vote

from lotune.arena.categories import category, language
from lotune.arena.exchange import export_lines, import_votes, redact
from lotune.arena.identity import names_itself
from lotune.arena.store import SCORES, VoteStore
from lotune.arena.style import style_counts, style_differences
from lotune.errors import DataError


@pytest.fixture
def store(tmp_path: Path) -> VoteStore:
    return VoteStore(tmp_path / "votes.sqlite")


def test_a_vote_comes_back_as_it_was_and_a_battle_has_one(store: VoteStore) -> None:
    first = vote(1, settings={"temperature": 0.1}, named=True, style_a=(1, 0, 0, 2), digest_a="abc")
    assert store.add(first)
    assert not store.add(replace(first, verdict="tie"))
    again = VoteStore(store.file)
    assert list(again.votes()) == [first]
    assert again.count() == 1
    [row] = again.summaries()
    assert row[:5] == ("battle-1", "visitor-1", "base", "tuned", "model_b")


def test_several_votes_are_written_together_or_not_at_all(store: VoteStore) -> None:
    assert store.add_all([vote(1), vote(2), vote(1)]) == 2
    broken = replace(vote(3), time=None)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        store.replace([vote(4), broken])
    assert store.count() == 2


@pytest.mark.parametrize("content", [b"not a database, but long enough to look like one" * 20, None])
def test_another_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "other.sqlite"
    if content is None:
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE other (a)")
        connection.close()
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(DataError, match=r"other\.sqlite"):
        VoteStore(file)
    assert file.read_bytes() == before


def test_export_and_import_are_inverse_and_add_each_vote_once(store: VoteStore, tmp_path: Path) -> None:
    votes = [vote(number, turns=(("问？", "a\u202eb", "<b>"), ("more", "c", "d"))) for number in range(5)]
    store.add_all(votes)
    file = tmp_path / "votes.jsonl"
    file.write_bytes(b"".join(export_lines(store)))
    other = VoteStore(tmp_path / "other.sqlite")
    found = import_votes(other, file)
    assert (found.added, found.known, found.other) == (5, 0, 0)
    assert list(other.votes()) == votes
    assert import_votes(other, file).known == 5
    assert list(other.votes()) == votes


CLEANED = {
    "model_a": "vicuna-13b", "model_b": "koala-13b", "winner": "tie (bothbad)", "judge": "arena_user_1", "tstamp": 12.5,
    "conversation_a": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    "conversation_b": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am Koala."}],
    "turn": 1, "anony": True, "language": "English",
}  # fmt: skip
LOG = {
    "tstamp": 13.0, "type": "leftvote", "models": ["", ""], "ip": "1.2.3.4",
    "states": [
        {"conv_id": "x", "messages": [["USER", "2 + 2?"], ["ASSISTANT", "4"]], "model_name": "vicuna-13b"},
        {"conv_id": "y", "messages": [["USER", "2 + 2?"], ["ASSISTANT", "5"]], "model_name": "koala-13b"},
    ],
}  # fmt: skip


def test_fastchat_votes_are_read(store: VoteStore, tmp_path: Path) -> None:
    battles, log = tmp_path / "clean_battle.json", tmp_path / "2024-01-01-conv.json"
    battles.write_text(json.dumps([CLEANED, {**CLEANED, "winner": "model_a", "tstamp": 14.0}]))
    named = {**LOG, "models": ["vicuna-13b", "koala-13b"]}
    log.write_text("\n".join(json.dumps(line) for line in ({"type": "chat", "tstamp": 1.0}, LOG, named)))
    assert import_votes(store, battles).added == 2
    found = import_votes(store, log)
    assert (found.added, found.other) == (1, 2)
    votes = {vote.verdict: vote for vote in store.votes()}
    assert votes["both_bad"].turns == (("Hi", "Hello", "I am Koala."),)
    assert votes["both_bad"].named  # an answer gives its name away
    assert SCORES[votes["model_a"].verdict] == 1
    assert "1.2.3.4" not in votes["model_a"].visitor
    assert import_votes(store, battles).added == import_votes(store, log).added == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", r"votes.jsonl:1: is no record"),
        ("nonsense", r"votes.jsonl:1: is no JSON"),
        ('{"verdict": "best"}', r"votes.jsonl:1: is no vote"),
        (json.dumps({**CLEANED, "winner": "model_c"}), "is no vote"),
        ("[1, 2]", "is no record"),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_added(store: VoteStore, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "votes.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=said):
        import_votes(store, file)
    assert store.count() == 0


def test_private_data_is_removed_also_from_the_file(store: VoteStore) -> None:
    private = vote(1, turns=(("Write to ann@example.org, +49 170 1234567", "sk-abcdefghijklmnop", "1 + 1 = 2"),))
    store.add_all([private, vote(2)])
    assert redact(store) == 1
    [first, second] = store.votes()
    assert first.turns == (("Write to [redacted], [redacted]", "[redacted]", "1 + 1 = 2"),)
    assert second == vote(2)
    assert b"ann@example.org" not in store.file.read_bytes()
    assert redact(store) == 0


def test_all_texts_can_be_removed_and_what_rates_stays(store: VoteStore) -> None:
    store.add_all([vote(1, style_a=(3, 0, 0, 0)), vote(2), vote(8)])
    assert redact(store, texts=True) == 3
    found = list(store.votes())
    assert all("What" not in str(one.turns) and one.visitor[:7] != "visitor" for one in found)
    assert found[0].style_a == (3, 0, 0, 0)
    assert found[0].visitor == found[2].visitor != found[1].visitor  # one visitor stays one
    with pytest.raises(DataError, match="has no battle none"):
        redact(store, ["none"])


@pytest.mark.parametrize(
    ("prompt", "answer", "names", "expected"),
    [
        ("Hi", "Hello, I'm Qwen2.", ("a", "b"), True),
        ("Hi", "As an AI language model trained by OpenAI, I …", ("a", "b"), True),
        ("你好", "我是文心一言。", ("a", "b"), True),
        ("Who are you?", "Llama, at your service.", ("a", "b"), True),
        ("What animal is this?", "A llama.", ("a", "b"), False),
        ("What is the base of 10?", "The base is 10.", ("base", "tuned"), False),
        ("Hi", "I am the tuned one", ("base", "tuned"), True),
        ("Hi", "nano-2 says hello", ("nano-2", "b"), True),
        ("Hi", "nanometres", ("nano", "b"), False),
    ],
)
def test_answers_that_give_a_name_away_are_found(
    prompt: str, answer: str, names: tuple[str, ...], expected: bool
) -> None:
    assert names_itself([prompt], [answer, "fine"], names) is expected


def test_style_counts_leave_code_out() -> None:
    assert style_counts("```\n# no heading\n- no list\n```\n## One\n1. a\n2. **b**") == (9, 1, 1, 2)
    assert style_counts("李白 and 杜甫") == (5, 0, 0, 0)
    differences = style_differences([(10, 0, 0, 0), (30, 0, 1, 0)], [(30, 0, 0, 0), (10, 0, 0, 0)])
    assert differences[:, 0].tolist() == [-1.0, 1.0]  # (10 - 30) / 40 over its standard deviation
    assert differences[:, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("计算 12.5 加 3 等于多少？", ("zh", "math")),
        ("Write a function in Python that sorts.", ("en", "code")),
        ("用 Python 写一个排序函数", ("zh", "code")),
        ("Привет", ("other", "other")),
        ("Tell me a story. " * 50, ("en", "long")),
        ("こんにちは、元気ですか", ("other", "other")),
    ],
)
def test_prompts_have_a_language_and_a_category(prompt: str, expected: tuple[str, str]) -> None:
    assert (language(prompt), category(prompt)) == expected


def test_names_in_prompts_are_no_leak() -> None:
    given: Any = (["Are you Claude?"], ["No.", "I am a program."], ["a", "b"])
    assert not names_itself(*given)
