"""`lotune inspect`: rows, blocks and steps as tokens, as a model is trained on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lotune.data.samplers import pretraining_rows_of_step, rows_of_step, steps_for_epochs
from lotune.data.token_bytes import token_bytes
from lotune.data.token_files import TokenFile
from lotune.data.tokenized import EncodedRow, encode_row
from lotune.errors import DataError, RunError, SettingsError
from lotune.model.loading import load_tokenizer
from lotune.recipe import Recipe, RunOptions, read_recipe
from lotune.stages.auto_settings import with_stored_settings
from lotune.stages.pretraining_corpus import tokenizer_folder
from lotune.stages.pretraining_validation import unscored_id
from lotune.stages.prompt_template import build_prompted_task
from lotune.stages.tuning_session import make_plan
from lotune.text_display import print_visible, show_control_characters

BORDER = "│"
"""Stands between two tokens."""


@dataclass(frozen=True)
class InspectedRow:
    r"""A row as tokens: their ids, their texts, and which of them are in the loss.

    Bytes of a token that are no whole characters are written as in `\xe5`. `number` counts rows from 1.
    """

    number: int
    id: str
    token_ids: Sequence[int]
    texts: Sequence[str]
    scored: Sequence[bool]
    is_replay: bool = False


def inspect_run(
    folder: Path, part: str, row: str | None, step: int | None, ids: bool, options: RunOptions
) -> dict[str, Any]:
    """Print a row of a run's token file, or those of a step; return them.

    `row` is a number from 1, or an id that is no number, such as train.jsonl:12.

    Raises: RunError for a folder without token files; DataError for a row that does not exist; SettingsError for a row
    together with a step, and for a step that is not planned.
    """
    if row is not None and step is not None:
        raise SettingsError("--row", "is given beside --step", "one of them")
    recipe = with_stored_settings(read_recipe(folder / "recipe.yaml"), folder)
    recipe = recipe.model_copy(update={"runs": folder.parent, "name": folder.name})
    stem = folder / "data" / part
    try:
        rows = TokenFile(stem)
    except FileNotFoundError:
        parts = sorted(path.name.partition(".")[0] for path in (folder / "data").glob("*.tokens.json"))
        expected = f"one of {', '.join(parts)}" if parts else "a run that was prepared or pre-trained"
        raise RunError(str(stem), "there are no tokens", expected, "name the part with --part") from None
    tokenizer, unscored = _tokenizer_of(recipe, folder)
    indices = [_index(rows, row or "1", stem)] if step is None else _of_step(recipe, rows, step)
    found = zip(indices, rows.ids(indices), strict=True)
    return _shown([_inspected(tokenizer, rows[index], index, id, unscored) for index, id in found], ids, options)


def inspect_file(path: Path, recipe: Recipe, row: str | None, ids: bool, options: RunOptions) -> dict[str, Any]:
    """Print a row of a file as the task and the base of a recipe encode it; return it.

    Raises: DataError if the file has no such row, or if the row cannot be used.
    """
    task = build_prompted_task(recipe.task, recipe.base)
    found = task.read(path, on_error=recipe.data.on_error, max_row_bytes=recipe.data.max_row_bytes)
    examples = list(task.examples(found.rows, training=True))
    names = [example.id for example in examples]
    index = _number(row or "1", names, len(examples), path)
    tokenizer = load_tokenizer(recipe.base)[0]
    encoded = encode_row(tokenizer, examples[index])
    return _shown([_inspected(tokenizer, encoded, index, names[index], None)], ids, options)


def _tokenizer_of(recipe: Recipe, folder: Path) -> tuple[Any, int | None]:
    """Return the tokeniser of a run, and the id that is not in the loss though it ends the row."""
    if recipe.pretrain is None:
        return load_tokenizer(recipe.base)[0], None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(recipe.pretrain, folder / "data"))
    return tokenizer, unscored_id(recipe.pretrain, tokenizer)


def _index(rows: TokenFile, row: str, stem: Path) -> int:
    return _number(row, rows.ids(range(len(rows))) if not row.isdecimal() else [], len(rows), stem)


def _number(row: str, names: Sequence[str], count: int, where: Path) -> int:
    """Return the index of a row from its number or its id. Raises: DataError if there is no such row."""
    if row.isdecimal() and 1 <= int(row) <= count:
        return int(row) - 1
    if row in names:
        return names.index(row)
    example = f", or an id such as {names[0]}" if names else ""
    raise DataError(str(where), f"has no row {row}", f"1 to {count:,}{example}")


def _of_step(recipe: Recipe, rows: TokenFile, step: int) -> list[int]:
    """Return the indices of the rows of a step. Raises: SettingsError for a step that is not planned."""
    if (settings := recipe.pretrain) is None:
        plan = make_plan(recipe, len(rows), rows.replayed)
        _check_step(step, plan.steps)
        return rows_of_step(len(rows), plan.step_rows, recipe.seed, step, plan.pool)
    steps_of = partial(steps_for_epochs, rows, batch_tokens=settings.step_tokens, seed=recipe.seed)
    _check_step(step, settings.steps or steps_of(sampling=settings.sampling, epochs=settings.epochs))
    return pretraining_rows_of_step(
        rows, batch_tokens=settings.step_tokens, seed=recipe.seed, sampling=settings.sampling, step=step
    )


def _check_step(step: int, steps: int) -> None:
    if not 1 <= step <= steps:
        raise SettingsError("--step", f"is {step}", f"1 to {steps:,}")


def _inspected(tokenizer: Any, row: EncodedRow, index: int, id: str, unscored: int | None) -> InspectedRow:
    table = token_bytes(tokenizer)
    # The first token has nothing to be predicted from.
    scored = [any(max(1, start) <= place < stop for start, stop in row.spans) for place in range(len(row.token_ids))]
    return InspectedRow(
        number=index + 1,
        id=id,
        token_ids=row.token_ids,
        texts=[table[token].decode(errors="backslashreplace") for token in row.token_ids],
        scored=[is_scored and token != unscored for is_scored, token in zip(scored, row.token_ids, strict=True)],
        is_replay=row.is_replay,
    )


def _shown(rows: Sequence[InspectedRow], ids: bool, options: RunOptions) -> dict[str, Any]:
    if not options.json:
        for row in rows:
            print_visible(_headline(row))
            if sys.stdout.isatty():
                _print_coloured(row, ids)
            else:
                print_visible(plain_tokens(row, ids))
    return {"rows": [asdict(row) for row in rows]}


def _headline(row: InspectedRow) -> str:
    replay = ", replayed" if row.is_replay else ""
    return f"row {row.number} ({row.id}{replay}): {len(row.token_ids)} tokens, {sum(row.scored)} in the loss"


def plain_tokens(row: InspectedRow, ids: bool) -> str:
    """Return the tokens of a row with borders, the parts in the loss between ⟦ and ⟧.

    >>> plain_tokens(InspectedRow(1, "a", (5, 6, 0), ("1+", "1=", "2"), (False, False, True)), ids=False)
    '1+│1=⟦2⟧'
    >>> plain_tokens(InspectedRow(1, "a", (5, 6), ("1+", "1="), (False, True)), ids=True)
    '1+(5)⟦1=(6)⟧'
    """
    text = ""
    for place, (token, name, scored) in enumerate(zip(row.token_ids, row.texts, row.scored, strict=True)):
        before = place > 0 and row.scored[place - 1]
        text += "⟧" if before and not scored else "⟦" if scored and not before else BORDER if place else ""
        text += f"{name}({token})" if ids else name
    return text + ("⟧" if row.scored and row.scored[-1] else "")


def _print_coloured(row: InspectedRow, ids: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    text = Text()
    for part, style in _styled(row, ids):
        text.append(part, style)
    Console().print(text)


def _styled(row: InspectedRow, ids: bool) -> Iterator[tuple[str, str]]:
    for token, name, scored in zip(row.token_ids, row.texts, row.scored, strict=True):
        yield show_control_characters(name), "bold green" if scored else ""
        yield f"({token})" if ids else "", "dim"
        yield BORDER, "dim"
