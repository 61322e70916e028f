"""Bounds on what the server accepts."""

from __future__ import annotations

from dataclasses import dataclass

BATTLES_PER_MINUTE = 30
"""Battles that one person, or address, may start in the arena in a minute, unless told otherwise."""


@dataclass(frozen=True)
class Limits:
    """Bounds on requests; a request beyond one of them is refused with the bound in the message.

    `max_waiting` requests may wait for a place among the running ones. An answer ends with what there is after
    `request_seconds`, waiting included. `max_prompts` bounds prompts times answers of one request.
    """

    max_waiting: int = 256
    max_prompt_tokens: int | None = None
    max_new_tokens: int | None = None
    max_body_bytes: int = 8 * 2**20
    max_prompts: int = 256
    request_seconds: float = 600.0
    max_connections: int = 2048
