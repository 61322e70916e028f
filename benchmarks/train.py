"""Tune and pre-train beside other libraries, in one run on one machine, and print medians and ratios.

    python benchmarks/train.py --peers-python PEERS/bin/python [--figures lora,memory] [--rounds 3] [--json FILE]
    python benchmarks/train.py --device cuda --peers-python PEERS/bin/python    # the figures of a GPU
    python benchmarks/train.py --tiny --steps 3 --rounds 1      # a try-out in seconds; its figures mean nothing

The peers are needed for this alone and live in an environment of their own, with the versions of torch, transformers
and PEFT that lotune runs with (LitGPT's bound on huggingface-hub contradicts transformers 5; it runs without it):

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 trl datasets
    PEERS/bin/pip install --no-deps litgpt
    PEERS/bin/pip install "lightning>=2.6.1" "jsonargparse[signatures]>=4.37,<=4.41"

Each contestant runs in a process of its own with the same number of threads; rounds alternate and begin with another
one each time. One that fails says why and is left out, the others go on, and the exit status is 1. Base, starting
adapter, rows, their order, rows a step and precision are the same, and so must be the loss of the first step (to 0.01)
and the norm of its gradient (to 5 %), or the run ends with an error: nobody skips work. Tokens are real ones, rows ×
their length; the rate of a process is that of its median step, warm-up left out, and that of a contestant the median
over rounds. Both sides enter with their fastest contestant.

Figures: `lora` and `lora-512`, LoRA r8 on q, v, o of a 40 M Llama shape with rows of 81 tokens (49 of them prompt) and
of 512 (310); `lora-preamble`, as `lora` with rows that begin with the same 22 tokens, as many as those that the
contest's template puts before a question (in the column `share`, work that is spared counts as if it were done);
`memory`, the most memory resident in the process of our leanest against that of the leanest peer, the rows of a step in
one pass, nobody computing activations again, and `memory-parts` the same with the step in passes of eight rows;
`share`, operations of `Plan.operations_a_step` over those of a 4096³ matrix product in the same number format;
`pretrain-15m` and `pretrain-124m`, GPT-2 shapes in float32, in which lotune pre-trains; `processes`, the rate of `lora`
in two processes of one thread against one of one thread; `start`, seconds from `lotune tune` with nano, rows prepared,
to the end of the first step. LoRA is in bfloat16 where the matrix product says that it is faster than float32, else in
float32.

On a GPU (`--device cuda`; the first one that is visible, memory as PyTorch's tensors take it): `lora-8b`, LoRA r8 on
q, v of the shape of Llama-3-8B with random bfloat16 weights and rows of 81 tokens, in packed lines, against TRL, packed
or not; `share-8b`, as `share`; `hours-8b`, the hours of 90,000 such rows five times at that rate. The base takes
16 GB on the disk, where temporary files go (TMPDIR).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train_workload import CONTESTS, Contest, Plan, check_device, read_plan

OURS = ("lotune", "lotune-compiled", "lotune-parts", "lotune-parts-compiled")
DIVIDED = ("lotune-parts", "lotune-parts-compiled", "trl-packed")
"""Those who run a step of LoRA in passes of `Plan.part_rows` rows; everybody else runs it at once."""
MOST_LOSS_APART, MOST_NORM_APART = 1e-2, 5e-2
START_RECIPE = Path(__file__).parents[1] / "lotune" / "recipes" / "demo.yaml"
HOURS_ROWS = 90_000 * 5
"""Rows that `hours-8b` counts, each as often as it is gone through."""
START_SECONDS = 600
"""After which a start that came to no step is given up."""


REACH = {
    "lora": 8.0, "share": 0.25, "lora-preamble": 8.0, "lora-512": 4.0, "memory": 0.6, "memory-parts": 0.6,
    "pretrain-15m": 2.0, "pretrain-124m": 2.0, "processes": 1.8, "start": 6.0, "lora-8b": 1.5, "share-8b": 0.5,
    "hours-8b": 1.0,
}  # fmt: skip
"""Each figure, and what is to be reached: by the ratio, or where there is no peer by the figure itself."""
NEEDS = {
    "share": "lora", "memory": "lora", "memory-parts": "lora", "share-8b": "lora-8b", "hours-8b": "lora-8b",
}  # fmt: skip
"""Figures that another one's runs give."""
ON_GPU = ("lora-8b", "share-8b", "hours-8b")
"""Figures that are a GPU's; the others are a processor's, unless they are asked for."""


