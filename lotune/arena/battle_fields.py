"""What a vote holds beside the battle itself: language and category of the first prompt, style, names given away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lotune.arena.categories import category, language
from lotune.arena.identity import names_itself
from lotune.arena.style import style_counts

Turns = Sequence[tuple[str, str, str]]
"""A prompt and the answers of A and B for each turn."""


def battle_fields(turns: Turns, names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a `Vote` that follow from its turns; `names` are those of the two models."""
    prompts, *answers = zip(*turns, strict=True) if turns else ((), (), ())
    first = prompts[0] if prompts else ""
    styles = [style_counts("\n\n".join(texts)) for texts in answers]
    return {
        "language": language(first), "category": category(first), "style_a": styles[0], "style_b": styles[1],
        "named": names_itself(prompts, (text for texts in answers for text in texts), names),
    }  # fmt: skip
