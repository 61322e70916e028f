"""Short passages of facts, with questions that a span of the passage answers; in SQuAD's layout, by seed.

A passage tells facts of one or two subjects in three to five shuffled sentences. In half of the passages two subjects
of the same kind share relations, so that a question has to be matched to its subject and to its relation. Words come
from closed tables (`lotune.tasks.reading.templates_en`), names are coined; "unseen" names are ones that "train" never
coins.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Literal

from lotune.tasks.reading import templates_en
from lotune.tasks.reading.templates_zh import CHINESE

Language = Literal["zh", "en", "both"]
Names = Literal["train", "unseen"]
Paragraph = dict[str, Any]

UNSEEN_SHARE = 5
"""One coined name in this many belongs to "unseen"."""
LENGTHS = {"en": (30, 70), "zh": (50, 110)}
"""Least and most length of a passage: English words, Chinese characters."""
TEXTS = {"en": templates_en.ENGLISH, "zh": CHINESE}


@dataclass(frozen=True)
class Fact:
    """One relation of one subject: `subject` as it stands in a sentence, `name` as an answer gives it."""

    relation: str
    subject: str
    name: str
    value: str


def is_unseen(coined: str) -> bool:
    """Whether a coined part of a name belongs to "unseen"; by a stable hash, so the same in every process.

    >>> [is_unseen(name) for name in ("Talvo", "Renka", "Dorvin")]
    [True, True, False]
    """
    return zlib.crc32(coined.encode()) % UNSEEN_SHARE == 0


@cache
def _wordings(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


@cache
def _words(table: str, language: str) -> tuple[str, ...]:
    return tuple(templates_en.WORDS[language][table].split(" "))


@cache
def _syllables() -> tuple[str, ...]:
    return tuple(templates_en.SYLLABLES.split(" "))


def coin_name(random: Random, language: str, names: Names) -> str:
    """A made-up name of two or three syllables, or of two Chinese characters, of the right half of the hash."""
    while True:
        if language == "en":
            coined = "".join(random.choices(_syllables(), k=random.choice((2, 2, 3)))).capitalize()
        else:
            coined = "".join(random.sample(templates_en.NAME_CHARACTERS, 2))
        if is_unseen(coined) == (names == "unseen"):
            return coined


def _name(random: Random, kind: str, language: str, names: Names) -> str:
    shape = random.choice(_wordings(templates_en.SHAPES[language][kind]))
    parts = {key: coin_name(random, language, names) for key in "ab" if "{" + key + "}" in shape}
    return shape.format(**parts, f=random.choice(templates_en.FAMILY_NAMES))


def _value(random: Random, kind: str, language: str, names: Names) -> str:
    if kind == "year":
        year = random.randint(1500, 2019)
        return f"{year}年" if language == "zh" else str(year)
    if kind == "count":
        digits = random.randint(2, 5)
        return str(random.randrange(10 ** (digits - 1), 10**digits))
    if kind in templates_en.SHAPES[language]:
        return _name(random, kind, language, names)
    return random.choice(_words(kind, language))


def _tell(random: Random, kind: str, relations: Iterable[str], language: str, names: Names) -> list[Fact]:
    """Facts of one new subject of `kind`."""
    name = _name(random, kind, language, names)
    subject = templates_en.PREFIX.get(kind, "") + name if language == "en" else name
    kinds = templates_en.RELATIONS[kind]
    return [Fact(f"{kind}.{key}", subject, name, _value(random, kinds[key], language, names)) for key in relations]


def _story(random: Random, language: str, names: Names) -> list[list[Fact]]:
    """Facts by subject: two subjects that share relations (half of the time), two of different kinds, or one."""
    kinds = list(templates_en.RELATIONS)
    kind = random.choice(kinds)
    relations = list(templates_en.RELATIONS[kind])
    form = random.random()
    if form < 0.5:
        shared = random.sample(relations, random.randint(2, min(3, len(relations))))
        return [_tell(random, kind, shared, language, names) for _ in range(2)]
    if form < 0.75:
        sizes = [(k, random.choice((2, 3))) for k in random.sample(kinds, 2)]
        return [_tell(random, k, random.sample(list(templates_en.RELATIONS[k]), n), language, names) for k, n in sizes]
    return [_tell(random, kind, random.sample(relations, random.randint(4, len(relations))), language, names)]


def _groups(random: Random, subjects: list[list[Fact]]) -> list[list[Fact]]:
    """The facts in groups of one or two, one group a sentence, shuffled; two facts in a group have one subject."""
    groups: list[list[Fact]] = []
    for told in subjects:
        rest = random.sample(told, len(told))
        while rest:
            size = 2 if len(rest) > 1 and random.random() < 0.4 else 1
            groups.append(rest[:size])
            rest = rest[size:]
    random.shuffle(groups)
    return groups


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _sentence(random: Random, group: list[Fact], subject: str, language: str) -> str:
    """One sentence for one fact or for two of the same subject."""
    texts = TEXTS[language]
    if len(group) == 1 and random.random() < 0.4:
        wording = random.choice(_wordings(texts[group[0].relation][1]))
        return _capitalised(wording.format(s=subject, v=group[0].value))
    told = [random.choice(_wordings(texts[fact.relation][0])).format(v=fact.value) for fact in group]
    if language == "en":
        return _capitalised(f"{subject} {' and '.join(told)}.")
    pronoun = "他" if group[0].relation.startswith("person.") else "它"
    # a Chinese predicate that hangs on the name (的...) needs one before it in a second clause too
    told[1:] = [pronoun + predicate if predicate.startswith("的") else predicate for predicate in told[1:]]
    return f"{subject}{'，'.join(told)}。"


def _context(random: Random, groups: list[list[Fact]], language: str) -> str:
    told = [_sentence(random, group, group[0].subject, language) for group in groups]
    if len(told) < 5 and random.random() < 0.2:
        plain = [text for text in _wordings(templates_en.EVERYDAY[language]) if "{" not in text]
        told.insert(random.randint(0, len(told)), random.choice(plain))
    return (" " if language == "en" else "").join(told)


def _length(context: str, language: str) -> int:
    return len(context.split()) if language == "en" else len(context)


def _question(random: Random, fact: Fact, context: str, language: str) -> tuple[str, str] | None:
    """A question and its answer, for the value or (one time in five) for the subject; None where it is ambiguous."""
    asks_subject = random.random() < 0.2 and _once(context, fact.name)
    answer = fact.name if asks_subject else fact.value
    if not _once(context, answer):
        return None
    wording = random.choice(_wordings(TEXTS[language][fact.relation][3 if asks_subject else 2]))
    return wording.format(s=fact.subject, v=fact.value), answer


def _distinct(told: list[Fact]) -> bool:
    return len({fact.value for fact in told}) == len(told)


def _once(context: str, answer: str) -> bool:
    return context.count(answer) == 1


def _paragraph(
    random: Random, language: str, names: Names, most_questions: int
) -> tuple[str, str, list[tuple[str, str]]]:
    """Title, passage and two to `most_questions` questions with their answers."""
    least, most = LENGTHS[language]
    while True:
        subjects = _story(random, language, names)
        told = [fact for facts_of_one in subjects for fact in facts_of_one]
        groups = _groups(random, subjects)
        if not 3 <= len(groups) <= 5 or not _distinct(told):
            continue
        context = _context(random, groups, language)
        if not least <= _length(context, language) <= most:
            continue
        random.shuffle(told)
        asked = [qa for fact in told if (qa := _question(random, fact, context, language)) is not None]
        if len(asked) >= 2:
            return subjects[0][0].name, context, asked[: random.randint(2, most_questions)]


def _same_of_several(random: Random, language: str, names: Names, subjects: int, relations: int) -> list[Fact]:
    """The same `relations` facts of each of several subjects of one kind, all values different."""
    while True:
        kind = random.choice(list(templates_en.RELATIONS))
        keys = random.sample(list(templates_en.RELATIONS[kind]), relations)
        told = [fact for _ in range(subjects) for fact in _tell(random, kind, keys, language, names)]
        if _distinct(told) and len({fact.name for fact in told}) == subjects:
            return random.sample(told, len(told))


def _listed(told: Iterable[Fact], language: str) -> str:
    colon, stop, blank = (": ", ".", " ") if language == "en" else ("：", "。", "")
    return blank.join(f"{fact.name}{colon}{fact.value}{stop}" for fact in told)


def _contrast(random: Random, language: str, names: Names) -> tuple[str, str, list[tuple[str, str]]]:
    """Title, passage and questions of two to four subjects of which the same is told.

    Where that is one thing only, the passage may be a list of names and values, and a question a mere name.
    """
    while True:
        subjects = random.choice((2, 2, 3, 4))
        relations = random.choice((1, 1, 2)) if subjects < 4 else 1
        told = _same_of_several(random, language, names, subjects, relations)
        listed, named = (relations == 1 and random.random() < 0.4 for _ in range(2))
        context = _listed(told, language) if listed else _context(random, [[fact] for fact in told], language)
        random.shuffle(told)
        if named:
            end = "?" if language == "en" else "？"
            asked = [(fact.name + end, fact.value) for fact in told if _once(context, fact.value)]
        else:
            asked = [qa for fact in told if (qa := _question(random, fact, context, language)) is not None]
        if len(asked) >= 2:
            return told[0].name, context, asked


def lists(rows: int, seed: int, language: Language) -> Iterator[tuple[str, str]]:
    """`rows` lists of three to eight names with a value each, and every list once more in another order."""
    random = Random(f"lists {seed} {language}")
    for _ in range(rows):
        chosen = random.choice(("zh", "en")) if language == "both" else language
        told = _same_of_several(random, chosen, "train", random.randint(3, 8), 1)
        yield _listed(told, chosen), _listed(random.sample(told, len(told)), chosen)


def passages(
    rows: int, seed: int, language: Language, names: Names = "train", most_questions: int = 4, contrast: bool = False
) -> Iterator[Paragraph]:
    """`rows` paragraphs in SQuAD's layout, each with its title; the same for the same arguments.

    With `contrast` the same is told, and all of it asked, of each of two to four subjects, so that only a name tells
    answers apart; such passages may be shorter and have more sentences.

    >>> paragraph = next(passages(1, 0, "en"))
    >>> answer = paragraph["qas"][0]["answers"][0]
    >>> paragraph["context"][answer["answer_start"] :].startswith(answer["text"])
    True
    """
    random = Random(f"passages {seed} {language} {names}")
    for row in range(rows):
        chosen = random.choice(("zh", "en")) if language == "both" else language
        made = _contrast(random, chosen, names) if contrast else _paragraph(random, chosen, names, most_questions)
        title, context, asked = made
        qas = [
            {
                "id": f"{chosen}-{names}-{seed}-{row}-{number}",
                "question": question,
                "answers": [{"text": answer, "answer_start": context.index(answer)}],
            }
            for number, (question, answer) in enumerate(asked)
        ]
        yield {"title": title, "context": context, "qas": qas}


def _everyday(random: Random, language: str) -> str:
    wording = random.choice(_wordings(templates_en.EVERYDAY[language]))
    slots = re.findall(r"{(\w+)}", wording)
    drawn: dict[str, str] = {}
    for slot in slots:
        table = _words(slot.rstrip("2"), language)
        drawn[slot] = random.choice([word for word in table if word not in drawn.values()])
    return _capitalised(wording.format(**drawn))


def sentences(rows: int, seed: int, language: Language) -> Iterator[str]:
    """`rows` plain sentences: two facts in three, one of everyday life; the same for the same arguments.

    >>> len(list(sentences(3, 0, "both")))
    3
    """
    random = Random(f"sentences {seed} {language}")
    for _ in range(rows):
        chosen = random.choice(("zh", "en")) if language == "both" else language
        if random.random() < 1 / 3:
            yield _everyday(random, chosen)
            continue
        kind = random.choice(list(templates_en.RELATIONS))
        keys = random.sample(list(templates_en.RELATIONS[kind]), random.choice((1, 1, 2)))
        told = _tell(random, kind, keys, chosen, "train")
        yield _sentence(random, told, told[0].subject, chosen)
