"""Scorers by name: they compare the text of an answer with its reference, for any task on a user's own rows.

`exact` and `contains` compare texts; `number` compares the last numbers of both texts. `regex:PATTERN` compares the
first group of the pattern, or its whole match if it has no group. `letter` and `label` extract a letter or a word. `f1`
(of SQuAD) and `rouge-l` give a score of 0 to 100. `bits-per-byte` measures how likely the model finds the reference:
`lotune.evaluate.reference_bits` adds that to the score of the generated answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Protocol

from lotune.errors import SettingsError
from lotune.tasks.arithmetic.number_match import match_numbers
from lotune.tasks.metrics import BITS_PER_BYTE, accuracy, mean_score, num_without_reference, rouge_l
from lotune.tasks.multiple_choice import LETTERS, extract_letter
from lotune.tasks.reading.squad import squad_scores
from lotune.tasks.sentence_classification import extract_label
from lotune.tasks.task import Score, Task
from lotune.tasks.user_rows import CHINESE

REFERENCE_SCORER = "bits-per-byte"
"""The scorer of how likely the model finds the references."""
SCORES: Mapping[str, tuple[str, ...]] = {
    "f1": ("squad_f1",),
    "rouge-l": ("rouge_l",),
    REFERENCE_SCORER: (BITS_PER_BYTE, "rouge_l"),
}
"""Scorers that give scores, and the metrics that are their means, the main one first. Others have the accuracy."""
NUMBER_RULES = ("significant", "decimals", "relative")
"""Rules that compare the last numbers of both texts with a tolerance, as for arithmetic."""
PATTERN_SECONDS = 1.0
"""Longest time of a pattern for one answer."""
# An unescaped group that captures: not `(?:…)` or another extension of `(?`.
_GROUP = r"(?<!\\)\((?!\?)[^()]*\)"
_PLAIN_TEXT_BY_SYNTAX = ((r"\\s[*+]?", " "), (r"\\b|(?<!\\)[$^]|\(\?\w+\)", ""))
"""Regular-expression syntax that stands for a blank or for no text at all."""


def score_text(scorer: str, text: str, reference: str, labels: Sequence[str] = ()) -> Score:
    r"""Return the score of an answer under a scorer; `labels` are the words that the scorer `label` looks for.

    An answer with a score of 0 to 100 is correct at 100. Raises: SettingsError if there is no such scorer.

    >>> score_text("regex:answer: (\w+)", "I think. answer: Kunming.", "kunming").correct
    True
    """
    answer, expected = collapse_whitespace(text), collapse_whitespace(reference)
    if scorer in SCORES:
        name, score = SCORES[scorer][-1], _overlap_score(scorer, text, reference)
        # The whole reference: stored bits per byte belong to exactly this text.
        return Score(answer, reference if scorer == REFERENCE_SCORER else expected, score == 100.0, {name: score})
    if scorer == "number" or scorer.partition(":")[0] in NUMBER_RULES:
        return Score(*match_numbers(text, reference, "exact" if scorer == "number" else scorer))
    if scorer == "letter":
        # The scorer does not know the number of options, so it accepts any letter that a question can have.
        letter, expected_letter = (extract_letter(part, len(LETTERS)) for part in (text, reference))
        correct = None if expected_letter is None else letter == expected_letter
        return Score(letter, expected_letter or reference, correct)
    if scorer == "label":
        label = extract_label(text, labels)
        return Score(label, reference, label == reference)
    name, _, pattern = scorer.partition(":")
    if name == "regex":
        extracted = _extract_pattern(pattern, text)
        return Score(extracted, expected, extracted is not None and extracted.casefold() == expected.casefold())
    if name == "contains":
        return Score(answer, expected, expected in answer)
    if name != "exact":
        choices = "exact, contains, number, regex:PATTERN, …"
        raise SettingsError("task.scorer", f"there is no scorer {scorer!r}", choices)
    return Score(answer, expected, expected == answer)


def _overlap_score(scorer: str, text: str, reference: str) -> float:
    if scorer == "f1":
        return squad_scores(text, [reference])[0]
    return 100 * rouge_l(rouge_tokens(text), rouge_tokens(reference))


def _extract_pattern(pattern: str, text: str) -> str | None:
    """Return the pattern's first group, or the whole match if it has none; None if nothing matches."""
    try:
        match = compile_pattern(pattern).search(text, timeout=PATTERN_SECONDS)
    except TimeoutError:
        found = f"{pattern!r} takes more than {PATTERN_SECONDS:g} s for one answer of {len(text):,} characters"
        raise SettingsError("task.scorer", found, "a pattern without repetitions inside repetitions") from None
    if match is None:
        return None
    # An optional group that is not part of the match is None.
    return collapse_whitespace(match.group(1 if match.re.groups else 0) or "")


