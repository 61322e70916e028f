"""What the calls of a studio share: names in bodies and queries, and the body of a response."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response
from pydantic import BaseModel, Field

from lotune.files import to_json

Name = Annotated[str, Field(min_length=1, max_length=200)]
NameQuery = Annotated[str, Query(min_length=1, max_length=200)]


class OfRun(BaseModel):
    """The name of a run."""

    run: Name


def json(value: Any, status: int = 200) -> Response:
    """Return a value as the body of a response."""
    return Response(to_json(value), status, media_type="application/json")
