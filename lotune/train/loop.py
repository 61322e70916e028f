"""The training loop of tuning and pre-training, which differ only in batches, optimisers and objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lotune.data.collate import IGNORE_INDEX, Batch
from lotune.distributed import SINGLE_PROCESS, ProcessGroup, is_sharded
from lotune.errors import CheckError, SettingsError
from lotune.memory import oom_names_setting
from lotune.model.finite import noting_faults
from lotune.model.logits import NotFiniteLogitsError
from lotune.train.dropout import draw_of, dropping
from lotune.train.loss import CausalLoss
from lotune.train.optimizers import Optimizers


@dataclass(frozen=True)
class Step:
    """The figures of one optimiser step: mean loss over its scored (supervised) tokens, tokens without padding, etc."""

    number: int
    loss: float
    learning_rate: float
    tokens: int
    supervised: int
    seconds: float
    gradient_norm: float


class NotFiniteError(CheckError):
    """The loss of a step or the norm of its gradient is not finite.

    `rows` are the rows of the step; `layer` is the first module or parameter whose output or gradient is not finite.
    """

    def __init__(self, step: int, loss: float, norm: float, rows: Sequence[str] = (), layer: str | None = None) -> None:
        self.step, self.loss, self.norm, self.layer = step, loss, norm, layer
        first = f", first in {layer}" if layer else ""
        listed = f"; its rows: {', '.join(rows[:MAX_LISTED_ROWS])}" if rows else ""
        more = f" and {len(rows) - MAX_LISTED_ROWS} more" if len(rows) > MAX_LISTED_ROWS else ""
        remedy = (
            "lower the learning rate, which restarts the training, or fix these rows; if both are sound, "
            "the model is at fault: its weights, or its arithmetic in this dtype; the state before this step is kept"
        )
        found = f"the loss is {loss} and the norm of its gradient {norm}{first}{listed}{more}"
        super().__init__(f"step {step}", found, "finite numbers", remedy)

    def of_rows(self, rows: Sequence[str]) -> NotFiniteError:
        """Return the same error with the rows of the step."""
        return NotFiniteError(self.step, self.loss, self.norm, rows, self.layer)


TUNING_REMEDY = "lower tune.max_batch_tokens, or set tune.gradient_checkpointing=true"
"""The remedy if a forward or backward pass of a tuning runs out of memory."""
OPTIMIZER_REMEDY = (
    "its means take 8 bytes for each trained weight: train fewer weights, or use several GPUs with fsdp=on"
)


def oom_guard(batch: Batch, remedy: str) -> AbstractContextManager[None]:
    """Return a context for the passes of a batch that turns lack of memory into SettingsError with the remedy."""
    lines, line_length = batch.input_ids.shape
    return oom_names_setting("max_batch_tokens", f"a forward pass of {lines} x {line_length} tokens", remedy)


def enable_gradient_checkpointing(model: Any, setting: str) -> None:
    """Make a model recompute its activations in the backward pass.

    Raises: SettingsError, for the setting of that name, if the model does not support it.
    """
    try:
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    except ValueError as error:
        raise SettingsError(setting, f"this model cannot: {error}", "false") from None
    model.disable_input_require_grads()  # otherwise the backward pass would continue below the lowest adapter


@contextmanager
def keep_input_dtype(model: Any, enabled: bool) -> Iterator[None]:
    """Prevent PEFT's layers, if `enabled`, from casting their inputs to the float32 of their weights in the block.

    Autocast then casts the weights instead, which are smaller than the inputs.
    """
    layers = [module for module in model.modules() if getattr(module, "cast_input_dtype_enabled", False)]
    layers = layers if enabled else []
    for layer in layers:
        layer.cast_input_dtype_enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.cast_input_dtype_enabled = True


MAX_LISTED_ROWS = 32
"""Maximum number of rows of a step that an error names."""


Objective = Callable[[Batch], Tensor]
"""A function that returns the loss of a batch on the model's device: a float32 scalar, summed over scored positions.

