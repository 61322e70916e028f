"""Run a training from its first step to its last: tuning or pre-training, in the main process and its followers.

The main process shows the steps, logs them in metrics.jsonl and saves training states, so that a stopped training
resumes and ends with the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import Progress, print_status
from lotune.data.token_files import TokenFile
from lotune.distributed import ProcessGroup
from lotune.files import write_json
from lotune.model.loading import resolve_device
from lotune.model.parts import virtual_ids
from lotune.recipe import Recipe
from lotune.record_files import append_record, filter_records
from lotune.runs import METRICS_FILE, PLAN_FILE
from lotune.settings import Switch
from lotune.train.settings import TrainingSettings

if TYPE_CHECKING:
    from lotune.data.collate import Batch
    from lotune.train.loop import Objective, Step
    from lotune.train.train_state import SavedState, Training

STATES_FOLDER = "states"
"""Folder of a run that holds the states of an unfinished training."""


@dataclass(frozen=True)
class TrainingCourse:
    """What differs between tuning and pre-training: the rows of each step, and the texts of messages."""

    title: str
    steps: int
    checkpoints: Sequence[int]
    """Steps after which the state is saved even if `save_every_minutes` have not passed."""
    batches: Callable[[int], Iterator[list[Batch]]]
    """Return the micro-batches of each step, from a given step on."""
    row_ids: Callable[[int], Sequence[str]]
    """Return the ids of the rows of a step."""
    remedy: str
    """Remedy if a forward or backward pass runs out of memory."""


@dataclass(frozen=True)
class TrainingSession:
    """A model in training, with all that its steps depend on.

    `in_shards`: FSDP shards the weights over `training.world`. `autocast_bfloat16`: matrix products run in bfloat16.
    `lr_factors` has the learning rate of each step as a fraction of the peak.
    """

    folder: Path
    course: TrainingCourse
    training: Training
    objective: Objective
    settings: TrainingSettings
    lr_factors: Sequence[float]
    seed: int
    save_every_minutes: float
    in_shards: bool
    autocast_bfloat16: bool


def enable_features(
    model: Any,
    rows: TokenFile,
    settings: TrainingSettings,
    section: str,
    world: ProcessGroup,
    device: str,
    *,
    in_shards: bool,
    whole: Iterable[Any] = (),
) -> bool:
    """Prepare a model for its training, in place: gradient checkpointing, shards, packed rows.

    `section` names the settings in errors; the parameters in `whole` are not sharded. Return whether rows are packed.

    Raises: SettingsError or ModelError if the model does not support the settings, or is not causal.
    """
    from lotune.train.fsdp import apply_fsdp
    from lotune.train.loop import enable_gradient_checkpointing

    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(model, f"{section}.gradient_checkpointing")
    if in_shards:
        apply_fsdp(model, world, device, whole)
    # Last, as it tries a packed forward pass on the model in its final form.
    return enable_packing_or_warn(model, rows)


def enable_packing_or_warn(model: Any, rows: TokenFile) -> bool:
    """Prepare a model for packed rows and return True; if it does not support them, print that and return False.

    Raises: ModelError if it is not causal.
    """
    from lotune.model.packing import check_causal, enable_packing

    check_causal(model)
    # Virtual tokens precede each row, so they count against the model's window.
    packed = enable_packing(model, int(rows.lengths().max()) + len(virtual_ids(model)))
    if not packed:
        print_status("this model does not support packed rows: rows are padded to a common length")
    return packed


def make_session(
    recipe: Recipe,
    settings: TrainingSettings,
    course: TrainingCourse,
    model: Any,
    world: ProcessGroup,
    inputs_fingerprint: str,
    *,
    in_shards: bool,
    autocast_bfloat16: bool,
    divergence: float = 0.0,
    recurring: int = 0,
) -> TrainingSession:
    """Return the session of a model that is ready for its first step, with fresh optimisers.

    `divergence` is the weight of the divergence from the base on replay rows; `DivergenceLoss` explains `recurring`.
    """
    from lotune.train.divergence import DivergenceLoss
    from lotune.train.loss import CausalLoss
    from lotune.train.optimizers import make_optimizers
    from lotune.train.schedule import lr_factors
    from lotune.train.train_state import Training

    compiled = should_compile(settings.compile, resolve_device(recipe.device), in_shards)
    return TrainingSession(
        folder=recipe.folder,
        course=course,
        training=Training(model, make_optimizers(model, settings), inputs_fingerprint, world),
        objective=(
            DivergenceLoss(model, divergence, compiled, recurring) if divergence else CausalLoss(model, compiled)
        ),
        settings=settings,
        lr_factors=lr_factors(settings, course.steps),
        seed=recipe.seed,
        save_every_minutes=recipe.save_every_minutes,
        in_shards=in_shards,
        autocast_bfloat16=autocast_bfloat16,
    )


def should_compile(setting: Switch, device: str, in_shards: bool) -> bool:
    """Return whether to compile the model on a resolved device; auto: on a GPU that holds all the weights.

    >>> should_compile("auto", "cuda", in_shards=False), should_compile("auto", "cpu", in_shards=False)
    (True, False)
    """
    return setting == "on" or (setting == "auto" and device.startswith("cuda") and not in_shards)


def resume(session: TrainingSession) -> SavedState:
    """Load the newest saved state into a training and its followers; without a state, start at step 0.

    metrics.jsonl then ends at that step.
    """
    from lotune.train.train_state import SavedState, load_state, sync_followers

    states = session.folder / STATES_FOLDER
    loaded = load_state(states, session.training)
    for name in loaded.damaged:
        print_status(f"{states / name} is damaged and was ignored")
    # A damaged state costs the steps since the one before, not the training.
    state = loaded.state or SavedState(0, {})
    if state.step:
        print_status(f"resuming after step {state.step}")
    # Steps after the saved state are computed again, and must not be logged twice.
    filter_records(session.folder / METRICS_FILE, lambda line: _step_of(line) <= state.step)
    sync_followers(session.training, state)
    return state


def lead(
    session: TrainingSession,
    done: int,
    notes: Callable[[], Any] = dict,
    ends_after: Callable[[int], bool] = lambda step: False,
) -> Iterator[Step]:
    """Yield the steps after the first `done`, each shown, logged, and its state saved if that is due.

    `notes` returns what a state holds besides the weights. See `save_states_between` for when states are saved, what
    Ctrl-C does and what is raised.

    Raises: NotFiniteError, naming the rows of the step, if its loss or gradient is not finite.
    """
    course = session.course
    write_json(session.folder / PLAN_FILE, {"title": course.title, "steps": course.steps})
    with _name_rows_on_nan(course.row_ids), Progress(course.title, course.steps, done) as progress:
        for step in _saved_steps(session, done, notes, ends_after):
            progress.step(step.number, step.loss, step.tokens)
            # Before the step is yielded: the caller may stop at any of them, and every shown step is logged.
            append_record(session.folder / METRICS_FILE, asdict(step))
            yield step


def resume_follower(session: TrainingSession) -> int:
    """Bring a follower to the state of the leader, and return the number of steps done."""
    from lotune.train.train_state import sync_follower

    return sync_follower(session.folder / STATES_FOLDER, session.training, session.seed)


def follow(
    session: TrainingSession, done: int, ends_after: Callable[[int], bool] = lambda step: False
) -> Iterator[Step]:
    """Yield the steps after the first `done` in a process that does not lead.

    It computes its part of each step, and writes nothing of its own.
    """
    return _saved_steps(session, done, dict, ends_after)


def _saved_steps(
    session: TrainingSession, done: int, notes: Callable[[], Any], ends_after: Callable[[int], bool]
) -> Iterator[Step]:
    from lotune.train.saved_steps import save_states_between

    return save_states_between(
        train_steps(session, done),
        session.folder / STATES_FOLDER,
        session.training,
        notes,
        minutes=session.save_every_minutes,
        always=session.course.checkpoints,
        ends_after=ends_after,
    )


def train_steps(session: TrainingSession, done: int) -> Iterator[Step]:
    """Yield the steps after the first `done`, without logging or saving anything."""
    from lotune.train.loop import train

    training = session.training
    return train(
        training.model,
        session.course.batches(done + 1),
        training.optimizers,
        session.lr_factors,
        objective=session.objective,
        max_grad_norm=session.settings.max_grad_norm,
        first_step=done + 1,
        world=training.world,
        remedy=session.course.remedy,
        autocast_bfloat16=session.autocast_bfloat16,
    )


@contextmanager
def _name_rows_on_nan(row_ids: Callable[[int], Sequence[str]]) -> Iterator[None]:
    from lotune.train.loop import NotFiniteError

    # The loop knows only tensors; the course knows which rows they came from.
    try:
        yield
    except NotFiniteError as error:
        raise error.of_rows(row_ids(error.step)) from None


def _step_of(line: Any) -> float:
    """Return the step that a line of metrics.jsonl belongs to; infinity if lotune did not write it."""
    try:
        return int(line["validation"]["step"]) if "validation" in line else int(line["number"])
    except (TypeError, KeyError, ValueError):
        return math.inf
