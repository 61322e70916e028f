"""Cross-entropy of a causal model, whose output head is applied to scored positions only, in chunks.

B, T: lines of a batch and tokens of a line. N: scored positions. C: those of a chunk. D: hidden size. V: vocabulary.
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
from lotune.model.eval_mode import eval_mode
from lotune.model.parts import decoder_of
from lotune.model.probes import PROBE_ROWS, is_close

MAX_LOGITS_PER_CHUNK = {"cpu": 2**22, "cuda": 2**26}
"""Number of logits in a chunk: 16 MiB in float32, which fit into a CPU's caches, or 256 MiB on a GPU.

Twice as many if the head itself is trained, as each chunk reads and writes the whole gradient of its weight.
"""


def max_logits_per_chunk(weight: Tensor) -> int:
    """Return the maximum number of logits to hold at once for a head with this weight (V, D)."""
    return MAX_LOGITS_PER_CHUNK.get(weight.device.type, MAX_LOGITS_PER_CHUNK["cuda"]) * (
        2 if weight.requires_grad else 1
    )


LogitsPath = Literal["plain", "own", "whole"]
"""How hidden states become logits: by the head alone, by the model's own code around it, or by the whole model only."""


class CausalLoss:
    """Cross-entropy of a causal model, summed over the scored positions of a batch.

    Some models scale hidden states or logits, or cap logits. A probe replaces the head's output by large logits and
    checks whether the model returns them unchanged. If it does not, the model's own code runs on each chunk of hidden
    states. The whole model is called only if a logit depends on more than the hidden state of its token.

    `compile`: whether to compile the decoder.
    """

    def __init__(self, model: Any, compile: bool = False) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._inner = inner
        self._decoder, self._output = decoder_of(inner), inner.get_output_embeddings()
        self._forward = torch.compile(self._decoder) if compile else self._decoder
        self._kind: LogitsPath | None = None
        self._output_class: Any = None  # of the decoder
        self._attributes: list[tuple[nn.Module, str]] = []  # under which the model holds decoder and head

    @property
    def is_chunked(self) -> bool:
        """Whether the logits of a batch are computed in chunks; known after the first batch."""
        return self._kind in ("plain", "own")

    def __call__(self, batch: Batch) -> Tensor:
        """Return the cross-entropy summed over the scored positions of a batch, a float32 scalar."""
        scored = batch.targets != IGNORE_INDEX  # (B, T)
        if self._kind is None:
            self._kind = self._probe_logits_path()
        kwargs = {"input_ids": batch.input_ids, "use_cache": False, **_packing_kwargs(batch)}
        targets = batch.targets[scored]  # (N,)
        if self._kind == "whole":
            logits = self._inner(**kwargs).logits[scored]  # (B, T, V) -> (N, V)
            return cross_entropy(logits.float(), targets, reduction="sum")
        hidden = self._forward(**kwargs).last_hidden_state[scored]  # (B, T, D) -> (N, D)
        return self._entropy_sum(hidden, targets)

    def _entropy_sum(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross-entropy of hidden states (N, D) and targets (N,)."""
        if not is_sharded(self._output.weight):
            return self._chunked_loss(self._output, hidden, targets)
        # All processes gather a sharded head at once, but may have different numbers of chunks. So each process calls
        # the head once per batch, and loops over its chunks inside that call.
        bare = partial(type(self._output).forward, self._output)
        with _patched_attribute(self._output, "forward", partial(self._chunked_loss, bare)):
            total: Tensor = self._output(hidden, targets)
        return total

    def _chunked_loss(self, head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
        weight = self._output.weight  # (V, D)
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
        # With another head or with code around it, autograd computes the gradient, and recomputes the logits for it.
        logits = head if self._kind == "plain" else partial(self._own_logits, head)
        chunks = zip(hidden.split(rows), targets.split(rows), strict=True)  # (C, D), (C,)
        return torch.stack([checkpoint(_entropy, logits, *chunk, use_reentrant=False) for chunk in chunks]).sum()

    def _own_logits(self, head: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        """Return the logits (N, V) that the model's own code computes from given hidden states (N, D)."""
        result = self._output_class(last_hidden_state=hidden[None])  # (1, N, D)
        ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        decoder, output = self._attributes
        decoded, called = _CallProxy(self._decoder, lambda *_, **__: result), _CallProxy(self._output, head)
        with _patched_attribute(*decoder, decoded), _patched_attribute(*output, called):
            logits: Tensor = self._inner(input_ids=ids, use_cache=False).logits[0]  # (1, N, V) -> (N, V)
        return logits

    @torch.no_grad()
    def _probe_logits_path(self) -> LogitsPath:
        """Return how hidden states become logits, found by a pass with large logits."""
        decoder_outputs: list[Any] = []
        head_calls: list[tuple[Tensor, Tensor]] = []

        def replace_logits(module: nn.Module, args: tuple[Tensor, ...], logits: Tensor) -> Tensor:
            large = torch.linspace(-1000, 1000, logits.numel(), device=logits.device)
            head_calls.append((args[0], large.view(logits.shape).to(logits.dtype)))  # (1, T, D), (1, T, V)
            return head_calls[-1][1]

        ids = torch.tensor([PROBE_ROWS[0]], device=next(self._inner.parameters()).device)
        with eval_mode(self._inner):
            hook = self._decoder.register_forward_hook(lambda module, args, output: decoder_outputs.append(output))
            with hook, self._output.register_forward_hook(replace_logits):
                logits = self._inner(input_ids=ids, use_cache=False).logits
            if len(decoder_outputs) == len(head_calls) == 1:
                states, (head_input, large) = decoder_outputs[0].last_hidden_state, head_calls[0]
                if torch.equal(head_input, states) and torch.equal(logits.float(), large.float()):
                    return "plain"
                self._output_class = type(decoder_outputs[0])
                self._attributes = [_parent_and_name(self._inner, module) for module in (self._decoder, self._output)]
                if self._model_code_matches(ids, states[0]):
                    return "own"
        return "whole"

    def _model_code_matches(self, ids: Tensor, hidden: Tensor) -> bool:
        """Return whether each logit depends on the hidden state (N, D) of its own token only."""
        # If so, computing the tokens in reverse order changes no logit.
        expected = self._inner(input_ids=ids, use_cache=False).logits[0].float()
        try:
            logits = self._own_logits(self._output, hidden.flip(0)).flip(0).float()
            return is_close(logits, expected, hidden.dtype)
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
            return False


def _parent_and_name(model: nn.Module, module: nn.Module) -> tuple[nn.Module, str]:
    """Return the parent of a module in a model, and the attribute that holds the module."""
    owner, _, name = next(name for name, other in model.named_modules() if other is module).rpartition(".")
    return model.get_submodule(owner), name


class _CallProxy:
    """A stand-in for a module that replaces its call and passes on all its attributes."""

    def __init__(self, module: nn.Module, called: Callable[..., Any]) -> None:
        self._module, self._called = module, called

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._called(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextmanager
def _patched_attribute(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a module within the block."""
    # Python looks into `vars` first, so this also hides a submodule of that name, which torch keeps elsewhere.
    vars(module)[name] = value
    try:
        yield
    finally:
        del vars(module)[name]


def _entropy(logits: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits(hidden).float(), targets, reduction="sum")


def _packing_kwargs(batch: Batch) -> dict[str, Tensor]:
    """Return the model's arguments for a packed line; empty if each row has a line of its own."""
    lengths = batch.row_lengths
    return {} if lengths is None else {"position_ids": batch.positions, **packed_attention_kwargs(lengths)}


class _ChunkedLinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of the logits hidden (N, D) · weightᵀ (D, V), which are never held all at once.

    The forward pass computes the gradients, too, so that no chunk of logits is computed twice. All chunks share the
    same buffers.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, learning: bool) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        needs_hidden, needs_weight = (learning and needed for needed in ctx.needs_input_grad[:2])
        hidden_grad = torch.empty_like(hidden) if needs_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        product_buffer = weight.new_empty(min(rows, len(hidden)), len(weight))  # (C, V), dtype of the weight
        is_float32 = product_buffer.dtype == torch.float32
        logits_buffer = product_buffer if is_float32 else torch.empty_like(product_buffer, dtype=torch.float32)
        for first in range(0, len(hidden), rows):
            chunk, labels = hidden[first : first + rows], targets[first : first + rows, None]  # (C, D), (C, 1)
            product, logits = product_buffer[: len(chunk)], logits_buffer[: len(chunk)]  # (C, V)
            torch.mm(chunk, weight.T, out=product)
            if not is_float32:
                logits.copy_(product)
            logits.sub_(logits.amax(1, keepdim=True))
            label_logits = logits.gather(1, labels)  # (C, 1)
            sums = logits.exp_().sum(1, keepdim=True)  # (C, 1)
            total += (sums.log() - label_logits).sum()
            if not (needs_hidden or needs_weight):
                continue
            logits.div_(sums).scatter_add_(1, labels, torch.full_like(sums, -1.0))  # now their gradient, (C, V)
            if weight_grad is not None:
                weight_grad.addmm_(logits.T, chunk.float())  # (V, D)
            if hidden_grad is not None:
                rounded = logits if is_float32 else product.copy_(logits)
                hidden_grad[first : first + rows] = rounded @ weight  # (C, D)
        ctx.save_for_backward(hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if grad is None else grad.mul_(grads[0]) for grad in ctx.saved_tensors)
        return (*scaled, None, None, None)
