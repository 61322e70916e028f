"""The generated files of benchmarks/own_rows: counts, disjoint rows held out, determinism, labels, characters."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

from benchmarks.own_rows.files import write_set
from benchmarks.own_rows.sets import HELD_OUT_ROWS, SETS, Row, generate, held_out, question_key
from benchmarks.own_rows.texts_en import PEOPLE, REVIEW_WORDS, STAR_WORDS, THINGS
from lotune.data.rows import read_rows
from lotune.nano import corpus_generator
from lotune.tasks.reading import templates_en, templates_zh

LABELLED = [name for name, row_set in SETS.items() if row_set.labels]

every_set = pytest.mark.parametrize("name", SETS)


@cache
def both(name: str) -> tuple[list[Row], list[Row]]:
    return generate(name), held_out(name)


@every_set
def test_a_set_has_its_rows_and_no_question_twice(name: str) -> None:
    rows, unseen = both(name)
    assert (len(rows), len(unseen)) == (SETS[name].rows, HELD_OUT_ROWS)
    keys = [question_key(SETS[name], row) for row in rows + unseen]
    assert len(set(keys)) == len(keys)  # within the file, within the rows held out, and between them
    assert all(all(row.values()) for row in rows + unseen)


def test_the_sizes_are_those_that_people_bring() -> None:
    sizes = [row_set.rows for row_set in SETS.values()]
    assert len(sizes) == 8
    assert sorted(sizes)[0] == 60
    assert all(900 <= rows <= 1500 for rows in sorted(sizes)[1:])


@every_set
def test_rows_depend_on_the_seed_alone(name: str) -> None:
    assert generate(name) == both(name)[0]
    assert generate(name, 20) == both(name)[0][:20]
    assert generate(name, 20, seed=2) != both(name)[0][:20]


@pytest.mark.parametrize("name", LABELLED)
def test_labels_are_unequal_and_the_same_in_both_parts(name: str) -> None:
    shares = []
    for rows in both(name):
        counts = Counter(row[SETS[name].answer] for row in rows)
        assert set(counts) == set(SETS[name].labels)
        assert min(counts.values()) / len(rows) >= 0.08
        assert max(counts.values()) / len(rows) <= 0.7
        shares.append({label: count / len(rows) for label, count in counts.items()})
    if SETS[name].rows >= 900:
        assert all(abs(shares[0][label] - shares[1][label]) < 0.06 for label in SETS[name].labels)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("end", [0, -1])
def test_the_first_or_last_word_does_not_give_the_label_away(name: str, end: int) -> None:
    rows = both(name)[0] + both(name)[1]
    by_word: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        text = " ".join(row[column] for column in SETS[name].columns[:-1])
        words = re.findall(r"\w+", text) if text.isascii() else list(text.strip("。"))
        by_word[words[end]][row[SETS[name].answer]] += 1
    assert sum(max(counts.values()) for counts in by_word.values()) / len(rows) < 0.8


SOURCES = (templates_en, templates_zh, corpus_generator)
SEEN_CHINESE = {character for source in SOURCES for character in Path(source.__file__).read_text(encoding="utf-8")}
SEEN_ASCII = set("ABCDEFGHIJKLMNOPQRSTUVWYZabcdefghijklmnopqrstuvwxyz0123456789 .,:?-")
"""Characters of nano's corpus without those of equations; X, apostrophes and brackets are not in it."""


@every_set
def test_the_characters_are_those_that_nano_has_seen(name: str) -> None:
    used = {character for rows in both(name) for row in rows for cell in row.values() for character in cell}
    assert {character for character in used if character.isascii()} <= SEEN_ASCII
    assert {character for character in used if not character.isascii()} <= SEEN_CHINESE


@every_set
def test_a_file_holds_the_rows_in_its_own_format(name: str, tmp_path: Path) -> None:
    paths = write_set(name, tmp_path)
    for path, rows in zip(paths, both(name), strict=True):
        read = [row for _, row in read_rows(path).rows]
        if SETS[name].as_messages:
            read = [dict(zip(rows[0], (turn["content"] for turn in row["messages"]), strict=True)) for row in read]
        assert [{column: row[column] for column in SETS[name].columns} for row in read] == rows
    first = paths[0].read_bytes()
    assert first.startswith(b"\xef\xbb\xbf") == SETS[name].byte_order_mark
    write_set(name, tmp_path)
    assert paths[0].read_bytes() == first


def test_the_formats_and_columns_vary(tmp_path: Path) -> None:
    assert {Path(row_set.file).suffix for row_set in SETS.values()} == {".csv", ".jsonl", ".tsv", ".json"}
    assert len({row_set.columns for row_set in SETS.values()}) == len(SETS)


def test_a_date_is_that_of_its_sentence() -> None:
    months = [f"{month}月" for month in range(1, 13)]
    for row in both("dates")[0]:
        year, month, day = row["output"].split("-")
        assert year in row["instruction"]
        assert str(int(day)) in row["instruction"]
        if months[0][-1] in row["instruction"]:
            assert f"{year}年{int(month)}月{int(day)}日" in row["instruction"]


def test_an_order_number_stands_in_its_message() -> None:
    answers = [(row["question"], row["answer"]) for row in both("orders")[0]]
    assert all(answer == "none" or question.count(answer) == 1 for question, answer in answers)
    numbers = re.compile(r"[A-Z]{2}-\d{5}")
    assert all(bool(numbers.search(question)) == (answer != "none") for question, answer in answers)


def test_a_pair_is_about_one_thing_and_its_label_follows_from_the_denials() -> None:
    for row in both("pairs")[0]:
        first, second = row["sentence1"], row["sentence2"]
        for names in (PEOPLE, THINGS):
            assert [name for name in names.split("|") if name in first] == [
                name for name in names.split("|") if name in second
            ]
        more = " for " in second or " with " in second
        same = ("not" in first) == ("not" in second or "never" in second)
        assert row["label"] == ("maybe" if more else "yes" if same else "no")


def test_a_review_or_a_stay_has_words_of_its_label() -> None:
    for row in both("stars")[0]:
        found = [star for star, words in enumerate(STAR_WORDS, 1) if re.search(rf"\b({words})\b", row["comment"], re.I)]
        assert found == [int(row["stars"])]
    for row in both("reviews")[0]:
        words, verdicts = REVIEW_WORDS[row["sentiment"]]
        assert re.search(f"{words}|{verdicts}", row["review"], re.I)
