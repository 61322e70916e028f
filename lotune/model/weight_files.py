"""The weight files of a model, checked before a library opens them: safetensors inside the model's folder only.

transformers opens every file that an index or `transformers_weights` in config.json names, even a pickle, which can run
code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lotune.errors import ModelError
from lotune.model.settings import ADAPTER_CONFIG

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
INDEX_SUFFIX = ".index.json"


def weight_files(folder: Path, name: str) -> tuple[Path, ...]:
    """Return the files in a model's folder that its weights are read from; `name` is the model's name for messages.

    Raises: ModelError if they are missing, or if an index or config.json names a file of another kind or outside the
    folder. In the hub's cache, files may be links to its blobs.
    """
    configured = list(_named_weights(read_object(folder / CONFIG, name)))
    for file_name in configured:
        _check_kind(file_name.removesuffix(INDEX_SUFFIX), f"{name}/{CONFIG}")
    main = folder / (configured[0] if configured else WEIGHTS if (folder / WEIGHTS).is_file() else INDEX)
    files, source = [main], CONFIG if configured else ""
    if main.name.endswith(INDEX_SUFFIX) and main.is_file():
        files, source = [folder / file_name for file_name in _indexed(main, name)], main.name
    for file in files:
        if source and not is_inside(file, folder):
            found = f"names {file.relative_to(folder)}, a link out of the folder"
            raise ModelError(f"{name}/{source}", found, "files inside the folder")
        if not file.is_file():
            raise ModelError(name, f"has no {file.relative_to(folder)}", f"{WEIGHTS}, or its parts with their index")
    return tuple(files)


def weight_files_of_hub(name: str) -> tuple[Path, ...]:
    """Return the weight files of a model on the hub as paths in the hub's cache; parts may not be downloaded yet.

    Raises: ModelError as `weight_files` does, and for an adapter; OSError if the hub does not deliver the model.
    """
    from transformers.utils.hub import cached_file

    def find(file: str) -> Path | None:
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        return None if path is None else Path(path)

    # Here a missing network raises an error, while `find` takes a file that cannot be fetched for a missing one.
    config_path = cached_file(name, CONFIG)
    config = None if config_path is None else Path(config_path)
    if config is None:
        raise FileNotFoundError("it has no config.json")
    if find(ADAPTER_CONFIG) is not None:
        raise ModelError(name, "holds an adapter", "a complete model", "download it, and give the folder")
    for file_name in _named_weights(read_object(config, name)):
        found = f"names {file_name!r} as its weights"
        raise ModelError(f"{name}/{CONFIG}", found, f"{WEIGHTS}, or its parts with an index")
    if (weights := find(WEIGHTS)) is not None:
        return (weights,)
    if (index := find(INDEX)) is None:
        raise ModelError(name, "holds no weights in safetensors", f"{WEIGHTS}, or its parts with their index")
    return tuple(index.parent / file for file in _indexed(index, name))


def _named_weights(config: Any) -> Iterator[str]:
    """Yield the files that a configuration or a part of it names as weights."""
    for key, value in config.items():
        if key == "transformers_weights" and value is not None:
            yield str(value)
        elif isinstance(value, dict):
            yield from _named_weights(value)


def _indexed(index: Path, name: str) -> list[str]:
    """Return the files that an index names. Raises: ModelError unless all of them are safetensors."""
    weights, where = read_object(index, name).get("weight_map"), f"{name}/{index.name}"
    if not isinstance(weights, dict) or not weights or not all(isinstance(file, str) for file in weights.values()):
        raise ModelError(where, "names no files", "weight_map: the file of each weight")
    files = sorted(set(weights.values()))
    for file in files:
        _check_kind(file, where)
    return files


def _check_kind(file: str, where: str) -> None:
    """Raise ModelError for a file that is not safetensors or lies outside the folder."""
    path = PurePosixPath(file.replace("\\", "/"))  # backslashes separate folders on Windows
    if not file.endswith(".safetensors"):
        found = f"names {file!r}, which is not a safetensors file"
        raise ModelError(where, found, "*.safetensors: others can run code when opened", "take another copy")
    if path.is_absolute() or ".." in path.parts or path.parts[0].endswith(":"):
        raise ModelError(where, f"names {file!r}, outside the folder", "files inside the folder")


def is_inside(file: Path, folder: Path) -> bool:
    """Return whether a file, after resolving links, lies in the folder or in the blobs of the surrounding hub cache."""
    home, target = folder.resolve(), file.resolve()
    blobs = [home.parents[1] / "blobs"] if home.parent.name == "snapshots" else []
    return any(target.is_relative_to(inside) for inside in (home, *blobs))


def read_object(path: Path, name: str) -> dict[str, Any]:
    """Return the object in a JSON file of the model `name`. Raises: ModelError if it cannot be read or is no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{name}/{path.name}", f"cannot be read: {error}", "JSON") from None
    if not isinstance(content, dict):
        raise ModelError(f"{name}/{path.name}", "holds no object", "JSON as in Hugging Face's layout")
    return content
