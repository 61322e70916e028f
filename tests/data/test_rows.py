"""Rows: every format, faults with file and line, the conversation form, real files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotune.data.bounded import array_items
from lotune.data.corpus import Corpus
from lotune.data.file_readers import read_json_document
from lotune.data.rows import (
    MalformedRowsError,
    from_conversation,
    read_rows,
    to_conversation,
    write_jsonl,
)
from lotune.data.tables import looks_like_header
from lotune.errors import DataError

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def reference() -> Path:
    folder = os.environ.get("LOTUNE_REFERENCE_DATA")
    if not folder:
        pytest.skip("LOTUNE_REFERENCE_DATA is not set")
    return Path(folder)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def plain(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path, **options).rows]


def test_jsonl_ids_are_lines_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    content = '{"a": 1}\r\n\r\n{"a": "x\u2028y"}\n'
    file = read_rows(written(tmp_path, "rows.jsonl", b"\xef\xbb\xbf" + content.encode()))
    assert file.rows == [("rows.jsonl:1", {"a": 1}), ("rows.jsonl:3", {"a": "x\u2028y"})]
    assert file.malformed == ()
    assert file.digest == hashlib.sha256(file.path.read_bytes()).hexdigest()


def test_json_array_ids_are_indices(tmp_path: Path) -> None:
    file = read_rows(written(tmp_path, "rows.json", '\ufeff[{"a": 1},\n {"a": 2}]'))
    assert file.rows == [("rows.json[0]", {"a": 1}), ("rows.json[1]", {"a": 2})]


def test_long_integers_are_exact(tmp_path: Path) -> None:
    number = 27691555214092393781571282351234
    assert plain(written(tmp_path, "rows.jsonl", f'{{"a": {number}, "b": [-{number}]}}\n')) == [
        {"a": number, "b": [-number]}
    ]


def test_all_malformed_rows_are_reported_at_once(tmp_path: Path) -> None:
    lines = ['{"a": 1}', *["{broken"] * 11, "[1]", '"text"', "7", "null"]
    path = written(tmp_path, "rows.jsonl", "\n".join(lines))
    with pytest.raises(MalformedRowsError) as caught:
        read_rows(path)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    assert "15 of 16 rows cannot be read" in message
    assert ", ".join(f"rows.jsonl:{number}" for number in range(2, 12)) + " not JSON at column 2" in message
    assert "rows.jsonl:12" not in message
    assert "and 5 more" in message
    assert [row.where for row in caught.value.malformed] == [f"rows.jsonl:{number}" for number in range(2, 17)]
    assert [row.reason for row in caught.value.malformed][-4:] == [
        "an array, not an object",
        "a text, not an object",
        "a number, not an object",
        "null, not an object",
    ]


def test_malformed_rows_can_be_skipped(tmp_path: Path) -> None:
    file = read_rows(written(tmp_path, "rows.jsonl", '{"a": 1}\n{"a"\n{"a": 2}\n'), on_error="skip")
    assert [row["a"] for _, row in file.rows] == [1, 2]
    assert [row.where for row in file.malformed] == ["rows.jsonl:2"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_bytes_that_are_not_utf8_are_reported_with_line_and_offset(tmp_path: Path, suffix: str) -> None:
    first = {"jsonl": b'{"name": "\xe5\xa5\xbd"}\n', "csv": b"name,b\n", "tsv": b"name\tb\n"}[suffix]
    second = {"jsonl": b'{"a": "\xff"}\n', "csv": b"x,\xff\n", "tsv": b"x\t\xff\n"}[suffix]
    third = {"jsonl": b'{"a": 1}\n', "csv": b"x,y\n", "tsv": b"x\ty\n"}[suffix]
    path = written(tmp_path, f"rows.{suffix}", b"\xef\xbb\xbf" + first + second + third)
    with pytest.raises(MalformedRowsError) as caught:
        read_rows(path)
    offset = path.read_bytes().index(b"\xff")
    (fault,) = caught.value.malformed
    assert fault.where == f"rows.{suffix}:2"
    assert fault.reason == f"byte {offset} (0xff) is not UTF-8"
    assert read_rows(path, on_error="skip").rows[-1][0] == f"rows.{suffix}:3"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.jsonl", "", "is empty"),
        ("rows.jsonl", b"\xef\xbb\xbf", "is empty"),
        ("rows.jsonl", "\n\n", "holds no rows"),
        ("rows.json", "[]", "holds no rows"),
        ("rows.json", '{"a": 1}', "holds an object"),
        ("rows.json", "3", "holds a number"),
        ("rows.csv", "question,answer\n", "holds no rows"),
        ("rows.tsv", "a\ta\nb\tc\n", None),
        ("rows.doc", "text", "has the suffix '.doc'"),
        ("rows", "text", "has no suffix"),
        ("rows.csv", "a,b\n".encode("utf-16"), "is UTF-16"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str | bytes, expected: str | None) -> None:
    path = written(tmp_path, name, content)
    if expected is None:
        assert len(read_rows(path).rows) == 2
        return
    with pytest.raises(DataError, match=expected) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path / "folder.json")
    with pytest.raises(DataError, match="does not exist"):
        read_json_document(tmp_path / "none.json")


def test_only_malformed_rows_are_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no rows \(1 could not be read: \S+ not JSON"):
        read_rows(written(tmp_path, "rows.jsonl", "{"), on_error="skip")


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.tsv", 'id\tquestion\r\n1\t"Why\r\n2\tsay "it""\r\n')
    assert plain(path) == [{"id": "1", "question": '"Why'}, {"id": "2", "question": 'say "it""'}]


def test_csv_cells_may_hold_line_ends(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", 'question,answer\r\n"two\r\nlines, and ""quotes""",b\r\nc,d\r\n')
    assert read_rows(path).rows == [
        ("rows.csv:2", {"question": 'two\nlines, and "quotes"', "answer": "b"}),
        ("rows.csv:4", {"question": "c", "answer": "d"}),
    ]


