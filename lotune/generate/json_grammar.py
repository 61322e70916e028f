"""Answers that follow a JSON schema, by llguidance: each token is chosen among those that keep the text valid.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from lotune.data.token_bytes import token_bytes
from lotune.errors import DataError, ModelError, install_extra
from lotune.generate.requests import GrammarState

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""The schema of any JSON object."""
# Blanks between tokens of JSON are left out: a weak model could otherwise write blanks without end.
FORM: Any = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}


class _Vocabulary:
    """The tokens of a tokeniser as llguidance asks for them."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        tokens = token_bytes(tokenizer)
        self.tokens = [*tokens, *[b""] * (size - len(tokens))][:size]
        self.eos_token_id, self.bos_token_id = tokenizer.eos_token_id, tokenizer.bos_token_id
        self.special_token_ids: Sequence[int] = [id for id in tokenizer.all_special_ids if id < size]
        self._encode = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return list(self._encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


class GrammarCompiler:
    """Compiles JSON schemas for a tokeniser and a vocabulary of `size` tokens.

    Raises: ModelError if llguidance is not installed.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        try:
            import llguidance
        except ImportError:
            found = "answers in JSON need the package llguidance"
            raise ModelError("response_format", found, remedy=install_extra("serve")) from None
        self._matcher = llguidance.LLMatcher
        self._tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Vocabulary(tokenizer, size)))
        self._size = size

    def json(self, schema: Mapping[str, Any]) -> JsonGrammar:
        """Return the grammar of a schema. Raises: DataError for a schema that is invalid or not supported."""
        try:
            text = self._matcher.grammar_from_json_schema(orjson.dumps(schema).decode(), overrides=FORM)
            fault = self._matcher.validate_grammar(text, self._tokenizer)
        except (ValueError, TypeError) as error:
            fault = str(error)
        if fault:
            found = f"cannot be followed: {' '.join(fault.split())[:300]}"
            raise DataError("response_format.json_schema", found, "a JSON schema")
        return JsonGrammar(self._matcher, self._tokenizer, text, self._size)


class JsonGrammar:
    """The texts of a JSON schema."""

    def __init__(self, matcher: Any, tokenizer: Any, text: str, size: int) -> None:
        self._matcher, self._tokenizer, self._text, self._size = matcher, tokenizer, text, size

    def start(self) -> GrammarState:
        """Return the state of a new answer."""
        return _State(self._matcher(self._tokenizer, self._text, log_level=0), self._size)


class _State:
    """The place of one answer in a grammar."""

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher, self._size = matcher, size
        self._bits = np.zeros((size + 31) // 32, dtype=np.int32)

    @property
    def may_end(self) -> bool:
        return bool(self._matcher.is_accepting())

    @property
    def must_end(self) -> bool:
        return bool(self._matcher.is_stopped())

    def mask(self, logits: Tensor) -> Tensor:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._size].astype(bool)
        forbidden = torch.ones(len(logits), dtype=torch.bool)
        forbidden[: self._size] = torch.from_numpy(~allowed)
        return logits.masked_fill(forbidden.to(logits.device), float("-inf"))

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ModelError(
                "response_format", f"cannot be followed: {self._matcher.get_error():.200}", "a simpler schema"
            )
