"""The course of a training, and where a stopped one goes on: tuning and pre-training alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lotune.console import Progress, print_status
from lotune.data.examples import Example
from lotune.data.token_files import TokenFile
from lotune.data.tokenized import encode_row
from lotune.files import append_jsonl, filter_jsonl
from lotune.model.logits import NotFiniteLogitsError
from lotune.model.parts import virtual_ids
from lotune.runs import Run
from lotune.settings import Switch

if TYPE_CHECKING:
    from lotune.train.loop import Step
    from lotune.train.train_state import SavedState, Training

STATES_FOLDER = "states"
"""Folder of a run that holds the states of a training that is not finished."""
METRICS_FILE = "metrics.jsonl"
"""File of a run with one line a step, and one a validation."""


def enable_packing_or_warn(model: Any, rows: TokenFile) -> bool:
    """Whether a model takes these rows in packed lines, and is made ready for them; it is said where it does not.

    Raises: ModelError where it is not causal.
    """
    from lotune.model.attention import check_causal, enable_packing

    check_causal(model)
    packed = enable_packing(model, int(rows.lengths().max()) + len(virtual_ids(model)))
    if not packed:
        print_status("this model takes no packed rows: rows are padded to one another's length")
    return packed


def should_compile(setting: Switch, device: str, in_shards: bool) -> bool:
    """Return whether to compile the model on a resolved device; auto: on a GPU that holds all the weights."""
    return setting == "on" or (setting == "auto" and device.startswith("cuda") and not in_shards)


def resume(run: Run, training: Training) -> SavedState:
    """Bring a training to its newest saved state, or that of step 0; metrics.jsonl then ends at its step."""
    from lotune.train.train_state import SavedState, load_state, sync_followers

    found = load_state(run.folder / STATES_FOLDER, training)
    for name in found.damaged:
        print_status(f"{run.folder / STATES_FOLDER / name} is damaged and is not used")
    state = found.state or SavedState(0, {})
    if state.step:
        print_status(f"going on after step {state.step}")
    filter_jsonl(run.folder / METRICS_FILE, lambda line: _step_of(line) <= state.step)
    sync_followers(training, state)
    return state


def run_steps(
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
    """The steps of a training, shown and logged in metrics.jsonl.

    Its state is saved where that is due, see `save_states_between`. `span` is the step that it begins after, and its
    last one.
    """
    from lotune.train.train_state import save_states_between

    with Progress(title, span[1], span[0]) as progress:
        for step in save_states_between(
            steps, run.folder / STATES_FOLDER, training, notes, minutes=minutes, always=always
        ):
            progress.step(step.number, step.loss, step.tokens)
            append_jsonl(run.folder / METRICS_FILE, asdict(step))
            yield step


@contextmanager
def name_rows_on_nan(rows_of_step: Callable[[int], Sequence[str]]) -> Iterator[None]:
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
        its = next((row.id for row in rows if row.token_ids[: len(error.ids)] == error.ids), None)
        raise error.named(model, f"row {its}" if its and error.ids else None) from None


def _step_of(line: Any) -> float:
    """The step that a line of metrics.jsonl is of; later than any where it is none of ours."""
    try:
        return int(line["validation"]["step"]) if "validation" in line else int(line["number"])
    except (TypeError, KeyError, ValueError):
        return math.inf
