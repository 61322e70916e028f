"""Exceptions of libraries and the operating system, translated into LotuneError where a user can fix them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lotune.disk_space import disk_full_error, is_disk_full
from lotune.errors import DataError, LotuneError, RunError, SettingsError
from lotune.memory import is_out_of_memory

COMPILER_ERRORS = ("BackendCompilerFailed", "InductorError", "InvalidCxxCompiler")
"""Exceptions of `torch.compile` if the compiler is missing or fails."""


def check_arguments(words: Sequence[str]) -> None:
    """Raise SettingsError naming a word of the command line that is not UTF-8, such as a file name."""
    for word in words:
        # Python decodes bytes of the command line that are not UTF-8 as these surrogates (PEP 383).
        if any("\udc80" <= character <= "\udcff" for character in word):
            printable = os.fsencode(word).decode(errors="backslashreplace")
            raise SettingsError(
                f"'{printable}'", "is not UTF-8", "UTF-8", "rename the file, or write the text in UTF-8"
            )


def translate_error(error: BaseException) -> LotuneError | None:
    """Return the LotuneError to show for any exception, or None if only a traceback explains it."""
    if isinstance(error, LotuneError):
        return error
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        printable = os.fsencode(error.object).decode(errors="backslashreplace")
        return DataError(f"'{printable[:200]}'", "is not UTF-8", "UTF-8", "rename the file, or save its text as UTF-8")
    file_name = getattr(error, "filename", None)
    path = Path(file_name) if isinstance(file_name, str) else None
    # Before the other errors of the operating system, whose remedy would be another path.
    if is_disk_full(error):
        return disk_full_error(path or Path(), error, 0)
    if is_out_of_memory(error):
        remedy = "use a smaller base, base.dtype=bfloat16 or a lower max_batch_tokens, or close other programs"
        return RunError(
            "memory", f"ran out ({str(error).splitlines()[0] if str(error) else type(error).__name__})", remedy=remedy
        )
    if type(error).__name__ in COMPILER_ERRORS:  # by name, as importing torch takes too long here
        fault = f"the model cannot be compiled: {' '.join(str(error).split())[:200]}"
        return RunError(
            "compile", fault, remedy="set tune.compile=off or pretrain.compile=off, or install a C++ compiler"
        )
    if isinstance(error, OSError) and path is not None:
        return RunError(
            str(path), f"cannot be read or written: {error.strerror}", remedy="check the path and its permissions"
        )
    return None
