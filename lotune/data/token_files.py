"""Token files: encoded rows on disk, written in chunks and memory-mapped for reading.

- STEM.tokens.npy: the tokens of all rows, one row after the other, (tokens,) uint16 or uint32.
- STEM.rows.npy: index of each row's first token, and start of its last completion within the row, (rows + 1, 2) int64.
- STEM.earlier.npy: row, start and end of each earlier completion in the loss, (3, completions) int64; missing if no row
  has any.
- STEM.ids.jsonl: the id of each row.
- STEM.tokens.json: numbers of rows and tokens, the digests of the other files, and the digest of their inputs. It is
  written last, so it describes complete files. By its digest another run finds the same rows, and does not encode them
  again.
"""

from __future__ import annotations

import os
import shutil
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from lotune.data.tokenized import EncodedRow, Span, chunks
from lotune.disk_space import disk_full_as_run_error
from lotune.errors import RunError
from lotune.files import file_digest, read_json, write_json

CHUNK_ROWS = 4096
"""Number of rows in memory while writing."""
TOKEN_FILE_SUFFIXES = (".tokens.npy", ".rows.npy", ".earlier.npy", ".ids.jsonl", ".tokens.json")
"""Suffixes of the files of a token file; the last one describes the others."""
FIRST_REPLAY_ROW = "first_replay_row"
"""Metadata of a token file whose last rows replay the retained task: the index of the first of them."""


class TokenFile:
    """The rows of a token file, as a sequence that reads each row from disk on access."""

    def __init__(self, stem: Path) -> None:
        """Open a token file. Raises: FileNotFoundError if there is none of this name."""
        self.stem = stem
        self._tokens = np.load(_named(stem, ".tokens.npy"), mmap_mode="r", allow_pickle=False)
        self._rows = np.load(_named(stem, ".rows.npy"), mmap_mode="r", allow_pickle=False)
        earlier = _named(stem, ".earlier.npy")
        self._earlier = np.load(earlier, mmap_mode="r", allow_pickle=False) if earlier.exists() else None

    def __len__(self) -> int:
        return len(self._rows) - 1

    def __getitem__(self, index: int) -> EncodedRow:
        start, completion_start = self._rows[index]
        tokens = self._tokens[start : self._rows[index + 1, 0]]  # (tokens of the row,)
        is_replay = index >= self._first_replay_row
        # The index stands for the id: training needs no ids, and they would have to be searched in the jsonl file.
        spans = self._earlier_spans(index)
        return EncodedRow(str(index), tuple(tokens.tolist()), int(completion_start), spans, is_replay)

    @property
    def replayed(self) -> int:
        """The number of replay rows, which come last."""
        return len(self) - min(self._first_replay_row, len(self))

    @cached_property
    def _first_replay_row(self) -> int:
        """Index of the first row that replays the retained task; these rows are the last ones of a file."""
        return int(self.metadata().get(FIRST_REPLAY_ROW, len(self)))

    def _earlier_spans(self, index: int) -> tuple[Span, ...]:
        if self._earlier is None:
            return ()
        # The first of the three lines, the rows, is sorted, as rows are written in order.
        first, last = (bisect_left(self._earlier[0], row) for row in (index, index + 1))
        return tuple((int(start), int(end)) for start, end in self._earlier[1:, first:last].T)

    def ids(self, indices: Iterable[int]) -> list[str]:
        """Return the ids of the rows at these indices, such as "train.jsonl:12"; the indices if the ids are missing."""
        indices = list(indices)
        file, selected, ids = _named(self.stem, ".ids.jsonl"), set(indices), {}
        if file.exists():
            with file.open("rb") as lines:
                ids = {index: str(orjson.loads(line)) for index, line in enumerate(lines) if index in selected}
        return [ids.get(index, str(index)) for index in indices]

    def metadata(self) -> dict[str, Any]:
        """Return the content of STEM.tokens.json: `rows`, `tokens`, `files` and the notes of `write_token_file`."""
        metadata: dict[str, Any] = read_json(_named(self.stem, ".tokens.json"))
        return metadata

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each row, (rows,) int64."""
        return np.diff(np.asarray(self._rows[:, 0]))

    def supervised(self, rows: int | None = None) -> int:
        """Return the number of tokens in the loss, of the first `rows` rows or of all; first tokens are in none."""
        last = int((self.lengths() - np.maximum(self._rows[:-1, 1], 1))[:rows].sum())
        if self._earlier is None:
            return last
        counted = self._earlier[:, self._earlier[0] < (len(self) if rows is None else rows)]
        return last + int((counted[2] - np.maximum(counted[1], 1)).sum())


def write_token_file(
    stem: Path,
    rows: Iterable[EncodedRow],
    vocabulary: int,
    notes: Mapping[str, Any] | None = None,
    needed: int = 0,
) -> TokenFile:
    """Write rows as a token file in chunks, with uint16 tokens if the vocabulary allows it.

    `notes`, such as the digest of the inputs, are added to the metadata. They are read after the last row, so the
    iterable of rows may still fill them in. `needed` is the approximate size in bytes, or 0 if it is unknown. If
    writing fails, no new file remains.

    Raises: RunError if the disk is full; OverflowError for a token id that does not fit the dtype.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    written = tokens = answers = 0
    with disk_full_as_run_error(_named(stem, TOKEN_FILE_SUFFIXES[0]), needed), ExitStack() as stack:
        files = [stack.enter_context(_AtomicFile(_named(stem, suffix))) for suffix in TOKEN_FILE_SUFFIXES[:-1]]
        # The shapes are known at the end only. Headers have the same length for any shape, so `commit` replaces them.
        for file in files[:3]:
            file.write(_header(dtype, (0,)))
        for chunk in chunks(rows, CHUNK_ROWS):
            ends, earlier = _write_chunk(files, chunk, dtype, written, tokens)
            written, tokens, answers = written + len(chunk), ends, answers + earlier
        files[1].write(np.asarray([tokens, 0], dtype=np.int64).tobytes())
        # From here on the old metadata would describe new files.
        _named(stem, TOKEN_FILE_SUFFIXES[-1]).unlink(missing_ok=True)
        files[0].commit(_header(dtype, (tokens,)))
        files[1].commit(_header(np.dtype(np.int64), (written + 1, 2)))
        if answers:
            files[2].commit(_header(np.dtype(np.int64), (3, answers), by_column=True))
        else:
            files[2].path.unlink(missing_ok=True)
        files[3].commit()
    metadata = {"rows": written, "tokens": tokens, "files": _digests(stem), **(notes or {})}
    write_json(_named(stem, TOKEN_FILE_SUFFIXES[-1]), metadata)
    return TokenFile(stem)


