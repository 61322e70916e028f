"""Predictions: asked once, judged always, one line each on disk; a second start goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotune.data.examples import Example
from lotune.data.tokenized import PromptTooLongError
from lotune.errors import DataError, SettingsError
from lotune.evaluate import predict as module
from lotune.evaluate.predict import predict, read_predictions
from lotune.generate.answering_model import AnsweringModel
from lotune.tasks.task import Row, Score

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Echo:
    """Whatever is answered, the verdict is a length."""

    name: str = "echo"
    metric: str = "accuracy"
    max_new_tokens: int = 6
    min_new_tokens: int = 1
    stop: tuple[str, ...] = ()
    chooses_by_likelihood: bool = False
    verdict: bool | None = True
    scores_references: bool = False
    generates_answers: bool = True

    def examples(self, rows: Iterable[tuple[str, Row]], *, training: bool) -> Iterable[Example]:
        raise NotImplementedError

    def generate_rows(self, rows: int, seed: int) -> list[Row]:
        raise NotImplementedError

    def judge(self, example: Example, text: str) -> Score:
        return Score(text[:1], example.target, self.verdict, {"length": float(len(text))})

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        return {"accuracy": 1.0}


EXAMPLES = [Example(f"q{number}", f"Question {number}?" * (1 + number % 3), "7", category="a") for number in range(12)]


@pytest.fixture
def ask(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> Any:
    answering = AnsweringModel(tiny_llama, byte_tokenizer)

    def ask(
        examples: Sequence[Example], out: Path | None, *, context: int = 256, task: Echo = Echo(), **more: Any
    ) -> Any:
        return predict(task, examples, answering, batch_tokens=200, out=out, context=context, **more)

    return ask


def test_every_example_is_answered_scored_and_written(ask: Any, tmp_path: Path) -> None:
    out = tmp_path / "predictions" / "echo" / "base.jsonl"
    results = list(ask(EXAMPLES, out))
    assert {prediction.example_id for prediction in results} == {example.id for example in EXAMPLES}
    assert all(prediction.score.scores["length"] == len(prediction.text) for prediction in results)
    assert read_predictions(out) == results
    row = orjson.loads(out.read_bytes().splitlines()[0])
    assert {"id", "prompt", "answer", "extracted", "reference", "correct", "scores", "kind"} <= row.keys()


def test_without_a_file_nothing_is_written(ask: Any, tmp_path: Path) -> None:
    assert len(list(ask(EXAMPLES, None))) == 12
    assert list(tmp_path.iterdir()) == []


def test_windows_do_not_change_the_answers(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = {prediction.example_id: prediction for prediction in ask(EXAMPLES, None)}
    monkeypatch.setattr(module, "REQUEST_WINDOW", 5)
    assert {prediction.example_id: prediction for prediction in ask(EXAMPLES, None)} == complete


def test_a_second_start_generates_only_missing_answers(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "base.jsonl"
    complete = {prediction.example_id: prediction for prediction in ask(EXAMPLES, None)}
    first = ask(EXAMPLES, out)
    early = [next(first) for _ in range(5)]
    first.close()
    with out.open("ab") as file:
        file.write(b'{"id": "q9", "prom')  # a crash in the middle of a line
    asked: list[str] = []
    request = module._request
    monkeypatch.setattr(module, "_request", lambda *a: (asked.append(a[1].id), request(*a))[1])
    again = list(ask(EXAMPLES, out))
    assert len(asked) == 7
    assert not set(asked) & {prediction.example_id for prediction in early}
    assert {prediction.example_id: prediction for prediction in again} == complete
    assert {prediction.example_id: prediction for prediction in read_predictions(out)} == complete


def test_a_changed_prompt_is_answered_again_and_unselected_rows_stay(ask: Any, tmp_path: Path) -> None:
    out = tmp_path / "base.jsonl"
    complete = {item.example_id: item for item in ask(EXAMPLES, out)}
    changed = [Example("q0", "Another question?", "7"), *EXAMPLES[1:6]]
    assert {item.example_id for item in ask(changed, out)} == {example.id for example in changed}
    stored = read_predictions(out)
    assert len(stored) == 12
    assert {item.example_id: item.prompt for item in stored} == {
        example.id: example.prompt for example in [*changed, *EXAMPLES[6:]]
    }
    assert all(item == complete[item.example_id] for item in stored if item.example_id != "q0")


@dataclass(frozen=True)
class Picking(Echo):
    """The model picks the likelier of two letters."""

    chooses_by_likelihood: bool = True
    scorer: str = "likelihood:letter"

    def continuations(self, example: Example) -> tuple[str, ...]:
        return ("A", "B")

    def normalise(self, continuation: str, log_probability: float) -> float:
        return log_probability

    def answer_text(self, example: Example, index: int) -> str:
        return "AB"[index]


def test_choices_are_written_group_by_group(ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "base.jsonl"
    complete = {item.example_id: item for item in ask(EXAMPLES, None, task=Picking())}
    monkeypatch.setattr(module, "LIKELIHOOD_WINDOW", 4)
    stopped = ask(EXAMPLES, out, task=Picking())
    for _ in range(5):
        next(stopped)
    stopped.close()
    assert len(read_predictions(out)) == 5
    groups: list[int] = []
    choose = module._choose
    monkeypatch.setattr(module, "_choose", lambda *a: (groups.append(len(a[1])), choose(*a))[1])
    assert {item.example_id: item for item in ask(EXAMPLES, out, task=Picking())} == complete
    assert groups == [4, 3]


def test_stored_answers_are_scored_again(ask: Any, tmp_path: Path) -> None:
    out = tmp_path / "base.jsonl"
    list(ask(EXAMPLES, out))
    assert not any(prediction.score.correct for prediction in ask(EXAMPLES, out, task=Echo(verdict=False)))
    assert not any(prediction.score.correct for prediction in read_predictions(out))


def test_long_passages_are_cut_and_counted(ask: Any) -> None:
    parts = ("Read. ", "word " * 100, " Answer:")
    long = Example("long", "".join(parts), "7", prompt_parts=parts)
    results = list(ask([*EXAMPLES, long], None, context=64))
    assert [prediction.example_id for prediction in results if prediction.prompt_truncated] == ["long"]


def test_a_long_prompt_without_a_passage_can_stop(ask: Any) -> None:
    with pytest.raises(PromptTooLongError, match="row long"):
        list(ask([Example("long", "word " * 100, "7")], None, context=64, on_too_long="stop"))


LONG = Example("long", "word " * 100, "7", category="a")
LONG_QUESTION = Example("question", "Read. p" + "ask " * 100, "7", prompt_parts=("Read. ", "p", "ask " * 100))


@pytest.mark.parametrize("task", [Echo(), Picking()], ids=["written", "chosen"])
def test_a_prompt_that_is_too_long_is_wrong_without_generation(ask: Any, task: Echo, tmp_path: Path) -> None:
    """Even of a task that finds an empty answer right, and all the same after an interruption."""
    out, rows = tmp_path / "base.jsonl", [*EXAMPLES[:6], LONG, *EXAMPLES[6:], LONG_QUESTION]
    complete = {item.example_id: item for item in ask(rows, out, context=64, task=task)}
    assert len(complete) == len(rows)
    alone = {item.example_id: item for item in ask(EXAMPLES, None, context=64, task=task)}
    assert all(complete[id] == item for id, item in alone.items())
    for id in ("long", "question"):
        assert (complete[id].text, complete[id].finish_reason, complete[id].prompt_truncated) == ("", "too_long", False)
        assert complete[id].score == Score(None, "7", False, {"length": 0.0})
    assert {item.example_id: item for item in read_predictions(out)} == complete
    lines = out.read_bytes().splitlines(keepends=True)
    for num_lines in (1, 5, len(lines)):
        out.write_bytes(b"".join(lines[:num_lines]))
        assert {item.example_id: item for item in ask(rows, out, context=64, task=task)} == complete
        assert sorted(out.read_bytes().splitlines(keepends=True)) == sorted(lines)
    with pytest.raises(PromptTooLongError):
        list(ask(rows, out, context=64, task=task, on_too_long="stop"))


def test_a_row_without_a_reference_stays_unjudgeable(ask: Any) -> None:
    [result] = ask([LONG], None, context=64, task=Echo(verdict=None))
    assert (result.score.correct, result.finish_reason) == (None, "too_long")


def test_a_prompt_that_is_too_long_can_lose_its_middle(
    ask: Any, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, str] = {}
    request = module._request

    def noting(task: Any, example: Example, prompt: Any, *more: Any) -> Any:
        asked[example.id] = byte_tokenizer.decode(prompt.ids)
        return request(task, example, prompt, *more)

    monkeypatch.setattr(module, "_request", noting)
    rows = [Example("long", "Calculate" + " 1 +" * 100 + " 1. Answer:", "7"), LONG_QUESTION, EXAMPLES[0]]
    results = {item.example_id: item for item in ask(rows, None, context=40, on_too_long="truncate")}
    assert {id for id, item in results.items() if item.prompt_truncated} == {"long", "question"}
    assert {item.finish_reason for item in results.values()} <= {"eos", "length"}
    assert (asked["long"][:17], asked["long"][17:]) == ("Calculate 1 + 1 +", " + 1 + 1. Answer:")
    assert len(asked["question"]) == 34
    assert asked["q0"] == EXAMPLES[0].prompt


def test_answers_that_leave_no_room_are_refused(ask: Any) -> None:
    with pytest.raises(SettingsError, match="is 6, and the model takes 6 tokens"):
        list(ask(EXAMPLES, None, context=6))


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8), context=st.integers(10, 70))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_has_one_prediction_even_if_its_prompt_does_not_fit(
    ask: Any, lengths: list[int], context: int
) -> None:
    rows = [Example(str(index), "x" * length, "7") for index, length in enumerate(lengths)]
    results = list(ask(rows, None, context=context))
    assert sorted(int(result.example_id) for result in results) == list(range(len(rows)))
    assert all(
        (result.finish_reason == "too_long") == (lengths[int(result.example_id)] + 6 > context) for result in results
    )


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    path.write_text('{"id": "q1"}\n')
    with pytest.raises(DataError, match=r"base\.jsonl:1: is not a prediction"):
        read_predictions(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "nothing.jsonl")
