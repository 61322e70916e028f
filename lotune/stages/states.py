"""Where a stopped training goes on: tuning and pre-training alike."""

from __future__ import annotations

from lotune.report.progress import say
from lotune.runs import Run, keep_lines
from lotune.train.resume import State, Training, load_state

STATES = "states"
"""Folder of a run that holds the states of a training that is not finished."""


def go_on(run: Run, training: Training) -> State | None:
    """Bring a training to its newest saved state, if there is one; metrics.jsonl then ends at its step."""
    found = load_state(run.folder / STATES, training)
    for name in found.damaged:
        say(f"{run.folder / STATES / name} is damaged and is not used")
    step = found.state.step if found.state else 0
    if found.state:
        say(f"going on after step {step}")
    keep_lines(run.folder / "metrics.jsonl", lambda line: _step_of(line) <= step)
    return found.state


def _step_of(line: dict[str, dict[str, int]]) -> int:
    return int(line["validation"]["step"]) if "validation" in line else int(line["number"])  # type: ignore[call-overload]
