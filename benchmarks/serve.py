"""Serve many clients beside other servers, in one run on one machine, and print medians and ratios.

    python benchmarks/serve.py [--figures clients,own,crowd,leaving,start] [--contestants lotune,…] [--json FILE]
    python benchmarks/serve.py --tiny                   # a trial run in seconds; its figures mean nothing

Contestants: `lotune` and `lotune-int8`; `transformers`, which is `transformers serve` with continuous batching
(`transformers-plain` without); `litserve`, LitServe around transformers' `generate` in batches of up to 64
(`serve_litserve.py`); `llama.cpp`, the server of llama-cpp-python with the exported GGUF file in float32. Pythons that
have LitServe and llama-cpp-python are named with --litserve-python and --llama-python; a contestant that cannot start
says why, and the others go on.

All have the same random weights (`--shape llama-40m`, or `--shape nano` for the embedded model) and get the same
prompts: contest questions and passages, half each, at a number of clients that each ask one after the other. Answers
are greedy, streamed, and of the length that is asked for. A token counts once its text has come. The time to the first
token is that of the first text. The load is made by another process, whose CPU seconds are given apart.

Figures: `clients`, tokens a second and time to the first token at 1, 8 and 64 clients; `own`, the same at 64 clients
beside what lotune's engine does with the same requests and no server; `engines`, lotune's engine beside
CTranslate2's and OpenVINO GenAI's (`serve_engines.py`, --engines-python), without servers; `crowd`, 64 clients for some
minutes, whose texts are those of a single client, with the memory at the beginning and at the end; `refused`, 1,000
requests at once;
`leaving`, 200 clients that leave at random moments; `start`, the seconds from the command to the first answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent
CLIENTS = (1, 8, 64)
PATIENCE = 300.0
TIE = 1e-4
"""Two best logits that are less apart may change places."""


@dataclass
class Answer:
    """One answer as a client saw it: seconds to the first text and to the end, text, HTTP status."""

    prompt: int
    first: float = 0.0
    seconds: float = 0.0
    text: str = ""
    status: int = 0
    tokens: int = 0


@dataclass
class Load:
    """What the clients of one run saw together."""

    clients: int
    seconds: float
    cpu_seconds: float
    answers: list[Answer] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return sum(answer.tokens for answer in self.answers) / self.seconds

    def first(self, part: float) -> float:
        """The time to the first text, in seconds, that a part of the answers stays below."""
        times = sorted(answer.first for answer in self.answers if answer.first)
        return times[min(len(times) - 1, int(part * len(times)))] if times else float("nan")


# --- the clients, in a process of their own


async def ask(port: int, path: str, body: dict[str, Any], answer: Answer, leave_after: float | None = None) -> None:
    """Send one request and read its stream; a client that leaves closes the connection."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        answer.status = int((await reader.readline()).split()[1])
        while line := await reader.readline():
            if leave_after is not None and time.perf_counter() - started > leave_after:
                return
            if line.startswith(b"data: {"):
                _take(json.loads(line[6:]), answer, started)
    finally:
        answer.seconds = time.perf_counter() - started
        writer.close()


def _take(chunk: dict[str, Any], answer: Answer, started: float) -> None:
    if chunk.get("usage"):
        answer.tokens = chunk["usage"]["completion_tokens"]
    for choice in chunk.get("choices") or []:
        text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        if text and not answer.first:
            answer.first = time.perf_counter() - started
        answer.text += text


async def run_clients(plan: dict[str, Any]) -> Load:
    """Let each client ask one after the other, until all prompts are answered or the time is up."""
    answers: list[Answer] = []
    bodies, queue = plan["bodies"], list(enumerate(plan["order"]))
    started, cpu = time.perf_counter(), _cpu_seconds()
    end = started + plan["seconds"] if plan.get("seconds") else None

    async def client(number: int) -> None:
        while queue if end is None else time.perf_counter() < end:
            index = queue.pop(0)[1] if end is None else plan["order"][(number + len(answers)) % len(plan["order"])]
            answer = Answer(index)
            answers.append(answer)
            await ask(plan["port"], plan["path"], bodies[index], answer)
            answer.tokens = answer.tokens or plan["new"][index]

    await asyncio.gather(*(client(number) for number in range(plan["clients"])))
    return Load(plan["clients"], time.perf_counter() - started, _cpu_seconds() - cpu, answers)


