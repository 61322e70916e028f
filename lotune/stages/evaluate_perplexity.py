"""`lotune evaluate --task text`: perplexity of a model on articles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from lotune.console import Progress
from lotune.data.corpus import Corpus
from lotune.data.examples import Example
from lotune.distributed import init_process_group, raise_on_lost_process
from lotune.errors import SettingsError
from lotune.evaluate.perplexity import TextLoss, parse_texts, score_texts, summarise
from lotune.model.loading import LoadedModel, context_length, resolve_device
from lotune.recipe import Recipe, RunOptions
from lotune.record_files import append_record, encode_records
from lotune.report.terminal import format_limits
from lotune.stages.model_loading import device_and_dtype, folders_of, load_model_or_adapter, with_resolved_dtype
from lotune.stages.output_files import check_fingerprints, merge_rank_outputs, refuse_overwriting_inputs
from lotune.stages.predictions import answers_fingerprint, name_model_in_errors
from lotune.tasks.registry import TEXT
from lotune.tasks.settings import TaskSettings
from lotune.text_display import print_visible


def evaluate_texts(
    recipe: Recipe, model: str, data: Path | None, limit: int | None, out: Path | None, options: RunOptions
) -> dict[str, Any] | None:
    """Return perplexity and bits per byte of the articles of a file or folder, cleaned by `pretrain.cleaning`.

    The figures of each article are appended to `out` as they come; articles that `out` has already are skipped. Each of
    several processes under torchrun scores its part; the first one returns the figures, and the others return None.

    Raises: SettingsError without `data`, or if `out` is an input; DataError for a row that is not an article.
    """
    if data is None:
        raise SettingsError("--data", "--task text has no generator", "articles: .jsonl with `text`, .txt or a folder")
    refuse_overwriting_inputs(out, data, *folders_of(recipe, model))
    cleaning = recipe.pretrain.cleaning if recipe.pretrain else "none"
    # One more than the limit tells whether it left any out.
    articles = list(islice(Corpus(data, cleaning, recipe.data.max_row_bytes).articles(), limit and limit + 1))
    limited = limit is not None and len(articles) > limit
    articles = articles[:limit]
    if options.dry_run:
        return {"model": model, "task": TEXT, "rows": len(articles)}
    recipe, fingerprint = with_resolved_dtype(recipe, model), ""
    if out is not None:
        fingerprint = answers_fingerprint(recipe, model, TaskSettings(name=TEXT), data=data, cleaning=cleaning)
        check_fingerprints(out, fingerprint)
    with init_process_group(resolve_device(recipe.device)) as world, raise_on_lost_process(world):
        base, rank_articles = load_model_or_adapter(recipe, model), articles[world.rank :: world.size]
        parts = merge_rank_outputs(
            out, world, lambda path: _score(base, rank_articles, recipe.evaluate.max_batch_tokens, path, fingerprint)
        )
    if not world.is_main_process:
        return None
    losses = {text.id: text for part in parts for text in parse_texts(part)}
    figures = {
        "model": model, "task": TEXT, **device_and_dtype(recipe), "perplexity_unit": "per token",
        **summarise([losses[article.id] for article in articles]),
        **({"limited_to_first": limit} if limited else {}),
    }  # fmt: skip
    if not options.json:
        _show(figures)
    return figures


def _score(
    base: LoadedModel, articles: Sequence[Example], batch_tokens: int, out: Path | None, fingerprint: str
) -> bytes:
    """Return the losses of articles as lines; append each new one to `out`, and take those that it has from there."""
    stored = {text.id: text for text in parse_texts(out.read_bytes())} if out is not None and out.exists() else {}
    losses = [stored[article.id] for article in articles if article.id in stored]
    remaining = [article for article in articles if article.id not in stored]
    model: Any = base.model
    with Progress(f"{base.name}, text", len(articles)) as progress, name_model_in_errors(base.name):
        progress.advance(len(losses))
        context = context_length(model)
        for text in score_texts(model, base.tokenizer, remaining, context=context, batch_tokens=batch_tokens):
            losses.append(text)
            if out is not None:  # at once: a stopped command resumes after the last article written
                append_record(out, _record(text, fingerprint))
            progress.advance(len(losses))
    return encode_records(_record(text, fingerprint) for text in losses)


def _record(text: TextLoss, fingerprint: str) -> dict[str, Any]:
    return {**asdict(text), **({"fingerprint": fingerprint} if fingerprint else {})}


def _show(figures: dict[str, Any]) -> None:
    print_visible(f"{figures['model']} on {figures['device']} in {figures['dtype']}")
    for name, unit in (("perplexity", "perplexity per token"), ("bits_per_byte", "bits per byte")):
        print_visible(f"{unit}: {figures[name]:.4g}, 95 % interval {format_limits(figures[f'{name}_interval'], '.4g')}")
    first = "the first " if "limited_to_first" in figures else ""
    print_visible(f"{first}{figures['texts']} texts, {figures['tokens']:,} tokens, {figures['bytes']:,} bytes")
