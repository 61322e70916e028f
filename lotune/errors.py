"""Exceptions that lotune raises on purpose.

    LotuneError                exit status 2: something the caller can fix
    ├── SettingsError          a recipe, an override or an option
    ├── DataError              rows, files, tokens
    ├── ModelError             a base model, an adapter, a checkpoint folder
    ├── RunError               a run folder: of another recipe, in use, damaged
    └── CheckError             a check of finished work failed (exit status 1)

A message names the place, the fault, what was expected and the remedy, in at most three lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class LotuneError(Exception):
    """Something the caller can fix.

    `where` is a file (with its line), a setting or an option. `found`, `expected` and `remedy` are clauses without a
    full stop. `str(error)` has at most three lines.
    """

    exit_status = 2

    def __init__(self, where: str, found: str, expected: str = "", remedy: str = "") -> None:
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy
        # The parts stay fields: a caller that knows more of the place raises the error again with them.
        lines = [f"{where}: {found}"]
        if expected:
            lines.append(f"expected: {expected}")
        if remedy:
            lines.append(f"remedy: {remedy}")
        super().__init__("\n".join(lines))


class SettingsError(LotuneError):
    """A recipe, an override or an option cannot be read or is out of range."""

    faults: Mapping[str, str] = MappingProxyType({})
    """A clause for each setting at fault by its dotted key; empty if the whole file or an option is at fault."""


class DataError(LotuneError):
    """Rows or files cannot be used."""


class ModelError(LotuneError):
    """A base model, an adapter or a checkpoint folder cannot be used."""


class RunError(LotuneError):
    """A run folder belongs to another recipe, is in use or is damaged."""


class CheckError(LotuneError):
    """A check on finished work failed: the result must not be trusted.

    `result` is what --json prints in spite of the failure, None for nothing.
    """

    exit_status = 1

    def __init__(self, where: str, found: str, expected: str = "", remedy: str = "", result: object = None) -> None:
        super().__init__(where, found, expected, remedy)
        self.result = result


def install_extra(name: str) -> str:
    """Return the remedy for a missing optional dependency.

    >>> install_extra("vllm")
    "pip install '.[vllm]' in lotune's source folder"
    """
    return f"pip install '.[{name}]' in lotune's source folder"
