"""Predictions: answers of a model to the rows of a task, with their verdicts, appended to a file as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from lotune.data.examples import Example
from lotune.data.tokenized import PromptTooLongError, encode_prompt, encode_target, encode_text, first_ids
from lotune.errors import DataError, SettingsError
from lotune.evaluate.facts import Facts, read_facts
from lotune.evaluate.reference_bits import (
    REFERENCE_ONLY,
    has_reference,
    reference_scores,
    stored_reference_scores,
    with_reference_scores,
)
from lotune.evaluate.settings import OnTooLong
from lotune.record_files import append_record, record_lines, write_records
from lotune.tasks.task import Score, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lotune.generate.answering_model import AnsweringModel
    from lotune.generate.requests import Request
    from lotune.generate.sampling import Sampling

TOO_LONG = "too_long"
"""The `finish_reason` of the empty answer to a prompt that is too long for the model."""
# Bounds the memory that a large file takes; the engine batches rows and shares their prefixes within a window.
REQUEST_WINDOW = 4096
"""Maximum number of rows whose token ids are held at once."""
# The scores of a window come back together, so a crash loses at most this many rows.
LIKELIHOOD_WINDOW = 64
"""Number of rows whose options are scored before the first of their predictions is written."""


@dataclass(frozen=True)
class Prediction:
    """One answer and its verdict.

    `prompt_truncated` tells whether the prompt was shortened to fit. `finish_reason` is eos, stop or length; the name
    of the scorer if an option was chosen by likelihood; or too_long if there is no answer, which counts as wrong.
    `fingerprint` identifies the model and the generation settings; it is empty if the file belongs to a run.
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
    """How the answer was generated and judged; None if the file has no facts."""

    def record(self) -> dict[str, Any]:
        """Return the prediction as a line of a predictions file."""
        # The JSON key of the category is "kind", as in scorecard.json.
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
    """The token ids of a prompt that fits the model, and whether it was truncated."""

    ids: tuple[int, ...]
    prompt_truncated: bool


class Answered(NamedTuple):
    """An answer without a verdict; the fields are those of Prediction."""

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
    references_only: bool = False,
) -> Iterator[Prediction]:
    """Yield a prediction for each example in order of completion, after those that `out` already holds.

    A stored answer with the same id and prompt is judged again but not generated again, unless it was chosen in another
    way; lines of `out` for other rows stay as they are. `context` is the maximum number of tokens of prompt and answer
    together. A longer prompt loses the end of its passage; `on_too_long` decides about a prompt without a passage. An
    answer ends before any of the `stop` texts and of the task's own. `fingerprint` (of model and settings) and `facts`
    are stored with each prediction. Decoding is greedy, or samples with a seed derived from `sampling` and the id.
    With `references_only`, or if the task generates no answers, the references alone are scored.

    Raises: PromptTooLongError if a prompt is too long and `on_too_long` is "stop"; DataError if `out` is damaged;
    SettingsError if the longest answer leaves no room for a prompt.
    """
    references_only = references_only or not task.generates_answers
    resumed = keep_predictions(task, examples, out, facts, on_too_long, references_only) if out is not None else {}
    yield from resumed.values()
    remaining = [example for index, example in enumerate(examples) if index not in resumed]
    for start in range(0, len(remaining), REQUEST_WINDOW):
        group = remaining[start : start + REQUEST_WINDOW]
        fitted = [fit(task, example, answering.tokenizer, context, on_too_long) for example in group]
        fitting = [(example, prompt) for example, prompt in zip(group, fitted, strict=True) if prompt is not None]
        too_long = (_too_long(task, example) for example, prompt in zip(group, fitted, strict=True) if prompt is None)
        answer_rows = _score_references if task.scores_references and references_only else _answer
        for answer in chain(too_long, answer_rows(task, fitting, answering, batch_tokens, stop, sampling)):
            prediction = replace(answer, fingerprint=fingerprint, facts=facts)
            if out is not None:
                append_record(out, prediction.record())  # before the yield, so that a crash of the caller loses nothing
            yield prediction
        answering.reset()  # so that the next answers are those of a resumed evaluation, which has no cache either


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions in a file, without a torn last line.

    Raises: DataError if the file cannot be read or a line is not a prediction.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}", "a file of predictions") from None
    return parse_predictions(data, str(path))


def parse_predictions(data: bytes, where: str) -> list[Prediction]:
    """Parse predictions from lines of JSON, ignoring text after the last line break.

    Raises: DataError if a line is not a prediction.
    """
    return [_parse(line, f"{where}:{number}") for number, line in record_lines(data)]


