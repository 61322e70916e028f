"""Tune and pre-train beside other libraries, in one run on one machine, and print medians and ratios.

    python benchmarks/train.py --peers-python PEERS/bin/python [--figures lora,memory] [--rounds 3] [--json FILE]
    python benchmarks/train.py --device cuda --peers-python PEERS/bin/python    # the figures of a GPU
    python benchmarks/train.py --tiny --steps 3 --rounds 1      # a trial run in seconds; its figures mean nothing

Only this benchmark needs the peers. They have a separate environment, with the versions of torch, transformers and PEFT
that lotune runs with (LitGPT's bound on huggingface-hub contradicts transformers 5; it runs without it):

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 trl datasets
    PEERS/bin/pip install --no-deps litgpt
    PEERS/bin/pip install "lightning>=2.6.1" "jsonargparse[signatures]>=4.37,<=4.41"

Each contestant runs in a separate process with the same number of threads; rounds alternate, and each begins with
another contestant. A contestant that fails prints its error and is left out; the others continue, and the exit status
is 1. Base, initial adapter, rows, their order, rows per step and precision are the same. The loss of the first step
must agree to 0.01, and the norm of its gradient to 5 %, or the run ends with an error: no contestant may skip work.
Tokens are counted without padding, as rows × their length. The rate of a process is that of its median step without
warm-up, and that of a contestant the median over rounds. Each side enters with its fastest contestant.

Figures: `lora` and `lora-512`, LoRA r8 on q, v, o of a 40 M Llama shape with rows of 81 tokens (49 of them prompt) and
of 512 (310); `lora-preamble`, as `lora` with rows that begin with the same 22 tokens, as many as the contest's template
puts before a question (in the column `share`, work that is saved counts as done); `memory`, the peak resident memory of
lotune's leanest contestant and of the leanest peer, with the rows of a step in one pass and without gradient
checkpointing, and `memory-parts`, the same with the step in passes of eight rows; `share`, operations of
`Plan.operations_a_step` divided by those of a 4096³ matrix product in the same dtype; `pretrain-15m` and
`pretrain-124m`, GPT-2 shapes in float32, in which lotune pre-trains; `processes`, the rate of `lora` in two processes
of one thread compared with one process of one thread; `start`, seconds from `lotune tune` with nano, on prepared rows,
to the end of the first step. LoRA is in bfloat16 if the matrix product is faster in it than in float32.

On a GPU (`--device cuda`; the first visible one, memory as allocated by PyTorch): `lora-8b`, LoRA r8 on q, v of the
shape of Llama-3-8B with random bfloat16 weights and rows of 81 tokens, in packed lines, compared with TRL, packed or
not; `share-8b`, as `share`; `hours-8b`, the hours of 90,000 such rows five times at that rate. The base takes 16 GB on
the disk with temporary files (TMPDIR).
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
MAX_LOSS_DIFFERENCE, MAX_NORM_DIFFERENCE = 1e-2, 5e-2
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
"""Figures that result from the runs of another figure."""
ON_GPU = ("lora-8b", "share-8b", "hours-8b")
"""Figures that are a GPU's; the others are a processor's, unless they are asked for."""


@dataclass(frozen=True)
class Measured:
    """Results of one contestant in all rounds; rates in tokens without padding per second."""

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
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a trial run")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--workload", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.figures = options.figures or ",".join(name for name in REACH if (name in ON_GPU) == on_gpu)
    options.matrix_size = options.matrix_size or (8192 if on_gpu else 4096)
    unknown = set(options.figures.split(",")) - set(REACH)
    if unknown:
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(REACH)}")
    unavailable = {"processes"} if on_gpu else set() if options.tiny else set(ON_GPU)
    if refused := sorted(unavailable & set(options.figures.split(","))):
        parser.error(f"{', '.join(refused)}: needs --device {'cpu' if on_gpu else 'cuda, or --tiny'}")
    if options.steps <= options.warmup:
        parser.error(f"--steps {options.steps} leaves no step to count after --warmup {options.warmup}")
    return options


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def contend(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Do the part of one contestant in its process: make a workload, time the matrix product, or train."""
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
    """Return the result of a contestant's process, or of the first of several under torchrun. Raises: FailedError."""
    ours = name in (*OURS, "make", "matrix")
    arguments = ["--contestant", name, "--workload", folder, "--threads", options.threads]
    arguments += ["--matrix-size", options.matrix_size, "--device", options.device]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes] if processes > 1 else []
    command = [sys.executable if ours else options.peers_python, *launcher, __file__, *arguments]
    completed = subprocess.run(
        list(map(str, command)), env=environment(options), capture_output=True, text=True, check=False
    )
    if completed.returncode:
        raise FailedError(f"{name} failed with exit status {completed.returncode}\n{completed.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return result


def fast_precision(options: argparse.Namespace, folder: Path) -> str:
    """Return the dtype of LoRA: that of --precision, or the one in which this machine multiplies matrices faster."""
    rates = call("matrix", options, folder)
    precision = options.precision if options.precision != "auto" else max(rates, key=lambda dtype: rates[dtype])
    print(", ".join(f"{kind} {rate / 1e9:.1f} GFLOP/s" for kind, rate in rates.items()) + f": LoRA in {precision}")
    return precision


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Return the environment of every contestant: number of threads, one GPU or none, no network."""
    threads = str(options.threads)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0] if options.device == "cuda" else ""
    return {
        **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": gpu,
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip


def run_contest(
    name: str, options: argparse.Namespace, precision: str, folder: Path, failed: dict[str, str]
) -> tuple[list[Measured], Any]:
    """Return the contestants that finished all rounds of a contest, and the matrix rates of each round.

    A contestant that fails is left out of further rounds, and its error is added to `failed`.
    """
    contest = CONTESTS[name]
    plan = contest.tiny if options.tiny else contest.plan
    plan = replace(plan, threads=options.threads, steps=options.steps, device=options.device)
    plan = plan if plan.precision != "auto" else replace(plan, precision=precision)
    folder.mkdir()
    plan.write(folder)
    call("make", options, folder)
    names = chosen(contest, options)
    runs_by_name: dict[str, list[dict[str, Any]]] = {contestant: [] for contestant in names}
    matrices = []
    for turn in range(options.rounds):
        start = turn % len(names)
        matrices.append(call("matrix", options, folder))
        for contestant in (*names[start:], *names[:start]):
            if contestant not in runs_by_name:
                continue
            print(f"{name}, round {turn + 1}: {contestant}", file=sys.stderr, flush=True)
            try:
                runs_by_name[contestant].append(call(contestant, options, folder))
            except FailedError as error:
                print(error, file=sys.stderr, flush=True)
                failed[f"{name}: {contestant}"] = str(error)
                del runs_by_name[contestant]
    measured = [measure(contestant, runs, plan, options.warmup) for contestant, runs in runs_by_name.items()]
    check_agreement(name, measured)
    show_contest(name, plan, options.matrix_size, measured, matrices)
    return measured, matrices


def chosen(contest: Contest, options: argparse.Namespace) -> list[str]:
    """Return the contestants to run: those of --contestants, without peers if there is no interpreter for them."""
    ours = OURS if contest.plan.prompt_tokens else [name for name in OURS if name not in DIVIDED]
    available = [*ours, *(contest.peers if options.peers_python else ())]
    names = [name for name in available if not options.contestants or name in options.contestants.split(",")]
    if not names:
        raise SystemExit(f"--contestants names none of {', '.join(available)}")
    return names


def measure(name: str, runs: list[dict[str, Any]], plan: Plan, warmup: int) -> Measured:
    """Return the figures of a contestant's rounds. Raises: SystemExit if it did not do every step."""
    for run in runs:
        counts = len(run["step_seconds"]), len(run["losses"])
        if counts != (plan.steps, plan.steps):
            raise SystemExit(f"{name} reported {counts[0]} times and {counts[1]} losses of {plan.steps} steps")
    rates = tuple(plan.tokens_a_step / statistics.median(run["step_seconds"][warmup:]) for run in runs)
    norms = runs[0]["norms"]
    losses = runs[0]["losses"]
    peaks = tuple(run["peak_bytes"] for run in runs)
    return Measured(name, rates, peaks, losses[0], losses[-1], norms[0] if norms else None)


def check_agreement(contest: str, measured: list[Measured]) -> None:
    """Check that all contestants start with the same loss and gradient.

    Raises: SystemExit that names a contestant that does not.
    """
    for other in measured[1:]:
        reference = measured[0]
        if not abs(other.first_loss - reference.first_loss) <= MAX_LOSS_DIFFERENCE:
            raise SystemExit(
                f"{contest}: the first loss of {other.name} is {other.first_loss:.4f}, that of {reference.name} "
                f"{reference.first_loss:.4f}: they do not do the same work"
            )
        if other.first_norm is None or reference.first_norm is None:
            continue
        if not abs(other.first_norm / reference.first_norm - 1) <= MAX_NORM_DIFFERENCE:
            raise SystemExit(
                f"{contest}: the first gradient of {other.name} has norm {other.first_norm:.4g}, that of "
                f"{reference.name} {reference.first_norm:.4g}: they do not do the same work"
            )


def show_contest(name: str, plan: Plan, size: int, measured: list[Measured], matrices: list[dict[str, float]]) -> None:
    """Print one line per contestant."""
    highest = statistics.median(rates[plan.precision] for rates in matrices)
    print(
        f"\n{name}: {plan.shape}, {plan.step_rows} rows of {plan.row_tokens} tokens a step, {plan.precision}, "
        f"{plan.device}, {plan.threads} threads, matrix product {size}³ {highest / 1e9:.0f} GFLOP/s"
    )
    print(f"{'':22}{'tokens/s':>10}{'from':>10}{'to':>10}{'peak MiB':>10}{'share':>8}{'first loss':>12}{'last':>10}")
    for contestant in sorted(measured, key=lambda contestant: -contestant.rate):
        rates = f"{contestant.rate:10.0f}{min(contestant.rates):10.0f}{max(contestant.rates):10.0f}"
        part = f"{compute_fraction(plan, contestant, highest):8.1%}" if plan.prompt_tokens else f"{'':8}"
        losses = f"{contestant.first_loss:12.4f}{contestant.last_loss:10.4f}"
        print(f"{contestant.name:22}{rates}{contestant.peak_bytes / 2**20:10.0f}{part}{losses}")


def compute_fraction(plan: Plan, contestant: Measured, highest: float) -> float:
    """Return the operations that a contestant needs, divided by those of the matrix product in the same time."""
    return contestant.rate / plan.tokens_a_step * plan.operations_a_step() / highest


def figures(name: str, requested: list[str], measured: list[Measured], matrices: Any, plan: Plan) -> Iterator[Any]:
    """Yield the requested figures of a contest; without a peer they have no ratio."""
    ours = max(
        (contestant for contestant in measured if contestant.name in OURS),
        key=lambda contestant: contestant.rate,
        default=None,
    )
    if ours is None:
        return
    peers = [contestant for contestant in measured if contestant.name not in OURS]
    fastest = max(peers, key=lambda contestant: contestant.rate, default=None)
    if name in requested:
        yield figure(name, "tokens/s", ours, ours.rate, fastest, fastest and fastest.rate)
    part, hours = {"lora": "share", "lora-8b": "share-8b"}.get(name), HOURS_ROWS * plan.row_tokens / ours.rate / 3600
    if part in requested:
        highest = statistics.median(rates[plan.precision] for rates in matrices)
        yield figure(
            part, f"of the {plan.precision} matrix rate", ours, compute_fraction(plan, ours, highest), None, None
        )
    if name == "lora-8b" and "hours-8b" in requested:
        yield figure("hours-8b", "h, 90,000 rows x 5", ours, hours, None, None)
    for memory, divided in (("memory", False), ("memory-parts", True)):
        if name == "lora" and memory in requested:
            group = [contestant for contestant in measured if (contestant.name in DIVIDED) == divided]
            lean = min(
                (contestant for contestant in group if contestant.name in OURS),
                key=lambda contestant: contestant.peak_bytes,
                default=None,
            )
            if lean is None:
                continue
            peer = min(
                (contestant for contestant in group if contestant.name not in OURS),
                key=lambda contestant: contestant.peak_bytes,
                default=None,
            )
            yield figure(memory, "MiB", lean, lean.peak_bytes / 2**20, peer, peer and peer.peak_bytes / 2**20)


def figure(name: str, unit: str, ours: Measured, value: float, peer: Measured | None, other: float | None) -> Any:
    """Return a figure in the format of all benchmarks."""
    ratio = value / other if other else None
    return {
        "name": name, "ours": value, "ours_name": ours.name, "peer": other, "peer_name": peer and peer.name,
        "ratio": ratio, "reach": REACH[name], "unit": unit,
    }  # fmt: skip


def process_figure(options: argparse.Namespace, precision: str, folder: Path) -> dict[str, Any]:
    """Return the rate of LoRA in two processes of one thread each, compared with one such process."""
    plan = CONTESTS["lora"].tiny if options.tiny else CONTESTS["lora"].plan
    plan = replace(plan, threads=1, steps=options.steps, precision=precision)
    alone = argparse.Namespace(**{**vars(options), "threads": 1})
    folder.mkdir()
    plan.write(folder)
    call("make", alone, folder)
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for turn in range(options.rounds):
        for count in (1, 2) if turn % 2 == 0 else (2, 1):
            runs[count].append(call("lotune", alone, folder, count))
            print(f"processes, round {turn + 1}: {count}", file=sys.stderr, flush=True)
    single, double = (measure(f"{count} x 1 thread", runs[count], plan, options.warmup) for count in (1, 2))
    check_agreement("processes", [single, double])
    return figure("processes", "tokens/s", double, double.rate, single, single.rate)


def start_seconds(options: argparse.Namespace, folder: Path) -> float:
    """Return the median seconds from the start of `lotune tune` with nano, on prepared rows, to its first step."""
    lotune = [sys.executable, "-m", "lotune"]
    words = [f"runs={folder / 'prepared'}", "name=start", f"threads={options.threads}", f"device={options.device}"]
    prepare = [*lotune, "prepare", str(START_RECIPE), *words]
    subprocess.run(prepare, env=environment(options), check=True, stdout=sys.stderr)
    seconds = []
    for turn in range(options.rounds):
        runs = folder / f"start-{turn}"
        shutil.copytree(folder / "prepared", runs)
        seconds.append(_first_step([*lotune, "tune", str(START_RECIPE), f"runs={runs}", *words[1:]], runs, options))
    return statistics.median(seconds)


def _first_step(command: list[str], runs: Path, options: argparse.Namespace) -> float:
    """Return the seconds until the log of a run has its first step, and end the run."""
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


def show_figures(rows: list[dict[str, Any]]) -> None:
    """Print one line per figure."""
    print(f"\n{'figure':16}{'ours':>12}{'':18}{'peer':>12}{'':22}{'ratio':>8}{'reach':>8}  unit")
    for row in rows:
        peer = f"{row['peer']:12.4g}  {row['peer_name']:20}" if row["peer"] else f"{'':34}"
        ratio = f"{row['ratio']:8.2f}" if row["ratio"] else f"{'':8}"
        print(
            f"{row['name']:16}{row['ours']:12.4g}  {row['ours_name']:16}{peer}{ratio}{row['reach']:8.2f}  {row['unit']}"
        )


def main() -> int:
    options = arguments()
    if options.contestant:
        with contextlib.redirect_stdout(sys.stderr):
            result = contend(options.contestant, options)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(result))
        return 0
    requested = options.figures.split(",")
    if not options.peers_python:
        print("no --peers-python: only lotune runs, and there are no ratios", file=sys.stderr)
    check_device(options.device)
    results: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contests = [key for key in CONTESTS if key in {NEEDS.get(figure, figure) for figure in requested}]
        measure_dtype = "processes" in requested or any(CONTESTS[key].plan.precision == "auto" for key in contests)
        precision = fast_precision(options, folder) if measure_dtype else "float32"
        for contest in contests:
            measured, matrices = run_contest(contest, options, precision, folder / contest, failed)
            results += figures(contest, requested, measured, matrices, read_plan(folder / contest))
        if "processes" in requested:
            results.append(process_figure(options, precision, folder / "processes"))
        if "start" in requested:
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