def test_csv_faults(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", 'question,answer\na,b,c\n"d"e,f\ng,h\na\n')
    file = read_rows(path, on_error="skip")
    assert file.rows == [("rows.csv:4", {"question": "g", "answer": "h"})]
    assert [row.where for row in file.malformed] == ["rows.csv:2", "rows.csv:3", "rows.csv:5"]
    assert file.malformed[0].reason == "3 cells where line 1 has 2"
    assert "not csv" in file.malformed[1].reason


def test_long_csv_cells_are_read(tmp_path: Path) -> None:
    assert plain(written(tmp_path, "rows.csv", f"question,answer\n{'x' * 200_000},b\n"))[0]["answer"] == "b"


def test_tables_without_a_header(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.tsv", "gj04\t1\t\tThey left.\ngj04\t0\t*\tLeft they.\n")
    assert plain(path)[0] == {"1": "gj04", "2": "1", "3": "", "4": "They left."}
    assert plain(path, columns={"label": "2", "sentence": "4"})[1] == {
        "1": "gj04",
        "3": "*",
        "label": "0",
        "sentence": "Left they.",
    }


def test_columns_rename_and_settle_the_header(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", "1,2\n3,4\n")
    assert plain(path, columns={"question": "1"}) == [{"question": "1", "2": "2"}, {"question": "3", "2": "4"}]
    headed = written(tmp_path, "headed.csv", "What?,So.\n3,4\n")
    assert plain(headed, columns={"question": "What?", "answer": "So."}) == [{"question": "3", "answer": "4"}]
    path = written(tmp_path, "rows.jsonl", '{"q": "a", "r": 1}\n')
    assert plain(path, columns={"problem": "q"}) == [{"problem": "a", "r": 1}]
    with pytest.raises(DataError, match=r"has no column 'x'\nexpected: one of q, r\nremedy: .*task.columns"):
        read_rows(path, columns={"problem": "x"}, on_error="skip")
    path = written(tmp_path, "some.jsonl", '{"question": "a"}\n{"questions": "b"}\n')
    with pytest.raises(
        MalformedRowsError, match=r"some.jsonl:2 no column 'question' among 'questions'; nearest to 'question'"
    ):
        read_rows(path, columns={"problem": "question"})


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.json"])
def test_a_column_that_no_row_has_gets_the_nearest_one(tmp_path: Path, name: str) -> None:
    mark = "," if name.endswith("csv") else "\t"
    table = f"question{mark}answer\nWhy?{mark}So.\n"
    text = table if name.endswith("sv") else '{"question": "Why?", "answer": "So."}'
    path = written(tmp_path, name, f"[{text}]" if name.endswith(".json") else text)
    with pytest.raises(DataError, match="has no column 'qestion'; nearest to 'qestion' is 'question'\n"):
        read_rows(path, columns={"instruction": "qestion"})


def test_a_header_that_cannot_be_read_is_no_header(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.tsv", b"a\t\xff\nb\tc\n")
    assert plain(path, on_error="skip") == [{"1": "b", "2": "c"}]


def test_equal_column_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="same name"):
        read_rows(written(tmp_path, "rows.csv", "a,a\n1,2\n"), columns={"x": "a"})


@pytest.mark.parametrize(
    ("first", "others", "expected"),
    [
        (["id", "question", "answer"], [["1", "a", "b"]], True),
        (["", "Question", "A"], [["0", "x", "y"]], True),
        (["a", ""], [["b", "c"]], False),
        (["", ""], [], False),
        ([], [], False),
        (["Where is it?", "here"], [], False),
        (["word", "B"], [["other", "B"]], False),
        (["a", "-1.5e3"], [], False),
        (["x" * 41, "b"], [], False),
        (["a message digest of", "A"], [], False),
        (["160 bits", "A"], [], False),
        (["#1 ID", "#2 String"], [], True),
        (["问题", "答案"], [["甲", "乙"]], True),
    ],
)
def test_headers(first: list[str], others: list[list[str]], expected: bool) -> None:
    assert looks_like_header(first, others) is expected


def test_parquet_without_pyarrow_is_refused_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        read_rows(written(tmp_path, "rows.parquet", "PAR1"))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": [1, 2]}), tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet").rows[1] == ("rows.parquet[1]", {"a": 2})
    with pytest.raises(DataError, match="is not parquet"):
        read_rows(written(tmp_path, "bad.parquet", "no"))


def test_json_documents(tmp_path: Path) -> None:
    assert read_json_document(written(tmp_path, "a.json", '\ufeff{"data": []}')) == {"data": []}
    with pytest.raises(DataError, match=r"b\.json:2: not JSON at column 7"):
        read_json_document(written(tmp_path, "b.json", '{"a": 1,\n "b": }'))
    with pytest.raises(DataError, match=r"c\.json:2: byte 9 \(0xff\) is not UTF-8"):
        read_json_document(written(tmp_path, "c.json", b'{"a": 1,\n\xff}'))
    with pytest.raises(DataError, match="read by the reading task"):
        read_rows(written(tmp_path, "d.json", '{"version": "1.1", "data": []}'))


@in_one_folder
@given(st.lists(st.dictionaries(texts, values, max_size=4), min_size=1, max_size=5))
def test_written_rows_read_back(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "folder" / "rows.jsonl"
    assert write_jsonl(path, iter(rows)) == len(rows)
    assert repr(plain(path)) == repr(rows)


cells = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(str.strip)


@in_one_folder
@given(
    st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]),
    st.booleans(),
)
def test_tables_are_read_as_written(tmp_path: Path, lines: list[list[str]], end: str, mark: str, comma: bool) -> None:
    header = ["question", "answer", "id"]
    text = io.StringIO()
    if comma:
        csv.writer(text, lineterminator=end).writerows([header, *lines])
    else:
        text.write("".join("\t".join(line) + end for line in [header, *lines]))
    path = written(tmp_path, "rows.csv" if comma else "rows.tsv", mark + text.getvalue())
    file = read_rows(path, columns={name: name for name in header})
    assert [list(row.values()) for _, row in file.rows] == lines
    assert [where for where, _ in file.rows] == [f"{path.name}:{number}" for number in range(2, len(lines) + 2)]


lines_of_bytes = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [b'{"a": 1}', b'{"a"', b"a,b", b'"a,b', b"a\tb", b"[{}]", b"\xef\xbb\xbf", b"\xff\xfe", b"1e999", b""]
        ),
    ),
    max_size=6,
)


