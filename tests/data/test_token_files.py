from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lotune.data import token_files
from lotune.data.collate import pad_rows
from lotune.data.token_files import FIRST_REPLAY_ROW, TokenFile, find_token_file, link_token_file, write_token_file
from lotune.data.tokenized import EncodedRow
from lotune.errors import RunError
from tests.data.test_collate import EOS, PAD, encoded_rows

tokens = st.lists(st.integers(0, 299), min_size=2, max_size=6).map(tuple)
earlier = st.lists(st.tuples(st.integers(0, 3), st.integers(4, 9)), max_size=2).map(tuple)
rows = st.lists(st.builds(EncodedRow, st.text(), tokens, st.integers(1, 2), earlier), max_size=12)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@settings(max_examples=30)
@given(rows=rows, size=st.integers(1, 5))
def test_rows_come_back_however_they_are_divided_into_chunks(
    rows: list[EncodedRow], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    complete, divided = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("divided")
    write_token_file(complete / "train", rows, 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_files, "CHUNK_ROWS", size)
        file = write_token_file(divided / "train", iter(rows), 300)
    assert contents(complete) == contents(divided)
    assert ("train.earlier.npy" in contents(complete)) == any(row.earlier_completions for row in rows)
    assert file.ids(range(len(rows))) == [row.id for row in rows]
    results = [
        (file[index].token_ids, file[index].completion_start, file[index].earlier_completions)
        for index in range(len(file))
    ]
    assert results == [(row.token_ids, row.completion_start, row.earlier_completions) for row in rows]
    assert file.lengths().tolist() == [len(row.token_ids) for row in rows]
    assert file.metadata()["tokens"] == sum(len(row.token_ids) for row in rows)


def test_any_npy_reader_reads_the_arrays(tmp_path: Path) -> None:
    rows = [EncodedRow("a", (1, 2, 3, 0), 3, ((1, 2),)), EncodedRow("b", (4, 0), 1)]
    write_token_file(tmp_path / "train", rows, 300)
    loaded = {path.name: np.load(path) for path in tmp_path.glob("*.npy")}
    assert loaded["train.tokens.npy"].tolist() == [1, 2, 3, 0, 4, 0]
    assert loaded["train.rows.npy"].tolist() == [[0, 3], [4, 1], [6, 0]]
    assert loaded["train.earlier.npy"].tolist() == [[0], [1], [2]]


def test_rows_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "CHUNK_ROWS", 10)
    sizes = []

    def stream() -> Iterator[EncodedRow]:
        for number in range(4000):
            [growing] = tmp_path.glob(".train.tokens.npy.*.tmp")
            sizes.append(growing.stat().st_size)
            yield EncodedRow(str(number), (5,) * 99 + (0,), 50)

    file = write_token_file(tmp_path / "train", stream(), 300)
    assert len(file) == 4000
    assert sizes[0] < 10_000 < sizes[1000] < sizes[2000] < sizes[3999]
    assert not list(tmp_path.glob(".*"))


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    program = """
import sys, tracemalloc
from pathlib import Path
from lotune.data.tokenized import EncodedRow
from lotune.data.token_files import write_token_file
peaks = []
for count in (10_000, 60_000):
    rows = (EncodedRow(f"generated:{n}", (300 + n % 7,) * 40, 20, ((2, 9),)) for n in range(count))
    tracemalloc.start()
    write_token_file(Path(sys.argv[1]) / "train", rows, 400)
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
print(*peaks)
"""
    out = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    few, many = map(int, out.stdout.split())
    assert many < 1.2 * few


