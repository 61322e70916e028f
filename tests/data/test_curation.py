"""Honest rows: laws of duplicates, draws, splits and overlap."""

from __future__ import annotations

import os
import random
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lotune.data.curation import (
    Contamination,
    ContaminationReport,
    DataCounts,
    count_kinds,
    normalise_prompt,
    remove_contaminated,
    remove_duplicates,
    sample_examples,
    split,
    stratified_quotas,
)
from lotune.data.examples import Example
from lotune.data.rows import read_rows
from lotune.errors import DataError, SettingsError
from lotune.files import write_json
from lotune.tasks.multiple_choice import ChoiceSettings
from lotune.tasks.registry import build_task

example = st.builds(
    lambda prompt, target, kind: Example("", prompt, target, (target,), kind),
    st.sampled_from(["1 + 1", "1  + 1", "１ + 1", "2 + 2", "3 + 3 ", "3 + 3"]),
    st.sampled_from("ab"),
    st.sampled_from(["sum", "root", "mean"]),
)
examples = st.lists(example, max_size=30)
quick = settings(max_examples=80, deadline=None)


def asked(*prompts: str, kind: str = "") -> list[Example]:
    return [Example(str(number), prompt, "x", category=kind) for number, prompt in enumerate(prompts)]


def numbered(rows: list[Example]) -> list[Example]:
    return [
        Example(str(number), row.prompt, row.target, row.references, row.category) for number, row in enumerate(rows)
    ]


@quick
@given(examples)
def test_duplicates(rows: list[Example]) -> None:
    remaining, removed = remove_duplicates(rows)
    assert len(remaining) + removed == len(rows)
    assert len(set(remaining)) == len({(row.prompt, row.target, row.references) for row in rows}) == len(remaining)
    assert remove_duplicates(remaining) == (remaining, 0)


def test_rows_that_differ_in_a_reference_are_no_duplicates() -> None:
    rows = [Example("1", "p", "t", ("a",)), Example("2", "p", "t", ("b",)), Example("3", "p", "t", ("a",))]
    assert [row.id for row in remove_duplicates(rows)[0]] == ["1", "2"]


@quick
@given(
    examples, st.none() | st.integers(0, 40), st.integers(0, 2**64), st.sampled_from(["none", "proportional", "equal"])
)
def test_draws(rows: list[Example], number: int | None, seed: int, stratify: str) -> None:
    rows = numbered(rows)
    kinds = count_kinds(rows)
    needs_kinds = stratify == "equal" or (stratify == "proportional" and number is not None and number < len(rows))
    if needs_kinds and not any(kinds):
        with pytest.raises(SettingsError, match="no row has a kind"):
            sample_examples(rows, number, seed, stratify)  # type: ignore[arg-type]
        return
    drawn = sample_examples(rows, number, seed, stratify)  # type: ignore[arg-type]
    if stratify == "equal" and number is None:
        assert count_kinds(drawn) == dict.fromkeys(kinds, min(kinds.values()))
    else:
        assert len(drawn) == (len(rows) if number is None else min(number, len(rows)))
    if stratify == "proportional" and rows:
        share = len(drawn) / len(rows)
        assert all(abs(count_kinds(drawn).get(kind, 0) - share * count) < 1 for kind, count in kinds.items())
    positions = [int(row.id) for row in drawn]
    assert positions == sorted(set(positions))
    assert drawn == sample_examples(rows, number, seed, stratify)  # type: ignore[arg-type]


@quick
@given(st.dictionaries(st.text(max_size=3), st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 300))
def test_equal_draws_are_as_equal_as_the_rows_allow(available: dict[str, int], rows: int) -> None:
    quotas = stratified_quotas(available, rows)
    assert sum(quotas.values()) == min(rows, sum(available.values()))
    assert all(quotas[kind] <= available[kind] for kind in available)
    most = max(quotas.values())
    assert all(quotas[kind] >= most - 1 for kind in available if quotas[kind] < available[kind])


