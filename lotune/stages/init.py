"""`lotune init`: a first recipe for a file of rows."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.examples import Example
from lotune.data.rows import Malformed, RowFile, summarise_malformed
from lotune.data.settings import split_sizes
from lotune.data.tokenized import encode_row, render_supervision
from lotune.data.tokenizer_training import LightTokenizer
from lotune.errors import DataError
from lotune.files import write_atomically
from lotune.model.loading import NANO, PRACTICE_MODEL, REAL_MODEL, base_folder
from lotune.model.settings import BaseSettings
from lotune.recipe import RunOptions
from lotune.stages.output_files import check_new, refuse_overwriting_inputs
from lotune.tasks.candidates import Candidate, Decision, Wanted
from lotune.tasks.recognition import candidate_of
from lotune.tasks.registry import build_task
from lotune.tasks.settings import RowSettings, TaskSettings
from lotune.tasks.task import Task

MAX_COUNTED_ROWS = 20_000
"""Number of rows that `init` turns into examples to count kinds, different questions and rows without an answer."""
SHOWN_ROWS = 3
"""Number of examples that `init` shows."""
MAX_SKIPPED = 0.1
"""Largest fraction of unusable rows that the recipe skips; more of them are a fault of the file."""


@dataclass(frozen=True)
class Proposal:
    """A first recipe for a file of rows: how they are read, why, and what the first rows give."""

    settings: TaskSettings
    task: Task
    file: RowFile
    survey: Survey
    skips: bool
    """Whether the recipe skips the rows that cannot be used."""
    decisions: tuple[Decision, ...]
    others: tuple[Decision, ...]
    recipe: str
    """The recipe as YAML."""


def init(file: Path, out: Path | None, force: bool, options: RunOptions, wanted: Wanted, base: str) -> dict[str, Any]:
    """Write a first recipe for a file of rows, print its decisions, and show three rows as they would be trained on.

    Raises: DataError if no task reads such rows; SettingsError if the recipe would overwrite the rows, or exists
    already and `force` is not given.
    """
    candidate = candidate_of(file, wanted)
    target = out or Path(f"{file.resolve().name if file.is_dir() else file.stem}.yaml")
    refuse_overwriting_inputs(target, file)
    check_new(target, force)
    proposal = propose(file, candidate, base)
    settings, task, survey = proposal.settings, proposal.task, proposal.survey
    tokenizer = nano_tokenizer()
    for example in survey.shown:
        print_status(f"--- {example.id}\n{render_supervision(tokenizer, encode_row(tokenizer, example))}")
    write_atomically(target, proposal.recipe)
    print_status(f"of the {len(survey.shown)} rows above, what is trained on stands between ⟦ and ⟧")
    for decision in proposal.decisions:
        print_status(str(decision))
    for other in proposal.others:
        print_status(f"another reading: {other}")
    print_status(f"recipe written: lotune run {shlex.quote(str(target))}")
    columns = settings.columns if isinstance(settings, RowSettings) else {}
    return {
        "task": task.name, "columns": columns, "scorer": task.scorer, "metric": task.metric, "kinds": survey.kinds,
        "rows": len(proposal.file.rows), "malformed": len(proposal.file.malformed),
        "decisions": list(map(str, proposal.decisions)), "other_readings": list(map(str, proposal.others)),
        "base": base, "recipe": str(target),
    }  # fmt: skip


def propose(file: Path, candidate: Candidate, base: str) -> Proposal:
    """Return a first recipe for the rows of a file that a candidate reads.

    Raises: DataError if no row can be trained on.
    """
    task = build_task(candidate.settings)
    read = task.read(file, on_error="skip")
    found = survey_rows(task, read)
    skips = bool(found.unusable) and len(found.unusable) <= MAX_SKIPPED * found.read
    decisions = (*candidate.decisions, *_decisions(task, candidate, found, skips, base))
    recipe = _recipe_text(candidate.settings, file, base, skips)
    return Proposal(candidate.settings, task, read, found, skips, decisions, candidate.others, recipe)


def nano_tokenizer() -> LightTokenizer:
    """Return the tokeniser of nano, which is loaded without transformers."""
    folder = base_folder(BaseSettings())
    assert folder is not None  # nano is part of the package
    return LightTokenizer(folder)


@dataclass
class Survey:
    """What the first MAX_COUNTED_ROWS rows of a file give; larger files are extrapolated."""

    shown: list[Example] = field(default_factory=list)
    distinct: int = 0
    kinds: int = 0
    read: int = 0
    unusable: list[Malformed] = field(default_factory=list)


def survey_rows(task: Task, file: RowFile, shown: int = SHOWN_ROWS) -> Survey:
    """Return the first examples and the counts of a file.

    Raises: DataError of the first row if none can be trained on; it suggests `lotune generate` for rows without
    references.
    """
    found, faults = Survey(unusable=list(file.malformed)), list[DataError]()
    prompts, kinds = set(), set()
    for row in islice(file.rows, MAX_COUNTED_ROWS):
        try:
            for example in task.examples([row], training=True):
                prompts.add(hash((example.prompt, example.target)))
                kinds.add(example.category)
                found.shown += [example] if len(found.shown) < shown else []
        except DataError as error:
            faults.append(error)
            found.unusable.append(Malformed(error.where, error.found, error.remedy))
    if not found.shown:
        raise _without_answers(task, faults[0])
    counted = min(len(file.rows), MAX_COUNTED_ROWS)
    found.kinds = len(kinds - {""})
    found.read = len(file.rows) + len(file.malformed)
    found.distinct = len(prompts) * len(file.rows) // counted
    return found


def _without_answers(task: Task, fault: DataError) -> DataError:
    """Return the error for a file without an example to train on, from that of its first row."""
    without_keys = f"`lotune generate --task {task.name}` answers rows without keys"
    remedies = [fault.remedy, without_keys if "to train on" in fault.found else ""]
    return DataError(fault.where, fault.found, fault.expected, "; ".join(filter(None, remedies)))


def _decisions(task: Task, candidate: Candidate, survey: Survey, skips: bool, base: str) -> Iterator[Decision]:
    """Yield the decisions about measure, rows and base."""
    if not any(decision.text.startswith("measure") for decision in candidate.decisions):
        scorer = f", judged by {task.scorer}" if task.scorer else ""
        changed_by = "task.scorer" if "scorer" in type(candidate.settings).model_fields else "--task"
        yield Decision(f"measure: {task.metric}{scorer}", changed_by)
    of_kinds = f", of {survey.kinds} kinds" if survey.kinds > 1 else ""
    if survey.unusable:
        faults = summarise_malformed(survey.unusable, 3)
        handled = "are skipped" if skips else "stop the run"
        yield Decision(f"{len(survey.unusable)} of {survey.read:,} rows {handled}: {faults}", "data.on_error")
    validation, test = split_sizes(survey.distinct)
    training = max(0, survey.distinct - validation - test)
    split = f"{survey.distinct:,} different rows{of_kinds}: about {training:,} to train on, {validation} to validate, "
    yield Decision(f"{split}{test} to test", "data.validation_rows, data.test_rows")
    if base == NANO:
        yield Decision(f"base: {PRACTICE_MODEL}; for results name a real one, such as {REAL_MODEL}", "--base")
    else:
        yield Decision(f"base: {base}", "--base")


def _recipe_text(settings: TaskSettings, file: Path, base: str, skips: bool) -> str:
    """Return the recipe as YAML."""
    import yaml

    recipe: dict[str, Any] = {
        "base": {"model": base},
        "task": {"name": settings.name, **settings.model_dump(exclude_defaults=True)},
        "data": {"train": str(file), **({"on_error": "skip"} if skips else {})},
    }
    header = f"# Tune {base} on {file.name}. `lotune run --help` lists every setting.\n"
    if base == NANO:
        header += f"# {PRACTICE_MODEL}. For results set base.model to a real model: a name on the Hugging Face\n"
        header += f"# hub, such as {REAL_MODEL}, or a local folder.\n"
    return header + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=1000)
