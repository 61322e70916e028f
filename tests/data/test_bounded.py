"""Rows that are too long are named or skipped, and never held in memory."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotune.data.bounded import Quotes, array_items, bounded_lines
from lotune.data.corpus import Corpus
from lotune.data.file_readers import _bounded_rows
from lotune.data.rows import read_rows
from lotune.errors import DataError
from lotune.tasks.reading.squad import read_items

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = [{"a": "1", "b": "x"}, {"a": "2", "b": "y" * 5000}, {"a": "3", "b": "z"}]


def written(file: Path, rows: list[dict[str, str]]) -> Path:
    if file.suffix == ".json":
        file.write_text(json.dumps(rows, indent=1))
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        between = "\t" if file.suffix == ".tsv" else ","
        file.write_text("".join(between.join(row.values()) + "\r\n" for row in [{"a": "a", "b": "b"}, *rows]))
    return file


@pytest.mark.parametrize("where", ["r.jsonl:2", "r.json[1]", "r.csv:3", "r.tsv:3"])
def test_a_row_that_is_too_long_is_named_or_skipped(tmp_path: Path, where: str) -> None:
    file = written(tmp_path / where.partition(":")[0].partition("[")[0], ROWS)
    assert [row for _, row in read_rows(file).rows] == ROWS
    with pytest.raises(DataError) as error:
        read_rows(file, max_row_bytes=4000)
    assert f"1 of 3 rows cannot be read: {where} more than 4,000 bytes" in str(error.value)
    assert "data.max_row_bytes" in error.value.remedy
    results = read_rows(file, on_error="skip", max_row_bytes=4000)
    assert [row for _, row in results.rows] == [ROWS[0], ROWS[2]]
    assert [row.where for row in results.malformed] == [where]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_a_long_row_takes_no_memory(tmp_path: Path, suffix: str) -> None:
    file = written(
        tmp_path / f"rows.{suffix}", [ROWS[0], {"a": "2", "b": ("word " * 1000 + '"quoted", ') * 2400}, ROWS[2]]
    )
    assert file.stat().st_size > 10_000_000
    tracemalloc.start()
    try:
        result = read_rows(file, on_error="skip", max_row_bytes=10_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.rows[0][1] == ROWS[0]
    assert len(result.malformed) == 1
    assert peak < 6_000_000


cells = st.text(st.sampled_from('ab,"\n é'), max_size=12)


@in_one_folder
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8), st.integers(3, 30))
def test_rows_of_csv_after_one_that_is_too_long_are_read_as_ever(
    tmp_path: Path, rows: list[tuple[str, str]], most: int
) -> None:
    """Whatever the quoting, a row that fits is read, and one that does not is named."""
    texts = []
    for row in rows:
        text = io.StringIO(newline="")
        csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(row)
        texts.append(text.getvalue())
    file = tmp_path / "rows.csv"
    file.write_text("x,y\n" + "".join(texts), newline="")
    lengths = [sum(len(line.encode()) for line in text[:-1].split("\n")) for text in texts]
    fitting = [dict(zip("12", row, strict=True)) for row, size in zip(rows, lengths, strict=True) if size <= most]
    if not fitting:
        return
    results = read_rows(file, on_error="skip", max_row_bytes=most, columns={"1": "x", "2": "y"})
    assert [{"1": row["1"], "2": row["2"]} for _, row in results.rows] == fitting
    assert len(results.malformed) == len(rows) - len(fitting)


@given(st.text(st.sampled_from('ab,"é'), max_size=30), st.integers(1, 5), st.booleans())
def test_the_shortest_line_leaves_quotes_as_open_as_they_were(line: str, size: int, within: bool) -> None:
    def records(text: str) -> int | None:
        """How many records a line makes beside those around it, None where it is broken."""
        try:
            return len(list(csv.reader(['"\n'] * within + [text + "\n", 'z"\n'], strict=True)))
        except csv.Error:
            return None

    quotes, content = Quotes(within), line.encode() + b"\r\n"
    for index in range(0, len(content), size):
        quotes.read(content[index : index + size])
    assert records(quotes.shortest()) == records(line)


values = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a"\\[]{},é\n'), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@in_one_folder
@given(st.lists(values, max_size=8), st.integers(1, 60), st.integers(1, 40), st.sampled_from([None, 1]))
def test_items_of_an_array_that_are_too_long_are_left_out(
    tmp_path: Path, items: list[Any], most: int, size: int, indent: Any
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(items, ensure_ascii=False, indent=indent), encoding="utf-8")
    results = list(array_items(file, size, most))
    assert len(results) == len(items)
    for text, item in zip(results, items, strict=True):
        assert text is None or (json.loads(text) == item and len(text.encode()) <= most)
        assert text is not None or len(json.dumps(item, ensure_ascii=False, indent=indent).encode()) + 60 > most


@in_one_folder
@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=6), st.integers(1, 30))
def test_lines_have_their_numbers_offsets_and_lengths(tmp_path: Path, lines: list[bytes], most: int) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    pieces: list[bytes] = []
    place = 0
    for (number, offset, content, size), line in zip(bounded_lines(file, most, pieces.append), lines, strict=True):
        mark = 3 if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0
        bare = line[mark:].removesuffix(b"\r")
        assert (offset, size) == (place + mark, len(bare))
        assert content == (bare if size <= most else b"")
        assert b"".join(pieces) == (b"" if size <= most else line[mark:] + b"\n")
        pieces.clear()
        place += len(line) + 1


class Batch:
    """A batch of pyarrow, as far as it is asked; its rows are texts, and `shared` bytes are those of a dictionary."""

    def __init__(self, texts: list[str], shared: int) -> None:
        self.texts, self.shared, self.nbytes = texts, shared, sum(map(len, texts)) + shared

    def __len__(self) -> int:
        return len(self.texts)

    def slice(self, start: int, length: int | None = None) -> Batch:
        return Batch(self.texts[start:][:length], self.shared)

    def to_pylist(self) -> list[dict[str, str]]:
        return [{"a": text} for text in self.texts]


@given(st.lists(st.integers(1, 40).map(lambda length: "a" * length)), st.integers(20, 40), st.sampled_from([0, 500]))
def test_the_size_of_parquet_rows_is_limited(texts: list[str], most: int, shared: int) -> None:
    results = list(_bounded_rows(Batch(texts, shared), most))
    assert len(results) == len(texts)
    for row, text in zip(results, texts, strict=True):
        assert row == {"a": text} or (isinstance(row, str) and len(text) + 8 > most)


def test_articles_are_bounded(tmp_path: Path) -> None:
    lines, book, wiki = tmp_path / "a.jsonl", tmp_path / "b.txt", tmp_path / "c.txt"
    lines.write_text(json.dumps({"text": "short"}) + "\n" + json.dumps({"text": "l" * 500}) + "\n")
    book.write_text("first line\n" + "b" * 500)
    wiki.write_text("<doc id=1>\nshort\n</doc>\n<doc id=2>\n" + "w" * 500 + "\n</doc>\n")
    for file, where in ((lines, "a.jsonl:2"), (book, "b.txt:1"), (wiki, "c.txt[2]")):
        assert list(Corpus(file).articles())
        with pytest.raises(DataError, match="max_row_bytes") as error:
            list(Corpus(file, max_row_bytes=300).articles())
        assert str(tmp_path / where) in str(error.value)


def test_paragraphs_are_bounded(tmp_path: Path) -> None:
    questions = [{"id": "q", "question": "What?", "answers": []}]
    paragraphs = [{"context": "c" * 500, "qas": questions}]
    file = tmp_path / "dev.json"
    file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    assert len(read_items(file)) == 1
    with pytest.raises(DataError, match=r"data\[0\].paragraphs\[0\] has more than 300 bytes"):
        read_items(file, 300)
