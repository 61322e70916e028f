"""Data of a report, read once from a run folder; HTML page and Markdown are rendered from it alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, takewhile, zip_longest
from pathlib import Path
from typing import Any

import orjson

from lotune.errors import RunError
from lotune.evaluate.predict import Prediction, read_predictions
from lotune.evaluate.scorecard import Scorecard, Target, read_scorecard
from lotune.files import read_json
from lotune.report.canvas import Point
from lotune.tasks.metrics import goodness
from lotune.tasks.registry import build_task, task_settings
from lotune.tasks.scorers import SCORES

SHOWN_EXAMPLES = 6
"""Number of examples to show of each group: won, lost, and correct neither before nor after."""
SHOWN_ENDS = 3
"""Number of rows to show with the highest scores, and with the lowest."""
SHOWN_SIDE_BY_SIDE = 10
"""Number of rows whose answers of base and tuned model are shown side by side, if no answer is right or wrong."""


@dataclass(frozen=True)
class Setting:
    """A setting that differs from its default, both as JSON, and the first sentence of its help."""

    key: str
    value: str
    default: str
    sentence: str


@dataclass(frozen=True)
class TrainingSummary:
    """Summary of a training: loss of each step, number of steps, tokens and seconds."""

    losses: tuple[Point, ...]
    steps: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class ExamplePair:
    """A test row with the answers of base and tuned model; `question` is the prompt without its template."""

    question: str
    base: Prediction
    tuned: Prediction


@dataclass(frozen=True)
class Examples:
    """Test rows grouped by the effect of tuning: the size of each group, and some of its rows."""

    numbers: Mapping[str, int]
    """Number of rows that are won, lost, equal and correct in both (`kept`), or correct in neither (`unsolved`)."""
    won: tuple[ExamplePair, ...]
    lost: tuple[ExamplePair, ...]
    unsolved: tuple[ExamplePair, ...]
    highest: tuple[ExamplePair, ...] = ()
    """Rows with the highest scores of the tuned model if the metric is the mean of scores from 0 to 100, else empty."""
    lowest: tuple[ExamplePair, ...] = ()
    """Rows with its lowest scores."""
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Scores from 0 to 100 of base and tuned model, if the metric is their mean; else empty."""
    side_by_side: tuple[ExamplePair, ...] = ()
    """Rows at equal distances over the test rows, for a metric by which no answer is right or wrong; else empty."""


@dataclass(frozen=True)
class Report:
    """Data of a report in any format."""

    name: str
    card: Scorecard
    training: TrainingSummary
    examples: Examples
    counts: Mapping[str, Any]
    settings: tuple[Setting, ...]
    recipe: str
    """Content of recipe.yaml."""
    environment: Mapping[str, Any]
    command: str
    """Command that repeats the run."""
    altered: tuple[str, ...] = ()
    """Files that have changed since the run wrote them, each with the change."""


def collect_report(folder: Path, name: str, settings: Sequence[Setting], command: str) -> Report:
    """Return the report of a finished run, from its folder alone.

    Raises: RunError if a file of the folder is missing or damaged; DataError for a damaged line of predictions.
    """
    card = read_scorecard(folder / "scorecard.json")
    return Report(
        name=name,
        card=card,
        training=read_training(folder / "metrics.jsonl"),
        examples=_examples(folder / "predictions" / card.target.task, card),
        counts=_counts(folder / "data" / "counts.json"),
        settings=tuple(settings),
        recipe=(folder / "recipe.yaml").read_text(encoding="utf-8"),
        environment=read_json(folder / "environment.json"),
        command=command,
    )


def needed_files(folder: Path) -> list[str]:
    """Return the files of a report that are missing, relative to the run folder."""
    names = ["recipe.yaml", "environment.json", "stages.json", "data/counts.json", "metrics.jsonl", "scorecard.json"]
    if (folder / "scorecard.json").is_file():
        card = read_scorecard(folder / "scorecard.json")
        names += [f"predictions/{card.target.task}/{model}.jsonl" for model in ("base", card.chosen_checkpoint)]
    return [name for name in names if not (folder / name).is_file()]


def read_training(path: Path) -> TrainingSummary:
    """Return the summary of a metrics file; of a step repeated after a crash, the last record counts.

    Raises: RunError that names a line without a record.
    """
    steps: dict[int, Mapping[str, Any]] = {}
    # A process killed while it appends leaves half a line without a newline, which is ignored.
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            record = orjson.loads(line)
            if "loss" in record:
                steps[int(record["number"])] = record
        except (orjson.JSONDecodeError, TypeError, KeyError):
            remedy = "delete the line; the report works without it"
            raise RunError(f"{path}:{number}", "is not a training record", "a JSON object", remedy) from None
    records = [steps[number] for number in sorted(steps)]
    losses = [Point(record["number"], record["loss"]) for record in records if record["loss"] is not None]
    tokens, seconds = (sum(record.get(key, 0) for record in records) for key in ("tokens", "seconds"))
    return TrainingSummary(tuple(losses), len(records), tokens, seconds)


