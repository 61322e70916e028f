"""Status lines and progress bars on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from lotune.text_display import print_visible, show_control_characters

LINE_SECONDS = 30.0
"""Seconds between two lines of progress if stderr is not a terminal."""


def print_status(text: str) -> None:
    """Print a status line."""
    print_visible(text, file=sys.stderr)


class Progress:
    """A progress bar over `total` items; without a terminal, a line every LINE_SECONDS."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        self._name, self._total, self._before = name, total, done
        self._started = self._shown = time.monotonic()
        self._tokens = 0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        # A bar redraws its line, which would fill the log of a job or a pipe with control sequences.
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            # Rich would read brackets in a name, such as [red], as markup.
            name = TextColumn("{task.description}", markup=False)
            figures = TextColumn("{task.fields[figures]}", markup=False)
            columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), figures)
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(show_control_characters(self._name), total=self._total, figures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, number: int, loss: float, tokens: int) -> None:
        """Show a finished training step: its number, its loss and its number of tokens."""
        self._tokens += tokens
        rate = self._tokens / max(1e-9, time.monotonic() - self._started)
        self.advance(number, f"loss {loss:.4f}  {rate:,.0f} tokens/s")

    def advance(self, done: int, figures: str = "") -> None:
        """Show that `done` items are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=figures)
            return
        now = time.monotonic()
        if now - self._shown >= LINE_SECONDS or done == self._total:
            self._shown = now
            # Only over the items of this process: those before a resumption took none of its time.
            seconds_left = (now - self._started) / max(1, done - self._before) * (self._total - done)
            print_status(f"{self._name} {done}/{self._total}  {figures}  {seconds_left:.0f} s left")
