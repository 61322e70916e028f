"""Sharing of CPU cores between PyTorch's threads and other processes."""

from __future__ import annotations

import os

SPIN_COUNT = "3000"
"""Iterations that an idle thread spins, about 0.1 ms, before sleeping; libgomp's 300,000 take about 10 ms."""


def share_cores() -> None:
    """Let idle threads sleep soon, so that they do not take cores from threads that have work.

    If there are more threads than free cores, a spinning thread occupies a core that another one needs. libgomp reads
    the setting once, so call this before importing torch. GOMP_SPINCOUNT or OMP_WAIT_POLICY of the user prevail.
    `benchmarks/beside.py` measures the effect.
    """
    # With OMP_WAIT_POLICY, the user has decided how idle threads wait, and a spin count would override it.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