def _counts(path: Path) -> Mapping[str, Any]:
    """Return the counts of a run. Raises: RunError if one is missing."""
    counts: Mapping[str, Any] = read_json(path)
    # Checked here, so that the counts of another version fail with a remedy, not inside the template.
    needed = {
        "rows": ("read", "kept", "malformed", "duplicates", "not_sampled", "validation", "test", "overlap", "kinds"),
        "tokens": ("tokens", "rows", "supervised", "longest", "limit", "dropped_too_long", "first", "retention_cut"),
    }
    missing = [f"{part}.{key}" for part, keys in needed.items() for key in keys if key not in counts.get(part, {})]
    if missing:
        raise RunError(str(path), f"lacks {', '.join(missing)}", remedy="run prepare again with this version")
    return counts


def _examples(folder: Path, card: Scorecard) -> Examples:
    base = {answer.example_id: answer for answer in read_predictions(folder / "base.jsonl")}
    tuned = {answer.example_id: answer for answer in read_predictions(folder / f"{card.chosen_checkpoint}.jsonl")}
    # Ids end in numbers without leading zeros, so shorter ones come first: test.jsonl:9 before test.jsonl:10.
    ids = sorted(base.keys() & tuned.keys(), key=lambda id: (len(id), id))
    questions = strip_shared_lines([base[id].prompt for id in ids])
    groups: dict[str, list[ExamplePair]] = {"won": [], "lost": [], "kept": [], "unsolved": []}
    score = _score_name(card.target)
    for id, question in zip(ids, questions, strict=True):
        if base[id].score.correct is not None:
            groups[_group(base[id], tuned[id], score)].append(ExamplePair(question, base[id], tuned[id]))
    numbers = {name: len(group) for name, group in groups.items()}
    if card.target.lower_is_better:
        # Not the rows of the largest gains: who reads them is to see what the answers are like.
        rows = [ExamplePair(question, base[id], tuned[id]) for id, question in zip(ids, questions, strict=True)]
        return Examples(numbers, (), (), (), side_by_side=tuple(spread(rows, SHOWN_SIDE_BY_SIDE)))
    won, lost, unsolved = (tuple(pick_by_kind(groups[name], SHOWN_EXAMPLES)) for name in ("won", "lost", "unsolved"))
    examples = Examples(numbers, won, lost, unsolved)
    if score is None:
        return examples
    rows = sorted(chain.from_iterable(groups.values()), key=lambda row: -row.tuned.score.scores.get(score, 0.0))
    answers = {"base": [row.base for row in rows], "tuned": [row.tuned for row in rows]}
    ends = min(SHOWN_ENDS, len(rows) // 2)
    return replace(
        examples,
        highest=tuple(rows[:ends]),
        lowest=tuple(rows[len(rows) - ends :]),
        scores={name: tuple(one.score.scores.get(score, 0.0) for one in given) for name, given in answers.items()},
    )


def spread(rows: Sequence[ExamplePair], limit: int) -> list[ExamplePair]:
    """Return at most `limit` rows at equal distances, the first one among them."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[index * len(rows) // limit] for index in range(limit)]


def _score_name(target: Target) -> str | None:
    """Return the name of the score of which the target's metric is the mean; None for an accuracy."""
    if not target.is_mean or target.score is not None:
        return target.score
    if any(target.metric in names for names in SCORES.values()):
        return target.metric
    if target.metric == "f1":  # a custom task's, in a scorecard of an older lotune
        return "squad_f1"
    return build_task(task_settings(target.task)).score_name_by_metric.get(target.metric)


def _group(base: Prediction, tuned: Prediction, score: str | None) -> str:
    """Return the group of a row: won, lost, kept or unsolved."""
    before, after = (
        float(bool(answer.score.correct)) if score is None else goodness(score, answer.score.scores.get(score, 0.0))
        for answer in (base, tuned)
    )
    if after != before:
        return "won" if after > before else "lost"
    return "kept" if tuned.score.correct else "unsolved"


def pick_by_kind(rows: Sequence[ExamplePair], limit: int) -> list[ExamplePair]:
    """Return at most `limit` rows, one of each kind in turn, beginning with the most frequent kind."""
    kinds = Counter(row.tuned.category for row in rows)
    by_kind = [[row for row in rows if row.tuned.category == kind] for kind, _ in kinds.most_common()]
    in_turn = chain.from_iterable(zip_longest(*by_kind))
    return [row for row in in_turn if row is not None][:limit]


def strip_shared_lines(prompts: Sequence[str]) -> list[str]:
    r"""Return the prompts without their common first and last lines, which leaves the questions.

    >>> strip_shared_lines(["Solve:\n1 + 1\nAnswer:", "Solve:\n1 + 2\nAnswer:"])
    ['1 + 1', '1 + 2']
    >>> strip_shared_lines(["only one"])
    ['only one']
    """
    if len(set(prompts)) < 2:
        return list(prompts)
    lines = [prompt.split("\n") for prompt in prompts]
    start = _shared_lines(lines)
    # Without the shared start: in a short prompt, a line could otherwise count for both ends.
    end = _shared_lines([prompt[start:][::-1] for prompt in lines])
    return ["\n".join(prompt[start : len(prompt) - end]).strip() for prompt in lines]


def _shared_lines(texts: Sequence[Sequence[str]]) -> int:
    """Return the number of first lines that all texts have in common.

    >>> _shared_lines([["a", "b", "c"], ["a", "b"], ["a", "b", "d"]])
    2
    """
    return sum(1 for _ in takewhile(lambda lines: len(set(lines)) == 1, zip(*texts, strict=False)))
