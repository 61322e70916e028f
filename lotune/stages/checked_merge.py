"""Merge an adapter into its base, write the merged model, and compare it with the adapted one: the merge of all stages.

What is compared differs between a run, which has rows, and `lotune merge`, which has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.model.loading import (
    context_length,
    dtype_name,
    float32_copy,
    load_model,
    resolve_device,
    resolve_dtype,
)
from lotune.model.quantization import load_dequantized
from lotune.recipe import Recipe
from lotune.stages.model_loading import resolve_answer_dtype

if TYPE_CHECKING:
    from lotune.evaluate.merge_check import Greedy, Judge, MergeCheck, MergeCheckRow


@dataclass(frozen=True)
class Questions:
    """What merged and adapted model are compared on: rows of tokens, how they are answered, how answers are judged."""

    rows: Sequence[MergeCheckRow]
    greedy: Greedy
    judge: Judge
    max_new_tokens: int


def merge_checked(
    recipe: Recipe,
    adapter: Path,
    out: Path,
    template_json: str | None,
    end_ids: Callable[[Any, Any], list[int] | int | None],
    questions_of: Callable[[Any, int], Questions],
) -> MergeCheck:
    """Write the merged model of an adapter to the folder `out`, and compare it with the adapted one.

    `end_ids` returns the tokens that end an answer of a model with its tokeniser, `questions_of` what to compare on for
    a tokeniser and a context. The CPU's memory holds at most two float32 models; one at a time moves to the device if
    it fits there.

    Raises: CheckError if they differ.
    """
    from lotune.evaluate.merge_check import check_saved, compare_merged
    from lotune.model.answering import on_device_if_it_fits
    from lotune.model.checkpoints import load_adapter, merge, save_model

    device = resolve_device(recipe.device)
    settings = recipe.base.model_copy(update={"dtype": dtype_name(resolve_dtype(recipe.base.dtype, device))})
    quantized = recipe.tune.quantization != "none"  # the kernels that dequantise may need the device
    base = load_dequantized(settings, device if quantized else "cpu", recipe.tune.quantization)
    base.model.cpu()
    dtype, tokenizer, force = base.dtype, base.tokenizer, recipe.adapter.force_base
    on_device = nullcontext if device == "cpu" else partial(on_device_if_it_fits, device=device)
    merged = merge(base, adapter, force_base=force)
    if merged.generation_config is not None:
        merged.generation_config.eos_token_id = end_ids(merged, tokenizer)
    save_model(merged, tokenizer, out, dtype, template_json)
    # `merge` leaves the base as it is, so its copy can carry the adapter; the original goes, to hold two models only.
    adapted = load_adapter(float32_copy(base), adapter, force_base=force)
    del base
    questions = questions_of(tokenizer, context_length(merged))
    protocol: dict[str, Any] = {
        "greedy": questions.greedy,
        "max_new_tokens": questions.max_new_tokens,
        "on_device": on_device,
    }
    agreement = compare_merged(adapted, merged, questions.rows, **protocol)
    del adapted  # makes room for the saved model: two float32 models at most
    written = recipe.base.model_copy(update={"model": str(out), "dtype": "float32"})
    saved = load_model(written, "cpu").model
    protocol["asked_dtype"] = resolve_dtype(resolve_answer_dtype(recipe, recipe.base).dtype, device)
    return check_saved(merged, saved, questions.rows, agreement, saved_dtype=dtype, judge=questions.judge, **protocol)
