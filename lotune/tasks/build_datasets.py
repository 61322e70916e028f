"""Build the training, validation and test examples of a run.

Rows are deduplicated, then split, then sampled. Training rows whose question is in an evaluation set are removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lotune.data.bounded import MAX_ROW_BYTES
from lotune.data.curation import (
    DataCounts,
    count_kinds,
    drop_orphaned_copies,
    remove_contaminated,
    remove_duplicates,
    remove_shared_passages,
    sample_examples,
    split,
)
from lotune.data.disk_list import evenly_spaced
from lotune.data.examples import Example, examples_on_disk
from lotune.data.rows import Malformed, MalformedRowsError
from lotune.data.settings import (
    SPLIT_ONE_IN,
    TEST_ROWS,
    VALIDATION_ROWS,
    DataSettings,
    default_test_rows,
    default_validation_rows,
)
from lotune.errors import DataError
from lotune.tasks.task import Generating, Row, SeveralRules, Task
from lotune.tasks.user_rows import generating

TEST_SEED = 1_000_003
"""Offset of the seed of generated test rows from that of the training rows. Overlap is removed nevertheless."""
RETENTION_SEED = 2_000_003
"""Offset of the seed of generated retention rows."""
RETENTION_VALIDATION_SEED = 4_000_037
"""Offset of the seed of the retention rows that are generated for validation."""
FEWEST_ASIDE = 20
"""Rows left for validation below which they tell nothing."""
MAX_CHECKED_ANSWERS = 10_000
"""Maximum number of training answers that are scored under each rule, which takes some two seconds."""


@dataclass(frozen=True)
class EvaluationSet:
    """Examples to evaluate on. `file_rows` is the number of rows of their file, None if they have no file."""

    examples: Sequence[Example]
    file_rows: int | None = None


@dataclass(frozen=True)
class Datasets:
    """Training, validation and test examples of a run, with counts of the rows that were read and removed.

    `file_rows` maps each evaluation set with a file of its own to the number of rows of that file.
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


def build_datasets(
    task: Task, settings: DataSettings, seed: int, held_out: Mapping[str, Sequence[Example]]
) -> Datasets:
    """Return the examples of a run. `held_out` are further evaluation sets (retention) to keep out of training.

    Raises: DataError for rows that cannot be used, naming each.
    """
    generated = settings.generated_rows + (settings.validation_rows or VALIDATION_ROWS)
    source = _source(task, settings, settings.train, generated, seed, training=True)
    if not source.examples:
        raise DataError(str(settings.train), "holds no rows", "training rows", "check data.train")
    train, duplicates = remove_duplicates(_with_sources(source.examples))
    train = drop_orphaned_copies(train, train)
    # The test rows are split off before the validation rows, so that `data.validation_rows` does not change the test.
    train, test_set = _test_rows(task, settings, seed, train)
    train, validation_source, validation_file_rows = _validation_rows(task, settings, seed, train)
    test = test_set.examples
    validation, validation_overlap = remove_contaminated(validation_source.examples, {"test": test})
    if not validation:
        raise DataError(
            "data.validation", "every validation row is also in the test set", "other rows", "use other test rows"
        )
    sampled = sample_examples(
        train, settings.sample.rows, _default(settings.sample.seed, seed), settings.sample.stratify
    )
    evaluation = {"validation": validation, "test": test, **held_out}
    remaining, overlap = remove_contaminated(sampled, evaluation)
    # The prompt of an augmented copy differs from that of its row, so it must go when its row has gone.
    if any(example.augmented_from for example in remaining):
        remaining = drop_orphaned_copies(remaining, remove_contaminated(train, evaluation)[0])
    if not remaining:
        raise DataError("data", "no training row is left", "rows outside the evaluation sets", "use other test rows")
    malformed = (*source.malformed, *validation_source.malformed)
    split_off = 0 if settings.validation else len(validation_source.examples)
    split_test = len(test) if settings.test is None and settings.train is not None else 0
    counts = DataCounts(
        read=len(source.examples), kept=len(remaining), malformed=len(malformed), malformed_rows=malformed,
        duplicates=duplicates, not_sampled=len(train) - len(sampled), overlap=overlap, kinds=count_kinds(remaining),
        validation=split_off, validation_removed=validation_overlap.removed, test=split_test,
    )  # fmt: skip
    file_rows = {"validation": validation_file_rows, "test": test_set.file_rows}
    return Datasets(remaining, validation, test, counts, {name: n for name, n in file_rows.items() if n is not None})


def _with_sources(examples: Sequence[Example]) -> Sequence[Example]:
    """Return the examples, without their source if all have the same one, which could not be divided."""
    if examples and examples[0].source and len({example.source for example in examples}) == 1:
        return [replace(example, source="") for example in examples]
    return examples


def right_by_rule(
    task: Task, examples: Sequence[Example], max_rows: int = MAX_CHECKED_ANSWERS
) -> dict[str, dict[str, int]]:
    """Return, for each rule of a task with several, the number of correct training targets ("right") and of "rows".

    At most `max_rows` targets are scored, evenly spaced over the rows. A target can be wrong under a strict rule: its
    scratchpad may reach fewer digits than the reference has.
    """
    counts: dict[str, dict[str, int]] = {}
    if not isinstance(task, SeveralRules):
        return counts
    for example in evenly_spaced(examples, max_rows):
        for rule, correct in task.verdicts(example, example.target).items():
            if correct is not None:
                count = counts.setdefault(rule, {"right": 0, "rows": 0})
                count["right"] += correct
                count["rows"] += 1
    return counts


