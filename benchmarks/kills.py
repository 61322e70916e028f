"""Kill a training with SIGKILL at random moments, resume it, and compare its weights with an undisturbed one's.

    python benchmarks/kills.py [--verb tune|pretrain] [--kills 20] [--seed 0] [--base nano] [--json FILE]

Every step saves its state. Each trial is killed twice, then goes on to its end: first in the middle of the save after
a random step, with half of the state on the disk; then from outside, while it is held after a random one of the steps
that were left. Steps are counted, not seconds, so a slow machine is killed at the same places. A trial counts as
identical where every adapter of a tuning, or models and samples of a pre-training, have the same bytes. The exit status
is 1 where one differs, or where a kill in a save met no training.
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
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

COMMON = """
seed: 5
threads: 1
device: cpu
save_every_minutes: 0
"""
TUNE = """
task: {scratchpad: false, max_new_tokens: 4}
data: {generated_rows: 96, validation_rows: 3, test_rows: 3}
adapter: {rank: 1, dropout: 0.1, target_modules: all-linear}
tune: {epochs: 1, micro_batch_rows: 8, learning_rate: 0.01}
checkpoints: {count: 3, merge_check_rows: 2}
retention: {rows: 2}
"""
PRETRAIN = """
pretrain:
  generated_documents: 120
  step_tokens: 1024
  steps: 60
  optimizer: muon
  lr_schedule: wsd
  sampling: with_replacement
  validate_every: 7
  sample_tokens: 6
  llama_config: {vocab_size: 420, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 4,
    intermediate_size: 64}
"""
RECIPES = {"tune": TUNE, "pretrain": PRETRAIN}
RESULTS = {
    "tune": ("checkpoints/step-*/adapter/adapter_model.safetensors",),
    "pretrain": ("model*/model.safetensors", "samples.jsonl"),
}
"""Files that a finished run has, whose bytes are compared."""
FILES = {"tune": 3, "pretrain": 2}
"""How many of them a finished run has at least."""
HEAVY = ("peft", "transformers.models.llama.modeling_llama", "lotune.generate.engine", "lotune.train.train_state")
"""Libraries that the parent imports for every child."""
KILLED = -signal.SIGKILL


def begin(verb: str, recipe: Path, runs: Path, log: Path, killed_in_save: int = 0, held_after: int = 0) -> int:
    """Start a child process that trains, and return its process id. The parent has imported everything heavy.

    With `killed_in_save`, the child kills itself in the save of that number. With `held_after`, it stops once this step
    is logged, so that the parent can kill it.
    """
    child = os.fork()
    if child:
        return child
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    if killed_in_save:
        _kill_in_save(killed_in_save)
    if held_after:
        _hold_after(held_after)
    sys.argv = ["lotune", verb, str(recipe), f"runs={runs}"]
    from lotune.cli.app import main

    try:
        main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(0)


def _kill_in_save(turn: int) -> None:
    """Make this process kill itself in a save of a state, given by its number, with half of it written."""
    from lotune.train import train_state

    save, saves = train_state.save_file, count(1)

    def save_half(tensors: Any, path: Path, metadata: Any) -> None:
        save(tensors, path, metadata)
        if next(saves) == turn:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    train_state.save_file = save_half


def _hold_after(step: int) -> None:
    """Make this process stop once it has logged a step."""
    from lotune.stages import training_session

    append = training_session.append_record

    def stopping(path: Path, record: Any) -> None:
        append(path, record)
        if record.get("number") == step:
            os.kill(os.getpid(), signal.SIGSTOP)

    training_session.append_record = stopping


def steps_done(runs: Path) -> int:
    """Return the number of steps that a training has logged."""
    return (runs / "kills" / "metrics.jsonl").read_bytes().count(b'{"number"')


def kill_held(child: int) -> int:
    """Kill a child once it has stopped, and return its exit status; it differs if the child ended before."""
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        return os.waitstatus_to_exitcode(status)
    os.kill(child, signal.SIGKILL)
    return finish(child)


def finish(child: int) -> int:
    """Wait for a child and return its exit status, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def results(verb: str, runs: Path) -> dict[str, str]:
    """Return the digest of each file of results that the verb leaves in the run."""
    folder = runs / "kills"
    files = sorted(file for pattern in RESULTS[verb] for file in folder.glob(pattern))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def trial(verb: str, recipe: Path, runs: Path, steps: int, draw: random.Random) -> tuple[dict[str, str], bool, bool]:
    """Return the results of a run that was killed in a save and from outside, and whether each kill hit it at work."""
    log = runs.parent / "log.txt"
    saved = draw.randint(1, steps - 1)
    in_save = finish(begin(verb, recipe, runs, log, saved)) == KILLED
    outside = kill_held(begin(verb, recipe, runs, log, held_after=draw.randint(saved + 1, steps))) == KILLED
    status = finish(begin(verb, recipe, runs, log))
    if status:
        raise SystemExit(f"the run did not resume: exit status {status}\n{log.read_text()[-2000:]}")
    return results(verb, runs), in_save, outside


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verb", choices=sorted(RECIPES), default="tune", help="command to kill")
    parser.add_argument("--kills", type=int, default=20, help="number of trials")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--base", default="nano", help="model to tune")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    from lotune.model.optional_libraries import hide_optional_libraries

    hide_optional_libraries()  # as the command does
    for name in HEAVY:
        import_module(name)
    verb = options.verb
    draw, identical, in_saves, outsides = random.Random(options.seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "kills.yaml"
        recipe.write_text(f"{COMMON}base: {{model: {options.base}}}\n{RECIPES[verb]}")
        assert finish(begin(verb, recipe, Path(folder) / "whole", Path(folder) / "log.txt")) == 0
        expected, steps = results(verb, Path(folder) / "whole"), steps_done(Path(folder) / "whole")
        assert len(expected) >= FILES[verb]
        for number in range(options.kills):
            result, in_save, outside = trial(verb, recipe, Path(folder) / f"trial-{number}", steps, draw)
            in_saves, outsides = in_saves + in_save, outsides + outside
            identical += result == expected
            print(f"trial {number + 1}: {'identical' if result == expected else 'DIFFERENT'}", flush=True)
    print(
        f"{identical} of {options.kills} identical, of {steps} steps each; "
        f"{in_saves} were killed in the save of a state, {outsides} from outside"
    )
    if options.json:
        names = {"identical after kills": identical, "killed in a save": in_saves, "killed from outside": outsides}
        figures = [
            {"name": f"{name} ({verb})", "ours": number, "reach": options.kills, "unit": "trials"}
            for name, number in names.items()
        ]
        options.json.write_text(json.dumps({"figures": figures}))
    return 0 if identical == in_saves == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
