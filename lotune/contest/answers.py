"""Mark answers against keys: the contest's accuracy, and its score if the parameter ratio is known.

Answers come in any file: one a line in the order of the keys, or as records with ids. The judge is that of the task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from lotune.contest.scores import score
from lotune.data.bounded import BYTE_ORDER_MARK
from lotune.data.examples import Example
from lotune.data.file_readers import check_file, read_json_document
from lotune.errors import DataError
from lotune.evaluate.statistics import Interval, wilson
from lotune.tasks.task import MultipleChoice, Task

TEXT_FIELDS = ("answer", "response", "raw_answer", "prediction", "pred", "output")
"""Fields of a record that hold an answer, the first one that is there."""
KEY_FIELD = "key"
"""Field of a record that holds its key, as in the predictions that the contest published."""
_LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class Answer:
    """An answer from a file, with its place there; `id` and `key` are None if the file has none."""

    where: str
    text: str
    id: str | None = None
    key: str | None = None
    prompt: str = ""


@dataclass(frozen=True)
class KindMarks:
    """Right answers and judgeable rows of a kind, and its accuracy, 0 to 1."""

    right: int
    n: int
    accuracy: float


@dataclass(frozen=True)
class Marks:
    """The marks of a file of answers; accuracy and ratio are 0 to 1, the interval is Wilson's, 95 %."""

    task: str
    scorer: str
    rows: int
    right: int
    n: int
    """Rows with a judgeable key; the accuracy is of these."""
    unjudgeable: int
    accuracy: float
    interval: Interval
    by_kind: Mapping[str, KindMarks]
    ratio: float | None
    rule: str
    score: float | None
    """The contest's score, None without a ratio."""


