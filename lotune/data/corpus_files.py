"""Files of articles: jsonl, json, txt and parquet, also compressed with gzip or zstd, read one article at a time.

A jsonl file has an article per line, a json file an array of articles or a single one, with the text under a key. The
output of WikiExtractor has articles between `<doc …>` and `</doc>`; any other .txt file is a single article.
"""

from __future__ import annotations

import codecs
import gzip
import importlib
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import orjson

from lotune.data.bounded import items_of, lines_of, too_long
from lotune.data.file_readers import READERS
from lotune.data.rows import Malformed
from lotune.data.tables import looks_like_header
from lotune.errors import DataError, install_extra

Found = Iterator[tuple[str, str] | Malformed]
"""Position and text of each article, or why there is none: a file with the number of a line, or of an item in [ ]."""
MAX_EXPANSION, FREE_BYTES = 200, 1 << 24
"""How many times its size a compressed file may have, and the bytes that are free: text compresses 20 times at most."""
_DOC = re.compile(r"<doc\b[^>]*>\n?(.*?)</doc>", re.DOTALL)
_CHUNK = 1 << 20
_SHORTER = "divide the article, or raise data.max_row_bytes"


def corpus_format(path: Path) -> str:
    """Return the format of a file by its name, and an empty text if it is none of them.

    >>> corpus_format(Path("wiki/AA_00.JSONL.gz")), corpus_format(Path("notes.md"))
    ('.jsonl.gz', '')
    """
    name = path.name.lower()
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), "")


def read_articles(file: Path, key: str, limit: int) -> Found:
    """Yield the articles of a file whose name has one of FORMATS; `limit` is the largest article in bytes.

    Raises: DataError for a file that cannot be read or unpacked, or that is not of its format.
    """
    try:
        yield from FORMATS[corpus_format(file)](file, key, limit)
    except (OSError, EOFError, zlib.error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise DataError(str(file), f"cannot be read: {reason}") from None
    except UnicodeDecodeError as error:
        raise DataError(str(file), f"is not UTF-8: {error.reason}", "UTF-8", "convert the file") from None


class _Expanding(io.RawIOBase):
    """Reads a compressed stream until it has expanded to `most` bytes. Raises: OSError beyond."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._most = stream, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer))
        self._most -= len(piece)
        if self._most < 0:
            raise OSError(f"it expands to more than {MAX_EXPANSION} times its size")
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _opened(file: Path) -> IO[bytes]:
    suffix = file.suffix.lower()
    if suffix not in (".gz", ".zst"):
        return file.open("rb")
    most = MAX_EXPANSION * file.stat().st_size + FREE_BYTES
    stream = cast(IO[bytes], gzip.GzipFile(file)) if suffix == ".gz" else _zstd(file)
    return io.BufferedReader(_Expanding(stream, most), _CHUNK)


def _zstd(file: Path) -> IO[bytes]:
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError:
        remedy = f"{install_extra('corpus')}, or unpack the file"
        raise DataError(str(file), "zstd cannot be read here", "the package zstandard", remedy) from None
    return cast(IO[bytes], _ZstdErrors(zstandard, file.open("rb")))


class _ZstdErrors:
    """The unpacked stream of a zstd file, whose faults are errors of the operating system as those of gzip are."""

    def __init__(self, zstandard: Any, packed: IO[bytes]) -> None:
        self._error = zstandard.ZstdError
        self._stream = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
        self.close = packed.close

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._stream.read(size))
        except self._error as error:
            raise OSError(f"it is not zstd: {error}") from None


def _jsonl(file: Path, key: str, limit: int) -> Found:
    with _opened(file) as stream:
        for number, _, line, size in lines_of(stream, limit):
            where = f"{file}:{number}"
            if size > limit:
                yield Malformed(where, f"has {too_long(limit)}", _SHORTER)
            elif line.strip():
                yield _article(where, _parsed(line), key)


def _json(file: Path, key: str, limit: int) -> Found:
    with _opened(file) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as texts:
        start = texts.read(_CHUNK)
        if start.lstrip().startswith("{"):
            whole = start + texts.read(limit)
            yield _article(str(file), _parsed(whole.encode()), key) if len(whole) <= limit else _too_long(file, limit)
            return
        number = 0
        try:
            pieces = chain([start], iter(partial(texts.read, _CHUNK), ""))
            for number, item in enumerate(items_of(lambda _: next(pieces, ""), limit=limit)):
                where = f"{file}[{number}]"
                yield _too_long(where, limit) if item is None else _article(where, _parsed(item.encode()), key)
        except (ValueError, RecursionError) as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            found = f"is not JSON after item {number}: {error}"
            raise DataError(str(file), found, "an array of objects, or one object", "save it as jsonl") from None


def _parquet(file: Path, key: str, limit: int) -> Found:
    for where, row in READERS[".parquet"](file, looks_like_header, limit):
        position = f"{file}{where.removeprefix(file.name)}"
        yield Malformed(position, row) if isinstance(row, str) else _article(position, row, key)


def _txt(file: Path, key: str, limit: int) -> Found:
    yield from _documents(file, _decoded(file), limit)


def _decoded(file: Path) -> Iterator[str]:
    """Yield the text of a file in pieces. Raises: DataError that names the first byte that is not UTF-8."""
    decoder, offset = codecs.getincrementaldecoder("utf-8-sig")(), 0
    lines = io.IncrementalNewlineDecoder(decoder, translate=True)
    with _opened(file) as stream:
        while True:
            piece = stream.read(_CHUNK)
            pending = len(decoder.getstate()[0])
            try:
                text = lines.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                byte = offset - pending + error.start
                raise DataError(str(file), f"byte {byte} is not UTF-8", "UTF-8", "convert the file") from None
            offset += len(piece)
            if text:
                yield text
            if not piece:
                return


def _documents(file: Path, pieces: Iterator[str], limit: int) -> Found:
    """Yield the articles between <doc> and </doc>, or the whole file as one; at most one article is in memory."""
    buffer, count, line = "", 0, 1
    for piece in pieces:
        buffer += piece
        end = 0
        for match in _DOC.finditer(buffer):
            count += 1
            where = f"{file}[{count}]"
            yield (where, match[1]) if len(match[1].encode()) <= limit else _too_long(where, limit)
            end = match.end()
        line += buffer.count("\n", 0, end)
        buffer = buffer[end:]
        # Characters rather than bytes: an article above the limit in characters is above it in bytes, too.
        if len(buffer) > limit:
            raise DataError(
                f"{file}:{line}", f"the article has {too_long(limit)}", f"{limit:,} bytes at most", _SHORTER
            )
    if not count and buffer:
        yield (str(file), buffer) if len(buffer.encode()) <= limit else _too_long(f"{file}:1", limit)


def _too_long(where: Path | str, limit: int) -> Malformed:
    return Malformed(str(where), f"has {too_long(limit)}", _SHORTER)


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def _article(where: str, value: Any, key: str) -> tuple[str, str] | Malformed:
    text = value.get(key) if isinstance(value, dict) else None
    if isinstance(text, str):
        return where, text
    others = f"; its keys are {', '.join(map(str, value))}" if isinstance(value, dict) and value else ""
    return Malformed(where, f'is no JSON object with a text under "{key}"{others}')


FORMATS: Mapping[str, Callable[[Path, str, int], Found]] = {
    **{f"{suffix}{packed}": reader for packed in (".gz", ".zst", "")
       for suffix, reader in ((".jsonl", _jsonl), (".json", _json), (".txt", _txt))},
    ".parquet": _parquet,
}  # fmt: skip
"""Reader by the end of a file's name."""
