"""The report of a pre-training, as an HTML page and as Markdown, from the files of its run folder alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
from markupsafe import Markup

from lotune.errors import RunError
from lotune.evaluate.continuations import Continuation
from lotune.files import read_json
from lotune.record_files import record_lines
from lotune.report.canvas import Point
from lotune.report.html import for_both_screens, page_environment, page_style
from lotune.report.markdown import escape_markdown, fenced, folded, table_lines
from lotune.report.plots import bits_plot, histogram, loss_plot
from lotune.report.provenance import REPEAT_NOTE, duration, environment_table, settings_table, training_note
from lotune.report.report_data import Setting, TrainingSummary, read_training
from lotune.report.sections import Figure, Table
from lotune.report.terminal import percent

SHOWN_CONTINUATIONS = 3
"""Continuations that are shown of the best, and of the worst."""
NEEDED = ("recipe.yaml", "environment.json", "metrics.jsonl", "pretraining.json")
"""Files of a run folder without which there is no report."""
BLOCK_COUNTS = {
    "articles": "articles",
    "blocks": "rows",
    "tokens": "tokens",
    "articles dropped": "dropped",
    "articles cut": "cut",
    "tokens cut off": "cut_tokens",
    "padding tokens to fill the blocks up, which packing saves": "padding",
}
"""Names of the counts in a file of tokens, by their names in the report."""
FLOPS_PER_WEIGHT = 6
"""Floating-point operations of a training step for each weight and token (Kaplan et al. 2020, arXiv 2001.08361)."""


@dataclass(frozen=True)
class Sample:
    """What the model wrote after a prompt at a validation."""

    step: int
    prompt: str
    continuation: str


@dataclass(frozen=True)
class PretrainingReport:
    """The content of the report in either form."""

    name: str
    figures: Mapping[str, Any]
    """The content of pretraining.json."""
    training: TrainingSummary
    validations: tuple[Mapping[str, float], ...]
    samples: tuple[Sample, ...]
    continuations: tuple[Continuation, ...]
    corpus: Mapping[str, Any] | None
    """The content of data/corpus.json; None if the text was generated."""
    blocks: Mapping[str, Mapping[str, int]]
    """The counts of the blocks for training and validation."""
    settings: tuple[Setting, ...]
    recipe: str
    environment: Mapping[str, Any]
    command: str


def collect_pretraining(folder: Path, name: str, settings: Sequence[Setting], command: str) -> PretrainingReport:
    """Return the report of a finished pre-training. Raises: RunError if a file is missing or damaged."""
    missing = [file for file in NEEDED if not (folder / file).is_file()]
    if missing:
        raise RunError(str(folder), f"has no {', '.join(missing)}", "the folder of a finished pre-training")
    data = folder / "data"
    blocks = {part: data / f"{part}.tokens.json" for part in ("train", "validation")}
    validations = (line["validation"] for line in _lines(folder / "metrics.jsonl") if "validation" in line)
    return PretrainingReport(
        name=name,
        figures=read_json(folder / "pretraining.json"),
        training=read_training(folder / "metrics.jsonl"),
        validations=tuple(validations),
        samples=tuple(Sample(**line) for line in _lines(folder / "samples.jsonl")),
        continuations=tuple(Continuation(**line) for line in _lines(folder / "continuations.jsonl")),
        corpus=read_json(data / "corpus.json") if (data / "corpus.json").is_file() else None,
        blocks={part: read_json(path) for part, path in blocks.items() if path.is_file()},
        settings=tuple(settings),
        recipe=(folder / "recipe.yaml").read_text(encoding="utf-8"),
        environment=read_json(folder / "environment.json"),
        command=command,
    )


def _lines(path: Path) -> Iterator[Any]:
    if not path.is_file():
        return
    for number, line in record_lines(path.read_bytes()):
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError:
            remedy = "delete the line; the report works without it"
            raise RunError(f"{path}:{number}", "is not a record", "a JSON object", remedy) from None


def headline(report: PretrainingReport) -> str:
    """Return the outcome in one sentence."""
    figures, training = report.figures, report.training
    return (
        f"{figures['parameters']:,} parameters, trained on {training.tokens:,} tokens in "
        f"{duration(training.seconds)}, predict held-out text with {figures['bits_per_byte']:.3f} bits per byte."
    )


def key_figures(report: PretrainingReport) -> tuple[Figure, ...]:
    """Return the figures at the top of the report."""
    figures, training, best = report.figures, report.training, report.figures["best"]
    rate = training.tokens / training.seconds if training.seconds else 0.0
    operations = FLOPS_PER_WEIGHT * figures["parameters"] * training.tokens
    others = "the best of all" if best["step"] == figures["steps"] else f"the best was {best['bits_per_byte']:.3f}"
    held_out = f"on held-out text, after the last step; {others}"
    return (
        Figure("bits per byte", f"{figures['bits_per_byte']:.3f}", held_out),
        Figure("perplexity", f"{figures['perplexity']:.2f}", "of a token, which depends on the tokeniser"),
        Figure("speed", f"{rate:,.0f} tokens/s", f"{duration(training.seconds)} for {training.tokens:,} tokens"),
        Figure("cost", f"{operations:.1e}", "floating-point operations, 6 for each parameter and token"),
    )


def tables(report: PretrainingReport) -> dict[str, tuple[str, Table]]:
    """Return the tables of the report by anchor, each with the title of its section."""
    found = {"training": ("Training", _validation_table(report))}
    if report.corpus is not None:
        found["corpus"] = ("Corpus", _corpus_table(report.corpus))
        if report.corpus.get("cleaning"):
            found["cleaning"] = ("Cleaning", _cleaning_table(report.corpus["cleaning"]))
    found["blocks"] = ("Blocks", _blocks_table(report.blocks))
    if report.corpus is not None and report.corpus.get("tokenizer"):
        found["tokeniser"] = ("Tokeniser", _tokenizer_table(report.corpus["tokenizer"]))
    found["settings"] = ("Settings", settings_table(report.settings))
    found["environment"] = ("Environment", environment_table(report.environment))
    return found


def samples_by_prompt(report: PretrainingReport) -> list[tuple[str, list[Sample]]]:
    """Return the samples of each prompt, in the order of their steps."""
    order = {sample.prompt: number for number, sample in reversed(list(enumerate(report.samples)))}
    ordered = sorted(report.samples, key=lambda sample: (order[sample.prompt], sample.step))
    return [(prompt, list(group)) for prompt, group in groupby(ordered, key=lambda sample: sample.prompt)]


def best_and_worst(report: PretrainingReport) -> list[tuple[str, list[Continuation]]]:
    """Return the continuations with the highest and the lowest ROUGE-L, with a title for each group."""
    ordered = sorted(report.continuations, key=lambda one: -one.rouge_l)
    shown = min(SHOWN_CONTINUATIONS, len(ordered) // 2)
    return [("Highest", ordered[:shown]), ("Lowest", ordered[len(ordered) - shown :])] if shown else []


def continuations_note(report: PretrainingReport) -> str:
    """Return what was measured of the continuations, in sentences; empty without any."""
    figures = report.figures.get("continuations")
    if not figures:
        return ""
    limits = figures["rouge_l_interval"]
    interval = f" (95 % interval {limits[0]:.1f} to {limits[1]:.1f})" if limits else ""
    return (
        f"The finished model continued the first sentence of {figures['rows']:,} held-out articles. ROUGE-L "
        f"against how they go on is {figures['rouge_l']:.1f} of 100{interval}. Of the 4-grams of tokens, "
        f"{percent(figures['repeated_4_grams'])} repeat an earlier one of the same continuation."
    )


def _validation_table(report: PretrainingReport) -> Table:
    best, rows = report.figures["best"]["step"], []
    for one in report.validations:
        name = f"{one['step']}{' (best)' if one['step'] == best else ''}"
        rows.append((name, f"{one['loss']:.4f}", f"{one['perplexity']:,.2f}", f"{one['bits_per_byte']:.3f}"))
    return Table(("step", "validation loss", "perplexity", "bits per byte"), tuple(rows), numeric=True)


def _corpus_table(corpus: Mapping[str, Any]) -> Table:
    least, low, median, high, most = corpus["lengths"]
    files = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(corpus["files"].items()))
    scripts = (
        f"{name} {percent(count / max(1, corpus['characters']))}" for name, count in corpus["scripts"].items() if count
    )
    rows = (
        ("files", files),
        ("articles read", f"{corpus['read']:,}"),
        ("malformed, left out", f"{corpus['malformed']:,}"),
        ("empty, left out", f"{corpus['empty']:,}"),
        ("duplicates removed", f"{corpus['duplicates']['removed']:,}"),
        ("to train on", f"{corpus['train_articles']:,}"),
        ("for validation", f"{corpus['validation_articles']:,}"),
        ("characters", f"{corpus['characters']:,} ({', '.join(scripts)})"),
        ("bytes", f"{corpus['bytes']:,}"),
        ("characters of an article", f"median {median:,}; 90 % have {low:,} to {high:,}, all {least:,} to {most:,}"),
    )
    return Table(("count", "number"), rows, numeric=True)


def _cleaning_table(rules: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple((one["name"], f"{one['hits']:,}", f"{one['articles']:,}", _first(one["examples"])) for one in rules)
    return Table(("rule", "hits", "articles", "example"), rows)


def _first(examples: Sequence[str]) -> str:
    return examples[0] if examples else "–"


def _blocks_table(blocks: Mapping[str, Mapping[str, int]]) -> Table:
    rows = (
        (name, *(f"{counts[key]:,}" if key in counts else "–" for counts in blocks.values()))
        for name, key in BLOCK_COUNTS.items()
    )
    return Table(("count", *blocks), tuple(rows), numeric=True)


def _tokenizer_table(figures: Mapping[str, Any]) -> Table:
    characters, tokens = max(1, figures["characters"]), max(1, figures["tokens"])
    rows = (
        ("tokens in the vocabulary", f"{figures['vocab_size']:,}"),
        ("tokens per character", f"{figures['tokens'] / characters:.3f}"),
        *((f"tokens per character, {name}", f"{value:.3f}") for name, value in figures["per_character"].items()),
        ("bytes per token", f"{figures['bytes'] / tokens:.2f}"),
        ("texts that it changes", f"{figures['changed']:,}"),
    )
    return Table(("figure", "value"), rows, numeric=True)


def render_pretraining_page(report: PretrainingReport) -> str:
    """Return the report as one self-contained HTML page without scripts."""
    validation = [Point(one["step"], one["loss"]) for one in report.validations]
    bits = [Point(one["step"], one["bits_per_byte"]) for one in report.validations]
    training = report.training
    return (
        page_environment()
        .get_template("pretraining.html.jinja")
        .render(
            report=report,
            headline=headline(report),
            figures=key_figures(report),
            tables=tables(report),
            samples=samples_by_prompt(report),
            training_note=training_note(training),
            repeat_note=REPEAT_NOTE,
            style=page_style(),
            loss=for_both_screens(partial(loss_plot, training.losses, validation)) if training.losses else Markup(""),
            continuations=best_and_worst(report),
            continuations_note=continuations_note(report),
            scores=for_both_screens(
                partial(histogram, [("tuned", [one.rouge_l for one in report.continuations])], "ROUGE-L")
            )
            if report.continuations
            else Markup(""),
            bits=for_both_screens(partial(bits_plot, bits)) if len(bits) > 1 else Markup(""),
        )
    )


def render_pretraining_markdown(report: PretrainingReport) -> str:
    """Return the report as Markdown, with the texts and tables of the page, but without its plots."""
    lines = [f"# {escape_markdown(report.name)}", "", f"**{escape_markdown(headline(report))}**", ""]
    for label, value, note in key_figures(report):
        lines.append(f"- {escape_markdown(label)}: **{escape_markdown(value)}** ({escape_markdown(note)})")
    for anchor, (title, table) in tables(report).items():
        lines += ["", f"## {title}", "", *table_lines(table)]
        if anchor == "training":
            lines += [escape_markdown(training_note(report.training)), *_sample_lines(report)]
            lines += _continuation_lines(report)
        if anchor == "settings":
            lines += folded("The whole recipe", report.recipe)
    lines += ["", "## Repeat it", "", *fenced(report.command), "", REPEAT_NOTE]
    return "\n".join(lines) + "\n"


def _continuation_lines(report: PretrainingReport) -> Iterator[str]:
    if note := continuations_note(report):
        yield from ["", "## Continuations", "", escape_markdown(note)]
    for title, group in best_and_worst(report):
        yield from ["", f"### {title}"]
        for one in group:
            yield from ["", *fenced(one.prompt), "", f"ROUGE-L {one.rouge_l:.1f}", ""]
            yield from table_lines(Table(("model", "article"), ((one.text, one.reference),)))


def _sample_lines(report: PretrainingReport) -> Iterator[str]:
    if report.samples:
        yield from ["", "## Samples"]
    for prompt, samples in samples_by_prompt(report):
        yield from ["", *fenced(prompt), ""]
        yield from table_lines(Table(("step", "continuation"), tuple((str(s.step), s.continuation) for s in samples)))
