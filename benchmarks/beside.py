"""Answer and tune alone and beside a busy process, with lotune's thread settings and with those of PyTorch.

    python benchmarks/beside.py [--rounds 3] [--json FILE]
    python benchmarks/beside.py --tiny --rounds 1     # a trial run in seconds; its figures mean nothing

The busy process is one thread that never waits. PyTorch runs one thread per core, and a thread without work spins
before it sleeps: beside a busy process, it takes the time that another thread of the same program needs. Each
measurement is a separate process that loads nano, computes once untimed, and is timed while it answers arithmetic
questions (`answer`) or tunes a LoRA adapter (`tune`). Rounds alternate the settings and the work. Figures are medians
of seconds: `answer beside` and `tune beside`, in which lotune's settings should be faster, and `answer alone` and `tune
alone`, in which they may cost 3 %.
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
CONDITIONS = ("alone", "beside")
SETTINGS = ("lotune", "pytorch")
REACH = {"alone": 0.97, "beside": 1.0}
"""Minimum ratio of PyTorch's seconds to lotune's."""
SPIN = "while True: pass"


@contextmanager
def busy(enabled: bool) -> Iterator[None]:
    """Keep one core busy with another process, if enabled."""
    process = subprocess.Popen([sys.executable, "-c", SPIN]) if enabled else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def measure(work: str, condition: str, setting: str, tiny: bool) -> float:
    """Return the seconds of one piece of work in a separate process."""
    command = [sys.executable, __file__, "--work", work, "--setting", setting, *(["--tiny"] if tiny else [])]
    with busy(condition == "beside"):
        completed = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(completed.stdout.split()[-1])


def answer(tiny: bool) -> float:
    """Return the seconds that nano takes to answer arithmetic questions."""
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
    """Return the seconds of some LoRA steps on nano, 4,096 tokens each."""
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
    """Return the medians of lotune's and PyTorch's settings, and their ratio."""
    rows = []
    for piece, condition in product(WORK, CONDITIONS):
        ours, peer = (statistics.median(seconds[piece, condition, setting]) for setting in SETTINGS)
        rows.append(
            {
                "name": f"{piece} {condition}",
                "ours": ours,
                "peer": peer,
                "peer_name": "PyTorch's settings",
                "ratio": peer / ours,
                "reach": REACH[condition],
                "unit": "s",
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="little work, for a trial run")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--setting", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.work:
        work(options)
        return 0
    seconds: dict[tuple[str, str, str], list[float]] = {}
    for _, *case in product(range(options.rounds), WORK, CONDITIONS, SETTINGS):
        seconds.setdefault(tuple(case), []).append(measure(*case, options.tiny))
    rows = figures(seconds)
    for row in rows:
        print(
            f"{row['name']:14} {row['ours']:7.2f} s   {row['peer_name']} {row['peer']:7.2f} s   "
            f"ratio {row['ratio']:.2f}   (reach {row['reach']:.2f})"
        )
    if options.json:
        options.json.write_text(json.dumps({"figures": rows}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
