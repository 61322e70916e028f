"""`lotune generate`: one answer to each row of a file, in its order, or to one prompt; rows need no keys."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lotune.data.batches import encode_prompt
from lotune.data.examples import Example
from lotune.data.formats import is_text
from lotune.data.rows import write_jsonl
from lotune.data.templates import FILE_NAME, TEMPLATES
from lotune.errors import DataError, SettingsError
from lotune.evaluate.predict import TOO_LONG, Prediction, check_room
from lotune.generate.requests import Request
from lotune.generate.sampling import Sampling
from lotune.generate.vllm import engine_of
from lotune.model.base import base_folder, context_length, resolve_device
from lotune.model.settings import BaseSettings
from lotune.recipe import Options, Recipe
from lotune.report.progress import say
from lotune.runs import write_atomically
from lotune.stages.asking import Asking, answers_mark, ask_together, check_engine, load_answering, settled
from lotune.stages.outputs import check_alone, check_output
from lotune.stages.things import folders_of
from lotune.stages.wording import in_its_template
from lotune.tasks.registry import build_task
from lotune.tasks.task import Choosing
from lotune.text_display import print_visible
from lotune.train.parallel import joined, loss_is_named

PROMPT_TOKENS = 256
"""Longest answer to a prompt, where the settings do not say."""


def generate_answers(
    recipe: Recipe, model: str, data: Path, out: Path, sampling: Sampling, force: bool, options: Options
) -> dict[str, Any] | None:
    """Write one answer a row of `data` to `out`: jsonl with id and answer, or, as .txt, a line each.

    A line of a .txt file is what the task reads out of the answer (a number, a letter, a label), else the answer on one
    line. A prompt that is too long for the model has an empty answer, or stops, or is cut, as the settings say. Drawn
    answers are the same for the same seed, whatever is asked beside them. Answers are kept beside `out`
    while they come, so that a stopped command goes on. Of several processes each answers its part, and the first one
    writes; the others have None.
    Raises: SettingsError where `out` is of another kind, or is read, or where the task draws nothing.
    """
    if out.suffix not in (".jsonl", ".txt"):
        raise SettingsError("--out", f"{out.name} is of no known kind", "a .jsonl or .txt file")
    settings = in_its_template(recipe.task, model, force)
    task = build_task(settings)
    check_engine(recipe, task)
    if isinstance(task, Choosing) and task.chooses and not sampling.plain:
        found, expected = "sampling where options are chosen by likelihood", "a task whose answers are written"
        raise SettingsError("generate", found, expected, "leave the options of sampling out, or set task.judge=letter")
    check_output(out, data, *folders_of(recipe, model))
    examples = list(task.examples(task.read(data, max_row_bytes=recipe.data.max_row_bytes).rows, training=False))
    if options.dry_run:
        return {"model": model, "task": task.name, "rows": len(examples)}
    recipe = settled(recipe, model)
    drawn = {} if sampling.plain else {"sampling": asdict(sampling)}
    mark = answers_mark(recipe, model, settings, data=data, **drawn)
    kept = out.with_name(f".{out.name}.{mark}.part.jsonl")
    title, batch_tokens = f"{model}, {task.name}", recipe.evaluate.batch_tokens
    with joined(resolve_device(recipe.device)) as world, loss_is_named(world):
        answering, tokenizer = load_answering(recipe, model)
        on_too_long = recipe.evaluate.on_too_long
        asking = Asking(
            title, answering, tokenizer, batch_tokens, mark=mark, sampling=sampling, on_too_long=on_too_long
        )
        ordered = ask_together(asking, task, examples, kept, world)
    if not world.leads:
        return None
    if out.suffix == ".jsonl":
        write_jsonl(out, ({"id": one.example_id, "answer": one.text} for one in ordered))
    else:
        write_atomically(out, "".join(_line(one) + "\n" for one in ordered))
    kept.unlink(missing_ok=True)
    cut, too_long = sum(one.cut for one in ordered), sum(one.stopped_by == TOO_LONG for one in ordered)
    empty = f"; {too_long} are empty, as the prompt is too long for the model" if too_long else ""
    say(f"{len(ordered)} answers in {out}" + (f"; {cut} prompts were cut to fit" if cut else "") + empty)
    counts = {"rows": len(ordered), "cut": cut, "too_long": too_long}
    return {"model": model, "task": task.name, **counts, "out": str(out)}


def generate_text(
    recipe: Recipe, model: str, prompt: str, sampling: Sampling, samples: int, force: bool, options: Options
) -> dict[str, Any]:
    """The answer to one prompt, in the template of the settings, else the model's own, else as the text stands.

    Several `samples` are drawn beside one another, and `answers` has them all.
    Raises: DataError for a prompt that is no text; SettingsError in several processes, or as Request.
    """
    check_alone("generate --prompt")
    if not is_text(prompt):
        raise DataError("--prompt", "is not UTF-8 text", "UTF-8")
    settings, folder = in_its_template(recipe.task, model, force), base_folder(BaseSettings(model=model))
    its_own = folder is not None and (folder / FILE_NAME).exists()
    named = {"template", "preamble"} & settings.model_fields_set or its_own
    template = settings.prompt_template if named else TEMPLATES["plain"]
    text = template.render(prompt)
    most = settings.max_new_tokens or PROMPT_TOKENS
    asked = Request((), most, 1, template.stop, "--prompt", sampling=sampling, samples=samples)
    if options.dry_run:
        return {"model": model, "prompt": text}
    answering, tokenizer = load_answering(settled(recipe, model), model)
    context, truncate = context_length(answering), recipe.evaluate.on_too_long == "truncate"
    check_room(most, context)
    ids, _ = encode_prompt(tokenizer, Example("--prompt", text, ""), context - most, truncate=truncate)
    request = replace(asked, prompt_ids=tuple(ids))
    answers = dict(engine_of(answering, tokenizer).stream([request], batch_tokens=recipe.evaluate.batch_tokens))
    found = [answers[number] for number in range(samples)]
    if not options.json:
        print_visible("\n\n".join(one.text for one in found))
    several = {"answers": [one.text for one in found]} if samples > 1 else {}
    first = found[0]
    return {"model": model, "prompt": text, "answer": first.text, "stopped_by": first.stopped_by, **several}


def _line(prediction: Prediction) -> str:
    return " ".join((prediction.judged.read or prediction.text).split())
