"""Kill a training with SIGKILL at random moments, go on, and compare the final weights with an undisturbed one's.

    python benchmarks/kills.py [--verb tune|pretrain] [--kills 20] [--seed 0] [--json FILE]

Every step saves its state, so that many kills fall into a save. Each trial is killed twice, then goes on to its end;
it counts as identical where every adapter of a tuning, or the model of a pre-training, has the same bytes. The exit
status is 1 where one differs.
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

COMMON = """
seed: 5
threads: 1
device: cpu
save_every_minutes: 0
"""
TUNE = """
task: {working: false, max_new_tokens: 4}
data: {rows: 96, validation_rows: 3, test_rows: 3}
adapter: {rank: 1, dropout: 0.1, target_modules: all-linear}
tune: {batch_rows: 8, learning_rate: 0.01}
checkpoints: {count: 3, check_rows: 2}
retention: {rows: 2}
"""
PRETRAIN = """
pretrain:
  documents: 120
  batch_tokens: 1024
  steps: 60
  optimizer: muon
  config: {vocab_size: 420, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 4,
    intermediate_size: 64}
"""
RECIPES = {"tune": TUNE, "pretrain": PRETRAIN}
WEIGHTS = {"tune": "checkpoints/step-*/adapter/adapter_model.safetensors", "pretrain": "model/model.safetensors"}
FILES = {"tune": 3, "pretrain": 1}
"""Files of weights that a finished run has."""
KILLS_A_TRIAL = 2


def begin(verb: str, recipe: Path, runs: Path, log: Path) -> int:
    """A child that trains; the result is its process id. Everything heavy was imported before."""
    child = os.fork()
    if child:
        return child
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = ["lotune", verb, str(recipe), f"runs={runs}"]
    from lotune.cli import main

    try:
        main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(0)


def finish(child: int) -> int:
    """Exit status of a child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def weights(verb: str, runs: Path) -> dict[str, str]:
    """The digest of each file of weights that the verb leaves in the run."""
    folder = runs / "kills"
    files = sorted(folder.glob(WEIGHTS[verb]))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def trial(verb: str, recipe: Path, runs: Path, seconds: float, draw: random.Random) -> tuple[dict[str, str], int]:
    """The weights of a run that was killed KILLS_A_TRIAL times, and how many of the kills met it running."""
    hits = 0
    for _ in range(KILLS_A_TRIAL):
        child = begin(verb, recipe, runs, runs.parent / "log.txt")
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        hits += finish(child) == -signal.SIGKILL
    status = finish(begin(verb, recipe, runs, runs.parent / "log.txt"))
    if status:
        raise SystemExit(
            f"the run did not go on: exit status {status}\n{(runs.parent / 'log.txt').read_text()[-2000:]}"
        )
    return weights(verb, runs), hits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verb", choices=sorted(RECIPES), default="tune", help="what is killed")
    parser.add_argument("--kills", type=int, default=20, help="trials")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    verb = options.verb
    draw, same, hits = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "kills.yaml"
        recipe.write_text(COMMON + RECIPES[verb])
        started = time.monotonic()
        assert finish(begin(verb, recipe, Path(folder) / "whole", Path(folder) / "log.txt")) == 0
        seconds = time.monotonic() - started
        expected = weights(verb, Path(folder) / "whole")
        assert len(expected) == FILES[verb]
        for number in range(options.kills):
            found, hit = trial(verb, recipe, Path(folder) / f"trial-{number}", seconds, draw)
            same, hits = same + (found == expected), hits + hit
            print(f"trial {number + 1}: {'identical' if found == expected else 'DIFFERENT'}", flush=True)
    print(
        f"{same} of {options.kills} identical; {hits} kills met a run at work, which takes {seconds:.1f} s undisturbed"
    )
    if options.json:
        figure = {"name": f"identical after kills ({verb})", "ours": same, "reach": options.kills, "unit": "trials"}
        options.json.write_text(json.dumps({"figures": [figure]}))
    return 0 if same == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
