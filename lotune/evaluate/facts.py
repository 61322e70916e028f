"""The facts in which two comparable answers agree: task, scorer, template and protocol.

Each line of a predictions file has them, so that the file records how its answers were generated and judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lotune.evaluate.settings import OnTooLong
from lotune.fingerprints import fingerprint
from lotune.tasks.settings import PromptSettings, TaskSettings
from lotune.tasks.task import Task


@dataclass(frozen=True)
class Facts:
    """How an answer was generated and judged.

    `scorer` is empty for a task with a single one; `template` names the prompt template and the digest of an
    instruction prefix; `protocol` describes the generation.
    """

    task: str
    scorer: str
    template: str
    protocol: str

    def record(self) -> dict[str, str]:
        """Return the facts as fields of a predictions line."""
        return asdict(self)


def facts_of(settings: TaskSettings, task: Task, shots: int = 0, on_too_long: OnTooLong = "wrong") -> Facts:
    """Return the facts of greedy answers to a task built from `settings`, with `shots` few-shot examples.

    `on_too_long` is the treatment of prompts that are too long for the model.

    >>> from lotune.tasks.registry import build_task, task_settings
    >>> settings = task_settings("arithmetic", scorer="exact", max_new_tokens=64)
    >>> facts_of(settings, build_task(settings), shots=4)
    Facts(task='arithmetic', scorer='exact', template='alpaca', protocol='greedy, 64 new tokens at most, 4 shots')
    """
    template = settings.own_template
    if isinstance(settings, PromptSettings):
        template = settings.template
        if settings.instruction_prefix:
            template += f", instruction prefix {fingerprint(settings.instruction_prefix)[:12]}"
    if task.chooses_by_likelihood:
        protocol = "the likeliest option"
    else:
        protocol = f"greedy, {task.max_new_tokens} new tokens at most"
    if task.scores_references:
        answers = f"; {protocol}" if task.generates_answers else ""
        protocol = f"the likelihood of the reference{answers}"
    protocol += f", {shots} shots" if shots else ""
    # "wrong" and "stop" change no prompt, so they are not part of the protocol.
    protocol += ", long prompts cut" if on_too_long == "truncate" else ""
    # The labels are part of the prompt and of the expected answer.
    if labels := settings.prompt_settings.get("labels"):
        protocol += ", labels " + ", ".join(f"{label} = {word}" for label, word in labels.items())
    return Facts(task.name, task.scorer, template, protocol)


def read_facts(row: Mapping[str, Any]) -> Facts | None:
    """Return the facts in a predictions line, or None if one is missing.

    >>> read_facts({"task": "reading", "scorer": "", "template": "retention"})
    """
    values = [value for field in fields(Facts) if isinstance(value := row.get(field.name), str)]
    # All or none: with some facts missing, two different protocols could look equal.
    return Facts(*values) if len(values) == len(fields(Facts)) else None


def differences(a: Facts, b: Facts, names: tuple[str, str] = ("A", "B")) -> list[str]:
    """Return the facts that differ, as clauses; `names` denote the two sides.

    >>> facts = Facts("arithmetic", "exact", "alpaca", "greedy")
    >>> differences(facts, Facts("arithmetic", "relative:0.1", "alpaca", "greedy"))
    ["scorer: 'exact' in A, 'relative:0.1' in B"]
    """
    b_record = b.record()
    return [
        f"{name}: {value!r} in {names[0]}, {b_record[name]!r} in {names[1]}"
        for name, value in a.record().items()
        if value != b_record[name]
    ]
