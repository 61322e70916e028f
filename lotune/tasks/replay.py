"""Replay rows: examples of a task's generator or of a file, without any that an evaluation set holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.curation import (
    normalise_prompt,
    remove_contaminated,
    remove_duplicates,
    remove_shared_passages,
    sample_examples,
)
from lotune.data.examples import Example, examples_on_disk
from lotune.data.rows import read_rows
from lotune.errors import DataError
from lotune.tasks.task import Row, Task
from lotune.tasks.text import TextTask
from lotune.tasks.user_rows import generating

REPLAY_SEED = 3_000_017
"""Offset of the seed of replay rows from that of the training rows."""
MIN_CONTAINED = 24
"""Characters from which a passage, question or answer of an evaluation set is searched for inside replay rows."""


def generated_replay_rows(
    task: Task, rows: int, seed: int, name: str = "replay", *, one_of_each: bool = False
) -> Sequence[Example]:
    """Return generated examples of a task, ids beginning with `name`; `one_of_each`: one of each generated row.

    A row of reading is a passage with several questions: one of each shows more passages.

    Raises: NoGeneratorError if it has no generator.
    """
    numbered = (
        (f"{name}:{number}", row)
        for number, row in enumerate(generating(task).generate_training_rows(rows, seed + REPLAY_SEED), start=1)
    )
    examples = _one_of_each(task, numbered, seed) if one_of_each else task.examples(numbered, training=True)
    # A row of the task may give several examples, so the limit applies to examples and not to rows alone.
    return remove_duplicates(examples_on_disk(islice(examples, rows)))[0]


def _one_of_each(task: Task, rows: Iterable[tuple[str, Row]], seed: int) -> Iterator[Example]:
    draw = Random(f"one of each row {seed}")
    for row in rows:
        if examples := list(task.examples([row], training=True)):
            yield draw.choice(examples)


def holds_texts(path: Path) -> bool:
    """Return whether a file holds plain texts: txt, or jsonl whose rows have nothing but `text` and perhaps an id."""
    if path.suffix == ".txt":
        return True
    if path.suffix != ".jsonl":
        return False
    first = [row for _, row in islice(read_rows(path, on_error="skip").rows, 20)]
    return bool(first) and all(isinstance(row.get("text"), str) and set(row) <= {"text", "id"} for row in first)


def replay_rows_of_file(task: Task | None, path: Path, rows: int, seed: int) -> Sequence[Example]:
    """Return examples of a file, sampled by seed: of a task, or plain texts if the task is None.

    Raises: DataError if the file cannot be read or has none.
    """
    source = examples_on_disk(_usable(task or TextTask(), path))
    if not source:
        raise DataError(str(path), "holds no rows to replay", "rows with answers, or texts", "check the file")
    return sample_examples(remove_duplicates(source)[0], rows, seed + REPLAY_SEED)


def _usable(task: Task, path: Path) -> Iterator[Example]:
    for row in task.read(path, "skip", MAX_ROW_BYTES).rows:
        try:
            yield from list(task.examples([row], training=True))
        except DataError:
            continue  # a row without an answer teaches nothing


def without_evaluated(
    replay: Sequence[Example], evaluation: Mapping[str, Sequence[Example]]
) -> tuple[Sequence[Example], int]:
    """Return the replay rows that hold nothing of an evaluation set, and the number of those removed.

    A row is removed if it asks a question of the set, or contains a passage, question or answer of it that is longer
    than a few words.
    """
    remaining = remove_contaminated(replay, evaluation)[0]
    remaining = remove_shared_passages(remaining, list(chain.from_iterable(evaluation.values())))
    parts = set[str]()
    for examples in evaluation.values():
        for example in examples:
            passage = "" if example.prompt_parts is None else example.prompt_parts[1]
            texts = (passage, example.question, example.stem, *example.references)
            parts |= {part for text in texts if len(part := normalise_prompt(text)) >= MIN_CONTAINED}
    rows = [normalise_prompt(row.prompt + row.target) for row in remaining]
    # One search through all rows first: few parts are in any, and each row is then searched for those alone.
    joined = "\0".join(rows)
    found = [part for part in parts if part in joined]
    clean = [row for row, text in zip(remaining, rows, strict=True) if not any(part in text for part in found)]
    return clean, len(replay) - len(clean)
