"""A recipe as a form: what it says, what is at fault, and changes that keep its comments."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lotune.errors import LotuneError, SettingsError
from lotune.files import write_atomically
from lotune.model.loading import NANO
from lotune.recipe import Recipe, input_files
from lotune.settings import flatten, load_yaml, override_value, validated
from lotune.stages.copy_recipe import copy_recipe as copy_shipped
from lotune.studio.errors import CallError
from lotune.studio.workspace import RUNS, Workspace
from lotune.tasks.settings import TaskSettings

LONGEST_LINE = 4096
"""Length above which a line of a recipe would be broken; below it, lines stay as they are."""
UNSET = None
"""The change that takes a setting out of a recipe, so that its default holds."""


def read_form(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return a recipe as a form.

    It has the file's name and `text`, the name of its `run`, the settings that it gives and all that hold by dotted
    key, the `faults` by dotted key, the files `outside` of the folder that it names, and the command that runs it.

    Raises: CallError for a name that is no recipe; SettingsError for a file that is not YAML.
    """
    path = workspace.recipe(name)
    text = path.read_text(encoding="utf-8-sig")
    values = load_yaml(text, name) or {}
    if not isinstance(values, dict):
        raise SettingsError(name, f"holds a {type(values).__name__}", "lines of the form `key: value`")
    form: dict[str, Any] = {"file": name, "text": text, "given": flatten(values), "faults": {}, "fault": ""}
    try:
        recipe = validated(Recipe, values, name)
    except SettingsError as error:
        form |= {"faults": dict(error.faults), "fault": str(error), "values": {}, "outside": []}
        run = values.get("name") or path.stem
    else:
        run = recipe.name or path.stem
        form |= {"values": flatten(recipe), "outside": outside(workspace, recipe)}
    form["run"], form["command"] = str(run), shlex.join(run_words(name))
    form["rows"] = form["given"].get("data.train")
    return form


def run_words(recipe: str) -> list[str]:
    """Return the command that runs a recipe."""
    return ["lotune", "run", recipe]