def test_equal_draws_take_their_quotas() -> None:
    rows = numbered(asked(*["p"] * 100, kind="sum") + asked(*["p"] * 3, kind="root") + asked(*["p"] * 60, kind="mean"))
    drawn = sample_examples(rows, 43, 1, "equal")
    assert count_kinds(drawn) == {"mean": 20, "root": 3, "sum": 20}
    assert count_kinds(sample_examples(rows, 10, 1, kinds=["root", "mean"])).keys() <= {"root", "mean"}
    assert len(sample_examples(rows, None, 1, kinds=["root"])) == 3
    with pytest.raises(DataError, match="no rows of kind area"):
        sample_examples(rows, 3, 1, kinds=["root", "area"])


def test_a_larger_draw_holds_the_smaller() -> None:
    rows = asked(*map(str, range(200)))
    assert set(sample_examples(rows, 20, 5)) < set(sample_examples(rows, 100, 5))
    assert sample_examples(rows, 20, 5) != sample_examples(rows, 20, 6)


def test_draws_keep_the_shares() -> None:
    rows = asked(*map(str, range(9000)), kind="a") + asked(*map(str, range(1000)), kind="b")
    assert 60 <= count_kinds(sample_examples(rows, 1000, 0))["b"] <= 140


def test_seeds_mean_the_same_everywhere() -> None:
    rows = asked(*map(str, range(50)))
    assert [row.prompt for row in sample_examples(rows, 6, 7)] == ["7", "9", "11", "21", "27", "33"]
    assert [row.prompt for row in split(rows, 6, 7)[1]] == ["2", "7", "13", "22", "25", "44"]


@quick
@given(examples, st.integers(0, 30), st.integers(0, 2**32))
def test_splits_lose_no_row(rows: list[Example], number: int, seed: int) -> None:
    rows = numbered(rows)
    if number >= len(rows):
        with pytest.raises(DataError, match="leave none to train on"):
            split(rows, number, seed)
        return
    train, validation = split(rows, number, seed)
    assert len(validation) == number
    assert sorted(train + validation, key=lambda row: int(row.id)) == rows
    assert (train, validation) == split(rows, number, seed)


@quick
@given(examples, examples, examples)
def test_overlap_laws(train: list[Example], first: list[Example], second: list[Example]) -> None:
    sets = {"validation": first, "test": second}
    remaining, report = remove_contaminated(train, sets)
    assert len(remaining) + report.removed == len(train)
    asked_forms = {normalise_prompt(row.prompt) for row in first + second}
    assert remaining == [row for row in train if normalise_prompt(row.prompt) not in asked_forms]
    for name, rows in sets.items():
        prompts = {row.prompt for row in rows}
        assert report.sets[name].exact == sum(row.prompt in prompts for row in train)
        assert report.sets[name].rows == len(rows)
    again, nothing = remove_contaminated(remaining, sets)
    assert again == remaining
    assert nothing.removed == 0
    assert all(result.exact == result.normalised == result.seen == 0 for result in nothing.sets.values())


FORMAT_CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf"]


@given(st.lists(st.tuples(st.text(), st.sampled_from(FORMAT_CHARACTERS))))
def test_format_characters_change_no_form(parts: list[tuple[str, str]]) -> None:
    plain = "".join(text for text, _ in parts)
    assert normalise_prompt("".join(text + character for text, character in parts)) == normalise_prompt(plain)


@given(st.text())
def test_a_normalised_text_stays_as_it_is(text: str) -> None:
    assert normalise_prompt(normalise_prompt(text)) == normalise_prompt(text)
    assert normalise_prompt(f" {text}\n") == normalise_prompt(text)
    assert not any(unicodedata.category(character) == "Cf" for character in normalise_prompt(text))


@pytest.mark.parametrize("hidden", ["\u200b", "\u200d", "\u2060", "\xad", "\ufeff", "\u200e", "\u202e", "\u2066"])
def test_a_hidden_character_hides_no_test_question(hidden: str) -> None:
    remaining, report = remove_contaminated(asked(f"计算 1{hidden} + 1"), {"test": asked("计算 1 + 1")})
    assert remaining == []
    assert report.sets["test"] == Contamination(exact=0, normalised=1, seen=1, rows=1)


