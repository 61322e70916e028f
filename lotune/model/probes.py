"""Common parts of probes, which find out what a model can do: their inputs, tolerance and findings.

A probe computes the same numbers in two ways and compares them. The probes themselves are beside the code that depends
on their findings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

PROBE_ROWS = ((8, 3, 7, 2, 9, 4, 8, 6, 2), (8, 3, 2, 8, 4, 5), (8, 3, 4, 2, 3, 6, 7))
"""Rows of token ids that every vocabulary has, of different lengths; all begin with the same SHARED_PROBE_IDS ids."""
SHARED_PROBE_IDS = 2
ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Largest difference that rounding explains, relative to the norm of the expected numbers."""
REDUCED_ROUNDING = 5e-2
"""The same in a reduced dtype."""


@dataclass(frozen=True)
class Finding:
    """The result of a probe: whether the model has the capability, and the relative difference or why there is none."""

    capability: str
    holds: bool
    difference: float | None = None
    reason: str = ""


def tolerance(dtype: torch.dtype) -> float:
    """Return the largest relative difference that rounding explains in weights of a dtype.

    >>> tolerance(torch.float32), tolerance(torch.bfloat16)
    (0.0001, 0.05)
    """
    return ROUNDING.get(dtype, REDUCED_ROUNDING)


def relative_difference(result: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to that of `expected`; infinite where other entries are -inf or NaN.

    >>> relative_difference(torch.tensor([3.0, -math.inf]), torch.tensor([4.0, -math.inf]))
    0.25
    >>> relative_difference(torch.tensor([3.0, 5.0]), torch.tensor([4.0, -math.inf]))
    inf
    """
    masked = expected == -math.inf
    if result.shape != expected.shape or not torch.equal(result == -math.inf, masked):
        return math.inf
    result, expected = result.masked_fill(masked, 0).float(), expected.masked_fill(masked, 0).float()
    difference, norm = float((result - expected).norm()), float(expected.norm())
    if math.isnan(difference) or math.isnan(norm):
        return math.inf
    return difference / norm if norm else (0.0 if difference == 0 else math.inf)


def is_close(result: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Return whether numbers are the expected ones but for rounding in weights of a dtype."""
    return relative_difference(result, expected) <= tolerance(dtype)


def compare(capability: str, compute: Callable[[], tuple[Tensor, Tensor]], dtype: torch.dtype) -> Finding:
    """Return whether the two results of `compute`, the tried and the expected one, agree; a failure is a finding, too.

    >>> compare("halves", lambda: (torch.ones(2) / 2, torch.full((2,), 0.5)), torch.float32)
    Finding(capability='halves', holds=True, difference=0.0, reason='')
    """
    try:
        result, expected = compute()
    except Exception as error:  # each architecture fails in its own way
        return failed(capability, error)
    difference = relative_difference(result, expected)
    return Finding(capability, difference <= tolerance(dtype), difference)


def failed(capability: str, error: Exception) -> Finding:
    """Return the finding of a probe that raised an error."""
    return Finding(capability, False, reason=f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")


def format_table(findings: Iterable[Finding]) -> str:
    """Return findings as lines of text.

    >>> print(format_table([Finding("packed rows", True, 1.5e-7), Finding("slots", False, reason="no mask")]))
    packed rows  yes  1.5e-07
    slots        no   no mask
    """
    findings = list(findings)
    length = max((len(finding.capability) for finding in findings), default=0)
    return "\n".join(
        f"{finding.capability:<{length}}  {'yes' if finding.holds else 'no':<3}  "
        f"{finding.reason or ('' if finding.difference is None else f'{finding.difference:.1e}')}".rstrip()
        for finding in findings
    )
