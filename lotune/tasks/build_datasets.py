"""The rows of a run, honestly: without duplicates, drawn, split, and no test question among the training rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.curation import (
    DataCounts,
    count_kinds,
    drop_orphaned_copies,
    remove_contaminated,
    remove_duplicates,
    sample_examples,
    split,
)
from lotune.data.examples import Example, examples_on_disk
from lotune.data.rows import Malformed, MalformedRowsError
from lotune.data.settings import TEST_ROWS, VALIDATION_ROWS, DataSettings
from lotune.errors import DataError
from lotune.tasks.task import Row, SeveralRules, Task
from lotune.tasks.user_rows import generating

TEST_SEED = 1_000_003
"""Generated test rows have a seed this far from that of the training rows; overlap is removed all the same."""
RETENTION_SEED = 2_000_003
"""The same for generated retention rows."""
REPLAY_SEED = 3_000_017
"""The same for rows that replay the retained task."""
MAX_CHECKED_ANSWERS = 10_000
"""Most training answers that are judged themselves, under each rule: some two seconds."""


@dataclass(frozen=True)
class EvaluationSet:
    """Rows that are asked, of a file or not; `file_rows` is how many the file has, None without one."""

    examples: Sequence[Example]
    file_rows: int | None = None


@dataclass(frozen=True)
class Datasets:
    """Training, validation and test examples of a run, and what became of the rows.

    `file_rows` has, of each evaluation set that is a file of its own, how many rows the file has.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    counts: DataCounts
    file_rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    examples: Sequence[Example]
    malformed: tuple[str, ...] = ()


def build_datasets(task: Task, settings: DataSettings, seed: int, others: Mapping[str, Sequence[Example]]) -> Datasets:
    """The examples of a run; `others` are evaluation sets (retention) that training must not meet either.

    Raises: DataError for rows that cannot be used, naming each.
    """
    generated = settings.generated_rows + (settings.validation_rows or VALIDATION_ROWS)
    source = _source(task, settings, settings.train, generated, seed, training=True)
    if not source.examples:
        raise DataError(str(settings.train), "holds no rows", "training rows", "check data.train")
    train, duplicates = remove_duplicates(source.examples)
    train = drop_orphaned_copies(train, train)
    train, asked = _test_rows(task, settings, seed, train)
    train, found, validation_file_rows = _validation_rows(task, settings, seed, train)
    test = asked.examples
    validation, met = remove_contaminated(found.examples, {"test": test})
    if not validation:
        raise DataError("data.validation", "the test asks every validation row", "other rows", "use other test rows")
    drawn = sample_examples(train, settings.sample.rows, _default(settings.sample.seed, seed), settings.sample.stratify)
    evaluation = {"validation": validation, "test": test, **others}
    kept, report = remove_contaminated(drawn, evaluation)
    if any(example.augmented_from for example in kept):  # a copy's prompt is another one than that of its row
        kept = drop_orphaned_copies(kept, remove_contaminated(train, evaluation)[0])
    if not kept:
        raise DataError("data", "no training row is left", "rows outside the evaluation sets", "use other test rows")
    malformed = (*source.malformed, *found.malformed)
    split_off = 0 if settings.validation else len(found.examples)
    split_test = len(test) if settings.test is None and settings.train is not None else 0
    counts = DataCounts(
        read=len(source.examples), kept=len(kept), malformed=len(malformed), malformed_rows=malformed,
        duplicates=duplicates, not_sampled=len(train) - len(drawn), overlap=report, kinds=count_kinds(kept),
        validation=split_off, validation_removed=met.removed, test=split_test,
    )  # fmt: skip
    file_rows = {"validation": validation_file_rows, "test": asked.file_rows}
    return Datasets(kept, validation, test, counts, {name: n for name, n in file_rows.items() if n is not None})


