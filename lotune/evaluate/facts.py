"""What makes two answers to the same question comparable: task, scorer, template and protocol.

Each line of a predictions file carries these facts, so that a file says by itself how its answers were asked for and
judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lotune.evaluate.settings import OnTooLong
from lotune.fingerprints import fingerprint
from lotune.tasks.settings import PromptSettings, TaskSettings
from lotune.tasks.task import MultipleChoice, Task


@dataclass(frozen=True)
class Facts:
    """How an answer was asked for and judged.

    `scorer` is the rule, empty where the task has but one; `template` names the prompt template and the digest of an
    instruction prefix; `protocol` says how the answer was generated.
    """

    task: str
    scorer: str
    template: str
    protocol: str

    def record(self) -> dict[str, str]:
        """The facts as fields of a line of predictions."""
        return asdict(self)


def facts_of(settings: TaskSettings, task: Task, shots: int = 0, on_too_long: OnTooLong = "wrong") -> Facts:
    """Return the facts of greedy answers to a task that was built from `settings`, after `shots` answered examples.

    `on_too_long` is the rule for prompts that are too long for the model.

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
    if isinstance(task, MultipleChoice) and task.by_likelihood:
        protocol = "the likeliest option"
    else:
        protocol = f"greedy, {task.max_new_tokens} new tokens at most"
    protocol += f", {shots} shots" if shots else ""
    protocol += ", long prompts cut" if on_too_long == "truncate" else ""
    if labels := settings.prompt_settings.get("labels"):
        protocol += ", labels " + ", ".join(f"{label} = {word}" for label, word in labels.items())
    return Facts(task.name, task.scorer, template, protocol)


def read_facts(row: Mapping[str, Any]) -> Facts | None:
    """Return the facts that a line of predictions carries, or None where it lacks one.

    >>> read_facts({"task": "reading", "scorer": "", "template": "retention"})
    """
    found = [value for one in fields(Facts) if isinstance(value := row.get(one.name), str)]
    return Facts(*found) if len(found) == len(fields(Facts)) else None


def differences(a: Facts, b: Facts, names: tuple[str, str] = ("A", "B")) -> list[str]:
    """Return the facts that differ, as clauses for people; `names` are those of the two.

    >>> one = Facts("arithmetic", "exact", "alpaca", "greedy")
    >>> differences(one, Facts("arithmetic", "relative:0.1", "alpaca", "greedy"))
    ["scorer: 'exact' in A, 'relative:0.1' in B"]
    """
    mine, its = a.record(), b.record()
    return [
        f"{fact}: {mine[fact]!r} in {names[0]}, {its[fact]!r} in {names[1]}" for fact in mine if mine[fact] != its[fact]
    ]