options = st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=2, max_size=6)


def choice(number: int, stem: str, options: Sequence[str], letter: str = "A", **settings: Any) -> Example:
    row = {"question": stem, "options": list(options), "answer": letter}
    task = build_task(ChoiceSettings(**settings))
    return next(iter(task.examples([(str(number), row)], training=False)))


@quick
@given(options, st.randoms(use_true_random=False))
def test_options_in_any_order_are_the_same_question(options: list[str], draw: random.Random) -> None:
    shuffled = draw.sample(options, len(options))
    test = [choice(1, "Which is right?", options)]
    remaining, report = remove_contaminated([choice(2, "Which is  right?", shuffled)], {"test": test})
    assert remaining == []
    assert report.sets["test"].seen == 1


@quick
@given(options, st.text("abcd", min_size=1))
def test_other_questions_or_options_are_not_the_same(options: list[str], more: str) -> None:
    test = [choice(1, "Which is right?", options)]
    further = [choice(2, f"Which is right {more}?", options), choice(3, "Which is right?", [*options, "?"])]
    remaining, report = remove_contaminated(further, {"test": test})
    assert remaining == further
    assert report.removed == 0


def test_shuffled_real_questions_are_found(reference_data: Path) -> None:
    task = build_task(ChoiceSettings(augmented_copies=1))
    file = task.read(reference_data / "contest" / "choice-2000.json")
    test = list(task.examples(file.rows[:200], training=False))
    copies = [item for item in task.examples(file.rows[:200], training=True) if item.augmented_from]
    remaining, report = remove_contaminated(copies, {"test": test})
    assert remaining == []
    assert report.sets["test"].normalised > 150


def test_overlap_counts_exact_and_normalised_apart() -> None:
    train = asked("计算 1 + 1", "计算　1 +  1\n", "计算 １ + 1", "计算 2 + 2", "计算 3 + 3")
    remaining, report = remove_contaminated(
        train, {"test": asked("计算 1 + 1", "计算 9 + 9"), "other": asked("计算 2 + 2", "计算 1 + 1")}
    )
    assert [row.prompt for row in remaining] == ["计算 3 + 3"]
    assert report == ContaminationReport(
        {"test": Contamination(exact=1, normalised=2, seen=1, rows=2), "other": Contamination(2, 2, 2, 2)}, removed=4
    )


def test_counts_can_be_written(tmp_path: Path) -> None:
    counts = DataCounts(
        read=9, kept=5, duplicates=1, overlap=ContaminationReport({"test": Contamination(2, 1, 2, 10)}, 3)
    )
    write_json(tmp_path / "counts.json", counts)
    value = orjson.loads((tmp_path / "counts.json").read_bytes())
    assert value["overlap"]["sets"]["test"] == {
        "exact": 2, "normalised": 1, "seen": 2, "rows": 10, "same_source": 0,
    }  # fmt: skip
    assert value["kept"] == 5


def test_contest_rows_pass_through_and_none_is_lost() -> None:
    folder = os.environ.get("LOTUNE_REFERENCE_DATA")
    if not folder:
        pytest.skip("LOTUNE_REFERENCE_DATA is not set")
    file = read_rows(Path(folder) / "contest" / "math-300.jsonl")
    rows = [
        Example(where, row["problem"], row["solution"], (row["solution"],), row["problem"][:2])
        for where, row in file.rows
    ]
    unique, removed = remove_duplicates(rows + rows)
    assert removed >= 300
    drawn = sample_examples(unique, 200, 3, "equal")
    train, validation = split(drawn, 50, 3)
    remaining, report = remove_contaminated(train, {"validation": validation, "all": rows})
    assert remaining == []
    assert report.removed == 150
    assert report.sets["all"] == Contamination(150, 0, report.sets["all"].seen, 300)
    assert sum(Counter(row.category for row in drawn).values()) == 200
