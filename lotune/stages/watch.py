"""`lotune watch`: a training as its run folder shows it, from another shell."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from lotune.data.file_readers import truncate_text
from lotune.errors import RunError
from lotune.files import read_json
from lotune.recipe import RunOptions
from lotune.record_files import record_lines
from lotune.runs import METRICS_FILE, PLAN_FILE, Run, running_process
from lotune.stages.pretraining_validation import SAMPLES_FILE
from lotune.text_display import print_visible, show_control_characters

SECONDS = 2.0
"""Seconds between two pictures."""
BARS = " ▁▂▃▄▅▆▇█"
COLUMNS = 60
"""Columns of the curve of the loss."""
RECENT_STEPS = 50
"""Steps of which the speed is the mean."""
SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class Picture:
    """A training at a moment: what its folder shows.

    `state` is done once the training has ended, running while a process works on it, and else stopped.
    `losses` has the mean training loss of up to COLUMNS equal parts of the steps so far.
    """

    title: str
    state: Literal["running", "stopped", "done"]
    process: str | None
    step: int
    steps: int | None
    loss: float | None
    learning_rate: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    losses: Sequence[float]
    validation: Mapping[str, Any] | None
    samples: Sequence[Mapping[str, Any]]


def watch(folder: Path, once: bool, options: RunOptions) -> dict[str, Any]:
    """Print pictures of a training until no process works on it, or a single one; return the last.

    Raises: RunError if the folder is no run, or if nothing was trained there yet.
    """
    picture = take_picture(folder)
    if options.json or once or not sys.stdout.isatty():
        if not options.json:
            print_visible("\n".join(lines_of(picture)))
        return asdict(picture)
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            live.update(Text(show_control_characters("\n".join(lines_of(picture)))), refresh=True)
            if picture.state != "running":
                return asdict(picture)
            time.sleep(SECONDS)
            picture = take_picture(folder)


def take_picture(folder: Path) -> Picture:
    """Return what a run's folder shows now. Raises: RunError if it is no run, or if nothing was trained there yet."""
    if not (folder / "recipe.yaml").exists():
        raise RunError(str(folder), "is no run", "the folder of a run, such as runs/demo", "check the path")
    process = running_process(folder)
    records = _records(folder / METRICS_FILE)
    steps = [record for record in records if "number" in record]
    if not steps and process is None:
        raise RunError(str(folder), "has no training yet", remedy="start one with lotune tune or lotune pretrain")
    plan = read_json(folder / PLAN_FILE) if (folder / PLAN_FILE).exists() else {}
    done, total = (steps[-1]["number"] if steps else 0), plan.get("steps")
    recent = steps[-RECENT_STEPS:]
    seconds = sum(record["seconds"] for record in recent)
    samples = _records(folder / SAMPLES_FILE)
    is_done = bool({"tune", "pretrain"} & Run(folder).stages().keys())
    return Picture(
        title=plan.get("title", "training"),
        state="done" if is_done else "running" if process else "stopped",
        process=process,
        step=done,
        steps=total,
        loss=steps[-1]["loss"] if steps else None,
        learning_rate=steps[-1]["learning_rate"] if steps else None,
        tokens_per_second=sum(record["tokens"] for record in recent) / seconds if seconds else None,
        seconds_left=seconds / len(recent) * (total - done) if recent and total is not None else None,
        losses=_means([record["loss"] for record in steps]),
        validation=next((record["validation"] for record in reversed(records) if "validation" in record), None),
        samples=[sample for sample in samples if sample["step"] == samples[-1]["step"]],
    )


def lines_of(picture: Picture) -> Iterator[str]:
    r"""Yield a picture as lines of text.

    >>> found = {"step": 5, "loss": 1.6}
    >>> picture = Picture("tuning", "running", "7", 5, 10, 1.5, 0.001, 200.0, 30.0, (3.0, 1.5), found, ())
    >>> print(*lines_of(picture), sep="\n")
    tuning: running (process 7)
    step 5 of 10 (50 %), loss 1.5000, learning rate 0.001, 200 tokens/s, 0:30 left
    loss █▁ 3.0000 to 1.5000
    validation: step 5, loss 1.6
    """
    yield f"{picture.title}: {picture.state}" + (f" (process {picture.process})" if picture.process else "")
    if picture.loss is not None:
        yield ", ".join(_step_parts(picture))
        yield f"loss {_bars(picture.losses)} {picture.losses[0]:.4f} to {picture.losses[-1]:.4f}"
    if picture.validation is not None:
        figures = (f"{name} {_figure(value)}" for name, value in picture.validation.items() if _is_figure(value))
        yield f"validation: {', '.join(figures)}"
    for sample in picture.samples:
        yield f"  {sample['prompt']}⟦{truncate_text(sample['continuation'], SHOWN_CHARACTERS)}⟧"


def _step_parts(picture: Picture) -> Iterator[str]:
    of = "" if picture.steps is None else f" of {picture.steps} ({100 * picture.step / picture.steps:.0f} %)"
    yield f"step {picture.step}{of}"
    yield f"loss {picture.loss:.4f}"
    yield f"learning rate {picture.learning_rate:.3g}"
    if picture.tokens_per_second:
        yield f"{picture.tokens_per_second:,.0f} tokens/s"
    if picture.state == "running" and picture.seconds_left:
        yield f"{_clock(picture.seconds_left)} left"


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for _, line in record_lines(path.read_bytes())] if path.exists() else []


def _means(losses: Sequence[float]) -> list[float]:
    """Return the means of up to COLUMNS parts of the losses.

    >>> _means([4.0, 2.0]), len(_means([1.0] * 1000))
    ([4.0, 2.0], 60)
    """
    parts = min(COLUMNS, len(losses))
    bounds = [part * len(losses) // parts for part in range(parts + 1)] if parts else []
    return [fmean(losses[start:stop]) for start, stop in pairwise(bounds)]


def _bars(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[1 + round((len(BARS) - 2) * (value - low) / span)] for value in values)


def _clock(seconds: float) -> str:
    """Return a time as minutes and seconds, or with hours.

    >>> _clock(75), _clock(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _figure(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
