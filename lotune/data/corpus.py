"""Articles for pre-training: read them from files, clean them, and cut them into blocks of tokens.

A jsonl file has one article per line, with its text under `text`. The output of WikiExtractor has articles between
`<doc …>` and `</doc>`; any other .txt file is a single article.
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
"""Suffixes of the files to read; a folder's other files are ignored."""
SENTENCE_ENDS = "。！？.!?"
EXTRACTION_RESIDUE = re.compile(r"-\{\s*\}-|</?div[^<>]*>|(?:（[；，\s]*）|\([;,\s]*\)|「\s*」|《\s*》|“\s*”)|[\r\n]+")
"""What WikiExtractor leaves of removed templates and links: empty brackets, language marks, tags, line breaks."""
_DOC = re.compile(r"<doc\b[^>]*>\n?(.*?)</doc>", re.DOTALL)


@dataclass(frozen=True)
class Corpus:
    """The articles of a file, or of a folder and its subfolders."""

    path: Path
    cleaning: Cleaning = "none"
    max_row_bytes: int = MAX_ROW_BYTES
    """Largest article in bytes."""

    def files(self) -> list[Path]:
        """Return the files to read, sorted by path. Raises: DataError if there are none."""
        paths = [self.path] if self.path.is_file() else sorted(self.path.rglob("*"))
        files = [file for file in paths if file.suffix in CORPUS_SUFFIXES and file.is_file()]
        if not files:
            check_name(self.path)
            raise DataError(str(self.path), "holds no articles", ".jsonl with `text`, or .txt", "check the path")
        for file in files:
            check_name(file)
        return files

    def articles(self) -> Iterator[Example]:
        """Yield each article with text; its id is its file with the line or the number of the article.

        Raises: DataError for a line that is not an article, an article that is too long, or a file that is not UTF-8.
        """
        for file in self.files():
            for where, text in (_json_lines if file.suffix == ".jsonl" else _texts)(file, self.max_row_bytes):
                if text := clean_wiki_article(text) if self.cleaning == "wiki" else text.strip():
                    yield Example(where, "", text)

    def train_validation_split(self, fraction: float, seed: int) -> tuple[Iterator[Example], Iterator[Example]]:
        """Return the articles to train on and those for validation, at least one of each.

        Each article is for validation with probability `fraction`. A single article is cut: its end is for validation.

        Raises: DataError if no article has text.
        """
        # The files are read three times rather than held: a corpus may be larger than the memory.
        count = sum(1 for _ in self.articles())
        if not count:
            raise DataError(str(self.path), "its articles are empty", "text", "check the files and the cleaning")
        if count == 1:
            [article] = self.articles()
            cut = max(1, int(len(article.target) * (1 - fraction)))
            return iter([_slice(article, 0, cut)]), iter([_slice(article, cut, len(article.target))])
        generator = random.Random(seed)
        validation = {index for index in range(count) if generator.random() < fraction} or {count - 1}
        if len(validation) == count:
            validation.remove(0)
        return (
            (article for index, article in enumerate(self.articles()) if index not in validation),
            (article for index, article in enumerate(self.articles()) if index in validation),
        )


def clean_wiki_article(text: str) -> str:
    r"""Return an article without its title (the text before the first blank line) and EXTRACTION_RESIDUE.

    >>> clean_wiki_article("数学\n\n数学（，）是-{}-一门\n学科（）。")
    '数学是一门学科。'
    """
    title, blank, body = text.replace("\r\n", "\n").partition("\n\n")
    body = body if blank else title
    # Repeated, as brackets that held only empty brackets are empty after a pass.
    while (shorter := EXTRACTION_RESIDUE.sub("", body)) != body:
        body = shorter
    return body.strip()


def sentence_ends(tokenizer: Any) -> frozenset[int]:
    """Return the ids of the tokens whose text ends a sentence."""
    return frozenset(
        token for token in range(len(tokenizer)) if tokenizer.decode([token]).rstrip().endswith(tuple(SENTENCE_ENDS))
    )


def chunk_articles(
    articles: Iterable[EncodedRow], size: int, chunking: Chunking, ends: frozenset[int], counts: Counter[str]
) -> Iterator[EncodedRow]:
    """Yield blocks of at most `size` tokens from encoded articles; every token of a block is in the loss.

    - `first_block`: as many whole sentences from the start of each article as fit, then end-of-text.
    - `sentences`: all whole sentences, in as many blocks as needed, the last of which ends with end-of-text. A sentence
      longer than a block is left out.
    - `stream`: the articles one after the other, cut every `size` tokens.

    `ends` are the ids of tokens that end a sentence. An article without a sentence that fits is dropped. The numbers of
    articles, blocks and dropped articles are added to `counts`.
    """
    if chunking == "stream":
        blocks = _stream(articles, size, counts)
    else:
        blocks = _by_sentence(articles, size, chunking, ends, counts)
    for block in blocks:
        counts["blocks"] += 1
        yield block


