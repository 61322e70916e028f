"""The base's own greedy answers as references: rows to watch the gate on if no ability has rows to spare for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import log
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.data.examples import Example
from lotune.data.tokenized import encode_text
from lotune.errors import ModelError
from lotune.evaluate.abilities import AbilitySettings
from lotune.memory import release_memory
from lotune.model.loading import load_model
from lotune.recipe import Recipe
from lotune.stages.abilities import Ability
from lotune.stages.model_loading import with_answer_dtype
from lotune.tasks.registry import CONVERSATION_TASK, task_settings
from lotune.tasks.settings import TaskSettings

if TYPE_CHECKING:
    from lotune.generate.requests import Completion

OWN_ANSWERS = "own_answers"
"""Name of the set of these rows, of its file, and of the folder of the answers to it."""
OWN_ANSWERS_SEED = 5_000_011
"""Offset of the seed of these texts, so that they are not those that are written for replay."""
TEXTS, TEXT_TOKENS = 60, 48
"""Number of texts that the base writes, and the maximum of their tokens. The first half of each is a prompt."""
CONTINUATION_TOKENS = 16
"""Maximum number of tokens with which the base continues a prompt greedily."""
MOST_ROWS = 200
"""Maximum number of rows. Each asks for one token, as longer answers of two good models differ in wording."""
# Where the base is not sure, there are many good answers, and every tuning changes the choice among them (docs/log.md).
SURE = 0.5
"""Probability of a token above which the base is sure of it."""


def own_answer_settings() -> tuple[TaskSettings, AbilitySettings]:
    """Return the settings of the task that compares answers with the base's own, and the settings of the ability."""
    task = task_settings(CONVERSATION_TASK, scorer="exact", max_new_tokens=1)
    return task, AbilitySettings(name=OWN_ANSWERS, task=task.name)


def needs_own_answers(abilities: Sequence[Ability], watched: Mapping[str, Sequence[Example]]) -> bool:
    """Return whether the gate is to be watched, but no ability with `gate: true` has rows for it."""
    wanted = [one for one in abilities if one.settings.gate and one.settings.validation_rows != 0]
    return bool(wanted) and not any(watched[one.validation_set] for one in wanted)


def own_answers(recipe: Recipe) -> list[Example]:
    """Return rows that ask for the next token in texts that the base writes, wherever the base is sure of it."""
    from lotune.generate.answering_model import AnsweringModel
    from lotune.generate.base_rows import write_base_rows
    from lotune.generate.requests import Request

    print_status("no retention row is left to watch the gate on: the base's own answers are watched")
    base = load_model(with_answer_dtype(recipe, recipe.base), recipe.device)
    answering, batch_tokens = AnsweringModel(base.model, base.tokenizer), recipe.evaluate.max_batch_tokens
    texts = write_base_rows(
        answering.engine, base.tokenizer, TEXTS,
        seed=recipe.seed + OWN_ANSWERS_SEED, max_new_tokens=TEXT_TOKENS, batch_tokens=batch_tokens,
    )  # fmt: skip
    try:
        prompts = [prompt for text in texts if (prompt := text.opening + text.text[: len(text.text) // 2])]
    except ModelError as error:
        print_status(f"the gate is not watched while tuning: {error.found}")
        return []
    requests = [
        Request(tuple(encode_text(base.tokenizer, prompt, first=True)), CONTINUATION_TOKENS, logprobs=True)
        for prompt in prompts
    ]
    completions = dict(answering.engine.stream(requests, batch_tokens=batch_tokens))
    examples = [
        Example(f"{OWN_ANSWERS}:{number}.{place}", begun, token, (token,))
        for number, prompt in enumerate(prompts)
        for place, begun, token in sure_tokens(prompt, completions[number], base.tokenizer)
    ]
    del base, answering, texts
    release_memory()
    return examples[:MOST_ROWS]


def sure_tokens(prompt: str, completion: Completion, tokenizer: Any) -> Iterator[tuple[int, str, str]]:
    """Yield the tokens of a completion of which the model was sure: position, text before the token, text of the token.

    Tokens of white space alone or of a part of a character are left out.
    """
    for place, (id, logprob) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
        begun: str = prompt + tokenizer.decode(list(completion.token_ids[:place]))
        token: str = tokenizer.decode([id])
        if logprob > log(SURE) and token.strip() and "\N{REPLACEMENT CHARACTER}" not in begun + token:
            yield place, begun, token
