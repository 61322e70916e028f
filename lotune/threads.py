"""How PyTorch's threads share the cores with other processes."""

from __future__ import annotations

import os

SPIN_COUNT = "3000"
"""Rounds that a thread waits for work before it sleeps, some 0.1 ms; libgomp's own 300,000 take some 10 ms."""


def share_cores() -> None:
    """Let threads that wait for work sleep soon, so that a busy process beside them does not slow them down.

    Where PyTorch's threads are more than the free cores, one that spins takes the core that another one needs. libgomp
    reads the setting once, so call this before torch is imported. A user's own GOMP_SPINCOUNT or OMP_WAIT_POLICY stays.
    `benchmarks/beside.py` measures both sides.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
