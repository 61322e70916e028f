"""The names in `target_modules`: which linear layers they select, under Hugging Face's and under MindFormers' names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from lotune.errors import ModelError

MINDFORMERS_NAMES: Mapping[str, str] = {
    "q_proj": "wq",
    "k_proj": "wk",
    "v_proj": "wv",
    "o_proj": "wo",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
    "self_attn": "attention",
    "mlp": "feed_forward",
}
"""MindFormers' name of each part of a Llama-like model, by Hugging Face's name."""
ALL_LINEAR = "all-linear"
PATTERN_SECONDS = 1.0
"""Time that a regular expression may take for a name."""
SHORT_FORMS: Mapping[str, str] = {name.removesuffix("_proj"): name for name in MINDFORMERS_NAMES if "_proj" in name}
"""The layer that a short form on the command line stands for: q, k, v, o, gate, down, up."""


def matching_names(linear: Collection[str], target_modules: str | Sequence[str]) -> list[str]:
    """Return the full names among those of the linear layers that match `target_modules`, in their order.

    A list holds module names (q_proj) or ends of full names (self_attn.q_proj). A text is a regular expression for the
    full name. MindFormers' names (wq, attention.wo) match, too.

    Raises: ModelError for a name or pattern that matches nothing, with the names that exist.

    >>> matching_names(["layers.0.self_attn.q_proj", "layers.0.mlp.up_proj"], ".*wq|.*wv")
    ['layers.0.self_attn.q_proj']
    """
    targets = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    match = matches_pattern if isinstance(target_modules, str) else _matches_name
    hits = {target: [name for name in linear if match(target, name)] for target in targets}
    unmatched = [target for target, names in hits.items() if not names]
    if unmatched or not targets:
        suffixes = dict.fromkeys(name.rpartition(".")[2] for name in linear)
        found = f"{', '.join(map(repr, unmatched)) or 'an empty list'} matches no linear module"
        raise ModelError("adapter.target_modules", found, f"of {', '.join(suffixes)}", f"or {ALL_LINEAR}")
    chosen = {name for names in hits.values() for name in names}
    return [name for name in linear if name in chosen]


def mindformers_name(name: str) -> str:
    """Return a module's full name with MindFormers' names of its parts.

    >>> mindformers_name("model.layers.0.self_attn.q_proj")
    'model.layers.0.attention.wq'
    """
    return ".".join(MINDFORMERS_NAMES.get(part, part) for part in name.split("."))


def read_targets(text: str) -> str | list[str]:
    """Return the `target_modules` that a text on the command line stands for: a pattern, or a list of names.

    >>> read_targets("q,v,o"), read_targets("wq, wo"), read_targets(".*wq|.*wv"), read_targets("all-linear")
    (['q_proj', 'v_proj', 'o_proj'], ['wq', 'wo'], '.*wq|.*wv', 'all-linear')
    """
    if text.strip() == ALL_LINEAR or re.search(r"[*|()\[\]\\+^$?]", text):
        return text.strip()
    return [SHORT_FORMS.get(name, name) for name in re.split(r"[,\s]+", text.strip()) if name]


def matches_pattern(pattern: str, name: str) -> bool:
    """Return whether a regular expression matches the whole name of a module, under either program's names.

    Raises: ModelError if it is none, or if a name takes it longer than a second.

    >>> matches_pattern(".*wq", "model.layers.0.self_attn.q_proj")
    True
    """
    import regex

    # Patterns come from files of others, too. `re` has no time limit, and some patterns take centuries.
    try:
        return any(regex.fullmatch(pattern, alias, timeout=PATTERN_SECONDS) for alias in (name, mindformers_name(name)))
    except regex.error as error:
        found = f"{pattern!r} is not a pattern: {error}"
    except TimeoutError:
        found = f"{pattern!r} takes more than {PATTERN_SECONDS:g} s for one name"
    raise ModelError("adapter.target_modules", found, "a regular expression, as in .*q_proj|.*v_proj") from None


def _matches_name(target: str, name: str) -> bool:
    return any(alias == target or alias.endswith(f".{target}") for alias in (name, mindformers_name(name)))