async def run_leaving(plan: dict[str, Any]) -> Load:
    """Start requests of which each is left at a random moment."""
    draw, answers = random.Random(1), [Answer(0) for _ in range(plan["clients"])]
    started = time.perf_counter()
    await asyncio.gather(
        *(
            ask(plan["port"], plan["path"], plan["bodies"][0], answer, leave_after=draw.random() * 1.5)
            for answer in answers
        ),
        return_exceptions=True,
    )
    return Load(plan["clients"], time.perf_counter() - started, 0.0, answers)


async def run_crowd(plan: dict[str, Any]) -> Load:
    """Send all requests at once."""
    answers = [Answer(index % len(plan["bodies"])) for index in range(plan["clients"])]
    started = time.perf_counter()
    await asyncio.gather(
        *(ask(plan["port"], plan["path"], plan["bodies"][answer.prompt], answer) for answer in answers),
        return_exceptions=True,
    )
    return Load(plan["clients"], time.perf_counter() - started, 0.0, answers)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


RUNS = {"clients": run_clients, "leaving": run_leaving, "crowd": run_crowd}


def load(plan: dict[str, Any], kind: str = "clients") -> Load:
    """Run clients in another process, and return what they saw."""
    with tempfile.NamedTemporaryFile("w+", suffix=".json") as file:
        json.dump(plan, file)
        file.flush()
        done = subprocess.run(
            [sys.executable, __file__, "--load", kind, file.name], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout)
    return Load(found["clients"], found["seconds"], found["cpu_seconds"], [Answer(**one) for one in found["answers"]])


# --- the servers


@dataclass(frozen=True)
class Contestant:
    """A server: its command with {port} and {model}, the path of completions, and the name of its model."""

    name: str
    command: Sequence[str]
    path: str = "/v1/completions"
    model: str = "{model}"
    extra: tuple[tuple[str, Any], ...] = ()


def contestants(args: argparse.Namespace, folder: Path) -> list[Contestant]:
    python = [sys.executable, "-m"]
    serve = [*python, "lotune", "serve", "--port", "{port}", "--model", "served={model}", "--max-waiting", "256"]
    transformers = [
        *python, "transformers.cli.transformers", "serve", "{model}", "--port", "{port}", "--device", "cpu",
        "--dtype", "float32", "--log-level", "error",
    ]  # fmt: skip
    found = [
        Contestant("lotune", [*serve, "evaluate.dtype=float32"], model="served"),
        Contestant("lotune-int8", [*serve, "--quantize", "int8"], model="served"),
        Contestant("transformers", [*transformers, "--continuous-batching"]),
        Contestant("transformers-plain", transformers),
        Contestant("litserve", [args.litserve_python, str(HERE / "serve_litserve.py"), "{model}", "{port}"]),
        Contestant(
            "llama.cpp",
            [args.llama_python, "-m", "llama_cpp.server", "--model", str(folder / "model.gguf"), "--port", "{port}",
             "--n_ctx", "4096", "--interrupt_requests", "false", "--verbose", "false",
             "--n_threads", str(os.cpu_count())],
            model="",
        ),
    ]  # fmt: skip
    wanted = args.contestants.split(",") if args.contestants else [one.name for one in found]
    return [one for one in found if one.name in wanted]


