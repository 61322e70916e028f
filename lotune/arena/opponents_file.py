"""The file of an arena's opponents: local models, adapters, and models of other servers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from lotune.errors import SettingsError
from lotune.settings import Settings, read_settings


class OpponentSettings(Settings):
    """One opponent: a local `model` or `adapter`, or a `url` of another server."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """Name on the leaderboard."""
    model: str | None = None
    """Local model: a folder, a run, a name on the hub, or nano; with `url`, the model's name there."""
    adapter: str | None = None
    """Folder of a local adapter, which is served beside the weights of its base."""
    url: str | None = None
    """Address of an OpenAI-compatible server, or of one whose address ends with /generate."""
    key_env: str | None = None
    """Environment variable that holds the key of that server."""

    @model_validator(mode="after")
    def _one_place(self) -> OpponentSettings:
        if self.url is None and (self.model is None) == (self.adapter is None):
            raise ValueError("needs one of model, adapter and url")
        if self.url is not None and self.adapter is not None:
            raise ValueError("has an adapter and a url")
        if self.key_env is not None and self.url is None:
            raise ValueError("key_env is for a url")
        return self


class OpponentsFile(Settings):
    """The content of the file."""

    remedy: ClassVar[str] = "an opponent has name, and model, adapter or url"

    opponents: list[OpponentSettings]
    """The opponents."""


@dataclass
class Opponents:
    """The opponents of a file: sources of local models and adapters, addresses and keys of others, by name."""

    models: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    remotes: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict, repr=False)


def read_opponents(file: Path) -> Opponents:
    """Return the opponents of a YAML file, a list under `opponents`.

    Raises: SettingsError for a file that cannot be read, fewer than two opponents, a name that is there twice, or a key
    that is not in the environment.
    """
    settings = read_settings(OpponentsFile, file)
    names = [one.name for one in settings.opponents]
    if len(names) < 2:
        raise SettingsError(str(file), f"has {len(names)} opponents", "two or more")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(str(file), f"two opponents are called {twice[0]}", "names that differ")
    found = Opponents()
    for one in settings.opponents:
        if one.url is not None:
            found.remotes[one.name] = f"{one.url}#{one.model}" if one.model else one.url
            if one.key_env is not None:
                key = os.environ.get(one.key_env)
                if not key:
                    raise SettingsError(str(file), f"{one.key_env}, the key of {one.name}, is not set", "export it")
                found.keys[one.name] = key
        elif one.adapter is not None:
            found.adapters[one.name] = one.adapter
        else:
            found.models[one.name] = one.model or ""
    return found
