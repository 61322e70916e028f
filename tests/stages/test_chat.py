"""The conversation in the terminal: turns, commands, and what a turn that does not fit does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import app, save_template
from typer.testing import CliRunner

from lotune.data.conversation import Conversation, conversation_example
from lotune.data.templates import TEMPLATES
from lotune.data.tokenized import encode_prompt
from lotune.generate.requests import Event, Request, TokenEvent
from lotune.generate.sampling import Sampling
from lotune.model.loading import LoadedModel, load_model
from lotune.model.settings import BaseSettings
from lotune.stages.chat import ChatSession, LocalAnswerer, _input_lines, converse


@pytest.fixture(scope="module")
def base(small_base: Path) -> LoadedModel:
    return load_model(BaseSettings(model=str(small_base)), "cpu")


@pytest.fixture
def talk(base: LoadedModel) -> ChatSession:
    return ChatSession(LocalAnswerer(base, TEMPLATES["alpaca"], Sampling(), 6))


def test_turns_commands_and_saving(talk: ChatSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "said.jsonl"
    lines = ["", "Hello.", "And now?", f"/save {file}", "/what", "/quit", "never said"]
    converse(talk, lines)
    displayed = capsys.readouterr()
    assert displayed.out == "".join(answer + "\n" for answer in talk.conversation.answers)
    assert talk.conversation.questions == ("Hello.", "And now?")
    assert "/reset starts a new conversation" in displayed.err
    saved = json.loads(file.read_text())
    assert [item["role"] for item in saved["messages"]] == ["user", "assistant"] * 2
    assert [item["content"] for item in saved["messages"]][::2] == list(talk.conversation.questions)
    converse(talk, ["/system Be brief.", f"/save {tmp_path}", "/save ."])
    assert talk.conversation == Conversation(system="Be brief.")
    assert capsys.readouterr().err.count("cannot be written") == 2


def test_reset_clears_the_conversation_and_keeps_the_system_message(
    talk: ChatSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, real = list[Request](), talk.answerer.engine.submit

    def submit(request: Request) -> int:
        seen.append(request)
        return real(request)

    monkeypatch.setattr(talk.answerer.engine, "submit", submit)
    converse(talk, ["/system Be brief.", "Hello.", "/reset"])
    assert talk.conversation == Conversation(system="Be brief.")
    assert "new conversation" in capsys.readouterr().err
    converse(talk, ["And now?"])
    assert talk.conversation.questions == ("And now?",)
    tokenizer: Any = talk.answerer.base.tokenizer
    asked = tokenizer.decode(seen[-1].prompt_ids)
    assert "Hello." in tokenizer.decode(seen[0].prompt_ids)
    assert "Hello." not in asked
    assert asked.startswith("Be brief.\n\n")
    assert "And now?" in asked


def test_saving_overwrites_only_the_saved_conversation(
    talk: ChatSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    actual = tmp_path / "mine.jsonl"
    actual.write_text("my rows\n")
    (tmp_path / "link.jsonl").symlink_to(actual)
    converse(talk, ["Hello.", "/save mine.jsonl", "/save link.jsonl", "/save ~/new.jsonl", "More.", "/save new.jsonl"])
    displayed = capsys.readouterr().err
    assert displayed.count("already exists") == 2
    assert actual.read_text() == "my rows\n"
    assert len(json.loads((tmp_path / "new.jsonl").read_text())["messages"]) == 4
    assert not (tmp_path / "~").exists()
    talk.saved = set()
    converse(talk, ["/save new.jsonl", "/save ~nobody-here/new.jsonl"])
    assert capsys.readouterr().err.count("cannot be written") == 2


def test_commands_are_listed_and_unknown_ones_refused(talk: ChatSession, capsys: pytest.CaptureFixture[str]) -> None:
    converse(talk, ["/bye", "/save", "/help", "/Exit", "never said"])
    unknown, unnamed, listed = capsys.readouterr().err.splitlines()
    assert unknown == f"/bye: unknown command; {listed}"
    assert unnamed == f"/save: needs a file name; {listed}"
    assert all(name in listed for name in ("/reset", "/system TEXT", "/save FILE", "/help", "/exit", "Ctrl-D"))
    assert talk.conversation.questions == ()


def test_the_end_of_the_input_ends_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["Hello."])

    def read(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert list(_input_lines()) == ["Hello."]


def test_a_line_that_is_no_text_is_left_out(talk: ChatSession, capsys: pytest.CaptureFixture[str]) -> None:
    converse(talk, ["\udcff\udcfe", "Hello."])
    assert talk.conversation.questions == ("Hello.",)
    assert "your message: is not UTF-8 text" in capsys.readouterr().err


def test_a_turn_has_the_prompt_of_its_training(talk: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is that of a conversation row: template, earlier answers with their end-of-text."""
    seen: list[Request] = []
    talk.reset("Be brief.")

    real = talk.answerer.engine.submit

    def submit(request: Request) -> int:
        seen.append(request)
        return real(request)

    monkeypatch.setattr(talk.answerer.engine, "submit", submit)
    converse(talk, ["One?", "Two?"])
    tokenizer: Any = talk.answerer.base.tokenizer
    before = replace(talk.conversation, answers=talk.conversation.answers[:1])
    example = conversation_example("row 1", before, talk.answerer.form)
    assert list(seen[1].prompt_ids) == encode_prompt(tokenizer, example, 10**6)[0]
    text = tokenizer.decode(seen[1].prompt_ids)
    assert text.startswith("Be brief.\n\n")
    assert f"{talk.conversation.answers[0]}{tokenizer.eos_token}" in text


def test_turns_that_do_not_fit_the_context(talk: ChatSession, capsys: pytest.CaptureFixture[str]) -> None:
    talk.answerer.form = TEMPLATES["plain"]
    converse(talk, ["a" * 600, "b" * 600, "c" * 2000])
    displayed = capsys.readouterr()
    assert "[the first 1 turns no longer fit in the context and are left out]" in displayed.out
    assert "your message: has 2000 tokens" in displayed.err
    assert len(talk.conversation.questions) == len(talk.conversation.answers) == 2


def test_an_interrupted_answer_is_kept(
    talk: ChatSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def events(_: int) -> Iterator[Event]:
        yield TokenEvent(5, "part ")
        yield TokenEvent(6, "of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(talk.answerer.engine, "events", events)
    talk.answerer.form = TEMPLATES["plain"]
    converse(talk, ["Go on."])
    assert talk.conversation.answers == ("part of it",)
    assert "part of it [stopped]" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_uses_the_template_of_the_model(small_base: Path, tmp_path: Path) -> None:
    import shutil

    model = tmp_path / "model"
    shutil.copytree(small_base, model)
    save_template(model, TEMPLATES["qa"])
    words = ["chat", "--model", str(model), "--max-new-tokens", "4", "--temperature", "0.7", "--seed", "3"]
    completed = [CliRunner().invoke(app, words, input="Where?\n/quit\n") for _ in range(2)]
    assert completed[0].exit_code == 0, completed[0].stderr
    assert "template qa" in completed[0].stderr
    assert completed[0].stdout == completed[1].stdout
    odd = CliRunner().invoke(app, words, input=b"\xff\xfe\nWhere?\n/quit\n")
    assert (odd.exit_code, odd.stdout) == (0, completed[0].stdout)
    assert "is not UTF-8 text" in odd.stderr
    wrong = CliRunner().invoke(app, ["chat", "--model", str(model), "--top-p", "2"])
    assert (wrong.exit_code, "top_p: is 2.0" in wrong.stderr) == (2, True)
