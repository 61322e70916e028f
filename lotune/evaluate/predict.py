"""A task's questions put to a model, and the verdicts on its answers, one line a question on disk as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from lotune.data.examples import Example
from lotune.data.tokenized import PromptTooLongError, encode_prompt, encode_text
from lotune.errors import DataError, SettingsError
from lotune.evaluate.facts import Facts, read_facts
from lotune.evaluate.settings import OnTooLong
from lotune.record_files import append_record, record_lines, write_records
from lotune.tasks.task import MultipleChoice, Score, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lotune.generate.answering_model import AnsweringModel
    from lotune.generate.requests import Request
    from lotune.generate.sampling import Sampling

TOO_LONG = "too_long"
"""What ended an answer (`finish_reason`) that nobody was asked for, as the prompt is too long for the model."""
REQUEST_WINDOW = 4096
"""Questions whose tokens are held at once."""
LIKELIHOOD_WINDOW = 64
"""Questions whose continuations are compared before the first of their predictions is written."""


@dataclass(frozen=True)
class Prediction:
    """One answer and its verdict.

    `prompt_truncated`: the prompt was shortened to fit. `finish_reason`: eos, stop or length; the judging rule where
    the likeliest option was chosen; too_long where the prompt was too long to be asked, so that the empty answer counts
    as wrong. `fingerprint` is the fingerprint of the model and of the settings that gave the answer, where no run binds
    a file to them.
    """

    example_id: str
    prompt: str
    text: str
    score: Score
    category: str
    prompt_truncated: bool = False
    finish_reason: str = ""
    fingerprint: str = ""
    facts: Facts | None = None
    """How it was asked for and judged; None where the file does not say."""

    def record(self) -> dict[str, Any]:
        """The prediction as a line of a predictions file."""
        return {
            "id": self.example_id,
            "prompt": self.prompt,
            "answer": self.text,
            "extracted": self.score.extracted,
            "reference": self.score.reference,
            "correct": self.score.correct,
            "scores": dict(self.score.scores),
            "kind": self.category,
            "prompt_truncated": self.prompt_truncated,
            "finish_reason": self.finish_reason,
            **(self.facts.record() if self.facts else {}),
            **({"fingerprint": self.fingerprint} if self.fingerprint else {}),
        }


class Fitted(NamedTuple):
    """The token ids of a prompt that fits the model, and whether it had to be cut."""

    ids: tuple[int, ...]
    prompt_truncated: bool


class Answered(NamedTuple):
    """An answer that is not judged yet; the fields are those of Prediction."""

    text: str
    prompt_truncated: bool
    finish_reason: str


def predict(
    task: Task,
    examples: Sequence[Example],
    answering: AnsweringModel,
    *,
    batch_tokens: int,
    out: Path | None,
    context: int,
    stop: tuple[str, ...] = (),
    fingerprint: str = "",
    sampling: Sampling | None = None,
    facts: Facts | None = None,
    on_too_long: OnTooLong = "wrong",
) -> Iterator[Prediction]:
    """A verdict for each example, as the answers come; those that `out` already holds come first.

    An example of `out` with the same id and prompt is not asked again, but its answer is judged again, unless it was
    chosen in another way; rows of `out` that are not asked now stay as they are. `context` is the longest prompt and
    answer together, in tokens; where they are longer the passage is cut, and `on_too_long` decides about a prompt that
    has none. `stop` are texts that end an answer beside the task's own, `fingerprint` the fingerprint of model and
    settings to note with each answer, `facts` how it is asked for and judged. Tokens are the best ones, or drawn with a
    seed that follows from that of `sampling` and the example's id.
    Raises: PromptTooLongError for a prompt that is too long where that stops; DataError where `out` is damaged;
    SettingsError where answers leave no room for any prompt.
    """
    kept = keep_predictions(task, examples, out, facts, on_too_long) if out is not None else {}
    yield from kept.values()
    asked = [example for place, example in enumerate(examples) if place not in kept]
    for start in range(0, len(asked), REQUEST_WINDOW):
        group = asked[start : start + REQUEST_WINDOW]
        fitted = [fit(task, example, answering.tokenizer, context, on_too_long) for example in group]
        there = [(example, prompt) for example, prompt in zip(group, fitted, strict=True) if prompt is not None]
        long = (_too_long(task, example) for example, prompt in zip(group, fitted, strict=True) if prompt is None)
        for found in chain(long, _answer(task, there, answering, batch_tokens, stop, sampling)):
            prediction = replace(found, fingerprint=fingerprint, facts=facts)
            if out is not None:
                append_record(out, prediction.record())
            yield prediction
        answering.reset()  # no answer depends on what was read for others


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions in a file; a last line that a crash left unfinished is left out.

    Raises: DataError for a file that is not there or a line that is no prediction.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}", "a file of predictions") from None
    return parse_predictions(data, str(path))


def parse_predictions(data: bytes, where: str) -> list[Prediction]:
    """Predictions from lines of JSON; what follows the last line break is left out.

    Raises: DataError for a line that is no prediction.
    """
    return [_parse(line, f"{where}:{number}") for number, line in record_lines(data)]


def _parse(line: bytes, where: str) -> Prediction:
    try:
        row: Mapping[str, Any] = orjson.loads(line)
        judged = Score(row["extracted"], row["reference"], row["correct"], dict(row["scores"]))
        more = bool(row.get("prompt_truncated", False)), row.get("finish_reason", ""), row.get("fingerprint", "")
        return Prediction(row["id"], row["prompt"], row["answer"], judged, row["kind"], *more, read_facts(row))
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        expected = "JSON with id, prompt, answer, extracted, reference, correct, scores, kind"
        raise DataError(where, "is no prediction", expected, "delete the line") from None


def keep_predictions(
    task: Task, examples: Sequence[Example], out: Path, facts: Facts | None, on_too_long: OnTooLong = "wrong"
) -> dict[int, Prediction]:
    """Predictions already made, by place of their example, judged again.

    `out` then holds these and what is not asked now, but no answer to a row that reads otherwise by now.
    """
    stored = read_predictions(out) if out.exists() else []
    known = {(old.example_id, old.prompt): old for old in stored}
    wanted = task.scorer if isinstance(task, MultipleChoice) and task.by_likelihood else ""
    kept = {}
    for place, example in enumerate(examples):
        old = known.get((example.id, example.prompt))
        if old is None:
            continue
        if old.finish_reason == TOO_LONG:
            if on_too_long == "wrong":
                kept[place] = replace(_too_long(task, example), fingerprint=old.fingerprint, facts=facts)
        elif wanted == (old.finish_reason if old.finish_reason.startswith("likelihood") else ""):
            kept[place] = replace(_judge(task, example, old), fingerprint=old.fingerprint, facts=facts)
    if stored:
        asked = {example.id for example in examples}
        rest = {old.example_id: old for old in stored if old.example_id not in asked}
        write_records(out, (prediction.record() for prediction in (*rest.values(), *kept.values())))
    return kept


def check_room(max_new_tokens: int, context: int, where: str = "task.max_new_tokens") -> None:
    """Nothing, where the longest answer leaves room for a prompt in the model's context. Raises: SettingsError."""
    if max_new_tokens >= context:
        found = f"is {max_new_tokens}, and the model takes {context} tokens, prompt and answer together"
        raise SettingsError(where, found, f"{context - 1} at most", "lower it, or take a model with a longer context")


