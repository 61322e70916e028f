"""The backend for models that cannot use slots: batches of equally long prompts through transformers' own `generate`.

transformers keeps the state of the model: keys and values, or the recurrent states of Mamba and RWKV. Prompts of equal
length need no padding, which a recurrent state would treat as text.

Shapes: B rows of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lotune.errors import ModelError
from lotune.generate.requests import Request
from lotune.generate.running import RunningRequest, TokenSelector
from lotune.model.eval_mode import eval_mode
from lotune.model.probes import PROBE_ROWS, is_close

_PROBE = tuple(row[-6:] for row in PROBE_ROWS)
"""Rows of one length; the logits of the last half of each are compared."""


class TransformersBatcher:
    """A model that answers through transformers' `generate`, with its rows `batched` or not and with a cache or not.

    It uses the first of these combinations whose logits equal those of each row alone and without a cache.
    """

    def __init__(self, model: Any, base: Any) -> None:
        """Probe `model`, whose transformers model is `base`. Raises: ModelError if it cannot generate."""
        self.model, self.base = model, base
        self.waiting: list[RunningRequest] = []
        self.running: list[RunningRequest] = []
        self.whole_answers = True
        self.batched, self.use_cache = False, False
        with eval_mode(model):
            try:
                expected = self._probe_logits()
            except Exception as error:  # each architecture fails in its own way
                line = " ".join(str(error).split())[:240]
                found = f"transformers does not generate with a {base.config.model_type} model: {line}"
                raise ModelError("model", found, "one that it loads for causal language modelling") from error
            for self.batched, self.use_cache in ((True, True), (False, True), (False, False)):
                try:
                    if is_close(self._probe_logits(), expected, base.dtype):
                        break
                except Exception:  # the model does not support this combination
                    continue

    def check(self, request: Request) -> None:
        """Raise ModelError for a request that names an adapter."""
        if request.adapter is not None:
            expected = "an architecture whose attention takes a mask"
            raise ModelError("adapter", "cannot be selected per request with this model", expected, "merge it")

    def session(self) -> AbstractContextManager[None]:
        """Return a context in which the model is in evaluation mode."""
        return eval_mode(self.model)

    def add(self, rows: list[RunningRequest]) -> None:
        """Add rows to those that wait, sorted by the lengths of prompt and answer, the longest first."""
        self.waiting += rows
        self.waiting.sort(key=lambda row: (len(row.request.prompt_ids), row.max_length), reverse=True)

    def remove_ended(self) -> None:
        """Remove the waiting rows that have an outcome; no row runs between steps."""
        self.waiting = [row for row in self.waiting if row.outcome is None]

    def reset(self) -> None:
        """Do nothing: no state outlives a step."""

    def step(self, selector: TokenSelector, batch_tokens: int) -> None:
        """Answer one batch of waiting rows, whose prompts have one length; at most `batch_tokens` tokens are held."""
        if not self.waiting:
            return
        longest = self.waiting[0]
        length = len(longest.request.prompt_ids)
        same_length = sum(len(row.request.prompt_ids) == length for row in self.waiting)
        count = min(same_length, max(1, batch_tokens // longest.max_length) if self.batched else 1)
        rows, self.waiting = self.waiting[:count], self.waiting[count:]
        self.running = [row for row in rows if not selector.end_if_late(row)]
        if self.running:
            self._answer(self.running, selector)
        self.running = []

    def _answer(self, rows: list[RunningRequest], selector: TokenSelector) -> None:
        """Answer prompts of equal length; `generate` continues rows that have ended, but their tokens are not used."""

        def choose(logits: Tensor) -> list[int]:
            for row in rows:
                if row.cancelled and row.outcome is None:
                    selector.finish(row, "cancelled")
            open_ = [index for index, row in enumerate(rows) if row.outcome is None]
            chosen = [0] * len(rows)
            for index, token in zip(open_, selector.advance(logits[open_], [rows[i] for i in open_]), strict=True):
                chosen[index] = max(token, 0)
            return chosen

        prompts = [row.request.prompt_ids for row in rows]
        longest = max(row.request.max_new_tokens for row in rows)
        self._generate(prompts, longest, choose, lambda: all(row.outcome is not None for row in rows))

    def _probe_logits(self) -> Tensor:
        """Return logits (B, T, V) of the last half of the probe's rows."""
        half = len(_PROBE[0]) // 2
        logits_of = []
        for rows in [_PROBE] if self.batched else [[row] for row in _PROBE]:
            steps: list[Tensor] = []

            def choose(logits: Tensor, rows: Any = rows, steps: list[Tensor] = steps) -> list[int]:
                steps.append(logits)
                return [row[half + len(steps) - 1] for row in rows]

            self._generate([row[:half] for row in rows], half, choose, lambda: False)
            logits_of.append(torch.stack(steps, 1))  # T times (rows, V) -> (rows, T, V)
        return torch.cat(logits_of)  # (B, T, V)

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        choose: Callable[[Tensor], list[int]],
        done: Callable[[], bool],
    ) -> None:
        """Continue prompts of equal length with the tokens that `choose` selects from logits (B, V), until `done()`."""
        ids = torch.tensor(prompts, device=self.model.device)  # (B, T)
        configured = self.base.generation_config
        # transformers merges the model's own settings, such as a temperature, into those of a call.
        self.base.generation_config = GenerationConfig()
        try:
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=GenerationConfig(
                    max_new_tokens=max_new_tokens, do_sample=False, use_cache=self.use_cache
                ),
                logits_processor=LogitsProcessorList([_ForcedToken(choose)]),
                stopping_criteria=StoppingCriteriaList([_StopWhen(done)]),
            )
        finally:
            self.base.generation_config = configured


class _ForcedToken(LogitsProcessor):
    """Masks all logits except those of the tokens that `choose` selects."""

    def __init__(self, choose: Callable[[Tensor], list[int]]) -> None:
        self.choose = choose

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        chosen = torch.tensor(self.choose(scores), device=scores.device)
        return torch.full_like(scores, float("-inf")).scatter_(-1, chosen[:, None], 0.0)  # (B, V)


class _StopWhen(StoppingCriteria):
    """Ends all rows of a batch at once."""

    def __init__(self, done: Callable[[], bool]) -> None:
        self.done = done

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), self.done(), device=input_ids.device)
