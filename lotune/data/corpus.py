"""A corpus: the articles of a file or folder, cleaned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.cleaning import Cleaner, Cleaning, CleaningRule, RuleHits
from lotune.data.corpus_files import FORMATS, corpus_format, read_articles
from lotune.data.examples import Example
from lotune.data.file_readers import check_name
from lotune.data.rows import MAX_LISTED, Malformed, MalformedRowsError, OnError
from lotune.errors import DataError

SCRIPTS = {
    "han": re.compile(r"[㐀-䶿一-鿿豈-﫿]+"),
    "latin": re.compile(r"[A-Za-zÀ-ɏ]+"),
    "digits": re.compile(r"[0-9０-９]+"),
}
"""Scripts by which the characters of a corpus are counted; blanks, punctuation and all else are `other`."""


@dataclass(frozen=True)
class Corpus:
    """The articles of a file, or of a folder and its subfolders."""

    path: Path
    cleaning: Cleaning = "none"
    max_row_bytes: int = MAX_ROW_BYTES
    """Largest article in bytes."""
    rules: tuple[CleaningRule, ...] = ()
    """Rules of cleaning that follow those of `cleaning`."""
    text_key: str = "text"
    """Key, or column, of the text in jsonl, json and parquet."""
    on_error: OnError = "stop"

    def files(self) -> list[Path]:
        """Return the files to read, sorted by path. Raises: DataError if there are none."""
        paths = [self.path] if self.path.is_file() else sorted(self.path.rglob("*"))
        files = [file for file in paths if corpus_format(file) and file.is_file() and not file.name.startswith(".")]
        if not files:
            check_name(self.path)
            if not self.path.exists():
                remedy = "check the path; it is relative to the current folder"
                raise DataError(str(self.path), "does not exist", remedy=remedy)
            raise DataError(str(self.path), "holds no articles", f"files of {', '.join(FORMATS)}", "check the path")
        for file in files:
            check_name(file)
        return files

    def articles(self, counts: CorpusCounts | None = None) -> Iterator[Example]:
        """Yield each article with text; its id is its file with the line or the number of the article.

        What is read is counted in `counts`, if given.

        Raises: MalformedRowsError for lines that are no articles and articles that are too long, unless `on_error` is
        skip; DataError for a file that is not of its format.
        """
        counts = CorpusCounts() if counts is None else counts
        cleaner, malformed = Cleaner(self.cleaning, self.rules), list[Malformed]()
        counts.cleaning, stops = cleaner.hits, self.on_error == "stop"
        for file in self.files():
            name = corpus_format(file)
            counts.files[name] = counts.files.get(name, 0) + 1
            for found in read_articles(file, self.text_key, self.max_row_bytes):
                counts.read += 1
                if isinstance(found, Malformed):
                    malformed.append(found)
                elif not stops or not malformed:  # the rest is only read to name all malformed articles
                    where, text = found
                    if text := cleaner(text, where):
                        yield Example(where, "", text)
                    else:
                        counts.empty += 1
        if malformed and stops:
            raise MalformedRowsError(self.path, malformed, counts.read, "cannot be used")
        counts.malformed = len(malformed)
        counts.malformed_rows = [f"{row.where} {row.reason}" for row in malformed[:MAX_LISTED]]


@dataclass
class DuplicateCounts:
    """Number of duplicates that were removed, and examples: the ids of both articles, and the beginning of the text."""

    removed: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class CorpusCounts:
    """What was read from a corpus and what became of it, as stored in data/corpus.json.

    `files` counts files by format. Of the articles `read`, `malformed` ones could not be used (`malformed_rows` has the
    first of them), `empty` ones had no text after cleaning, and duplicates were removed. `characters`, `bytes` (UTF-8)
    and `scripts` (characters by script) are those of the articles that are left, and `lengths` has their characters at
    the quantiles 0, .05, .5, .95 and 1.
    """

    files: dict[str, int] = field(default_factory=dict)
    read: int = 0
    malformed: int = 0
    malformed_rows: list[str] = field(default_factory=list)
    empty: int = 0
    cleaning: list[RuleHits] = field(default_factory=list)
    duplicates: DuplicateCounts = field(default_factory=DuplicateCounts)
    characters: int = 0
    bytes: int = 0
    scripts: dict[str, int] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    train_articles: int = 0
    validation_articles: int = 0

    def add(self, text: str) -> None:
        """Count the text of an article that is left."""
        self.characters += len(text)
        self.bytes += len(text.encode())
        for name, count in count_scripts(text).items():
            self.scripts[name] = self.scripts.get(name, 0) + count


def count_scripts(text: str) -> dict[str, int]:
    """Return the number of characters by script.

    >>> count_scripts("光速 is 299792458 m/s。")
    {'han': 2, 'latin': 4, 'digits': 9, 'other': 5}
    """
    counts = {name: sum(map(len, pattern.findall(text))) for name, pattern in SCRIPTS.items()}
    return {**counts, "other": len(text) - sum(counts.values())}
