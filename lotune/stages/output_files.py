"""Output files that grow by one line at a time: they never overwrite an input or lose a valid line on resuming.

A line is a JSON object with an `id`, and the `fingerprint` of all that its content depends on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path

import orjson

from lotune.distributed import ProcessGroup, world_size
from lotune.errors import SettingsError
from lotune.record_files import record_lines, require_fingerprint, stored_records, write_records


def refuse_overwriting_inputs(out: Path | None, *inputs: Path | None, option: str = "--out") -> None:
    """Raise SettingsError if `out` is one of the inputs, or is inside one."""
    if out is None:
        return
    out_path = out.resolve()
    for source in inputs:
        if source is None or not source.exists():
            continue
        source_path = source.resolve()
        # A hard link has another path, and so has a file on a file system that ignores case.
        same = out.exists() and out.samefile(source)
        if same or out_path == source_path or (source.is_dir() and out_path.is_relative_to(source_path)):
            found = (
                f"is inside {source}, which is an input" if source.is_dir() else "is an input, and would be overwritten"
            )
            raise SettingsError(option, f"{out} {found}", "a separate file", "choose another name")


def check_new(out: Path, force: bool) -> None:
    """Raise SettingsError if `out` exists already, unless `force` is given."""
    if out.exists() and not force:
        raise SettingsError(str(out), "already exists", remedy="choose another file with --out, or pass --force")


def check_fingerprints(out: Path, fingerprint: str) -> None:
    """Raise RunError if a line of a file or of its parts has another fingerprint; the files stay as they are."""
    for file in (out, *_parts(out)):
        require_fingerprint(file, fingerprint)


def merge_rank_outputs(out: Path | None, world: ProcessGroup, work: Callable[[Path | None], bytes]) -> list[bytes]:
    """Call `work` in each process, and return the lines of all processes by rank.

    Each process appends to its own part beside `out`. At the end `out` holds all lines, and the parts are deleted.
    The file that `work` receives holds the lines of earlier calls, whatever their number of processes. Earlier lines
    that `work` does not return again stay in `out`.
    """
    if out is None:
        return world.all_gather_bytes(_quiet_followers(world, work, None))
    parts = _parts(out)
    stored = stored_records((out, *parts))
    world.all_gather(0.0)  # a barrier: a process that writes its part must not hide lines that another still reads
    rank_path = out.with_name(f"{out.name}.{world.rank + 1}-of-{world.size}") if world.size > 1 else out
    if parts or rank_path != out:
        write_records(rank_path, stored.values())
    rank_outputs = world.all_gather_bytes(_quiet_followers(world, work, rank_path))
    if world.is_main_process and world.size > 1:
        new = [orjson.loads(line) for part in rank_outputs for _, line in record_lines(part)]
        ids = {record["id"] for record in new}
        write_records(out, [*(record for record in stored.values() if record.get("id") not in ids), *new])
    # After `out` is complete: a crash between the two leaves each line in a part, in `out` or in both.
    if world.is_main_process:
        for part in _parts(out):
            part.unlink()
    return rank_outputs


def require_single_process(verb: str) -> None:
    """Raise SettingsError if torchrun has started several processes."""
    if world_size() > 1:
        raise SettingsError("torchrun", f"lotune {verb} runs in a single process", remedy="run it without torchrun")


def _quiet_followers(world: ProcessGroup, work: Callable[[Path | None], bytes], rank_path: Path | None) -> bytes:
    """Return the result of `work`; only the main process writes to stderr."""
    with nullcontext() if world.is_main_process else redirect_stderr(StringIO()):
        return work(rank_path)


def _parts(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.name}.*-of-*"))
