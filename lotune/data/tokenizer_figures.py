"""What a tokeniser makes of texts: tokens per character by script, and how many texts it gives back unchanged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lotune.data.corpus import SCRIPTS
from lotune.data.tokenized import chunks

TEXTS_PER_CALL = 256
_RUNS = re.compile(
    "|".join(f"(?P<{name}>{pattern.pattern})" for name, pattern in SCRIPTS.items()) + "|(?P<other>.)", re.S
)


@dataclass(frozen=True)
class TokenizerFigures:
    """Tokens, characters and UTF-8 bytes of some texts, their tokens per character by script, and a count.

    A run of a script is encoded alone, so merges across scripts do not count there. `changed` texts are not given back
    by decoding: an unknown token, or another normal form.
    """

    vocab_size: int
    tokens: int
    characters: int
    bytes: int
    per_character: Mapping[str, float]
    changed: int

    def describe(self) -> str:
        """Return the figures as a clause.

        >>> TokenizerFigures(300, 50, 100, 200, {"han": 1.5, "latin": 0.25}, 0).describe()
        '300 tokens in the vocabulary; 0.500 tokens per character (han 1.500, latin 0.250), 4.00 bytes per token'
        """
        scripts = ", ".join(f"{name} {value:.3f}" for name, value in self.per_character.items())
        changed = f"; {self.changed:,} texts are changed by it" if self.changed else ""
        return (
            f"{self.vocab_size:,} tokens in the vocabulary; {self.tokens / max(1, self.characters):.3f} tokens per "
            f"character ({scripts}), {self.bytes / max(1, self.tokens):.2f} bytes per token{changed}"
        )


def tokenizer_figures(tokenizer: Any, texts: Iterable[str]) -> TokenizerFigures:
    """Return the figures of a tokeniser on some texts."""
    tokens = characters = size = changed = 0
    script_tokens, script_characters = Counter[str](), Counter[str]()
    for batch in chunks(texts, TEXTS_PER_CALL):
        ids = _encoded(tokenizer, batch)
        decoded = tokenizer.batch_decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        changed += sum(text != back for text, back in zip(batch, decoded, strict=True))
        tokens += sum(map(len, ids))
        characters += sum(map(len, batch))
        size += sum(len(text.encode()) for text in batch)
        for script, runs in _runs(batch).items():
            script_tokens[script] += sum(map(len, _encoded(tokenizer, runs)))
            script_characters[script] += sum(map(len, runs))
    per_character = {name: script_tokens[name] / count for name, count in script_characters.most_common()}
    return TokenizerFigures(len(tokenizer), tokens, characters, size, per_character, changed)


def _encoded(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _runs(texts: list[str]) -> dict[str, list[str]]:
    """Return the runs of each script in the texts.

    >>> _runs(["光速 is 3!"])
    {'han': ['光速'], 'other': [' ', ' ', '!'], 'latin': ['is'], 'digits': ['3']}
    """
    runs: dict[str, list[str]] = {}
    for text in texts:
        for match in _RUNS.finditer(text):
            assert match.lastgroup is not None
            runs.setdefault(match.lastgroup, []).append(match[0])
    return runs
