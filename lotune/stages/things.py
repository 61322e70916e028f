"""Verbs that work on a file or a model and need no recipe: `sample`, `init`, `evaluate --model`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from lotune.data.batches import encode_row, marked
from lotune.data.examples import Example
from lotune.data.formats import read_json_document
from lotune.data.rows import MEND_ROWS, listed, read_rows, to_conversation, write_jsonl
from lotune.data.templates import FILE_NAME, TEMPLATES, load_template
from lotune.errors import DataError, ModelError, SettingsError
from lotune.evaluate.shots import BETWEEN, with_shots
from lotune.model.base import load_tokenizer, resolve_device
from lotune.model.settings import BaseSettings
from lotune.recipe import Options, Recipe
from lotune.report.progress import say
from lotune.runs import write_atomically
from lotune.stages.asking import Asking, ask_together, check_engine, load_answering, model_mark
from lotune.tasks.arithmetic.kinds import recognise
from lotune.tasks.arithmetic.task import problem_and_solution
from lotune.tasks.datasets import evaluation_rows
from lotune.tasks.instructions.shapes import refuse, shape_of, suggested_columns
from lotune.tasks.own_rows import NoGeneratorError, rows_wanted_by
from lotune.tasks.registry import build_task
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Row, Task
from lotune.train.parallel import joined, loss_is_named


def sample(settings: TaskSettings, rows: int, seed: int, out: Path, form: str, options: Options) -> dict[str, Any]:
    """Write rows of a task's own generator, in the task's layout or as conversations of prompt and solution.

    Raises: SettingsError for another form.
    """
    task = build_task(settings)
    if form not in ("rows", "conversation"):
        raise SettingsError("--form", f"{form!r} is not known", "rows or conversation")
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

    def read(self, task: Task, seed: int) -> list[Example]:
        """The examples. Raises: SettingsError, DataError where there are none, or too few to show."""
        with rows_wanted_by("--data"):
            examples = evaluation_rows(task, self.data, self.limit, seed)
        if not self.shots:
            return examples
        if self.data is not None and self.shots_data is None:
            raise SettingsError("--shots", "nothing says where its examples come from", "--shots-data FILE")
        asked = {example.prompt for example in examples}
        found = evaluation_rows(task, self.shots_data, None if self.shots_data else 4 * self.shots, seed + SHOTS_SEED)
        others = [example for example in found if example.prompt not in asked]
        if len(others) < self.shots:
            where = str(self.shots_data or "--shots")
            raise DataError(where, f"has {len(others)} rows that are not tested", f"{self.shots} of them")
        return with_shots(examples, Random(seed + SHOTS_SEED).sample(others, self.shots))


SHOTS_SEED = 9_000
"""Added to the seed for the rows that are shown as examples."""


def evaluate_model(
    recipe: Recipe, model: str, test: EvaluationRows, out: Path | None, force: bool, options: Options
) -> dict[str, Any] | None:
    """Figures of one model on one task: the metrics, with an interval, and those of each kind.

    Of several processes under torchrun each asks its part, and the first has the figures; the others have None.
    """
    from lotune.evaluate.scorecard import Verdict, measure_target

    task = build_task(in_its_template(recipe.task, model, force))
    check_engine(recipe, task)
    examples = test.read(task, recipe.seed)
    if options.dry_run:
        return {"model": model, "task": task.name, "rows": len(examples)}
    title, batch_tokens, mark = f"{model}, {task.name}", recipe.evaluate.batch_tokens, model_mark(recipe, model, out)
    with joined(resolve_device(recipe.device)) as world, loss_is_named(world):
        answering, tokenizer = load_answering(recipe, model)
        asking = Asking(title, answering, tokenizer, batch_tokens, (BETWEEN,) if test.shots else (), mark)
        found = ask_together(asking, task, examples, out, world)
    if not world.leads:
        return None
    seen = [Verdict(one.example_id, one.kind, one.judged) for one in found]
    target = measure_target(task.name, task.metric, seen, seen, judge=task.rule, score=task.score_of.get(task.metric))
    figures = {
        "model": model, "task": task.name, "judge": task.rule,
        "metrics": task.metrics([one.judged for one in found]), "n": target.n, "unjudgeable": target.unjudgeable,
        "interval": target.interval, "by_kind": {
            name: {"n": kind.n, "value": kind.value, "interval": kind.interval} for name, kind in target.by_kind.items()
        },
    }  # fmt: skip
    if not options.json:
        _show(figures)
    return figures


def in_its_template(settings: TaskSettings, model: str, force: bool) -> TaskSettings:
    """The settings of a task with the prompt template that a model's folder holds, where they do not name one.

    The reading task has a prompt of its own and stays as it is; so does everything with `force`.
    Raises: ModelError where the settings name another template than the one that the model was tuned in.
    """
    folder = Path(model)
    if force or settings.name == "reading" or not (folder / FILE_NAME).exists():
        return settings
    if {"template", "preamble"} & settings.model_fields_set:
        load_template(folder, settings.prompt_template)
        return settings
    stored = load_template(folder)
    known = TEMPLATES.get(stored.name)
    if known is None or replace(known, preamble=stored.preamble) != stored:
        found = f"was tuned in a wording of the template {stored.name!r} that is not among lotune's"
        raise ModelError(model, found, f"one of {', '.join(TEMPLATES)}", "--force-template asks in the task's own")
    return settings.model_copy(update={"template": stored.name, "preamble": stored.preamble})


def _show(figures: dict[str, Any]) -> None:
    low, high = figures["interval"]
    for name, value in figures["metrics"].items():
        print(f"{name}: {value:.4g}")
    print(f"95 % interval of the first: {low:.4g} to {high:.4g}, {figures['n']} rows")
    for kind, found in figures["by_kind"].items():
        shown = "not judgeable" if found["value"] is None else f"{found['value']:.1%}"
        print(f"  {kind}: {shown} of {found['n']}")


SMALL = 1_000
"""Rows up to which `init` counts how many of them differ."""
LAYOUTS = {
    ("problem", "solution"): "arithmetic",
    ("context", "qas"): "reading",
    ("Question", "A", "B", "C", "D"): "choice",
    ("question", "options", "answer"): "choice",
    ("question1", "question2"): "sentences",
    ("#1 String", "#2 String"): "sentences",
}
"""Columns by which a file's task is known; what is neither of these is read by the task instructions."""


