"""Errors that come up from libraries and the system: those that a person can mend are told like our own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lotune.disk_space import disk_full_error, is_disk_full
from lotune.errors import DataError, LotuneError, RunError, SettingsError
from lotune.memory import is_out_of_memory

COMPILER_ERRORS = ("BackendCompilerFailed", "InductorError", "InvalidCxxCompiler")
"""What `torch.compile` raises where it finds no compiler, or one that fails."""


def check_words(words: Sequence[str]) -> None:
    """Return if a command line is text. Raises: SettingsError naming a word that is not, such as a file's name."""
    for word in words:
        if any("\udc80" <= character <= "\udcff" for character in word):
            shown = os.fsencode(word).decode(errors="backslashreplace")
            raise SettingsError(f"'{shown}'", "is not UTF-8", "UTF-8", "rename the file, or write the text in UTF-8")


def translate_error(error: BaseException) -> LotuneError | None:
    """The error to show for one that came up from anywhere; None for what only a traceback explains."""
    if isinstance(error, LotuneError):
        return error
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        shown = os.fsencode(error.object).decode(errors="backslashreplace")
        return DataError(f"'{shown[:200]}'", "is not UTF-8", "UTF-8", "rename the file, or save its text as UTF-8")
    named = getattr(error, "filename", None)
    path = Path(named) if isinstance(named, str) else None
    if is_disk_full(error):
        return disk_full_error(path or Path(), error, 0)
    if is_out_of_memory(error):
        remedy = "a smaller base, base.dtype=bfloat16, lower batch_tokens, or close other programs"
        return RunError(
            "memory", f"ran out ({str(error).splitlines()[0] if str(error) else 'no more is said'})", remedy=remedy
        )
    if type(error).__name__ in COMPILER_ERRORS:  # torch's, not imported here
        found = f"the model cannot be compiled: {' '.join(str(error).split())[:200]}"
        return RunError("compile", found, remedy="tune.compile=off or pretrain.compile=off, or install a C++ compiler")
    if isinstance(error, OSError) and path is not None:
        return RunError(str(path), f"cannot be read or written: {error.strerror}", remedy="check path and permissions")
    return None
