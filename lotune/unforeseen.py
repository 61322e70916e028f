"""Errors that come up from libraries and the system: those that a person can mend are told like our own."""

from __future__ import annotations

from pathlib import Path

from lotune.disk import is_full, no_room
from lotune.errors import LotuneError, RunError
from lotune.memory import ran_out

NO_COMPILER = ("BackendCompilerFailed", "InductorError", "InvalidCxxCompiler")
"""What `torch.compile` raises where it finds no compiler, or one that fails."""


def as_lotune_error(error: BaseException) -> LotuneError | None:
    """The error to show for one that came up from anywhere; None for what only a traceback explains."""
    if isinstance(error, LotuneError):
        return error
    named = getattr(error, "filename", None)
    path = Path(named) if isinstance(named, str) else None
    if is_full(error):
        return no_room(path or Path(), error, 0)
    if ran_out(error):
        remedy = "a smaller base, base.dtype=bfloat16, lower batch_tokens, or close other programs"
        return RunError(
            "memory", f"ran out ({str(error).splitlines()[0] if str(error) else 'no more is said'})", remedy=remedy
        )
    if type(error).__name__ in NO_COMPILER:  # torch's, not imported here
        found = f"the model cannot be compiled: {' '.join(str(error).split())[:200]}"
        return RunError("compile", found, remedy="tune.compile=no or pretrain.compile=false, or install a C++ compiler")
    if isinstance(error, OSError) and path is not None:
        return RunError(str(path), f"cannot be read or written: {error.strerror}", remedy="check path and permissions")
    return None
