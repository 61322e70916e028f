"""The loss of a causal model, its output head applied at scored positions only, a part of them at a time.

N: scored positions. D: width of the model. V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lotune.data.collate import IGNORE_INDEX, Batch
from lotune.distributed import is_sharded
from lotune.model.attention import packed_attention_kwargs
from lotune.model.eval_mode import PROBE_TOKEN_IDS, eval_mode
from lotune.model.parts import decoder_of

MAX_LOGITS_PER_CHUNK = {"cpu": 2**22, "cuda": 2**26}
"""Logits that are held at once: 16 MiB in float32, which a processor's caches hold; 256 MiB where kernels are large.

Twice as many where the head's own weights learn, as their gradient is gone through once a part.
"""


def max_logits_per_chunk(weight: Tensor) -> int:
    """Logits that are held at once by a head with such weights (V, D)."""
    return MAX_LOGITS_PER_CHUNK.get(weight.device.type, MAX_LOGITS_PER_CHUNK["cuda"]) * (
        2 if weight.requires_grad else 1
    )


LogitsPath = Literal["plain", "own", "whole"]
"""What makes logits of hidden states: the head alone, the model's own code around it, or only the whole model."""
_TOLERANCE = 1e-3
"""How far logits made apart may be from those of the whole model, relative to their norm."""


