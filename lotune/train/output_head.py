"""From tokens to logits in two parts, so that the output head is applied to chosen positions only, and in chunks.

B, T: lines of a batch and tokens of a line. N: chosen positions. D: hidden size. V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lotune.data.collate import Batch
from lotune.distributed import is_sharded
from lotune.model.attention import packed_attention_kwargs
from lotune.model.eval_mode import eval_mode
from lotune.model.parts import decoder_of
from lotune.model.probes import PROBE_ROWS, is_close

LogitsPath = Literal["plain", "own", "whole"]
"""How hidden states become logits: by the head alone, by the model's own code around it, or by the whole model only."""
Head = Callable[[Tensor], Tensor]
"""An output head, which turns what it takes (N, D) into logits (N, V)."""


class OutputHead:
    """The output head of a causal model, apart from the decoder that makes its hidden states.

    Some models scale hidden states or logits, or cap logits. A probe replaces the head's output by large logits and
    checks whether the model returns them unchanged. If it does not, the model's own code runs on each chunk of hidden
    states. The whole model is called only if a logit depends on more than the hidden state of its token, and then its
    logits take the place of hidden states.

    `compile`: whether to compile the decoder.
    """

    def __init__(self, model: Any, compile: bool = False) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._inner = inner
        self._decoder, self.module = decoder_of(inner), inner.get_output_embeddings()
        self._forward = torch.compile(self._decoder) if compile else self._decoder
        self.path: LogitsPath | None = None
        """How logits are made; None before the first batch."""
        self._output_class: Any = None  # of the decoder
        self._attributes: list[tuple[nn.Module, str]] = []  # under which the model holds decoder and head

    @property
    def is_chunked(self) -> bool:
        """Whether logits are computed in chunks; known after the first batch."""
        return self.path in ("plain", "own")

    @property
    def is_matrix(self) -> bool:
        """Whether logits are hidden states times the head's weight (V, D), without an adapter; known as the path is."""
        return self.path == "plain" and type(self.module).forward is nn.Linear.forward and self.module.bias is None

    @property
    def state_bytes(self) -> int:
        """Size of the states of one position, in bytes."""
        self._find_path()
        vocabulary, hidden = self.module.weight.shape
        return int((vocabulary if self.path == "whole" else hidden) * self.module.weight.element_size())

    def states(self, batch: Batch, chosen: Tensor, *, compiled: bool = True) -> Tensor:
        """Return the hidden states (N, D) of the positions that `chosen` (B, T) marks; on the whole path logits (N, V).

        `compiled`: whether to use the compiled decoder, if there is one.
        """
        self._find_path()
        kwargs = {"input_ids": batch.input_ids, "use_cache": False, **_packing_kwargs(batch)}
        if self.path == "whole":
            logits: Tensor = self._inner(**kwargs).logits[chosen]  # (B, T, V) -> (N, V)
            return logits
        hidden: Tensor = (self._forward if compiled else self._decoder)(**kwargs).last_hidden_state
        return hidden[chosen]  # (B, T, D) -> (N, D)

    def _find_path(self) -> None:
        if self.path is None:
            self.path = self.probe_logits_path()

    def call(self, compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Return `compute` of a function that applies the head's module, and of tensors.

        All processes gather a sharded head at once, but may have different numbers of chunks. So each process calls the
        head once per batch, and `compute` loops over its chunks inside that call.
        """
        if self.path == "whole" or not is_sharded(self.module.weight):
            return compute(self.module, *tensors)
        bare = partial(type(self.module).forward, self.module)
        with _patched_attribute(self.module, "forward", partial(compute, bare)):
            result: Tensor = self.module(*tensors)
        return result

    def logits_with(self, head: Head) -> Head:
        """Return what makes logits (N, V) of states (N, D), with `head` in place of the head's module."""
        if self.path == "whole":
            return _identity
        return head if self.path == "plain" else partial(self._own_logits, head)

    def _own_logits(self, head: Head, hidden: Tensor) -> Tensor:
        """Return the logits (N, V) that the model's own code computes from given hidden states (N, D)."""
        result = self._output_class(last_hidden_state=hidden[None])  # (1, N, D)
        ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        decoder, output = self._attributes
        decoded, called = _CallProxy(self._decoder, lambda *_, **__: result), _CallProxy(self.module, head)
        with _patched_attribute(*decoder, decoded), _patched_attribute(*output, called):
            logits: Tensor = self._inner(input_ids=ids, use_cache=False).logits[0]  # (1, N, V) -> (N, V)
        return logits

    @torch.no_grad()
    def probe_logits_path(self) -> LogitsPath:
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
            with hook, self.module.register_forward_hook(replace_logits):
                logits = self._inner(input_ids=ids, use_cache=False).logits
            if len(decoder_outputs) == len(head_calls) == 1:
                states, (head_input, large) = decoder_outputs[0].last_hidden_state, head_calls[0]
                if torch.equal(head_input, states) and torch.equal(logits.float(), large.float()):
                    return "plain"
                self._output_class = type(decoder_outputs[0])
                self._attributes = [_parent_and_name(self._inner, module) for module in (self._decoder, self.module)]
                if self._model_code_matches(ids, states[0]):
                    return "own"
        return "whole"

    def _model_code_matches(self, ids: Tensor, hidden: Tensor) -> bool:
        """Return whether each logit depends on the hidden state (N, D) of its own token only."""
        # If so, computing the tokens in reverse order changes no logit.
        expected = self._inner(input_ids=ids, use_cache=False).logits[0].float()
        try:
            logits = self._own_logits(self.module, hidden.flip(0)).flip(0).float()
            return is_close(logits, expected, hidden.dtype)
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError):
            return False


def _identity(logits: Tensor) -> Tensor:
    return logits


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


def _packing_kwargs(batch: Batch) -> dict[str, Tensor]:
    """Return the model's arguments for a packed line; empty if each row has a line of its own."""
    lengths = batch.row_lengths
    return {} if lengths is None else {"position_ids": batch.positions, **packed_attention_kwargs(lengths)}