def _parse(line: bytes, where: str) -> Prediction:
    try:
        row: Mapping[str, Any] = orjson.loads(line)
        judged = Score(row["extracted"], row["reference"], row["correct"], dict(row["scores"]))
        # A fingerprint is written only where no run binds the file to a model.
        origin = bool(row.get("prompt_truncated", False)), row.get("finish_reason", ""), row.get("fingerprint", "")
        return Prediction(row["id"], row["prompt"], row["answer"], judged, row["kind"], *origin, read_facts(row))
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        expected = "JSON with id, prompt, answer, extracted, reference, correct, scores, kind"
        raise DataError(where, "is not a prediction", expected, "delete the line") from None


def keep_predictions(
    task: Task,
    examples: Sequence[Example],
    out: Path,
    facts: Facts | None,
    on_too_long: OnTooLong = "wrong",
    references_only: bool = False,
) -> dict[int, Prediction]:
    """Return the stored predictions of the examples, judged again, by index of the example.

    Rewrite `out` with these and the lines of other rows; answers to prompts that have changed are dropped.
    """
    stored = read_predictions(out) if out.exists() else []
    by_prompt = {(old.example_id, old.prompt): old for old in stored}
    resumed = {}
    for index, example in enumerate(examples):
        old = by_prompt.get((example.id, example.prompt))
        if old is None:
            continue
        if old.finish_reason == TOO_LONG:
            # With "stop" or "truncate" the row must be fitted again, which raises or leads to an answer.
            if on_too_long == "wrong":
                resumed[index] = replace(_too_long(task, example), fingerprint=old.fingerprint, facts=facts)
        elif (judged := _judge_again(task, example, old, references_only)) is not None:
            resumed[index] = replace(judged, fingerprint=old.fingerprint, facts=facts)
    if stored:
        ids = {example.id for example in examples}
        unrelated = {old.example_id: old for old in stored if old.example_id not in ids}
        write_records(out, (prediction.record() for prediction in (*unrelated.values(), *resumed.values())))
    return resumed


def _judge_again(task: Task, example: Example, old: Prediction, references_only: bool) -> Prediction | None:
    """Return a stored prediction with its verdict by the task's scorer; None if the model has to answer again."""
    # A scorer by likelihood chooses the answer, so its answers are of no use to another scorer. A generated text can be
    # judged by every scorer.
    chosen_by = old.finish_reason if old.finish_reason.startswith("likelihood") else ""
    if not task.scores_references:
        likelihood_scorer = task.scorer if task.chooses_by_likelihood else ""
        return _judge(task, example, old) if chosen_by == likelihood_scorer else None
    scores = stored_reference_scores(example, old.score)
    if scores is None or chosen_by not in ("", REFERENCE_ONLY if references_only else ""):
        return None
    return _judge(task, example, old, scores)


def check_max_new_tokens(max_new_tokens: int, context: int, where: str = "task.max_new_tokens") -> None:
    """Raise SettingsError unless the longest answer leaves room for a prompt in the context (tokens)."""
    if max_new_tokens >= context:
        fault = f"is {max_new_tokens}, and the model takes {context} tokens, prompt and answer together"
        raise SettingsError(where, fault, f"{context - 1} at most", "lower it, or take a model with a longer context")


def fit(
    task: Task, example: Example, tokenizer: PreTrainedTokenizerBase, context: int, on_too_long: OnTooLong
) -> Fitted | None:
    """Return the token ids of a prompt that leaves room for an answer; None if it is too long and counts as wrong.

    Raises: PromptTooLongError if it is too long and `on_too_long` is "stop"; SettingsError if no prompt has room.
    """
    needed = answer_token_budget(task, example, tokenizer)
    # The length of options and references is not a setting, so if they fill the context, the row is at fault.
    if not task.chooses_by_likelihood:
        check_max_new_tokens(task.max_new_tokens, context)
    budget = max(0, context - needed)
    try:
        ids, is_truncated = encode_prompt(tokenizer, example, budget, truncate=on_too_long == "truncate")
        if not ids and task.scores_references:
            ids = _text_start(example, tokenizer, budget)
    except PromptTooLongError:
        if on_too_long == "stop":
            raise
        return None
    return Fitted(tuple(ids), is_truncated)


def _text_start(example: Example, tokenizer: PreTrainedTokenizerBase, budget: int) -> list[int]:
    """Return the token before a text without prompt, whose first token counts, too.

    Raises: PromptTooLongError if the text leaves no room for it.
    """
    ids = first_ids(tokenizer)
    if len(ids) > budget:
        raise PromptTooLongError(f"row {example.id}", "the text fills the context", "a shorter text", "shorten it")
    return ids


