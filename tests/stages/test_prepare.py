from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lotune.data.examples import Example
from lotune.data.tokenized import encode_row
from lotune.errors import DataError
from lotune.stages import prepare

ROWS = [Example(f"a.jsonl:{number}", f"{number} + 1 =", "9" * number) for number in range(1, 6)]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the rows that are encoded, as they are."""
    result: list[str] = []
    original = prepare.encode_rows

    def noting(tokenizer: Any, examples: list[Example]) -> Any:
        for row in original(tokenizer, examples):
            result.append(row.id)
            yield row

    monkeypatch.setattr(prepare, "encode_rows", noting)
    return result


def tokens(file: Any) -> list[tuple[int, ...]]:
    return [file[index].token_ids for index in range(len(file))]


def test_the_same_rows_are_not_encoded_again(tmp_path: Path, byte_tokenizer: Any, encoded: list[str]) -> None:
    stem, limit = tmp_path / "train", 11
    first = prepare._train_tokens(stem, byte_tokenizer, (ROWS,), limit, "drop")
    assert tokens(first) == [encode_row(byte_tokenizer, row).token_ids for row in ROWS[:3]]
    assert first.metadata()["dropped_too_long"] == 2
    assert encoded == [row.id for row in ROWS]
    encoded.clear()
    again = prepare._train_tokens(stem, byte_tokenizer, (list(ROWS),), limit, "drop")
    assert encoded == []
    assert tokens(again) == tokens(first)
    assert again.metadata() == first.metadata()


@pytest.mark.parametrize(
    ("rows", "limit", "damage"),
    [(ROWS[:4], 11, False), (ROWS, 10, False), (ROWS, 11, True)],
    ids=["rows", "limit", "damaged"],
)
def test_changed_rows_are_encoded_again(
    tmp_path: Path, byte_tokenizer: Any, encoded: list[str], rows: list[Example], limit: int, damage: bool
) -> None:
    stem = tmp_path / "train"
    prepare._train_tokens(stem, byte_tokenizer, (ROWS,), 11, "drop")
    encoded.clear()
    if damage:
        path = tmp_path / "train.tokens.npy"
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    file = prepare._train_tokens(stem, byte_tokenizer, (rows,), limit, "drop")
    assert encoded == [row.id for row in rows]
    complete = [encode_row(byte_tokenizer, row).token_ids for row in rows]
    assert tokens(file) == [result for result in complete if len(result) <= limit]


def test_rows_too_long_that_stop_the_run_leave_the_folder_unchanged(tmp_path: Path, byte_tokenizer: Any) -> None:
    prepare._train_tokens(tmp_path / "train", byte_tokenizer, (ROWS,), 30, "stop")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=r"2 rows are too long: a\.jsonl:4, a\.jsonl:5"):
        prepare._train_tokens(tmp_path / "train", byte_tokenizer, (ROWS,), 11, "stop")
    with pytest.raises(DataError, match="every row is longer than 3 tokens"):
        prepare._train_tokens(tmp_path / "train", byte_tokenizer, (ROWS,), 3, "drop")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_replay_rows_are_known_after_rows_that_are_too_long(tmp_path: Path, byte_tokenizer: Any) -> None:
    replay = [replace(row, id=f"replay:{number}") for number, row in enumerate(ROWS[1:], start=1)]
    file = prepare._train_tokens(tmp_path / "train", byte_tokenizer, (ROWS, replay), 11, "drop")
    marks = {name: file[index].is_replay for index, name in enumerate(file.ids(range(len(file))))}
    assert marks == {**{row.id: False for row in ROWS[:3]}, "replay:1": True, "replay:2": True}
    other = prepare._train_tokens(tmp_path / "train", byte_tokenizer, (ROWS + replay, []), 11, "drop")
    assert tokens(other) == tokens(file)
    assert not any(other[index].is_replay for index in range(len(other)))
