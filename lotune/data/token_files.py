"""Token files: encoded rows on disk, memory-mapped when they are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lotune.data.batches import EncodedRow, Span
from lotune.disk import writing
from lotune.runs import read_json, write_json


class TokenFile:
    """Encoded rows in memory-mapped arrays beside each other: all tokens, and (offset, answer start) a row.

    Where rows have earlier answers to train on, a third array holds (row, start, end) of each, (3, answers).
    """

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        self._tokens = np.load(stem.with_suffix(".tokens.npy"), mmap_mode="r", allow_pickle=False)
        self._rows = np.load(stem.with_suffix(".rows.npy"), mmap_mode="r", allow_pickle=False)
        earlier = stem.with_suffix(".earlier.npy")
        self._earlier = np.load(earlier, mmap_mode="r", allow_pickle=False) if earlier.exists() else None

    def __len__(self) -> int:
        return len(self._rows) - 1

    def __getitem__(self, index: int) -> EncodedRow:
        start, answer_start = self._rows[index]
        tokens = self._tokens[start : self._rows[index + 1, 0]]
        return EncodedRow(str(index), tuple(tokens.tolist()), int(answer_start), self._earlier_spans(index))

    def _earlier_spans(self, index: int) -> tuple[Span, ...]:
        if self._earlier is None:
            return ()
        first, last = np.searchsorted(self._earlier[0], (index, index + 1))
        return tuple((int(start), int(end)) for start, end in self._earlier[1:, first:last].T)

    def ids(self, places: Iterable[int]) -> list[str]:
        """Where the rows at these places came from, such as "train.jsonl:12"; their places in files without ids."""
        known = read_json(self.stem.with_suffix(".tokens.json")).get("ids")
        return [known[place] if known else str(place) for place in places]

    def lengths(self) -> np.ndarray:
        """Tokens of each row, (rows,) int64."""
        return np.diff(np.asarray(self._rows[:, 0]))

    def supervised(self) -> int:
        """Scored tokens of all rows; the first token of a line is never scored."""
        last = int((self.lengths() - np.maximum(self._rows[:-1, 1], 1)).sum())
        if self._earlier is None:
            return last
        return last + int((self._earlier[2] - np.maximum(self._earlier[1], 1)).sum())


def write_token_file(stem: Path, rows: Iterable[EncodedRow], vocabulary: int) -> TokenFile:
    """Write rows as a token file, atomically; tokens are uint16 where the vocabulary allows it."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.uint16 if vocabulary <= 2**16 else np.uint32
    chunks: list[np.ndarray] = []
    table: list[tuple[int, int]] = []
    earlier: list[tuple[int, int, int]] = []
    ids: list[str] = []
    offset = 0
    for row in rows:
        ids.append(row.id)
        chunks.append(np.asarray(row.tokens, dtype=dtype))
        earlier += [(len(table), start, end) for start, end in row.earlier]
        table.append((offset, row.answer_start))
        offset += len(row.tokens)
    table.append((offset, 0))
    _save(stem.with_suffix(".tokens.npy"), np.concatenate(chunks) if chunks else np.zeros(0, dtype))
    _save(stem.with_suffix(".rows.npy"), np.asarray(table, dtype=np.int64))
    stem.with_suffix(".earlier.npy").unlink(missing_ok=True)
    if earlier:
        _save(stem.with_suffix(".earlier.npy"), np.asarray(earlier, dtype=np.int64).T.copy())
    write_json(stem.with_suffix(".tokens.json"), {"rows": len(table) - 1, "tokens": offset, "ids": ids})
    return TokenFile(stem)


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_name(f".{path.stem}.tmp.npy")
    try:
        with writing(path, array.nbytes):
            np.save(temporary, array, allow_pickle=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
