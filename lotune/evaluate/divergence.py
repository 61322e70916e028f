"""How far a tuned model is from its base: KL(base‖tuned) of the next token, on texts that the tuning was not to change.

The figure needs no references: it says how much of what the base would say has changed, whatever that is.

B, T: lines of a batch and tokens of a line. N: scored positions. C: those of a chunk. V: vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from lotune.data.disk_list import evenly_spaced
from lotune.data.tokenized import EncodedRow
from lotune.evaluate.statistics import Interval, bootstrap_ratio

if TYPE_CHECKING:
    from lotune.data.collate import Batch

MOST_ROWS = 100
"""Rows of a set on which the divergence is measured; a few dozen give two digits."""
BATCH_TOKENS = 4096
"""Tokens of a forward pass, with padding."""


class BaseDivergence(BaseModel):
    """KL(base‖tuned) of the next token, a mean over the tokens of a set of rows, in nats."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    set: str
    """The rows: test prompts or replay rows."""
    value: float
    interval: Interval | None = None
    """95 % interval of `value`, a bootstrap over rows; null if it cannot be estimated."""
    rows: int
    tokens: int

    def describe(self) -> str:
        """Return the figure as a clause.

        >>> limits = Interval(0.0187, 0.025)
        >>> BaseDivergence(set="test prompts", value=0.0213, interval=limits, rows=9, tokens=3000).describe()
        'KL(base‖tuned) on test prompts: 0.0213 nats per token (0.0187 to 0.025; 9 rows, 3,000 tokens)'
        """
        limits = "" if self.interval is None else f"{self.interval.low:.3g} to {self.interval.high:.3g}; "
        size = f"{self.rows} rows, {self.tokens:,} tokens"
        return f"KL(base‖tuned) on {self.set}: {self.value:.3g} nats per token ({limits}{size})"


def measure_divergence(base: Any, tuned: Any, rows: Sequence[EncodedRow], name: str) -> BaseDivergence | None:
    """Return the divergence on the scored tokens of some rows, evenly chosen; None without any such token.

    If `base` is the tuned model itself, its base is the model without the adapter. Both models have one tokeniser.
    """
    chosen = evenly_spaced(rows, MOST_ROWS)
    figures = [(nats, tokens) for nats, tokens in _row_divergences(base, tuned, chosen) if tokens]
    if not figures or not all(math.isfinite(nats) for nats, _ in figures):
        return None
    nats, tokens = zip(*figures, strict=True)
    value = math.fsum(nats) / sum(tokens)
    return BaseDivergence(
        set=name, value=value, interval=bootstrap_ratio(nats, tokens), rows=len(figures), tokens=sum(tokens)
    )


def _row_divergences(base: Any, tuned: Any, rows: Sequence[EncodedRow]) -> Iterator[tuple[float, int]]:
    """Yield the divergence of each row, summed over its scored tokens, and their number, in another order."""
    import torch

    from lotune.data.collate import IGNORE_INDEX, pad_rows, with_prefix
    from lotune.model.adapters import base_alone
    from lotune.model.eval_mode import eval_mode
    from lotune.model.parts import virtual_ids
    from lotune.train.loop import to_device
    from lotune.train.output_head import OutputHead

    prefix_ids, device = virtual_ids(tuned), next(tuned.parameters()).device
    heads = OutputHead(base), OutputHead(tuned)
    for group in _groups([_first_token_unscored(row) for row in rows]):
        batches = pad_rows(group, 0), pad_rows([with_prefix(row, prefix_ids) for row in group], 0)
        with torch.inference_mode(), eval_mode(base), eval_mode(tuned):
            with base_alone(tuned) if base is tuned else nullcontext():
                expected = _states(heads[0], to_device(batches[0], device))  # (N, D)
            states = _states(heads[1], to_device(batches[1], device))
            divergence = _divergences(heads, (base, tuned), expected, states)  # (N,)
        lines = (batches[0].targets != IGNORE_INDEX).nonzero()[:, 0]  # of each position, (N,)
        sums = torch.zeros(len(group), dtype=torch.float64).index_add(0, lines, divergence.double().cpu())
        yield from zip(sums.tolist(), lines.bincount(minlength=len(group)).tolist(), strict=True)


def _states(head: Any, batch: Batch) -> Any:
    from lotune.data.collate import IGNORE_INDEX

    return head.states(batch, batch.targets != IGNORE_INDEX)


def _divergences(heads: tuple[Any, Any], models: tuple[Any, Any], expected: Any, states: Any) -> Any:
    """Return the divergence of each position, (N,), from the states (N, D) of both models."""
    import torch

    from lotune.model.adapters import base_alone
    from lotune.train.divergence import divergences
    from lotune.train.loss import max_logits_per_chunk

    base, tuned = models
    weight = heads[1].module.weight  # (V, D)
    rows, parts = max(1, max_logits_per_chunk(weight) // len(weight) // 2), []
    for base_part, part in zip(expected.split(rows), states.split(rows), strict=True):
        with base_alone(tuned) if base is tuned else nullcontext():
            base_logits = heads[0].logits_with(heads[0].module)(base_part)  # (C, V)
        parts.append(divergences(base_logits, heads[1].logits_with(heads[1].module)(part)))
    return torch.cat(parts) if parts else states.new_zeros(0)


def _groups(rows: Sequence[EncodedRow]) -> Iterator[list[EncodedRow]]:
    """Yield rows of similar length, together of at most BATCH_TOKENS tokens with padding, or a single row."""
    group: list[EncodedRow] = []
    for row in sorted(rows, key=lambda row: len(row.token_ids)):
        if group and (len(group) + 1) * len(row.token_ids) > BATCH_TOKENS:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _first_token_unscored(row: EncodedRow) -> EncodedRow:
    # A base has nothing to predict the first token from, unlike a model with virtual tokens.
    return replace(row, completion_start=max(1, row.completion_start))