@in_one_folder
@given(lines_of_bytes, st.sampled_from(["jsonl", "json", "csv", "tsv"]), st.sampled_from(["stop", "skip"]))
def test_any_bytes_are_read_or_refused_in_three_lines(
    tmp_path: Path, lines: list[bytes], suffix: str, on_error: Literal["stop", "skip"]
) -> None:
    path = written(tmp_path, f"rows.{suffix}", b"\n".join(lines))
    message, file = "", None
    try:
        file = read_rows(path, on_error=on_error)
    except DataError as error:
        message = str(error)
    if file is None:
        assert str(path) in message
        assert len(message.splitlines()) <= 3
    else:
        assert file.rows
        assert on_error == "skip" or not file.malformed
        positions = [where for where, _ in file.rows] + [row.where for row in file.malformed]
        assert len(positions) == len(set(positions))


@in_one_folder
@given(st.lists(st.sampled_from(["good", "bad", "blank"]), min_size=1, max_size=30))
def test_every_line_is_a_row_or_malformed(tmp_path: Path, kinds: list[str]) -> None:
    content = {"good": '{"a": 1}', "bad": "{", "blank": "  "}
    path = written(tmp_path, "rows.jsonl", "\n".join(content[kind] for kind in kinds))
    bad = [f"rows.jsonl:{number}" for number, kind in enumerate(kinds, 1) if kind == "bad"]
    if bad:
        with pytest.raises(MalformedRowsError) as caught:
            read_rows(path)
        assert [row.where for row in caught.value.malformed] == bad
        assert all(f"{where}" in str(caught.value) for where in bad[:10])
    if "good" in kinds:
        file = read_rows(path, on_error="skip")
        assert [where for where, _ in file.rows] == [
            f"rows.jsonl:{number}" for number, kind in enumerate(kinds, 1) if kind == "good"
        ]
        assert [row.where for row in file.malformed] == bad


