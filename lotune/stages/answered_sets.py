"""The answers of base and tuned model to the test rows of a run, which are those of the task and of each ability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lotune.data.examples import Example
from lotune.evaluate.abilities import AbilitySettings
from lotune.evaluate.batching_effect import measure_batching_effect, sample_unbatched_rows
from lotune.evaluate.facts import facts_of
from lotune.evaluate.predict import Prediction
from lotune.evaluate.scorecard import BatchingEffect
from lotune.model.loading import LoadedModel, dtype_name, load_model, resolve_device, resolve_dtype
from lotune.model.methods.registry import METHODS
from lotune.model.quantization import load_dequantized
from lotune.recipe import Recipe
from lotune.runs import Run
from lotune.stages.abilities import abilities_of
from lotune.stages.model_loading import with_answer_dtype
from lotune.stages.predictions import PredictionJob, run_predictions, run_predictions_unbatched
from lotune.stages.prepare import read_examples
from lotune.tasks.registry import build_task
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Task

TARGET = "test"
"""Name of the set of the task's test rows."""


@dataclass(frozen=True)
class AnsweredSet:
    """A set of rows that base and tuned model answer, with the folder of the answers.

    `ability` is None for the rows of the task.
    """

    name: str
    task: Task
    settings: TaskSettings
    examples: list[Example]
    folder: str
    ability: AbilitySettings | None = None


@dataclass(frozen=True)
class ModelPredictions:
    """The predictions of a model by the name of the set.

    `effects` compare them with answers to the same rows one by one; empty if the model answers in float32.
    """

    answers: Mapping[str, list[Prediction]]
    effects: Mapping[str, BatchingEffect]

    def changed_verdicts(self, name: str) -> float:
        """Return the fraction of verdicts that batching changes in a set."""
        return self.effects[name].changed_verdict_fraction if name in self.effects else 0.0


def answered_sets(run: Run, recipe: Recipe) -> list[AnsweredSet]:
    """Return the test sets of a prepared run: first the one of the task, then those of the abilities."""
    task = build_task(recipe.task)
    rows = read_examples(run.folder / "data" / f"{TARGET}.jsonl")
    return [
        AnsweredSet(TARGET, task, recipe.task, rows, task.name),
        *(
            AnsweredSet(
                one.test_set, one.task, one.task_settings, read_examples(one.file(run.folder, one.test_set)),
                one.predictions_folder(task.name), one.settings,
            )
            for one in abilities_of(recipe)
        ),
    ]  # fmt: skip


def predict_test_sets(
    run: Run, recipe: Recipe, name: str, model: LoadedModel, sets: Sequence[AnsweredSet]
) -> ModelPredictions:
    """Return a model's predictions on each set; stored predictions are used again. `name` is the name of the model."""
    from lotune.generate.answering_model import AnsweringModel
    from lotune.model.eval_mode import REDUCED_DTYPES

    answering = AnsweringModel(model.model, model.tokenizer)
    answers, effects = dict[str, list[Prediction]](), dict[str, BatchingEffect]()
    on_too_long, batch_tokens = recipe.evaluate.on_too_long, recipe.evaluate.max_batch_tokens
    for one in sets:
        out = run.folder / "predictions" / one.folder / f"{name}.jsonl"
        title = f"{name}, {one.ability.label if one.ability else one.task.name}"
        facts = facts_of(one.settings, one.task, on_too_long=on_too_long)
        job = PredictionJob(title, answering, batch_tokens, facts=facts, on_too_long=on_too_long)
        answers[one.name] = run_predictions(job, one.task, one.examples, out)
        # In a reduced dtype an answer may depend on its batch; float32 showed no such answer (docs/log.md).
        if model.dtype in REDUCED_DTYPES:
            sample = sample_unbatched_rows(one.examples, recipe.seed)
            unbatched_out = run.folder / "predictions" / "alone" / one.folder / out.name
            unbatched = run_predictions_unbatched(
                replace(job, title=f"{title}, alone"), one.task, sample, unbatched_out
            )
            effect = measure_batching_effect(answers[one.name], unbatched, dtype_name(model.dtype))
            effects[one.name] = effect.model_copy(update={"set": one.name, "model": name})
    return ModelPredictions(answers, effects)


def tuned_model(run: Run, recipe: Recipe, name: str) -> LoadedModel:
    """Return the model of a checkpoint in `evaluate.dtype`: its merged folder if there is one, else merged in memory.

    An adapter that cannot be merged stays beside its base.
    """
    from lotune.model.checkpoints import load_adapter, merge

    folder, settings = run.folder / "checkpoints" / name, with_answer_dtype(recipe, recipe.base)
    if (folder / "merged").is_dir():
        return load_model(settings.model_copy(update={"model": str(folder / "merged")}), recipe.device)
    base = load_dequantized(recipe.base, recipe.device, recipe.tune.quantization)
    dtype = resolve_dtype(recipe.base.dtype, resolve_device(recipe.device))
    answer_dtype = resolve_dtype(settings.dtype, recipe.device)
    if not METHODS[recipe.adapter.method].mergeable:
        for parameter in base.model.parameters():
            parameter.data = parameter.data.to(answer_dtype)
        adapted: Any = load_adapter(base, folder / "adapter", force_base=True)
        return LoadedModel(name, adapted, base.tokenizer, None, answer_dtype)
    merged = merge(base, folder / "adapter")
    for parameter in merged.parameters():
        # Rounded as in a merged folder, then converted to the dtype of answers.
        parameter.data = parameter.data.to(dtype).to(answer_dtype)
    return LoadedModel(name, merged, base.tokenizer, None, answer_dtype)
