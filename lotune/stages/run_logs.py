"""The complete logs of a finished run, written beside its scorecard."""

from __future__ import annotations

from pathlib import Path

from lotune.contest.logs import RETENTION_LOG, TRAINING_LOG, RetentionAnswers, retention_log, training_log
from lotune.evaluate.predict import read_predictions
from lotune.evaluate.scorecard import read_scorecard
from lotune.files import write_atomically
from lotune.recipe import Recipe
from lotune.runs import METRICS_FILE
from lotune.stages.abilities import abilities_of
from lotune.stages.prepare import read_examples


def write_logs(folder: Path, recipe: Recipe) -> None:
    """Write the training log and the retention log of a finished run into its folder.

    Raises: RunError or DataError if a record of the run is damaged.
    """
    trainings = {"tuning": folder / METRICS_FILE, "repair": folder / "repair" / METRICS_FILE}
    log = training_log({name: path for name, path in trainings.items() if path.is_file()})
    write_atomically(folder / TRAINING_LOG, log)
    write_atomically(folder / RETENTION_LOG, retention_log(_retention_answers(folder, recipe)))


def _retention_answers(folder: Path, recipe: Recipe) -> list[RetentionAnswers]:
    """Return the answers of the base and of the chosen checkpoint to the test rows of each ability."""
    card = read_scorecard(folder / "scorecard.json")
    parts = []
    for one in abilities_of(recipe):
        rows = one.file(folder, one.test_set)
        answers = folder / "predictions" / one.predictions_folder(card.target.task)
        for model in ("base", card.chosen_checkpoint):
            if rows.is_file() and (file := answers / f"{model}.jsonl").is_file():
                parts.append(RetentionAnswers(one.label, model, read_examples(rows), read_predictions(file)))
    return parts