@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_write_leaves_no_file(tmp_path: Path, before: bool) -> None:
    if before:
        write_token_file(tmp_path / "train", [EncodedRow("old", (7, 8, 0), 1, ((0, 1),))], 300, {"digest": "old"})
    existing = contents(tmp_path)

    def rows() -> Iterator[EncodedRow]:
        yield from (EncodedRow(str(number), (5, 0), 1) for number in range(3 * token_files.CHUNK_ROWS))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_token_file(tmp_path / "train", rows(), 300, {"digest": "new"})
    assert contents(tmp_path) == existing
    assert (find_token_file(tmp_path / "train", "old") is not None) == before


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of a file")
def test_a_full_disk_is_reported_with_the_needed_space_and_leaves_no_file(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    many = (EncodedRow(str(number), (5, 6, 7, 0), 1) for number in range(5_000))
    try:
        with pytest.raises(RunError, match=r"it needs 39\.1 KiB"):
            write_token_file(tmp_path / "train", many, 300, needed=40_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == {}


def test_a_token_beyond_the_dtype_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OverflowError):
        write_token_file(tmp_path / "train", [EncodedRow("a", (2**16, 0), 1)], 300)
    assert contents(tmp_path) == {}


def test_a_token_file_is_found_by_the_digest_of_its_inputs(tmp_path: Path) -> None:
    stem = tmp_path / "train"
    assert find_token_file(stem, "abc") is None
    write_token_file(stem, [EncodedRow("a", (5, 0), 1, ((0, 1),))], 300, {"digest": "abc"})
    result = find_token_file(stem, "abc")
    assert result is not None
    assert result[0].token_ids == (5, 0)
    assert find_token_file(stem, "abd") is None
    write_token_file(stem, [EncodedRow("a", (6, 0), 1)], 300, {"digest": "abd"})
    assert find_token_file(stem, "abc") is None
    assert find_token_file(stem, "abd") is not None
    assert not (tmp_path / "train.earlier.npy").exists()


@pytest.mark.parametrize("linked", [True, False])
def test_tokens_of_the_same_rows_are_taken_from_another_run(
    tmp_path: Path, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError("another disk")

    if not linked:
        monkeypatch.setattr(os, "link", refused)
    old, actual = tmp_path / "old" / "train", tmp_path / "mine" / "train"
    write_token_file(old, [EncodedRow("a", (5, 0), 1, ((0, 1),))], 300, {"digest": "abc"})
    write_token_file(actual, [EncodedRow("b", (7, 0), 1)], 300, {"digest": "own"})
    before = contents(old.parent)
    assert link_token_file(actual, [actual, tmp_path / "none" / "train", old], "abd") is None
    assert find_token_file(actual, "own") is not None
    assert link_token_file(actual, [actual, tmp_path / "none" / "train", old], "abc") is not None
    assert contents(actual.parent) == before
    assert actual.with_suffix(".tokens.npy").samefile(old.with_suffix(".tokens.npy")) == linked
    write_token_file(actual, [EncodedRow("b", (7, 0), 1)], 300, {"digest": "own"})
    assert contents(old.parent) == before


@pytest.mark.parametrize("name", ["tokens.npy", "rows.npy", "ids.jsonl", "tokens.json"])
@pytest.mark.parametrize("harm", ["changed", "cut", "removed"])
def test_a_damaged_file_is_not_found(tmp_path: Path, name: str, harm: str) -> None:
    write_token_file(tmp_path / "train", [EncodedRow("a", (5, 0), 1)], 300, {"digest": "abc"})
    path = tmp_path / f"train.{name}"
    content = path.read_bytes()
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:-3] if harm == "cut" else content[:-9] + b"?" + content[-8:])
    assert find_token_file(tmp_path / "train", "abc") is None


def test_notes_are_read_when_all_rows_are_there(tmp_path: Path) -> None:
    notes = {"left_out": 0}

    def rows() -> Iterator[EncodedRow]:
        for number in range(4):
            notes["left_out"] += 1
            yield EncodedRow(str(number), (5, 0), 1)

    file = write_token_file(tmp_path / "train", rows(), 300, notes)
    assert file.metadata()["left_out"] == 4
    assert json.loads((tmp_path / "train.tokens.json").read_text())["rows"] == len(file) == 4


def test_no_file_of_this_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TokenFile(tmp_path / "train")


def test_a_token_file_knows_where_its_rows_came_from(tmp_path: Path) -> None:
    file = write_token_file(tmp_path / "train", [EncodedRow(f"a.jsonl:{n}", (5, EOS), 1) for n in (3, 8, 9)], 300)
    assert file.ids([2, 0]) == ["a.jsonl:9", "a.jsonl:3"]


@settings(max_examples=15)
@given(rows=encoded_rows(), vocabulary=st.sampled_from([300, 2**16, 2**16 + 1]))
def test_a_token_file_gives_back_its_rows(
    rows: list[EncodedRow], vocabulary: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stem = tmp_path_factory.mktemp("file") / "new" / "train"
    written = write_token_file(stem, iter(rows), vocabulary)
    read = TokenFile(stem)
    for file in (written, read):
        assert [(file[i].token_ids, file[i].completion_start) for i in range(len(file))] == [
            (row.token_ids, row.completion_start) for row in rows
        ]
        assert file.lengths().tolist() == [len(row.token_ids) for row in rows]
        assert file.supervised() == sum(pad_rows([row], PAD).num_scored_tokens for row in rows)
    assert np.load(stem.with_suffix(".tokens.npy")).dtype == (np.uint16 if vocabulary <= 2**16 else np.uint32)
    assert not list(stem.parent.glob(".*"))


def test_the_highest_id_of_each_width_survives(tmp_path: Path) -> None:
    for vocabulary in (2**16, 200_000):
        file = write_token_file(tmp_path / str(vocabulary), [EncodedRow("", (vocabulary - 1, 0), 1)], vocabulary)
        assert file[0].token_ids == (vocabulary - 1, 0)


def test_a_file_without_rows(tmp_path: Path) -> None:
    assert len(write_token_file(tmp_path / "none", [], 300)) == 0


def test_supervised_tokens_of_the_first_rows(tmp_path: Path) -> None:
    rows = [
        EncodedRow("0", (5, 6, 7, 0), 2),
        EncodedRow("1", (5, 6, 7, 8, 9, 0), 5, ((2, 4),)),
        EncodedRow("2", (5, 6, 0), 1, is_replay=True),
    ]
    file = write_token_file(tmp_path / "rows", rows, 300, {FIRST_REPLAY_ROW: 2})
    assert [file.supervised(number) for number in (0, 1, 2, 3)] == [0, 2, 2 + 3, 2 + 3 + 2]
    assert file.supervised() == file.supervised(3)
    assert file.replayed == 1
