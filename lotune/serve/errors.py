"""Errors of the server in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lotune.errors import LotuneError, RunError
from lotune.generate.worker import QueueFullError
from lotune.text_display import show_control_characters

RETRY_SECONDS = 1
"""Seconds after which a refused request may be sent again."""


class ApiError(Exception):
    """A refused request: the HTTP status, OpenAI's type and code, and the field that is at fault, if one is."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", *, param: str | None = None,
        code: str | None = None, headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the body of the response."""
        message = show_control_characters(self.message)
        return {"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None) -> ApiError:
    """Return the error of a request that cannot be answered."""
    return ApiError(400, message, param=param)


def api_error(error: BaseException) -> ApiError:
    """Return the error to report for an exception; the text of an unexpected one stays in the process."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(
            429, f"{error.found}; try again in {RETRY_SECONDS} s", "rate_limit_error", code="queue_full",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )  # fmt: skip
    if isinstance(error, RunError):
        return ApiError(503, error.found, "server_error", code="unavailable")
    if isinstance(error, LotuneError):
        return invalid(" ".join(str(error).splitlines()))
    return ApiError(500, "the server failed to answer this request", "server_error", code="internal_error")


def shutting_down() -> ApiError:
    """Return the error of a request that arrives while the server ends."""
    return ApiError(503, "the server is shutting down", "server_error", code="shutting_down")
