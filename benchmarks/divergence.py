"""Time a tuning step whose rows have the divergence from the base, beside the same step with their cross-entropy.

    python benchmarks/divergence.py [--rounds 5] [--json FILE]
    python benchmarks/divergence.py --tiny      # a try-out in seconds; its figures mean nothing

All rows of a step are replay rows, which is what the ratio is for: of a step with task rows beside them, the other rows
cost what they cost. The objectives take turns on the same batches, model and adapter (LoRA on all linear layers), and
each figure is the ratio of the median seconds of processor time, which other work beside it hardly changes.

Figures: `nano`, rows of 120 tokens of which 20 are scored, and `nano-text`, rows of 120 of which all are, on the
embedded base; `40m` and `40m-text`, the same on a Llama shape of 40 M parameters with random weights. `again` is a step
of rows that the base has read in an earlier step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_workload import SEED, SHAPES

from lotune.data.collate import Batch, Collator
from lotune.data.tokenized import EncodedRow
from lotune.model.adapters import add_adapter
from lotune.model.loading import load_model
from lotune.model.methods.lora import LoraSettings
from lotune.model.new_models import new_llama
from lotune.model.packing import enable_packing
from lotune.model.settings import BaseSettings
from lotune.train.divergence import DivergenceLoss
from lotune.train.loss import CausalLoss

REACH = 1.6
"""The ratio that is not to be exceeded."""
STEP_ROWS, ROW_TOKENS, SCORED = 16, 120, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try everything out")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    figures = []
    for shape in ("nano",) if options.tiny else ("nano", "40m"):
        model = adapted(shape)
        for name, prompt in ((shape, ROW_TOKENS - SCORED), (f"{shape}-text", 1)):
            seconds = step_seconds(model, batches(model, 2 if options.tiny else STEP_ROWS, prompt), options.rounds)
            *both, peer = (statistics.median(taken) for taken in seconds)
            for label, ours in zip((name, f"{name} again"), both, strict=True):
                print(f"{label:15} {ours:8.3f} s with, {peer:8.3f} s without: {ours / peer:.2f} (at most {REACH})")
                figures.append(
                    {"name": label, "ours": ours, "peer": peer, "peer_name": "cross-entropy", "ratio": ours / peer,
                     "reach": REACH, "unit": "s"}
                )  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"figures": figures}, indent=2))


def adapted(shape: str) -> Any:
    """A base with a fresh adapter, ready for packed rows."""
    torch.manual_seed(SEED)
    base = new_llama(SHAPES["llama-40m"]) if shape == "40m" else load_model(BaseSettings(dtype="float32"), "cpu").model
    model: Any = add_adapter(base, LoraSettings(target_modules="all-linear"), SEED)
    enable_packing(model, ROW_TOKENS)
    return model.train()


def batches(model: Any, rows: int, prompt: int) -> list[Batch]:
    """The micro-batches of one step of replay rows."""
    drawn = np.random.default_rng(SEED).integers(2, model.config.vocab_size, (rows, ROW_TOKENS)).tolist()
    encoded = (EncodedRow(str(number), tuple(row), prompt, is_replay=True) for number, row in enumerate(drawn))
    return Collator(32, 16_384, 0, packed=True).batches(encoded)


def step_seconds(model: Any, step: list[Batch], rounds: int) -> list[list[float]]:
    """Processor seconds of each round, but for the first: with the divergence, with it on known rows, and without."""
    positions = sum(batch.num_scored_tokens for batch in step)
    objectives = DivergenceLoss(model, 1.0), DivergenceLoss(model, 1.0, recurring=positions), CausalLoss(model)
    taken: list[list[float]] = [[] for _ in objectives]
    for _ in range(rounds + 1):
        for objective, seconds in zip(objectives, taken, strict=True):
            started = time.process_time()
            for batch in step:
                objective(batch).backward()
            seconds.append(time.process_time() - started)
            model.zero_grad()
    return [seconds[1:] for seconds in taken]


if __name__ == "__main__":
    main()