@in_one_folder
@given(texts, texts, texts)
def test_conversations_come_back(tmp_path: Path, name: str, prompt: str, answer: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [to_conversation(name, prompt, answer)])
    (row,) = plain(path)
    assert row["id"] == name
    assert from_conversation(row) == (prompt, answer)


@pytest.mark.parametrize(
    "turns",
    [
        None,
        "text",
        [],
        ["human", "gpt"],
        [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}],
        [{"from": "human", "value": "a"}],
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": 4}],
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}],
    ],
)
def test_other_conversations_are_refused(turns: Any) -> None:
    with pytest.raises(DataError, match="row '7'") as caught:
        from_conversation({"id": "7", "conversations": turns})
    assert len(str(caught.value).splitlines()) <= 3
    with pytest.raises(DataError, match=r"train\.jsonl:3"):
        from_conversation({"conversations": turns}, "train.jsonl:3")


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])

    def broken() -> Iterator[dict[str, Any]]:
        yield {"a": 2}
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_jsonl(path, broken())
    with pytest.raises(DataError, match="row 2 for"):
        write_jsonl(path, [{"a": 3}, {"a": object()}])
    with pytest.raises(DataError, match="row 1 for"):
        write_jsonl(path, [{"a": "\ud800"}])
    assert plain(path) == [{"a": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_contest_rows(reference: Path) -> None:
    file = read_rows(reference / "contest" / "math-300.jsonl")
    assert len(file.rows) == 300
    assert all(set(row) == {"problem", "solution"} for _, row in file.rows)
    assert len(read_rows(reference / "contest" / "choice-2000.json").rows) == 2000
    with pytest.raises(DataError, match="reading task"):
        read_rows(reference / "squad" / "dev-v1.1.json")
    assert len(read_json_document(reference / "squad" / "dev-v1.1.json")["data"]) == 48


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("exam/CoLA_train.tsv", 8551, {"1", "2", "3", "4"}),
        ("exam/CoLA_dev.tsv", 150, {"1", "2", "3"}),
        ("exam/QQP_dev.tsv", 150, {"id", "qid1", "qid2", "question1", "question2"}),
        ("cola/in_domain_dev.tsv", 527, {"1", "2", "3", "4"}),
        ("pairs/mrpc/msr_paraphrase_train.txt", 4076, {"Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"}),
        ("pairs/mrpc/msr_paraphrase_test.txt", 1725, {"Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"}),
    ],
)
def test_exam_tables(reference: Path, tmp_path: Path, name: str, rows: int, columns: set[str]) -> None:
    path = (tmp_path / name.replace("/", "-")).with_suffix(".tsv")
    path.symlink_to(reference / name)
    file = read_rows(path)
    assert len(file.rows) == rows
    assert all(set(row) == columns for _, row in file.rows)
    assert not any(cell.endswith("\r") for _, row in file.rows for cell in row.values())


