"""Sections of a report about the origin of its figures: training, data, settings, environment.

Texts are plain, as in `sections.py`, which has the results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lotune.evaluate.replay import ReplayCounts
from lotune.evaluate.scorecard import EvaluationSetCounts
from lotune.report.report_data import Report, Setting, TrainingSummary
from lotune.report.sections import Table, format_optional
from lotune.report.terminal import percent


def training_note(training: TrainingSummary) -> str:
    """Return steps, tokens, time and speed of the training in a sentence."""
    # Records without times add up to 0 seconds.
    rate = f", {training.tokens / training.seconds:,.0f} tokens a second" if training.seconds else ""
    return f"{training.steps} steps, {training.tokens:,} tokens, {duration(training.seconds)} of training{rate}."


def duration(seconds: float) -> str:
    """Return a time in seconds in the units that suit its length.

    >>> duration(42.3), duration(754), duration(9000)
    ('42 s', '12 min 34 s', '2 h 30 min')
    """
    # Rounded first: 59.6 s are 1 min 0 s, not 60 s.
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def losses_table(report: Report) -> Table:
    """Return training and validation loss at each checkpoint."""
    rows, previous_step = [], 0
    for point in report.card.checkpoints:
        # The loss of a single step is noisy, so the training loss is the mean since the previous checkpoint.
        losses = [loss for step, loss in report.training.losses if previous_step < step <= point.step]
        mean = sum(losses) / len(losses) if losses else None
        rows.append((point.name, format_optional(mean), format_optional(point.validation_loss)))
        previous_step = point.step
    return Table(("checkpoint", "training loss", "validation loss"), tuple(rows), numeric=True)


def counts_table(counts: Mapping[str, Any]) -> Table:
    """Return the number of rows and tokens after each step of `lotune prepare`, from data/counts.json.

    Counts that only some tasks have are missing from the file, and are 0 or left out of the table.
    """
    rows, tokens = counts["rows"], counts["tokens"]
    scored_fraction = tokens["supervised"] / tokens["tokens"] if tokens["tokens"] else 0.0
    lines = [
        ("rows read", f"{rows['read']:,}"),
        ("malformed, left out", f"{rows['malformed']:,}"),
        ("duplicates removed", f"{rows['duplicates']:,}"),
        ("not sampled", f"{rows['not_sampled']:,}"),
        ("split off to validation", f"{rows['validation']:,}"),
        ("removed from validation because the test set contains them", f"{rows.get('validation_removed', 0):,}"),
        ("split off to the test", f"{rows['test']:,}"),
        *(
            (f"in training and in {name} ({overlap['rows']:,} rows)", f"{overlap['seen']:,}")
            for name, overlap in rows["overlap"]["sets"].items()
        ),
        ("removed because an evaluation set contains them", f"{rows['overlap']['removed']:,}"),
        ("kept to train on", f"{rows['kept']:,}"),
        ("replay rows", f"{ReplayCounts.from_counts(counts).rows:,}"),
        ("dropped as too long", f"{tokens['dropped_too_long']:,} (longer than {tokens['limit']:,} tokens)"),
        *((f"left out of {name}: prompt too long", f"{n:,}") for name, n in tokens.get("left_out", {}).items()),
        *_evaluation_lines([EvaluationSetCounts(**record) for record in counts.get("asked", ())]),
        ("tokens", f"{tokens['tokens']:,} in {tokens['rows']:,} rows; longest row {tokens['longest']:,}"),
        ("tokens trained on", f"{tokens['supervised']:,} ({percent(scored_fraction)})"),
        ("retention prompts truncated to fit", f"{tokens['retention_cut']:,}"),
    ]
    return Table(("count", "number"), tuple(lines), numeric=True)


def _evaluation_lines(evaluation_sets: Sequence[EvaluationSetCounts]) -> Iterator[tuple[str, str]]:
    """Yield the counts of each evaluation set; those of long prompts only if there are any."""
    for rows in evaluation_sets:
        of = "" if rows.file_rows is None else f" of {rows.file_rows:,} in {rows.file}"
        yield f"{rows.name} rows", f"{rows.rows:,}{of}"
        if rows.too_long:
            yield f"{rows.name} prompts too long, counted as wrong", f"{rows.too_long:,}"
        if rows.cut:
            yield f"{rows.name} prompts truncated to fit", f"{rows.cut:,}"


def kind_counts(counts: Mapping[str, Any]) -> str:
    """Return the number of training rows of each kind, the most frequent first."""
    kinds = sorted(counts["rows"]["kinds"].items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name or 'none'} {number:,}" for name, number in kinds)


def settings_table(settings: Sequence[Setting]) -> Table:
    """Return the settings that differ from their defaults, with the first sentence of their help."""
    rows = tuple((setting.key, setting.value, setting.default, setting.sentence) for setting in settings)
    return Table(("setting", "value", "default", "meaning"), rows)


def environment_table(environment: Mapping[str, Any]) -> Table:
    """Return versions and hardware of the run; a dash for unknown values."""
    memory = environment.get("memory_bytes")
    packages: Mapping[str, Any] = environment.get("packages") or {}
    lines = [
        ("lotune", _text_or_dash(environment.get("lotune"))),
        ("git revision", _text_or_dash(environment.get("git_revision"))),
        ("python", _text_or_dash(environment.get("python"))),
        ("packages", ", ".join(f"{name} {_text_or_dash(version)}" for name, version in packages.items()) or "–"),
        ("system", _text_or_dash(environment.get("system"))),
        (
            "processor",
            f"{_text_or_dash(environment.get('processor'))}, {_text_or_dash(environment.get('cores'))} cores",
        ),
        ("memory", f"{memory / 2**30:.1f} GiB" if isinstance(memory, int) else "–"),
        ("accelerators", ", ".join(map(str, environment.get("accelerators") or ())) or "none"),
    ]
    return Table(("part", "value"), tuple(lines))


def _text_or_dash(value: Any) -> str:
    return "–" if value is None else str(value)


REPEAT_NOTE = (
    "The command repeats this run in a new folder, from its recipe and with its seed. Started in the same working "
    "directory, with the versions above, on the same machine, it gives the same figures."
)
