"""The process that reads rows and recipes for a studio, so that no file of a user can stall or fill the server.

It reads a request as one line of JSON from stdin, `{"call": NAME, ...}`, and answers with one line on stdout:
`{"result": ...}`, or `{"error": ..., "status": ...}`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lotune.errors import LotuneError
from lotune.files import to_json
from lotune.library_errors import translate_error
from lotune.studio.errors import CallError, call_error
from lotune.studio.questions import fields_of, prompt_of
from lotune.studio.recipe_forms import change_recipe, check_startable, copy_recipe, read_form, shipped_recipe
from lotune.studio.row_previews import first_recipe, preview, read_again
from lotune.studio.settings_list import settings_list
from lotune.studio.workspace import Workspace
from lotune.tasks.candidates import Wanted


def _wanted(request: Mapping[str, Any]) -> Wanted:
    return Wanted(request.get("task") or None, dict(request.get("columns") or {}))


CALLS: Mapping[str, Callable[[Workspace, Mapping[str, Any]], Any]] = {
    "init": lambda at, asked: first_recipe(at, asked["rows"], asked["base"], _wanted(asked)),
    "form": lambda at, asked: read_form(at, asked["recipe"]),
    "change": lambda at, asked: change_recipe(at, asked["recipe"], asked["changes"]),
    "reread": lambda at, asked: read_again(at, asked["recipe"], _wanted(asked)),
    "copy": lambda at, asked: copy_recipe(at, asked["run"]),
    "example": lambda at, asked: shipped_recipe(at, asked["name"]),
    "fields": lambda at, asked: fields_of(at, asked["run"]),
    "prompt": lambda at, asked: prompt_of(at, asked["run"], asked["values"]),
    "preview": lambda at, asked: preview(at, asked["recipe"], allow_outside=asked["allow_outside"]),
    "startable": lambda at, asked: check_startable(at, asked["recipe"], allow_outside=asked["allow_outside"]),
    "settings": lambda at, asked: settings_list(),
}
"""What can be asked, by name."""


def answer(workspace: Workspace, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a request."""
    try:
        return {"result": CALLS[request["call"]](workspace, request)}
    except CallError as error:
        return {"error": error.body()["error"], "status": error.status}
    except Exception as error:
        own = translate_error(error)
        if not isinstance(own, LotuneError):
            raise
        refused = call_error(own)
        return {"error": refused.body()["error"], "status": refused.status}


def main() -> None:
    """Answer the requests on stdin about the folder that is named on the command line, until stdin ends."""
    import orjson

    workspace = Workspace.at(Path(sys.argv[1]))
    os.chdir(workspace.folder)  # paths in a recipe begin there
    out = sys.stdout.buffer
    with redirect_stdout(sys.stderr):  # what libraries print is no answer
        for line in sys.stdin.buffer:
            out.write(to_json(answer(workspace, orjson.loads(line))) + b"\n")
            out.flush()


if __name__ == "__main__":
    main()
