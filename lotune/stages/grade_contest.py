"""`lotune grade contest`: mark answers against keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lotune.contest.answers import Answer, Marks, keys_in, mark, pair, read_answers, read_keys
from lotune.contest.scores import check_rule
from lotune.data.examples import Example
from lotune.errors import DataError, SettingsError
from lotune.recipe import Recipe, RunOptions
from lotune.report.terminal import format_percent_interval, percent
from lotune.settings import read_settings
from lotune.tasks.registry import build_task, entry_named
from lotune.tasks.task import Task
from lotune.text_display import print_visible


def grade_answers(
    answers: Path,
    key: Path | None,
    task: str,
    scorer: str | None,
    ratio: float | None,
    rule: str | None,
    options: RunOptions,
) -> Marks:
    """Return the marks of a file of answers, by a file of keys or by the keys that the records hold.

    Raises: DataError if answers and keys do not fit together; SettingsError for an unknown task, scorer or rule.
    """
    judge = contest_task(task, scorer)
    if rule is not None:
        check_rule(rule, "--rule")
    given = read_answers(answers)
    examples, ids = (keys_in(judge, given), {}) if key is None else read_keys(judge, key)
    # The records of a file that is its own key belong together by their order.
    pairs = list(zip(examples, given, strict=True)) if key is None else pair(given, examples, ids, str(answers))
    if key is not None:
        _refuse_other_order(judge, pairs, answers)
    marks = mark(judge, pairs, ratio, rule)
    if not options.json:
        show_marks(marks)
    return marks


def _refuse_other_order(judge: Task, pairs: Sequence[tuple[Example, Answer]], answers: Path) -> None:
    """Raise DataError if most keys that the records hold themselves are not those that they are marked by."""
    own = [judge.judge(example, answer.key).correct for example, answer in pairs if answer.key is not None]
    differing = own.count(False)
    if 2 * differing > len(own):
        found = f"{differing} of {len(own)} records hold another key than the one in their place in the key file"
        remedy = "leave --key out, or give both files ids"
        raise DataError(str(answers), found, "answers in the order of the keys", remedy)


def contest_task(name: str, scorer: str | None) -> Task:
    """Return a task of the contest by name, with a scorer of it. Raises: SettingsError if there is no such one."""
    entry_named(name)
    recipe = read_settings(Recipe, None, [f"task.name={name}", *([f"task.scorer={scorer}"] if scorer else [])])
    task = build_task(recipe.task)
    if task.chooses_by_likelihood or task.scores_references:
        raise SettingsError("--scorer", f"{scorer} needs the model, not its answers", "a scorer of texts")
    return task


def show_marks(marks: Marks) -> None:
    """Print marks for people."""
    print_visible(f"{marks.task}, judged by {marks.scorer}: {marks.right} of {marks.n} right")
    print_visible(f"accuracy: {percent(marks.accuracy, 2)} (95 % interval {format_percent_interval(marks.interval)})")
    if marks.unjudgeable:
        print_visible(f"keys that cannot be judged, left out: {marks.unjudgeable} of {marks.rows}")
    if len(marks.by_kind) > 1:
        for kind, one in marks.by_kind.items():
            print_visible(f"  {kind or 'no kind'}: {percent(one.accuracy)}, {one.right} of {one.n}")
    if marks.score is not None:
        print_visible(f"score: {marks.score:.9f} ({marks.rule}, ratio {marks.ratio!r})")
