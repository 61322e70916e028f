"""Commands of lotune that a call waits for: their JSON, or the error in the words of the terminal."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from lotune.studio.errors import CallError, not_found
from lotune.studio.jobs import command_line

SECONDS = 900.0
"""Seconds after which a command is ended."""
MAX_QUOTED = 2_000


async def run_json(folder: Path, words: Sequence[str]) -> Any:
    """Run `lotune WORDS --json` in a folder and return what it prints as JSON.

    Raises: CallError with the terminal's words if it fails or takes too long.
    """
    process = await asyncio.create_subprocess_exec(
        *command_line([*words, "--json"]), cwd=folder, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, said = await asyncio.wait_for(process.communicate(), SECONDS)
    except BaseException as error:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise CallError(503, "too_slow", f"the command took longer than {SECONDS:.0f} s") from None
        raise
    if process.returncode not in (0, 1):  # 1: a check failed, and its result is printed all the same
        raise CallError(422, "refused", error_of(said))
    try:
        return orjson.loads(out)
    except orjson.JSONDecodeError:
        raise CallError(422, "refused", error_of(said)) from None


def error_of(said: bytes) -> str:
    r"""Return the error at the end of what a command printed: three lines at most.

    >>> error_of(b"preparing\nr.yaml: is not YAML\nremedy: quote it\n")
    'r.yaml: is not YAML; remedy: quote it'
    """
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    error: list[str] = []
    for line in reversed(lines[-3:]):
        error.insert(0, line)
        if not line.startswith(("expected: ", "remedy: ")):
            break
    return "; ".join(error)[:MAX_QUOTED] or "the command ended without a word"


@dataclass(eq=False)
class Estimates:
    """The estimates of recipes, each from a dry run; one at a time, and a newer one replaces an older one."""

    folder: Path
    scratch: str
    """Folder for the rows that a dry run prepares, below the studio's folder."""
    _key: str = field(default="", init=False)
    _number: int = field(default=0, init=False)
    _task: asyncio.Task[Any] | None = field(default=None, init=False)

    def ask(self, recipe: str) -> dict[str, Any]:
        """Return the estimate of a recipe: its `state` is running, done or failed; a changed recipe starts anew."""
        key = self._key_of(recipe)
        if key != self._key or self._task is None:
            self.cancel()
            self._key, self._task = key, asyncio.create_task(self._estimate(recipe))
        if not self._task.done():
            return {"state": "running"}
        try:
            return {"state": "done", **self._task.result()}
        except CallError as error:
            return {"state": "failed", **error.body()}

    def is_running(self, recipe: str) -> bool:
        """Return whether the dry run of a recipe as it is now has been started."""
        return self._task is not None and self._key == self._key_of(recipe)

    def cancel(self) -> None:
        """End the dry run that works."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
        self._task = None

    async def _estimate(self, recipe: str) -> dict[str, Any]:
        self._number += 1
        scratch = f"{self.scratch}/{self._number}"  # an older one may not have been removed yet
        try:
            result = await run_json(self.folder, ["run", recipe, "--dry-run", f"runs={scratch}"])
        finally:
            await asyncio.to_thread(shutil.rmtree, self.folder / scratch, ignore_errors=True)
        counts, found = result.get("counts", {}), result.get("estimate") or {}
        return {"estimate": found, "settings": found.get("settings", {}), "counts": counts}

    def _key_of(self, recipe: str) -> str:
        try:
            digest = hashlib.sha256((self.folder / recipe).read_bytes())
        except OSError:
            raise not_found(recipe) from None
        return f"{recipe} {digest.hexdigest()}"


async def compare_runs(folder: Path, a: Path, b: Path) -> Any:
    """Return the paired comparison of two finished runs. Raises: CallError as `run_json`."""
    words = ["compare", str(a.relative_to(folder)), str(b.relative_to(folder))]
    return await run_json(folder, words)
