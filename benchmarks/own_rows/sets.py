"""Generate eight sets of rows as users bring them: deterministic, with rows held out that no file contains.

Each set is one endless stream of distinct rows, drawn by seed. Its first rows are the file, those after them are held
out, so no question is in both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random

from benchmarks.own_rows import texts_en as en
from benchmarks.own_rows import texts_zh as zh

SEED = 1
"""Seed of the files and of the rows held out."""
HELD_OUT_ROWS = 1_000

Row = dict[str, str]


@dataclass(frozen=True)
class RowSet:
    """A set of rows: the generator of one row, the columns of the file, and its size."""

    about: str
    draw: Callable[[Random], tuple[str, ...]]
    """Return the cells of one row by column, the answer last."""
    columns: tuple[str, ...]
    file: str
    """Name of the file that `write` makes; the suffix decides its format."""
    rows: int
    labels: tuple[str, ...] = ()
    """Every label, if the answers are labels."""
    numbered: bool = False
    """Whether the file has a column `id` in front."""
    byte_order_mark: bool = False
    """Whether the file begins as Excel's do."""
    as_messages: bool = False
    """Whether a row is a conversation under `messages`."""

    @property
    def answer(self) -> str:
        """The column of the answer."""
        return self.columns[-1]


def generate(name: str, rows: int | None = None, seed: int = SEED) -> list[Row]:
    """Return the first rows of a set, by default as many as its file has."""
    return list(islice(_stream(SETS[name], seed), SETS[name].rows if rows is None else rows))


def held_out(name: str, rows: int = HELD_OUT_ROWS, seed: int = SEED) -> list[Row]:
    """Return rows of a set that come after those of its file."""
    start = SETS[name].rows
    return list(islice(_stream(SETS[name], seed), start, start + rows))


def question_key(row_set: RowSet, row: Row) -> str:
    """Return what identifies the question of a row: its letters and digits, without case, blanks and signs."""
    return re.sub(r"[\W_]+", "", "|".join(row[column] for column in row_set.columns[:-1]).casefold())


def _stream(row_set: RowSet, seed: int) -> Iterator[Row]:
    """Yield distinct rows for ever."""
    rng, seen = Random(seed), set()
    while True:
        row = dict(zip(row_set.columns, row_set.draw(rng), strict=True))
        key = question_key(row_set, row)
        if key not in seen:
            seen.add(key)
            yield row


