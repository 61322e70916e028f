"""The course of a training, and where a stopped one goes on: tuning and pre-training alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lotune.data.batches import encode_row
from lotune.data.examples import Example
from lotune.data.token_files import TokenFile
from lotune.model.logits import NotFiniteLogitsError
from lotune.report.progress import Progress, say
from lotune.runs import Run, append_jsonl, keep_lines

if TYPE_CHECKING:
    from lotune.train.loop import Step
    from lotune.train.resume import State, Training

STATES = "states"
"""Folder of a run that holds the states of a training that is not finished."""
METRICS = "metrics.jsonl"
"""File of a run with one line a step, and one a validation."""


def takes_packed(model: Any, rows: TokenFile) -> bool:
    """Whether a model takes these rows in packed lines, and is made ready for them; it is said where it does not.

    Raises: ModelError where it is not causal.
    """
    from lotune.model.attention import check_causal, take_packed

    check_causal(model)
    packed = take_packed(model, int(rows.lengths().max()))
    if not packed:
        say("this model takes no packed rows: rows are padded to one another's length")
    return packed


def go_on(run: Run, training: Training) -> State:
    """Bring a training to its newest saved state, or that of step 0; metrics.jsonl then ends at its step."""
    from lotune.train.resume import State, announce, load_state

    found = load_state(run.folder / STATES, training)
    for name in found.damaged:
        say(f"{run.folder / STATES / name} is damaged and is not used")
    state = found.state or State(0, {})
    if state.step:
        say(f"going on after step {state.step}")
    keep_lines(run.folder / METRICS, lambda line: _step_of(line) <= state.step)
    announce(training, state)
    return state


def course(
    run: Run,
    title: str,
    steps: Iterable[Step],
    span: tuple[int, int],
    training: Training,
    notes: Callable[[], Any],
    *,
    minutes: float,
    always: Container[int],
) -> Iterator[Step]:
    """The steps of a training, shown, logged in metrics.jsonl, and its state saved where that is due (see `watched`).

    `span` is the step that it begins after, and its last one.
    """
    from lotune.train.resume import watched

    with Progress(title, span[1], span[0]) as progress:
        for step in watched(steps, run.folder / STATES, training, notes, minutes=minutes, always=always):
            progress.step(step)
            append_jsonl(run.folder / METRICS, asdict(step))
            yield step


@contextmanager
def naming_rows(rows_of_step: Callable[[int], Sequence[str]]) -> Iterator[None]:
    """A block in which a step that comes to no finite loss names its rows. Raises: NotFiniteError."""
    from lotune.train.loop import NotFiniteError

    try:
        yield
    except NotFiniteError as error:
        raise error.of_rows(rows_of_step(error.step)) from None


@contextmanager
def naming_the_row(tokenizer: Any, examples: Sequence[Example], model: str) -> Iterator[None]:
    """Name the model, and the row by its example's id, where the logits of one are not finite."""
    try:
        yield
    except NotFiniteLogitsError as error:
        rows = (encode_row(tokenizer, example) for example in examples)
        its = next((row.id for row in rows if row.tokens[: len(error.ids)] == error.ids), None)
        raise error.named(model, f"row {its}" if its and error.ids else None) from None


def _step_of(line: Any) -> float:
    """The step that a line of metrics.jsonl is of; later than any where it is none of ours."""
    try:
        return int(line["validation"]["step"]) if "validation" in line else int(line["number"])
    except (TypeError, KeyError, ValueError):
        return math.inf