class Running:
    """A server in a process of its own."""

    def __init__(self, contestant: Contestant, model: Path) -> None:
        self.contestant, self.model, self.port = contestant, model, _free_port()
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115  # closed with the server
        words = [word.format(port=self.port, model=model) for word in contestant.command]
        self.started = time.perf_counter()
        # A group of its own, as some servers have workers that outlive them.
        self.process = subprocess.Popen(words, stdout=self.log, stderr=self.log, start_new_session=True)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def body(self, prompt: str, new: int) -> dict[str, Any]:
        """Return the request for one greedy answer as a stream."""
        name = self.contestant.model.format(model=self.model)
        body = {"prompt": prompt, "max_tokens": new, "temperature": 0, "stream": True}
        return {**body, **({"model": name} if name else {}), **dict(self.contestant.extra)}

    def wait(self, prompt: str) -> float:
        """Return the seconds until the first answer. Raises: RuntimeError with the end of the log if there is none."""
        while time.perf_counter() - self.started < PATIENCE:
            try:
                answer = Answer(0)
                asyncio.run(ask(self.port, self.contestant.path, self.body(prompt, 2), answer))
                if answer.status == 200 and answer.text:
                    return time.perf_counter() - self.started
                if answer.status and answer.status not in (503, 404):
                    break
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.log.seek(0)
        raise RuntimeError(" ".join(self.log.read().split())[-300:] or "no answer")

    def memory(self) -> float:
        """Return the resident memory of the process and its children, in MiB."""
        import psutil

        process = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 2**20

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
            lines = response.read().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"lotune:{name}"))


def _free_port() -> int:
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


# --- the workload


def make(folder: Path, shape: str, count: int, tiny: bool) -> tuple[Path, list[tuple[str, int]]]:
    """Write the model, and return its folder with prompts and lengths."""
    import torch
    from generate import nano_tokenizer, prompts
    from train_workload import SHAPES
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer: Any = nano_tokenizer()
    asks = prompts(count, 1)
    texts = [(tokenizer.decode(ask.ids), 8 if tiny else ask.new) for ask in asks]
    if shape == "nano":
        from lotune.model.loading import base_folder
        from lotune.model.settings import BaseSettings

        model = base_folder(BaseSettings(model="nano"))
        assert model is not None
        return model, texts
    torch.manual_seed(0)
    config = AutoConfig.for_model(**SHAPES[shape], bos_token_id=None, eos_token_id=0, pad_token_id=1)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Ends come never, so that every answer has the length that is asked for.
    made.get_input_embeddings().weight.data[0] = 0
    made.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    _fill_vocabulary(folder / "model" / "tokenizer.json", config.vocab_size)
    return folder / "model", texts


def _fill_vocabulary(file: Path, size: int) -> None:
    """Give every row of the embedding a token with a text; no text is encoded as one of the new ones."""
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"\u0120w{number}": number for number in range(len(vocabulary), size)}
    file.write_text(json.dumps(tokenizer))


def export(model: Path, folder: Path, dtype: str = "float32") -> Path:
    """Write the GGUF file for llama.cpp or OpenVINO, and return its path."""
    file = folder / "model.gguf"
    words = [sys.executable, "-m", "lotune", "export", "gguf", str(model), "--out", str(file), "--dtype", dtype]
    subprocess.run(words, check=True, capture_output=True)
    return file


def engine_speed(
    model: Path, texts: Sequence[tuple[str, int]], rounds: int, clients: int = max(CLIENTS), quantize: str | None = None
) -> tuple[float, dict[int, str]]:
    """Return the tokens a second of the engine alone, with so many requests under way at any time, and its texts."""
    from lotune.generate.engine import Engine
    from lotune.generate.requests import Completion, Request
    from lotune.model.int8 import quantize_int8
    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    base = load_model(BaseSettings(model=str(model), dtype="float32"), "cpu")
    if quantize == "int8":
        quantize_int8(base.model)
    requests = [Request(tuple(base.tokenizer(text)["input_ids"]), new) for text, new in texts]
    speeds, found = [], dict[int, str]()
    for _ in range(rounds):
        engine, waiting, open_ = Engine(base.model, base.tokenizer), list(enumerate(requests)), dict[int, Any]()
        started, tokens = time.perf_counter(), 0
        while waiting or open_:
            while waiting and len(open_) < clients:
                number, request = waiting.pop(0)
                open_[number] = engine.reader(engine.submit(request))
            engine.step()
            for number, reader in list(open_.items()):
                if isinstance(answer := reader.row.outcome, Completion):
                    tokens += len(answer.token_ids)
                    found[number] = answer.text
                    engine.forget(reader.row.index)
                    del open_[number]
        speeds.append(tokens / (time.perf_counter() - started))
    return statistics.median(speeds), found


