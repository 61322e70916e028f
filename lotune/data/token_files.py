"""Token files: encoded rows on disk, written as they come, memory-mapped when they are read.

STEM.tokens.npy has all tokens, one row after the other, (tokens,) uint16 or uint32; STEM.rows.npy the place of each
row's first token and where its last answer starts, (rows + 1, 2) int64; STEM.earlier.npy, only where rows have earlier
answers to train on, (row, start, end) of each, (3, answers) int64; STEM.ids.jsonl where each row came from. Numbers of
rows and tokens, the digests of these files and that of what they were made from stand in STEM.tokens.json, which is
written last: the same rows are found by their digest, in any run beside this one, and not encoded again.
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
"""Rows that are held in memory while they are written."""
TOKEN_FILE_SUFFIXES = (".tokens.npy", ".rows.npy", ".earlier.npy", ".ids.jsonl", ".tokens.json")
"""The files of a token file; the last one says what the others hold."""
FIRST_REPLAY_ROW = "first_replay_row"
"""Note of a token file whose last rows replay the retained task: the index of the first of them."""


class TokenFile:
    """The rows of a token file, read from the disk as they are asked for."""

    def __init__(self, stem: Path) -> None:
        """Raises: FileNotFoundError where there is no token file of this name."""
        self.stem = stem
        self._tokens = np.load(_named(stem, ".tokens.npy"), mmap_mode="r", allow_pickle=False)
        self._rows = np.load(_named(stem, ".rows.npy"), mmap_mode="r", allow_pickle=False)
        earlier = _named(stem, ".earlier.npy")
        self._earlier = np.load(earlier, mmap_mode="r", allow_pickle=False) if earlier.exists() else None

    def __len__(self) -> int:
        return len(self._rows) - 1

    def __getitem__(self, index: int) -> EncodedRow:
        start, answer_start = self._rows[index]
        tokens = self._tokens[start : self._rows[index + 1, 0]]
        is_replay = index >= self._first_replay_row
        return EncodedRow(str(index), tuple(tokens.tolist()), int(answer_start), self._earlier_spans(index), is_replay)

    @cached_property
    def _first_replay_row(self) -> int:
        """The index of the first row that replays the retained task; these rows are the last ones of a file."""
        return int(self.metadata().get(FIRST_REPLAY_ROW, len(self)))

    def _earlier_spans(self, index: int) -> tuple[Span, ...]:
        if self._earlier is None:
            return ()
        first, last = (bisect_left(self._earlier[0], row) for row in (index, index + 1))
        return tuple((int(start), int(end)) for start, end in self._earlier[1:, first:last].T)

    def ids(self, places: Iterable[int]) -> list[str]:
        """Where the rows at these places came from, such as "train.jsonl:12"; their places in files without ids."""
        places = list(places)
        file, wanted, known = _named(self.stem, ".ids.jsonl"), set(places), {}
        if file.exists():
            with file.open("rb") as lines:
                known = {place: str(orjson.loads(line)) for place, line in enumerate(lines) if place in wanted}
        return [known.get(place, str(place)) for place in places]

    def metadata(self) -> dict[str, Any]:
        """Numbers of rows and tokens, and what else was noted when the file was written."""
        found: dict[str, Any] = read_json(_named(self.stem, ".tokens.json"))
        return found

    def lengths(self) -> np.ndarray:
        """Tokens of each row, (rows,) int64."""
        return np.diff(np.asarray(self._rows[:, 0]))

    def supervised(self) -> int:
        """Scored tokens of all rows; the first token of a line is never scored."""
        last = int((self.lengths() - np.maximum(self._rows[:-1, 1], 1)).sum())
        if self._earlier is None:
            return last
        return last + int((self._earlier[2] - np.maximum(self._earlier[1], 1)).sum())


def write_token_file(
    stem: Path,
    rows: Iterable[EncodedRow],
    vocabulary: int,
    notes: Mapping[str, Any] | None = None,
    needed: int = 0,
) -> TokenFile:
    """Write rows as a token file, in chunks as they come; tokens are uint16 where the vocabulary allows it.

    `metadata`, such as the digest of what the rows are made from, are read once all rows are there; `needed` is about
    the number of bytes, where that is known. Where writing is broken off, nothing new is left behind.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    written = tokens = answers = 0
    with disk_full_as_run_error(_named(stem, TOKEN_FILE_SUFFIXES[0]), needed), ExitStack() as stack:
        files = [stack.enter_context(_AtomicFile(_named(stem, suffix))) for suffix in TOKEN_FILE_SUFFIXES[:-1]]
        for file in files[:3]:
            file.write(_header(dtype, (0,)))
        for chunk in chunks(rows, CHUNK_ROWS):
            ends, earlier = _write_chunk(files, chunk, dtype, written, tokens)
            written, tokens, answers = written + len(chunk), ends, answers + earlier
        files[1].write(np.asarray([tokens, 0], dtype=np.int64).tobytes())
        _named(stem, TOKEN_FILE_SUFFIXES[-1]).unlink(missing_ok=True)
        files[0].keep(_header(dtype, (tokens,)))
        files[1].keep(_header(np.dtype(np.int64), (written + 1, 2)))
        if answers:
            files[2].keep(_header(np.dtype(np.int64), (3, answers), by_column=True))
        else:
            files[2].path.unlink(missing_ok=True)
        files[3].keep()
    found = {"rows": written, "tokens": tokens, "files": _digests(stem), **(notes or {})}
    write_json(_named(stem, TOKEN_FILE_SUFFIXES[-1]), found)
    return TokenFile(stem)


