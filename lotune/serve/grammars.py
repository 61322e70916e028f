"""Grammars of `response_format`; those used last are kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from lotune.generate.json_grammar import ANY_OBJECT, GrammarCompiler, JsonGrammar
from lotune.serve.errors import invalid
from lotune.serve.models import ServedModel
from lotune.serve.protocol import ResponseFormat

MAX_SCHEMA_BYTES = 64 * 1024


def grammar_of(served: ServedModel, form: ResponseFormat | None) -> JsonGrammar | None:
    """Return the grammar that answers must follow, None for free text.

    Raises: ApiError or DataError for a schema that is missing, too large or not supported.
    """
    if form is None or form.type == "text":
        return None
    schema: Any = ANY_OBJECT
    if form.type == "json_schema":
        schema = (form.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            raise invalid("response_format.json_schema has no `schema`", "response_format")
    text = orjson.dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise invalid(f"the schema has {len(text)} bytes, at most {MAX_SCHEMA_BYTES}", "response_format")
    return _grammar(served.vocab_size, served.tokenizer, text)


@lru_cache(maxsize=8)
def _compiler(tokenizer: Any, size: int) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, size)


@lru_cache(maxsize=256)
def _grammar(size: int, tokenizer: Any, schema: bytes) -> JsonGrammar:
    return _compiler(tokenizer, size).json(orjson.loads(schema))
