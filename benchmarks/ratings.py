"""Rate simulated votes, side by side with arena-rank and evalica: `python benchmarks/ratings.py [--votes 1000000]`.

Ratings with sandwich intervals without style, and with four features of style. arena-rank, LMArena's own package, runs
in a Python of its own, named with --arena-python, as it brings JAX; its time is that of its second fit, when JAX has
compiled, from its table of votes, and that of making the table is given apart. The largest difference of two ratings,
in points, is printed; all ratings are centred first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from arena_votes import simulated, strengths_of  # votes of the tests

from lotune.arena.ratings import CENTRE, SCALE, Votes, fit

EFFECTS = np.array([0.3, 0.1, -0.2, 0.05])
ARENA_RANK = """
import json, sys, time
import numpy as np, pandas as pd
from arena_rank.models.bradley_terry import BradleyTerry
from arena_rank.utils.data_utils import PairDataset
votes = np.load(sys.argv[1])
started = time.perf_counter()
names = np.array([f"m{number:03}" for number in range(int(votes["models"]))])
winner = np.array(["model_b", "tie", "model_a"])[np.rint(2 * votes["score"]).astype(int)]
table = pd.DataFrame({"model_a": names[votes["first"]], "model_b": names[votes["second"]], "winner": winner})
data = PairDataset.from_pandas(table)
table_seconds = time.perf_counter() - started
for _ in range(2):
    started = time.perf_counter()
    found = BradleyTerry(n_competitors=len(data.competitors)).compute_ratings_and_cis(data)
    seconds = time.perf_counter() - started
order = np.argsort(np.array(found["competitors"]))
print(json.dumps({"seconds": seconds, "table": table_seconds, "ratings": np.array(found["ratings"])[order].tolist()}))
"""


def timed(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Return the median seconds of `work`, and its result."""
    seconds, result = [], None
    for _ in range(rounds):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def rated(votes: Votes) -> Any:
    estimate = fit(votes)
    estimate.intervals()
    estimate.rank_ranges()
    return estimate


def evalica_ratings(votes: Votes) -> Any:
    import evalica

    winners = [(evalica.Winner.Y, evalica.Winner.Draw, evalica.Winner.X)[int(2 * score)] for score in votes.score]
    first, second = votes.first.tolist(), votes.second.tolist()
    started = time.perf_counter()
    result = evalica.bradley_terry(first, second, winners, tolerance=1e-8, limit=10_000)
    return time.perf_counter() - started, SCALE * np.log(result.scores.sort_index().to_numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arena-python", default=sys.executable)
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    strengths = strengths_of(args.models, generator)
    votes = simulated(strengths, args.votes, generator)
    seconds, estimate = timed(lambda: rated(votes), args.rounds)
    ours = estimate.ratings - CENTRE
    print(f"{args.votes:,} votes on {args.models} models\n{'':24}{'seconds':>9}{'difference, points':>22}")
    print(f"{'lotune, intervals':24}{seconds:>9.3f}")
    evalica_seconds, theirs = evalica_ratings(votes)
    print(f"{'evalica, no intervals':24}{evalica_seconds:>9.3f}{np.abs(theirs - theirs.mean() - ours).max():>22.3f}")
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, first=votes.first, second=votes.second, score=votes.score, models=args.models)
        file.flush()
        words = [args.arena_python, "-c", ARENA_RANK, file.name]
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        print(f"arena-rank: {done.stderr.strip().splitlines()[-1]}")
    else:
        peer = json.loads(done.stdout.splitlines()[-1])
        theirs = np.array(peer["ratings"])
        difference = np.abs(theirs - theirs.mean() - ours).max()
        table, whole = peer["table"], peer["seconds"] + peer["table"]
        print(f"{'arena-rank, intervals':24}{peer['seconds']:>9.3f}{difference:>22.3f}  + {table:.2f} s of its table")
        print(f"ratio to arena-rank {peer['seconds'] / seconds:.1f}, its table included {whole / seconds:.1f}")
    styled = simulated(strengths, args.votes, generator, EFFECTS)
    seconds, estimate = timed(lambda: rated(styled), args.rounds)
    found = np.round(estimate.effects, 3).tolist()
    print(f"{'lotune, with style':24}{seconds:>9.3f}   effects {found}, true {EFFECTS.tolist()}")


if __name__ == "__main__":
    main()