# --- the figures


def measure_clients(args: argparse.Namespace, folder: Path, figures: list[dict[str, Any]]) -> None:
    # No prompt is asked twice, as a server may keep what it has read.
    model, texts = make(folder, args.shape, args.prompts * args.rounds * len(args.clients), args.tiny)
    export(model, folder)
    new_tokens = sum(new for _, new in texts)
    print(f"\n{args.shape}, {args.prompts} prompts a run, {new_tokens} new tokens in all, {os.cpu_count()} cores")
    print(f"{'':20}{'clients':>8}{'tokens/s':>10}{'first p50':>11}{'p95 ms':>8}{'whole p50 s':>13}{'load CPU s':>12}")
    results: dict[tuple[str, int], Load] = {}
    for contestant in contestants(args, folder):
        try:
            with Running(contestant, model) as server:
                server.wait(texts[0][0])
                for place, clients in enumerate(args.clients):
                    part = texts[place * args.prompts * args.rounds :][: args.prompts * args.rounds]
                    results[contestant.name, clients] = _run(server, part, clients, args)
                    _print(contestant.name, results[contestant.name, clients])
        except (RuntimeError, subprocess.CalledProcessError, ValueError) as error:
            print(f"{contestant.name:20}{error}")
    for clients in args.clients:
        _compare(figures, args.shape, clients, results)


