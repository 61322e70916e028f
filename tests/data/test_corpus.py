"""Articles of files and folders, in every format."""

from __future__ import annotations

import gzip
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from lotune.data import corpus_files
from lotune.data.corpus import Corpus, CorpusCounts
from lotune.errors import DataError

TEXTS = ["光速很快。", "A second article.", "第三篇。\n\n有两段。"]


def zstd(content: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(content))


PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def texts_of(path: Path, **settings: Any) -> list[str]:
    return [article.target for article in Corpus(path, **settings).articles()]


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".txt"])
def test_every_format_gives_the_same_articles(tmp_path: Path, suffix: str, packed: str) -> None:
    content = {
        ".jsonl": b"".join(orjson.dumps({"id": 1, "text": text}) + b"\r\n" for text in TEXTS),
        ".json": orjson.dumps([{"text": text} for text in TEXTS], option=orjson.OPT_INDENT_2),
        ".txt": "".join(f'<doc id="{n}">\r\n{text}\r\n</doc>\n' for n, text in enumerate(TEXTS)).encode(),
    }[suffix]
    (tmp_path / f"a{suffix}{packed}").write_bytes(PACKERS[packed](b"\xef\xbb\xbf" + content))
    assert texts_of(tmp_path) == TEXTS


def test_parquet_gives_the_same_articles(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"content": TEXTS, "n": [1, 2, 3]}), tmp_path / "a.parquet")
    assert texts_of(tmp_path, text_key="content") == TEXTS
    with pytest.raises(DataError, match=r'a\.parquet\[0\].*"text"; its keys are content, n'):
        texts_of(tmp_path)


def test_articles_of_a_folder(tmp_path: Path) -> None:
    below = tmp_path / "AA"
    below.mkdir()
    (below / "wiki_00.jsonl").write_bytes(
        orjson.dumps({"text": "数学\n\n数学（）是\n一门-{}-学科。"}) + b"\n\n" + orjson.dumps({"text": " "}) + b"\n"
    )
    (below / "wiki_01.txt").write_text('<doc id="1">\nA\n\nA is first.\n</doc>\n<doc id="2">\nB\n\nB.\n</doc>\n')
    (tmp_path / "one.json").write_bytes(orjson.dumps({"text": "C\n\nalone."}))
    (tmp_path / "plain.txt").write_text("To be,\n\nor not.\n")
    (tmp_path / "notes.md").write_text("not read")
    (tmp_path / ".hidden.txt").write_text("not read")
    counts = CorpusCounts()
    result = {Path(article.id).name: article.target for article in Corpus(tmp_path, "wiki").articles(counts)}
    assert result == {
        "wiki_00.jsonl:1": "数学是一门学科。", "wiki_01.txt[1]": "A is first.", "wiki_01.txt[2]": "B.",
        "one.json": "alone.", "plain.txt": "or not.",
    }  # fmt: skip
    assert dict(counts.files) == {".jsonl": 1, ".txt": 2, ".json": 1}
    assert (counts.read, counts.empty, counts.malformed) == (6, 1, 0)
    assert texts_of(tmp_path / "plain.txt") == ["To be,\n\nor not."]


@pytest.mark.parametrize("line", [b"no json", b'{"title": "x"}', b'["text"]', b'{"text": 3}', b'{"text": "\xff"}'])
def test_a_line_that_is_no_article_is_named_or_left_out(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "fine"}\n' + line + b'\n{"text": "fine, too"}\n' + line)
    with pytest.raises(DataError, match=r"2 of 4 rows cannot be used: .*a\.jsonl:2, .*a\.jsonl:4"):
        texts_of(file)
    counts = CorpusCounts()
    left = [article.target for article in Corpus(file, on_error="skip").articles(counts)]
    assert left == ["fine", "fine, too"]
    assert counts.malformed == 2
    assert "a.jsonl:2" in counts.malformed_rows[0]


def test_no_article_follows_a_malformed_one_that_stops(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "fine"}\nbroken\n{"text": "fine"}\n')
    articles = Corpus(file).articles()
    assert next(articles).target == "fine"
    with pytest.raises(DataError):
        next(articles)


def test_an_article_that_is_too_long_is_named_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps({"text": "x" * 500}) + b"\n" + orjson.dumps({"text": "short"}))
    (tmp_path / "b.json").write_bytes(orjson.dumps([{"text": "y" * 500}, {"text": "short, too"}]))
    (tmp_path / "c.txt").write_bytes(b"<doc>" + b"z" * 500 + b"</doc><doc>short as well</doc>")
    with pytest.raises(DataError, match=r"3 of 6 rows.*more than 300 bytes"):
        texts_of(tmp_path, max_row_bytes=300)
    assert texts_of(tmp_path, max_row_bytes=300, on_error="skip") == ["short", "short, too", "short as well"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", b'[{"text": "x"}, {', "is not JSON after item 0"),
        ("a.json", b'"text"', "is not JSON"),
        ("a.jsonl.gz", b"not packed", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 9, mtime=0)[:-20], "cannot be read"),
        ("a.txt", b"caf\xe9 au lait", "byte 3 is not UTF-8"),
        ("a.txt.gz", gzip.compress(b"x" * 9 + "é".encode()[:1], mtime=0), "byte 9 is not UTF-8"),
    ],
)
def test_a_file_that_is_not_of_its_format_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{reason}"):
        texts_of(tmp_path)


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_file_that_expands_without_end_is_refused(
    tmp_path: Path, packed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_files, "FREE_BYTES", 1 << 10)
    (tmp_path / f"a.jsonl{packed}").write_bytes(PACKERS[packed](b" " * 3_000_000))
    with pytest.raises(DataError, match="expands to more than 200 times its size"):
        texts_of(tmp_path)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt.zst").write_bytes(b"x")
    found = importlib.import_module

    def without_zstandard(name: str, *rest: Any) -> Any:
        if name == "zstandard":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without_zstandard)
    with pytest.raises(DataError, match=r"\[corpus\]"):
        texts_of(tmp_path)


def test_a_folder_without_articles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no articles"):
        Corpus(tmp_path).files()
    with pytest.raises(DataError, match="does not exist"):
        Corpus(tmp_path / "missing").files()
