"""The commands `lotune grade contest` and `lotune grade exam`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json
from lotune.errors import SettingsError

grade = typer.Typer(help="Mark answers, models or an exam.", rich_markup_mode=None, no_args_is_help=True)


@grade.command()
def contest(
    things: Annotated[
        list[Path],
        typer.Argument(metavar="ANSWERS|BUNDLE|MERGED...", help="File of answers; with --data, bundles and models."),
    ],
    task: Annotated[str, typer.Option(help="Task of the contest: arithmetic or choice.")],
    key: Annotated[
        Path | None, typer.Option(help="File of the keys. Default: the keys that the records of ANSWERS hold.")
    ] = None,
    scorer: Annotated[
        str | None, typer.Option(help="How to judge answers, such as exact. Default: the task's own rule.")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(min=0, max=1, help="Trained parameters over those of the base, 0 to 1.")
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="Score rule: phase1 or phase2. Default: that of the task's phase.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Hidden test rows: ask the checkpoints of bundles or merged models.")
    ] = None,
    retention: Annotated[Path | None, typer.Option(help="With --data: file of the retention test.")] = None,
    base: Annotated[str | None, typer.Option(help="With --data: the model that all teams tuned.")] = None,
    base_total: Annotated[
        str, typer.Option(help="With --data: divisor of the ratio, measured, llama3-8b or internlm-7b.")
    ] = "measured",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Mark the answers to a contest's questions, or ask the models of its teams (--data)."""

    def work() -> Any:
        options = run_options(False, json, debug)
        if data is None:
            given = [name for name, value in {"--retention": retention, "--base": base}.items() if value is not None]
            if given or len(things) > 1:
                fault = f"{', '.join(given) or 'several files'} without --data"
                raise SettingsError("grade contest", fault, "one file of answers, or --data FILE")
            from lotune.stages.grade_contest import grade_answers

            return grade_answers(things[0], key, task, scorer, ratio, rule, options)
        if key is not None or retention is None or base is None:
            fault = "--key with --data" if key is not None else "--data without --retention and --base"
            raise SettingsError("grade contest", fault, "--data FILE --retention FILE --base MODEL")
        from lotune.stages.grade_models import ModelTest, grade_models

        return grade_models(things, ModelTest(task, scorer, data, retention, base, ratio, rule, base_total), options)

    run_verb(work, json=json, debug=debug)


@grade.command()
def exam(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with pre_data, saved_model and result_DATASET.txt.")
    ],
    key: Annotated[list[str], typer.Option(metavar="DATASET=FILE", help="True labels of CoLA or QQP, one a line.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Mark an exam: 10 for the prepared data, 20 for the saved model, 70 times the accuracy."""

    def work() -> Any:
        from lotune.stages.grade_exam import grade_exam

        return grade_exam(folder, _keys(key), run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)


def _keys(words: list[str]) -> dict[str, Path]:
    """Return the key files by data set. Raises: SettingsError for a word that is not DATASET=FILE, or given twice."""
    keys = dict[str, Path]()
    for word in words:
        dataset, equals, file = word.partition("=")
        if not equals or not file or dataset in keys:
            raise SettingsError("--key", f"{word!r} is given" + (" twice" if dataset in keys else ""), "DATASET=FILE")
        keys[dataset] = Path(file)
    return keys
