"""A model with its tokeniser, and what all its answers come from."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from lotune.generate.engine import Engine
from lotune.generate.loglikelihood import LogLikelihood

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnsweringModel:
    """A model, plain, adapted or held by vLLM, whose engine and log-likelihoods are made at their first use.

    Its weights must not change in between. `reset` forgets what was read, so that answers depend on nothing before.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    @cached_property
    def engine(self) -> Engine:
        """The engine of all answers that the model writes."""
        return Engine(self.model, self.tokenizer)

    @cached_property
    def loglikelihood(self) -> LogLikelihood:
        """The log-likelihoods of all options that the model chooses from."""
        return LogLikelihood(self.model)

    def reset(self) -> None:
        """Forget what was read, and give its memory back."""
        for part in ("engine", "loglikelihood"):
            if part in vars(self):
                getattr(self, part).reset()
