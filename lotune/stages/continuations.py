"""What a pre-trained model writes after the first sentence of held-out articles, compared with how they go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.blocks import SentenceEnds
from lotune.data.token_files import TokenFile
from lotune.evaluate.continuations import Continuation, continuation_figures
from lotune.record_files import write_records
from lotune.tasks.metrics import repeated_ngrams, rouge_l
from lotune.tasks.scorers import rouge_tokens
from lotune.train.settings import PretrainSettings

CONTINUATIONS_FILE = "continuations.jsonl"
"""File of a run with the continuations of its model."""
BATCH_TOKENS = 16_384
"""Tokens that the engine holds at once."""
REPEATED_WORDS = 4
"""Tokens of a repetition that counts: rep-4 of Welleck et al. 2019 (arXiv 1908.04319)."""


def measure_continuations(
    model: Any, tokenizer: Any, rows: TokenFile, settings: PretrainSettings, seed: int
) -> list[Continuation]:
    """Return continuations of the first block of held-out articles, one for each article that has a second sentence."""
    from lotune.generate.engine import generate_completions
    from lotune.generate.requests import Request
    from lotune.generate.sampling import Sampling
    from lotune.model.loading import context_length

    found = _beginnings(tokenizer, rows, settings, context_length(model))
    requests = [
        Request(ids[:cut], len(ids) - cut, label=id, sampling=Sampling(settings.sample_temperature, seed=seed + number))
        for number, (id, ids, cut) in enumerate(found)
    ]
    model.eval()
    answers = generate_completions(model, tokenizer, requests, batch_tokens=BATCH_TOKENS) if requests else []
    results = []
    for (id, ids, cut), answer in zip(found, answers, strict=True):
        prompt, reference = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:cut], ids[cut:]))
        score = 100 * rouge_l(rouge_tokens(answer.text), rouge_tokens(reference))
        repeated = repeated_ngrams(answer.token_ids, REPEATED_WORDS)
        results.append(Continuation(id, prompt, reference, answer.text, score, repeated))
    return results


def _beginnings(
    tokenizer: Any, rows: TokenFile, settings: PretrainSettings, context: int
) -> list[tuple[str, tuple[int, ...], int]]:
    """Return the id of each article, its first tokens without end-of-text, and how many of them are the prompt."""
    ends, seen = SentenceEnds(tokenizer, settings.sentence_ends), set[str]()
    found: list[tuple[str, tuple[int, ...], int]] = []
    for index, id in enumerate(rows.ids(range(len(rows)))):
        if len(found) >= settings.continuation_rows:
            break
        if id in seen:
            continue
        seen.add(id)
        ids = tuple(token for token in rows[index].token_ids if token != tokenizer.eos_token_id)[:context]
        cut = next((end for end in ends(ids) if end < len(ids)), None)
        if cut is not None:
            found.append((id, ids[: cut + settings.continuation_tokens], cut))
    return found


def write_continuations(folder: Path, continuations: Sequence[Continuation]) -> dict[str, Any]:
    """Write the continuations into a run's folder, print their figures and return them; empty without any."""
    write_records(folder / CONTINUATIONS_FILE, (asdict(one) for one in continuations))
    figures = continuation_figures(continuations)
    if figures:
        print_status(
            f"continuations of {figures['rows']} held-out articles: ROUGE-L {figures['rouge_l']:.1f}, "
            f"{figures['repeated_4_grams']:.1%} of the 4-grams repeated"
        )
    return figures