def change_recipe(workspace: Workspace, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change settings of a recipe by dotted key, and return its form; comments and all other lines stay.

    A text is read as in an override of the command line, UNSET takes the setting out.

    Raises: CallError as `read_form`; SettingsError, and nothing is written, if a changed setting is at fault.
    """
    path = workspace.recipe(name)
    document = _load(path)
    for key, value in changes.items():
        set_value(document, key, override_value(Recipe, key, value) if isinstance(value, str) else value)
    _write_valid(path, document, changes)
    return read_form(workspace, name)


def replace_task(workspace: Workspace, name: str, settings: TaskSettings, skips: bool) -> dict[str, Any]:
    """Give a recipe another task, and return its form; all else stays."""
    path = workspace.recipe(name)
    document = _load(path)
    task = {"name": settings.name, **settings.model_dump(mode="json", exclude_defaults=True)}
    old = document.get("task")
    if isinstance(old, dict):
        for key in [key for key in old if key not in task]:
            del old[key]
        old.update(task)
    else:
        document["task"] = task
    if skips:
        set_value(document, "data.on_error", "skip")
    _write_valid(path, document, {"task": ""})
    return read_form(workspace, name)


def copy_recipe(workspace: Workspace, run: str) -> dict[str, Any]:
    """Copy the recipe of a run under a new name, and return the form of the copy.

    It is the recipe's own file with its comments if that still is what the run has used, and else the run's.
    """
    own = next((path for path in (workspace.folder / f"{run}.yaml", workspace.folder / f"{run}.yml") if path.is_file()),
               None)  # fmt: skip
    ran = workspace.runs / run / "recipe.yaml"
    source = own or ran
    if not source.is_file():
        raise CallError(404, "not_found", f"the run {run} has no recipe here")
    name = workspace.free_name(base_stem(run), ".yaml")
    document = _load(source)
    for key in ("name", "runs"):
        document.pop(key, None)
    write_atomically(workspace.folder / name, _dumped(document))
    return read_form(workspace, name)


def shipped_recipe(workspace: Workspace, shipped: str) -> str:
    """Copy a recipe of lotune into the folder, and return the name of the file."""
    name = workspace.free_name(shipped, ".yaml")
    copy_shipped(shipped, workspace.folder / name, force=False)
    return name


def base_stem(name: str) -> str:
    """Return a name without the number of a copy.

    >>> base_stem("reviews-2"), base_stem("reviews"), base_stem("2024")
    ('reviews', 'reviews', '2024')
    """
    stem, _, number = name.rpartition("-")
    return stem if stem and number.isdigit() and len(number) < 4 else name


def outside(workspace: Workspace, recipe: Recipe) -> list[str]:
    """Return the paths in a recipe that lead out of the folder, such as those of rows or a base."""
    paths = [*input_files(recipe).values(), *_base_path(recipe)]
    return sorted({str(path) for path in paths if not workspace.contains(workspace.folder / path.expanduser())})


def require_inside(workspace: Workspace, recipe: Recipe, *, allow_outside: bool) -> None:
    """Raise CallError for a recipe that names files outside of the folder, unless somebody has allowed it."""
    leading = outside(workspace, recipe)
    if leading and not allow_outside:
        raise CallError(
            403, "outside", f"the recipe reads files outside of this folder: {', '.join(leading)}",
            "allow it, or copy them here", outside=leading,
        )  # fmt: skip


def check_startable(workspace: Workspace, name: str, *, allow_outside: bool) -> str:
    """Return the name of the run that a recipe starts.

    Raises: SettingsError for a recipe at fault; CallError if it names files outside of the folder that nobody has
    allowed, or keeps its runs elsewhere.
    """
    recipe = validated(Recipe, load_yaml(workspace.recipe(name).read_text(encoding="utf-8-sig"), name) or {}, name)
    if (workspace.folder / recipe.runs).resolve() != workspace.runs.resolve():
        raise CallError(
            403, "outside", f"the recipe keeps its runs in {recipe.runs}", f"take out runs, or set it to {RUNS}"
        )
    require_inside(workspace, recipe, allow_outside=allow_outside)
    run = recipe.name or Path(name).stem
    workspace.run(run)
    return run


def _base_path(recipe: Recipe) -> Iterator[Path]:
    """Yield the base model's path if it is one."""
    name = recipe.base.model
    path = Path(name)
    if name != NANO and (path.is_absolute() or name.startswith((".", "~")) or path.expanduser().exists()):
        yield path


def set_value(document: Any, key: str, value: Any) -> None:
    """Set the value under a dotted key of a document, or take it out; groups that are left empty go, too.

    Raises: SettingsError if a part of the key is a single value.
    """
    *groups, last = key.split(".")
    path = [document]
    for group in groups:
        inner = path[-1].get(group)
        if inner is None:
            if value is UNSET:
                return
            inner = path[-1][group] = {}
        if not isinstance(inner, dict):
            raise SettingsError(key, f"{group} is a single value in the recipe", "a group of settings")
        path.append(path[-1][group])
    if value is not UNSET:
        path[-1][last] = value
        return
    path[-1].pop(last, None)
    for parent, group in reversed(list(zip(path, groups, strict=False))):
        if not parent[group]:
            del parent[group]


def _write_valid(path: Path, document: Any, changed: Mapping[str, Any]) -> None:
    """Write a document, unless a changed setting is at fault."""
    text = _dumped(document)
    try:
        validated(Recipe, load_yaml(text, path.name) or {}, path.name)
    except SettingsError as error:
        # A recipe of one's own may have been at fault before; mending one setting at a time must be possible.
        mine = {key: fault for key, fault in error.faults.items() if any(_touches(key, one) for one in changed)}
        if mine or not error.faults:
            error.faults = mine
            raise
    write_atomically(path, text)


def _touches(fault: str, change: str) -> bool:
    return fault == change or fault.startswith(f"{change}.") or change.startswith(f"{fault}.")


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = LONGEST_LINE
    return yaml


def _load(path: Path) -> Any:
    """Return a YAML document with its comments. Raises: SettingsError if it cannot be read."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        values = load_yaml(text, path.name)  # its errors are in lotune's words
        if values is not None and not isinstance(values, dict):
            raise SettingsError(path.name, f"holds a {type(values).__name__}", "lines of the form `key: value`")
        return _yaml().load(text) if values else _empty(text)
    except LotuneError:
        raise
    except Exception as error:  # ruamel's own, for what only it refuses
        raise SettingsError(path.name, f"is not YAML: {' '.join(str(error).split())[:200]}") from None


def _empty(text: str) -> Any:
    from ruamel.yaml.comments import CommentedMap

    document = CommentedMap()
    if text.strip():
        document.yaml_set_start_comment("\n".join(line.lstrip("# ") for line in text.splitlines()))
    return document


def _dumped(document: Any) -> str:
    out = io.StringIO()
    _yaml().dump(document, out)
    return out.getvalue()
