"""Probes that call a model's decoder: whether it can compute packed rows, and whether it is causal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lotune.errors import ModelError
from lotune.model.attention import ATTENTION_NAME, packed_attention_kwargs, register_packed_attention
from lotune.model.eval_mode import eval_mode, in_training
from lotune.model.parts import decoder_of
from lotune.model.probes import (
    PROBE_ROWS,
    SHARED_PROBE_IDS,
    Finding,
    compare,
    failed,
)


def enable_packing(model: Any, longest: int) -> bool:
    """Make a model accept packed rows of at most `longest` tokens, if it then computes each row as if it were alone.

    Return whether it does; otherwise the model stays as it was.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes_packed_rows = probe_packing(inner, longest).holds
    if takes_packed_rows:
        register_packed_attention(inner)
    return takes_packed_rows


def probe_packing(model: Any, longest: int) -> Finding:
    """Return whether a model can compute packed rows of at most `longest` tokens, with and without a shared prefix.

    It cannot if it has attention of its own kind or dropout of attention weights, a window shorter than the rows, or
    positions that depend on the whole line. The model keeps its attention.
    """
    name, config = "packed rows", model.config.get_text_config()
    before, window = config._attn_implementation, getattr(config, "sliding_window", None) or longest
    if before not in ("sdpa", ATTENTION_NAME):
        return Finding(name, False, reason=f"its attention is {before}")
    if window < longest:
        return Finding(name, False, reason=f"its window of {window} tokens is shorter than the rows")
    if any(kind in str(getattr(config, "rope_parameters", "")) for kind in ("dynamic", "longrope")):
        return Finding(name, False, reason="its positions depend on the longest row")
    with eval_mode(model):
        alone = [_last_hidden(model, row) for row in PROBE_ROWS]
    try:
        register_packed_attention(model)
        findings = [_compare_packed(model, alone, shared) for shared in (0, SHARED_PROBE_IDS)]
        # Dropout of attention weights shows in no other mode, and has many names in configurations.
        with in_training(model):
            _last_hidden(model, *PROBE_ROWS)
    except (TypeError, ValueError, RuntimeError) as error:
        return failed(name, error)
    finally:
        model.set_attn_implementation(before)
    worst = max(findings, key=lambda finding: (not finding.holds, finding.difference or 0.0))
    return Finding(name, worst.holds, worst.difference, worst.reason)


def probe_causal(model: Any) -> Finding:
    """Return whether no token of a model sees a later one."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    row = torch.tensor([PROBE_ROWS[0]], device=next(inner.parameters()).device)  # (1, T)
    with torch.no_grad(), eval_mode(inner):
        whole, start = (decoder_of(inner)(ids, use_cache=False).last_hidden_state for ids in (row, row[:, :3]))
    # Damaged weights say nothing about the architecture. The code that uses them later names the layer.
    if not start.isfinite().all():
        return Finding("causal", True, reason="its outputs are not finite")
    return compare("causal", lambda: (whole[:, :3], start), start.dtype)


def check_causal(model: Any) -> None:
    """Raise ModelError if tokens see later ones: such a model can neither learn nor score answers."""
    if not probe_causal(model).holds:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        where = f"a {inner.config.model_type} model"
        raise ModelError(where, "a token sees those after it", "a causal model", "is_decoder: true in its config.json")


def _compare_packed(model: Any, alone: Sequence[Tensor], shared: int) -> Finding:
    """Compare the probe's rows in a packed line, `shared` tokens of which stand there once, with each row alone."""
    expected = torch.cat([alone[0], *(hidden[:, shared:] for hidden in alone[1:])], 1)  # (1, T, D)
    with eval_mode(model):
        return compare(
            "packed rows", lambda: (_last_hidden(model, *PROBE_ROWS, shared=shared), expected), alone[0].dtype
        )


@torch.no_grad()
def _last_hidden(model: Any, *rows: tuple[int, ...], shared: int = 0) -> Tensor:
    """Return the last hidden states (1, T, D) of rows that are alone or packed."""
    device = next(model.parameters()).device
    ids = torch.tensor([[*rows[0][:shared], *(token for row in rows for token in row[shared:])]], device=device)
    positions = torch.cat([torch.arange(shared), *(torch.arange(shared, len(row)) for row in rows)])[None].to(device)
    lengths = torch.tensor([shared, *(len(row) - shared for row in rows)], device=device)
    kwargs = {} if len(rows) == 1 else packed_attention_kwargs(lengths)
    hidden: Tensor = decoder_of(model)(ids, position_ids=positions, use_cache=False, **kwargs).last_hidden_state
    return hidden
