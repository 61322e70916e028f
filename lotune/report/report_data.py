"""What a report shows, gathered once from a run folder; the HTML page and the Markdown text are made from it alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile, zip_longest
from pathlib import Path
from typing import Any

import orjson

from lotune.errors import RunError
from lotune.evaluate.predict import Prediction, read_predictions
from lotune.evaluate.scorecard import Scorecard, Target, read_scorecard
from lotune.files import read_json
from lotune.report.canvas import Point
from lotune.tasks.registry import build_task, task_settings
from lotune.tasks.scorers import SCORES

SHOWN_EXAMPLES = 6
"""Rows that are shown of those that were won, of those lost, and of those right neither before nor after."""


@dataclass(frozen=True)
class Setting:
    """A setting that differs from its default; both as JSON."""

    key: str
    value: str
    default: str
    sentence: str


@dataclass(frozen=True)
class TrainingSummary:
    """The course of the tuning: loss at each step, steps, tokens, seconds."""

    losses: tuple[Point, ...]
    steps: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class ExamplePair:
    """One test row, answered by the base and by the tuned model; `question` is the prompt without what all share."""

    question: str
    base: Prediction
    tuned: Prediction


@dataclass(frozen=True)
class Examples:
    """Test rows by what tuning did to them: how many, and some of them to read."""

    numbers: Mapping[str, int]
    """How many rows are won, lost, right or equal in both (`kept`), wrong in both (`unsolved`)."""
    won: tuple[ExamplePair, ...]
    lost: tuple[ExamplePair, ...]
    unsolved: tuple[ExamplePair, ...]


@dataclass(frozen=True)
class Report:
    """All that both forms of a report say."""

    name: str
    card: Scorecard
    training: TrainingSummary
    examples: Examples
    counts: Mapping[str, Any]
    settings: tuple[Setting, ...]
    recipe: str
    """recipe.yaml as it stands."""
    environment: Mapping[str, Any]
    command: str
    """What repeats the run."""
    altered: tuple[str, ...] = ()
    """Files that are no longer what the run wrote, each with what happened to it."""


def collect_report(folder: Path, name: str, settings: Sequence[Setting], command: str) -> Report:
    """The report of a finished run, from its folder alone.

    Raises: RunError where a file of the folder is missing or damaged, DataError for a damaged line of predictions.
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
    """The files, relative to a run folder, that a report is made from and that are not there."""
    names = ["recipe.yaml", "environment.json", "stages.json", "data/counts.json", "metrics.jsonl", "scorecard.json"]
    if (folder / "scorecard.json").is_file():
        card = read_scorecard(folder / "scorecard.json")
        names += [f"predictions/{card.target.task}/{model}.jsonl" for model in ("base", card.chosen_checkpoint)]
    return [name for name in names if not (folder / name).is_file()]


def read_training(path: Path) -> TrainingSummary:
    """The steps in a metrics file; of a step that was done again after a crash, the last record counts.

    Raises: RunError naming a line that is no record.
    """
    steps: dict[int, Mapping[str, Any]] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # what follows the last newline is cut off
        try:
            record = orjson.loads(line)
            if "loss" in record:
                steps[int(record["number"])] = record
        except (orjson.JSONDecodeError, TypeError, KeyError):
            remedy = "delete the line, and the report is made without it"
            raise RunError(f"{path}:{number}", "is no record of the training", "a JSON object", remedy) from None
    records = [steps[number] for number in sorted(steps)]
    losses = [Point(one["number"], one["loss"]) for one in records if one["loss"] is not None]
    tokens, seconds = (sum(one.get(key, 0) for one in records) for key in ("tokens", "seconds"))
    return TrainingSummary(tuple(losses), len(records), tokens, seconds)


def _counts(path: Path) -> Mapping[str, Any]:
    """Raises: RunError where a count is missing."""
    counts: Mapping[str, Any] = read_json(path)
    needed = {
        "rows": ("read", "kept", "malformed", "duplicates", "not_sampled", "validation", "test", "overlap", "kinds"),
        "tokens": ("tokens", "rows", "supervised", "longest", "limit", "dropped_too_long", "first", "retention_cut"),
    }
    missing = [f"{part}.{key}" for part, keys in needed.items() for key in keys if key not in counts.get(part, {})]
    if missing:
        raise RunError(str(path), f"lacks {', '.join(missing)}", remedy="run prepare again with this version")
    return counts


def _examples(folder: Path, card: Scorecard) -> Examples:
    base = {one.example_id: one for one in read_predictions(folder / "base.jsonl")}
    tuned = {one.example_id: one for one in read_predictions(folder / f"{card.chosen_checkpoint}.jsonl")}
    ids = sorted(base.keys() & tuned.keys(), key=lambda id: (len(id), id))
    questions = without_shared([base[id].prompt for id in ids])
    groups: dict[str, list[ExamplePair]] = {"won": [], "lost": [], "kept": [], "unsolved": []}
    score = _score_name(card.target)
    for id, question in zip(ids, questions, strict=True):
        if base[id].score.correct is not None:
            groups[_group(base[id], tuned[id], score)].append(ExamplePair(question, base[id], tuned[id]))
    shown = {name: tuple(spread(groups[name], SHOWN_EXAMPLES)) for name in ("won", "lost", "unsolved")}
    return Examples({name: len(group) for name, group in groups.items()}, **shown)


def _score_name(target: Target) -> str | None:
    """The per-example score that the target's metric is a mean of, None for an accuracy."""
    if not target.in_points or target.score is not None:
        return target.score
    if target.metric in SCORES.values():
        return target.metric
    if target.metric == "f1":  # a custom task's, in a scorecard of an older lotune
        return "squad_f1"
    return build_task(task_settings(target.task)).score_name_by_metric.get(target.metric)


def _group(base: Prediction, tuned: Prediction, score: str | None) -> str:
    """What tuning did to a row: won, lost, or nothing."""
    before, after = (
        float(bool(one.score.correct)) if score is None else one.score.scores.get(score, 0.0) for one in (base, tuned)
    )
    if after != before:
        return "won" if after > before else "lost"
    return "kept" if tuned.score.correct else "unsolved"


def spread(rows: Sequence[ExamplePair], most: int) -> list[ExamplePair]:
    """The first so many rows when each kind gives one in turn, the most frequent kind first."""
    kinds = Counter(row.tuned.category for row in rows)
    by_kind = [[row for row in rows if row.tuned.category == kind] for kind, _ in kinds.most_common()]
    in_turn = chain.from_iterable(zip_longest(*by_kind))
    return [row for row in in_turn if row is not None][:most]


def without_shared(prompts: Sequence[str]) -> list[str]:
    r"""The prompts without the lines with which all begin and all end: what is left is the question.

    >>> without_shared(["Solve:\n1 + 1\nAnswer:", "Solve:\n1 + 2\nAnswer:"])
    ['1 + 1', '1 + 2']
    >>> without_shared(["only one"])
    ['only one']
    """
    if len(set(prompts)) < 2:
        return list(prompts)
    lines = [prompt.split("\n") for prompt in prompts]
    start = _shared_lines(lines)
    end = _shared_lines([other[start:][::-1] for other in lines])
    return ["\n".join(other[start : len(other) - end]).strip() for other in lines]


def _shared_lines(texts: Sequence[Sequence[str]]) -> int:
    """How many first lines all texts have in common.

    >>> _shared_lines([["a", "b", "c"], ["a", "b"], ["a", "b", "d"]])
    2
    """
    return sum(1 for _ in takewhile(lambda lines: len(set(lines)) == 1, zip(*texts, strict=False)))
