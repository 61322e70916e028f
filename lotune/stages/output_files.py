"""Files that a verb writes a line at a time: no input is written over, no valid line is lost, processes share one.

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
    """Nothing, where writing `out` leaves every input as it is. Raises: SettingsError where it is one, or in one."""
    if out is None:
        return
    place = out.resolve()
    for one in inputs:
        if one is None or not one.exists():
            continue
        there = one.resolve()
        same = out.exists() and out.samefile(one)
        if same or place == there or (one.is_dir() and place.is_relative_to(there)):
            found = f"lies in {one}, which is read" if one.is_dir() else "is read, and would be written over"
            raise SettingsError(option, f"{out} {found}", "a file of its own", "name another one")


def check_new(out: Path, force: bool) -> None:
    """Nothing, where `out` may be written. Raises: SettingsError where it is there already, unless `force` is given."""
    if out.exists() and not force:
        raise SettingsError(str(out), "is there already", remedy="name another file with --out, or give --force")


def check_fingerprints(out: Path, fingerprint: str) -> None:
    """Accept a file all of whose lines, and those of its parts, have this fingerprint.

    Raises: RunError where they hold something else, which stays as it is.
    """
    for file in (out, *_parts(out)):
        require_fingerprint(file, fingerprint)


def merge_rank_outputs(out: Path | None, world: ProcessGroup, work: Callable[[Path | None], bytes]) -> list[bytes]:
    """The lines that `work` finds in each process, by rank; all have all of them.

    Each process has a file of its own beside `out` to add its lines to; at the end `out` holds everything and the
    others are gone. What was written before, by however many processes, stands in the file that `work` is given, and
    what of it was not found again stays in `out`.
    """
    if out is None:
        return world.all_gather_bytes(_quiet_followers(world, work, None))
    parts = _parts(out)
    stored = stored_records((out, *parts))
    world.all_gather(0.0)  # everybody has read before anybody writes
    own = out.with_name(f"{out.name}.{world.rank + 1}-of-{world.size}") if world.size > 1 else out
    if parts or own != out:
        write_records(own, stored.values())
    everyone = world.all_gather_bytes(_quiet_followers(world, work, own))
    if world.is_main_process and world.size > 1:
        new = [orjson.loads(line) for part in everyone for _, line in record_lines(part)]
        ids = {record["id"] for record in new}
        write_records(out, [*(record for record in stored.values() if record.get("id") not in ids), *new])
    if world.is_main_process:
        for part in _parts(out):
            part.unlink()
    return everyone


def require_single_process(verb: str) -> None:
    """Nothing in one process. Raises: SettingsError where torchrun has started several."""
    if world_size() > 1:
        raise SettingsError("torchrun", f"{verb} works in one process", remedy="start lotune itself")


def _quiet_followers(world: ProcessGroup, work: Callable[[Path | None], bytes], own: Path | None) -> bytes:
    """What `work` finds; of several processes the first one speaks."""
    with nullcontext() if world.is_main_process else redirect_stderr(StringIO()):
        return work(own)


def _parts(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.name}.*-of-*"))
