"""Which tensors of a merged model differ from its base, and the rank of each difference.

Both checkpoints are read tensor by tensor, in blocks of rows, so that memory does not depend on their size.

M, N: rows and columns of a weight. K: columns of a sketch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.errors import ModelError
from lotune.model.weight_files import weight_files

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_NUMBERS = 1 << 23
"""Numbers of a block of rows: 32 MB in float32."""
EXACT_SIZE = 512
"""Size of the smaller side of a matrix up to which all singular values are computed; larger ones are sketched."""
SKETCH, SPARE = 192, 16
"""Columns of a sketch, K, and how many of them have to be left over for a rank to be told."""
MOST_TOLD = SKETCH - SPARE
"""Largest rank of a difference that can be told of a large matrix."""
VISIBLE = 2.0
"""A singular value counts if it is larger than this multiple of the largest one that rounding explains."""
GAP = 1.0, 10.0
"""A rank can be told if no singular value is between these multiples: a smaller one could hide in the rounding."""
PREFIXES = ("transformer.", "model.")
"""What the names of the tensors begin with, in models whose head has a name beside it."""
COMPUTED = 4.0
"""Roundings that a change itself may hold, as it is the sum of products that are scaled."""
LARGEST_EXPONENT = 1100
"""Beyond the exponents of all numbers, up to float64."""
MANTISSA_BITS = {"bfloat16": 7, "float16": 10, "float32": 23, "float64": 52}
"""Bits of the fraction of a number, by dtype."""


@dataclass(frozen=True)
class TensorDifference:
    """A tensor of a merged model that differs from the base's.

    The rank of the difference is from `rank` to `at_most`; they are equal if it can be told beside the rounding. Both
    are None for a tensor that is no matrix, or whose shape has changed.
    """

    name: str
    shape: tuple[int, ...]
    precision: str
    """The dtype whose numbers all of its values are."""
    largest: float | None
    """The largest change of a number; None if the shape has changed."""
    rank: int | None = None
    at_most: int | None = None

    @property
    def is_told(self) -> bool:
        """Whether the rank of the difference can be told."""
        return self.rank is not None and self.rank == self.at_most


@dataclass(frozen=True)
class Comparison:
    """The number of tensors that both checkpoints have, those that differ, and those that only one has."""

    tensors: int
    differences: tuple[TensorDifference, ...]
    only_merged: tuple[str, ...]
    only_base: tuple[str, ...]


def compare_checkpoints(
    merged: Path, base: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Comparison:
    """Return the tensors in which a merged model differs from its base, by their names.

    `progress` is told how many tensors of how many have been compared.

    Raises: ModelError if one of them holds no safetensors, or if they have no tensor in common.
    """
    with ExitStack() as stack:
        own, other = _aligned(*(_opened(folder, stack) for folder in (merged, base)))
        common = [name for name in own if name in other]
        if not common:
            found = f"has no tensor of {base}, such as {next(iter(other), 'none')}"
            raise ModelError(str(merged), found, "a model made of this base")
        differences: list[TensorDifference] = []
        for done, name in enumerate(common, 1):
            differences += _difference(name, own[name], other[name])
            progress(done, len(common))
        only = [tuple(sorted(one.keys() - two.keys())) for one, two in ((own, other), (other, own))]
        return Comparison(len(common), tuple(differences), *only)


@dataclass(frozen=True)
class _Stored:
    """A tensor in an open file."""

    file: Any
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, from the header."""
        return tuple(self.file.get_slice(self.name).get_shape())

    def rows(self, first: int, count: int) -> Tensor:
        """Return some rows; a tensor without dimensions is returned whole."""
        rows: Tensor
        rows = self.file.get_slice(self.name)[first : first + count] if self.shape else self.file.get_tensor(self.name)
        return rows


