"""`lotune evaluate --server`: a model of any OpenAI-compatible server on the rows of one task."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from lotune.data.chat_template import CHAT
from lotune.data.templates import TEMPLATES
from lotune.errors import SettingsError
from lotune.evaluate.facts import facts_of
from lotune.evaluate.few_shot import SHOT_SEPARATOR
from lotune.evaluate.scorecard import EvaluationSetCounts
from lotune.fingerprints import inputs_fingerprint
from lotune.recipe import Recipe, RunOptions
from lotune.serve.client import RemoteAnswers, ServerClient
from lotune.stages.evaluate_model import EvaluationData, metric_figures, show_figures
from lotune.stages.output_files import check_fingerprints, refuse_overwriting_inputs, require_single_process
from lotune.stages.predictions import PredictionJob, run_predictions, with_long_prompt_counts
from lotune.tasks.checks import require_fitting_scorer, require_references
from lotune.tasks.registry import build_task
from lotune.tasks.settings import AUTO, PromptSettings, TaskSettings
from lotune.tasks.task import Conversational

CHAT_API = "chat"
PLAIN = "plain"


def evaluate_server(
    recipe: Recipe, url: str, model: str, test: EvaluationData, out: Path | None, options: RunOptions
) -> dict[str, Any]:
    """Return the metrics of one model of a server on one task, each with its interval.

    Prompts are in the template of the settings; if they name none, in the one that lotune's server tells, and with
    another server they are messages, which that server renders in its own template.

    Raises: SettingsError if `out` is an input; DataError if no row has a reference; the errors of `ServerClient`.
    """
    require_single_process("evaluate --server")
    refuse_overwriting_inputs(out, test.data, test.shots_data)
    client = ServerClient(url, model)
    settings, chat = _template(recipe.task, client)
    task = build_task(settings)
    if chat and not isinstance(task, Conversational):
        chat = False  # the prompt of this task is fixed
    tested = test.read(task, recipe.seed, recipe.data.max_row_bytes)
    require_references(task, settings, tested.examples, test.data)
    require_fitting_scorer(task, tested.examples)
    title = f"{client.model} on {client.url}"
    if options.dry_run:
        return {"model": title, "task": task.name, "rows": len(tested.examples)}
    # Nobody can tell from here whether the server has other weights than last time.
    inputs = {"server": client.url, "model": client.model, "task": settings.model_dump(mode="json"), "chat": chat}
    fingerprint = inputs_fingerprint({**inputs, **test.inputs(recipe.seed)}) if out is not None else ""
    if out is not None:
        check_fingerprints(out, fingerprint)
    on_too_long = recipe.evaluate.on_too_long
    stop, facts = (SHOT_SEPARATOR,) if test.shots else (), facts_of(settings, task, test.shots, on_too_long)
    answering = cast(Any, RemoteAnswers(client, chat=chat))
    job = PredictionJob(
        f"{title}, {task.name}", answering, recipe.evaluate.max_batch_tokens, stop, fingerprint, facts=facts,
        on_too_long=on_too_long,
    )  # fmt: skip
    predictions = run_predictions(job, task, tested.examples, out)
    file = test.data.name if test.data else ""
    rows = EvaluationSetCounts(name="test", rows=len(predictions), file=file, file_rows=tested.file_rows)
    figures = {
        "model": client.model, "task": task.name, "device": client.url, "dtype": "the server's number format",
        **metric_figures(task, predictions, None), "asked": with_long_prompt_counts(rows, predictions),
    }  # fmt: skip
    if not options.json:
        show_figures(figures)
    return figures


def _template(settings: TaskSettings, client: ServerClient) -> tuple[TaskSettings, bool]:
    """Return the settings with a template in place of auto, and whether prompts are sent as messages."""
    if not isinstance(settings, PromptSettings):
        return settings, False
    if settings.template == CHAT:
        return settings.model_copy(update={"template": PLAIN}), True
    if settings.template != AUTO:
        return settings, False
    told = client.info.get("template")
    if told in TEMPLATES:
        return settings.model_copy(update={"template": told}), False
    if told:
        found = f"{client.model} was tuned in the template {told}, which this version does not have"
        raise SettingsError("task.template", found, f"one of {', '.join(TEMPLATES)}")
    return settings.model_copy(update={"template": PLAIN}), True
