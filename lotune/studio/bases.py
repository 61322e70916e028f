"""Base models that a run can start from: nano, folders, finished runs, and the size of one on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lotune.errors import LotuneError
from lotune.model.loading import NANO
from lotune.stages.served_runs import read_object
from lotune.studio.errors import CallError
from lotune.studio.run_states import Runs
from lotune.studio.workspace import DEPTH, RUNS, Workspace

NEEDED_FILES = (".safetensors", ".json", ".model", ".txt", ".jinja")
"""Suffixes of a model's files that are fetched."""
HUB_SECONDS = 10.0


def local_bases(workspace: Workspace, runs: Runs) -> list[dict[str, Any]]:
    """Return name, kind and size in bytes of nano, of the models in the folder and of those that runs have made."""
    found = [{"name": NANO, "kind": "nano", "bytes": None}]
    found += [_base(workspace, path, "folder") for path in _models(workspace, workspace.folder, DEPTH)]
    for name in runs.names():
        folder = workspace.runs / name
        if (folder / "pretraining.json").is_file():
            found.append({"name": f"{RUNS}/{name}", "kind": "run", "bytes": None})
        chosen = read_object(folder / "tuning.json").get("chosen")
        merged = folder / "checkpoints" / str(chosen) / "merged"
        if chosen and (merged / "config.json").is_file():
            found.append(_base(workspace, merged, "run"))
    return found


def hub_base(name: str) -> dict[str, Any]:
    """Return the size in bytes of a model on the hub, and whether it has been fetched already; fetch nothing.

    Raises: CallError if the hub has no such model or cannot be reached.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    from lotune.model.hub_errors import hub_fault

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CallError(400, "bad_name", f"{name!r} is no name of a model on the hub", "OWNER/MODEL")
    try:
        fetched = isinstance(try_to_load_from_cache(name, "config.json"), str)
        found = HfApi().model_info(name, files_metadata=True, timeout=HUB_SECONDS)
    except Exception as error:
        if isinstance(error, LotuneError):
            raise
        what, remedy = hub_fault(name, error)
        raise CallError(502, "hub", f"{name} {what}", remedy) from None
    files = [one for one in found.siblings or () if one.rfilename.endswith(NEEDED_FILES) and "/" not in one.rfilename]
    if not any(one.rfilename.endswith(".safetensors") for one in files):
        raise CallError(422, "no_safetensors", f"{name} has no safetensors", "lotune reads no other weights")
    return {"name": name, "kind": "hub", "bytes": sum(one.size or 0 for one in files), "fetched": fetched}


def _models(workspace: Workspace, folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for path in entries:
        if path.name.startswith(".") or not path.is_dir() or not workspace.contains(path):
            continue
        if (path / "config.json").is_file():
            yield path
        elif depth and not (folder == workspace.folder and path.name == RUNS):
            yield from _models(workspace, path, depth - 1)


def _base(workspace: Workspace, path: Path, kind: str) -> dict[str, Any]:
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return {"name": path.relative_to(workspace.folder).as_posix(), "kind": kind, "bytes": size}