def retention_test(
    task: Task, path: Path | None, rows: int | None, aside: int, seed: int, max_row_bytes: int = MAX_ROW_BYTES
) -> EvaluationSet:
    """Return the test rows of an ability.

    Of a file of a task without a generator, a fifth is left for validation, `aside` rows at most, unless `rows` gives
    the number to test or too few rows would be left to be of use.

    Raises: DataError for rows that cannot be used, naming each.
    """
    test = evaluation_set(task, path, rows, seed, max_row_bytes)
    if path is None or rows is not None or isinstance(task, Generating):
        return test
    left = min(len(test.examples) // SPLIT_ONE_IN, aside)
    if left < FEWEST_ASIDE:
        return test
    return EvaluationSet(sample_examples(test.examples, len(test.examples) - left, seed), test.file_rows)


def retention_validation(
    task: Task,
    path: Path | None,
    rows: int | None,
    seed: int,
    test: Sequence[Example],
    test_path: Path | None,
    max_row_bytes: int = MAX_ROW_BYTES,
) -> Sequence[Example]:
    """Return rows of an ability to validate on, which share no question and no passage with a retention test, `test`.

    They come from `path`, else from the task's generator, else from the rows of the test's file that the test leaves;
    if there are none of these, the result is empty. At most `rows` are returned, sampled by seed; None takes all.

    Raises: DataError for rows that cannot be used, naming each, or if the test contains all rows of `path`.
    """
    if rows == 0:
        return []
    seed += RETENTION_VALIDATION_SEED
    if path is not None:
        examples = evaluation_set(task, path, None, seed, max_row_bytes).examples
    elif isinstance(task, Generating):
        examples = evaluation_set(task, None, rows, seed, max_row_bytes).examples
    elif test_path is not None:
        examples = evaluation_set(task, test_path, None, seed, max_row_bytes).examples
    else:
        return []
    remaining = remove_shared_passages(remove_contaminated(examples, {"retention": test})[0], test)
    if path is not None and not remaining:
        raise DataError("retention.validation", "the retention test asks every row", "other rows", "use another file")
    return sample_examples(remaining, rows, seed)


def evaluation_rows(
    task: Task, path: Path | None, rows: int | None, seed: int, max_row_bytes: int = MAX_ROW_BYTES
) -> list[Example]:
    """Return the examples of `evaluation_set` as a list."""
    return list(evaluation_set(task, path, rows, seed, max_row_bytes).examples)


def evaluation_set(
    task: Task, path: Path | None, rows: int | None, seed: int, max_row_bytes: int = MAX_ROW_BYTES
) -> EvaluationSet:
    """Return the test rows of a file, or generated ones if `path` is None.

    A file with more than `rows` rows is sampled by seed. Raises: DataError for rows that cannot be used, naming each.
    """
    data_settings = DataSettings(on_error="stop", max_row_bytes=max_row_bytes)
    source = _source(task, data_settings, path, rows or TEST_ROWS, seed, training=False)
    if not source.examples:
        raise DataError(str(path), "holds no rows", "rows to test on", "check the path")
    file_rows = None if path is None else len(source.examples)
    return EvaluationSet(list(sample_examples(source.examples, rows, seed)), file_rows)


def _test_rows(
    task: Task, settings: DataSettings, seed: int, train: Sequence[Example]
) -> tuple[Sequence[Example], EvaluationSet]:
    if settings.test is not None:
        return train, evaluation_set(task, settings.test, settings.test_rows, seed, settings.max_row_bytes)
    # Generated test rows cost nothing, so training rows are given up only if they come from a file.
    if settings.train is not None:
        train, test = split(train, settings.test_rows or default_test_rows, seed + TEST_SEED, "test")
        return train, EvaluationSet(test)
    return train, evaluation_set(task, None, settings.test_rows or TEST_ROWS, seed + TEST_SEED)


def _validation_rows(
    task: Task, settings: DataSettings, seed: int, train: Sequence[Example]
) -> tuple[Sequence[Example], _Source, int | None]:
    """Return the remaining training rows, the validation rows, and the number of rows of the validation file."""
    if settings.validation is None:
        default = VALIDATION_ROWS if settings.train is None else default_validation_rows
        train, validation = split(train, settings.validation_rows or default, seed)
        return train, _Source(validation), None
    source = _source(task, settings, settings.validation, 0, seed, training=True)
    # Augmented copies would count a validation question several times.
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
    invalid: list[Malformed] = []
    examples = examples_on_disk(_valid_examples(task, file.rows, training, invalid))
    if invalid and settings.on_error == "stop":
        raise MalformedRowsError(path, invalid, len(file.rows), "cannot be used", f"rows of the task {task.name}")
    return _Source(examples, tuple(f"{row.where} {row.reason}" for row in (*file.malformed, *invalid)))


def _valid_examples(
    task: Task, rows: Sequence[tuple[str, Row]], training: bool, invalid: list[Malformed]
) -> Iterator[Example]:
    """Yield the examples of valid rows; append the faults of the others to `invalid`."""
    for row in rows:
        try:
            # A list first: a row that fails half-way must not leave some of its examples behind.
            yield from list(task.examples([row], training=training))
        except DataError as error:
            invalid.append(Malformed(error.where, error.found, error.remedy))


def _default(value: int | None, default: int) -> int:
    return default if value is None else value
