"""`lotune generate`: one answer to each row of a file, in its order, or to one prompt; rows need no references."""

from __future__ import annotations

from collections.abc import Sequence
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
from lotune.evaluate.predict import TOO_LONG, Prediction, check_max_new_tokens
from lotune.files import write_atomically
from lotune.generate.requests import Request
from lotune.generate.sampling import Sampling
from lotune.model.loading import base_folder, context_length, resolve_device
from lotune.model.settings import BaseSettings
from lotune.recipe import Recipe, RunOptions
from lotune.stages.model_loading import (
    check_engine,
    folders_of,
    load_for_generation,
    resolve_weights,
    with_resolved_dtype,
)
from lotune.stages.output_files import check_new, refuse_overwriting_inputs, require_single_process
from lotune.stages.predictions import PredictionJob, answers_fingerprint, run_predictions_distributed
from lotune.stages.prompt_template import build_prompted_task, conversation_format, resolve_auto, with_stored_template
from lotune.tasks.task import Task
from lotune.text_display import print_visible

PROMPT_TOKENS = 256
"""Maximum number of tokens of the answer to a prompt if the settings name none."""


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
    """Write one answer for each row of `data` to `out`: JSON lines with id and answer, or plain lines if it is a .txt.

    A line of a .txt file is what the task extracts from the answer (a number, a letter, a label), else the answer on
    one line. `evaluate.on_too_long` decides whether a prompt that is too long for the model has an empty answer, stops
    the command or is truncated. Sampled answers depend on the seed and not on the other rows. Finished answers are
    stored beside `out`, and a stopped command resumes from them. Each of several processes answers its part of the
    rows; the first one writes the file, and the others return None.

    Raises: SettingsError if `out` has another suffix, is an input, or exists without `overwrite`, or if the task
    cannot sample.
    """
    if out.suffix not in (".jsonl", ".txt"):
        raise SettingsError("--out", f"{out.name} has an unknown suffix", "a .jsonl or .txt file")
    weights, _ = resolve_weights(recipe, model)
    settings = resolve_auto(with_stored_template(recipe.task, model, force), weights)
    task = build_prompted_task(settings, weights)
    check_engine(recipe, task)
    if not task.generates_answers:
        fault, remedy = f"the task {task.name} has no questions to answer", "`lotune evaluate` measures its rows"
        raise SettingsError("task.name", fault, "a task with questions", remedy)
    _refuse_sampled_choice(task, sampling)
    refuse_overwriting_inputs(out, data, *folders_of(recipe, model))
    check_new(out, overwrite)
    examples = list(task.examples(task.read(data, max_row_bytes=recipe.data.max_row_bytes).rows, training=False))
    if options.dry_run:
        return {"model": model, "task": task.name, "rows": len(examples)}
    recipe = with_resolved_dtype(recipe, model)
    sampled = {} if sampling.is_greedy else {"sampling": asdict(sampling)}  # no seed changes a greedy answer
    fingerprint = answers_fingerprint(recipe, model, settings, data=data, **sampled)
    # Other settings have another fingerprint, and begin a file of their own instead of refusing this one's records.
    partial_out = out.with_name(f".{out.name}.{fingerprint}.part.jsonl")
    title, batch_tokens = f"{model}, {task.name}", recipe.evaluate.max_batch_tokens
    with init_process_group(resolve_device(recipe.device)) as world, raise_on_lost_process(world):
        answering, on_too_long = load_for_generation(recipe, model), recipe.evaluate.on_too_long
        job = PredictionJob(title, answering, batch_tokens, (), fingerprint, sampling, on_too_long=on_too_long)
        predictions = run_predictions_distributed(job, task, examples, partial_out, world)
    if not world.is_main_process:
        return None
    figures = {"model": model, "task": task.name, **_write_answers(out, predictions), "out": str(out)}
    partial_out.unlink(missing_ok=True)  # last: if writing `out` fails, a new call resumes from these answers
    return figures


def _refuse_sampled_choice(task: Task, sampling: Sampling) -> None:
    """Raise SettingsError for sampling in a task that compares likelihoods: it generates no token to sample."""
    if task.chooses_by_likelihood and not sampling.is_greedy:
        found, expected = "options are chosen by likelihood and cannot be sampled", "a task that generates text"
        raise SettingsError("generate", found, expected, "remove the sampling options, or set task.scorer=letter")


def _write_answers(out: Path, predictions: Sequence[Prediction]) -> dict[str, int]:
    """Write the answers in the format of the suffix, log how many there are, and return the counts."""
    if out.suffix == ".jsonl":
        write_jsonl(out, ({"id": prediction.example_id, "answer": prediction.text} for prediction in predictions))
    else:
        write_atomically(out, "".join(_plain_answer(prediction) + "\n" for prediction in predictions))
    truncated = sum(prediction.prompt_truncated for prediction in predictions)
    too_long = sum(prediction.finish_reason == TOO_LONG for prediction in predictions)
    cut = f"; {truncated} prompts were truncated" if truncated else ""
    empty = f"; {too_long} are empty, as the prompt is too long for the model" if too_long else ""
    print_status(f"{len(predictions)} answers in {out}{cut}{empty}")
    return {"rows": len(predictions), "cut": truncated, "too_long": too_long}


def generate_text(
    recipe: Recipe, model: str, prompt: str, sampling: Sampling, samples: int, force: bool, options: RunOptions
) -> dict[str, Any]:
    """Return the answer to one prompt, rendered in the template of the settings or of the model, if either has one.

    With several `samples`, `answers` holds all of them.

    Raises: DataError for a prompt that is not UTF-8; SettingsError in several processes, or as Request.
    """
    require_single_process("generate --prompt")
    if not is_text(prompt):
        raise DataError("--prompt", "is not UTF-8 text", "UTF-8")
    weights, _ = resolve_weights(recipe, model)
    settings, folder = with_stored_template(recipe.task, model, force), base_folder(BaseSettings(model=model))
    has_stored_template = folder is not None and (folder / TEMPLATE_FILE).exists()
    # A model that lotune has not tuned completes the bare text: a default template would put words into the prompt.
    is_templated = has_stored_template or {"template", "instruction_prefix"} & settings.model_fields_set
    form = conversation_format(resolve_auto(settings, weights), weights) if is_templated else TEMPLATES["plain"]
    example = conversation_example("--prompt", Conversation((prompt,)), form)
    text = example.prompt
    max_new_tokens = settings.max_new_tokens or PROMPT_TOKENS
    # Built before the weights are loaded, as it refuses options of sampling that are out of range.
    unencoded = Request((), max_new_tokens, 1, form.stop, "--prompt", sampling=sampling, samples=samples)
    if options.dry_run:
        return {"model": model, "prompt": text}
    answering = load_for_generation(with_resolved_dtype(recipe, model), model)
    context, truncate = context_length(answering.model), recipe.evaluate.on_too_long == "truncate"
    check_max_new_tokens(max_new_tokens, context)
    ids, _ = encode_prompt(answering.tokenizer, example, context - max_new_tokens, truncate=truncate)
    request = replace(unencoded, prompt_ids=tuple(ids))
    answers = dict(answering.engine.stream([request], batch_tokens=recipe.evaluate.max_batch_tokens))
    texts = [answers[index].text for index in range(samples)]
    if not options.json:
        print_visible("\n\n".join(texts))
    figures = {"model": model, "prompt": text, "answer": texts[0], "finish_reason": answers[0].finish_reason}
    return figures | ({"answers": texts} if samples > 1 else {})


def _plain_answer(prediction: Prediction) -> str:
    return " ".join((prediction.score.extracted or prediction.text).split())
