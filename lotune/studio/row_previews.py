"""What `lotune init` reads in a file of rows, and the rows as the model will see them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from lotune.data.examples import Example
from lotune.data.rows import MAX_LISTED, read_rows
from lotune.data.settings import split_sizes
from lotune.data.tokenized import EncodedRow, encode_row
from lotune.data.tokenizer_training import LightTokenizer
from lotune.errors import LotuneError
from lotune.files import write_atomically
from lotune.model.loading import NANO, base_folder
from lotune.model.settings import BaseSettings
from lotune.recipe import Recipe
from lotune.settings import load_yaml, validated
from lotune.stages.init import MAX_COUNTED_ROWS, nano_tokenizer, propose, survey_rows
from lotune.stages.served_runs import read_object
from lotune.studio.errors import CallError
from lotune.studio.recipe_forms import read_form, replace_task, require_inside
from lotune.studio.workspace import Workspace
from lotune.tasks import multiple_choice
from lotune.tasks.candidates import Wanted
from lotune.tasks.columns import SAMPLE, columns_of
from lotune.tasks.found_labels import with_found_labels
from lotune.tasks.recognition import ROLES, candidate_of
from lotune.tasks.registry import build_task
from lotune.tasks.settings import RowSettings, TaskSettings
from lotune.tasks.task import Task
from lotune.tasks.user_rows import generating

SHOWN = 5
"""Number of rows that are shown."""
ENCODED_CHARACTERS = 300_000
"""Number of characters, at the head of the file, whose tokens are counted: more would take longer than a moment."""
HEAD_BYTES = 4 * 2**20
"""Of a larger file, a preview reads the rows in so many bytes at its head."""
LINE_FORMATS = (".csv", ".tsv", ".jsonl", ".txt")
MAX_CELL = 80
MAX_SHOWN_TOKENS = 1_200


def first_recipe(workspace: Workspace, rows: str, base: str, wanted: Wanted) -> dict[str, Any]:
    """Write a first recipe for a file of rows, and return its form with the decisions behind it.

    Raises: CallError for a name that is not in the folder; DataError or SettingsError as `lotune init`.
    """
    workspace.rows(rows)
    proposal = propose(Path(rows), candidate_of(Path(rows), wanted), base)
    name = workspace.free_name(Path(rows).stem, ".yaml")
    write_atomically(workspace.folder / name, proposal.recipe)
    return read_form(workspace, name)


def read_again(workspace: Workspace, recipe: str, wanted: Wanted) -> dict[str, Any]:
    """Read the rows of a recipe as another task or with other columns, and return the form of the changed recipe.

    Raises: CallError and SettingsError as `read_form`; DataError if the rows do not fit.
    """
    train = read_form(workspace, recipe)["rows"]
    if not train:
        raise CallError(409, "no_rows", "the recipe names no file of rows", "set data.train")
    path = Path(train)
    proposal = propose(path, candidate_of(path, wanted), NANO)
    return replace_task(workspace, recipe, proposal.settings, proposal.skips)


def preview(workspace: Workspace, name: str, *, allow_outside: bool = False) -> dict[str, Any]:
    """Return what a recipe makes of its training rows; files outside of the folder are read only if that is allowed.

    `decisions` say how the rows are read and why; `columns` and `roles` are what can be chosen from; `rows` are the
    first ones, as tokens of prompt and answer; `counts` are of the rows that were read.

    Raises: SettingsError for a recipe at fault; CallError for one that reads files elsewhere; DataError for rows that
    it cannot use.
    """
    text = workspace.recipe(name).read_text(encoding="utf-8-sig")
    recipe = validated(Recipe, load_yaml(text, name) or {}, name)
    require_inside(workspace, recipe, allow_outside=allow_outside)
    if recipe.data.train is None:
        task = build_task(recipe.task)
        rows = _generated(task, recipe)
        return {**_told(task, recipe.task), "generated": True, "rows": rows, "columns": [], "decisions": []}
    with head_of(recipe.data.train) as (path, is_part):
        settings = with_found_labels(recipe.task, path, recipe.data.max_row_bytes)
        task = build_task(settings)
        columns = settings.columns if isinstance(settings, RowSettings) else {}
        read = task.read(path, on_error="skip")
        found = survey_rows(task, read, SHOWN)
        tokenizer, borrowed = tokenizer_of(recipe)
        limit = min(recipe.data.max_length or context_of(recipe), context_of(recipe))
        encoded = [encode_row(tokenizer, example) for example in _examples(task, read.rows)]
        validation, test = split_sizes(found.distinct)
        counted = min(len(read.rows), MAX_COUNTED_ROWS)
        return {
            **_told(task, settings), "generated": False, "is_part": is_part, "borrowed_tokenizer": borrowed,
            "columns": _columns(path), "decisions": _decisions(path, recipe, columns),
            "rows": [_tokens(tokenizer, encode_row(tokenizer, example)) for example in found.shown],
            "counts": {
                "read": found.read, "malformed": len(found.unusable), "kinds": found.kinds, "different": found.distinct,
                "duplicates": max(0, counted - round(found.distinct * counted / max(1, len(read.rows)))),
                "encoded": len(encoded), "limit": limit,
                "too_long": sum(len(row.token_ids) > limit for row in encoded),
                "longest": max((len(row.token_ids) for row in encoded), default=0),
                "validation": recipe.data.validation_rows or validation, "test": recipe.data.test_rows or test,
            },
            "malformed": [f"{row.where} {row.reason}" for row in found.unusable[:MAX_LISTED]],
        }  # fmt: skip


def _told(task: Task, settings: TaskSettings) -> dict[str, Any]:
    """Return what is told of a task: its columns by role, its labels, its measure, and what else could be chosen."""
    return {
        "task": task.name, "roles": list(ROLES.get(task.name, ())), "tasks": list(ROLES),
        "mapped": settings.columns if isinstance(settings, RowSettings) else {},
        "labels": dict(getattr(settings, "labels", {}) or {}), "metric": task.metric, "scorer": task.scorer,
    }  # fmt: skip


@contextmanager
def head_of(path: Path) -> Iterator[tuple[Path, bool]]:
    """Give a file of the same name with the first lines of a large file of rows, or the file itself if it is small.

    The second value tells whether it is a part.
    """
    if not path.is_file() or path.suffix.lower() not in LINE_FORMATS or path.stat().st_size <= 2 * HEAD_BYTES:
        yield path, False
        return
    with tempfile.TemporaryDirectory(prefix="lotune-head-") as folder:
        part = Path(folder) / path.name
        with path.open("rb") as file:
            part.write_bytes(file.read(HEAD_BYTES).rpartition(b"\n")[0] + b"\n")
        yield part, True


def tokenizer_of(recipe: Recipe) -> tuple[LightTokenizer, bool]:
    """Return the tokeniser of a recipe's base, and whether it is nano's in its place, as the base is not here yet."""
    try:
        folder = base_folder(recipe.base)
        return (LightTokenizer(folder), False) if folder is not None else (nano_tokenizer(), True)
    except (LotuneError, KeyError):
        return nano_tokenizer(), True


def context_of(recipe: Recipe) -> int:
    """Return the context of a recipe's base in tokens, as its config.json declares it; nano's for one not here yet."""
    try:
        folder = base_folder(recipe.base) or base_folder(BaseSettings())
    except LotuneError:
        folder = base_folder(BaseSettings())
    assert folder is not None
    return int(read_object(folder / "config.json").get("max_position_embeddings") or 2**17)


def _examples(task: Task, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Example]:
    """Yield the first examples, ENCODED_CHARACTERS long together, or the first one alone if it is longer."""
    characters = 0
    for row in rows:
        try:
            for example in task.examples([row], training=True):
                characters += len(example.prompt) + len(example.target)
                yield example
                if characters > ENCODED_CHARACTERS:
                    return
        except LotuneError:
            continue


def _generated(task: Task, recipe: Recipe) -> list[list[list[Any]]]:
    """Return rows of a task that generates its own."""
    tokenizer, _ = tokenizer_of(recipe)
    rows = enumerate(generating(task).generate_training_rows(SHOWN, recipe.seed), 1)
    examples = task.examples([(str(number), row) for number, row in islice(rows, SHOWN)], training=True)
    return [_tokens(tokenizer, encode_row(tokenizer, example)) for example in examples]


def _tokens(tokenizer: LightTokenizer, row: EncodedRow) -> list[list[Any]]:
    """Return the tokens of a row as texts, each with 1 if it is trained on, else 0."""
    spans, shown = row.spans, row.token_ids[:MAX_SHOWN_TOKENS]
    tokens: list[list[Any]] = []
    pending: list[int] = []
    for place, id in enumerate(shown):
        pending.append(id)
        text = tokenizer.decode(pending)
        # A character of several bytes may have several tokens; they are shown as one.
        if "\N{REPLACEMENT CHARACTER}" in text and place + 1 < len(shown) and len(pending) < 4:
            continue
        tokens.append([text, int(any(start <= place < end for start, end in spans))])
        pending = []
    if len(row.token_ids) > MAX_SHOWN_TOKENS:
        tokens.append([f" … {len(row.token_ids) - MAX_SHOWN_TOKENS:,} more", 0])
    return tokens


def _columns(path: Path) -> list[dict[str, Any]]:
    """Return name, kind and first cells of each column of a file of rows."""
    try:
        rows = read_rows(path, on_error="skip", headed=multiple_choice.names_columns).rows
    except LotuneError:
        return []
    sample = [row for _, row in islice(rows, SAMPLE)]
    return [
        {"name": column.name, "kind": column.kind, "cells": [cell[:MAX_CELL] for cell in column.cells[:3]],
         "values": len(column.values)}
        for column in columns_of(sample)
    ]  # fmt: skip


def _decisions(path: Path, recipe: Recipe, columns: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the decisions of `lotune init` that lead to the task of a recipe; none if it decides otherwise."""
    try:
        candidate = candidate_of(path, Wanted(recipe.task.name, dict(columns)))
    except LotuneError:
        return []
    others = [f"another reading: {other.text}" for other in candidate.others]
    found = [
        *((one.text, one.change) for one in candidate.decisions),
        *zip(others, (o.change for o in candidate.others), strict=True),
    ]
    return [{"text": text, "change": change} for text, change in found]