def _opened(folder: Path, stack: ExitStack) -> dict[str, _Stored]:
    """Return each tensor of a model by name. Raises: ModelError if a file is damaged."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, _Stored] = {}
    for path in weight_files(folder, str(folder)):
        try:
            file = stack.enter_context(safe_open(str(path), framework="pt"))
        except (SafetensorError, OSError) as error:
            raise ModelError(str(path), f"is damaged: {error}", "safetensors") from None
        tensors |= {name: _Stored(file, name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    return tensors


def _aligned(own: dict[str, _Stored], other: dict[str, _Stored]) -> tuple[dict[str, _Stored], dict[str, _Stored]]:
    """Return the tensors of two models with the same prefix; some published models lack it, such as GPT-2."""
    for prefix in PREFIXES:
        has = [any(name.startswith(prefix) for name in one) for one in (own, other)]
        if has == [True, False]:
            return own, {prefix + name: tensor for name, tensor in other.items()}
        if has == [False, True]:
            return {prefix + name: tensor for name, tensor in own.items()}, other
    return own, other


def _difference(name: str, own: _Stored, other: _Stored) -> Iterator[TensorDifference]:
    """Yield the difference of a tensor, if there is one. Raises: ModelError if a number is not finite."""
    shape = own.shape
    if shape != other.shape:
        yield TensorDifference(name, shape, "", None)
        return
    pair = _Pair(name, own, other, shape)
    if pair.is_equal():
        return
    largest, noise, precision = pair.survey()
    rank, at_most = _rank(pair, noise, precision) if len(shape) == 2 else (None, None)
    yield TensorDifference(name, shape, precision, largest, rank, at_most)


@dataclass(frozen=True)
class _Pair:
    """A tensor of both models, read in blocks of rows."""

    name: str
    own: _Stored
    other: _Stored
    shape: tuple[int, ...]

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows of the merged tensor and of the base's, rounded to the coarser of their dtypes."""
        import torch

        rows = max(1, BLOCK_NUMBERS // max(1, prod(self.shape[1:])))
        for first in range(0, self.shape[0] if self.shape else 1, rows):
            pair = [tensor.rows(first, rows) for tensor in (self.own, self.other)]
            coarser = min((tensor.dtype for tensor in pair), key=_bits)
            wide = torch.float64 if coarser == torch.float64 else torch.float32
            yield pair[0].to(coarser).to(wide), pair[1].to(coarser).to(wide)

    def differences(self, dtype: Any) -> Iterator[Tensor]:
        """Yield rows of merged - base: (rows, N)."""
        for own, other in self.blocks():
            yield (own - other).to(dtype)

    def survey(self) -> tuple[float, float, str]:
        """Return the largest difference, the largest singular value that rounding explains, and the precision.

        Raises: ModelError if a number is not finite.
        """
        import torch

        largest, stored = 0.0, "float32"
        holds = {name: getattr(torch, name) for name in ("bfloat16", "float16")}
        weights, changes = (torch.zeros(2 * LARGEST_EXPONENT + 1, dtype=torch.int64) for _ in range(2))
        for own, other in self.blocks():
            if not bool(torch.isfinite(own).all() and torch.isfinite(other).all()):
                raise ModelError(self.name, "holds numbers that are not finite", "finite weights")
            change = own - other
            largest = max(largest, float(change.abs().max()) if own.numel() else 0.0)
            weights += _exponents(own)
            changes += _exponents(change)
            holds = {name: dtype for name, dtype in holds.items() if bool((own.to(dtype).to(own.dtype) == own).all())}
            stored = str(own.dtype).removeprefix("torch.")
        precision = next(iter(holds), stored)
        squares = _squared_errors(weights, precision) + COMPUTED**2 * _squared_errors(changes, precision)
        rows, columns = (self.shape[0], self.shape[1]) if len(self.shape) == 2 else (1, 1)
        # The norm of a matrix of independent errors: their size times the sum of the roots of its sides (Gaussian
        # matrices; Vershynin 2010, arXiv 1011.3027, theorem 5.32).
        return largest, sqrt(squares / max(1, rows * columns)) * (sqrt(rows) + sqrt(columns)), precision

    def is_equal(self) -> bool:
        """Return whether both tensors have the same numbers."""
        import torch

        return all(torch.equal(own, other) for own, other in self.blocks())


def _exponents(tensor: Tensor) -> Tensor:
    """Return how many numbers of a tensor have each exponent, from -LARGEST_EXPONENT on; zeros are left out."""
    import torch

    found = torch.frexp(tensor[tensor != 0]).exponent.to(torch.int64) - 1
    return torch.bincount(found + LARGEST_EXPONENT, minlength=2 * LARGEST_EXPONENT + 1)


def _squared_errors(exponents: Tensor, precision: str) -> float:
    """Return the sum of the squared errors of rounding, half of the worth of the last bit of each number."""
    import torch

    occurring = exponents.nonzero().flatten()
    errors = torch.exp2(occurring.double() - LARGEST_EXPONENT - MANTISSA_BITS[precision] - 1)
    return float((exponents[occurring] * errors.square()).sum())


def _bits(dtype: Any) -> int:
    return MANTISSA_BITS.get(str(dtype).removeprefix("torch."), 0)


def _rank(pair: _Pair, noise: float, precision: str) -> tuple[int, int]:
    """Return the smallest and the largest rank that a difference may have, beside rounding of this norm."""
    import torch

    # In float32, the computation itself errs by as much as a checkpoint in float32 does.
    coarse = precision in ("bfloat16", "float16")
    values, smaller = _singular_values(pair, torch.float32 if coarse else torch.float64), min(pair.shape)
    beside, least, clear = (sum(value > factor * noise for value in values) for factor in (GAP[0], VISIBLE, GAP[1]))
    is_full = len(values) < smaller and beside > len(values) - SPARE  # the sketch has no room for more
    is_told = 0 < least == beside == clear and not is_full
    return least, least if is_told else smaller


def _singular_values(pair: _Pair, dtype: Any) -> list[float]:
    """Return the singular values of a difference (M, N): all of them, or the K largest by a randomised sketch.

    Source: Halko, Martinsson and Tropp, "Finding structure with randomness", 2011, arXiv 0909.4061, section 4.5.
    """
    import torch

    rows, columns = pair.shape
    if columns <= EXACT_SIZE:
        triangle = torch.zeros(0, columns, dtype=dtype)
        for block in pair.differences(dtype):
            triangle = torch.linalg.qr(torch.cat([triangle, block]), mode="r").R  # (at most N, N)
        return [float(value) for value in torch.linalg.svdvals(triangle)]
    if rows <= EXACT_SIZE:
        return [float(value) for value in torch.linalg.svdvals(torch.cat(list(pair.differences(dtype))))]
    sketch = torch.randn(columns, SKETCH, dtype=dtype, generator=torch.Generator().manual_seed(0))  # (N, K)
    for _ in range(2):
        products = [block @ sketch for block in pair.differences(dtype)]
        sketch = _project(pair, torch.linalg.qr(torch.cat(products)).Q).T  # (N, K)
    return [float(value) for value in torch.linalg.svdvals(sketch)]


def _project(pair: _Pair, basis: Tensor) -> Tensor:
    """Return the product of a basis (M, K), transposed, and a difference (M, N): (K, N)."""
    import torch

    first, result = 0, torch.zeros(basis.shape[1], pair.shape[1], dtype=basis.dtype)
    for block in pair.differences(basis.dtype):
        result += basis[first : first + len(block)].T @ block
        first += len(block)
    return result


def merged_ranks(comparison: Comparison, linear: Mapping[str, object]) -> tuple[dict[str, int], list[str]]:
    """Return the rank of the difference of each linear layer that changed, and the other tensors that changed."""
    ranks, others = {}, []
    for difference in comparison.differences:
        module = difference.name.removesuffix(".weight")
        if module in linear and difference.rank is not None:
            ranks[module] = difference.rank
        else:
            others.append(difference.name)
    return ranks, others
