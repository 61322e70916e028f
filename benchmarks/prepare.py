"""Generated rows of the contest's form, without working, to tokens with nano's tokeniser: rows a second and memory.

    python benchmarks/prepare.py [--rows 800000] [--peer-rows 20000] [--json FILE]

Each stage is a child process, so that each has its own peak of memory: the generator alone, the generator with the
task's reading of the rows (prompt, kind, answer), both with tokens written to a token file, and the digest by which the
same rows are found again. Every stage does what the one before does and streams, so that a difference is the cost of
what it adds. The peer encodes prompt and answer of fewer rows one by one through transformers, without writing them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAGES = {
    "generate": "rows generated",
    "read": "+ made into examples",
    "tokens": "+ encoded and written",
    "digest": "examples + digest",
}
ONE_BY_ONE = "one by one"
REACH_SECONDS, REACH_GIB, FULL = 60.0, 1.0, 800_000
"""Goals for FULL rows."""


def examples(rows: int) -> Iterator[Any]:
    """Yield the examples of the benchmark, one at a time."""
    from lotune.tasks.arithmetic.task import ArithmeticSettings
    from lotune.tasks.registry import build_task
    from lotune.tasks.user_rows import generating

    task = build_task(ArithmeticSettings(scratchpad=False, mixture="raw"))
    numbered = (
        (f"generated:{number}", row)
        for number, row in enumerate(generating(task).generate_training_rows(rows, 0), start=1)
    )
    return task.examples(numbered, training=True)


def stage(name: str, rows: int, folder: Path) -> dict[str, float]:
    """Return seconds and tokens of one stage, and the peak memory of this process in GiB, imports included."""
    from lotune.data.token_files import write_token_file
    from lotune.data.tokenization import encode_rows, rows_digest
    from lotune.data.tokenized import encode_row
    from lotune.model.loading import load_tokenizer
    from lotune.model.settings import BaseSettings
    from lotune.tasks.arithmetic.task import ArithmeticSettings
    from lotune.tasks.registry import build_task
    from lotune.tasks.user_rows import generating

    tokenizer, _ = load_tokenizer(BaseSettings())
    tokens = 0
    started = time.monotonic()
    if name == "generate":
        deque(generating(build_task(ArithmeticSettings(mixture="raw"))).generate_training_rows(rows, 0), maxlen=0)
    elif name == "read":
        deque(examples(rows), maxlen=0)
    elif name == "digest":
        rows_digest(tokenizer, examples(rows))
    elif name == ONE_BY_ONE:
        held = list(examples(rows))
        started = time.monotonic()
        tokens = sum(len(encode_row(tokenizer, example).token_ids) for example in held)
    else:
        file = write_token_file(folder / "train", encode_rows(tokenizer, examples(rows)), len(tokenizer))
        tokens = file.metadata()["tokens"]
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)
    return {"seconds": seconds, "tokens": tokens, "gib": peak}


def in_child(name: str, rows: int) -> dict[str, float]:
    """Return the figures of a stage that runs in a separate process."""
    command = [sys.executable, __file__, "--rows", str(rows), "--stage", name]
    with tempfile.TemporaryDirectory() as folder:
        completed = subprocess.run(
            [*command, "--folder", folder], stdout=subprocess.PIPE, check=True, env=dict(os.environ)
        )
    result: dict[str, float] = json.loads(completed.stdout)
    return result


def figures(stages: dict[str, dict[str, float]], rows: int, peer_rows: int) -> list[dict[str, Any]]:
    """Return the figures for machines; the time is extrapolated to the full number of rows, the memory is not."""
    tokens, encoding = stages["tokens"], stages["tokens"]["seconds"] - stages["read"]["seconds"]
    peer = peer_rows / stages[ONE_BY_ONE]["seconds"]
    rate = rows / max(encoding, 1e-9)
    return [
        {"name": f"{FULL:,} rows to tokens", "ours": tokens["seconds"] * FULL / rows, "reach": REACH_SECONDS,
         "unit": "s"},
        {"name": f"peak memory, {rows:,} rows", "ours": tokens["gib"], "reach": REACH_GIB, "unit": "GiB"},
        {"name": "encoding and writing alone", "ours": rate, "peer": peer, "peer_name": "transformers, row by row",
         "ratio": rate / peer, "unit": "rows/s"},
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=FULL, help="generated rows")
    parser.add_argument("--peer-rows", type=int, default=20_000, help="rows that are encoded one by one")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(stage(options.stage, options.rows, options.folder)))
        return 0
    sizes = {**dict.fromkeys(STAGES, options.rows), ONE_BY_ONE: options.peer_rows}
    stages = {}
    print(f"{'stage':28}{'rows':>10}{'seconds':>10}{'rows/s':>10}{'peak GiB':>10}")
    for name, rows in sizes.items():
        stages[name] = in_child(name, rows)
        seconds, peak = stages[name]["seconds"], stages[name]["gib"]
        label = STAGES.get(name, f"peer: {name}, in memory")
        print(f"{label:28}{rows:>10,}{seconds:>10.1f}{rows / seconds:>10,.0f}{peak:>10.2f}", flush=True)
    result = figures(stages, options.rows, options.peer_rows)
    print()
    for figure in result:
        against = f", {figure['ratio']:.1f} × {figure['peer_name']}" if "ratio" in figure else ""
        reach = f" (to be reached: {figure['reach']:g})" if "reach" in figure else ""
        print(f"{figure['name']}: {figure['ours']:,.2f} {figure['unit']}{reach}{against}")
    if options.json:
        options.json.write_text(json.dumps({"figures": result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
