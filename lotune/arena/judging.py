"""Battles that a model or a scorer decides, each in both orders, and how far they agree with people's votes."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from lotune.arena.battle_fields import battle_fields
from lotune.arena.store import PEOPLE, SCORES, Verdict, Vote, VoteStore

ASKED = """Compare two answers to a question. Judge whether they are right, complete and clear; neither length nor
order counts. Write one sentence of reason, and end with [[A]] if answer A is better, [[B]] if answer B is better, or
[[C]] for a tie.

[Question]
{question}

[Answer A]
{a}

[Answer B]
{b}"""
_VERDICT = re.compile(r"\[\[([ABC])\]\]")
VERDICTS: Mapping[str, Verdict] = {"A": "model_a", "B": "model_b", "C": "tie"}
SWAPPED: Mapping[Verdict, Verdict] = {"model_a": "model_b", "model_b": "model_a"}


@dataclass(frozen=True)
class Question:
    """A question, and its reference answer if a scorer judges."""

    prompt: str
    reference: str = ""


Judge = Callable[[Question, str, str], Verdict | None]
"""Returns the verdict on the answers of A and B, None if there is none."""


def model_judge(ask: Callable[[str], str]) -> Judge:
    """Return a judge that asks a model twice, with the answers swapped; two opinions that differ are a tie."""

    def verdict(question: Question, a: str, b: str) -> Verdict | None:
        first = read_verdict(ask(judge_prompt(question.prompt, a, b)))
        second = read_verdict(ask(judge_prompt(question.prompt, b, a)))
        if first is None or second is None:
            return None
        return first if first == SWAPPED.get(second, second) else "tie"

    return verdict


def scorer_judge(is_correct: Callable[[str, str], bool]) -> Judge:
    """Return a judge that compares each answer with the reference; equal ones tie, or are both bad."""

    def verdict(question: Question, a: str, b: str) -> Verdict | None:
        right = is_correct(a, question.reference), is_correct(b, question.reference)
        outcomes: dict[tuple[bool, bool], Verdict] = {
            (True, False): "model_a", (False, True): "model_b", (True, True): "tie", (False, False): "both_bad",
        }  # fmt: skip
        return outcomes[right]

    return verdict


def judge_prompt(question: str, a: str, b: str) -> str:
    """Return what a model is asked; braces in the texts stay as they are."""
    values = {"question": question, "a": a, "b": b}
    return re.sub(r"\{(question|a|b)\}", lambda found: values[found[1]], ASKED)


def read_verdict(reply: str) -> Verdict | None:
    """Return the last verdict of a reply.

    >>> read_verdict("A is wrong. [[B]]"), read_verdict("I cannot say.")
    ('model_b', None)
    """
    found = _VERDICT.findall(reply)
    return VERDICTS[found[-1]] if found else None


def battles(
    questions: Sequence[Question], answers: Mapping[str, Sequence[str]], judge: Judge, name: str, known: set[str]
) -> Iterator[Vote | None]:
    """Yield the vote on each question and pair of models that is not in `known`, None where the judge gives none.

    `answers` has each model's answers in the order of the questions. The id of a battle is made of the judge, the
    question, the models and their answers, so that a battle is judged once.
    """
    for number, question in enumerate(questions):
        for a, b in combinations(sorted(answers), 2):
            texts = answers[a][number], answers[b][number]
            id = hashlib.sha256("\0".join((name, question.prompt, a, b, *texts)).encode()).hexdigest()[:32]
            if id in known:
                continue
            verdict = judge(question, *texts)
            if verdict is None:
                yield None
                continue
            turns = ((question.prompt, *texts),)
            fields = {**battle_fields(turns, (a, b)), "named": False}  # a judge does not know the names
            yield Vote(id, time.time(), f"judge:{name}", a, b, verdict, turns, judge=name, **fields)


@dataclass(frozen=True)
class Agreement:
    """In how many of the battles that people decided, too, a judge took the same side; ties are left out."""

    same: int
    battles: int

    def describe(self) -> str:
        """Return the agreement as a clause."""
        if not self.battles:
            return "people decided none of these battles"
        return f"takes the side of people in {self.same} of {self.battles} battles ({self.same / self.battles:.0%})"


def agreement(store: VoteStore, name: str) -> Agreement:
    """Compare a judge with people on the same first question and the same two models."""
    people, judged = _sides(store, PEOPLE), _sides(store, name)
    both = [(people[key], judged[key]) for key in judged if key in people]
    decided = [(one, other) for one, other in both if one and other]
    return Agreement(sum((one > 0) == (other > 0) for one, other in decided), len(decided))


def _sides(store: VoteStore, judge: str) -> dict[tuple[str, str, str], float]:
    """Return by question and models how much more often the first one won, 0 for as often."""
    sides: dict[tuple[str, str, str], float] = {}
    for vote in store.summaries():
        if vote.judge == judge and not vote.named:
            a, b, score = vote.model_a, vote.model_b, SCORES[vote.verdict] - 0.5
            key, score = ((vote.prompt, a, b), score) if a <= b else ((vote.prompt, b, a), -score)
            sides[key] = sides.get(key, 0.0) + score
    return sides
