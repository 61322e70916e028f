"""The shape of a base model by its name: from a config.json if there is one, or from the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lotune.errors import ModelError
from lotune.model.catalogue import CATALOGUE, catalogue_name
from lotune.model.loading import base_folder, meta_model_from
from lotune.model.settings import ADAPTER_CONFIG, BaseSettings
from lotune.model.shapes import ModelShape, shape_of_config
from lotune.model.weight_files import CONFIG, read_object

MAX_CONFIG_BYTES = 10_000_000
"""Size of a configuration beyond which it is damaged or hostile; real ones have a few kilobytes."""


@dataclass(frozen=True)
class KnownBase:
    """A base model: its name, where its shape comes from, and the shape."""

    name: str
    source: Literal["catalogue", "config.json", "transformers"]
    shape: ModelShape
    folder: Path | None = None


def known_base(name: str, *, hub: bool = True) -> KnownBase:
    """Return the base that a name stands for: a folder, a config.json, nano, or a name of the catalogue or the hub.

    The configuration of an architecture that lotune has no formula for is read by transformers, without weights; with
    `hub`, so is that of a name on the Hugging Face hub.

    Raises: ModelError if there is no such base, or if its configuration cannot be read.
    """
    if Path(name).expanduser().is_file():
        return _from_file(Path(name).expanduser(), name)
    known = catalogue_name(name)
    try:
        folder = base_folder(BaseSettings(model=name))
    except ModelError as error:
        raise ModelError(error.where, error.found, _expected(), error.remedy) from None
    if folder is not None:
        if not (folder / CONFIG).is_file():
            kind = "holds an adapter" if (folder / ADAPTER_CONFIG).exists() else f"has no {CONFIG}"
            raise ModelError(name, kind, _expected())
        return _from_file(folder / CONFIG, name)
    if known is not None:
        return KnownBase(known, "catalogue", CATALOGUE[known].shape)
    if not hub:
        raise ModelError(name, "is not in the catalogue", _expected())
    try:
        return _read_by_transformers(name, name, None)
    except ModelError as error:
        raise ModelError(name, error.found, f"{_expected()}, or a name on the hub") from None


def read_config(path: Path, name: str) -> dict[str, object]:
    """Return the content of a JSON file of a model. Raises: ModelError if it is too large or cannot be read."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(str(path), f"has {path.stat().st_size:,} bytes", f"at most {MAX_CONFIG_BYTES:,}")
    return read_object(path, name)


def _from_file(file: Path, name: str) -> KnownBase:
    config = read_config(file, str(file.parent))
    if "model_type" not in config:
        raise ModelError(str(file), "names no model_type", "a config.json in Hugging Face's layout")
    shape = shape_of_config(config, str(file))
    if shape is not None:
        return KnownBase(name, "config.json", shape, file.parent)
    return _read_by_transformers(str(file), name, file.parent)


def _read_by_transformers(source: str, name: str, folder: Path | None) -> KnownBase:
    model = meta_model_from(source, name, is_on_hub=folder is None)
    from lotune.model.methods.targets import shape_of_model

    return KnownBase(name, "transformers", shape_of_model(model), folder)


def _expected() -> str:
    return f"a folder, a {CONFIG}, or one of {', '.join(CATALOGUE)}"
