"""Marks of the exam: 10 for the prepared data, 20 for the saved model, 70 times the accuracy, for each data set.

The exam leaves open how the two data sets are put together; the mean over both is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lotune.contest.exam_files import ANSWERS, ExamFiles
from lotune.data.rows import read_rows
from lotune.errors import DataError, LotuneError, SettingsError
from lotune.evaluate.parameter_ratio import count_adapter
from lotune.model.settings import ADAPTER_CONFIG
from lotune.tasks.metrics import accuracy, f1, matthews
from lotune.tasks.task import Score

DATASETS: Mapping[str, str] = {"CoLA": "matthews", "QQP": "f1"}
"""The exam's data sets, each with the measure that is customary for it beside the accuracy."""
LABELS = ("0", "1")
DATA_MARKS, MODEL_MARKS, ANSWER_MARKS = 10, 20, 70
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


@dataclass(frozen=True)
class Part:
    """Marks of a part, the most that it can have, and the reasons."""

    marks: float
    at_most: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class DatasetMarks:
    """Marks of a data set; `accuracy` is 0 to 1.

    `beside` is the customary measure of the data set, -1 to 1 for Matthews', 0 to 1 for F1.
    """

    dataset: str
    data: Part
    model: Part
    answers: Part
    accuracy: float
    beside_name: str
    beside: float

    @property
    def total(self) -> float:
        """The marks of all parts, 0 to 100."""
        return self.data.marks + self.model.marks + self.answers.marks


def read_labels(path: Path) -> list[str]:
    """Return the labels in a key file, one a line.

    Raises: DataError that names line and character if one is neither 0 nor 1.
    """
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        if line not in LABELS:
            place = next((index for index, character in enumerate(line, 1) if character not in LABELS), 1)
            found = f"holds {line[place - 1]!r} at character {place}" if line else "is empty"
            others = sum(other not in LABELS for other in lines) - 1
            more = f", and {others} more lines hold no label" if others else ""
            remedy = "take a file of true labels; a published answer file need not hold them"
            raise DataError(f"{path}:{number}", f"{found}{more}", "0 or 1 on each line of a key", remedy)
    if not lines:
        raise DataError(str(path), "holds no labels", "0 or 1 on each line of a key")
    return lines


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}", "a file of labels") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, byte {error.start}", "is not UTF-8", "0 or 1 on each line") from None
    lines = [line.strip() for line in text.split("\n")]
    return lines[:-1] if not lines[-1] else lines


def mark_dataset(folder: Path, dataset: str, key: Path) -> DatasetMarks:
    """Return the marks of a data set in the folder of an exam, by the labels in a key file.

    Raises: SettingsError for an unknown data set; DataError for a key that is no file of labels.
    """
    if dataset not in DATASETS:
        raise SettingsError("--key", f"{dataset!r} is no data set of the exam", f"one of {', '.join(DATASETS)}")
    labels, files = read_labels(key)[:ANSWERS], ExamFiles(folder, dataset)
    answers, scores = _answers(files.result, labels, key)
    beside = DATASETS[dataset]
    measure = matthews(scores) if beside == "matthews" else f1(scores, LABELS[1])
    return DatasetMarks(
        dataset, _data(files), _model(files.saved_model), answers, accuracy(scores), beside, measure,
    )  # fmt: skip


def _answers(path: Path, labels: Sequence[str], key: Path) -> tuple[Part, list[Score]]:
    """Return 70 times the accuracy, and the score of each row; a line without a label, or missing, is wrong.

    Raises: DataError if the key lacks labels of answers that the exam marks.
    """
    reasons, lines = [], []
    try:
        lines = _lines(path)
    except DataError as error:
        reasons.append(f"{path.name} {error.found}")
    if len(labels) < min(len(lines), ANSWERS):
        found = f"holds {len(labels)} labels, and {path.name} {min(len(lines), ANSWERS)} answers"
        raise DataError(str(key), found, f"the labels of the first {ANSWERS} rows", "give the whole key")
    given = [line if line in LABELS else None for line in islice(lines, len(labels))]
    if missing := len(labels) - len(given):
        reasons.append(f"{missing} of {len(labels)} labels are missing in {path.name}, and count as wrong")
    if bad := given.count(None):
        first = given.index(None) + 1
        reasons.append(
            f"{bad} lines of {path.name} are neither 0 nor 1, the first is line {first}; they count as wrong"
        )
    given += [None] * missing
    scores = [Score(answer, label, answer == label) for answer, label in zip(given, labels, strict=True)]
    right = sum(bool(score.correct) for score in scores)
    reasons.insert(0, f"{right} of {len(labels)} right")
    return Part(ANSWER_MARKS * right / len(labels), ANSWER_MARKS, tuple(reasons)), scores


def _data(files: ExamFiles) -> Part:
    """Return 10 marks if both prepared files are there and in the exam's form."""
    faults, counts = [], []
    for path, labelled in ((files.train, True), (files.dev, False)):
        fault, rows = _prepared(path, labelled)
        faults += [fault] if fault else []
        counts.append(f"{rows} rows in {path.name}")
    return _all_or_nothing(faults, counts, DATA_MARKS)


def _prepared(path: Path, labelled: bool) -> tuple[str, int]:
    """Return what is wrong with a prepared file, empty if nothing is, and the number of its rows."""
    if not path.is_file():
        return f"{path.parent.name}/{path.name} is missing", 0
    try:
        rows = read_rows(path).rows
    except DataError as error:
        return f"{path.name}: {error.found}", 0
    if not rows:
        return f"{path.name} holds no rows", 0
    for id, row in rows:
        texts = [row.get("instruction"), row.get("input")]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            return f"{id} lacks a text for instruction or input", len(rows)
        output = row.get("output", "")
        if output not in (LABELS if labelled else (*LABELS, "")):
            return f"{id} has the output {output!r}, not 0 or 1", len(rows)
    return "", len(rows)


def _model(folder: Path) -> Part:
    """Return 20 marks if an adapter is at the exam's path, in safetensors, and as large as its header says."""
    faults, reasons = [], []
    if not folder.is_dir():
        return _all_or_nothing([f"saved_model/{folder.name}/ is missing"], [], MODEL_MARKS)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        faults.append(f"{pickles[0]} can execute code when it is read; safetensors are accepted")
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
        if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
            faults.append(f"{ADAPTER_CONFIG} is no configuration of PEFT")
    except OSError:
        faults.append(f"{ADAPTER_CONFIG} is missing")
    except ValueError:
        faults.append(f"{ADAPTER_CONFIG} is not JSON")
    try:
        tensors = count_adapter(folder)
        size = (folder / "adapter_model.safetensors").stat().st_size
        reasons.append(f"{tensors.trainable:,} parameters in {len(tensors.tensors)} tensors, {size:,} bytes")
    except LotuneError as error:
        faults.append(error.found)
    return _all_or_nothing(faults, reasons, MODEL_MARKS)


def _all_or_nothing(faults: Sequence[str], reasons: Sequence[str], marks: int) -> Part:
    return Part(0.0, marks, tuple(faults)) if faults else Part(float(marks), marks, tuple(reasons))