def _answer(
    task: Task,
    rows: Sequence[tuple[Example, Fitted]],
    answering: AnsweringModel,
    batch_tokens: int,
    stop: tuple[str, ...],
    sampling: Sampling | None,
) -> Iterator[Prediction]:
    if task.chooses_by_likelihood:
        for start in range(0, len(rows), LIKELIHOOD_WINDOW):
            group = rows[start : start + LIKELIHOOD_WINDOW]
            yield from _choose(task, group, answering, batch_tokens)
        return
    references: Sequence[Mapping[str, float]] = [{}] * len(rows)
    if task.scores_references:
        references = reference_scores([(example, prompt.ids) for example, prompt in rows], answering, batch_tokens)
    requests = [_request(task, example, prompt, stop, sampling) for example, prompt in rows]
    for index, answer in answering.engine.stream(requests, batch_tokens=batch_tokens):
        example, prompt = rows[index]
        answered = Answered(answer.text, prompt.prompt_truncated, answer.finish_reason)
        yield _judge(task, example, answered, references[index])


def answer_token_budget(task: Any, example: Example, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of tokens of the longest answer: the allowed maximum, the longest option, or the reference."""
    if task.chooses_by_likelihood:
        return max(len(encode_text(tokenizer, text)) for text in task.continuations(example))
    if task.scores_references and has_reference(example):
        return max(int(task.max_new_tokens), len(encode_target(tokenizer, example)))
    return int(task.max_new_tokens)


def _score_references(
    task: Task,
    rows: Sequence[tuple[Example, Fitted]],
    answering: AnsweringModel,
    batch_tokens: int,
    *_: object,
) -> Iterator[Prediction]:
    """Yield a prediction with the bits per byte of the reference, and an empty answer, for each row."""
    for start in range(0, len(rows), LIKELIHOOD_WINDOW):
        group = rows[start : start + LIKELIHOOD_WINDOW]
        scores = reference_scores([(example, prompt.ids) for example, prompt in group], answering, batch_tokens)
        for (example, prompt), reference in zip(group, scores, strict=True):
            yield _judge(task, example, Answered("", prompt.prompt_truncated, REFERENCE_ONLY), reference)


def _choose(
    task: Any,
    rows: Sequence[tuple[Example, Fitted]],
    answering: AnsweringModel,
    batch_tokens: int,
) -> Iterator[Prediction]:
    """Yield the most likely option of each example; of equally likely options the first."""
    from lotune.generate.loglikelihood import Continuation

    continuations, options_of_rows = [], []
    for example, prompt in rows:
        options = task.continuations(example)
        options_of_rows.append(options)
        encoded = [encode_text(answering.tokenizer, text) for text in options]
        continuations += [Continuation(prompt.ids, tuple(ids), f"row {example.id}") for ids in encoded]
    log_probabilities = iter(answering.loglikelihood.score(continuations, batch_tokens=batch_tokens))
    for (example, prompt), options in zip(rows, options_of_rows, strict=True):
        scores = [task.normalise(option, sum(next(log_probabilities))) for option in options]
        best = max(range(len(scores)), key=lambda index: (scores[index], -index))
        # The scorer as finish_reason lets a resumed evaluation tell a chosen answer from a generated one.
        yield _judge(task, example, Answered(task.answer_text(example, best), prompt.prompt_truncated, task.scorer))


def _request(task: Task, example: Example, prompt: Fitted, stop: tuple[str, ...], sampling: Sampling | None) -> Request:
    """Return the request to the engine for an example."""
    from lotune.generate.requests import Request
    from lotune.generate.sampling import GREEDY

    # The token with which a chat template closes a turn is not always the end-of-text token.
    turn_end = (example.turn_end,) if example.turn_end else ()
    return Request(
        prompt.ids, task.max_new_tokens, task.min_new_tokens, (*task.stop, *stop, *turn_end), f"row {example.id}",
        sampling=sampling.with_row_seed(example.id) if sampling else GREEDY,
    )  # fmt: skip


def _judge(
    task: Task, example: Example, answer: Answered | Prediction, reference: Mapping[str, float] | None = None
) -> Prediction:
    verdict = with_reference_scores(task.judge(example, answer.text), reference or {})
    if answer.finish_reason == REFERENCE_ONLY:  # ROUGE-L of an answer that was not generated would be 0
        verdict = replace(verdict, scores=reference or {})
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
    """Return the prediction for a prompt that is too long: its empty answer is wrong, even if the task accepts one.

    No figure stands for a likelihood that was not measured, so a task that scores references leaves the row out.
    """
    judged = task.judge(example, "")
    # An unjudgeable row stays out of the accuracy.
    correct = None if judged.correct is None or task.scores_references else False
    verdict = Score(None, judged.reference, correct, dict.fromkeys(judged.scores, 0.0))
    return Prediction(example.id, example.prompt, "", verdict, example.category, finish_reason=TOO_LONG)
