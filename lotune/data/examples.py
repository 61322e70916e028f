"""One question of a task, as it travels from rows to batches, predictions and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from lotune.data.disk_list import DiskList


@dataclass(frozen=True)
class Turn:
    """An earlier question of a conversation with its answer, which is trained on where it is `scored`."""

    prompt: str
    answer: str
    scored: bool = True


@dataclass(frozen=True)
class Example:
    """One question of a task: what the model is shown and what counts as right.

    `prompt` is the whole text before the answer, template included; `target` the answer to train on (with written
    working where the task has any, without an end-of-text token), empty where the row has no key; `references` the keys
    that the judge accepts; `category` the group it is reported under.
    """

    id: str
    prompt: str
    target: str
    references: tuple[str, ...] = ()
    category: str = ""
    choices: tuple[str, ...] = ()
    prompt_parts: tuple[str, str, str] | None = None
    """Head, middle and tail of `prompt` where only the middle (a passage) may be cut to fit the context."""
    earlier_turns: tuple[Turn, ...] = ()
    """Earlier questions and answers of a conversation; `prompt` begins with their text."""
    augmented_from: str = ""
    """Of an augmented copy of a training row: the id of that row's own example."""
    stem: str = ""
    """Of a single choice: the question without its options."""
    turn_end: str = ""
    """Of a conversation in the tokeniser's chat template: the special token that ends an answer, in place of the
    end-of-text. Special tokens in the text of such prompts are special tokens."""

    @property
    def question(self) -> str:
        """The part of the prompt that follows the earlier turns.

        >>> Example("1", "a?b.c?", "d.", earlier_turns=(Turn("a?", "b."),)).question
        'c?'
        """
        return self.prompt[sum(len(turn.prompt) + len(turn.answer) for turn in self.earlier_turns) :]

    @property
    def trained_prompts(self) -> tuple[str, ...]:
        """The whole text before each answer that is trained on; the prompt itself is the last.

        >>> Example("1", "a?b.c?", "d.", earlier_turns=(Turn("a?", "b."),)).trained_prompts
        ('a?', 'a?b.c?')
        """
        found, before = [], ""
        for turn in self.earlier_turns:
            if turn.scored:
                found.append(before + turn.prompt)
            before += turn.prompt + turn.answer
        return (*found, self.prompt)


def as_record(example: Example) -> dict[str, Any]:
    """An example as one JSON line."""
    return asdict(example)


def from_record(record: Mapping[str, Any]) -> Example:
    """The example of one JSON line.

    >>> example = Example("1", "1+1=", "2", ("2",), "add")
    >>> from_record(as_record(example)) == example
    True
    """
    parts = record["prompt_parts"]
    return Example(
        record["id"], record["prompt"], record["target"], tuple(record["references"]), record["category"],
        tuple(record["choices"]), None if parts is None else tuple(parts),
        tuple(Turn(**turn) for turn in record.get("earlier_turns", ())), record.get("augmented_from", ""),
        record.get("stem", ""), record.get("turn_end", ""),
    )  # fmt: skip


def examples_on_disk(examples: Iterable[Example]) -> DiskList[Example]:
    """Examples on disk, as they come."""
    return DiskList(examples, orjson.dumps, lambda content: from_record(orjson.loads(content)))
