"""Answer and tune alone and beside a busy process, with lotune's thread settings and with those of PyTorch.

    python benchmarks/beside.py [--rounds 3] [--json FILE]
    python benchmarks/beside.py --tiny --rounds 1     # a try-out in seconds; its figures mean nothing

The busy process is one thread that never waits. PyTorch runs one thread for each core, and a thread without work spins
before it sleeps: beside a busy process it burns the time that another thread of its own needs. Each measurement is a
process of its own that loads nano, computes once without being timed, and is timed while it answers arithmetic
questions (`answer`) or tunes a LoRA adapter (`tune`). Rounds alternate the settings and the work. Figures are medians
of seconds: `answer beside` and `tune beside`, where lotune's settings are to win, and `answer alone` and `tune alone`,
where they may cost 3 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

WORK = ("answer", "tune")
PLACES = ("alone", "beside")
SETTINGS = ("lotune", "pytorch")
REACH = {"alone": 0.97, "beside": 1.0}
"""Least ratio of PyTorch's seconds to ours."""
SPIN = "while True: pass"


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """A process that keeps one core busy, where one is wanted."""
    process = subprocess.Popen([sys.executable, "-c", SPIN]) if wanted else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def measure(work: str, place: str, setting: str, tiny: bool) -> float:
    """Seconds of one piece of work in a process of its own."""
    words = [sys.executable, __file__, "--work", work, "--setting", setting, *(["--tiny"] if tiny else [])]
    with busy(place == "beside"):
        done = subprocess.run(words, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def answer(tiny: bool) -> float:
    """Seconds that nano takes to answer arithmetic questions."""
    from lotune.generate.engine import Engine
    from lotune.generate.requests import Request
    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings
    from lotune.tasks.arithmetic.task import ArithmeticSettings
    from lotune.tasks.registry import build_task
    from lotune.tasks.user_rows import generating

    base, task = load_model(BaseSettings(dtype="float32"), "cpu"), build_task(ArithmeticSettings())
    numbered = (
        (str(number), row) for number, row in enumerate(generating(task).generate_training_rows(4 if tiny else 640, 0))
    )
    prompts = [example.prompt for example in task.examples(numbered, training=False)]
    requests = [Request(tuple(base.tokenizer(prompt)["input_ids"]), 64, 64) for prompt in prompts]
    engine = Engine(base.model, base.tokenizer)
    list(engine.stream(requests[:2], batch_tokens=65_536))
    started = time.perf_counter()
    list(engine.stream(requests, batch_tokens=65_536))
    return time.perf_counter() - started


def tune(tiny: bool) -> float:
    """Seconds of some steps of LoRA on nano, 4,096 tokens each."""
    import numpy as np
    import torch

    from lotune.data.collate import pack_rows
    from lotune.data.tokenized import EncodedRow
    from lotune.model.adapters import add_adapter
    from lotune.model.attention import register_packed_attention
    from lotune.model.loading import load_model
    from lotune.model.methods.lora import LoraSettings
    from lotune.model.settings import BaseSettings
    from lotune.train.loop import train
    from lotune.train.optimizers import adamw

    base, steps = load_model(BaseSettings(dtype="float32"), "cpu"), 3 if tiny else 13
    model: Any = add_adapter(base.model, LoraSettings(), 0)
    register_packed_attention(model.get_base_model())
    drawn = np.random.default_rng(0).integers(2, 400, (32, 128)).tolist()
    batch = pack_rows([EncodedRow(str(number), tuple(row), 64) for number, row in enumerate(drawn)])
    torch.manual_seed(0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = adamw(trained, 1e-3, (0.9, 0.95), 1e-8, 0.0)
    seconds = [step.seconds for step in train(model, ([batch] for _ in range(steps)), optimizers, [1.0] * steps)]
    return sum(seconds[1:])


def work(options: argparse.Namespace) -> None:
    """Do one piece of work and print its seconds."""
    if options.setting == "lotune":
        from lotune.threads import share_cores

        share_cores()
    print({"answer": answer, "tune": tune}[options.work](options.tiny))


def figures(seconds: dict[tuple[str, str, str], list[float]]) -> list[dict[str, Any]]:
    """Medians of ours and PyTorch's, and how many times as long PyTorch's settings take."""
    found = []
    for piece, place in product(WORK, PLACES):
        ours, peer = (statistics.median(seconds[piece, place, setting]) for setting in SETTINGS)
        found.append(
            {
                "name": f"{piece} {place}",
                "ours": ours,
                "peer": peer,
                "peer_name": "PyTorch's settings",
                "ratio": peer / ours,
                "reach": REACH[place],
                "unit": "s",
            }
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="little work, to try everything out")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--setting", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.work:
        work(options)
        return 0
    seconds: dict[tuple[str, str, str], list[float]] = {}
    for _, *case in product(range(options.rounds), WORK, PLACES, SETTINGS):
        seconds.setdefault(tuple(case), []).append(measure(*case, options.tiny))
    found = figures(seconds)
    for one in found:
        print(
            f"{one['name']:14} {one['ours']:7.2f} s   {one['peer_name']} {one['peer']:7.2f} s   "
            f"ratio {one['ratio']:.2f}   (reach {one['reach']:.2f})"
        )
    if options.json:
        options.json.write_text(json.dumps({"figures": found}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