def _run(server: Running, texts: Sequence[tuple[str, int]], clients: int, args: argparse.Namespace) -> Load:
    """Return the run of median speed; each has prompts of its own."""
    size, runs = len(texts) // args.rounds, []
    for first in range(0, len(texts), size):
        # One client alone gets fewer prompts, as it takes as long for an eighth of them.
        part = texts[first : first + (max(8, size // 8) if clients == 1 else size)]
        bodies, new = [server.body(text, count) for text, count in part], [count for _, count in part]
        plan = {"port": server.port, "path": server.contestant.path, "bodies": bodies, "new": new, "clients": clients}
        runs.append(load({**plan, "order": list(range(len(part)))}))
    failed = [answer.status for run in runs for answer in run.answers if answer.status != 200]
    if failed:
        raise RuntimeError(f"{len(failed)} answers failed, the first with status {failed[0]}")
    return sorted(runs, key=lambda run: run.tokens_per_second)[len(runs) // 2]


def _print(name: str, run: Load) -> None:
    whole = statistics.median(answer.seconds for answer in run.answers)
    print(
        f"{name:20}{run.clients:>8}{run.tokens_per_second:>10.0f}{1000 * run.first(0.5):>11.0f}"
        f"{1000 * run.first(0.95):>8.0f}{whole:>13.2f}{run.cpu_seconds:>12.1f}",
        flush=True,
    )


def _compare(figures: list[dict[str, Any]], shape: str, clients: int, results: dict[tuple[str, int], Load]) -> None:
    peers = [
        name for name, count in results if count == clients and not name.startswith("lotune") and name != "llama.cpp"
    ]
    for ours in ("lotune", "lotune-int8"):
        if (ours, clients) not in results or not peers:
            continue
        best = max(peers, key=lambda name: results[name, clients].tokens_per_second)
        mine, theirs = results[ours, clients].tokens_per_second, results[best, clients].tokens_per_second
        figures.append({
            "name": f"serve-{shape}-{ours}-{clients}", "ours": mine, "peer": theirs, "peer_name": best,
            "ratio": mine / theirs, "reach": 2.0 if ours == "lotune" else 3.5, "unit": "tokens/s",
        })  # fmt: skip


def measure_own(args: argparse.Namespace, folder: Path, figures: list[dict[str, Any]]) -> None:
    """The server beside the engine alone, and texts of many clients beside those of one."""
    model, texts = make(folder, args.shape, args.prompts, args.tiny)
    speed, expected = engine_speed(model, texts, args.rounds)
    [ours] = contestants(argparse.Namespace(**{**vars(args), "contestants": "lotune"}), folder)
    with Running(ours, model) as server:
        server.wait(texts[0][0])
        cold = _run(server, texts, 64, argparse.Namespace(rounds=1))  # no prompt was asked before
        before = server.memory()
        bodies, new = [server.body(text, count) for text, count in texts], [count for _, count in texts]
        plan = {"port": server.port, "path": ours.path, "bodies": bodies, "new": new, "clients": 64}
        run = load({**plan, "order": list(range(len(texts))), "seconds": args.seconds})
        after = server.memory()
    failed = sum(answer.status != 200 for answer in run.answers)
    other = {answer.prompt for answer in run.answers if answer.text != expected[answer.prompt]}
    ties = sum(_is_tie(model, texts[index], expected[index]) for index in other)
    print(
        f"\n64 clients for {run.seconds:.0f} s on {args.shape}: {len(run.answers)} answers, {failed} failed, "
        f"{len(other)} prompts with another text than alone, {ties} of them at a tie; memory {before:.0f} to "
        f"{after:.0f} MiB; {run.tokens_per_second:.0f} tokens/s, where prompts repeat; asked once each "
        f"{cold.tokens_per_second:.0f}, the engine alone {speed:.0f}; the load took {run.cpu_seconds:.0f} CPU s"
    )
    figures.append({
        "name": f"serve-{args.shape}-own", "ours": cold.tokens_per_second, "peer": speed,
        "peer_name": "the engine alone", "ratio": cold.tokens_per_second / speed, "reach": 0.85, "unit": "tokens/s",
    })  # fmt: skip


def _is_tie(model: Path, asked: tuple[str, int], text: str) -> bool:
    """Return whether two best logits of an answer are so close that the batch decides between them."""
    import torch

    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    base = load_model(BaseSettings(model=str(model), dtype="float32"), "cpu")
    prompt = base.tokenizer(asked[0])["input_ids"]
    ids = torch.tensor([[*prompt, *base.tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.inference_mode():
        best = base.model(ids).logits[0, len(prompt) - 1 :].topk(2).values
    return bool(((best[:, 0] - best[:, 1]) < TIE).any())


def measure_crowd(args: argparse.Namespace, folder: Path, figures: list[dict[str, Any]]) -> None:
    """1,000 requests at once, and 200 that are left."""
    model, texts = make(folder, args.shape, 64, args.tiny)
    [ours] = contestants(argparse.Namespace(**{**vars(args), "contestants": "lotune"}), folder)
    with Running(ours, model) as server:
        server.wait(texts[0][0])
        bodies = [server.body(text, 8) for text, _ in texts]
        plan = {"port": server.port, "path": ours.path, "bodies": bodies, "new": [8] * len(bodies)}
        run = load({**plan, "clients": args.crowd}, "crowd")
        statuses = [answer.status for answer in run.answers]
        print(
            f"\n{args.crowd} at once: {statuses.count(200)} answered, {statuses.count(429)} refused with 429, "
            f"{len(statuses) - statuses.count(200) - statuses.count(429)} otherwise, {run.seconds:.1f} s in all"
        )
        long = {**plan, "bodies": [server.body(texts[0][0], 400)], "new": [400]}
        left = load({**long, "clients": min(200, args.crowd)}, "leaving")
        deadline = time.perf_counter() + 60
        while server.metric("num_requests_running") + server.metric("num_requests_waiting"):
            if time.perf_counter() > deadline:
                break
            time.sleep(0.05)
        open_requests = server.metric("num_requests_running") + server.metric("num_requests_waiting")
        expected = engine_speed(model, [(texts[0][0], 8)], 1)[1][0]
        answer = Answer(0)
        asyncio.run(ask(server.port, ours.path, bodies[0], answer))
        print(
            f"{left.clients} clients left within 1.5 s: {open_requests:.0f} requests open afterwards, the next answer "
            f"is {'right' if answer.text == expected else 'WRONG'}"
        )


def measure_engines(args: argparse.Namespace, folder: Path, figures: list[dict[str, Any]]) -> None:
    """Our engine beside other engines, all without a server: tokens a second with 1, 8 and 64 prompts at a time."""
    model, texts = make(folder, args.shape, args.prompts, args.tiny)
    file = export(model, folder, "float16")
    peers = [name for name in ("ctranslate2", "ctranslate2-int8", "openvino") if name in args.engines.split(",")]
    print(f"\n{args.shape}, engines without a server, tokens/s\n{'':20}{'clients':>8}{'tokens/s':>10}")
    for clients in args.clients:
        part = texts[: max(8, len(texts) // 8)] if clients == 1 else texts
        speeds = {
            "lotune": engine_speed(model, part, args.rounds, clients)[0],
            "lotune-int8": engine_speed(model, part, args.rounds, clients, "int8")[0],
        }
        for name in peers:
            words = [args.engines_python, str(HERE / "serve_engines.py"), name, str(model), str(file)]
            plan, seconds = json.dumps({"texts": part, "clients": clients}), []
            for _ in range(args.rounds):
                done = subprocess.run(words, input=plan, capture_output=True, text=True)
                if done.returncode:
                    print(f"{name:20}{done.stderr.strip().splitlines()[-1:]}")
                    break
                seconds.append(json.loads(done.stdout.splitlines()[-1]))
            if seconds:
                speeds[name] = sum(new for _, new in part) / statistics.median(seconds)
        for name, speed in speeds.items():
            print(f"{name:20}{clients:>8}{speed:>10.0f}", flush=True)


def measure_start(args: argparse.Namespace, folder: Path, figures: list[dict[str, Any]]) -> None:
    """Seconds from the command to the first answer."""
    model, texts = make(folder, "nano", 8, True)
    [ours] = contestants(argparse.Namespace(**{**vars(args), "contestants": "lotune"}), folder)
    times = []
    for _ in range(args.rounds):
        with Running(ours, model) as server:
            times.append(server.wait(texts[0][0]))
    helps = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lotune", "serve", "--help"], check=True, capture_output=True)
        helps.append(time.perf_counter() - started)
    start, shown = statistics.median(times), statistics.median(helps)
    print(f"\nstart to the first answer of nano: {start:.2f} s; --help {shown:.2f} s")


MEASURES = {"clients": measure_clients, "own": measure_own, "crowd": measure_crowd, "start": measure_start}
MEASURES["engines"] = measure_engines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", default=",".join(MEASURES))
    parser.add_argument("--contestants", default="")
    parser.add_argument("--shape", default="llama-40m")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--clients", type=lambda text: tuple(map(int, text.split(","))), default=CLIENTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=180.0, help="Length of the crowd of 64.")
    parser.add_argument("--crowd", type=int, default=1000)
    parser.add_argument("--litserve-python", default=sys.executable)
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--engines-python", default=sys.executable)
    parser.add_argument("--engines", default="ctranslate2,ctranslate2-int8,openvino")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        kind, plan = args.load
        print(json.dumps(asdict(asyncio.run(RUNS[kind](json.loads(Path(plan).read_text()))))))
        return
    if args.tiny:
        args.shape, args.prompts, args.rounds, args.seconds, args.crowd = "llama-tiny-served", 16, 1, 2.0, 100
        args.contestants = args.contestants or "lotune,lotune-int8"
        from train_workload import SHAPES

        # nano's tokeniser has more tokens than the tiny shape.
        SHAPES[args.shape] = {**SHAPES["llama-tiny"], "vocab_size": 2048}
    figures: list[dict[str, Any]] = []
    for name in args.figures.split(","):
        with tempfile.TemporaryDirectory() as folder:
            MEASURES[name](args, Path(folder), figures)
    print(f"\n{'figure':32}{'ours':>9}{'peer':>9}  {'peer name':22}{'ratio':>6}{'reach':>7}  unit")
    for one in figures:
        print(
            f"{one['name']:32}{one['ours']:>9.0f}{one['peer']:>9.0f}  {one['peer_name']:22}{one['ratio']:>6.2f}"
            f"{one['reach']:>7.2f}  {one['unit']}"
        )
    if args.json:
        args.json.write_text(json.dumps({"figures": figures}, indent=1))


if __name__ == "__main__":
    main()
