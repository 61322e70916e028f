"""Kill a tuning with SIGKILL at random moments, go on, and compare the final weights with those of an undisturbed one.

    python benchmarks/kills.py [--kills 20] [--seed 0] [--json FILE]

Every step saves its state, so that many kills fall into a save. Each trial is killed twice, then goes on to its end;
it counts as identical where every adapter of the run has the same bytes. The exit status is 1 where one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
seed: 5
threads: 1
device: cpu
save_every_minutes: 0
task: {working: false, max_new_tokens: 4}
data: {rows: 96, validation_rows: 3, test_rows: 3}
adapter: {rank: 1, dropout: 0.1, target_modules: all-linear}
tune: {batch_rows: 8, learning_rate: 0.01}
checkpoints: {count: 3, check_rows: 2}
retention: {rows: 2}
"""
KILLS_A_TRIAL = 2


def begin(recipe: Path, runs: Path, log: Path) -> int:
    """A child that tunes; the result is its process id. Everything heavy was imported before."""
    child = os.fork()
    if child:
        return child
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = ["lotune", "tune", str(recipe), f"runs={runs}"]
    from lotune.cli import main

    try:
        main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(0)


def finish(child: int) -> int:
    """Exit status of a child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def adapters(runs: Path) -> dict[str, str]:
    """The digest of each file of adapter weights of the run."""
    files = sorted((runs / "kills" / "checkpoints").glob("step-*/adapter/adapter_model.safetensors"))
    return {file.parts[-3]: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def trial(recipe: Path, runs: Path, seconds: float, draw: random.Random) -> tuple[dict[str, str], int]:
    """The adapters of a run that was killed KILLS_A_TRIAL times, and how many of the kills met it running."""
    hits = 0
    for _ in range(KILLS_A_TRIAL):
        child = begin(recipe, runs, runs.parent / "log.txt")
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        hits += finish(child) == -signal.SIGKILL
    status = finish(begin(recipe, runs, runs.parent / "log.txt"))
    if status:
        raise SystemExit(
            f"the run did not go on: exit status {status}\n{(runs.parent / 'log.txt').read_text()[-2000:]}"
        )
    return adapters(runs), hits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="trials")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    draw, same, hits = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "kills.yaml"
        recipe.write_text(RECIPE)
        started = time.monotonic()
        assert finish(begin(recipe, Path(folder) / "whole", Path(folder) / "log.txt")) == 0
        seconds = time.monotonic() - started
        expected = adapters(Path(folder) / "whole")
        assert len(expected) == 3
        for number in range(options.kills):
            found, hit = trial(recipe, Path(folder) / f"trial-{number}", seconds, draw)
            same, hits = same + (found == expected), hits + hit
            print(f"trial {number + 1}: {'identical' if found == expected else 'DIFFERENT'}", flush=True)
    print(
        f"{same} of {options.kills} identical; {hits} kills met a run at work, which takes {seconds:.1f} s undisturbed"
    )
    if options.json:
        figure = {"name": "identical after kills", "ours": same, "reach": options.kills, "unit": "trials"}
        options.json.write_text(json.dumps({"figures": [figure]}))
    return 0 if same == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