def _by_sentence(
    articles: Iterable[EncodedRow], size: int, chunking: Chunking, ends: frozenset[int], counts: Counter[str]
) -> Iterator[EncodedRow]:
    for article in articles:
        *text, eos = article.token_ids
        sentence_ends = [index + 1 for index, token in enumerate(text) if token in ends]
        counts["articles"] += 1
        spans = list(_whole_sentences([0, *sentence_ends], size - 1))  # one token is reserved for end-of-text
        if chunking == "first_block":
            spans = [span for span in spans[:1] if span[0] == 0]
        for start, stop in spans:
            is_last = (start, stop) == spans[-1]
            yield EncodedRow(article.id, (*text[start:stop], *([eos] if is_last else ())), 0)
        counts["dropped"] += not spans


def _whole_sentences(ends: list[int], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield spans of as many whole sentences as fit `max_tokens`; longer sentences and single tokens are left out."""
    number = 0
    while number < len(ends) - 1:
        start = ends[number]
        fitting = bisect_right(ends, start + max_tokens) - 1
        # A block of one token has nothing to predict it from.
        if fitting > number and ends[fitting] > start + 1:
            yield start, ends[fitting]
        number = max(fitting, number + 1)


def _stream(articles: Iterable[EncodedRow], size: int, counts: Counter[str]) -> Iterator[EncodedRow]:
    buffer: list[int] = []
    id = ""  # of the article in which the block begins
    for article in articles:
        counts["articles"] += 1
        id = id or article.id
        buffer.extend(article.token_ids)
        end = len(buffer) // size * size
        for start in range(0, end, size):
            yield EncodedRow(id, tuple(buffer[start : start + size]), 0)
            id = article.id
        buffer = buffer[end:]
    if len(buffer) > 1:
        yield EncodedRow(id, tuple(buffer), 0)


def _slice(article: Example, start: int, end: int) -> Example:
    return replace(article, target=article.target[start:end])


def _json_lines(file: Path, limit: int) -> Iterator[tuple[str, str]]:
    for number, _, line, size in bounded_lines(file, limit):
        where = f"{file}:{number}"
        if size > limit:
            raise _too_long(where, limit)
        if not line.strip():
            continue
        try:
            text = orjson.loads(line)["text"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise DataError(where, "is not an article", 'a JSON object with "text"', "fix or remove the line")
        yield where, text


def _texts(file: Path, limit: int) -> Iterator[tuple[str, str]]:
    try:
        with file.open(encoding="utf-8-sig") as stream:
            yield from _split_documents(file, stream, limit)
    except UnicodeDecodeError:
        raise DataError(str(file), f"byte {_undecodable(file)} is not UTF-8", "UTF-8", "convert the file") from None


def _split_documents(file: Path, stream: TextIO, limit: int) -> Iterator[tuple[str, str]]:
    """Yield the articles between <doc> and </doc>, or the whole file as one; at most one article is in memory."""
    buffer, count, line = "", 0, 1
    while chunk := stream.read(1 << 20):
        buffer += chunk
        end = 0
        for match in _DOC.finditer(buffer):
            count += 1
            if len(match[1].encode()) > limit:
                raise _too_long(f"{file}[{count}]", limit)
            yield f"{file}[{count}]", match[1]
            end = match.end()
        line += buffer.count("\n", 0, end)
        buffer = buffer[end:]
        # Characters rather than bytes: an article above the limit in characters is above it in bytes, too.
        if len(buffer) > limit:
            raise _too_long(f"{file}:{line}", limit)
    if not count and buffer:
        if len(buffer.encode()) > limit:
            raise _too_long(f"{file}:1", limit)
        yield str(file), buffer


def _undecodable(file: Path) -> int:
    """Return the offset in bytes of the first byte that is not UTF-8."""
    # The error of the text stream counts from the start of its own buffer, so the file is read again as bytes.
    offset = 0
    with file.open("rb") as lines:
        for line in lines:
            try:
                offset += len(line.decode().encode())
            except UnicodeDecodeError as error:
                return offset + error.start
    return offset


def _too_long(where: str, limit: int) -> DataError:
    remedy = "divide the article, or raise data.max_row_bytes"
    return DataError(where, f"the article has {too_long(limit)}", f"{limit:,} bytes at most", remedy)
