"""The divergence from the base on the rows of a run: the task's own prompts, and the replay rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.disk_list import evenly_spaced
from lotune.data.examples import Example
from lotune.data.tokenized import EncodedRow, PromptTooLongError, encode_prompt, encode_row
from lotune.evaluate.divergence import MOST_ROWS, BaseDivergence, measure_divergence
from lotune.model.loading import context_length
from lotune.recipe import Recipe
from lotune.stages.prepare import read_examples

TEST_PROMPTS, REPLAY = "test prompts", "replay rows"
"""Names of sets of rows."""


def base_divergences(
    base: Any, tuned: Any, tokenizer: Any, folder: Path, asked: Sequence[Example], prompts: str = TEST_PROMPTS
) -> tuple[BaseDivergence, ...]:
    """Return the divergence of two models on the prompts of `asked`, and on the replay rows of a run, if any.

    Of a prompt all tokens but the first count, and not the answer: that the answer changes is what the tuning is for.
    If `base` is the tuned model itself, its base is the model without the adapter.
    """
    path = folder / "data" / "replay.jsonl"
    replay = read_examples(path) if path.exists() else []
    sets = {prompts: _prompt_rows, REPLAY: _answer_rows}
    room = context_length(base) - len(_virtual_ids(tuned))
    found = (
        measure_divergence(base, tuned, list(rows(tokenizer, evenly_spaced(examples, MOST_ROWS), room)), name)
        for (name, rows), examples in zip(sets.items(), (asked, replay), strict=True)
    )
    measured = tuple(divergence for divergence in found if divergence is not None)
    for divergence in measured:
        print_status(divergence.describe())
    return measured


def divergence_limit_reason(recipe: Recipe, model: Any, tokenizer: Any, validation: Sequence[Example]) -> str | None:
    """Return why a model in training has to stop, if it is farther from its base than tune.max_divergence."""
    limit = recipe.tune.max_divergence
    if limit is None:
        return None
    measured = base_divergences(model, model, tokenizer, recipe.folder, validation, "validation prompts")
    if not measured or measured[-1].value <= limit:  # the replay rows come last
        return None
    return f"{measured[-1].describe()}, above tune.max_divergence = {limit:g}"


def _virtual_ids(model: Any) -> tuple[int, ...]:
    from lotune.model.parts import virtual_ids

    return virtual_ids(model)


def _prompt_rows(tokenizer: Any, examples: Iterable[Example], room: int) -> Iterator[EncodedRow]:
    """Yield the prompts as rows of which all tokens but the first are scored."""
    for example in examples:
        try:
            ids, _ = encode_prompt(tokenizer, example, room, truncate=True)
        except PromptTooLongError:
            continue
        if len(ids) > 1:
            yield EncodedRow(example.id, tuple(ids), 1)


def _answer_rows(tokenizer: Any, examples: Iterable[Example], room: int) -> Iterator[EncodedRow]:
    """Yield the rows that fit, of which the answers are scored."""
    rows = (encode_row(tokenizer, example) for example in examples)
    return (row for row in rows if 1 < len(row.token_ids) <= room)