The loop divides the sum of a step by its number of scored positions. For a batch without scored positions the loss must
be a zero that depends on the weights, so that all processes run the same backward passes.
"""


def train(
    model: Any,
    batches: Iterable[list[Batch]],
    optimizers: Optimizers,
    lr_factors: Sequence[float],
    *,
    objective: Objective | None = None,
    max_grad_norm: float = 1.0,
    first_step: int = 1,
    world: ProcessGroup = SINGLE_PROCESS,
    remedy: str = TUNING_REMEDY,
    autocast_bfloat16: bool = False,
) -> Iterator[Step]:
    """Train and yield the figures of each step; the caller decides between steps what to log, measure and save.

    `batches` yields the micro-batches of each step. The loss of a step is the sum of `objective` (cross-entropy if
    None) over its micro-batches, divided by its number of scored tokens. Loss and gradient do not depend on how a step
    is divided into micro-batches and among the processes of `world`, which all yield the same figures. Step i + 1 has
    `lr_factors[i]` times the peak learning rate. `autocast_bfloat16`: matrix products are computed in bfloat16.

    Raises: NotFiniteError if loss or gradient is not finite; the weights are then those before the step. SettingsError
    with the `remedy` if memory runs out.
    """
    passes = _Passes(model, objective or CausalLoss(model), remedy, autocast_bfloat16)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for number, micro_batches in enumerate(batches, start=first_step):
        started = time.perf_counter()
        model.train()
        scored_tokens, tokens, max_passes = _step_totals(world, micro_batches)
        padded = pad_micro_batches(micro_batches, max_passes)
        loss = sum(passes.backward(batch, number, scored_tokens).item() for batch in padded)
        loss = sum(part for (part,) in world.all_gather(loss))
        world.all_reduce_gradients(parameters)
        norm = _clip_gradients(parameters, max_grad_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(number, loss, norm, layer=_first_fault(passes, padded, scored_tokens, number, world))
        optimizers.set_lr_factor(lr_factors[number - 1])
        with oom_names_setting("optimizer", "a step of the optimiser", OPTIMIZER_REMEDY):
            optimizers.step()
        rate = optimizers.peak_lrs[0] * lr_factors[number - 1]
        yield Step(number, loss, rate, tokens, scored_tokens, time.perf_counter() - started, norm)


class _Passes:
    """Forward and backward passes of a model under one objective."""

    def __init__(self, model: Any, objective: Objective, remedy: str, autocast_bfloat16: bool) -> None:
        self.model, self.objective, self._remedy = model, objective, remedy
        self._autocast_bfloat16, self._draw = autocast_bfloat16, draw_of(model)
        self.device: torch.device = next(p for p in model.parameters() if p.requires_grad).device

    def backward(self, batch: Batch, step: int, scored_tokens: int) -> Tensor:
        """Add the gradients of a micro-batch of a step, and return its part of the step's loss, a scalar."""
        with (
            oom_guard(batch, self._remedy),
            dropping(self._draw, batch, step, self.device),
            keep_input_dtype(self.model, self._autocast_bfloat16),
        ):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast_bfloat16):
                loss = self.objective(to_device(batch, self.device)) / scored_tokens
            loss.backward()
        return loss.detach()


def _first_fault(
    passes: _Passes, batches: Sequence[Batch], scored_tokens: int, step: int, world: ProcessGroup
) -> str | None:
    """Repeat a step, and return the first module or parameter whose output or gradient is not finite."""
    # All processes repeat all passes, as sharded weights are gathered by all of them at once.
    faults: list[str] = []
    with suppress(RuntimeError, SettingsError):  # for example lack of memory; the error then names no layer
        faults = _faults(passes, batches, scored_tokens, step)
    names = world.all_gather_bytes(faults[0].encode() if faults else b"")
    return next((name.decode() for name in names if name), None)