def fit(
    task: Task, example: Example, tokenizer: PreTrainedTokenizerBase, context: int, on_too_long: OnTooLong
) -> Fitted | None:
    """The tokens of a prompt that leave room for an answer, and whether it was cut; None where it counts as wrong.

    Raises: PromptTooLongError where it is too long and that stops; SettingsError where there is no room for any prompt.
    """
    needed = answer_token_budget(task, example, tokenizer)
    if not (isinstance(task, MultipleChoice) and task.by_likelihood):
        check_room(needed, context)
    try:
        ids, cut = encode_prompt(tokenizer, example, context - needed, truncate=on_too_long == "truncate")
    except PromptTooLongError:
        if on_too_long == "stop":
            raise
        return None
    return Fitted(tuple(ids), cut)


def _answer(
    task: Task,
    asked: Sequence[tuple[Example, Fitted]],
    answering: AnsweringModel,
    batch_tokens: int,
    stop: tuple[str, ...],
    sampling: Sampling | None,
) -> Iterator[Prediction]:
    if isinstance(task, MultipleChoice) and task.by_likelihood:
        for start in range(0, len(asked), LIKELIHOOD_WINDOW):
            group = asked[start : start + LIKELIHOOD_WINDOW]
            yield from _choose(task, group, answering, batch_tokens)
        return
    requests = [_request(task, example, prompt, stop, sampling) for example, prompt in asked]
    for place, answer in answering.engine.stream(requests, batch_tokens=batch_tokens):
        example, prompt = asked[place]
        yield _judge(task, example, Answered(answer.text, prompt.prompt_truncated, answer.finish_reason))


