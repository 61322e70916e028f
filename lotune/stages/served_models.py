"""The models of a server: loaded once for all adapters, in their templates, in int8 if asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.disk_space import format_bytes
from lotune.errors import ModelError, SettingsError
from lotune.memory import free_memory_bytes
from lotune.model.loading import base_folder, count_parameters, meta_model, resolve_device, resolve_dtype
from lotune.model.settings import BaseSettings
from lotune.recipe import Recipe
from lotune.stages.model_loading import (
    load_unquantized,
    quantize_and_tell,
    resolve_answer_dtype,
    resolve_weights,
    with_resolved_dtype,
)
from lotune.stages.prompt_template import conversation_format, resolve_auto, with_stored_template

if TYPE_CHECKING:
    from lotune.serve.models import ServedModel

FREE_MEMORY_SHARE = 0.9
"""Part of the free memory that weights may take if no limit is given."""
PREFIX_CACHE_BYTES = 256 * 2**20
"""Memory for keys and values of ended conversations, for each set of weights."""
AGREEMENT_QUESTIONS = (
    *("What is the capital of France?", "计算 12 + 30 等于多少？", "Write a sentence about the sea."),
    *("请介绍一下你自己。", "Why is the sky blue?", "把“谢谢”翻译成英语。", "Name three colours.", "一年有多少天？"),
)  # fmt: skip
"""Questions on which int8 is compared with float32 at the start."""
AGREEMENT_TOKENS = 24
"""Tokens of each answer that are compared."""


def load_served_models(
    recipe: Recipe, models: Mapping[str, str], adapters: Mapping[str, str], memory_bytes: int | None = None
) -> list[ServedModel]:
    """Load models, and adapters beside the weights of their bases, which are loaded once.

    A model is a folder, a name on the hub or nano. An adapter that cannot be chosen per request has weights of its own.

    Raises: SettingsError if the weights together need more than `memory_bytes`, by default most of the free memory;
    ModelError as `load_model_or_adapter` does.
    """
    groups = _grouped(recipe, models, adapters)
    _check_memory(recipe, groups, memory_bytes)
    served: list[ServedModel] = []
    for group in groups:
        served += group.load(recipe)
    return served


def _check_memory(recipe: Recipe, groups: Sequence[_Group], memory_bytes: int | None) -> None:
    """Raise SettingsError if the weights of all models together do not fit, with the size of each."""
    import torch

    device = torch.device(resolve_device(recipe.device))
    limit = memory_bytes or int(FREE_MEMORY_SHARE * (free_memory_bytes(device) or sys.maxsize))
    sizes = {}
    for group in groups:
        settings, _ = resolve_weights(recipe, group.source)
        dtype = resolve_dtype(resolve_answer_dtype(recipe, settings).dtype, str(device))
        sizes[group.source] = count_parameters(meta_model(settings)) * dtype.itemsize
    if sum(sizes.values()) > limit:
        each = ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items())
        found = f"the weights take {format_bytes(sum(sizes.values()))} ({each})"
        raise SettingsError(
            "--memory", found, f"{format_bytes(limit)} at most", "serve fewer models, or raise --memory"
        )


@dataclass
class _Group:
    """Models that share weights: `base` has the name and source of the base, `adapters` those of its adapters."""

    source: str
    name: str | None
    adapters: dict[str, str]

    def load(self, recipe: Recipe) -> list[ServedModel]:
        """Load the weights once, and return a model for the base, if it has a name, and for each adapter."""
        from lotune.generate.answering_model import AnsweringModel
        from lotune.generate.requests import NO_ADAPTER
        from lotune.model.checkpoints import load_adapter, load_beside
        from lotune.serve.models import ServedModel

        recipe = with_resolved_dtype(recipe, self.source)
        base: Any = load_unquantized(recipe, self.source)
        model, names = base.model, dict[str, str]()
        for number, (name, folder) in enumerate(self.adapters.items()):
            if number == 0:
                model, names[name] = load_adapter(base, Path(folder), force_base=recipe.adapter.force_base), "default"
            else:
                names[name] = f"adapter{number}"
                load_beside(model, base, Path(folder), names[name], force_base=recipe.adapter.force_base)
        agreement = None
        if recipe.evaluate.quantize == "int8":
            agreement = int8_agreement(model, base.tokenizer, conversation_form(recipe, self.source), self.source)
        answering = AnsweringModel(model, base.tokenizer, prefix_cache_bytes=PREFIX_CACHE_BYTES)
        answering.engine  # noqa: B018 - built now, so that a model that cannot generate is refused
        served = []
        if self.name is not None:
            form = conversation_form(recipe, self.source)
            own = NO_ADAPTER if self.adapters else None
            served.append(ServedModel(self.name, answering, form, own, int8_agreement=agreement, weights=base.weights))
        for name, folder in self.adapters.items():
            form = conversation_form(recipe, folder)
            files, parent = tuple(sorted(Path(folder).glob("*.safetensors"))), self.name or base.name
            served.append(
                ServedModel(name, answering, form, names[name], parent, int8_agreement=agreement, weights=files)
            )
        return served


def int8_agreement(model: Any, tokenizer: Any, form: Any, name: str) -> float | None:
    """Replace a model's linear layers by int8 ones, and return the share of float32's tokens that they also choose.

    The model answers AGREEMENT_QUESTIONS in float32, and after each token of these answers chooses again in int8. The
    result is None if the model stays in float32.
    """
    from lotune.data.conversation import Conversation, conversation_example
    from lotune.data.tokenized import encode_prompt
    from lotune.generate.answering_model import AnsweringModel
    from lotune.generate.loglikelihood import Continuation
    from lotune.generate.requests import Request

    examples = (conversation_example("", Conversation((question,)), form) for question in AGREEMENT_QUESTIONS)
    prompts = [tuple(encode_prompt(tokenizer, example, sys.maxsize)[0]) for example in examples]
    exact = AnsweringModel(model, tokenizer)
    count = max(1, min(AGREEMENT_TOKENS, exact.context - max(map(len, prompts))))
    requests = [Request(ids, count, min_new_tokens=count, stop=form.stop) for ids in prompts]
    answers = dict(exact.engine.stream(requests))
    if not quantize_and_tell(model, name).layers:
        return None
    rows = [Continuation(prompts[number], answer.token_ids) for number, answer in answers.items() if answer.token_ids]
    scored = AnsweringModel(model, tokenizer).loglikelihood.score_tokens(rows, top=1, batch_tokens=8192)
    pairs = [
        (id, token.top_logprobs[0][0])
        for row, tokens in zip(rows, scored, strict=True)
        for id, token in zip(row.ids, tokens, strict=True)
    ]
    agreement = sum(id == other for id, other in pairs) / len(pairs)
    print_status(f"{name}: int8 chooses the token of float32 in {agreement:.1%} of {len(pairs)} places")
    return agreement


def conversation_form(recipe: Recipe, model: str) -> Any:
    """Return the template of a model: that of its tuning, or the one of its tokeniser."""
    weights, _ = resolve_weights(recipe, model)
    return conversation_format(resolve_auto(with_stored_template(recipe.task, model, False), weights), weights)


def _grouped(recipe: Recipe, models: Mapping[str, str], adapters: Mapping[str, str]) -> list[_Group]:
    groups: list[_Group] = []
    for name, source in models.items():
        groups.append(_Group(source, name, {}))
    for name, folder in adapters.items():
        base, adapter = resolve_weights(recipe, folder)
        if adapter is None and base_folder(BaseSettings(model=folder)) is None:
            raise ModelError(folder, "is not a folder", "the folder of an adapter", "check the path")
        if adapter is None:
            raise ModelError(folder, "is a complete model, not an adapter", remedy=f"--model {folder}")
        group = next((group for group in groups if _same_model(group.source, base.model)), None)
        if group is None or not _is_selectable(adapter):
            groups.append(
                _Group(folder, name, {}) if not _is_selectable(adapter) else _Group(base.model, None, {name: folder})
            )
        else:
            group.adapters[name] = folder
    return groups


def _same_model(source: str, other: str) -> bool:
    folders = [base_folder(BaseSettings(model=name)) for name in (source, other)]
    return source == other if None in folders else folders[0].resolve() == folders[1].resolve()  # type: ignore[union-attr]


def _is_selectable(adapter: Path) -> bool:
    """Return whether requests can choose an adapter; its own weights are loaded otherwise."""
    from lotune.model.checkpoints import read_adapter_config
    from lotune.model.methods.registry import METHODS, method_name

    config = read_adapter_config(adapter)
    method = METHODS.get(method_name(config))
    return method is not None and method.selectable(config)
