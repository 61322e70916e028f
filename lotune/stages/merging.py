"""Merging of checkpoints into complete models, and the comparison of each with its adapter on real rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from lotune.console import print_status
from lotune.data.chat_template import CHAT, chat_template_of
from lotune.data.examples import Example
from lotune.data.templates import template_record
from lotune.data.tokenized import answer_end_id, encode_text
from lotune.errors import CheckError
from lotune.evaluate.predict import fit
from lotune.files import read_json, write_json
from lotune.model.loading import load_tokenizer
from lotune.model.methods.registry import DEFAULT_METHOD, METHODS
from lotune.recipe import Recipe
from lotune.runs import Run
from lotune.stages.abilities import abilities_of
from lotune.stages.checked_merge import Questions, merge_checked
from lotune.stages.dependencies import stage_inputs
from lotune.stages.prepare import read_examples
from lotune.tasks.registry import build_task
from lotune.tasks.settings import PromptSettings
from lotune.tasks.task import Task

if TYPE_CHECKING:
    from lotune.evaluate.merge_check import MergeCheck, MergeCheckRow

SETS = ("validation", "test")
"""The evaluation sets whose rows are compared first, in this order; those of retention follow."""


@dataclass(frozen=True)
class Checked:
    """A row to compare models on: its task, its example, and the tokens of prompt and answer."""

    task: Task
    example: Example
    question: MergeCheckRow


def template_text(recipe: Recipe) -> str:
    """Return the prompt template and the task's prompt settings, which a checkpoint carries, as JSON."""
    record = template_record(recipe.task.prompt_template, recipe.task.prompt_settings)
    return orjson.dumps(record, option=orjson.OPT_INDENT_2).decode()


def repair_inputs(folder: Path, tuning: Mapping[str, Any]) -> dict[str, Path]:
    """Return the file that changes with the weights of a run's repaired checkpoints; nothing if there are none."""
    return {"repair": folder / "repair" / "training.json"} if tuning.get("repair") else {}


def ensure_merged(run: Run, recipe: Recipe, tuning: dict[str, Any]) -> dict[str, Any]:
    """Return the checks of the merged checkpoints (merging.json), by their names; merge what is missing or outdated."""
    from lotune.evaluate.merge_check import judged_again, read_check

    names = [checkpoint["name"] for checkpoint in tuning["checkpoints"]]
    merged = {"all": names, "chosen": [tuning["chosen"]], "none": []}[recipe.merged_checkpoints]
    path, files = run.folder / "merging.json", checked_files(run.folder, recipe.checkpoints.merge_check_rows)
    trained = {"checkpoints": merged, "training": run.folder / "training.json", **repair_inputs(run.folder, tuning)}
    rows = {f"{file.stem}.rows": file for file in files}
    inputs = {**stage_inputs(recipe, "merge"), **trained, **rows}
    if run.stage_state("merge", inputs) != "done":
        run.invalidate_stage("merge")
        checks = {}
        for name in merged:
            print_status(f"merging {name} and comparing it with the adapted model")
            check = merge_and_check(recipe, run.folder / "checkpoints" / name, list(rows_of(recipe, files)))
            _require_passed(name, check)
            checks[name] = asdict(check)
        write_json(path, checks)
        run.mark_stage_done("merge", inputs, [path, *(run.folder / "checkpoints" / name / "merged" for name in merged)])
    # A new scorer invalidates no merge: the stored texts are judged again, and no model is loaded.
    judge, checks = _judge_of(recipe, files), {}
    for name, stored in read_json(path).items():
        check = judged_again(read_check(stored), judge)
        _require_passed(name, check)
        checks[name] = asdict(check)
    return checks


def _judge_of(recipe: Recipe, files: Iterable[Path]) -> Callable[[int, str], bool | None]:
    """Return a function that judges a text as the answer to a compared row, given by its index."""

    # Loaded on the first text to judge: usually the scorer is the same and none is.
    @cache
    def compared() -> list[Checked]:
        tokenizer, context = load_tokenizer(recipe.base)
        return _first(recipe, rows_of(recipe, files), tokenizer, context)

    def judge(row: int, text: str) -> bool | None:
        checked_row = compared()[row]
        return checked_row.task.judge(checked_row.example, text).correct

    return judge


def _require_passed(name: str, check: MergeCheck) -> None:
    """Raise CheckError if rounding changes too many verdicts."""
    if not check.passed:
        raise CheckError(
            f"checkpoints/{name}/merged",
            f"rounding to {check.saved_dtype} changes {check.verdicts_changed} of {check.judged} verdicts",
            "1 % at most", "base.dtype=float32",
        )  # fmt: skip


def merge_and_check(recipe: Recipe, folder: Path, rows: list[tuple[Task, Example]]) -> MergeCheck:
    """Write the merged model of a checkpoint and compare it, on real rows, with the adapted one.

    Raises: CheckError if they differ.
    """

    def questions(tokenizer: Any, context: int) -> Questions:
        compared = _first(recipe, rows, tokenizer, context)

        def judge(row: int, ids: Any) -> tuple[str, bool | None]:
            text: Any = tokenizer.decode(list(ids), skip_special_tokens=True)
            return text, compared[row].task.judge(compared[row].example, text).correct

        greedy = partial(_greedy_answers, compared, tokenizer, context, recipe.evaluate.max_batch_tokens)
        longest = max((row.task.max_new_tokens for row in compared), default=0)
        return Questions([row.question for row in compared], greedy, judge, longest)

    ends = partial(_answer_end_ids, recipe)
    return merge_checked(recipe, folder / "adapter", folder / "merged", template_text(recipe), ends, questions)