def _faults(passes: _Passes, batches: Sequence[Batch], scored_tokens: int, step: int) -> list[str]:
    passes.model.zero_grad(set_to_none=True)
    # compiled code would not call the hooks on each layer
    with torch.compiler.set_stance("force_eager"), noting_faults(passes.model) as faults:
        for batch in batches:
            if not passes.backward(batch, step, scored_tokens).isfinite():
                faults.append("the output head")
    return faults


def _step_totals(world: ProcessGroup, micro_batches: Sequence[Batch]) -> tuple[int, int, int]:
    """Return a step's scored tokens and tokens over all processes, and the maximum number of passes of a process."""
    totals = sum(batch.num_scored_tokens for batch in micro_batches), sum(batch.num_tokens for batch in micro_batches)
    counts = world.all_gather(*totals, len(micro_batches))
    scored_tokens, tokens, passes = zip(*counts, strict=True)
    return int(sum(scored_tokens)), int(sum(tokens)), int(max(passes))


def pad_micro_batches(micro_batches: Sequence[Batch], passes: int) -> list[Batch]:
    """Add unscored micro-batches of one token up to `passes`, as all processes gather sharded weights at once."""
    zero = torch.zeros(1, 1, dtype=torch.int64)
    unscored = Batch(zero, torch.full_like(zero, IGNORE_INDEX), zero, zero)
    return [*micro_batches, *[unscored] * (passes - len(micro_batches))]


def _clip_gradients(parameters: Sequence[torch.nn.Parameter], max_norm: float) -> float:
    """Return the norm of all gradients; scale them down to `max_norm` if they exceed it and it is not 0."""
    whole = [p for p in parameters if p.grad is not None and not is_sharded(p.grad)]
    shards: list[Any] = [p.grad for p in parameters if p.grad is not None and is_sharded(p.grad)]
    grads: list[Any] = [p.grad for p in whole]
    # Whole and sharded gradients cannot be stacked by torch, so each group has a norm of its own.
    norms: list[Any] = [torch.nn.utils.get_total_norm(group) for group in (grads, shards) if group]
    parts = [norm.full_tensor() if is_sharded(norm) else norm for norm in norms]
    if not parts:
        return 0.0
    norm = torch.linalg.vector_norm(torch.stack(parts)) if len(parts) > 1 else parts[0]
    bound = max_norm if max_norm else float("inf")
    torch.nn.utils.clip_grads_with_norm_(whole, bound, norm)
    for grad in shards:
        grad.to_local().mul_((bound / (norm + 1e-6)).clamp(max=1.0))
    return float(norm.item())


@torch.no_grad()
def evaluate_loss(model: Any, batches: Iterable[Batch], remedy: str = TUNING_REMEDY) -> float:
    """Return the mean cross-entropy over all scored tokens, in nats.

    Raises: SettingsError if memory runs out; NotFiniteLogitsError if logits are not finite.
    """
    loss_of, total, count = CausalLoss(model), 0.0, 0
    training, device = model.training, next(model.parameters()).device
    model.eval()
    for batch in batches:
        with oom_guard(batch, remedy):
            loss = loss_of(to_device(batch, device)).item()
        if math.isnan(loss):
            raise _not_finite(model, batch)
        total += loss
        count += batch.num_scored_tokens
    model.train(training)
    return total / max(1, count)


def _not_finite(model: Any, batch: Batch) -> NotFiniteLogitsError:
    """Return the error for a batch whose loss is NaN; it names the first row that is not finite in a second pass."""
    error = NotFiniteLogitsError("a row of which the loss is measured", (), math.nan)
    for row in batch.rows():
        error = NotFiniteLogitsError(error.row, row, math.nan).traced(model)
        if error.layer:
            break
    return error


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on a device."""
    if device.type == "cpu":
        return batch
    tensors: dict[str, Any] = {
        name: value.to(device) for name, value in vars(batch).items() if isinstance(value, Tensor)
    }
    return replace(batch, **tensors)
