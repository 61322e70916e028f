"""The complete logs that the contest asks for: of the training, and of the retention test.

Both are plain texts of figures and answers, one record a line or block. A text that a model or a row brought stays on
one line, with its hidden characters visible, so that it cannot pass for another record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from lotune.data.examples import Example
from lotune.errors import RunError
from lotune.evaluate.predict import Prediction
from lotune.record_files import record_lines
from lotune.report.report_data import strip_shared_lines
from lotune.text_display import show_control_characters

TRAINING_LOG = "training-log.txt"
RETENTION_LOG = "retention-log.txt"
STEP_FIGURES = ("loss", "learning_rate", "tokens", "supervised", "seconds", "gradient_norm")
"""Figures of a step in the order of the log, as metrics.jsonl names them."""


@dataclass(frozen=True)
class RetentionAnswers:
    """The answers of one model to the test rows of one ability."""

    ability: str
    model: str
    examples: Sequence[Example]
    predictions: Sequence[Prediction]


def one_line(text: str) -> str:
    r"""Return a text on one line, with line breaks, tabs and hidden characters as visible symbols.

    >>> one_line("a\nb\tc\x1b[2J")
    'a␊b␉c␛[2J'
    """
    return show_control_characters(text).replace("\n", "␊").replace("\t", "␉")


def training_log(parts: Mapping[str, Path]) -> str:
    """Return the log of the trainings of a run: every step, and every validation after its step.

    `parts` holds a metrics.jsonl by the name of the training, such as "tuning" and "repair". Of a step that was
    repeated after a crash, the last record counts, as its weights went on.

    Raises: RunError that names a line without a record.
    """
    lines = []
    for name, path in parts.items():
        steps, validations = _metrics(path)
        lines.append(f"{name}: {len(steps)} steps, {len(validations)} validations")
        for number in sorted({*steps, *validations}):
            if number in steps:
                lines.append(_step_line(number, steps[number]))
            if number in validations:
                lines.append(_validation_line(number, validations[number]))
    return "\n".join(lines) + "\n"


def logged_steps(log: str, training: str = "tuning") -> list[int]:
    r"""Return the numbers of the steps of a training in a log.

    >>> log = "tuning: 2 steps, 1 validations\nstep 1  loss 2.0\nvalidation after step 1\nstep 2  loss 1.0\n"
    >>> logged_steps(log), logged_steps(log + "repair: 1 steps, 0 validations\nstep 1  loss 3.0\n", "repair")
    ([1, 2], [1])
    """
    numbers, current = list[int](), ""
    for line in log.splitlines():
        words = line.split()
        if words[:1] == ["step"] and len(words) > 1 and words[1].isdecimal():
            numbers += [int(words[1])] if current == training else []
        elif words[:1] != ["validation"]:
            current = line.partition(":")[0]
    return numbers


def retention_log(answers: Iterable[RetentionAnswers]) -> str:
    """Return the log of the retention test: of each question its answer, label, scores, and the means up to it."""
    return "".join(line + "\n" for part in answers for line in _retention_lines(part))


def logged_answers(log: str) -> dict[str, int]:
    r"""Return the number of answers in a retention log by its sections, such as "reading, base".

    >>> logged_answers("reading, base: 1 questions\n1 id-7\n  question: Who?\n")
    {'reading, base': 1}
    """
    counts, section = dict[str, int](), ""
    for line in log.splitlines():
        if line.endswith(" questions") and ": " in line and not line.startswith(" "):
            section = line.rpartition(": ")[0]
            counts[section] = 0
        elif line.startswith("  question: ") and section:
            counts[section] += 1
    return counts


def _metrics(path: Path) -> tuple[dict[int, Mapping[str, Any]], dict[int, Mapping[str, Any]]]:
    """Return the records of steps and of validations by the number of the step."""
    steps, validations = dict[int, Mapping[str, Any]](), dict[int, Mapping[str, Any]]()
    for number, line in record_lines(path.read_bytes()):
        try:
            record = orjson.loads(line)
            if not isinstance(record, dict):
                raise TypeError
            if "loss" in record:
                steps[int(record["number"])] = record
            elif "validation" in record:
                validations[int(record["validation"]["step"])] = record["validation"]
        except (orjson.JSONDecodeError, TypeError, KeyError):
            raise RunError(f"{path}:{number}", "is not a training record", "a JSON object", "delete the line") from None
    return steps, validations


def _step_line(number: int, record: Mapping[str, Any]) -> str:
    figures = [f"{name} {_figure(record[name])}" for name in STEP_FIGURES if name in record]
    return "  ".join([f"step {number}", *figures])


def _validation_line(number: int, record: Mapping[str, Any]) -> str:
    named = {"name": "checkpoint", "value": "metric"}
    figures = [f"{named.get(name, name)} {_figure(value)}" for name, value in record.items() if name != "step"]
    return "  ".join([f"validation after step {number}", *figures])


def _figure(value: Any) -> str:
    # repr has all digits of a float, so the log loses nothing against metrics.jsonl.
    return one_line(value) if isinstance(value, str) else orjson.dumps(value).decode()


def _retention_lines(part: RetentionAnswers) -> Iterator[str]:
    answers = {prediction.example_id: prediction for prediction in part.predictions}
    asked = [example for example in part.examples if example.id in answers]
    questions = strip_shared_lines([_question(example) for example in asked])
    yield f"{one_line(part.ability)}, {one_line(part.model)}: {len(asked)} questions"
    sums, judged = dict[str, float](), 0
    for index, (example, question) in enumerate(zip(asked, questions, strict=True), 1):
        answer = answers[example.id]
        yield f"{index} {one_line(example.id)}"
        yield f"  question: {one_line(question)}"
        yield f"  answer: {one_line(answer.text)}"
        yield f"  read as: {one_line(answer.score.extracted or '')}"
        yield f"  label: {one_line(answer.score.reference)}"
        if answer.score.correct is None:
            yield "  not judgeable"
            continue
        points = dict(answer.score.scores) or {"accuracy": 100.0 * answer.score.correct}
        judged += 1
        sums = {name: sums.get(name, 0.0) + value for name, value in points.items()}
        yield "  scores: " + "  ".join(f"{name} {value!r}" for name, value in points.items())
        yield f"  means of {judged}: " + "  ".join(f"{name} {total / judged!r}" for name, total in sums.items())
    yield ""


def _question(example: Example) -> str:
    # The passage stands before the question; what the tails of all prompts share is the template's.
    return example.prompt_parts[2] if example.prompt_parts else example.prompt
