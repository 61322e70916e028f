"""Examples: the questions of a task, as passed from rows to batches, predictions and scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from lotune.data.disk_list import DiskList


@dataclass(frozen=True)
class Turn:
    """An earlier question of a conversation with its answer, which is in the loss if `scored`."""

    prompt: str
    answer: str
    scored: bool = True


@dataclass(frozen=True)
class Example:
    """One question of a task: its prompt, the answer to train on, and the answers that count as correct.

    `prompt` is the whole text before the answer, including the template. `target` is the answer to train on, with a
    scratchpad if the task has one and without the end-of-text token; it is empty if the row has no answer. `references`
    are the answers that the scorer accepts, `category` is the group of the row in reports.
    """

    id: str
    prompt: str
    target: str
    references: tuple[str, ...] = ()
    category: str = ""
    choices: tuple[str, ...] = ()
    prompt_parts: tuple[str, str, str] | None = None
    """Start, middle and end of `prompt` if only the middle (a passage) may be truncated to fit the context."""
    earlier_turns: tuple[Turn, ...] = ()
    """Earlier questions and answers of a conversation; `prompt` begins with their text."""
    augmented_from: str = ""
    """Id of the example that this one is an augmented copy of; empty for an original."""
    stem: str = ""
    """Question of a multiple-choice row without its options."""
    turn_end: str = ""
    """Special token that ends an answer, instead of end-of-text, if the tokeniser's chat template rendered the prompt.
    Only in such prompts are the names of special tokens encoded as special tokens."""
    source: str = ""
    """What the row was made from, such as an article: rows of one source are not divided between training and test."""

    @property
    def question(self) -> str:
        """The part of the prompt after the earlier turns.

        >>> Example("1", "a?b.c?", "d.", earlier_turns=(Turn("a?", "b."),)).question
        'c?'
        """
        return self.prompt[sum(len(turn.prompt) + len(turn.answer) for turn in self.earlier_turns) :]

    @property
    def trained_prompts(self) -> tuple[str, ...]:
        """The whole text before each answer in the loss; the last one is the prompt itself.

        >>> Example("1", "a?b.c?", "d.", earlier_turns=(Turn("a?", "b."),)).trained_prompts
        ('a?', 'a?b.c?')
        """
        prompts, before = [], ""
        for turn in self.earlier_turns:
            if turn.scored:
                prompts.append(before + turn.prompt)
            before += turn.prompt + turn.answer
        return (*prompts, self.prompt)


def as_record(example: Example) -> dict[str, Any]:
    """Return the fields of an example as a JSON object, one line of validation.jsonl or test.jsonl."""
    return asdict(example)


def from_record(record: Mapping[str, Any]) -> Example:
    """Return the example of a record that `as_record` made.

    >>> example = Example("1", "1+1=", "2", ("2",), "add")
    >>> from_record(as_record(example)) == example
    True
    """
    parts = record["prompt_parts"]
    return Example(
        record["id"], record["prompt"], record["target"], tuple(record["references"]), record["category"],
        tuple(record["choices"]), None if parts is None else tuple(parts),
        tuple(Turn(**turn) for turn in record.get("earlier_turns", ())), record.get("augmented_from", ""),
        record.get("stem", ""), record.get("turn_end", ""), record.get("source", ""),
    )  # fmt: skip


def examples_on_disk(examples: Iterable[Example]) -> DiskList[Example]:
    """Write examples to a DiskList as the iterable yields them."""
    # JSON rather than pickle: three fields are tuples, which `from_record` restores.
    return DiskList(examples, orjson.dumps, lambda content: from_record(orjson.loads(content)))