def _greedy_answers(
    rows: Sequence[Checked],
    tokenizer: Any,
    context: int,
    batch_tokens: int,
    model: Any,
    prompts: Iterable[Sequence[int]],
    max_new_tokens: int,
) -> list[list[int]]:
    """Return the token ids of a model's greedy answers to the prompts of the first rows.

    Each row keeps the limit of its own task, so `max_new_tokens` is not used.
    """
    from lotune.generate.engine import generate_completions
    from lotune.generate.requests import Request

    requests = [
        Request(
            tuple(prompt),
            min(row.task.max_new_tokens, context - len(prompt)),
            row.task.min_new_tokens,
            stop_ids=(answer_end_id(tokenizer, row.example),),
        )
        for prompt, row in zip(prompts, rows, strict=False)  # the adapted model answers the first rows only
    ]
    # The merge check asks each model once, so the engine of this call serves all its answers.
    completions = generate_completions(model, tokenizer, requests, batch_tokens=batch_tokens)
    return [list(completion.token_ids) for completion in completions]


def checked_files(folder: Path, num_rows: int) -> list[Path]:
    """Return the files of a run folder that hold the first `num_rows` rows to compare, or all files if there are fewer.

    The validation rows come first, then the test rows, then the retention rows.
    """
    counts = read_json(folder / "data" / "counts.json")
    rows = {evaluation["name"]: evaluation["rows"] - evaluation["too_long"] for evaluation in counts["asked"]}
    names = [*SETS, *(name for name in rows if name not in SETS)]
    preceding = [0, *accumulate(rows[name] for name in names)]
    # A set beyond the last compared row is no input of the stage, so its changes leave the merges valid.
    return [
        folder / "data" / f"{name}.jsonl" for name, before in zip(names, preceding, strict=False) if before < num_rows
    ]


def rows_of(recipe: Recipe, files: Iterable[Path]) -> Iterator[tuple[Task, Example]]:
    """Yield the examples of these files, each with its task."""
    task, retained = build_task(recipe.task), {one.test_set: one.task for one in abilities_of(recipe)}
    for file in files:
        file_task = retained.get(file.stem, task)
        yield from ((file_task, example) for example in read_examples(file))


def checked(recipe: Recipe, rows: Iterable[tuple[Task, Example]], tokenizer: Any, context: int) -> Iterator[Checked]:
    """Yield the rows with the tokens of their prompts and answers; leave out those that are too long for the model."""
    from lotune.evaluate.merge_check import MergeCheckRow

    for task, example in rows:
        prompt = fit(task, example, tokenizer, context, recipe.evaluate.on_too_long)
        if prompt is not None:
            answer = encode_text(tokenizer, example.target)
            tokens = (*prompt.ids, *answer, answer_end_id(tokenizer, example))[:context]
            yield Checked(task, example, MergeCheckRow(tokens, len(prompt.ids)))


def _answer_end_ids(recipe: Recipe, model: Any, tokenizer: Any) -> list[int] | int:
    """Return the tokens that end an answer of a tuned model, so that other engines stop where lotune does."""
    ends = model.generation_config.eos_token_id
    if not isinstance(recipe.task, PromptSettings) or recipe.task.template != CHAT:
        return ends  # type: ignore[no-any-return]
    turn_end = tokenizer.convert_tokens_to_ids(chat_template_of(tokenizer).turn_end)
    return sorted({turn_end, *(ends if isinstance(ends, list) else [ends])} - {None})


def _first(recipe: Recipe, rows: Iterable[tuple[Task, Example]], tokenizer: Any, context: int) -> list[Checked]:
    return list(islice(checked(recipe, rows, tokenizer, context), recipe.checkpoints.merge_check_rows))


def unchecked_notes(
    checks: Mapping[str, Mapping[str, Any]], tested: Iterable[str], check_rows: int, method: str = DEFAULT_METHOD
) -> list[str]:
    """Return notes on tested checkpoints that the merge checks of a run, given by checkpoint, do not cover fully.

    >>> unchecked_notes({}, ["step-2"], 200)
    ['merge of step-2: not compared with its adapter, as checkpoints.merged leaves it out']
    >>> unchecked_notes({}, ["step-2"], 200, "prompt_tuning")
    ['prompt_tuning adapters cannot be merged: what was tested is the adapter beside its base']
    >>> unchecked_notes({"step-2": {"rows": 40, "judged": 40}}, ["step-2"], 40)
    ['merge of step-2: 40 rows compared (checkpoints.merge_check_rows); the rule on changed verdicts needs 200']
    """
    from lotune.evaluate.merge_check import VERDICT_ROWS

    if not METHODS[method].mergeable:
        return [f"{method} adapters cannot be merged: what was tested is the adapter beside its base"]
    notes = [
        f"merge of {name}: not compared with its adapter, as checkpoints.merged leaves it out"
        for name in tested
        if name not in checks
    ]
    for name, check in checks.items():
        if check["judged"] < VERDICT_ROWS:
            why = "checkpoints.merge_check_rows" if check["rows"] >= check_rows else "all that there are"
            rows = f"{check['rows']} rows compared ({why})"
            notes.append(f"merge of {name}: {rows}; the rule on changed verdicts needs {VERDICT_ROWS}")
    return notes
