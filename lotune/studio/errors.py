"""Errors of the studio's calls: the words of the terminal, in parts that a page can put beside a field."""

from __future__ import annotations

from typing import Any

from lotune.errors import LotuneError, SettingsError
from lotune.text_display import show_control_characters


class CallError(Exception):
    """A refused call: its HTTP status, what was found, and the remedy.

    `code` names the fault for programs. `details` are further fields of the body.
    """

    def __init__(self, status: int, code: str, found: str, remedy: str = "", **details: Any) -> None:
        super().__init__(found)
        self.status, self.code, self.found, self.remedy, self.details = status, code, found, remedy, details

    def body(self) -> dict[str, Any]:
        """Return the body of the response."""
        message = self.found + (f"; {self.remedy}" if self.remedy else "")
        return {"error": {"code": self.code, "message": show_control_characters(message), **self.details}}


def not_found(what: str) -> CallError:
    """Return the error of a name that is not in the folder."""
    return CallError(404, "not_found", f"{what} is not in this folder")


def call_error(error: LotuneError, status: int = 422) -> CallError:
    """Return the error of a call that failed with an error of lotune, with a clause for each setting at fault."""
    faults = dict(error.faults) if isinstance(error, SettingsError) else {}
    parts = {"where": error.where, "found": error.found, "expected": error.expected, "remedy": error.remedy}
    details = {name: show_control_characters(text) for name, text in parts.items()}
    return CallError(status, "refused", str(error).replace("\n", "; "), details=details, faults=faults)
