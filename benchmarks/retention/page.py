"""The page of the documentation that compares the remedies, made from the records."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measured import markdown
from benchmarks.retention.remedies import HARSH, REMEDIES, SETS
from benchmarks.retention.table import Records, further_steps, missing, table, verdict_lines

PAGE = Path(__file__).parents[2] / "docs" / "retention.md"

INTRODUCTION = """# Remedies against forgetting, measured

A tuning on one task costs a model some of what it could do before. lotune has remedies, which
[Keep what the base can do](how-to/keep-abilities.md) explains. This page says what each one keeps, what it costs on the
task, and how long it takes. Its figures are made by one command, which stands at the end.

## In short
"""
METHOD = """## What was measured

The base is nano, the practice model of two million parameters. The settings are harsh on purpose, so that much is
forgotten: a high learning rate, and nothing against forgetting. Each remedy is added to them alone.

Three abilities of the base are measured before and after: reading on 300 rows, copying on 200 and equations on 200.
Only reading decides the gate, and generated replay rows are rows of reading. No remedy knows of copying and equations,
so they show whether a remedy keeps more than what it rehearses.

Settings of every run:
"""
DIVERGENCE = """On a replay row the model is trained on its answer, or it is held to the base's predictions, which is
the divergence; never both. So "replay with divergence" is all that the two can be together. A repair has the
divergence, too.
"""
READING = """## How to read the tables

- *accuracy*: on the test rows. *difference*: to the run without a remedy, on the same rows, with its 95 % interval.
- *kept*: the score after the tuning as a fraction of the base's, with its 95 % interval in percent. For reading these
  are F1 and EM, for the other abilities the smallest of their metrics. A dash means that it was not measured.
- *KL*: how far the model is from its base, in nats per token; 0 means that nothing has changed. Replay rows differ from
  remedy to remedy, so compare the figures of the test prompts.
- *time*: seconds of the tuning with its validations, of making replay rows, and of a repair or a search, as a multiple
  of the run without a remedy. It depends on the machine and on what else runs there.

The intervals are those of the rows. Each remedy ran once, with one seed; another seed moves the figures, too. nano is
small: with a larger model the figures differ, and the order of the remedies may.
"""
REPEAT = """## Repeat it

In a checkout of lotune, with a folder for the runs:

    python -m benchmarks.retention run FOLDER
    python -m benchmarks.retention page FOLDER

The first command measures what is missing. It can be stopped at any time, and continues when it is given again. The
second command writes this page. Names of sets after the folder limit both to these sets.
"""
WIDTH = 120


def page(names: Sequence[str], records: Records) -> str:
    """Return the page of these sets, in Markdown."""
    remedies = markdown(("remedy", "what it does", "settings"), [_remedy_row(name) for name in REMEDIES])
    parts = [
        INTRODUCTION,
        _list([*verdict_lines(names, records), *_not_measured(names, records)]),
        METHOD,
        "".join(f"- `{key}={value}`\n" for key, value in HARSH.items()),
        f"The remedies:\n\n{remedies}",
        DIVERGENCE,
        READING,
        *(_set_part(name, records) for name in names),
        REPEAT,
    ]
    return "\n".join(parts)


def _list(lines: Sequence[str]) -> str:
    r"""Return a list of lines, wrapped.

    >>> _list(["one", "two"])
    '- one\n- two\n'
    """
    return "".join(_wrapped(f"- {line}", "  ") for line in lines)


def _wrapped(line: str, indent: str = "") -> str:
    # Hyphens stay in their words, which may be code.
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False) + "\n"


def _remedy_row(name: str) -> list[str]:
    remedy = REMEDIES[name]
    return [remedy.title, remedy.about, ", ".join(f"`{key}={value}`" for key, value in remedy.settings.items()) or "–"]


def _set_part(name: str, records: Records) -> str:
    """Return the part of a set: what it is, its table, and what the remedies after the tuning did."""
    settings = ", ".join(f"`{key}={value}`" for key, value in SETS[name].settings.items())
    about = _wrapped(f"{SETS[name].about} ({settings}).")
    steps = further_steps(name, records)
    return "\n".join([f"## {name.capitalize()}\n", about, table(name, records), *([_list(steps)] if steps else [])])


def _not_measured(names: Sequence[str], records: Records) -> list[str]:
    count, runs = len(missing(names, records)), len(names) * len(REMEDIES)
    return [f"Not measured yet: {count} of {runs} runs."] if count else []
