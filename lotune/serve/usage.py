"""Counts of tokens, times and names that all responses share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lotune.generate.requests import Completion


def new_id(kind: str) -> str:
    """Return a new id of a response, such as chatcmpl-…"""
    return f"{kind}-{secrets.token_hex(12)}"


@dataclass
class Usage:
    """Tokens of the prompts and of the answers that have ended."""

    prompt_tokens: int
    completion_tokens: int = 0
    created: int = field(default_factory=lambda: int(time.time()))

    def add(self, completions: Sequence[Completion | None]) -> None:
        """Count the tokens of answers that have ended."""
        self.completion_tokens += sum(len(completion.token_ids) for completion in completions if completion)

    def body(self) -> dict[str, int]:
        """Return the counts in OpenAI's form."""
        return {
            "prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }  # fmt: skip