def init(file: Path, out: Path | None, force: bool, options: Options) -> dict[str, Any]:
    """Write a first recipe for a file of rows, and show three of them as they would be trained on.

    Raises: DataError where no task reads such rows, SettingsError where the recipe would take the place of the rows, or
    is there already and `force` is not given.
    """
    settings = _recognise(file)
    target = out or Path(f"{file.stem}.yaml")
    if target.exists() and target.samefile(file):
        raise SettingsError(str(target), "is the file of rows", "a name for the recipe", "name it with --out")
    if target.exists() and not force:
        raise SettingsError(str(target), "is there already", remedy="name another file with --out, or give --force")
    task = build_task(settings)
    read = task.read(file, on_error="skip")
    rows, malformed = read.rows, read.malformed
    if malformed:
        say(f"{len(malformed)} rows cannot be read: {listed(malformed)}; {MEND_ROWS}")
    tokenizer, _ = load_tokenizer(BaseSettings())
    shown = _usable(task, rows, 3)
    for example in shown:
        say(f"--- {example.id}\n{marked(tokenizer, encode_row(tokenizer, example))}")
    write_atomically(target, _recipe_text(settings, file, _different(task, rows)))
    say(f"{len(rows)} rows of {task.name}; of the {len(shown)} above, what is trained on stands between ⟦ and ⟧")
    say(f"recipe written: lotune run {target}")
    counts = {"rows": len(rows), "malformed": len(malformed)}
    return {"task": task.name, "columns": settings.columns, **counts, "recipe": str(target)}


def _recognise(file: Path) -> TaskSettings:
    """The settings of the task that reads a file's rows. Raises: DataError naming their fields where none does."""
    if file.suffix.lower() == ".json":
        document = read_json_document(file)
        if isinstance(document, dict) and isinstance(document.get("data"), list):
            return TaskSettings(name="reading")
    rows = [row for _, row in read_rows(file, on_error="skip").rows]
    for wanted, name in LAYOUTS.items():
        if set(wanted) <= set(rows[0]):
            return TaskSettings(name=name)
    if any(_asks_arithmetic(row) for row in rows[:20]):
        return TaskSettings(name="arithmetic")
    shape = next(filter(None, map(shape_of, rows)), None)
    columns = suggested_columns(rows[0])
    if shape is None and not columns:
        refuse(file, rows[:100], "; problem, solution; or SQuAD's layout")
    plain = "prompt" in columns or (shape is not None and shape.field == "prompt")
    return TaskSettings(name="instructions", columns=columns, template="plain" if plain else "alpaca")


def _asks_arithmetic(row: Row) -> bool:
    """Whether a conversation of one question asks one of the arithmetic task's."""
    try:
        return "conversations" in row and recognise(problem_and_solution(row)[0]) is not None
    except DataError:
        return False


def _usable(task: Task, rows: Sequence[tuple[str, Row]], number: int) -> list[Example]:
    """The first examples that can be trained on. Raises: DataError, that of the first row, where there is none."""
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
        raise faults[0]
    return found[:number]


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