@cache
def _wordings(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


def _pick(rng: Random, text: str) -> str:
    return rng.choice(_wordings(text))


def _fill(rng: Random, text: str, words: Mapping[str, str]) -> str:
    """Return a text with each slot replaced by a random wording of its entry, and their slots, too."""
    while slot := re.search(r"\{(\w+)\}", text):
        text = text[: slot.start()] + _pick(rng, words[slot[1]]) + text[slot.end() :]
    return text


def _closed(clause: str) -> str:
    """Return a clause with its full stop or question mark."""
    asks = re.match(r"(can|how|where|do|what|which|is|when|does|who|until|about) ", clause)
    return clause + ("?" if asks else ".")


def _sentences(text: str) -> str:
    """Return a text with a capital at the start of each sentence."""
    return re.sub(r"(?:^|(?<=[.?] ))[a-z]", lambda letter: letter[0].upper(), " ".join(text.split()))


def _review(rng: Random) -> tuple[str, ...]:
    sentiment, other = rng.choice((("positive", "negative"),) * 4 + (("negative", "positive"),) * 3)
    same, verdict = en.REVIEW_WORDS[sentiment]
    words = {
        **en.SHARED,
        "thing": rng.choice(en.REVIEW_KINDS),
        "same": same,
        "opposite": en.REVIEW_WORDS[other][0],
        "verdict": verdict,
    }
    parts = [
        en.REVIEW_OPENERS if rng.random() < 0.5 else "",
        en.REVIEW_FORMS,
        en.REVIEW_ENDS if rng.random() < 0.4 else "",
    ]
    return _sentences(" ".join(_fill(rng, _pick(rng, part), words) for part in parts)), sentiment


def _message(rng: Random) -> tuple[str, ...]:
    department = rng.choices(list(en.DEPARTMENTS), en.DEPARTMENT_WEIGHTS)[0]
    matter = _pick(rng, en.DEPARTMENTS[department])
    context = en.MESSAGE_CONTEXTS if rng.random() < 0.5 else ""
    around = [context, _closed(matter)] if rng.random() < 0.7 else [_closed(matter), context]
    parts = [en.MESSAGE_OPENERS if rng.random() < 0.5 else "", *around, en.MESSAGE_ENDS if rng.random() < 0.5 else ""]
    # A message names one product throughout, as a customer would.
    words = {**en.SHARED, "product": _pick(rng, en.SHARED["product"])}
    return _sentences(" ".join(_fill(rng, _pick(rng, part), words) for part in parts)), department


def _comment(rng: Random) -> tuple[str, ...]:
    label = rng.choices(("好", "差", "中"), (0.45, 0.3, 0.25))[0]
    if label == "中":
        clauses = [_pick(rng, zh.GOOD), _pick(rng, zh.BAD)]
        rng.shuffle(clauses)
    else:
        clauses = rng.sample(_wordings(zh.GOOD if label == "好" else zh.BAD), rng.choice((1, 2, 2)))
    opener = _pick(rng, zh.OPENERS) + "，" if rng.random() < 0.5 else ""
    end = _pick(rng, zh.ENDS) if rng.random() < 0.3 else ""
    return _fill(rng, opener + "，".join(clauses) + "。" + end, zh.WORDS), label


def _stay(rng: Random) -> tuple[str, ...]:
    stars = rng.choices(range(1, 6), (0.12, 0.16, 0.24, 0.28, 0.2))[0]
    words = {
        **en.SHARED,
        "thing": rng.choice(en.REVIEW_KINDS),
        "x": en.STAR_WORDS[stars - 1],
        "y": en.STAR_WORDS[stars - 1],
    }
    parts = [
        en.REVIEW_OPENERS if rng.random() < 0.5 else "",
        en.STAR_FORMS,
        en.REVIEW_ENDS if rng.random() < 0.5 else "",
    ]
    return _sentences(" ".join(_fill(rng, _pick(rng, part), words) for part in parts)), str(stars)


def _pair(rng: Random) -> tuple[str, ...]:
    label = rng.choices(("yes", "no", "maybe"), (0.42, 0.32, 0.26))[0]
    did, do = rng.choice(en.VERBS)
    slots = {"s": _pick(rng, en.PEOPLE), "v": _pick(rng, en.THINGS), "did": did, "do": do}
    first = "{s} {did} {n} {v}.".format(**slots, n=rng.randint(20, 99))
    claim = _pick(rng, en.CLAIMS[label]).format(**slots, n=rng.randint(2, 19))
    if label != "maybe" and rng.random() < 0.15:  # the opposite follows from a denial
        first = "{s} did not {do} any {v}.".format(**slots)
        label = "no" if label == "yes" else "yes"
    return first, claim, label


def _date(rng: Random) -> tuple[int, int, int]:
    month = rng.randint(1, 12)
    return rng.randint(1900, 2029), month, rng.randint(1, 28 if month == 2 else 30)


def _written(rng: Random, year: int, month: int, day: int) -> str:
    """Return a date as people write it."""
    name = en.MONTHS.split()[month - 1]
    forms = (
        f"{day} {name} {year}",
        f"{name} {day}, {year}",
        f"{day:02}.{month:02}.{year}",
        f"{year}年{month}月{day}日",
    )
    return rng.choice(forms)


def _rewriting(rng: Random) -> tuple[str, ...]:
    year, month, day = _date(rng)
    sentence = _fill(rng, _pick(rng, en.DATE_SENTENCES).replace("{date}", _written(rng, year, month, day)), en.SHARED)
    return en.DATE_INSTRUCTION + sentence, f"{year}-{month:02}-{day:02}"


def _order(rng: Random) -> tuple[str, ...]:
    order = "".join(rng.choices("ABCDEFGHJKM", k=2)) + f"-{rng.randint(10_000, 99_999)}"
    words = {
        **en.SHARED,
        "customer": str(rng.randint(1000, 9999)),
        "phone": f"0{rng.randint(100, 999)} {rng.randint(1000, 9999)}",
        "price": f"{rng.randint(8, 220)}.{rng.choice(('00', '50', '90'))}",
        "date": _written(rng, *_date(rng)),
    }
    missing = rng.random() < 0.12
    request = _pick(rng, en.NO_ORDERS if missing else en.ORDERS)
    contexts = [context + " " for context in rng.sample(_wordings(en.ORDER_CONTEXTS), rng.choice((0, 1, 1)))]
    opener = rng.choice((*_wordings(en.MESSAGE_OPENERS), "", "", "")) + " "
    parts = [*contexts, f"{_closed(request)} "]
    rng.shuffle(parts)
    text = _sentences(_fill(rng, opener + "".join(parts).replace("{order}", order), words))
    return f"Which order is this about? {text}", "none" if missing else order


def _short_message(rng: Random) -> tuple[str, ...]:
    label = rng.choices(list(en.SIXTY), en.SIXTY_WEIGHTS)[0]
    opener = rng.choice(("", "", "Hello, ", "By the way, ", "Listen: "))
    text = _fill(rng, opener + _pick(rng, en.SIXTY[label]), {**en.SHARED, **en.SIXTY_WORDS})
    end = rng.choice(("", ".", ". See you.", ". Thank you."))
    return _sentences(text + end), label


SETS: dict[str, RowSet] = {
    "reviews": RowSet(
        "labels of two words", _review, ("review", "sentiment"), "reviews.csv", 1_200, ("positive", "negative")
    ),
    "departments": RowSet(
        "labels of five words", _message, ("text", "department"), "departments.jsonl", 1_500, tuple(en.DEPARTMENTS)
    ),
    "comments": RowSet(
        "Chinese labels",
        _comment,
        ("评论", "情感"),
        "comments.csv",
        1_000,
        ("好", "中", "差"),
        byte_order_mark=True,
    ),
    "stars": RowSet(
        "numeric labels",
        _stay,
        ("comment", "stars"),
        "stars.csv",
        1_300,
        ("1", "2", "3", "4", "5"),
        numbered=True,
    ),
    "pairs": RowSet(
        "a pair of sentences",
        _pair,
        ("sentence1", "sentence2", "label"),
        "pairs.tsv",
        1_500,
        ("yes", "no", "maybe"),
        numbered=True,
    ),
    "orders": RowSet(
        "extraction: the order number of a message",
        _order,
        ("question", "answer"),
        "orders.jsonl",
        1_000,
        as_messages=True,
    ),
    "dates": RowSet("rewriting: dates to ISO", _rewriting, ("instruction", "output"), "dates.json", 900),
    "sixty": RowSet(
        "labels of two words, 60 rows", _short_message, ("message", "label"), "sixty.csv", 60, ("food", "sport")
    ),
}
"""The sets by name."""
