"""Generate short passages of facts with extractive questions, in SQuAD's layout, from a seed.

A passage states facts about one or two subjects in three to five shuffled sentences. In half of the passages two
subjects of the same kind share relations, so that a question has to be matched to its subject and to its relation.
Words come from closed tables (`lotune.tasks.reading.templates_en`), names are invented. The names of "train" and of
"unseen" are disjoint, so that a model cannot answer test questions from memory.
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

UNSEEN_EVERY = 5
"""One invented name in this many belongs to "unseen"."""
LENGTHS = {"en": (30, 70), "zh": (50, 110)}
"""Minimum and maximum length of a passage in English words, or in Chinese characters."""
TEXTS = {"en": templates_en.ENGLISH, "zh": CHINESE}


@dataclass(frozen=True)
class Fact:
    """A relation of a subject. `subject` is its name in a sentence, `name` its name in an answer."""

    relation: str
    subject: str
    name: str
    value: str


def is_unseen(coined: str) -> bool:
    """Return whether an invented part of a name belongs to "unseen".

    >>> [is_unseen(name) for name in ("Talvo", "Renka", "Dorvin")]
    [True, True, False]
    """
    # Python's own hash of a string differs from process to process.
    return zlib.crc32(coined.encode()) % UNSEEN_EVERY == 0


@cache
def _wordings(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


@cache
def _words(table: str, language: str) -> tuple[str, ...]:
    return tuple(templates_en.VOCABULARY[language][table].split(" "))


@cache
def _syllables() -> tuple[str, ...]:
    return tuple(templates_en.SYLLABLES.split(" "))


def coin_name(random: Random, language: str, names: Names) -> str:
    """Return an invented name of two or three syllables, or of two Chinese characters, that belongs to `names`."""
    while True:
        if language == "en":
            coined = "".join(random.choices(_syllables(), k=random.choice((2, 2, 3)))).capitalize()
        else:
            coined = "".join(random.sample(templates_en.NAME_CHARACTERS, 2))
        if is_unseen(coined) == (names == "unseen"):
            return coined


def _name(random: Random, kind: str, language: str, names: Names) -> str:
    pattern = random.choice(_wordings(templates_en.SHAPES[language][kind]))
    parts = {slot: coin_name(random, language, names) for slot in "ab" if "{" + slot + "}" in pattern}
    return pattern.format(**parts, f=random.choice(templates_en.FAMILY_NAMES))


def _value(random: Random, kind: str, language: str, names: Names) -> str:
    if kind == "year":
        year = random.randint(1500, 2019)
        return f"{year}年" if language == "zh" else str(year)
    if kind == "count":
        # The number of digits is drawn first: otherwise nearly all counts would have five digits.
        digits = random.randint(2, 5)
        return str(random.randrange(10 ** (digits - 1), 10**digits))
    if kind in templates_en.SHAPES[language]:
        return _name(random, kind, language, names)
    return random.choice(_words(kind, language))


def _new_facts(random: Random, kind: str, relations: Iterable[str], language: str, names: Names) -> list[Fact]:
    """Return facts about a new subject of `kind`."""
    name = _name(random, kind, language, names)
    subject = templates_en.PREFIX.get(kind, "") + name if language == "en" else name
    kinds = templates_en.RELATIONS[kind]
    return [
        Fact(f"{kind}.{relation}", subject, name, _value(random, kinds[relation], language, names))
        for relation in relations
    ]


def _story(random: Random, language: str, names: Names) -> list[list[Fact]]:
    """Return facts by subject: two subjects that share relations (half of the time), two of different kinds, or one."""
    kinds = list(templates_en.RELATIONS)
    kind = random.choice(kinds)
    relations = list(templates_en.RELATIONS[kind])
    form = random.random()
    if form < 0.5:
        shared = random.sample(relations, random.randint(2, min(3, len(relations))))
        return [_new_facts(random, kind, shared, language, names) for _ in range(2)]
    if form < 0.75:
        sizes = [(k, random.choice((2, 3))) for k in random.sample(kinds, 2)]
        return [
            _new_facts(random, k, random.sample(list(templates_en.RELATIONS[k]), n), language, names) for k, n in sizes
        ]
    return [_new_facts(random, kind, random.sample(relations, random.randint(4, len(relations))), language, names)]


def _groups(random: Random, subjects: list[list[Fact]]) -> list[list[Fact]]:
    """Return shuffled groups of one or two facts of the same subject; each group becomes a sentence."""
    groups: list[list[Fact]] = []
    for facts in subjects:
        ungrouped = random.sample(facts, len(facts))
        while ungrouped:
            size = 2 if len(ungrouped) > 1 and random.random() < 0.4 else 1
            groups.append(ungrouped[:size])
            ungrouped = ungrouped[size:]
    random.shuffle(groups)
    return groups


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _sentence(random: Random, group: list[Fact], subject: str, language: str) -> str:
    """Return a sentence for one fact, or for two of the same subject."""
    texts = TEXTS[language]
    if len(group) == 1 and random.random() < 0.4:
        wording = random.choice(_wordings(texts[group[0].relation][1]))
        return _capitalised(wording.format(s=subject, v=group[0].value))
    predicates = [random.choice(_wordings(texts[fact.relation][0])).format(v=fact.value) for fact in group]
    if language == "en":
        return _capitalised(f"{subject} {' and '.join(predicates)}.")
    pronoun = "他" if group[0].relation.startswith("person.") else "它"
    # A Chinese predicate that begins with the possessive 的 needs a pronoun before it in the second clause.
    predicates[1:] = [pronoun + text if text.startswith("的") else text for text in predicates[1:]]
    return f"{subject}{'，'.join(predicates)}。"


def _context(random: Random, groups: list[list[Fact]], language: str) -> str:
    texts = [_sentence(random, group, group[0].subject, language) for group in groups]
    # Some passages have a distractor: a sentence about no subject, which answers nothing.
    if len(texts) < 5 and random.random() < 0.2:
        distractors = [text for text in _wordings(templates_en.EVERYDAY[language]) if "{" not in text]
        texts.insert(random.randint(0, len(texts)), random.choice(distractors))
    return (" " if language == "en" else "").join(texts)


def _length(context: str, language: str) -> int:
    return len(context.split()) if language == "en" else len(context)


def _question(random: Random, fact: Fact, context: str, language: str) -> tuple[str, str] | None:
    """Return a question and its answer: the value or, one time in five, the subject. None if it is ambiguous."""
    # An answer that occurs twice would have no definite span in the passage.
    asks_subject = random.random() < 0.2 and _once(context, fact.name)
    answer = fact.name if asks_subject else fact.value
    if not _once(context, answer):
        return None
    wording = random.choice(_wordings(TEXTS[language][fact.relation][3 if asks_subject else 2]))
    return wording.format(s=fact.subject, v=fact.value), answer


def _distinct(facts: list[Fact]) -> bool:
    return len({fact.value for fact in facts}) == len(facts)


def _once(context: str, answer: str) -> bool:
    return context.count(answer) == 1


def _paragraph(
    random: Random, language: str, names: Names, max_questions: int
) -> tuple[str, str, list[tuple[str, str]]]:
    """Return title, passage and two to `max_questions` questions with their answers."""
    min_length, max_length = LENGTHS[language]
    # Rejection sampling: a draw that is too short, too long or ambiguous is repeated.
    while True:
        subjects = _story(random, language, names)
        facts = [fact for subject_facts in subjects for fact in subject_facts]
        groups = _groups(random, subjects)
        if not 3 <= len(groups) <= 5 or not _distinct(facts):
            continue
        context = _context(random, groups, language)
        if not min_length <= _length(context, language) <= max_length:
            continue
        random.shuffle(facts)
        questions = [qa for fact in facts if (qa := _question(random, fact, context, language)) is not None]
        if len(questions) >= 2:
            return subjects[0][0].name, context, questions[: random.randint(2, max_questions)]


def _same_relations(random: Random, language: str, names: Names, subjects: int, relations: int) -> list[Fact]:
    """Return facts with the same `relations` for each of several subjects of one kind; all values differ."""
    while True:
        kind = random.choice(list(templates_en.RELATIONS))
        chosen = random.sample(list(templates_en.RELATIONS[kind]), relations)
        facts = [fact for _ in range(subjects) for fact in _new_facts(random, kind, chosen, language, names)]
        if _distinct(facts) and len({fact.name for fact in facts}) == subjects:
            return random.sample(facts, len(facts))


def _listed(facts: Iterable[Fact], language: str) -> str:
    colon, stop, blank = (": ", ".", " ") if language == "en" else ("：", "。", "")
    return blank.join(f"{fact.name}{colon}{fact.value}{stop}" for fact in facts)


def _contrast(random: Random, language: str, names: Names) -> tuple[str, str, list[tuple[str, str]]]:
    """Return title, passage and questions of two to four subjects with facts of the same relations.

    If that is one relation, the passage may be a list of names and values, and a question a name only.
    """
    # nano's wrong answers were nearly all the right relation of the wrong subject. It learnt to bind a value to its
    # name only in steps, for which lists and bare names are the simpler forms (docs/log.md).
    while True:
        subjects = random.choice((2, 2, 3, 4))
        relations = random.choice((1, 1, 2)) if subjects < 4 else 1
        facts = _same_relations(random, language, names, subjects, relations)
        listed, named = (relations == 1 and random.random() < 0.4 for _ in range(2))
        context = _listed(facts, language) if listed else _context(random, [[fact] for fact in facts], language)
        random.shuffle(facts)
        if named:
            end = "?" if language == "en" else "？"
            questions = [(fact.name + end, fact.value) for fact in facts if _once(context, fact.value)]
        else:
            questions = [qa for fact in facts if (qa := _question(random, fact, context, language)) is not None]
        if len(questions) >= 2:
            return facts[0].name, context, questions


def lists(rows: int, seed: int, language: Language) -> Iterator[tuple[str, str]]:
    """Yield `rows` lists of three to eight names with a value each, and each list again in another order."""
    random = Random(f"lists {seed} {language}")
    for _ in range(rows):
        chosen = random.choice(("zh", "en")) if language == "both" else language
        facts = _same_relations(random, chosen, "train", random.randint(3, 8), 1)
        yield _listed(facts, chosen), _listed(random.sample(facts, len(facts)), chosen)


def passages(
    rows: int, seed: int, language: Language, names: Names = "train", max_questions: int = 4, contrast: bool = False
) -> Iterator[Paragraph]:
    """Yield `rows` paragraphs in SQuAD's layout, each with a title. The same arguments give the same paragraphs.

    With `contrast`, each of two to four subjects has facts of the same relations, and there is a question about each
    fact, so that only the name distinguishes the answers. Such passages may be shorter and have more sentences.

    >>> paragraph = next(passages(1, 0, "en"))
    >>> answer = paragraph["qas"][0]["answers"][0]
    >>> paragraph["context"][answer["answer_start"] :].startswith(answer["text"])
    True
    """
    random = Random(f"passages {seed} {language} {names}")
    for row in range(rows):
        chosen = random.choice(("zh", "en")) if language == "both" else language
        if contrast:
            title, context, questions = _contrast(random, chosen, names)
        else:
            title, context, questions = _paragraph(random, chosen, names, max_questions)
        qas = [
            {
                "id": f"{chosen}-{names}-{seed}-{row}-{number}",
                "question": question,
                "answers": [{"text": answer, "answer_start": context.index(answer)}],
            }
            for number, (question, answer) in enumerate(questions)
        ]
        yield {"title": title, "context": context, "qas": qas}


def _everyday(random: Random, language: str) -> str:
    wording = random.choice(_wordings(templates_en.EVERYDAY[language]))
    slots = re.findall(r"{(\w+)}", wording)
    drawn: dict[str, str] = {}
    # A slot with a 2 draws from the same table as the slot without it, but another word.
    for slot in slots:
        table = _words(slot.rstrip("2"), language)
        drawn[slot] = random.choice([word for word in table if word not in drawn.values()])
    return _capitalised(wording.format(**drawn))


def sentences(rows: int, seed: int, language: Language) -> Iterator[str]:
    """Yield `rows` plain sentences: two in three state facts, the others are about everyday life.

    The same arguments give the same sentences.

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
        relations = random.sample(list(templates_en.RELATIONS[kind]), random.choice((1, 1, 2)))
        facts = _new_facts(random, kind, relations, chosen, "train")
        yield _sentence(random, facts, facts[0].subject, chosen)
