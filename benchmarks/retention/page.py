"""Make the page of the documentation that compares the remedies, from the records."""

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
[Keep what the base can do](how-to/keep-abilities.md) explains. This page shows what each remedy keeps, what it costs on
the task, and how long it takes. The last section has the commands that make the figures.

## In short
"""
METHOD = """## What was measured

The base is nano, the practice model of two million parameters. The settings are harsh on purpose, so that the model
forgets much: a high learning rate, and nothing against forgetting. Each remedy is added alone to these settings.

Three abilities of the base are measured before and after the tuning: reading on 300 rows, copying on 200 and equations
on 200. Only reading decides the gate, and generated replay rows are rows of reading. No remedy uses rows of copying or
equations, so these two show whether a remedy keeps more than what it rehearses.

Settings of every run:
"""
DIVERGENCE = """On a replay row, the model is either trained on the answer or held to the base's predictions, which is
the divergence; never both. So there is no further remedy that adds divergence to replay. A repair uses the divergence,
too.
"""
READING = """## How to read the tables

- *accuracy*: the share of correct answers on the test rows. *difference*: the accuracy minus that of the run without a
  remedy, on the same rows, with its 95 % interval.
- *kept*: the score after the tuning as a share of the base's, with its 95 % interval, in percent. Reading has F1 and
  EM; the other abilities have the smallest of their metrics. A dash means that it was not measured.
- *KL*: how far the model is from its base, in nats per token; 0 means that nothing has changed. Replay rows differ from
  remedy to remedy, so compare the figures of the test prompts.
- *time*: the processor time of `lotune tune` as a multiple of that without a remedy. It has the validations, the making
  of replay rows, and a repair or a search. It differs from machine to machine.

The intervals express the choice of the test rows only. Each remedy ran once, with one seed, and another seed moves the
figures, too. nano is small: with a larger model the figures differ, and the order of the remedies may differ.
"""
REPEAT = """## Repeat it

In a checkout of lotune, `python -m benchmarks.retention run FOLDER` measures what is missing, with its runs in that
folder. If it is stopped, it continues where it was when it is run again. `python -m benchmarks.retention page FOLDER`
writes this page. Names of sets after the folder limit both commands to these sets.
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
    r"""Return lines as a Markdown list, wrapped.

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
    """Return the section of a set: what it is, its table, and what the remedies after the tuning did."""
    settings = ", ".join(f"`{key}={value}`" for key, value in SETS[name].settings.items())
    about = _wrapped(f"{SETS[name].about} ({settings}).")
    steps = further_steps(name, records)
    return "\n".join([f"## {name.capitalize()}\n", about, table(name, records), *([_list(steps)] if steps else [])])


def _not_measured(names: Sequence[str], records: Records) -> list[str]:
    count, runs = len(missing(names, records)), len(names) * len(REMEDIES)
    return [f"Not measured yet: {count} of {runs} runs."] if count else []