def test_choice_tables(reference: Path) -> None:
    for path in sorted((reference / "choice" / "cmmlu").rglob("*.csv")):
        assert {"Question", "A", "B", "C", "D", "Answer"} < set(plain(path)[0]), path
    for path in sorted((reference / "choice" / "mmlu").rglob("*.csv")):
        assert all(row["6"] in "ABCD" for row in plain(path, columns={"question": "1"})), path
        assert set(plain(path)[0]) == {"1", "2", "3", "4", "5", "6"}, path


def test_written_json_is_utf8_not_escaped(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"problem": "计算", "n": 10**30}])
    text = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert "计算" in text
    assert json.loads(text)["n"] == 10**30


@in_one_folder
@given(st.lists(values, max_size=8), st.integers(1, 40), st.sampled_from([None, 1, "\t"]))
def test_the_items_of_an_array_are_found_one_by_one(tmp_path: Path, items: list[Any], size: int, indent: Any) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(items, indent=indent, ensure_ascii=len(items) % 2 == 0), encoding="utf-8-sig")
    assert [json.loads(item) for item in array_items(file, size) if item is not None] == items


@pytest.mark.parametrize(
    "text", ['[{"a": 1}', '[{"a": 1},]', '[{"a": 1} {"b": 2}]', '[{"a": 1}] 7', "[,]", '[{"a": NaN}]']
)
def test_a_broken_array_is_reported_with_line_and_column(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, "rows.json", text)
    with pytest.raises(DataError) as complete:
        read_json_document(file)
    with pytest.raises(DataError) as messages:
        read_rows(file)
    assert str(messages.value) == str(complete.value)
    assert "rows.json:1" in str(messages.value)


@pytest.mark.parametrize("text", ['{"a": 1}', "7"])
def test_a_document_without_an_array_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="an array of objects"):
        read_rows(written(tmp_path, "rows.json", text))


@pytest.mark.parametrize("depth", [200, 400, 990, 5000])
@pytest.mark.parametrize("inner", ["", "12345678901234567890123"])
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_rows_nested_too_deeply_are_named_or_skipped(tmp_path: Path, suffix: str, inner: str, depth: int) -> None:
    """At 990 Python's own parser gives up, at 5,000 orjson, too; a long integer is Python's to read."""
    deep = '{"a": ' + "[" * depth + inner + "]" * depth + "}"
    text = f'[{{"a": 1}}, {deep}]' if suffix == "json" else f'{{"a": 1}}\n{deep}\n'
    file = written(tmp_path, f"rows.{suffix}", text)
    if depth == 200:
        assert [row for _, row in read_rows(file).rows] == [{"a": 1}, json.loads(deep)]
        return
    with pytest.raises(DataError, match=r"nested deeper than 250 levels|depth limit exceeded"):
        read_rows(file)
    if suffix == "jsonl":
        results = read_rows(file, on_error="skip")
        assert [row for _, row in results.rows] == [{"a": 1}]
        assert [row.where for row in results.malformed] == ["rows.jsonl:2"]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    name = tmp_path / "b\udce4d.jsonl"
    try:
        name.write_text('{"text": "a"}\n')
    except OSError:
        pytest.skip("this file system has no such names")
    for read in (lambda: read_rows(name), lambda: read_rows(tmp_path), lambda: Corpus(tmp_path).files()):
        with pytest.raises(DataError, match=r"b\\xe4d.jsonl': its name is not UTF-8"):
            read()