def read_answers(path: Path) -> list[Answer]:
    """Return the answers in a txt, json or jsonl file, in their order.

    Raises: DataError, with the line, for a row without an answer.
    """
    check_file(path)
    if path.suffix == ".json":
        values = read_json_document(path)
        if not isinstance(values, list):
            raise DataError(str(path), "is no list", "a JSON array of answers")
        return [_answer(f"{path.name}[{index}]", value) for index, value in enumerate(values)]
    if path.suffix == ".jsonl":
        return [_answer(f"{path.name}:{number}", _json(path, number, line)) for number, line in _lines(path) if line]
    return [Answer(f"{path.name}:{number}", line) for number, line in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield the number and the text of each line; line breaks are \n or \r\n, as others may stand in an answer."""
    try:
        text = path.read_bytes().removeprefix(BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, byte {error.start}", "is not UTF-8", "UTF-8", "save the file as UTF-8") from None
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
        yield number, line.removesuffix("\r")


def _json(path: Path, number: int, line: str) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path.name}:{number}", f"is not JSON: {error}", "a JSON object with an answer") from None


def _answer(where: str, value: Any) -> Answer:
    if isinstance(value, str):
        return Answer(where, value)
    field = next((name for name in TEXT_FIELDS if isinstance(value, dict) and isinstance(value.get(name), str)), None)
    if field is None:
        given = f" (it has {', '.join(map(str, value))})" if isinstance(value, dict) else ""
        raise DataError(where, f"holds no answer{given}", f"a text, or an object with {', '.join(TEXT_FIELDS)}")
    id, key, prompt = (value.get(name) for name in ("id", KEY_FIELD, "prompt"))
    return Answer(
        where,
        value[field],
        None if id is None else str(id),
        key if isinstance(key, str) else None,
        prompt if isinstance(prompt, str) else "",
    )


def read_keys(task: Task, path: Path) -> tuple[list[Example], dict[str, int]]:
    """Return the rows of a key file in their order, and their indices by each id that answers may name.

    Rows are in one of the task's layouts, or records with a `key`. A row's ids are its position in the file, as in
    predictions, and the `id` of the row.
    Raises: DataError for rows that the task cannot read.
    """
    own = _records_with_keys(path)
    if own:
        return [_example(task, answer) for answer in own], {
            id: index for index, answer in enumerate(own) for id in (answer.where, answer.id) if id is not None
        }
    rows = list(task.read(path).rows)
    examples = list(task.examples(rows, training=False))
    ids = {example.id: index for index, example in enumerate(examples)}
    for index, (_, row) in enumerate(rows):
        if isinstance(row.get("id"), str | int):
            ids.setdefault(str(row["id"]), index)
    return examples, ids


def _records_with_keys(path: Path) -> list[Answer]:
    """Return the records of a file of predictions that hold their keys; empty for any other file."""
    if path.suffix not in (".json", ".jsonl"):
        return []
    try:
        answers = read_answers(path)
    except DataError:
        return []
    return answers if answers and all(answer.key is not None for answer in answers) else []


def _example(task: Task, answer: Answer) -> Example:
    """Return the row of a record that holds its key."""
    key = answer.key or ""
    choices = _LETTERS if isinstance(task, MultipleChoice) else ()
    example = Example(answer.where, answer.prompt, key, (key,) if key else (), choices=choices)
    # A key that the judge does not find right itself can be met by no answer.
    return (
        example if task.judge(example, key).correct else Example(answer.where, answer.prompt, key, (), choices=choices)
    )


def keys_in(task: Task, answers: Sequence[Answer]) -> list[Example]:
    """Return the rows of answers that hold their own keys. Raises: DataError if one has none."""
    missing = next((answer for answer in answers if answer.key is None), None)
    if missing is not None:
        raise DataError(missing.where, f"has no {KEY_FIELD}", "a key in each record, or a file of keys", "--key FILE")
    return [_example(task, answer) for answer in answers]


def pair(
    answers: Sequence[Answer], examples: Sequence[Example], ids: Mapping[str, int], where: str
) -> list[tuple[Example, Answer]]:
    """Return each row with its answer: by id if all answers have one, otherwise in their order.

    Raises: DataError if the numbers differ, an id is unknown or stands twice, or only some answers have ids.
    """
    with_id = [answer for answer in answers if answer.id is not None]
    if len(with_id) not in (0, len(answers)):
        without = next(answer for answer in answers if answer.id is None)
        raise DataError(without.where, "has no id, and others have one", "ids in all records or in none")
    # Ids of another set of rows say that the answers are not to these questions.
    unknown = [answer for answer in with_id if answer.id not in ids]
    if unknown:
        fault = f"{len(unknown)} of {len(answers)} ids are unknown, the first is {unknown[0].id!r}"
        raise DataError(unknown[0].where, fault, f"ids of the keys, such as {next(iter(ids), '')!r}", _BY_ORDER)
    if len(answers) != len(examples):
        raise DataError(where, f"{len(answers)} answers to {len(examples)} keys", "one answer to each key", _BY_ORDER)
    if not with_id:
        return list(zip(examples, answers, strict=True))
    by_index = {ids[answer.id]: answer for answer in with_id if answer.id is not None}
    if len(by_index) != len(answers):
        twice = next(id for id, count in Counter(ids[str(answer.id)] for answer in with_id).items() if count > 1)
        raise DataError(where, f"two answers to {examples[twice].id}", "one answer to each key")
    return [(example, by_index[index]) for index, example in enumerate(examples)]


_BY_ORDER = "remove the ids to have the answers marked in their order"


def mark(
    task: Task, pairs: Sequence[tuple[Example, Answer]], ratio: float | None = None, rule: str | None = None
) -> Marks:
    """Return the marks of answers by the judge of the task, and their score by a rule of the contest.

    Raises: DataError if no key can be judged; SettingsError for an unknown rule.
    """
    kinds, right, n = Counter[str](), Counter[str](), 0
    for example, answer in pairs:
        correct = task.judge(example, answer.text).correct
        if correct is None:
            continue
        n += 1
        kinds[example.category] += 1
        right[example.category] += correct
    if not n:
        raise DataError("grade", f"none of {len(pairs)} keys can be judged by {task.scorer}", f"keys of {task.name}")
    accuracy, rule = right.total() / n, rule or default_rule(task)
    return Marks(
        task=task.name, scorer=task.scorer, rows=len(pairs), right=right.total(), n=n, unjudgeable=len(pairs) - n,
        accuracy=accuracy, interval=wilson(right.total(), n),
        by_kind={kind: KindMarks(right[kind], count, right[kind] / count) for kind, count in sorted(kinds.items())},
        ratio=ratio, rule=rule, score=None if ratio is None else score(rule, ratio, accuracy),
    )  # fmt: skip


def default_rule(task: Task) -> str:
    """Return the rule of the phase of the contest that had this task."""
    return "phase1" if task.is_contest_task else "phase2"
