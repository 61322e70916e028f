"""Verbs that work on a file or a model and need no recipe: `sample`, `init`, `evaluate --model`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import signature
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from lotune.data.batches import encode_row, marked
from lotune.data.bounded import MOST_ROW_BYTES
from lotune.data.examples import Example
from lotune.data.rows import listed, remedy_for, to_conversation, write_jsonl
from lotune.data.tokenizers import LightTokenizer
from lotune.errors import DataError, SettingsError
from lotune.evaluate.alone import compare_alone, rows_alone, wider, wider_target
from lotune.evaluate.facts import facts_of
from lotune.evaluate.predict import Prediction
from lotune.evaluate.scorecard import Alone, AskedRows, asked_notes
from lotune.evaluate.shots import BETWEEN, with_shots
from lotune.evaluate.statistics import Interval
from lotune.model.base import base_folder, resolve_device
from lotune.model.settings import BaseSettings
from lotune.recipe import Options, Recipe
from lotune.report.progress import say
from lotune.report.terminal import limits_text
from lotune.runs import write_atomically
from lotune.stages.asking import (
    Asking,
    answers_mark,
    ask_alone,
    ask_together,
    check_engine,
    check_judgeable,
    computes_on,
    load_answering,
    measured_rows,
    settled,
    weights_of,
)
from lotune.stages.outputs import check_marks, check_new, check_output
from lotune.stages.wording import in_its_template
from lotune.tasks.datasets import EvaluationSet, evaluation_rows, evaluation_set
from lotune.tasks.metrics import rouge_l
from lotune.tasks.own_rows import NoGeneratorError, rows_wanted_by
from lotune.tasks.recognition import settings_of
from lotune.tasks.registry import build_task
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Row, Task
from lotune.text_display import print_visible
from lotune.train.parallel import World, joined, loss_is_named


def sample(
    settings: TaskSettings, rows: int, seed: int, out: Path, form: str, force: bool, options: Options
) -> dict[str, Any]:
    """Write rows of a task's own generator, in the task's layout or as conversations of prompt and solution.

    Raises: SettingsError for another form, and for a file that is there already unless `force` is given.
    """
    task = build_task(settings)
    if form not in ("rows", "conversation"):
        raise SettingsError("--form", f"{form!r} is not known", "rows or conversation")
    check_new(out, force)
    try:
        _write_sample(task, rows, seed, out, form)
    except NoGeneratorError as error:
        raise SettingsError("--task", error.found, "arithmetic or reading") from None
    say(f"{rows} rows of {task.name} in {out}")
    return {"task": task.name, "rows": rows, "seed": seed, "form": form, "out": str(out)}


def _write_sample(task: Task, rows: int, seed: int, out: Path, form: str) -> None:
    if form == "rows":
        task.write(out, task.stream(rows, seed))
        return
    pairs = ((str(number), row) for number, row in enumerate(task.stream(rows, seed), start=1))
    examples = task.examples(pairs, training=False)
    write_jsonl(out, (to_conversation(one.id, one.prompt, one.target) for one in examples))


@dataclass(frozen=True)
class EvaluationRows:
    """Rows to test a model on: of a file or generated, `limit` at most, each after `shots` answered examples.

    The examples are rows of `shots_data`, drawn by seed; without it they are generated.
    """

    data: Path | None = None
    limit: int | None = None
    shots: int = 0
    shots_data: Path | None = None

    def marks(self, seed: int) -> dict[str, Any]:
        """What an answer depends on by the examples that are shown."""
        shown = {"shots": self.shots, "shots_data": self.shots_data, "seed": seed}
        return {name: value for name, value in shown.items() if value is not None} if self.shots else {}

    def read(self, task: Task, seed: int, max_row_bytes: int = MOST_ROW_BYTES) -> EvaluationSet:
        """The examples. Raises: SettingsError, DataError where there are none, or too few to show."""
        with rows_wanted_by("--data"):
            found = evaluation_set(task, self.data, self.limit, seed, max_row_bytes)
        if not self.shots:
            return found
        return replace(found, examples=self._after_shots(task, seed, found.examples, max_row_bytes))

    def _after_shots(self, task: Task, seed: int, examples: Sequence[Example], max_row_bytes: int) -> list[Example]:
        if self.data is not None and self.shots_data is None:
            raise SettingsError("--shots", "nothing says where its examples come from", "--shots-data FILE")
        asked = {example.prompt for example in examples}
        drawn = None if self.shots_data else 4 * self.shots
        found = evaluation_rows(task, self.shots_data, drawn, seed + SHOTS_SEED, max_row_bytes)
        others = [example for example in found if example.prompt not in asked]
        if len(others) < self.shots:
            where = str(self.shots_data or "--shots")
            raise DataError(where, f"has {len(others)} rows that are not tested", f"{self.shots} of them")
        return with_shots(task, examples, Random(seed + SHOTS_SEED).sample(others, self.shots))


SHOTS_SEED = 9_000
"""Added to the seed for the rows that are shown as examples."""


def evaluate_model(
    recipe: Recipe, model: str, test: EvaluationRows, out: Path | None, force: bool, options: Options
) -> dict[str, Any] | None:
    """Figures of one model on one task: the metrics, each with its interval, and those of each kind.

    Of several processes under torchrun each asks its part, and the first has the figures; the others have None.
    Raises: SettingsError where `out` is read, too; DataError where no row has a key.
    """
    settings = in_its_template(recipe.task, model, force)
    task = build_task(settings)
    check_engine(recipe, task)
    check_output(out, test.data, test.shots_data, *folders_of(recipe, model))
    tested = test.read(task, recipe.seed, recipe.data.max_row_bytes)
    examples = tested.examples
    check_judgeable(task, settings, examples, test.data)
    if options.dry_run:
        return {"model": model, "task": task.name, "rows": len(examples)}
    recipe = settled(recipe, model)
    title, batch_tokens, mark = f"{model}, {task.name}", recipe.evaluate.batch_tokens, ""
    if out is not None:
        mark = answers_mark(recipe, model, settings, **test.marks(recipe.seed))
        check_marks(out, mark)
    with joined(resolve_device(recipe.device)) as world, loss_is_named(world):
        answering, tokenizer = load_answering(recipe, model)
        on_too_long = recipe.evaluate.on_too_long
        stop, facts = (BETWEEN,) if test.shots else (), facts_of(settings, task, test.shots, on_too_long)
        asking = Asking(title, answering, tokenizer, batch_tokens, stop, mark, facts=facts, on_too_long=on_too_long)
        found = ask_together(asking, task, examples, out, world)
        alone = _ask_again(recipe, asking, task, examples, found, world)
    if not world.leads:
        return None
    file = test.data.name if test.data else ""
    rows = AskedRows(name="test", rows=len(found), file=file, file_rows=tested.file_rows)
    asked = {"asked": measured_rows(rows, found)}
    figures = {"model": model, "task": task.name, **computes_on(recipe), **_figures(task, found, alone), **asked}
    if not options.json:
        _show(figures)
    return figures


def _ask_again(
    recipe: Recipe, asking: Asking, task: Task, examples: Sequence[Example], found: Sequence[Prediction], world: World
) -> Alone | None:
    """What asking some rows again alone finds, in every process; None where the model answers in float32."""
    dtype = recipe.evaluate.dtype
    if dtype == "float32":
        return None
    again, rows = replace(asking, title=f"{asking.title}, alone"), rows_alone(examples, recipe.seed)
    return compare_alone(found, ask_together(again, task, rows, None, world, ask_alone), dtype)


def _figures(task: Task, found: Sequence[Prediction], alone: Alone | None) -> dict[str, Any]:
    from lotune.evaluate.intervals import metric_intervals
    from lotune.evaluate.scorecard import Verdict, measure_target

    seen = [Verdict(one.example_id, one.kind, one.judged) for one in found]
    target = measure_target(task.name, task.metric, seen, seen, judge=task.rule, score=task.score_of.get(task.metric))
    judged, share = [one.judged for one in found], alone.share if alone else 0.0
    target = wider_target(target, share, share)
    intervals = {
        name: wider(interval, *(100 * share, 0, 100) if name in task.score_of else (share, LEAST.get(name, 0)))
        for name, interval in metric_intervals(task, judged).items()
    }
    by_kind = {
        name: {"n": kind.n, "value": kind.value, "interval": kind.interval} for name, kind in target.by_kind.items()
    }
    return {
        "judge": task.rule, **({"rouge_l": ROUGE_L} if task.rule == "rouge-l" else {}),
        "metrics": task.metrics(judged), "intervals": intervals, "interval": target.interval,
        "n": target.n, "unjudgeable": target.unjudgeable, "by_kind": by_kind,
        **({"asked_alone": alone.model_dump(include={"dtype", "rows", "texts", "verdicts"})} if alone else {}),
    }  # fmt: skip


LEAST = {"matthews": -1}
"""The least value of metrics that are not 0 at least."""
ROUGE_L = {
    "beta": signature(rouge_l).parameters["beta"].default,
    "segments": "words in small letters; where a text has Chinese in it, characters and blanks",
}
"""How the judge rouge-l weighs recall against precision, and what it compares."""


def folders_of(recipe: Recipe, model: str) -> tuple[Path | None, ...]:
    """The folders that a model is read from."""
    settings, adapter = weights_of(recipe, model)
    return base_folder(settings) if adapter is None else None, adapter


def _show(figures: dict[str, Any]) -> None:
    judge = f", judged by {figures['judge']}" if figures["judge"] else ""
    if rouge := figures.get("rouge_l"):
        judge += f" (beta {rouge['beta']:g}; {rouge['segments']})"
    print_visible(f"{figures['model']} on {figures['device']} in {figures['dtype']}: {figures['n']} rows{judge}")
    for note in asked_notes([figures["asked"]]):
        print_visible(f"note: {note}")
    for name, value in figures["metrics"].items():
        interval = _span(figures["intervals"][name]) if name in figures["intervals"] else ""
        print_visible(f"{name}: {value:.4g}{interval}")
    if "asked_alone" in figures:
        print_visible(Alone(**figures["asked_alone"]).describe())
    for kind, found in figures["by_kind"].items():
        shown = "not judgeable" if found["value"] is None else f"{found['value']:.4g}{_span(found['interval'])}"
        print_visible(f"  {kind}: {shown}, {found['n']} rows")


def _span(interval: Interval | None) -> str:
    return f" (95 % interval {limits_text(interval, '.4g')})"


MOST_COUNTED = 20_000
"""Rows in which `init` looks for kinds."""
SMALL = 1_000
"""Rows up to which `init` counts how many of them differ."""


def init(file: Path, out: Path | None, force: bool, options: Options) -> dict[str, Any]:
    """Write a first recipe for a file of rows, and show three of them as they would be trained on.

    Raises: DataError where no task reads such rows, SettingsError where the recipe would take the place of the rows, or
    is there already and `force` is not given.
    """
    settings = settings_of(file)
    target = out or Path(f"{file.resolve().name if file.is_dir() else file.stem}.yaml")
    check_output(target, file)
    check_new(target, force)
    task = build_task(settings)
    settings = settings.model_copy(update={"judge": task.rule or None})
    read = task.read(file, on_error="skip")
    rows, malformed = read.rows, read.malformed
    if malformed:
        say(f"{len(malformed)} rows cannot be read: {listed(malformed)}; {remedy_for(malformed)}")
    tokenizer = _nano_tokenizer()
    shown = _usable(task, rows, 3)
    for example in shown:
        say(f"--- {example.id}\n{marked(tokenizer, encode_row(tokenizer, example))}")
    write_atomically(target, _recipe_text(settings, file, _different(task, rows)))
    kinds = _kinds(task, rows)
    judge = f"judged by {task.rule}, " if task.rule else ""
    of_kinds = f", of {kinds} kinds" if kinds > 1 else ""
    say(f"{len(rows)} rows of {task.name}{of_kinds}; {judge}measured in {task.metric}")
    if settings.columns:
        say("columns: " + ", ".join(f"{field}: {name!r}" for field, name in settings.columns.items()))
    say(f"of the {len(shown)} above, what is trained on stands between ⟦ and ⟧")
    say(f"recipe written: lotune run {shlex.quote(str(target))}")
    counts = {"rows": len(rows), "malformed": len(malformed)}
    judged = {"judge": task.rule, "metric": task.metric}
    return {"task": task.name, "columns": settings.columns, **judged, "kinds": kinds, **counts, "recipe": str(target)}


def _nano_tokenizer() -> LightTokenizer:
    folder = base_folder(BaseSettings())
    assert folder is not None  # nano is part of the package
    return LightTokenizer(folder)


def _usable(task: Task, rows: Sequence[tuple[str, Row]], number: int) -> list[Example]:
    """The first examples that can be trained on.

    Raises: DataError, that of the first row, where there is none; with another use of rows without keys.
    """
    found: list[Example] = []
    faults: list[DataError] = []
    for row in rows:
        try:
            found += task.examples([row], training=True)
        except DataError as error:
            faults.append(error)
        if len(found) >= number:
            break
    if not found:
        fault = faults[0]
        without_keys = f"`lotune generate --task {task.name}` answers rows without keys"
        remedies = [fault.remedy, without_keys if "to train on" in fault.found else ""]
        raise DataError(fault.where, fault.found, fault.expected, "; ".join(filter(None, remedies)))
    return found[:number]


def _kinds(task: Task, rows: Sequence[tuple[str, Row]]) -> int:
    """How many kinds the first rows are of."""
    found = set()
    for row in islice(rows, MOST_COUNTED):
        with suppress(DataError):
            found |= {example.kind for example in task.examples([row], training=False)}
    return len(found - {""})


def _different(task: Task, rows: Sequence[tuple[str, Row]]) -> int:
    """How many of the rows differ and can be trained on; where there are many, how many there are."""
    if len(rows) > SMALL:
        return len(rows)
    known = set()
    for row in rows:
        with suppress(DataError):
            known |= {example.prompt for example in task.examples([row], training=True)}
    return min(len(known), len(rows))


def _recipe_text(settings: TaskSettings, file: Path, rows: int) -> str:
    """The recipe; of a small file a tenth validates, a fifth tests, and steps are so small that checkpoints fit."""
    import yaml

    validation, test = max(1, min(50, rows // 10)), max(1, min(100, rows // 5))
    recipe: dict[str, Any] = {
        "base": {"model": "nano"},
        "task": {"name": settings.name, **settings.model_dump(exclude_defaults=True)},
        "data": {
            "train": str(file),
            "validation_rows": validation,
            "test_rows": test,
        },
    }
    left, default = max(1, rows - validation - test), Recipe()
    count = default.checkpoints.count
    if left < 2 * count * default.tune.batch_rows:
        batch = max(1, left // (2 * count))
        recipe |= {"tune": {"batch_rows": batch}, "checkpoints": {"count": min(count, left)}}
    head = f"# Tune the embedded base on {file.name}; `lotune run --help` lists every setting.\n"
    return head + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=1000)
