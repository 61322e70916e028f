"""Articles to pre-train on: read from files, cleaned, and cut into blocks of tokens.

jsonl files have one article a line, its text under `text`; what WikiExtractor writes (`<doc …>` to `</doc>`) holds one
after the other; any other .txt file is one article.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

import orjson

from lotune.data.bounded import MAX_ROW_BYTES, bounded_lines, too_long
from lotune.data.examples import Example
from lotune.data.file_readers import check_name
from lotune.data.tokenized import EncodedRow
from lotune.errors import DataError

Cleaning = Literal["none", "wiki"]
Chunking = Literal["first_block", "sentences", "stream"]
CORPUS_SUFFIXES = (".jsonl", ".txt")
"""Files that are read; others in a folder are passed over."""
SENTENCE_ENDS = "。！？.!?"
EXTRACTION_RESIDUE = re.compile(r"-\{\s*\}-|</?div[^<>]*>|(?:（[；，\s]*）|\([;,\s]*\)|「\s*」|《\s*》|“\s*”)|[\r\n]+")
"""What the extraction of an encyclopaedia leaves behind: empty brackets, language marks, tags, line breaks."""
_DOC = re.compile(r"<doc\b[^>]*>\n?(.*?)</doc>", re.DOTALL)


@dataclass(frozen=True)
class Corpus:
    """The articles of a file, or of a folder and all that is below it."""

    path: Path
    cleaning: Cleaning = "none"
    max_row_bytes: int = MAX_ROW_BYTES
    """Most bytes of an article."""

    def files(self) -> list[Path]:
        """The files that are read, in a fixed order. Raises: DataError where there are none."""
        found = [self.path] if self.path.is_file() else sorted(self.path.rglob("*"))
        files = [file for file in found if file.suffix in CORPUS_SUFFIXES and file.is_file()]
        if not files:
            check_name(self.path)
            raise DataError(str(self.path), "holds no articles", ".jsonl with `text`, or .txt", "check the path")
        for file in files:
            check_name(file)
        return files

    def articles(self) -> Iterator[Example]:
        """Every article that has any text; its id says where it stands.

        Raises: DataError for a line that is no article, an article that is too long, or a file that is not UTF-8.
        """
        for file in self.files():
            for where, text in (_json_lines if file.suffix == ".jsonl" else _texts)(file, self.max_row_bytes):
                if text := clean_wiki_article(text) if self.cleaning == "wiki" else text.strip():
                    yield Example(where, "", text)

    def train_validation_split(self, share: float, seed: int) -> tuple[Iterator[Example], Iterator[Example]]:
        """The articles to train on, and those held back: each with the chance `share`, at least one, not all.

        Of a single article its end is held back.
        """
        count = sum(1 for _ in self.articles())
        if not count:
            raise DataError(str(self.path), "its articles are empty", "text", "check the files and the cleaning")
        if count == 1:
            [whole] = self.articles()
            place = max(1, int(len(whole.target) * (1 - share)))
            return iter([_slice(whole, 0, place)]), iter([_slice(whole, place, len(whole.target))])
        draw = random.Random(seed)
        held = {place for place in range(count) if draw.random() < share} or {count - 1}
        if len(held) == count:
            held.remove(0)
        return (
            (article for place, article in enumerate(self.articles()) if place not in held),
            (article for place, article in enumerate(self.articles()) if place in held),
        )


def clean_wiki_article(text: str) -> str:
    r"""An article of an encyclopaedia without its title (all before the first blank line) and EXTRACTION_RESIDUE.

    >>> clean_wiki_article("数学\n\n数学（，）是-{}-一门\n学科（）。")
    '数学是一门学科。'
    """
    title, blank, body = text.replace("\r\n", "\n").partition("\n\n")
    body = body if blank else title
    while (shorter := EXTRACTION_RESIDUE.sub("", body)) != body:
        body = shorter
    return body.strip()


def sentence_ends(tokenizer: Any) -> frozenset[int]:
    """The tokens whose text ends a sentence."""
    return frozenset(
        token for token in range(len(tokenizer)) if tokenizer.decode([token]).rstrip().endswith(tuple(SENTENCE_ENDS))
    )


def chunk_articles(
    articles: Iterable[EncodedRow], size: int, cut: Chunking, ends: frozenset[int], counts: Counter[str]
) -> Iterator[EncodedRow]:
    """Blocks of at most `size` tokens from articles that end with end-of-text; all of a block is scored.

    `first_block`: of each article as many whole sentences as fit, then end-of-text; `sentences`: the sentences after
    them, too, in further blocks, the last of which ends with end-of-text (a sentence that is too long is left out);
    `stream`: articles one after the other, cut at `size`. An article without a sentence that fits is dropped. `counts`
    gets the numbers of articles, blocks and dropped ones.
    """
    made = _stream(articles, size, counts) if cut == "stream" else _by_sentence(articles, size, cut, ends, counts)
    for block in made:
        counts["blocks"] += 1
        yield block


def _by_sentence(
    articles: Iterable[EncodedRow], size: int, cut: Chunking, ends: frozenset[int], counts: Counter[str]
) -> Iterator[EncodedRow]:
    for article in articles:
        *left, end = article.token_ids
        places = [place + 1 for place, token in enumerate(left) if token in ends]
        counts["articles"] += 1
        found = list(_whole_sentences([0, *places], size - 1))
        if cut == "first_block":
            found = [span for span in found[:1] if span[0] == 0]
        for start, stop in found:
            last = (start, stop) == found[-1]
            yield EncodedRow(article.id, (*left[start:stop], *([end] if last else ())), 0)
        counts["dropped"] += not found


def _whole_sentences(ends: list[int], room: int) -> Iterator[tuple[int, int]]:
    """Spans of whole sentences, two tokens at least and as many as there is room for; a longer sentence is left out."""
    number = 0
    while number < len(ends) - 1:
        start = ends[number]
        fitting = bisect_right(ends, start + room) - 1
        if fitting > number and ends[fitting] > start + 1:
            yield start, ends[fitting]
        number = max(fitting, number + 1)


def _stream(articles: Iterable[EncodedRow], size: int, counts: Counter[str]) -> Iterator[EncodedRow]:
    waiting: list[int] = []
    id = ""
    for article in articles:
        counts["articles"] += 1
        id = id or article.id
        waiting.extend(article.token_ids)
        whole = len(waiting) // size * size
        for start in range(0, whole, size):
            yield EncodedRow(id, tuple(waiting[start : start + size]), 0)
            id = article.id
        waiting = waiting[whole:]
    if len(waiting) > 1:
        yield EncodedRow(id, tuple(waiting), 0)


def _slice(article: Example, start: int, end: int) -> Example:
    return replace(article, target=article.target[start:end])


def _json_lines(file: Path, most: int) -> Iterator[tuple[str, str]]:
    for number, _, line, size in bounded_lines(file, most):
        where = f"{file}:{number}"
        if size > most:
            raise _too_long(where, most)
        if not line.strip():
            continue
        try:
            text = orjson.loads(line)["text"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise DataError(where, "is no article", 'a JSON object with "text"', "mend or remove the line")
        yield where, text


def _texts(file: Path, most: int) -> Iterator[tuple[str, str]]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            yield from _divided(file, lines, most)
    except UnicodeDecodeError:
        raise DataError(str(file), f"byte {_undecodable(file)} is not UTF-8", "UTF-8", "convert the file") from None


def _divided(file: Path, text: TextIO, most: int) -> Iterator[tuple[str, str]]:
    """The articles between <doc> and </doc>, or the whole file as one; little more than one of them is held."""
    held, count, line = "", 0, 1
    while chunk := text.read(1 << 20):
        held += chunk
        passed = 0
        for found in _DOC.finditer(held):
            count += 1
            if len(found[1].encode()) > most:
                raise _too_long(f"{file}[{count}]", most)
            yield f"{file}[{count}]", found[1]
            passed = found.end()
        line += held.count("\n", 0, passed)
        held = held[passed:]
        if len(held) > most:
            raise _too_long(f"{file}:{line}", most)
    if not count and held:
        if len(held.encode()) > most:
            raise _too_long(f"{file}:1", most)
        yield str(file), held


def _undecodable(file: Path) -> int:
    """The place of the first byte that is not UTF-8."""
    offset = 0
    with file.open("rb") as lines:
        for line in lines:
            try:
                offset += len(line.decode().encode())
            except UnicodeDecodeError as error:
                return offset + error.start
    return offset


def _too_long(where: str, most: int) -> DataError:
    remedy = "divide the article, or raise data.max_row_bytes"
    return DataError(where, f"the article has {too_long(most)}", f"{most:,} bytes at most", remedy)