def right_by_rule(
    task: Task, examples: Sequence[Example], max_rows: int = MAX_CHECKED_ANSWERS
) -> dict[str, dict[str, int]]:
    """Return, for each judging rule of a task with several, how many training answers are right among how many rows.

    Of more than `max_rows` rows as many are judged, evenly spaced. An answer may end where its written working ends,
    before its key does, and be wrong under a strict rule.
    """
    shares: dict[str, dict[str, int]] = {}
    if not isinstance(task, SeveralRules):
        return shares
    rows = min(max_rows, len(examples))
    for example in (examples[number * len(examples) // rows] for number in range(rows)):
        for rule, right in task.verdicts(example, example.target).items():
            if right is not None:
                share = shares.setdefault(rule, {"right": 0, "rows": 0})
                share["right"] += right
                share["rows"] += 1
    return shares


def replay_rows(task: Task, rows: int, seed: int, evaluation: Sequence[Example]) -> Sequence[Example]:
    """Generated examples of a retained task to mix into the training rows, none of which the evaluation asks."""
    if not rows:
        return []
    numbered = (
        (f"replay:{number}", row)
        for number, row in enumerate(generating(task).generate_training_rows(rows, seed + REPLAY_SEED), start=1)
    )
    examples, _ = remove_duplicates(examples_on_disk(islice(task.examples(numbered, training=True), rows)))
    return remove_contaminated(examples, {"retention": evaluation})[0]


def evaluation_rows(
    task: Task, path: Path | None, rows: int | None, seed: int, max_row_bytes: int = MAX_ROW_BYTES
) -> list[Example]:
    """The examples of `evaluation_set`."""
    return list(evaluation_set(task, path, rows, seed, max_row_bytes).examples)


def evaluation_set(
    task: Task, path: Path | None, rows: int | None, seed: int, max_row_bytes: int = MAX_ROW_BYTES
) -> EvaluationSet:
    """Rows to test on: those of a file (drawn by seed where it has more than `rows`), or generated ones.

    Raises: DataError for rows that cannot be used, naming each.
    """
    how = DataSettings(on_error="stop", max_row_bytes=max_row_bytes)
    source = _source(task, how, path, rows or TEST_ROWS, seed, training=False)
    if not source.examples:
        raise DataError(str(path), "holds no rows", "rows to test on", "check the path")
    file_rows = None if path is None else len(source.examples)
    return EvaluationSet(list(sample_examples(source.examples, rows, seed)), file_rows)


def _test_rows(
    task: Task, settings: DataSettings, seed: int, train: Sequence[Example]
) -> tuple[Sequence[Example], EvaluationSet]:
    if settings.test is not None:
        return train, evaluation_set(task, settings.test, settings.test_rows, seed, settings.max_row_bytes)
    rows = settings.test_rows or TEST_ROWS
    if settings.train is not None:
        train, test = split(train, rows, seed + TEST_SEED, "test")
        return train, EvaluationSet(test)
    return train, evaluation_set(task, None, rows, seed + TEST_SEED)


def _validation_rows(
    task: Task, settings: DataSettings, seed: int, train: Sequence[Example]
) -> tuple[Sequence[Example], _Source, int | None]:
    """The rest of the training rows, the validation rows, and how many rows their file has."""
    if settings.validation is None:
        train, validation = split(train, settings.validation_rows or VALIDATION_ROWS, seed)
        return train, _Source(validation), None
    source = _source(task, settings, settings.validation, 0, seed, training=True)
    rows = [example for example in source.examples if not example.augmented_from]
    return train, _Source(sample_examples(rows, settings.validation_rows, seed), source.malformed), len(rows)


def _source(task: Task, settings: DataSettings, path: Path | None, rows: int, seed: int, *, training: bool) -> _Source:
    if path is None:
        generated = (
            (f"generated:{number}", row)
            for number, row in enumerate(generating(task).generate_rows(rows, seed), start=1)
        )
        return _Source(examples_on_disk(task.examples(generated, training=training)))
    file = task.read(path, settings.on_error, settings.max_row_bytes)
    wrong: list[Malformed] = []
    examples = examples_on_disk(_valid_examples(task, file.rows, training, wrong))
    if wrong and settings.on_error == "stop":
        raise MalformedRowsError(path, wrong, len(file.rows), "cannot be used", f"rows of the task {task.name}")
    return _Source(examples, tuple(f"{row.where} {row.reason}" for row in (*file.malformed, *wrong)))


def _valid_examples(
    task: Task, rows: Sequence[tuple[str, Row]], training: bool, wrong: list[Malformed]
) -> Iterator[Example]:
    """The examples of the rows that can be used; what is wrong with the others is put into `wrong`."""
    for row in rows:
        try:
            yield from list(task.examples([row], training=training))
        except DataError as error:
            wrong.append(Malformed(error.where, error.found, error.remedy))


def _default(value: int | None, default: int) -> int:
    return default if value is None else value
