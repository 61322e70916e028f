"""`lotune init --from`: a recipe of lotune as a file to change."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.errors import SettingsError
from lotune.files import write_atomically
from lotune.recipes.shipped import FOLDER, recipe_names
from lotune.settings import join_names
from lotune.stages.output_files import check_new


def copy_recipe(name: str, out: Path | None, force: bool) -> dict[str, Any]:
    """Copy a shipped recipe to `out`, by default NAME.yaml in the current folder.

    Raises: SettingsError for an unknown name, or if the file exists and `force` is not given.
    """
    if name not in recipe_names():
        remedy = "`lotune run --list` describes them"
        raise SettingsError("--from", f"{name!r} is not a recipe of lotune", join_names(recipe_names()), remedy)
    target = out or Path(f"{name}.yaml")
    check_new(target, force)
    write_atomically(target, (FOLDER / f"{name}.yaml").read_bytes())
    print_status(f"recipe written: lotune run {shlex.quote(str(target))}")
    return {"recipe": str(target)}