def find_token_file(stem: Path, digest: str) -> TokenFile | None:
    """The token file of this name, where it was made from what has this digest and is whole; None otherwise."""
    path = _named(stem, TOKEN_FILE_SUFFIXES[-1])
    try:
        notes = read_json(path) if path.exists() else {}
    except RunError:
        return None
    if notes.get("digest") != digest or notes.get("files") != _digests(stem):
        return None
    return TokenFile(stem)


def link_token_file(stem: Path, others: Iterable[Path], digest: str) -> TokenFile | None:
    """One of the `others` made from what has this digest, under the name `stem` too; None where there is none.

    Their files are linked where the disk can, copied otherwise: a token file is replaced, never changed.
    """
    for other in others:
        if find_token_file(other, digest) is None:
            continue
        stem.parent.mkdir(parents=True, exist_ok=True)
        _named(stem, TOKEN_FILE_SUFFIXES[-1]).unlink(missing_ok=True)
        for suffix in TOKEN_FILE_SUFFIXES:  # the notes last
            source, target = _named(other, suffix), _named(stem, suffix)
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
    """The sha256 of each file of a token file that is there, by suffix."""
    files = {suffix: _named(stem, suffix) for suffix in TOKEN_FILE_SUFFIXES[:-1]}
    return {suffix: file_digest(file) for suffix, file in files.items() if file.exists()}


def _write_chunk(
    files: Sequence[_AtomicFile], rows: Sequence[EncodedRow], dtype: np.dtype[Any], written: int, tokens: int
) -> tuple[int, int]:
    """Append rows to the four files, behind `written` rows of `tokens` tokens; new number of tokens, earlier answers.

    Raises: OverflowError where a token is beyond the vocabulary.
    """
    lengths = [len(row.token_ids) for row in rows]
    ends = tokens + np.cumsum(lengths)
    starts = [row.completion_start for row in rows]
    earlier = [(place, *span) for place, row in enumerate(rows, written) for span in row.earlier_completions]
    flat = np.fromiter(chain.from_iterable(row.token_ids for row in rows), dtype, count=sum(lengths))
    files[0].write(flat.tobytes())
    files[1].write(np.stack([ends - lengths, np.asarray(starts)], axis=1).astype(np.int64).tobytes())
    files[2].write(np.asarray(earlier, dtype=np.int64).tobytes())
    files[3].write(b"".join(orjson.dumps(row.id, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
    return int(ends[-1]), len(earlier)


def _header(dtype: np.dtype[Any], shape: tuple[int, ...], by_column: bool = False) -> bytes:
    """The start of a .npy file of this shape, 128 bytes for any."""
    text = BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": by_column, "shape": shape}
    np.lib.format.write_array_header_1_0(text, described)
    assert len(text.getvalue()) == 128
    return text.getvalue()


def _named(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


class _AtomicFile:
    """A file that grows under a temporary name until `keep` gives it its own; without that it goes with the block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> _AtomicFile:
        self._file = self._temporary.open("wb")
        self.write = self._file.write
        return self

    def keep(self, header: bytes = b"") -> None:
        """Rename the file, its first bytes replaced by a header that fits what was written."""
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # of a full disk, which has been told
            self._file.close()
        self._temporary.unlink(missing_ok=True)
