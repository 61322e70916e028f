"""Verbs that work on a file or a model and need no recipe: `sample`, `init`, `evaluate --model`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lotune.data.rows import read_rows, to_conversation, write_jsonl
from lotune.errors import DataError, SettingsError
from lotune.model.base import load_base
from lotune.recipe import Options, Recipe
from lotune.report.progress import say
from lotune.runs import write_atomically
from lotune.stages.asking import ask
from lotune.tasks.datasets import evaluation_rows
from lotune.tasks.registry import build_task
from lotune.tasks.settings import TaskSettings


def sample(settings: TaskSettings, rows: int, seed: int, out: Path, form: str, options: Options) -> dict[str, Any]:
    """Write rows of a task's own generator, in the task's layout or as conversations of prompt and solution.

    Raises: SettingsError for another form.
    """
    task = build_task(settings)
    if form == "rows":
        task.write(out, task.stream(rows, seed))
    elif form == "conversation":
        pairs = ((str(number), row) for number, row in enumerate(task.stream(rows, seed), start=1))
        examples = task.examples(pairs, training=False)
        write_jsonl(out, (to_conversation(one.id, one.prompt, one.target) for one in examples))
    else:
        raise SettingsError("--form", f"{form!r} is not known", "rows or conversation")
    say(f"{rows} rows of {task.name} in {out}")
    return {"task": task.name, "rows": rows, "seed": seed, "form": form, "out": str(out)}


def evaluate_model(
    recipe: Recipe, model: str, data: Path | None, limit: int | None, out: Path | None, options: Options
) -> dict[str, Any]:
    """Figures of one model on one task: the metrics, with an interval, and those of each kind."""
    from lotune.evaluate.scorecard import Verdict, measure_target

    task = build_task(recipe.task)
    examples = evaluation_rows(task, data, limit, recipe.seed)
    if options.dry_run:
        return {"model": model, "task": task.name, "rows": len(examples)}
    base = load_base(recipe.base.model_copy(update={"model": model}), recipe.device)
    title, batch_tokens = f"{model}, {task.name}", recipe.evaluate.batch_tokens
    found = ask(title, task, examples, base.model, base.tokenizer, batch_tokens, out)
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


def _show(figures: dict[str, Any]) -> None:
    low, high = figures["interval"]
    for name, value in figures["metrics"].items():
        print(f"{name}: {value:.4g}")
    print(f"95 % interval of the first: {low:.4g} to {high:.4g}, {figures['n']} rows")
    for kind, found in figures["by_kind"].items():
        shown = "not judgeable" if found["value"] is None else f"{found['value']:.1%}"
        print(f"  {kind}: {shown} of {found['n']}")


LAYOUTS = {
    ("problem", "solution"): "arithmetic",
    ("conversations",): "arithmetic",
    ("context", "qas"): "reading",
}
"""Columns by which a file's task is known."""


def init(file: Path, out: Path | None, options: Options) -> dict[str, Any]:
    """Write a first recipe for a file of rows, and show three of them as they would be trained on.

    Raises: DataError where no task reads such rows, SettingsError where the recipe is there already.
    """
    name, rows = _recognise(file)
    task = build_task(TaskSettings(name=name))
    shown = [example for example, _ in zip(task.examples(rows, training=True), range(3), strict=False)]
    for example in shown:
        say(f"--- {example.id}\n{example.prompt}⟦{example.target}⟧")
    target = out or Path(f"{file.stem}.yaml")
    if target.exists():
        raise SettingsError(str(target), "is there already", remedy="name another file with --out, or delete it")
    write_atomically(target, _recipe_text(name, file, len(rows)))
    say(f"{len(rows)} rows of {name}; recipe written: lotune run {target}")
    return {"task": name, "rows": len(rows), "recipe": str(target)}


def _recognise(file: Path) -> tuple[str, list[tuple[str, Any]]]:
    if file.suffix == ".json":
        try:
            return "reading", build_task(TaskSettings(name="reading")).read(file).rows
        except DataError:
            pass  # a json file of another layout, read below
    rows = list(read_rows(file, on_error="skip").rows)
    columns = set(rows[0][1])
    for wanted, name in LAYOUTS.items():
        if columns.issuperset(wanted):
            return name, rows
    known = " or ".join(", ".join(wanted) for wanted in LAYOUTS)
    raise DataError(str(file), f"has the columns {', '.join(sorted(columns))}", known, "rename the columns")


def _recipe_text(task: str, file: Path, rows: int) -> str:
    """The recipe; of a small file a tenth validates and a fifth tests."""
    return "\n".join(
        [
            f"# Tune the embedded base on {file.name}; `lotune run --help` lists every setting.",
            "base:",
            "  model: nano",
            "task:",
            f"  name: {task}",
            "data:",
            f"  train: {json.dumps(str(file), ensure_ascii=False)}",
            f"  validation_rows: {max(1, min(50, rows // 10))}",
            f"  test_rows: {max(1, min(100, rows // 5))}",
            "",
        ]
    )
