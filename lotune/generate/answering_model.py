"""A model with its tokeniser, and the engine and log-likelihoods that give all its answers."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from lotune.generate.engine import Engine
from lotune.generate.loglikelihood import LogLikelihood
from lotune.model.loading import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnsweringModel:
    """A model (plain, adapted or loaded by vLLM) whose engine and log-likelihoods are created on first use.

    Its weights must not change in between. After `reset`, answers do not depend on earlier prompts.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, **engine_options: Any) -> None:
        """`engine_options` are those of `Engine`."""
        self.model, self.tokenizer = model, tokenizer
        self._engine_options = engine_options

    @property
    def context(self) -> int:
        """The maximum number of tokens of prompt and answer together."""
        return context_length(self.model)

    @cached_property
    def engine(self) -> Engine:
        """The engine that generates the model's answers."""
        return Engine(self.model, self.tokenizer, **self._engine_options)

    @cached_property
    def loglikelihood(self) -> LogLikelihood:
        """The log-likelihoods of options that the model chooses from."""
        return LogLikelihood(self.model)

    def reset(self) -> None:
        """Forget all prompts and free their memory."""
        # A part that was never used is not created just to be reset.
        for part in ("engine", "loglikelihood"):
            if part in vars(self):
                getattr(self, part).reset()
