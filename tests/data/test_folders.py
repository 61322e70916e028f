"""Folders of files as one data set, tables in .txt files, and first lines that do not fit their rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.rows import read_rows
from lotune.data.tables import HeaderError, looks_like_header, table_rows
from lotune.errors import DataError


def written(folder: Path, **files: str) -> Path:
    """A folder of files; `__` in a name stands for the dot."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return folder


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    folder = written(tmp_path / "all", b__csv="n,sum\n3,4\n", a__csv="n,sum\n1,2\n2,3\n", README__md="x", LICENSE="y")
    (folder / ".hidden").write_text("z")
    file = read_rows(folder)
    assert [where for where, _ in file.rows] == ["a.csv:2", "a.csv:3", "b.csv:2"]
    assert (file.path, file.rows[2][1]) == (folder, {"n": "3", "sum": "4"})
    (folder / "b.csv").rename(folder / "c.csv")
    assert read_rows(folder).digest != file.digest


def test_the_columns_of_the_settings_hold_for_every_file(tmp_path: Path) -> None:
    folder = written(tmp_path / "all", a__tsv="x\t1\n", b__tsv="label\t0\n")
    assert [row for _, row in read_rows(folder, columns={"sentence": "1"}).rows] == [
        {"2": "1", "sentence": "x"},
        {"2": "0", "sentence": "label"},
    ]


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    usual = {f"s{number}__csv": "n,sum\n1,2\n" for number in range(3)}
    folder = written(tmp_path / "all", **usual, odd__csv="height,width\n1,2\n")
    with pytest.raises(DataError) as caught:
        read_rows(folder)
    assert caught.value.where == str(folder / "odd.csv")
    assert "it has the columns height, width" in caught.value.found
    assert caught.value.expected == "the columns n, sum"
    (folder / "odd.csv").unlink()
    written(folder, other__jsonl='{"height": 1}\n')
    with pytest.raises(DataError, match=r"other.jsonl: does not fit"):
        read_rows(folder)
    written(folder, other__jsonl='{"n": 1}\n')
    assert len(read_rows(folder).rows) == 4
    (folder / "other.jsonl").rename(folder / "other.xlsx")
    with pytest.raises(DataError, match=r"other.xlsx: has the suffix '.xlsx'"):
        read_rows(folder)


def test_a_broken_row_of_a_folder_is_named_with_its_file(tmp_path: Path) -> None:
    folder = written(tmp_path / "all", a__csv="n,sum\n1,2\n2,3\n", b__csv="n,sum\n1,2\n1\n3,4\n")
    with pytest.raises(DataError, match=r"1 of 5 rows cannot be read: b.csv:3 1 cell where line 1 has 2"):
        read_rows(folder)


def test_folders_without_files_of_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder without a file of rows"):
        read_rows(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "a.csv").write_text("n\n1\n")
    with pytest.raises(DataError, match=r"is a folder that holds folders \(dev\)"):
        read_rows(tmp_path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_txt_file_with_tabs_is_a_table(tmp_path: Path, mark: bytes, end: bytes) -> None:
    path = tmp_path / "pairs.txt"
    lines = ["Quality\t#1 ID\t#1 String", '1\t7\tHe said "no', "0\t8\tIt's <QUOTE> so"]
    path.write_bytes(mark + end.join(line.encode() for line in lines) + end)
    assert read_rows(path).rows == [
        ("pairs.txt:2", {"Quality": "1", "#1 ID": "7", "#1 String": 'He said "no'}),
        ("pairs.txt:3", {"Quality": "0", "#1 ID": "8", "#1 String": "It's <QUOTE> so"}),
    ]


def test_a_txt_file_without_tabs_is_an_article(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("First Citizen:\nBefore we proceed\n")
    with pytest.raises(DataError, match="is a text without tabs") as caught:
        read_rows(tmp_path / "a.txt")
    assert "pretrain.corpus" in caught.value.remedy


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("id\tsentence", "its header names 2 columns (id, sentence), the rows below have 3 cells"),
        ("id\tlabel\tsentence\tsource", "its header names 4 columns (id, label, sentence, source), the rows"),
        ("id\tlabel\tsentence\t", "its header names 4 columns (id, label, sentence, ), the rows below have 3 cells"),
        ("7\tcold", "its first line has 2 cells, the rows below have 3 cells"),
    ],
)
def test_a_first_line_of_another_width_is_blamed(tmp_path: Path, first: str, expected: str) -> None:
    (tmp_path / "mine.tsv").write_text(f"{first}\n1\tyes\tIt rains.\n2\tno\tIt rain.\n")
    with pytest.raises(HeaderError) as caught:
        read_rows(tmp_path / "mine.tsv")
    assert caught.value.where == f"{tmp_path / 'mine.tsv'}:1"
    assert expected in caught.value.found
    assert "task.columns" in caught.value.remedy
    file = read_rows(tmp_path / "mine.tsv", columns={"sentence": "3", "label": "2"}, on_error="skip")
    assert [row["sentence"] for _, row in file.rows] == ["It rains.", "It rain."]
    assert len(file.malformed) == (first == "7\tcold")


@given(st.lists(st.lists(st.sampled_from(["a", "b c", "7", "", "d."]), min_size=1, max_size=4), min_size=1, max_size=8))
def test_each_record_is_a_row_a_fault_or_the_header(records: list[list[str]]) -> None:
    try:
        results = list(table_rows(Path("x.tsv"), iter(enumerate(records, 1)), looks_like_header))
    except DataError:
        return
    assert len(results) in (len(records), len(records) - 1)
    assert len({len(row) for _, row in results if not isinstance(row, str)}) <= 1
