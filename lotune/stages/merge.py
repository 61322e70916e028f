"""`lotune merge`: a saved adapter and its base, written as one complete model, which is compared with the two."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.data.chat_template import CHAT, chat_template_of
from lotune.data.templates import TEMPLATE_FILE, load_template
from lotune.data.tokenized import encode_text, first_ids
from lotune.errors import CheckError, ModelError
from lotune.files import require_new_folder
from lotune.recipe import Recipe, RunOptions
from lotune.stages.model_loading import resolve_weights
from lotune.stages.output_files import refuse_overwriting_inputs, require_single_process
from lotune.text_display import print_visible

if TYPE_CHECKING:
    from lotune.evaluate.merge_check import MergeCheck
    from lotune.stages.checked_merge import Questions

RANDOM_TOKENS = 48
"""Number of random tokens after each opening: together they pass through many rows of the embedding."""
NEW_TOKENS = 16
"""Length of the answers that are compared."""


@dataclass(frozen=True)
class Merge:
    """A merged model: its folder, adapter and base, and how it compares with the adapted model."""

    adapter: str
    base: str
    out: str
    check: MergeCheck


def merge(recipe: Recipe, adapter: str, out: Path, options: RunOptions) -> Merge:
    """Write the merged model to a new folder, and print the check; the folder appears only if the check passes.

    Raises: SettingsError if the folder exists; ModelError if there is no adapter, or it does not fit its base;
    CheckError if merged and adapted model differ.
    """
    require_single_process("merge")
    settings, folder = resolve_weights(recipe, adapter)
    if folder is None:
        raise ModelError(adapter, "is no adapter", "a folder in PEFT's format", "name the folder of an adapter")
    require_new_folder(out)
    refuse_overwriting_inputs(out, folder, option="OUT")
    from lotune.model.checkpoints import check_mergeable

    check_mergeable(folder)
    print_status(f"merging {adapter} into {settings.model}, and comparing it with the adapted model")
    check = _merge_into(recipe.model_copy(update={"base": settings}), folder, out, is_named=_names_base(recipe))
    merged = Merge(adapter, settings.model, str(out), check)
    if not options.json:
        _show(merged)
    return merged


def _names_base(recipe: Recipe) -> bool:
    return "model" in recipe.base.model_fields_set


def _merge_into(recipe: Recipe, adapter: Path, out: Path, *, is_named: bool) -> MergeCheck:
    """Write the merged model under a temporary name, and rename it if it passes the check."""
    from lotune.stages.checked_merge import merge_checked

    template = adapter / TEMPLATE_FILE
    text = template.read_text(encoding="utf-8") if template.is_file() else None
    unchecked = out.with_name(f".{out.name}.unchecked")
    try:
        check = merge_checked(recipe, adapter, unchecked, text, partial(_end_ids, adapter), partial(_questions, recipe))
        if not check.passed:
            raise CheckError(str(out), "rounding changes too many answers", remedy="base.dtype=float32")
        if out.exists():
            out.rmdir()  # empty, and some systems cannot rename onto a folder
        os.replace(unchecked, out)
    except ModelError as error:
        if is_named or error.where != recipe.base.model:
            raise
        found = f"its base cannot be loaded: {error.where}: {error.found}"
        raise ModelError(str(adapter), found, "the model that it was trained on", "name it with --base") from error
    finally:
        shutil.rmtree(unchecked, ignore_errors=True)
    return check


def _end_ids(adapter: Path, model: Any, tokenizer: Any) -> list[int] | int | None:
    """Return the tokens that end an answer: the model's, and the end of a turn if the adapter learned a chat format."""
    ends: Any = model.generation_config.eos_token_id
    is_chat = (adapter / TEMPLATE_FILE).is_file() and load_template(adapter).name == CHAT
    if not is_chat:
        return ends  # type: ignore[no-any-return]
    turn_end = tokenizer.convert_tokens_to_ids(chat_template_of(tokenizer).turn_end)
    return sorted({turn_end, *(ends if isinstance(ends, list) else [ends])} - {None})


def _questions(recipe: Recipe, tokenizer: Any, context: int) -> Questions:
    """Return rows to compare on: openings of texts with random tokens after them, and answers to the openings.

    There are no rows of a task here, so no answer is judged.
    """
    from lotune.evaluate.merge_check import MergeCheckRow
    from lotune.generate.base_rows import OPENINGS
    from lotune.stages.checked_merge import Questions

    draw, rows = random.Random(recipe.seed), []
    special = set(tokenizer.all_special_ids)
    plain = [number for number in sorted(tokenizer.get_vocab().values()) if number not in special]
    for opening in OPENINGS:
        prompt = [*first_ids(tokenizer), *encode_text(tokenizer, opening)][: context - 1]
        row = [*prompt, *draw.choices(plain, k=RANDOM_TOKENS)][:context]
        rows.append(MergeCheckRow(tuple(row), len(prompt)))

    def judge(row: int, ids: Sequence[int]) -> tuple[str, bool | None]:
        return tokenizer.decode(list(ids), skip_special_tokens=True), None

    greedy = partial(_greedy, tokenizer, context, recipe.evaluate.max_batch_tokens)
    return Questions(rows, greedy, judge, NEW_TOKENS)


def _greedy(
    tokenizer: Any, context: int, batch_tokens: int, model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """Return the token ids of a model's greedy answers to the prompts."""
    from lotune.generate.engine import generate_completions
    from lotune.generate.requests import Request

    requests = [Request(tuple(prompt), min(max_new_tokens, context - len(prompt))) for prompt in prompts]
    completions = generate_completions(model, tokenizer, requests, batch_tokens=batch_tokens)
    return [list(completion.token_ids) for completion in completions]


def _show(merged: Merge) -> None:
    check = merged.check
    print_visible(f"merged: {merged.out} ({check.saved_dtype}), {merged.adapter} in {merged.base}")
    logits = f"logits differ by {check.max_logit_difference:.2g} at most"
    if check.max_logit_difference_float64 is not None:
        logits += f" ({check.max_logit_difference_float64:.2g} in float64)"
    print_visible(f"check: passed on {check.rows} rows: {logits}, {check.greedy_differences} answers at ties")
    print_visible(f"rounding to {check.saved_dtype} changes {check.texts_changed} of {check.rows} answers")
