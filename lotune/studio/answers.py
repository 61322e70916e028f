"""The answers of a run, base beside tuned model: filtered, searched and shown in pages, from files of any length.

Of each row only its place in the two files, its verdicts and its kind stay in memory.
"""

from __future__ import annotations

import mmap
import re
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from lotune.stages.served_runs import read_object
from lotune.stages.validation_rows import BASE
from lotune.studio.errors import CallError
from lotune.studio.workspace import file_stamp

Filter = Literal["all", "won", "lost", "right", "wrong", "unjudged"]
MAX_PAGE = 100
MAX_QUERY = 200
MAX_KEPT = 4
"""Number of runs whose answers stay indexed."""
MAX_RESULTS = 8
"""Number of filters of a run whose rows are kept, so that its further pages take no time."""
SEARCHED = ("prompt", "answer", "extracted", "reference", "id")


@dataclass(frozen=True)
class Selection:
    """A filter of answers: by verdict, by kind, and by a text that prompt, answers or reference hold."""

    verdict: Filter = "all"
    kind: str = ""
    text: str = ""


@dataclass(eq=False)
class AnswerIndex:
    """The rows of two files of predictions, the tuned model's in their order, the base's found by id."""

    base_file: Path
    tuned_file: Path
    score: str | None
    """The score that the metric is the mean of; None for an accuracy."""
    lower_is_better: bool
    stamp: tuple[tuple[int, int] | None, ...]
    kinds: list[str] = field(default_factory=list)
    _base: array[int] = field(default_factory=lambda: array("q"))
    _tuned: array[int] = field(default_factory=lambda: array("q"))
    _verdicts: bytearray = field(default_factory=bytearray)
    _kind: array[int] = field(default_factory=lambda: array("i"))
    counts: dict[str, int] = field(default_factory=dict)
    """The number of rows of each verdict."""
    _results: dict[Selection, array[int]] = field(default_factory=dict)

    def build(self) -> AnswerIndex:
        """Read both files once."""
        base = {id: (place, value) for id, place, value, _ in self._lines(self.base_file)}
        kinds: dict[str, int] = {}
        for id, place, tuned, kind in self._lines(self.tuned_file):
            base_place, before = base.get(id, (-1, None))
            self._tuned.append(place)
            self._base.append(base_place)
            self._kind.append(kinds.setdefault(kind, len(kinds)))
            self._verdicts.append(self._verdict(before, tuned))
        self.kinds = list(kinds)
        self.counts = {name: sum(1 for bits in self._verdicts if not one or bits & one) for name, one in BITS.items()}
        return self

    def _lines(self, file: Path) -> Any:
        """Yield id, place, value and kind of each line."""
        place = 0
        with file.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n") and line.strip():
                    record = orjson.loads(line)
                    value = record.get("correct") if self.score is None else record.get("scores", {}).get(self.score)
                    yield record["id"], place, None if value is None else float(value), record.get("kind") or ""
                place += len(line)

    def _verdict(self, before: float | None, after: float | None) -> int:
        """Return the verdicts of a row as bits: right, wrong, won, lost, unjudged."""
        if after is None:
            return UNJUDGED
        bits = 0
        if self.score is None:
            bits |= RIGHT if after else WRONG
        if before is not None and before != after:
            bits |= WON if (after > before) != self.lower_is_better else LOST
        return bits

    def select(self, selection: Selection) -> array[int]:
        """Return the numbers of the rows of a selection, in order."""
        found = self._results.get(selection)
        if found is None:
            found = self._search(selection)
            self._results[selection] = found
            if len(self._results) > MAX_RESULTS:
                self._results.pop(next(iter(self._results)))
        return found

    def _search(self, selection: Selection) -> array[int]:
        wanted = BITS[selection.verdict]
        if selection.kind and selection.kind not in self.kinds:
            return array("q")
        kind = self.kinds.index(selection.kind) if selection.kind else -1
        holding = self._holding(selection.text) if selection.text else None
        return array("q", (
            row for row in range(len(self._tuned))
            if (not wanted or self._verdicts[row] & wanted)
            and (kind < 0 or self._kind[row] == kind)
            and (holding is None or holding(row))
        ))  # fmt: skip

    def _holding(self, text: str) -> Callable[[int], bool]:
        """Return whether a row holds a text, without regard to upper and lower case."""
        # In the bytes of the line first, which is fast and holds too much: names of fields, and texts in JSON.
        written = orjson.dumps(text)[1:-1]
        pattern, word = re.compile(re.escape(written), re.IGNORECASE), text.casefold()
        ascii_only = text.isascii()
        tuned, base = _mapped(self.tuned_file), _mapped(self.base_file)

        def holds(row: int) -> bool:
            for content, place in ((tuned, self._tuned[row]), (base, self._base[row])):
                if place < 0 or content is None:
                    continue
                end = content.find(b"\n", place)
                line = content[place:end]
                if ascii_only and not pattern.search(line):
                    continue
                record = orjson.loads(line)
                if any(word in str(record.get(name) or "").casefold() for name in SEARCHED):
                    return True
            return False

        return holds

    def rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return these rows with both answers."""
        with self.tuned_file.open("rb") as tuned, self.base_file.open("rb") as base:
            return [self._row(number, tuned, base) for number in numbers]

    def _row(self, number: int, tuned: Any, base: Any) -> dict[str, Any]:
        tuned.seek(self._tuned[number])
        after = orjson.loads(tuned.readline())
        before: Mapping[str, Any] = {}
        if self._base[number] >= 0:
            base.seek(self._base[number])
            before = orjson.loads(base.readline())
        bits = self._verdicts[number]
        return {
            "id": after["id"], "kind": after.get("kind") or "", "prompt": after["prompt"],
            "reference": after["reference"],
            "verdicts": [name for name, one in BITS.items() if one & bits],
            "base": {name: before.get(name) for name in ("answer", "extracted", "correct", "scores")},
            "tuned": {name: after.get(name) for name in ("answer", "extracted", "correct", "scores")},
        }  # fmt: skip


RIGHT, WRONG, WON, LOST, UNJUDGED = 1, 2, 4, 8, 16
BITS: Mapping[Filter, int] = {
    "all": 0, "won": WON, "lost": LOST, "right": RIGHT, "wrong": WRONG, "unjudged": UNJUDGED
}  # fmt: skip


@dataclass(eq=False)
class RunAnswers:
    """The answers of the runs that pages look at; used from several threads."""

    _indexes: dict[Path, AnswerIndex] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def page(self, folder: Path, selection: Selection, first: int, rows: int) -> dict[str, Any]:
        """Return a part of the rows of a selection: at most `rows` from number `first` on, and how many there are.

        Raises: CallError for a run without answers.
        """
        with self._lock:
            index = self._index(folder)
            found = index.select(selection)
            shown = index.rows(found[first : first + min(rows, MAX_PAGE)])
            return {
                "rows": shown, "first": first, "found": len(found), "counts": index.counts,
                "kinds": sorted(filter(None, index.kinds)),
            }  # fmt: skip

    def _index(self, folder: Path) -> AnswerIndex:
        card = read_object(folder / "scorecard.json")
        target = card.get("target", {})
        answers = folder / "predictions" / str(target.get("task"))
        base, tuned = answers / f"{BASE}.jsonl", answers / f"{card.get('chosen_checkpoint')}.jsonl"
        stamp = tuple(file_stamp(file) for file in (base, tuned))
        if None in stamp:
            raise CallError(409, "no_answers", "this run has no answers to its test rows yet")
        known = self._indexes.pop(folder, None)
        if known is None or known.stamp != stamp:
            known = AnswerIndex(base, tuned, target.get("score"), bool(target.get("lower_is_better")), stamp).build()
        self._indexes[folder] = known
        if len(self._indexes) > MAX_KEPT:
            self._indexes.pop(next(iter(self._indexes)))
        return known


def _mapped(file: Path) -> mmap.mmap | None:
    with file.open("rb") as content:
        return mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) if file.stat().st_size else None
