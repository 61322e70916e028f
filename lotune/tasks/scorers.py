"""Judges by name: how an answer in words is compared with its key, for any task on one's own rows.

`exact`, `contains` and `number` compare texts and numbers; `regex:PATTERN` takes what the pattern finds (its first
group, where it has one); `letter` and `label` read a letter or a word out of the answer; `f1` and `rouge-l` give 0 to
100.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from lotune.errors import SettingsError
from lotune.tasks.arithmetic.number_match import match_numbers as judge_number
from lotune.tasks.metrics import accuracy, mean_score, num_without_reference, rouge_l
from lotune.tasks.multiple_choice import LETTERS, extract_letter
from lotune.tasks.reading.squad import squad_scores
from lotune.tasks.sentence_classification import extract_label
from lotune.tasks.task import Score, Task

SCORES: Mapping[str, str] = {"f1": "squad_f1", "rouge-l": "rouge_l"}
"""Judges that give a score, 0 to 100, and the metric that is its mean; with all others the metric is the accuracy."""
_GROUP = r"(?<!\\)\((?!\?)[^()]*\)"
_IN_PATTERNS = ((r"\\s[*+]?", " "), (r"\\b|(?<!\\)[$^]|\(\?\w+\)", ""))
"""What stands for blanks and for nothing in the pattern of a judge."""


def score_text(rule: str, text: str, key: str, words: Sequence[str] = ()) -> Score:
    r"""The verdict of the judge called `rule`; `words` are the labels that `label` looks for.

    A score is right where it is 100. Raises: SettingsError for a judge that does not exist.

    >>> score_text("regex:answer: (\w+)", "I think. answer: Kunming.", "kunming").correct
    True
    """
    if rule in SCORES:
        score = squad_scores(text, [key])[0] if rule == "f1" else 100 * rouge_l(rouge_tokens(text), rouge_tokens(key))
        return Score(collapse_whitespace(text), collapse_whitespace(key), score == 100.0, {SCORES[rule]: score})
    if rule == "number":
        return Score(*judge_number(text, key, "exact"))
    if rule == "letter":
        read, wanted = extract_letter(text, len(LETTERS)), extract_letter(key, len(LETTERS))
        return Score(read, wanted or key, None if wanted is None else read == wanted)
    if rule == "label":
        read = extract_label(text, words)
        return Score(read, key, read == key)
    name, _, pattern = rule.partition(":")
    answer, wanted_text = collapse_whitespace(text), collapse_whitespace(key)
    if name == "regex":
        found = compile_pattern(pattern).search(text)
        taken = None if found is None else collapse_whitespace(found.group(1 if found.re.groups else 0) or "")
        return Score(taken, wanted_text, taken is not None and taken.casefold() == wanted_text.casefold())
    if name == "contains":
        return Score(answer, wanted_text, wanted_text in answer)
    if name != "exact":
        raise SettingsError("task.scorer", f"there is no judge {rule!r}", "exact, contains, number, regex:PATTERN, …")
    return Score(answer, wanted_text, wanted_text == answer)


class TextScored(Task, Protocol):
    """A task that judges by one of the rules above; its metric is the accuracy, or the mean of the rule's score."""

    @property
    def metric(self) -> str:
        """Name of the score, or accuracy."""
        return SCORES.get(self.scorer, "accuracy")

    @property
    def score_name_by_metric(self) -> Mapping[str, str]:
        """The rule's score, if the rule gives one."""
        return {self.metric: self.metric} if self.scorer in SCORES else {}

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Return the accuracy, 0 to 1, or the mean score, 0 to 100, and the number of rows that are `unjudgeable`.

        Raises: DataError if no row can be judged.
        """
        value = mean_score(judged, self.metric) if self.scorer in SCORES else accuracy(judged)
        return {self.metric: value, "unjudgeable": float(num_without_reference(judged))}


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The pattern of a judge `regex:PATTERN`. Raises: SettingsError where it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SettingsError("task.scorer", f"{pattern!r} is no pattern: {error}", "Python's re") from None


def reference_as_answer(rule: str, key: str) -> str:
    r"""The key as an answer that the judge takes: of `regex:`, within the words of the pattern where these are plain.

    >>> reference_as_answer(r"regex:answer:\s*(\w+)\.", "Kunming"), reference_as_answer("exact", "Kunming")
    ('answer: Kunming.', 'Kunming')
    """
    name, _, pattern = rule.partition(":")
    if name != "regex" or not key.strip() or score_text(rule, key, key).correct:
        return key
    for found, plain in _IN_PATTERNS:
        pattern = re.sub(found, plain, pattern)
    answer = key.join(re.sub(r"\\(\W)", r"\1", around) for around in re.split(_GROUP, pattern, maxsplit=1))
    return answer if score_text(rule, answer, key).correct else key


def rouge_tokens(text: str) -> list[str]:
    """What ROUGE-L compares: words in small letters, or, where a text has Chinese in it, characters and blanks.

    >>> rouge_tokens("The cat"), rouge_tokens("羊侃 Yang")
    (['the', 'cat'], ['羊', '侃', ' ', 'Y', 'a', 'n', 'g'])
    """
    if re.search(r"[\u4e00-\u9fff]", text):
        return list(text.strip())
    return text.lower().split()


def collapse_whitespace(text: str) -> str:
    r"""The text without blanks at its ends, each run of blanks and line ends inside as one blank.

    >>> collapse_whitespace(" It is\n  4. ")
    'It is 4.'
    """
    return " ".join(text.split())
