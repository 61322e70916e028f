"""`lotune generate`: one answer to each row of a file, in its order, or to one prompt; rows need no keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lotune.data.batches import encode_prompt
from lotune.data.examples import Example
from lotune.data.rows import write_jsonl
from lotune.data.templates import FILE_NAME, TEMPLATES
from lotune.errors import SettingsError
from lotune.evaluate.predict import Prediction
from lotune.generate.requests import Request
from lotune.generate.vllm import engine_of
from lotune.model.base import base_folder, context_length
from lotune.recipe import Options, Recipe
from lotune.report.progress import say
from lotune.runs import inputs_mark, write_atomically
from lotune.stages.asking import Asking, ask, check_engine, load_answering
from lotune.stages.wording import in_its_template
from lotune.tasks.registry import build_task
from lotune.tasks.settings import TaskSettings

PROMPT_TOKENS = 256
"""Longest answer to a prompt, where the settings do not say."""


def generate_answers(
    recipe: Recipe, model: str, data: Path, out: Path, force: bool, options: Options
) -> dict[str, Any]:
    """Write one answer a row of `data` to `out`: jsonl with id and answer, or, as .txt, a line each.

    A line of a .txt file is what the task reads out of the answer (a number, a letter, a label), else the answer on one
    line. Answers are kept beside `out` while they come, so that a stopped command goes on.
    Raises: SettingsError where `out` is of another kind.
    """
    if out.suffix not in (".jsonl", ".txt"):
        raise SettingsError("--out", f"{out.name} is of no known kind", "a .jsonl or .txt file")
    settings = in_its_template(recipe.task, model, force)
    task = build_task(settings)
    check_engine(recipe, task)
    examples = list(task.examples(task.read(data).rows, training=False))
    if options.dry_run:
        return {"model": model, "task": task.name, "rows": len(examples)}
    answering, tokenizer = load_answering(recipe, model)
    kept = _part(recipe, settings, model, data, out)
    title, batch_tokens = f"{model}, {task.name}", recipe.evaluate.batch_tokens
    asking = Asking(title, answering, tokenizer, batch_tokens)
    found = {one.example_id: one for one in ask(asking, task, examples, kept)}
    ordered = [found[example.id] for example in examples]
    if out.suffix == ".jsonl":
        write_jsonl(out, ({"id": one.example_id, "answer": one.text} for one in ordered))
    else:
        write_atomically(out, "".join(_line(one) + "\n" for one in ordered))
    kept.unlink(missing_ok=True)
    cut = sum(one.cut for one in ordered)
    say(f"{len(ordered)} answers in {out}" + (f"; of {cut} the passage was cut to fit" if cut else ""))
    return {"model": model, "task": task.name, "rows": len(ordered), "cut": cut, "out": str(out)}


def generate_text(recipe: Recipe, model: str, prompt: str, force: bool, options: Options) -> dict[str, Any]:
    """The answer to one prompt, in the template of the settings, else the model's own, else as the text stands."""
    settings = in_its_template(recipe.task, model, force)
    named = {"template", "preamble"} & settings.model_fields_set or (Path(model) / FILE_NAME).exists()
    template = settings.prompt_template if named else TEMPLATES["plain"]
    text = template.render(prompt)
    if options.dry_run:
        return {"model": model, "prompt": text}
    answering, tokenizer = load_answering(recipe, model)
    most = settings.max_new_tokens or PROMPT_TOKENS
    ids, _ = encode_prompt(tokenizer, Example("--prompt", text, ""), context_length(answering) - most)
    request = Request(tuple(ids), most, 1, template.stop, "--prompt")
    [(_, found)] = engine_of(answering, tokenizer).stream([request], batch_tokens=recipe.evaluate.batch_tokens)
    if not options.json:
        print(found.text)
    return {"model": model, "prompt": text, "answer": found.text, "stopped_by": found.stopped_by}


def _part(recipe: Recipe, settings: TaskSettings, model: str, data: Path, out: Path) -> Path:
    """The file beside `out` that keeps answers while they come: another one for another model, task or data."""
    base = recipe.base.model_copy(update={"model": model})
    files = {"model": base_folder(base) or model, "data": data}
    inputs = {**files, "base": base.model_dump(), "engine": recipe.evaluate.engine, "task": settings.model_dump()}
    return out.with_name(f".{out.name}.{inputs_mark(inputs)[:16]}.part.jsonl")


def _line(prediction: Prediction) -> str:
    return " ".join((prediction.judged.read or prediction.text).split())