@dataclass(frozen=True)
class Measured:
    """What the processes of one contestant came to in all rounds; rates in real tokens a second."""

    name: str
    rates: tuple[float, ...]
    peaks: tuple[int, ...]
    first_loss: float
    last_loss: float
    first_norm: float | None

    @property
    def rate(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rates)

    @property
    def peak_bytes(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.peaks)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", help="interpreter of the environment with the peers; without it ours run")
    parser.add_argument("--figures", help="which ones, with commas (default: all of the device)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="on which everybody computes")
    parser.add_argument("--contestants", help="which ones, with commas (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="of each process")
    parser.add_argument("--warmup", type=int, default=2, help="first steps that are not counted")
    parser.add_argument("--threads", type=int, default=processors(), help="of each process (default: all)")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of LoRA")
    parser.add_argument("--matrix-size", type=int, help="of the matrix product (default: 4096, on a GPU 8192)")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try everything out")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--workload", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.figures = options.figures or ",".join(one for one in REACH if (one in ON_GPU) == on_gpu)
    options.matrix_size = options.matrix_size or (8192 if on_gpu else 4096)
    unknown = set(options.figures.split(",")) - set(REACH)
    if unknown:
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(REACH)}")
    elsewhere = {"processes"} if on_gpu else set() if options.tiny else set(ON_GPU)
    if found := sorted(elsewhere & set(options.figures.split(","))):
        parser.error(f"{', '.join(found)}: needs --device {'cpu' if on_gpu else 'cuda, or --tiny'}")
    if options.steps <= options.warmup:
        parser.error(f"--steps {options.steps} leaves no step to count after --warmup {options.warmup}")
    return options


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def contend(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The part of one contestant, in the process of its own: make a workload, time the matrix product, or train."""
    import torch

    folder, size = options.workload, options.matrix_size
    check_device(options.device)
    torch.set_num_threads(options.threads)
    if name == "matrix":
        from train_lotune import matrix_rates

        return matrix_rates(size, options.device)
    plan = read_plan(folder)
    if name == "make":
        from train_lotune import make

        make(folder, plan)
        return {}
    if name in OURS:
        from train_lotune import CONTESTANTS
    else:
        from train_peers import CONTESTANTS
    result = CONTESTANTS[name](folder, plan)
    result.remember_peak()
    return {
        "step_seconds": result.step_seconds, "losses": result.losses, "norms": result.norms,
        "peak_bytes": result.peak_bytes,
    }  # fmt: skip


class FailedError(SystemExit):
    """A contestant's process failed: its name, its exit status and the end of its errors."""


def call(name: str, options: argparse.Namespace, folder: Path, processes: int = 1) -> dict[str, Any]:
    """What a contestant's process comes to, or the first of several under torchrun.

    Raises: FailedError.
    """
    ours = name in (*OURS, "make", "matrix")
    words = ["--contestant", name, "--workload", folder, "--threads", options.threads]
    words += ["--matrix-size", options.matrix_size, "--device", options.device]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes] if processes > 1 else []
    command = [sys.executable if ours else options.peers_python, *together, __file__, *words]
    done = subprocess.run(
        list(map(str, command)), env=environment(options), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FailedError(f"{name} failed with exit status {done.returncode}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def fast_precision(options: argparse.Namespace, folder: Path) -> str:
    """The number format of LoRA: the one asked for, else the one in which this machine multiplies matrices faster."""
    rates = call("matrix", options, folder)
    precision = options.precision if options.precision != "auto" else max(rates, key=lambda one: rates[one])
    print(", ".join(f"{kind} {rate / 1e9:.1f} GFLOP/s" for kind, rate in rates.items()) + f": LoRA in {precision}")
    return precision


def environment(options: argparse.Namespace) -> dict[str, str]:
    """What every contestant's process sees: so many threads, one GPU or none, no network."""
    threads = str(options.threads)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0] if options.device == "cuda" else ""
    return {
        **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": gpu,
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip


def run_contest(
    name: str, options: argparse.Namespace, precision: str, folder: Path, failed: dict[str, str]
) -> tuple[list[Measured], Any]:
    """The contestants that came through all rounds of a contest, and the matrix rates of each round.

    Why another one did not is added to `failed`, and it takes part no more.
    """
    contest = CONTESTS[name]
    plan = contest.tiny if options.tiny else contest.plan
    plan = replace(plan, threads=options.threads, steps=options.steps, device=options.device)
    plan = plan if plan.precision != "auto" else replace(plan, precision=precision)
    folder.mkdir()
    plan.write(folder)
    call("make", options, folder)
    names = chosen(contest, options)
    found: dict[str, list[dict[str, Any]]] = {one: [] for one in names}
    matrices = []
    for turn in range(options.rounds):
        start = turn % len(names)
        matrices.append(call("matrix", options, folder))
        for one in (*names[start:], *names[:start]):
            if one not in found:
                continue
            print(f"{name}, round {turn + 1}: {one}", file=sys.stderr, flush=True)
            try:
                found[one].append(call(one, options, folder))
            except FailedError as error:
                print(error, file=sys.stderr, flush=True)
                failed[f"{name}: {one}"] = str(error)
                del found[one]
    measured = [measure(one, runs, plan, options.warmup) for one, runs in found.items()]
    agree(name, measured)
    show_contest(name, plan, options.matrix_size, measured, matrices)
    return measured, matrices


def chosen(contest: Contest, options: argparse.Namespace) -> list[str]:
    """The contestants that run: those asked for, and of the peers none where there is no interpreter for them."""
    ours = OURS if contest.plan.prompt_tokens else [name for name in OURS if name not in DIVIDED]
    there = [*ours, *(contest.peers if options.peers_python else ())]
    names = [one for one in there if not options.contestants or one in options.contestants.split(",")]
    if not names:
        raise SystemExit(f"nobody of {', '.join(there)} was asked for")
    return names


def measure(name: str, runs: list[dict[str, Any]], plan: Plan, warmup: int) -> Measured:
    """The rounds of a contestant in numbers. Raises: SystemExit where it did not do every step."""
    for run in runs:
        done = len(run["step_seconds"]), len(run["losses"])
        if done != (plan.steps, plan.steps):
            raise SystemExit(f"{name} told {done[0]} times and {done[1]} losses of {plan.steps} steps")
    rates = tuple(plan.tokens_a_step / statistics.median(run["step_seconds"][warmup:]) for run in runs)
    norms = runs[0]["norms"]
    losses = runs[0]["losses"]
    peaks = tuple(run["peak_bytes"] for run in runs)
    return Measured(name, rates, peaks, losses[0], losses[-1], norms[0] if norms else None)


def agree(contest: str, measured: list[Measured]) -> None:
    """Nothing, where all began with the same loss and gradient. Raises: SystemExit naming who did not."""
    for one in measured[1:]:
        reference = measured[0]
        if not abs(one.first_loss - reference.first_loss) <= MOST_LOSS_APART:
            raise SystemExit(
                f"{contest}: the first loss of {one.name} is {one.first_loss:.4f}, that of {reference.name} "
                f"{reference.first_loss:.4f}: they do not do the same work"
            )
        if one.first_norm is None or reference.first_norm is None:
            continue
        if not abs(one.first_norm / reference.first_norm - 1) <= MOST_NORM_APART:
            raise SystemExit(
                f"{contest}: the first gradient of {one.name} has norm {one.first_norm:.4g}, that of {reference.name} "
                f"{reference.first_norm:.4g}: they do not do the same work"
            )


def show_contest(name: str, plan: Plan, size: int, measured: list[Measured], matrices: list[dict[str, float]]) -> None:
    """One line a contestant."""
    highest = statistics.median(rates[plan.precision] for rates in matrices)
    print(
        f"\n{name}: {plan.shape}, {plan.step_rows} rows of {plan.row_tokens} tokens a step, {plan.precision}, "
        f"{plan.device}, {plan.threads} threads, matrix product {size}³ {highest / 1e9:.0f} GFLOP/s"
    )
    print(f"{'':22}{'tokens/s':>10}{'from':>10}{'to':>10}{'peak MiB':>10}{'share':>8}{'first loss':>12}{'last':>10}")
    for one in sorted(measured, key=lambda one: -one.rate):
        rates = f"{one.rate:10.0f}{min(one.rates):10.0f}{max(one.rates):10.0f}"
        part = f"{share(plan, one, highest):8.1%}" if plan.prompt_tokens else f"{'':8}"
        losses = f"{one.first_loss:12.4f}{one.last_loss:10.4f}"
        print(f"{one.name:22}{rates}{one.peak_bytes / 2**20:10.0f}{part}{losses}")


def share(plan: Plan, one: Measured, highest: float) -> float:
    """The needed operations of a contestant over those of the matrix product in the same time."""
    return one.rate / plan.tokens_a_step * plan.operations_a_step() / highest


def figures(name: str, wanted: list[str], measured: list[Measured], matrices: Any, plan: Plan) -> Iterator[Any]:
    """The wanted figures that a contest gives; without a peer they have no ratio."""
    ours = max((one for one in measured if one.name in OURS), key=lambda one: one.rate, default=None)
    if ours is None:
        return
    peers = [one for one in measured if one.name not in OURS]
    fastest = max(peers, key=lambda one: one.rate, default=None)
    if name in wanted:
        yield figure(name, "tokens/s", ours, ours.rate, fastest, fastest and fastest.rate)
    part, hours = {"lora": "share", "lora-8b": "share-8b"}.get(name), HOURS_ROWS * plan.row_tokens / ours.rate / 3600
    if part in wanted:
        highest = statistics.median(rates[plan.precision] for rates in matrices)
        yield figure(part, f"of the {plan.precision} matrix rate", ours, share(plan, ours, highest), None, None)
    if name == "lora-8b" and "hours-8b" in wanted:
        yield figure("hours-8b", "h, 90,000 rows x 5", ours, hours, None, None)
    for memory, divided in (("memory", False), ("memory-parts", True)):
        if name == "lora" and memory in wanted:
            alike = [one for one in measured if (one.name in DIVIDED) == divided]
            lean = min((one for one in alike if one.name in OURS), key=lambda one: one.peak_bytes, default=None)
            if lean is None:
                continue
            peer = min((one for one in alike if one.name not in OURS), key=lambda one: one.peak_bytes, default=None)
            yield figure(memory, "MiB", lean, lean.peak_bytes / 2**20, peer, peer and peer.peak_bytes / 2**20)


def figure(name: str, unit: str, ours: Measured, value: float, peer: Measured | None, other: float | None) -> Any:
    """One figure in the form that all benchmarks have."""
    ratio = value / other if other else None
    return {
        "name": name, "ours": value, "ours_name": ours.name, "peer": other, "peer_name": peer and peer.name,
        "ratio": ratio, "reach": REACH[name], "unit": unit,
    }  # fmt: skip


def process_figure(options: argparse.Namespace, precision: str, folder: Path) -> dict[str, Any]:
    """The rate of LoRA in two processes of one thread each against that in one such process."""
    plan = CONTESTS["lora"].tiny if options.tiny else CONTESTS["lora"].plan
    plan = replace(plan, threads=1, steps=options.steps, precision=precision)
    alone = argparse.Namespace(**{**vars(options), "threads": 1})
    folder.mkdir()
    plan.write(folder)
    call("make", alone, folder)
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for turn in range(options.rounds):
        for count in (1, 2) if turn % 2 == 0 else (2, 1):
            found[count].append(call("lotune", alone, folder, count))
            print(f"processes, round {turn + 1}: {count}", file=sys.stderr, flush=True)
    one, two = (measure(f"{count} x 1 thread", found[count], plan, options.warmup) for count in (1, 2))
    agree("processes", [one, two])
    return figure("processes", "tokens/s", two, two.rate, one, one.rate)


def start_seconds(options: argparse.Namespace, folder: Path) -> float:
    """Median seconds from `lotune tune` with nano to the end of its first step; its rows are prepared before."""
    lotune = [sys.executable, "-m", "lotune"]
    words = [f"runs={folder / 'prepared'}", "name=start", f"threads={options.threads}", f"device={options.device}"]
    prepare = [*lotune, "prepare", str(START_RECIPE), *words]
    subprocess.run(prepare, env=environment(options), check=True, stdout=sys.stderr)
    taken = []
    for turn in range(options.rounds):
        runs = folder / f"start-{turn}"
        shutil.copytree(folder / "prepared", runs)
        taken.append(_first_step([*lotune, "tune", str(START_RECIPE), f"runs={runs}", *words[1:]], runs, options))
    return statistics.median(taken)


def _first_step(command: list[str], runs: Path, options: argparse.Namespace) -> float:
    """Seconds until the log of a run has its first step; the run is ended then."""
    metrics, started = runs / "start" / "metrics.jsonl", time.monotonic()
    with (runs / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment(options), stdout=log, stderr=log)
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                    raise SystemExit(f"lotune tune came to no step\n{(runs / 'log.txt').read_text()[-2000:]}")
                time.sleep(0.01)
            return time.monotonic() - started
        finally:
            process.kill()
            process.wait()


def show_figures(found: list[dict[str, Any]]) -> None:
    """One line a figure."""
    print(f"\n{'figure':16}{'ours':>12}{'':18}{'peer':>12}{'':22}{'ratio':>8}{'reach':>8}  unit")
    for one in found:
        peer = f"{one['peer']:12.4g}  {one['peer_name']:20}" if one["peer"] else f"{'':34}"
        ratio = f"{one['ratio']:8.2f}" if one["ratio"] else f"{'':8}"
        print(
            f"{one['name']:16}{one['ours']:12.4g}  {one['ours_name']:16}{peer}{ratio}{one['reach']:8.2f}  {one['unit']}"
        )


def main() -> int:
    options = arguments()
    if options.contestant:
        with contextlib.redirect_stdout(sys.stderr):
            found = contend(options.contestant, options)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(found))
        return 0
    wanted = options.figures.split(",")
    if not options.peers_python:
        print("no --peers-python: only lotune runs, and there are no ratios", file=sys.stderr)
    check_device(options.device)
    results: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contests = [one for one in CONTESTS if one in {NEEDS.get(figure, figure) for figure in wanted}]
        open_format = "processes" in wanted or any(CONTESTS[one].plan.precision == "auto" for one in contests)
        precision = fast_precision(options, folder) if open_format else "float32"
        for contest in contests:
            measured, matrices = run_contest(contest, options, precision, folder / contest, failed)
            results += figures(contest, wanted, measured, matrices, read_plan(folder / contest))
        if "processes" in wanted:
            results.append(process_figure(options, precision, folder / "processes"))
        if "start" in wanted:
            seconds = start_seconds(options, folder)
            results.append(
                {"name": "start", "ours": seconds, "ours_name": "lotune", "peer": None, "peer_name": None,
                 "ratio": None, "reach": REACH["start"], "unit": "s"}
            )  # fmt: skip
    show_figures(results)
    if options.json:
        options.json.write_text(json.dumps({"figures": results, "failed": failed}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