class CausalLoss:
    """Loss of a causal model with its output head applied at scored positions only, a part of them at a time.

    Some models scale hidden states or logits, or cap these. Whether one does is found out by putting large logits in
    the place of those that its head makes: they come out as they are, or not. Then its own code runs on each part, with
    the decoder's work done; the whole model is called only where its logits hang on more than a hidden state.
    """

    def __init__(self, model: Any, compile: bool = False) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._inner = inner
        self._decoder, self._output = decoder_of(inner), inner.get_output_embeddings()
        self._forward = torch.compile(self._decoder) if compile else self._decoder
        self._kind: LogitsPath | None = None
        self._result: Any = None  # the class of what the decoder gives
        self._places: list[tuple[nn.Module, str]] = []  # where the model has its decoder and its head

    @property
    def is_chunked(self) -> bool:
        """Whether the logits of a batch are made in parts, as is known after the first one."""
        return self._kind in ("plain", "own")

    def __call__(self, batch: Batch) -> Tensor:
        """Return the cross-entropy summed over the scored positions of a batch, a float32 scalar."""
        scored = batch.targets != IGNORE_INDEX
        if self._kind is None:
            self._kind = self._probe_logits_path()
        words = {"input_ids": batch.input_ids, "use_cache": False, **_packing_kwargs(batch)}
        if self._kind == "whole":
            logits = self._inner(**words).logits[scored]
            return cross_entropy(logits.float(), batch.targets[scored], reduction="sum")
        return self._entropy_sum(self._forward(**words).last_hidden_state[scored], batch.targets[scored])

    def _entropy_sum(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Sum of the cross-entropy of hidden states (N, D)."""
        if not is_sharded(self._output.weight):
            return self._chunked_loss(self._output, hidden, targets)
        # gathered by all processes at once: each calls it once a batch, and goes through its parts within that call
        bare = partial(type(self._output).forward, self._output)
        with _patched_attribute(self._output, "forward", partial(self._chunked_loss, bare)):
            found: Tensor = self._output(hidden, targets)
        return found

    def _chunked_loss(self, head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
        weight = self._output.weight
        rows = max(1, max_logits_per_chunk(weight) // len(weight))
        is_matrix = type(self._output).forward is nn.Linear.forward and self._output.bias is None
        if self._kind == "plain" and is_matrix:
            entropy: Callable[..., Tensor] = _ChunkedLinearCrossEntropy.apply
            if torch.is_autocast_enabled(weight.device.type):
                dtype = torch.get_autocast_dtype(weight.device.type)
                hidden, weight = hidden.to(dtype), weight.to(dtype)
            return entropy(hidden, weight, targets, rows, torch.is_grad_enabled())
        if not len(hidden):
            return hidden.float().sum()
        # a head that is quantised, biased or has an adapter, or code around it: logits are made again backward
        logits = head if self._kind == "plain" else partial(self._own_logits, head)
        parts = zip(hidden.split(rows), targets.split(rows), strict=True)
        return torch.stack([checkpoint(_entropy, logits, *part, use_reentrant=False) for part in parts]).sum()

    def _own_logits(self, head: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        """What the model's own code makes of hidden states (N, D) in the place of its decoder's: logits (N, V)."""
        result = self._result(last_hidden_state=hidden[None])
        ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        decoder, output = self._places
        given, called = _CallProxy(self._decoder, lambda *_, **__: result), _CallProxy(self._output, head)
        with _patched_attribute(*decoder, given), _patched_attribute(*output, called):
            logits: Tensor = self._inner(input_ids=ids, use_cache=False).logits[0]
        return logits

    @torch.no_grad()
    def _probe_logits_path(self) -> LogitsPath:
        results: list[Any] = []
        taken: list[tuple[Tensor, Tensor]] = []

        def large(module: nn.Module, words: tuple[Tensor, ...], logits: Tensor) -> Tensor:
            steps = torch.linspace(-1000, 1000, logits.numel(), device=logits.device)
            taken.append((words[0], steps.view(logits.shape).to(logits.dtype)))
            return taken[-1][1]

        ids = torch.tensor([PROBE_TOKEN_IDS], device=next(self._inner.parameters()).device)
        with eval_mode(self._inner):
            kept = self._decoder.register_forward_hook(lambda module, words, result: results.append(result))
            with kept, self._output.register_forward_hook(large):
                found = self._inner(input_ids=ids, use_cache=False).logits
            if len(results) == len(taken) == 1:
                states, (seen, made) = results[0].last_hidden_state, taken[0]
                if torch.equal(seen, states) and torch.equal(found.float(), made.float()):
                    return "plain"
                self._result = type(results[0])
                self._places = [_parent_and_name(self._inner, module) for module in (self._decoder, self._output)]
                if self._model_code_matches(ids, states[0]):
                    return "own"
        return "whole"

    def _model_code_matches(self, ids: Tensor, hidden: Tensor) -> bool:
        """Whether logits hang on nothing but the hidden state (N, D) of their token: they are made in another order."""
        expected = self._inner(input_ids=ids, use_cache=False).logits[0].float()
        try:
            found = self._own_logits(self._output, hidden.flip(0)).flip(0).float()
            return bool((found - expected).norm() <= _TOLERANCE * expected.norm())
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
            return False


def _parent_and_name(model: nn.Module, module: nn.Module) -> tuple[nn.Module, str]:
    """The module of a model that another one is a part of, and its name there."""
    owner, _, name = next(name for name, found in model.named_modules() if found is module).rpartition(".")
    return model.get_submodule(owner), name


class _CallProxy:
    """Is called in a module's place; all else is the module's own."""

    def __init__(self, module: nn.Module, called: Callable[..., Any]) -> None:
        self._module, self._called = module, called

    def __call__(self, *args: Any, **words: Any) -> Any:
        return self._called(*args, **words)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextmanager
def _patched_attribute(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """A block in which a name of a module means something else; torch looks there before it looks for modules."""
    vars(module)[name] = value
    try:
        yield
    finally:
        del vars(module)[name]


def _entropy(logits: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits(hidden).float(), targets, reduction="sum")


def _packing_kwargs(batch: Batch) -> dict[str, Tensor]:
    """What keeps the rows of a packed line apart; nothing where each row has a line of its own."""
    lengths = batch.row_lengths
    return {} if lengths is None else {"position_ids": batch.positions, **packed_attention_kwargs(lengths)}


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of hidden (N, D) times weight (V, D), without the logits (N, V) ever being there at once.

    The gradients are made beside the loss, from logits that are still in the cache, so nothing is computed twice; all
    parts use the same memory.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, learning: bool) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        to_hidden, to_weight = (learning and needed for needed in ctx.needs_input_grad[:2])
        of_hidden = torch.empty_like(hidden) if to_hidden else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        made = weight.new_empty(min(rows, len(hidden)), len(weight))  # in the dtype of the weights
        taken = made if made.dtype == torch.float32 else torch.empty_like(made, dtype=torch.float32)
        for first in range(0, len(hidden), rows):
            part, aims = hidden[first : first + rows], targets[first : first + rows, None]
            product, logits = made[: len(part)], taken[: len(part)]
            torch.mm(part, weight.T, out=product)
            if taken is not made:
                logits.copy_(product)
            logits.sub_(logits.amax(1, keepdim=True))
            aimed = logits.gather(1, aims)
            sums = logits.exp_().sum(1, keepdim=True)
            total += (sums.log() - aimed).sum()
            if not (to_hidden or to_weight):
                continue
            logits.div_(sums).scatter_add_(1, aims, torch.full_like(sums, -1.0))  # the gradient of the logits
            if of_weight is not None:
                of_weight.addmm_(logits.T, part.float())
            if of_hidden is not None:
                rounded = logits if taken is made else product.copy_(logits)
                of_hidden[first : first + rows] = rounded @ weight
        ctx.save_for_backward(of_hidden, None if of_weight is None else of_weight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if found is None else found.mul_(grads[0]) for found in ctx.saved_tensors)
        return (*scaled, None, None, None)