def answer_token_budget(task: Any, example: Example, tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokens that an answer needs beside its prompt: the longest that is allowed, or of those to choose from."""
    if isinstance(task, MultipleChoice) and task.by_likelihood:
        return max(len(encode_text(tokenizer, text)) for text in task.continuations(example))
    return int(task.max_new_tokens)


def _choose(
    task: Any,
    asked: Sequence[tuple[Example, Fitted]],
    answering: AnsweringModel,
    batch_tokens: int,
) -> Iterator[Prediction]:
    """The likeliest of each example's continuations; of equally likely ones the first."""
    from lotune.generate.loglikelihood import Continuation

    rows, texts = [], []
    for example, prompt in asked:
        texts.append(task.continuations(example))
        encoded = [encode_text(answering.tokenizer, text) for text in texts[-1]]
        rows += [Continuation(prompt.ids, tuple(one), f"row {example.id}") for one in encoded]
    values = iter(answering.loglikelihood.score(rows, batch_tokens=batch_tokens))
    for (example, prompt), options in zip(asked, texts, strict=True):
        weights = [task.normalise(option, sum(next(values))) for option in options]
        place = max(range(len(weights)), key=lambda place: (weights[place], -place))
        yield _judge(task, example, Answered(task.answer_text(example, place), prompt.prompt_truncated, task.scorer))


def _request(task: Task, example: Example, prompt: Fitted, stop: tuple[str, ...], sampling: Sampling | None) -> Request:
    """What is asked of the engine."""
    from lotune.generate.requests import Request
    from lotune.generate.sampling import GREEDY

    ends = (example.turn_end,) if example.turn_end else ()
    return Request(
        prompt.ids, task.max_new_tokens, task.min_new_tokens, (*task.stop, *stop, *ends), f"row {example.id}",
        sampling=sampling.with_row_seed(example.id) if sampling else GREEDY,
    )  # fmt: skip


def _judge(task: Task, example: Example, answer: Answered | Prediction) -> Prediction:
    verdict = task.judge(example, answer.text)
    return Prediction(
        example.id,
        example.prompt,
        answer.text,
        verdict,
        example.category,
        answer.prompt_truncated,
        answer.finish_reason,
    )


def _too_long(task: Task, example: Example) -> Prediction:
    """A question that nobody is asked: its empty answer is wrong, whatever the task thinks of an empty answer."""
    judged = task.judge(example, "")
    right = None if judged.correct is None else False
    verdict = Score(None, judged.reference, right, dict.fromkeys(judged.scores, 0.0))
    return Prediction(example.id, example.prompt, "", verdict, example.category, finish_reason=TOO_LONG)
