"""A studio for each module, with a base model in its folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from studios import StudioAddress, studio_at


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_base: Path) -> Path:
    """The folder of the studio; `base` in it is a base model."""
    folder = tmp_path_factory.mktemp("studio")
    shutil.copytree(small_base, folder / "base")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[StudioAddress]:
    with studio_at(folder) as address:
        yield address
