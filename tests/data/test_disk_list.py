"""A spool is the list that was written into it, in memory or on disk."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lotune.data import disk_list
from lotune.data.disk_list import DiskList, select
from lotune.data.examples import Example, Turn, examples_on_disk
from lotune.errors import RunError

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=30)


def of(items: list[str]) -> DiskList[str]:
    return DiskList(items, str.encode, bytes.decode)


@settings(max_examples=60, deadline=None)
@given(texts, st.data())
def test_a_spool_is_its_list(items: list[str], data: st.DataObject) -> None:
    result = of(items)
    assert len(result) == len(items)
    assert result == items
    assert result != [*items, "more"]
    cut = data.draw(st.slices(len(items)))
    assert list(result[cut]) == items[cut]
    positions = data.draw(st.lists(st.integers(0, len(items) - 1))) if items else []
    assert (
        list(result.select(positions)) == list(select(items, positions)) == [items[position] for position in positions]
    )
    assert list(result.select(positions)[::-1]) == [items[position] for position in positions][::-1]
    with pytest.raises(IndexError):
        result[len(items)]


def test_beyond_its_share_of_memory_a_spool_is_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_list, "MAX_BYTES_IN_MEMORY", 100)
    items = [f"item {number}" for number in range(500)]
    result = of(items)
    part = result.select([7, 3])
    assert result._file._rolled  # type: ignore[attr-defined]
    del result
    assert list(part) == ["item 7", "item 3"]


def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr(disk_list, "SpooledTemporaryFile", lambda _: Full())
    with pytest.raises(RunError, match="free some space"):
        of(["a"])


def test_examples_come_back_as_they_were() -> None:
    examples: list[Any] = [
        Example("1", "p", "t", ("a", "b"), "sum", ("x", "y"), ("head ", "middle", " tail"), augmented_from="0"),
        Example("2", "甲?乙.丙?", "丁", earlier_turns=(Turn("甲?", "乙.", scored=False),)),
    ]
    assert list(examples_on_disk(examples)) == examples
