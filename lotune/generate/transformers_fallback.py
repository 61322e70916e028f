"""Answers of models whose cache cannot be ours: batches of equally long prompts, through transformers' own `generate`.

Whatever a model remembers of what it read (keys and values, the states of Mamba or RWKV), it is made and carried on as
transformers does it. Prompts of one length need no padding, which such states would take for text.

Shapes: B rows of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
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
from lotune.generate.llama_forward import logits_close
from lotune.generate.requests import Completion
from lotune.generate.running import RequestQueue, RunningRequest, TokenSelector
from lotune.model.eval_mode import eval_mode

_PROBE = ((5, 3, 7, 2, 9, 4), (6, 3, 2, 8, 4, 4))
"""Rows of token ids that every vocabulary has; the last half of each is foretold."""


class TransformersBatcher:
    """A model that answers by transformers' `generate`: its rows `batched` or one by one, with its cache or without.

    Which of these it bears is found out by asking it: what it says must be what it says of each row alone, read anew
    for each token.
    """

    def __init__(self, model: Any, base: Any) -> None:
        """`base` is the model of transformers inside an adapted `model`. Raises: ModelError where it cannot answer."""
        self.model, self.base = model, base
        self.batched, self.use_cache = False, False
        with eval_mode(model):
            try:
                expected = self._foretold()
            except Exception as error:  # each architecture fails in its own way
                line = " ".join(str(error).split())[:240]
                found = f"transformers does not generate with a {base.config.model_type} model: {line}"
                raise ModelError("model", found, "one that it loads for causal language modelling") from error
            for self.batched, self.use_cache in ((True, True), (False, True), (False, False)):
                try:
                    if logits_close(self._foretold(), expected, base.dtype):
                        break
                except Exception:  # a way that this model does not bear
                    continue

    def run(self, arrivals: RequestQueue, ending: TokenSelector, batch_tokens: int) -> Iterator[tuple[int, Completion]]:
        """(number of the answer, answer), batch by batch; at most `batch_tokens` tokens are held at once."""
        while rows := arrivals.take(idle=True):
            yield from self._run(rows, ending, batch_tokens)

    def _run(
        self, rows: Sequence[RunningRequest], ending: TokenSelector, batch_tokens: int
    ) -> Iterator[tuple[int, Completion]]:
        ordered = sorted(rows, key=lambda row: (len(row.request.prompt_ids), row.max_length), reverse=True)
        for _, group in groupby(ordered, key=lambda row: len(row.request.prompt_ids)):
            waiting = list(group)
            while waiting:
                count = max(1, batch_tokens // waiting[0].max_length) if self.batched else 1
                running, waiting = waiting[:count], waiting[count:]
                late = {row.index: answer for row in running if (answer := ending.check_deadline(row)) is not None}
                yield from late.items()
                yield from self._answered([row for row in running if row.index not in late], ending)

    def _answered(self, rows: list[RunningRequest], ending: TokenSelector) -> Iterator[tuple[int, Completion]]:
        """The answers to prompts of one length; a row that has ended is read on about, but not listened to."""
        found: list[Completion | None] = [None] * len(rows)

        def choose(logits: Tensor) -> list[int]:
            open_ = [place for place, answer in enumerate(found) if answer is None]
            chosen = [0] * len(rows)
            for place, token in zip(open_, ending.choose(logits[open_], [rows[place] for place in open_]), strict=True):
                chosen[place] = token
                found[place] = ending.append(rows[place], token)
            return chosen

        if rows:
            prompts = [row.request.prompt_ids for row in rows]
            self._generate(prompts, max(row.request.max_new_tokens for row in rows), choose, lambda: None not in found)
        for row, answer in zip(rows, found, strict=True):
            assert answer is not None
            yield row.index, answer

    def _foretold(self) -> Tensor:
        """Logits (B, T, V) of the last half of the probe's rows."""
        half = len(_PROBE[0]) // 2
        found = []
        for rows in [_PROBE] if self.batched else [[row] for row in _PROBE]:
            steps: list[Tensor] = []

            def choose(logits: Tensor, rows: Any = rows, steps: list[Tensor] = steps) -> list[int]:
                steps.append(logits)
                return [row[half + len(steps) - 1] for row in rows]

            self._generate([row[:half] for row in rows], half, choose, lambda: False)
            found.append(torch.stack(steps, 1))
        return torch.cat(found)

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        choose: Callable[[Tensor], list[int]],
        done: Callable[[], bool],
    ) -> None:
        """Let transformers continue prompts by at most `most` tokens, which `choose` has of their logits (B, V)."""
        ids = torch.tensor(prompts, device=self.model.device)
        settings, self.base.generation_config = self.base.generation_config, GenerationConfig()  # its wishes are ours
        try:
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=GenerationConfig(max_new_tokens=most, do_sample=False, use_cache=self.use_cache),
                logits_processor=LogitsProcessorList([_ForcedToken(choose)]),
                stopping_criteria=StoppingCriteriaList([_StopWhen(done)]),
            )
        finally:
            self.base.generation_config = settings


class _ForcedToken(LogitsProcessor):
    """Leaves of the logits only what `choose` takes."""

    def __init__(self, choose: Callable[[Tensor], list[int]]) -> None:
        self.choose = choose

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        chosen = torch.tensor(self.choose(scores), device=scores.device)
        return torch.full_like(scores, float("-inf")).scatter_(-1, chosen[:, None], 0.0)


class _StopWhen(StoppingCriteria):
    """Ends all rows of a batch at once."""

    def __init__(self, done: Callable[[], bool]) -> None:
        self.done = done

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), self.done(), device=input_ids.device)
