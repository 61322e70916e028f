"""The claims of a run's scorecard, gathered from its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from lotune.data.templates import TEMPLATE_FILE
from lotune.data.token_files import TokenFile
from lotune.data.tokenized import PromptTooLongError, encode_prompt, encode_row
from lotune.evaluate.last_training import last_training
from lotune.evaluate.retention import RetentionMetric
from lotune.evaluate.scorecard import Check, Target
from lotune.evaluate.scorecard_claims import (
    budget_claim,
    gain_claim,
    gate_claim,
    merge_claim,
    overlap_claim,
    spacing_claim,
    template_claim,
)
from lotune.files import read_json
from lotune.model.methods.registry import METHODS
from lotune.recipe import Recipe
from lotune.runs import Run
from lotune.stages.answered_sets import AnsweredSet
from lotune.stages.merging import template_text

UNLIMITED = 1 << 40
"""A budget of tokens that no prompt exceeds."""


def claims_of_run(
    run: Run,
    recipe: Recipe,
    tuning: dict[str, Any],
    counts: dict[str, Any],
    sets: Sequence[AnsweredSet],
    tokenizer: Any,
    target: Target,
    retention: Sequence[RetentionMetric],
    ratio: float,
    checks: Sequence[Check],
) -> list[Check]:
    """Return the claims on a finished evaluation; `checks` are those of the scorecard, merge checks among them."""
    names = [checkpoint["name"] for checkpoint in tuning["checkpoints"]]
    merges = [check for check in checks if check.name == "merge"]
    found, rows = count_overlap(run, sets, tokenizer), {one.name: len(one.examples) for one in sets}
    return [
        template_claim(orjson.loads(template_text(recipe)), stored_templates(run, names)),
        merge_claim(merges, METHODS[recipe.adapter.method].mergeable),
        overlap_claim(found, rows, counts["rows"]["overlap"]["removed"]),
        gate_claim(retention),
        gain_claim(target),
        budget_claim(recipe.adapter.budget, ratio),
        _spacing(tuning),
    ]


def _spacing(tuning: Mapping[str, Any]) -> Check:
    points = ((point["name"], point["step"]) for point in tuning["checkpoints"])
    repair = tuning.get("repair")
    last = last_training(points, tuning["chosen"], tuning["steps"], repair["steps"] if repair else None)
    return spacing_claim(list(last.checkpoints), last.steps, last.name)


def stored_templates(run: Run, names: Sequence[str]) -> dict[str, Any]:
    """Return the content of the template file in each folder of weights that has one."""
    places = [f"{name}/{part}" for name in names for part in ("adapter", "merged")]
    files = {place: run.folder / "checkpoints" / place / TEMPLATE_FILE for place in places}
    return {place: read_json(file) for place, file in files.items() if file.is_file()}


def count_overlap(run: Run, sets: Sequence[AnsweredSet], tokenizer: Any) -> dict[str, int] | None:
    """Return, by set, how many of its rows are asked in the training rows as well; None if these are gone.

    The tokens of the training decide, not the rows that `prepare` has compared: what was trained on is in no doubt.
    """
    try:
        train = TokenFile(run.folder / "data" / "train")
    except FileNotFoundError:
        return None
    asked = {one.name: {_question(tokenizer, example) for example in one.examples} for one in sets}
    every = set().union(*asked.values())
    seen = set[tuple[int, ...]]()
    for index in range(len(train)):
        row = train[index]
        seen |= {row.token_ids[: row.completion_start], row.token_ids} & every
    return {name: len(questions & seen) for name, questions in asked.items()}


def _question(tokenizer: Any, example: Any) -> tuple[int, ...]:
    """Return the tokens of a prompt; those of the whole text if it has no prompt."""
    if not example.prompt.strip():
        return tuple(encode_row(tokenizer, example).token_ids)
    try:
        return tuple(encode_prompt(tokenizer, example, UNLIMITED)[0])
    except PromptTooLongError:  # longer than any training row
        return ()