class TextScored(Task, Protocol):
    """A task with one of the scorers above. Its metric is the accuracy, or the mean of the scorer's score."""

    @property
    def metric(self) -> str:
        """Name of the scorer's score, or `accuracy`."""
        return SCORES.get(self.scorer, ("accuracy",))[0]

    @property
    def score_name_by_metric(self) -> Mapping[str, str]:
        """The scorer's scores, if it gives any."""
        return {name: name for name in SCORES.get(self.scorer, ())}

    @property
    def scores_references(self) -> bool:
        """Whether the scorer is `bits-per-byte`."""
        return self.scorer == REFERENCE_SCORER

    def metrics(self, judged: Sequence[Score]) -> dict[str, float]:
        """Return the accuracy, 0 to 1, or the mean scores, and how many rows are `unjudgeable`.

        A score beside the main one is left out if no row has it. Raises: DataError if no row can be scored.
        """
        names = [
            name
            for name in self.score_name_by_metric
            if name == self.metric or any(name in score.scores for score in judged if score.correct is not None)
        ]
        values = {name: mean_score(judged, name) for name in names} or {self.metric: accuracy(judged)}
        return {**values, "unjudgeable": float(num_without_reference(judged))}


MAX_EXACT_WORDS = 20
"""Median length of references, in words, up to which `exact` can tell a better model from a worse one."""


def better_scorer(scorer: str, references: Sequence[str]) -> str | None:
    """Return the scorer for references that are too long for this one; None if the scorer fits.

    Of long answers hardly any is ever exactly the reference, so the figure of every model is 0.

    >>> better_scorer("exact", ["word " * 80] * 3), better_scorer("exact", ["Kunming"] * 3)
    ('bits-per-byte', None)
    """
    return REFERENCE_SCORER if scorer in ("exact", "contains") and median_words(references) > MAX_EXACT_WORDS else None


def median_words(references: Sequence[str]) -> float:
    """Return the median length in words; two Chinese characters, which are written without blanks, count as one.

    >>> median_words(["two words", "one", "昆明在云南省"])
    2.0
    """
    return float(median(map(_num_words, references))) if references else 0.0


def _num_words(text: str) -> float:
    num_chinese = len(CHINESE.findall(text))
    return len(CHINESE.sub(" ", text).split()) + num_chinese / 2


def compile_pattern(pattern: str) -> Any:
    """Return the compiled pattern of `regex:PATTERN`. Raises: SettingsError if it is invalid."""
    import regex

    # A recipe can come from others. `re` has no time limit, and some patterns take centuries.
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise SettingsError(
            "task.scorer", f"{pattern!r} is not a valid pattern: {error}", "the syntax of Python's re"
        ) from None


def reference_as_answer(scorer: str, reference: str) -> str:
    r"""Return the reference as an answer that the scorer accepts.

    For `regex:`, the reference is put into the literal text of the pattern. If the pattern has more than literal text,
    blanks and anchors around its group, the reference is returned unchanged.

    >>> reference_as_answer(r"regex:answer:\s*(\w+)\.", "Kunming"), reference_as_answer("exact", "Kunming")
    ('answer: Kunming.', 'Kunming')
    """
    name, _, pattern = scorer.partition(":")
    if name != "regex" or not reference.strip() or score_text(scorer, reference, reference).correct:
        return reference
    for syntax, plain_text in _PLAIN_TEXT_BY_SYNTAX:
        pattern = re.sub(syntax, plain_text, pattern)
    # Escaped punctuation around the group, such as `\.`, is literal text.
    literals = (re.sub(r"\\(\W)", r"\1", part) for part in re.split(_GROUP, pattern, maxsplit=1))
    answer = reference.join(literals)
    return answer if score_text(scorer, answer, reference).correct else reference


def rouge_tokens(text: str) -> list[str]:
    """Return the tokens for ROUGE-L: lower-case words or, if the text has Chinese in it, single characters.

    >>> rouge_tokens("The cat"), rouge_tokens("羊侃 Yang")
    (['the', 'cat'], ['羊', '侃', ' ', 'Y', 'a', 'n', 'g'])
    """
    # Chinese is written without blanks, so a whole sentence would be one word.
    if CHINESE.search(text):
        return list(text.strip())
    return text.lower().split()


def collapse_whitespace(text: str) -> str:
    r"""Return the text without whitespace at its ends, each run of whitespace inside as one blank.

    >>> collapse_whitespace(" It is\n  4. ")
    'It is 4.'
    """
    return " ".join(text.split())
