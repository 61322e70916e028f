"""Prompt tuning: trained embeddings before each prompt (Lester et al. 2021, arXiv 2104.08691)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from lotune.data.tokenized import encode_text
from lotune.errors import ModelError, SettingsError
from lotune.model.methods.method import Method
from lotune.model.settings import AdapterSettings
from lotune.model.shapes import ModelShape

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class PromptTuningSettings(AdapterSettings):
    """Virtual tokens before each prompt."""

    method: Literal["prompt_tuning"] = "prompt_tuning"
    """How trainable parameters are added."""
    num_virtual_tokens: int = Field(20, ge=1, le=4096)
    """Number of trained embeddings before each prompt."""
    init_text: str | None = Field(None, min_length=1)
    """Text whose tokens initialise the embeddings, repeated as often as needed; null draws tokens of the vocabulary."""

    @model_validator(mode="after")
    def _check_initial_values(self) -> PromptTuningSettings:
        if self.init_from is not None and self.init_text is not None:
            raise ValueError("init_from brings its own embeddings: leave init_text out")
        return self


def _configure(settings: PromptTuningSettings, base: PreTrainedModel) -> PeftConfig:
    from peft import PromptTuningConfig

    from lotune.model.methods.virtual_tokens import base_embedding

    _parameter_count(settings, base)
    return PromptTuningConfig(
        num_virtual_tokens=settings.num_virtual_tokens,
        token_dim=base_embedding(base).embedding_dim,
        task_type="CAUSAL_LM",
    )


def _count_on_shape(settings: PromptTuningSettings, shape: ModelShape) -> int:
    """Return the number of virtual tokens times the size of an embedding."""
    if shape.width is None:
        found = "prompt_tuning needs an embedding of tokens, and this model has none, or one of its own kind"
        raise ModelError("adapter.method", found, remedy="lora")
    return settings.num_virtual_tokens * shape.width


def _parameter_count(settings: PromptTuningSettings, base: PreTrainedModel) -> int:
    from lotune.model.methods.targets import shape_of_model

    return _count_on_shape(settings, shape_of_model(base))


def _initialise(model: PeftModel, settings: PromptTuningSettings, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Initialise the embeddings with those of tokens: of the text, or drawn from the vocabulary.

    Both learn better than random numbers (Lester et al. 2021, section 3.2).
    """
    import torch

    from lotune.model.methods.virtual_tokens import base_embedding

    vocabulary_embedding, count = base_embedding(model.get_base_model()), settings.num_virtual_tokens
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (count,))
    if settings.init_text is not None:
        ids = torch.tensor(_repeated_tokens(tokenizer, settings.init_text, count))
    encoder: Any = model.prompt_encoder["default"]
    with torch.no_grad():
        encoder.embedding.weight.copy_(vocabulary_embedding(ids.to(vocabulary_embedding.weight.device)))  # (N, D)


def _repeated_tokens(tokenizer: Any, text: str, count: int) -> list[int]:
    tokens = encode_text(tokenizer, text) if tokenizer is not None else []
    if not tokens:
        raise SettingsError("adapter.init_text", f"{text!r} has no tokens", "a text of at least one token")
    return [tokens[number % len(tokens)] for number in range(count)]


LEARNING_RATE = 0.15
"""Peak learning rate: embeddings are trained directly, and need far larger steps than low-rank updates."""


def _learning_rate(settings: PromptTuningSettings, base: PreTrainedModel) -> tuple[float, str]:
    return LEARNING_RATE, "prompt tuning"


def _attach(model: PeftModel) -> None:
    from lotune.model.methods.virtual_tokens import attach_virtual_tokens

    attach_virtual_tokens(model)


def _unfreeze(model: PeftModel) -> None:
    model.active_peft_config.inference_mode = False
    model.prompt_encoder.requires_grad_(True)


PROMPT_TUNING = Method(
    PromptTuningSettings,
    _configure,
    _parameter_count,
    mergeable=False,
    identity_at_init=False,
    saved_values=lambda config: {"num_virtual_tokens": config.num_virtual_tokens},
    attach=_attach,
    unfreeze=_unfreeze,
    initialise=_initialise,
    learning_rate=_learning_rate,
    num_virtual_tokens=lambda settings: int(settings.num_virtual_tokens),
    count_on_shape=_count_on_shape,
    size_setting="num_virtual_tokens",
)
