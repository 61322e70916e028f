"""How the next token is chosen and where an answer ends: pure functions.

Shapes: B rows, V vocabulary. Logits are floating point; a token that must not be chosen has the logit -inf.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lotune.errors import SettingsError

TEMPERATURES = (1e-5, 1e5)
"""Beyond them logits in float32 lose what tells them apart, or overflow."""
PENALTIES = (1e-3, 1e3)
SEEDS = (-(2**63), 2**64 - 1)
"""What torch's generators take."""
GREEDY_HINT, NO_PENALTY = "0 takes the best token", "1 changes nothing"


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: the best one where the temperature is 0, else drawn, the same for the same seed."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: SettingsError for a value out of its range."""
        min_temperature, hottest = TEMPERATURES
        weakest, strongest = PENALTIES
        least, most = SEEDS
        heat, penalty = self.temperature, self.repetition_penalty
        for name, value, right, expected, remedy in (
            (
                "temperature",
                heat,
                heat == 0 or min_temperature <= heat <= hottest,
                f"0, or {min_temperature:g} to {hottest:g}",
                GREEDY_HINT,
            ),
            (
                "top_k",
                self.top_k,
                self.top_k is None or self.top_k >= 1,
                "1 or more",
                "leave it out to keep all tokens",
            ),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1", "1 keeps all tokens"),
            (
                "repetition_penalty",
                penalty,
                weakest <= penalty <= strongest,
                f"{weakest:g} to {strongest:g}",
                NO_PENALTY,
            ),
            ("seed", self.seed, least <= self.seed <= most, "a whole number of 64 bits", "choose a smaller one"),
        ):
            if not right:
                raise SettingsError(name, f"is {value}", expected, remedy)

    @property
    def is_greedy(self) -> bool:
        """Whether the best token is taken as it is."""
        return self.temperature == 0 and self.repetition_penalty == 1

    def with_row_seed(self, id: str) -> Sampling:
        """The same with a seed of the row's own, which follows from this one and the row's id."""
        if self.temperature == 0:
            return self
        return replace(self, seed=random.Random(f"{self.seed} of {id}").getrandbits(63))

    def distribution(self, logits: torch.Tensor, seen: Sequence[int]) -> torch.Tensor:
        """Logits (V,) as they are drawn from, after the tokens `seen` in prompt and answer: penalty, then the rest."""
        logits = apply_repetition_penalty(logits.float(), seen, self.repetition_penalty)
        if self.temperature == 0:
            return logits
        logits = apply_temperature(logits, self.temperature)
        if self.top_k is not None:
            logits = top_k_filter(logits, self.top_k)
        return top_p_filter(logits, self.top_p) if self.top_p < 1 else logits

    def choose(self, logits: torch.Tensor, seen: Sequence[int], generator: torch.Generator) -> int:
        """A token from logits (V,); `generator` is on the processor."""
        found = self.distribution(logits, seen)
        if self.temperature == 0:
            return int(found.argmax())
        return int(torch.multinomial(found.softmax(-1).cpu(), 1, generator=generator))


def apply_repetition_penalty(logits: torch.Tensor, seen: Sequence[int], penalty: float) -> torch.Tensor:
    """Logits (V,), those of seen tokens divided by the penalty where they are above 0, else multiplied by it.

    Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation", 2019.

    >>> apply_repetition_penalty(torch.tensor([2.0, -2.0, 4.0]), [0, 1, 0], 2.0).tolist()
    [1.0, -4.0, 4.0]
    """
    if penalty == 1 or not seen:
        return logits
    places = torch.tensor(sorted(set(seen)), device=logits.device)
    chosen = logits[places]
    return logits.index_put((places,), torch.where(chosen > 0, chosen / penalty, chosen * penalty))


GREEDY = Sampling()


def sampling_from_options(
    temperature: float, top_k: int | None, top_p: float, repetition_penalty: float, seed: int
) -> Sampling:
    """What a command line asks for. Raises: SettingsError for a value out of range, or that would change nothing."""
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, seed)
    remedy = "give --temperature, or leave out"
    for name, idle in (("--top-k", top_k is None), ("--top-p", top_p == 1)):
        if temperature == 0 and not idle:
            raise SettingsError(
                name, "draws from nothing at temperature 0", "a temperature above 0", f"{remedy} {name}"
            )
    return sampling


def apply_temperature(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits (B, V) divided by the temperature: below 1 the likely tokens gain, above 1 the unlikely ones.

    Raises: SettingsError for a temperature that is not above 0 (greedy choice is `logits.argmax(-1)`).

    >>> apply_temperature(torch.tensor([[1.0, 2.0]]), 0.5).tolist()
    [[2.0, 4.0]]
    """
    if not temperature > 0:
        raise SettingsError("temperature", f"is {temperature}", "a number above 0", "choose greedily instead of 0")
    return logits / temperature


def top_k_filter(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Logits (B, V) with all but the k best of each row at -inf; those equal to the k-th stay.

    Raises: SettingsError for k below 1.

    >>> top_k_filter(torch.tensor([[1.0, 3.0, 2.0]]), 2).tolist()
    [[-inf, 3.0, 2.0]]
    """
    if k < 1:
        raise SettingsError("top_k", f"is {k}", "1 or more")
    worst = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < worst, float("-inf"))


def top_p_filter(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Logits (B, V) with all at -inf but the fewest best ones whose probabilities reach p; the best one always stays.

    Nucleus sampling, Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020.
    Raises: SettingsError for p outside (0, 1].

    >>> kept = top_p_filter(torch.tensor([[0.1, 0.6, 0.3]]).log(), 0.7).exp()
    >>> kept.isclose(torch.tensor([[0, 0.6, 0.3]])).all().item()
    True
    """
    if not 0 < p <= 1:
        raise SettingsError("top_p", f"is {p}", "above 0 and at most 1")
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1, dtype=torch.float32)
    reached_before = probabilities.cumsum(-1) - probabilities >= p
    reached_before[..., 0] = False
    return logits.masked_fill(reached_before.scatter(-1, order, reached_before), float("-inf"))


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    r"""The text before the earliest stop text, and whether there was one.

    >>> cut_at_stop("4\n\n### Instruction", ["###", "\n\n"])
    ('4', True)
    >>> cut_at_stop("4", ["###"])
    ('4', False)
    """
    places = [place for place in map(text.find, filter(None, stop)) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def stop_lookback_tokens(stop: Sequence[str]) -> int:
    """How many of the last tokens can hold a stop text that the very last one ends.

    A token adds a byte at least, special tokens apart; a few more keep the stop text away from the cut, where
    tokenisers drop blanks.

    >>> stop_lookback_tokens(["###", "问"])
    11
    """
    return max((len(text.encode()) for text in stop), default=0) + 8
