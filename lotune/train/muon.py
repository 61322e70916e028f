"""Muon (Jordan et al., 2024): momentum whose matrices are made orthogonal before they are applied.

PyTorch's Muon orthogonalises in bfloat16, which takes several times as long as the forward and backward pass on a CPU
without bfloat16 arithmetic. This one keeps the dtype of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic Newton–Schulz step, as published."""
NEWTON_SCHULZ_STEPS = 5


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix (M, N) near `matrix` with singular values of about 1 (0.7 to 1.2), in the same dtype.

    >>> values = torch.linalg.svdvals(newton_schulz(torch.eye(4) * 3 + 1))
    >>> bool((values > 0.6).all() and (values < 1.3).all())
    True
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # (min(M, N), max(M, N))
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T  # (min(M, N), min(M, N))
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum, scaled to the usual size of an AdamW update (root mean square 0.2)."""

    def __init__(
        self, matrices: Iterable[torch.nn.Parameter], learning_rate: float, decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": learning_rate, "decay": decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Apply the gradients; a closure is not called."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(matrix)
                running = state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = newton_schulz(matrix.grad.lerp(running, group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)
