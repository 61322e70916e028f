"""`lotune generate`: one answer to each row of a file, in its order, or to one prompt; rows need no keys."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.conversation import Conversation, conversation_example
from lotune.data.file_readers import is_text
from lotune.data.rows import write_jsonl
from lotune.data.templates import TEMPLATE_FILE, TEMPLATES
from lotune.data.tokenized import encode_prompt
from lotune.distributed import init_process_group, raise_on_lost_process
from lotune.errors import DataError, SettingsError
from lotune.evaluate.predict import TOO_LONG, Prediction, check_room
from lotune.files import write_atomically
from lotune.generate.requests import Request
from lotune.generate.sampling import Sampling
from lotune.model.loading import base_folder, context_length, resolve_device
from lotune.model.settings import BaseSettings
from lotune.recipe import Recipe, RunOptions
from lotune.stages.model_loading import check_engine, folders_of, load_for_generation, resolve_weights, settled
from lotune.stages.output_files import check_new, refuse_overwriting_inputs, require_single_process
from lotune.stages.predictions import PredictionJob, answers_fingerprint, run_predictions_distributed
from lotune.stages.prompt_template import build_prompted_task, conversation_format, resolve_auto, with_stored_template
from lotune.tasks.task import MultipleChoice
from lotune.text_display import print_visible

PROMPT_TOKENS = 256
"""Longest answer to a prompt, where the settings do not say."""


def generate_answers(
    recipe: Recipe,
    model: str,
    data: Path,
    out: Path,
    sampling: Sampling,
    force: bool,
    options: RunOptions,
    *,
    overwrite: bool = False,
) -> dict[str, Any] | None:
    """Write one answer a row of `data` to `out`: jsonl with id and answer, or, as .txt, a line each.

    A line of a .txt file is what the task reads out of the answer (a number, a letter, a label), else the answer on one
    line. A prompt that is too long for the model has an empty answer, or stops, or is cut, as the settings say. Drawn
    answers are the same for the same seed, whatever is asked beside them. Answers are kept beside `out`
    while they come, so that a stopped command goes on. Of several processes each answers its part, and the first one
    writes; the others have None.
    Raises: SettingsError where `out` is of another kind, is read, or exists without `overwrite`, or where the task
    draws nothing.
    """
    if out.suffix not in (".jsonl", ".txt"):
        raise SettingsError("--out", f"{out.name} is of no known kind", "a .jsonl or .txt file")
    weights, _ = resolve_weights(recipe, model)
    settings = resolve_auto(with_stored_template(recipe.task, model, force), weights)
    task = build_prompted_task(settings, weights)
    check_engine(recipe, task)
    if isinstance(task, MultipleChoice) and task.by_likelihood and not sampling.is_greedy:
        found, expected = "sampling where options are chosen by likelihood", "a task whose answers are written"
        raise SettingsError("generate", found, expected, "leave the options of sampling out, or set task.scorer=letter")
    refuse_overwriting_inputs(out, data, *folders_of(recipe, model))
    check_new(out, overwrite)
    examples = list(task.examples(task.read(data, max_row_bytes=recipe.data.max_row_bytes).rows, training=False))
    if options.dry_run:
        return {"model": model, "task": task.name, "rows": len(examples)}
    recipe = settled(recipe, model)
    drawn = {} if sampling.is_greedy else {"sampling": asdict(sampling)}
    fingerprint = answers_fingerprint(recipe, model, settings, data=data, **drawn)
    kept = out.with_name(f".{out.name}.{fingerprint}.part.jsonl")
    title, batch_tokens = f"{model}, {task.name}", recipe.evaluate.max_batch_tokens
    with init_process_group(resolve_device(recipe.device)) as world, raise_on_lost_process(world):
        answering, on_too_long = load_for_generation(recipe, model), recipe.evaluate.on_too_long
        asking = PredictionJob(
            title, answering, batch_tokens, fingerprint=fingerprint, sampling=sampling, on_too_long=on_too_long
        )
        ordered = run_predictions_distributed(asking, task, examples, kept, world)
    if not world.is_main_process:
        return None
    if out.suffix == ".jsonl":
        write_jsonl(out, ({"id": one.example_id, "answer": one.text} for one in ordered))
    else:
        write_atomically(out, "".join(_line(one) + "\n" for one in ordered))
    kept.unlink(missing_ok=True)
    cut, too_long = sum(one.prompt_truncated for one in ordered), sum(one.finish_reason == TOO_LONG for one in ordered)
    empty = f"; {too_long} are empty, as the prompt is too long for the model" if too_long else ""
    print_status(f"{len(ordered)} answers in {out}" + (f"; {cut} prompts were cut to fit" if cut else "") + empty)
    counts = {"rows": len(ordered), "cut": cut, "too_long": too_long}
    return {"model": model, "task": task.name, **counts, "out": str(out)}


def generate_text(
    recipe: Recipe, model: str, prompt: str, sampling: Sampling, samples: int, force: bool, options: RunOptions
) -> dict[str, Any]:
    """The answer to one prompt, in the template of the settings, else the model's own, else as the text stands.

    Several `samples` are drawn beside one another, and `answers` has them all.
    Raises: DataError for a prompt that is no text; SettingsError in several processes, or as Request.
    """
    require_single_process("generate --prompt")
    if not is_text(prompt):
        raise DataError("--prompt", "is not UTF-8 text", "UTF-8")
    weights, _ = resolve_weights(recipe, model)
    settings, folder = with_stored_template(recipe.task, model, force), base_folder(BaseSettings(model=model))
    its_own = folder is not None and (folder / TEMPLATE_FILE).exists()
    named = {"template", "instruction_prefix"} & settings.model_fields_set or its_own
    form = conversation_format(resolve_auto(settings, weights), weights) if named else TEMPLATES["plain"]
    example = conversation_example("--prompt", Conversation((prompt,)), form)
    text = example.prompt
    most = settings.max_new_tokens or PROMPT_TOKENS
    asked = Request((), most, 1, form.stop, "--prompt", sampling=sampling, samples=samples)
    if options.dry_run:
        return {"model": model, "prompt": text}
    answering = load_for_generation(settled(recipe, model), model)
    context, truncate = context_length(answering.model), recipe.evaluate.on_too_long == "truncate"
    check_room(most, context)
    ids, _ = encode_prompt(answering.tokenizer, example, context - most, truncate=truncate)
    request = replace(asked, prompt_ids=tuple(ids))
    answers = dict(answering.engine.stream([request], batch_tokens=recipe.evaluate.max_batch_tokens))
    found = [answers[number] for number in range(samples)]
    if not options.json:
        print_visible("\n\n".join(one.text for one in found))
    several = {"answers": [one.text for one in found]} if samples > 1 else {}
    first = found[0]
    return {"model": model, "prompt": text, "answer": first.text, "finish_reason": first.finish_reason, **several}


def _line(prediction: Prediction) -> str:
    return " ".join((prediction.score.extracted or prediction.text).split())
