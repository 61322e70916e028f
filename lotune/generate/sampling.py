"""The choice of the next token and the end of an answer, as pure functions.

Shapes: B rows, V vocabulary, U distinct tokens. Logits are floating point; a token that must not be chosen has -inf.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lotune.errors import SettingsError

TEMPERATURES = (1e-5, 1e5)
"""Range of temperatures; beyond it, float32 logits become equal or overflow."""
PENALTIES = (1e-3, 1e3)
SEEDS = (-(2**63), 2**64 - 1)
"""The range of seeds that torch's generators accept."""
GREEDY_HINT, NO_PENALTY = "0 takes the best token", "1 changes nothing"


@dataclass(frozen=True)
class Sampling:
    """The settings of the choice of a token.

    A temperature of 0 takes the best token; any other temperature samples, reproducibly for a seed.

    Raises: SettingsError for a value outside its range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        min_temperature, max_temperature = TEMPERATURES
        min_penalty, max_penalty = PENALTIES
        min_seed, max_seed = SEEDS
        temperature, penalty = self.temperature, self.repetition_penalty
        for name, value, valid, expected, remedy in (
            (
                "temperature",
                temperature,
                temperature == 0 or min_temperature <= temperature <= max_temperature,
                f"0, or {min_temperature:g} to {max_temperature:g}",
                GREEDY_HINT,
            ),
            (
                "top_k",
                self.top_k,
                self.top_k is None or self.top_k >= 1,
                "1 or more",
                "omit it to keep all tokens",
            ),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1", "1 keeps all tokens"),
            (
                "repetition_penalty",
                penalty,
                min_penalty <= penalty <= max_penalty,
                f"{min_penalty:g} to {max_penalty:g}",
                NO_PENALTY,
            ),
            ("seed", self.seed, min_seed <= self.seed <= max_seed, "a whole number of 64 bits", "choose a smaller one"),
        ):
            if not valid:
                raise SettingsError(name, f"is {value}", expected, remedy)

    @property
    def is_greedy(self) -> bool:
        """Whether the token is the argmax of the logits as they are."""
        return self.temperature == 0 and self.repetition_penalty == 1

    def with_row_seed(self, id: str) -> Sampling:
        """Return these settings with a seed derived from this seed and the row's id."""
        if self.temperature == 0:
            return self
        return replace(self, seed=random.Random(f"{self.seed} of {id}").getrandbits(63))

    def distribution(self, logits: torch.Tensor, seen: Sequence[int]) -> torch.Tensor:
        """Return the logits (V,) to draw from: penalty, temperature, top-k and top-p, in this order.

        `seen` are the token ids of the prompt and of the answer so far.
        """
        logits = apply_repetition_penalty(logits.float(), seen, self.repetition_penalty)
        if self.temperature == 0:
            return logits
        logits = apply_temperature(logits, self.temperature)
        if self.top_k is not None:
            logits = top_k_filter(logits, self.top_k)
        return top_p_filter(logits, self.top_p) if self.top_p < 1 else logits

    def choose(self, logits: torch.Tensor, seen: Sequence[int], generator: torch.Generator) -> int:
        """Return a token id chosen from logits (V,); `generator` is on the CPU."""
        logits = self.distribution(logits, seen)
        if self.temperature == 0:
            return int(logits.argmax())
        # drawn on the CPU, so that a seed gives the same tokens on every device
        return int(torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator))


def apply_repetition_penalty(logits: torch.Tensor, seen: Sequence[int], penalty: float) -> torch.Tensor:
    """Return logits (V,) with those of seen tokens divided by the penalty if above 0, else multiplied by it.

    Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation", 2019.

    >>> apply_repetition_penalty(torch.tensor([2.0, -2.0, 4.0]), [0, 1, 0], 2.0).tolist()
    [1.0, -4.0, 4.0]
    """
    if penalty == 1 or not seen:
        return logits
    ids = torch.tensor(sorted(set(seen)), device=logits.device)  # (U,): each is penalised once
    scores = logits[ids]  # (V,) -> (U,)
    # a negative score is multiplied, as a division would raise it
    return logits.index_put((ids,), torch.where(scores > 0, scores / penalty, scores * penalty))


GREEDY = Sampling()


def sampling_from_options(
    temperature: float, top_k: int | None, top_p: float, repetition_penalty: float, seed: int
) -> Sampling:
    """Return the settings of a command line.

    Raises: SettingsError for a value that is out of range, or that has no effect at temperature 0.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, seed)
    remedy = "give --temperature, or leave out"
    for name, is_default in (("--top-k", top_k is None), ("--top-p", top_p == 1)):
        if temperature == 0 and not is_default:
            raise SettingsError(
                name, "draws from nothing at temperature 0", "a temperature above 0", f"{remedy} {name}"
            )
    return sampling


def apply_temperature(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return logits (B, V) divided by the temperature: below 1 the likely tokens gain, above 1 the unlikely ones.

    Raises: SettingsError for a temperature that is not above 0 (greedy choice is `logits.argmax(-1)`).

    >>> apply_temperature(torch.tensor([[1.0, 2.0]]), 0.5).tolist()
    [[2.0, 4.0]]
    """
    if not temperature > 0:
        raise SettingsError("temperature", f"is {temperature}", "a number above 0", "choose greedily instead of 0")
    return logits / temperature


def top_k_filter(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Return logits (B, V) with all but the k best of each row at -inf; logits equal to the k-th stay.

    Raises: SettingsError for k below 1.

    >>> top_k_filter(torch.tensor([[1.0, 3.0, 2.0]]), 2).tolist()
    [[-inf, 3.0, 2.0]]
    """
    if k < 1:
        raise SettingsError("top_k", f"is {k}", "1 or more")
    kth_best = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]  # (B, V) -> (B, 1)
    return logits.masked_fill(logits < kth_best, float("-inf"))


def top_p_filter(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Return logits (B, V) with all at -inf but the fewest best ones whose probabilities reach p; the best one stays.

    Nucleus sampling, Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020.
    Raises: SettingsError for p outside (0, 1].

    >>> filtered = top_p_filter(torch.tensor([[0.1, 0.6, 0.3]]).log(), 0.7).exp()
    >>> filtered.isclose(torch.tensor([[0, 0.6, 0.3]])).all().item()
    True
    """
    if not 0 < p <= 1:
        raise SettingsError("top_p", f"is {p}", "above 0 and at most 1")
    sorted_logits, order = logits.sort(dim=-1, descending=True)
    probabilities = sorted_logits.softmax(-1, dtype=torch.float32)
    removed = probabilities.cumsum(-1) - probabilities >= p  # (B, V), in sorted order
    removed[..., 0] = False  # the best one stays even if rounding says otherwise
    return logits.masked_fill(removed.scatter(-1, order, removed), float("-inf"))  # back in vocabulary order


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    r"""Return the text before the earliest stop text, and whether there was one.

    >>> cut_at_stop("4\n\n### Instruction", ["###", "\n\n"])
    ('4', True)
    >>> cut_at_stop("4", ["###"])
    ('4', False)
    """
    starts = [start for start in map(text.find, filter(None, stop)) if start >= 0]
    return (text[: min(starts)], True) if starts else (text, False)


def stop_lookback_tokens(stop: Sequence[str]) -> int:
    """Return the number of last tokens that can hold a stop text completed by the very last one.

    A token adds at least one byte, except for special tokens. A few more tokens keep the stop text away from the start
    of the decoded text, where tokenisers drop blanks.

    >>> stop_lookback_tokens(["###", "问"])
    11
    """
    return max((len(text.encode()) for text in stop), default=0) + 8
