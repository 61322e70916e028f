"""`lotune evaluate --task text`: how well a model foretells articles."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from lotune.data.corpus import Corpus
from lotune.data.rows import write_jsonl
from lotune.errors import SettingsError
from lotune.evaluate.texts import read_texts, summarise
from lotune.model.base import context_length, load_base
from lotune.recipe import Options, Recipe
from lotune.report.progress import Progress
from lotune.train.parallel import processes


def evaluate_texts(
    recipe: Recipe, model: str, data: Path | None, limit: int | None, out: Path | None, options: Options
) -> dict[str, Any]:
    """Perplexity and bits a byte of the articles of a file or folder, cleaned as `pretrain.cleaning` says.

    Raises: SettingsError without `data`, or in several processes; DataError for what is no article.
    """
    if processes() > 1:
        raise SettingsError("torchrun", "--task text works in one process", remedy="start lotune itself")
    if data is None:
        raise SettingsError("--data", "--task text has no generator", "articles: .jsonl with `text`, .txt or a folder")
    cleaning = recipe.pretrain.cleaning if recipe.pretrain else "none"
    articles = list(islice(Corpus(data, cleaning).articles(), limit))
    if options.dry_run:
        return {"model": model, "task": "text", "rows": len(articles)}
    base = load_base(recipe.base.model_copy(update={"model": model}), recipe.device)
    found, context = [], context_length(base.model)
    with Progress(f"{model}, text", len(articles)) as progress:
        for text in read_texts(
            base.model, base.tokenizer, articles, context=context, batch_tokens=recipe.evaluate.batch_tokens
        ):
            found.append(text)
            progress.advance(len(found))
    figures = {"model": model, "task": "text", **summarise(found)}
    if out is not None:
        write_jsonl(out, map(asdict, found))
    if not options.json:
        low, high = figures["perplexity_interval"]
        print(f"perplexity a token: {figures['perplexity']:.4g}, 95 % interval {low:.4g} to {high:.4g}")
        low, high = figures["bits_per_byte_interval"]
        print(f"bits a byte: {figures['bits_per_byte']:.4g}, 95 % interval {low:.4g} to {high:.4g}")
        print(f"{figures['texts']} texts, {figures['tokens']:,} tokens, {figures['bytes']:,} bytes")
    return figures