def find_token_file(stem: Path, digest: str) -> TokenFile | None:
    """Return the token file of this name if it is complete and its inputs have this digest, else None."""
    path = _named(stem, TOKEN_FILE_SUFFIXES[-1])
    try:
        notes = read_json(path) if path.exists() else {}
    except RunError:
        return None
    if notes.get("digest") != digest or notes.get("files") != _digests(stem):
        return None
    return TokenFile(stem)


def link_token_file(stem: Path, candidates: Iterable[Path], digest: str) -> TokenFile | None:
    """Give a candidate whose inputs have this digest the name `stem`, too; return None if there is none.

    The files are hard links if the file system supports them, else copies. Links are safe, as the files of a token file
    are replaced, never changed.
    """
    for candidate in candidates:
        if find_token_file(candidate, digest) is None:
            continue
        stem.parent.mkdir(parents=True, exist_ok=True)
        _named(stem, TOKEN_FILE_SUFFIXES[-1]).unlink(missing_ok=True)
        for suffix in TOKEN_FILE_SUFFIXES:  # the metadata last, so that an interrupted copy does not count
            source, target = _named(candidate, suffix), _named(stem, suffix)
            target.unlink(missing_ok=True)
            if source.exists():
                with disk_full_as_run_error(target, source.stat().st_size):
                    _link(source, target)
        return TokenFile(stem)
    return None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _digests(stem: Path) -> dict[str, str]:
    """Return the sha256 of each existing file of a token file, by suffix."""
    files = {suffix: _named(stem, suffix) for suffix in TOKEN_FILE_SUFFIXES[:-1]}
    return {suffix: file_digest(file) for suffix, file in files.items() if file.exists()}


def _write_chunk(
    files: Sequence[_AtomicFile], rows: Sequence[EncodedRow], dtype: np.dtype[Any], written: int, tokens: int
) -> tuple[int, int]:
    """Append rows to the four files, after `written` rows with `tokens` tokens.

    Returns the new number of tokens, and the number of earlier completions appended.
    """
    lengths = [len(row.token_ids) for row in rows]
    ends = tokens + np.cumsum(lengths)  # (rows,)
    starts = [row.completion_start for row in rows]
    earlier = [(index, *span) for index, row in enumerate(rows, written) for span in row.earlier_completions]
    flat = np.fromiter(chain.from_iterable(row.token_ids for row in rows), dtype, count=sum(lengths))  # (tokens,)
    files[0].write(flat.tobytes())
    files[1].write(np.stack([ends - lengths, np.asarray(starts)], axis=1).astype(np.int64).tobytes())  # (rows, 2)
    # (completions, 3), row-major; the header declares it as (3, completions) in Fortran order, which is the same bytes.
    files[2].write(np.asarray(earlier, dtype=np.int64).tobytes())
    files[3].write(b"".join(orjson.dumps(row.id, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
    return int(ends[-1]), len(earlier)


def _header(dtype: np.dtype[Any], shape: tuple[int, ...], by_column: bool = False) -> bytes:
    """Return the header of a .npy file, 128 bytes for any shape: numpy pads it so that it can grow in place."""
    buffer = BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": by_column, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    assert len(buffer.getvalue()) == 128
    return buffer.getvalue()


def _named(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


class _AtomicFile:
    """A file written under a temporary name until `commit` renames it; without `commit` it is deleted on exit.

    `lotune.files.write_atomically` takes the whole content at once, which a token file would not fit in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> _AtomicFile:
        self._file = self._temporary.open("wb")
        self.write = self._file.write
        return self

    def commit(self, header: bytes = b"") -> None:
        """Replace the first bytes of the file by `header`, and rename it."""
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)

    def __exit__(self, *error: object) -> None:
        # Closing flushes, which fails again on a full disk; the write that failed first has raised the error.
        with suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)
