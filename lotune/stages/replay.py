"""Make the replay rows of a run, from a generator, a file or the base itself, and count them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from lotune.console import print_status
from lotune.data.chat_template import ChatTemplate
from lotune.data.conversation import Conversation
from lotune.data.examples import Example
from lotune.data.templates import TEMPLATES, Template
from lotune.errors import SettingsError
from lotune.evaluate.replay import ReplayCounts, ReplaySource, divergence_weight, replay_row_count, replay_source
from lotune.memory import release_memory
from lotune.model.loading import NANO, load_model
from lotune.recipe import Recipe
from lotune.settings import join_names
from lotune.stages.abilities import Ability, abilities_of
from lotune.stages.model_loading import with_answer_dtype
from lotune.stages.prompt_template import build_prompted_task, conversation_format
from lotune.tasks.recognition import settings_of
from lotune.tasks.replay import REPLAY_SEED, generated_replay_rows, holds_texts, replay_rows_of_file, without_evaluated
from lotune.tasks.task import Generating
from lotune.tasks.user_rows import blame_setting

BASE_ROW_TOKENS = 160
"""Maximum number of tokens of a row that the base writes: enough for a question with its answer, not for an essay."""
QUESTION = "@question@"
"""Stands for a question where the beginning of a prompt is taken from its template."""


@dataclass(frozen=True)
class Replay:
    """The replay rows of a run, and their counts."""

    examples: Sequence[Example] = ()
    counts: ReplayCounts = field(default_factory=ReplayCounts)


def source_of(recipe: Recipe) -> ReplaySource:
    """Return where the replay rows of a recipe come from."""
    return replay_source(recipe.retention.replay, is_nano=recipe.base.model == NANO and has_replay_generator(recipe))


def divergence_of(recipe: Recipe) -> float:
    """Return the weight of the divergence from the base in a recipe's tuning."""
    return divergence_weight(recipe.retention.divergence, source_of(recipe), recipe.retention.replay.rows)


def make_replay(recipe: Recipe, training_rows: int, evaluation: Mapping[str, Sequence[Example]]) -> Replay:
    """Return the replay rows of a recipe; none holds anything of an evaluation set.

    Raises: NoGeneratorError if the source is generator and no ability to replay has one; DataError for a file that
    cannot be used.
    """
    source = source_of(recipe)
    rows = replay_row_count(recipe.retention.replay, source, training_rows)
    if not rows:
        return Replay()
    started = time.monotonic()
    examples, rehearsed = _rows_of(recipe, source, rows)
    clean, overlapping = without_evaluated(examples, evaluation)
    others = [one.label for one in abilities_of(recipe) if one.label not in rehearsed]
    counts = ReplayCounts(
        rows=len(clean), source=source, seconds=time.monotonic() - started, overlapping=overlapping,
        rehearsed=join_names(rehearsed) if rehearsed else "", not_rehearsed=join_names(others) if others else "",
    )  # fmt: skip
    return Replay(clean, counts)


def has_replay_generator(recipe: Recipe) -> bool:
    """Return whether an ability of a recipe has a generator that can make replay rows."""
    return bool(_replayed(recipe))


def _replayed(recipe: Recipe) -> list[Ability]:
    """Return the abilities whose generators can make replay rows."""
    return [one for one in abilities_of(recipe) if one.settings.replay and isinstance(one.task, Generating)]


def _rows_of(recipe: Recipe, source: ReplaySource, rows: int) -> tuple[Sequence[Example], list[str]]:
    """Return rows of a source, and the names of the abilities whose task they are of."""
    if source == "base":
        return written_rows(recipe, rows), list(_own_templates(recipe).values())
    if source == "generator":
        return _generated_rows(recipe, rows)
    path = recipe.retention.replay.data
    assert path is not None  # checked with the settings
    if holds_texts(path):
        return replay_rows_of_file(None, path, rows, recipe.seed), []
    task = build_prompted_task(settings_of(path), recipe.base)
    examples = replay_rows_of_file(task, path, rows, recipe.seed)
    return examples, [one.label for one in abilities_of(recipe) if one.task.name == task.name]


def _generated_rows(recipe: Recipe, rows: int) -> tuple[Sequence[Example], list[str]]:
    """Return generated rows, in equal parts of each ability to replay, and the names of these abilities."""
    replayed = _replayed(recipe) or [one for one in abilities_of(recipe) if one.settings.replay]
    if not replayed:
        fault, remedy = (
            "is generator, and no ability has replay: true",
            "replay: true for one, or retention.replay.source=base",
        )
        raise SettingsError("retention.replay.source", fault, "an ability to replay", remedy)
    # Who names a number gets the rows that this number has always meant.
    one_of_each = recipe.retention.replay.rows == "auto"
    with blame_setting("retention.replay.source"):
        share, rest = divmod(rows, len(replayed))
        parts = [
            # Each has its own seed, as two abilities of one task would get the same rows.
            generated_replay_rows(
                one.task, share + (place < rest), recipe.seed + place, f"replay{one.suffix}", one_of_each=one_of_each
            )
            for place, one in enumerate(replayed)
        ]
    examples = parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))
    return examples, [one.label for one in replayed]


def prompt_beginnings(recipe: Recipe) -> list[str]:
    """Return the texts before the question in the prompts of the task and of the abilities to replay."""
    formats = [conversation_format(recipe.task, recipe.base), *(TEMPLATES[name] for name in _own_templates(recipe))]
    beginnings = [_beginning(form) for form in formats]
    return list(dict.fromkeys(beginning for beginning in beginnings if beginning.strip()))


def _own_templates(recipe: Recipe) -> dict[str, str]:
    """Return the abilities to replay whose task has a prompt of its own, by the name of its template."""
    replayed = [one for one in abilities_of(recipe) if one.settings.replay]
    return {one.task_settings.own_template: one.label for one in replayed if one.task_settings.own_template}


def _beginning(form: Template | ChatTemplate) -> str:
    conversation = Conversation((QUESTION,), ())
    prompts = (
        form.render_conversation(conversation)
        if isinstance(form, Template)
        else form.render_conversation(conversation, "replay")
    )
    return prompts[0][0].partition(QUESTION)[0]


def written_rows(recipe: Recipe, rows: int) -> list[Example]:
    """Return rows that the base writes, fewer than `rows` if many are unusable."""
    from lotune.generate.answering_model import AnsweringModel
    from lotune.generate.base_rows import write_base_rows

    print_status(f"the base writes {rows} rows to replay")
    base = load_model(with_answer_dtype(recipe, recipe.base), recipe.device)
    write = partial(write_base_rows, AnsweringModel(base.model, base.tokenizer).engine, base.tokenizer, rows)
    written = write(
        seed=recipe.seed + REPLAY_SEED, max_new_tokens=BASE_ROW_TOKENS, batch_tokens=recipe.evaluate.max_batch_tokens,
        prompts=prompt_beginnings(recipe),
    )  # fmt: skip
    examples = [Example(f"base:{number}", row.opening, row.text) for number, row in enumerate(written, start=1)]
    del base, write, written
    release_memory()
    return examples
