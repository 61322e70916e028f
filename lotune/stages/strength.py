"""Choose the strength of the chosen checkpoint on the validation rows, and save its adapter at that strength."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lotune.console import print_status
from lotune.data.collate import Collator
from lotune.data.tokenized import encode_row
from lotune.errors import ModelError
from lotune.evaluate.predict import Prediction
from lotune.evaluate.repair import none_passes
from lotune.evaluate.strength import SCALES, StrengthPoint, StrengthSearch, strength_label, strengthened_name
from lotune.memory import release_memory
from lotune.recipe import Recipe
from lotune.runs import Run
from lotune.stages.validate import (
    CheckpointResult,
    answers_of,
    checkpoint_result,
    choose_checkpoint,
    describe,
    stored_answers,
    with_retention,
)
from lotune.stages.validation_rows import BASE, retention_validation_rows, task_validation_rows

Strengths = tuple[float, ...]


def with_strength(run: Run, recipe: Recipe, tuned: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a tuning with those of its chosen checkpoint at the strength of `retention.strength`.

    `auto` searches for it only if no checkpoint passes the gate and the recipe has the tuning repaired.

    Raises: ModelError if the adapter has no strength, unless it is `auto`.
    """
    strength, checkpoints = recipe.retention.strength, tuned["checkpoints"]
    is_last_resort = strength == "auto"
    if strength == 1 or (is_last_resort and not (recipe.retention.action == "repair" and none_passes(checkpoints))):
        return tuned
    full = CheckpointResult(**next(one for one in checkpoints if one["name"] == tuned["chosen"]))
    try:
        trials = _Trials(run, recipe, full)
    except ModelError as error:
        if not is_last_resort:
            raise
        print_status(f"no strength is sought: {error}")
        return tuned
    chosen = trials.search() if isinstance(strength, str) else trials.take((float(strength),))
    return trials.figures(tuned, chosen)


class _Trials:
    """Trials of strengths of one checkpoint: its model, the rows, and the results so far, by strengths."""

    def __init__(self, run: Run, recipe: Recipe, full: CheckpointResult) -> None:
        from lotune.model.adapter_strength import at_strengths
        from lotune.model.checkpoints import load_adapter
        from lotune.model.quantization import load_dequantized

        self.run, self.recipe, self.full, self.started = run, recipe, full, time.monotonic()
        self.folder = run.folder / "checkpoints" / full.name / "adapter"
        base = load_dequantized(recipe.base, recipe.device, recipe.tune.quantization)
        self.model: Any = load_adapter(base, self.folder)
        self.tokenizer = base.tokenizer
        self.groups = recipe.retention.strength_groups
        with at_strengths(self.model, (1.0,) * self.groups):  # raises for an adapter without a strength
            pass
        self.rows, self.watched = task_validation_rows(recipe), retention_validation_rows(recipe)
        self.base_answers = [stored_answers(run, recipe, rows, BASE) for rows in self.watched]
        self.results: dict[Strengths, CheckpointResult] = {}
        self.answers: dict[Strengths, list[list[Prediction]]] = {}
        stored = [stored_answers(run, recipe, rows, full.name) for rows in (self.rows, *self.watched)]
        self._note((1.0,) * self.groups, full, stored)

    def search(self) -> Strengths:
        """Return the strengths that the checkpoints' rule chooses: for all layers, then for each group in turn."""
        chosen = self._best([(scale,) * self.groups for scale in SCALES])
        for group in range(self.groups if self.groups > 1 else 0):
            chosen = self._best([(*chosen[:group], scale, *chosen[group + 1 :]) for scale in SCALES])
        # A weaker adapter that fails, too, has lost something of the task for nothing.
        return chosen if self.results[chosen].gate_passed else (1.0,) * self.groups

    def take(self, strengths: Strengths) -> Strengths:
        """Measure the strength that the recipe gives for all layers, and return the strengths of the groups."""
        return self._best([strengths * self.groups])

    def _best(self, tried: Sequence[Strengths]) -> Strengths:
        results = [self._measure(strengths) for strengths in tried]
        scores = {self.results[one].name: [answer.score for answer in self.answers[one][0]] for one in tried}
        best = choose_checkpoint(results, self.rows.task, scores)
        return next(strengths for strengths in tried if self.results[strengths] == best)

    def _measure(self, strengths: Strengths) -> CheckpointResult:
        """Return the result at these strengths, measured only once."""
        if strengths in self.results:
            return self.results[strengths]
        from lotune.model.adapter_strength import at_strengths

        name = strengthened_name(self.full.name, strengths)
        with at_strengths(self.model, strengths):
            answers = [
                answers_of(self.recipe, rows, name, self.model, self.tokenizer) for rows in (self.rows, *self.watched)
            ]
            loss = self._loss()
        result = checkpoint_result(name, self.full.step, loss, self.rows.task, answers[0])
        if self.watched:
            result = with_retention(result, self.recipe, self.watched, self.base_answers, answers[1:])
        print_status(f"strength {strength_label(strengths)}: {describe(result, self.rows.task.metric)}")
        return self._note(strengths, result, answers)

    def _note(
        self, strengths: Strengths, result: CheckpointResult, answers: list[list[Prediction]]
    ) -> CheckpointResult:
        self.results[strengths], self.answers[strengths] = result, answers
        return result

    def _loss(self) -> float:
        """Return the mean loss of the references of the validation rows that fit into the context."""
        from lotune.model.loading import context_length
        from lotune.train.loop import evaluate_loss

        context = context_length(self.model)
        encoded = (encode_row(self.tokenizer, example) for example in self.rows.examples)
        collator = Collator(8, self.recipe.evaluate.max_batch_tokens, self.tokenizer.pad_token_id or 0, packed=False)
        return evaluate_loss(self.model, collator.batches(row for row in encoded if len(row.token_ids) <= context))

    def figures(self, tuned: dict[str, Any], chosen: Strengths) -> dict[str, Any]:
        """Save the adapter and its answers at the chosen strengths; return the figures of the tuning with it."""
        from lotune.model.adapter_strength import save_at_strengths

        result = self.results[chosen]
        search = StrengthSearch(
            checkpoint=self.full.name, chosen=chosen, points=tuple(map(self._point, self.results)),
            seconds=time.monotonic() - self.started,
        )  # fmt: skip
        print_status(search.describe())
        tuned = {**tuned, "strength": search.model_dump(mode="json")}
        if result == self.full:
            return tuned
        save_at_strengths(self.folder, self.run.folder / "checkpoints" / result.name / "adapter", chosen)
        for rows, answers in zip((self.rows, *self.watched), self.answers[chosen], strict=True):
            rows.store(self.recipe, result.name, answers)
        del self.model
        release_memory()
        return {**tuned, "checkpoints": [*tuned["checkpoints"], asdict(result)], "chosen": result.name}

    def _point(self, strengths: Strengths) -> StrengthPoint:
        result = self.results[strengths]
        return StrengthPoint(
            strengths=strengths, value=result.value, retained=result.retained, passed=result.gate_passed
        )
