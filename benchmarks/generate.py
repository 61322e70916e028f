"""Answer prompts beside transformers' own generation, in one run on one machine, and print medians and ratios.

    python benchmarks/generate.py [--figures mixed,stream,…] [--rounds 3] [--json FILE]
    python benchmarks/generate.py --device cuda         # requests-1b, the figure of a GPU
    python benchmarks/generate.py --tiny --rounds 1     # a try-out in seconds; its figures mean nothing

Everybody has the same random weights, number format, prompts and number of new tokens for each, and answers greedily;
an answer that differs from ours where the two best logits are more than 1e-4 apart ends the run with an error; in
bfloat16, which rounds a logit of 4 to .03 and whatever it is made from too, more than .25. A contestant that fails says
why, and the others go on. Rounds alternate the contestants. New tokens a second are those that were asked for: what a
batch generates beyond, because another of its rows is longer, does not count, and the peers get their prompts sorted by
length. On a GPU the most memory that PyTorch's tensors took is told, weights included.

Figures: `mixed`, contest questions and passages together, against `generate` in batches of 1, 16 and 64 (of 1 with an
eighth of the prompts) and transformers' continuous batching where it runs; `stream`, one prompt alone, beside what the
memory's bandwidth and the dispatch of operations allow a token at a time; `sentences`, short sentences under one
instruction, one after the other; `nano`, what nano answers to prompts as in `mixed`, one after the other; `retention`,
the seconds that nano takes for all questions of the retention protocol; `deviations`, how many of nano's answers
bfloat16 changes, and whether they depend on what they are asked with; `requests-1b`, on a GPU, 512 prompts as in
`mixed` with the shape of Llama-3.2-1B in bfloat16, against `generate` at the best of four batch sizes.

Of one prompt alone there are two ratios: to `generate` as it comes, and to `lookup`, the same with its own drafts, as
random weights repeat themselves more than a trained model does. `lotune-plain` has no drafts; it is what is set
against the memory's bandwidth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from train_workload import SHAPES, check_device, peak_bytes, settle

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PROTOCOL_ITEMS = 2_067
"""Questions of the retention protocol: those of the contest's validation file."""
CLOSE = {"float32": 1e-4, "bfloat16": 0.25}
"""Two best logits that are less apart may change places."""
BATCH_TOKENS = {"cpu": 65_536, "cuda": 262_144}
"""What our engine may hold at once."""


@dataclass(frozen=True)
class Ask:
    """A prompt and how many tokens are to follow."""

    ids: tuple[int, ...]
    new: int


Contestant = Callable[[Any, Sequence[Ask]], list[tuple[int, ...]]]


def prompts(count: int, seed: int) -> list[Ask]:
    """Contest questions (16 to 96 new tokens) and passages with a question (4 to 24), by turns."""
    import random

    from lotune.data.templates import TEMPLATES
    from lotune.tasks.arithmetic.task import ArithmeticSettings
    from lotune.tasks.reading.passage_generator import passages
    from lotune.tasks.registry import build_task
    from lotune.tasks.user_rows import generating

    tokenizer, draw = nano_tokenizer(), random.Random(seed)
    task = build_task(ArithmeticSettings())
    numbered = ((str(number), row) for number, row in enumerate(generating(task).generate_training_rows(count, seed)))
    texts = [(example.prompt, draw.randint(16, 96)) for example in task.examples(numbered, training=False)]
    for place, row in enumerate(passages(count // 2, seed, "both")):
        text = TEMPLATES["retention"].render(row["context"], row["qas"][0]["question"])
        texts[2 * place] = (text, draw.randint(4, 24))
    return [Ask(tuple(tokenizer(text)["input_ids"]), new) for text, new in texts]


def sentences(count: int, seed: int) -> list[Ask]:
    """Sentences that are to be judged under one instruction, with two new tokens each."""
    from lotune.tasks.reading.passage_generator import sentences as plain
    from lotune.tasks.registry import build_task
    from lotune.tasks.sentence_classification import SentencesSettings

    task, tokenizer = build_task(SentencesSettings()), nano_tokenizer()
    rows = ((str(number), {"sentence": text, "label": "1"}) for number, text in enumerate(plain(count, seed, "en")))
    return [Ask(tuple(tokenizer(made.prompt)["input_ids"]), 2) for made in task.examples(rows, training=False)]


def nano_tokenizer() -> Any:
    """Nano's tokeniser, whose ids every vocabulary here has."""
    from lotune.model.loading import load_tokenizer
    from lotune.model.settings import BaseSettings

    return load_tokenizer(BaseSettings())[0]


@lru_cache(maxsize=1)
def made(shape: str, dtype: str, device: str) -> Any:
    """A model of random weights that never ends an answer by itself."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**SHAPES[shape], "vocab_size": max(SHAPES[shape]["vocab_size"], 2048)})
    config.eos_token_id = config.pad_token_id = config.bos_token_id = None
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    with tempfile.TemporaryDirectory() as folder:  # as a user would have it: saved and loaded
        model.save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        return model.to(device).eval()


class Tokens:
    """Stands in for a tokeniser: nothing is decoded here."""

    eos_token_id = None

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """No text."""
        return ""


def ours(model: Any, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
    """Lotune's engine with all prompts at once."""
    from lotune.generate.engine import generate_completions
    from lotune.generate.requests import Request

    tokens: Any = Tokens()
    batch_tokens = BATCH_TOKENS[model.device.type]
    found = generate_completions(model, tokens, [Request(ask.ids, ask.new) for ask in asks], batch_tokens=batch_tokens)
    return [answer.token_ids for answer in found]


def ours_without_drafts(model: Any, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
    """The same a token at a time."""
    from unittest.mock import patch

    from lotune.generate.continuous_batching import MAX_STEP_TOKENS

    with patch.dict(MAX_STEP_TOKENS, {model.device.type: 1}):
        return ours_one_by_one(model, asks)


def ours_one_by_one(model: Any, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
    """Lotune's engine asked one prompt after the other."""
    from lotune.generate.engine import Engine
    from lotune.generate.requests import Request

    tokens: Any = Tokens()
    engine = Engine(model, tokens)
    room = max(len(ask.ids) + ask.new for ask in asks)
    return [next(engine.stream([Request(ask.ids, ask.new)], batch_tokens=room))[1].token_ids for ask in asks]


def generate_in_batches(size: int, **more: Any) -> Contestant:
    """Transformers' generate on padded batches of prompts of similar length; each runs to its longest answer."""

    def run(model: Any, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
        import torch

        answers: dict[int, tuple[int, ...]] = {}
        order = sorted(range(len(asks)), key=lambda place: (asks[place].new, len(asks[place].ids)))
        for start in range(0, len(order), size):
            group = order[start : start + size]
            width, new = max(len(asks[place].ids) for place in group), max(asks[place].new for place in group)
            ids = torch.tensor([[*[0] * (width - len(asks[place].ids)), *asks[place].ids] for place in group])
            mask = torch.tensor([[0] * (width - len(asks[p].ids)) + [1] * len(asks[p].ids) for p in group])
            out = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=new,
                do_sample=False, pad_token_id=0, **more,
            )  # fmt: skip
            answers |= {p: tuple(row[width : width + asks[p].new].tolist()) for p, row in zip(group, out, strict=True)}
        return [answers[place] for place in range(len(asks))]

    return run


def continuous(model: Any, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
    """Transformers' own continuous batching; all answers run to the longest one, as it has one length for all."""
    from transformers import GenerationConfig

    settings = GenerationConfig(max_new_tokens=max(ask.new for ask in asks), do_sample=False, eos_token_id=-1)
    out = model.generate_batch([list(ask.ids) for ask in asks], generation_config=settings, progress_bar=False)
    rows = [out[key] for key in sorted(out, key=lambda key: int(key.rsplit("_", 1)[-1]))]
    return [tuple(row.generated_tokens[: ask.new]) for row, ask in zip(rows, asks, strict=True)]


def one_at_a_time(model: Any, asks: Sequence[Ask], rounds: int) -> dict[str, Any]:
    """Our engine and `generate` asked one by one, both also with and without drafts (ten tokens, as its guide has)."""
    everybody = {
        "lotune": ours_one_by_one, "lotune-plain": ours_without_drafts, "generate-1": generate_in_batches(1),
        "lookup": generate_in_batches(1, prompt_lookup_num_tokens=10),
    }  # fmt: skip
    lines = compare(model, asks, everybody, {}, rounds)
    peers = (("ratio", "generate-1"), ("ratio_to_lookup", "lookup"))
    return lines | {ratio: best({name: lines[name] for name in ("lotune", peer)}) for ratio, peer in peers}


def check_same(model: Any, asks: Sequence[Ask], ours: Sequence[tuple[int, ...]], other: Any, name: str) -> int:
    """How many answers differ at a tie. Ends the run where one differs and it is none."""
    import torch

    ties, close = 0, CLOSE[str(model.dtype).removeprefix("torch.")]
    for ask, mine, theirs in zip(asks, ours, other, strict=True):
        if mine == theirs:
            continue
        place = next((p for p, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), None)
        if place is None:
            raise SystemExit(f"{name}: an answer has {len(theirs)} tokens, ours has {len(mine)}")
        with torch.inference_mode():
            ids = torch.tensor([[*ask.ids, *mine[:place]]], device=model.device)
            logits = model(input_ids=ids).logits[0, -1].float()
        apart = float(logits.max() - logits[[mine[place], theirs[place]]].min())
        if apart > close:
            raise SystemExit(f"{name}: another answer than ours, with logits {apart:.2e} apart at token {place}")
        ties += 1
    return ties


def compare(
    model: Any, asks: Sequence[Ask], contestants: dict[str, Contestant], part: dict[str, int], rounds: int
) -> Any:
    """Tokens a second of each contestant, or why it failed; `part`: only so many of the prompts."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    reference: list[tuple[int, ...]] = []
    lines: dict[str, Any] = {}
    device = model.device.type
    for number in range(rounds):
        names = list(contestants)
        for name in [*names[number % len(names) :], *names[: number % len(names)]]:
            stride = len(asks) // part.get(name, len(asks))
            chosen = asks[::stride]
            started = _begin(device)
            try:
                answers = contestants[name](model, chosen)
                settle(device)
            except (ImportError, NotImplementedError, RuntimeError, ValueError, AttributeError, TypeError) as error:
                lines[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
                rates.pop(name, None)
                print(f"  {name:<16}failed: {lines[name]['failed']}", file=sys.stderr, flush=True)
                continue
            seconds = time.perf_counter() - started
            memory = {"peak_mib": peak_bytes(device) / 2**20} if device == "cuda" else {}
            reference = reference or answers
            if number == 0:
                lines[name] = {"ties": check_same(model, chosen, reference[::stride], answers, name), **memory}
            if name in rates:
                rates[name].append(sum(ask.new for ask in chosen) / seconds)
                print(f"  {name:<16}{rates[name][-1]:>10.1f} tokens/s", file=sys.stderr, flush=True)
    for name, found in rates.items():
        lines[name]["tokens_a_second"] = statistics.median(found)
    return lines


def _begin(device: str) -> float:
    """The time now, with nothing under way on the device and its most memory not yet taken."""
    settle(device)
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    return time.perf_counter()


def limits(model: Any) -> dict[str, float]:
    """Tokens a second of one stream that the memory and the dispatch of operations allow.

    The memory: all weights read once a token, at the rate of the machine's own product of a large matrix and a vector.
    The dispatch: the operations of one forward pass, counted by the profiler, at the time that a tiny one takes.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    device = model.device
    matrix, vector = torch.ones(8192, 8192, device=device), torch.ones(8192, device=device)
    read = [_seconds(lambda: matrix @ vector, device.type) for _ in range(9)]
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    ids = torch.tensor([[5]], device=device)
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as seen:
        model(input_ids=ids)
    calls = sum(event.count for event in seen.key_averages() if event.key.startswith("aten::"))
    small = torch.ones(8, device=device)
    thousand = [_seconds(lambda: [torch.add(small, small) for _ in range(1000)], device.type) for _ in range(9)]
    one = statistics.median(thousand) / 1000
    rate = matrix.numel() * 4 / statistics.median(read)
    return {"bandwidth_bytes_a_second": rate, "bandwidth": rate / size, "dispatch": 1 / (calls * one)}


def _seconds(do: Callable[[], Any], device: str) -> float:
    settle(device)
    started = time.perf_counter()
    do()
    settle(device)
    return time.perf_counter() - started


def retention(items: int, device: str) -> dict[str, float]:
    """Seconds of nano's answers to generated passages, one question each, model loading left out."""
    from lotune.evaluate.predict import predict
    from lotune.generate.answering_model import AnsweringModel
    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings
    from lotune.tasks.reading.task import ReadingSettings
    from lotune.tasks.registry import build_task
    from lotune.tasks.user_rows import generating

    base = load_model(BaseSettings(), device)
    task = build_task(ReadingSettings(language="both"))
    rows = list(generating(task).generate_training_rows(items, 7))
    examples = list(task.examples(((str(number), row) for number, row in enumerate(rows)), training=False))[:items]
    answering = AnsweringModel(base.model, base.tokenizer)
    started = time.perf_counter()
    done = list(predict(task, examples, answering, batch_tokens=65_536, out=None, context=1024))
    return {"items": len(done), "seconds": time.perf_counter() - started, "reach": 90.0}


def deviations(count: int, device: str) -> dict[str, int]:
    """How many greedy answers of nano to prompts of both kinds are others in bfloat16.

    `from_float32`: than in float32; `alone`: asked alone than together; `again`: asked of an engine that has answered
    all of them before, which drafts what it said then; `…_in_float32`: the same in float32, where they may differ at
    ties only.
    """
    from lotune.generate.engine import Engine
    from lotune.generate.requests import Request
    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    asked = [Request(ask.ids, ask.new) for ask in prompts(count, 9)]
    together: dict[str, list[tuple[int, ...]]] = {}
    alone: dict[str, list[tuple[int, ...]]] = {}
    again: dict[str, list[tuple[int, ...]]] = {}
    for dtype in ("float32", "bfloat16"):
        base = load_model(BaseSettings(dtype=dtype), device)  # type: ignore[arg-type]
        model: Any = base.model
        tokenizer: Any = base.tokenizer
        engine = Engine(model, tokenizer)
        found = dict(engine.stream(asked, batch_tokens=65_536))
        together[dtype] = [found[place].token_ids for place in range(count)]
        alone[dtype] = [
            next(Engine(model, tokenizer).stream([request], batch_tokens=1))[1].token_ids for request in asked
        ]
        again[dtype] = [next(engine.stream([request], batch_tokens=1))[1].token_ids for request in asked]

    def differing(one: list[Any], other: list[Any]) -> int:
        return sum(mine != its for mine, its in zip(one, other, strict=True))

    return {
        "answers": count, "from_float32": differing(together["bfloat16"], together["float32"]),
        "alone": differing(alone["bfloat16"], together["bfloat16"]),
        "again": differing(again["bfloat16"], alone["bfloat16"]),
        "alone_in_float32": differing(alone["float32"], together["float32"]),
        "again_in_float32": differing(again["float32"], alone["float32"]),
    }  # fmt: skip


def best(lines: dict[str, Any], name: str = "lotune") -> float | None:
    """Our rate over that of the fastest peer; None where we failed, or all of them."""
    rates = {one: line["tokens_a_second"] for one, line in lines.items() if "tokens_a_second" in line}
    ours = rates.pop(name, None)
    return float(ours / max(rates.values())) if ours and rates else None


def mixed(options: argparse.Namespace) -> dict[str, Any]:
    """256 prompts of both kinds at once."""
    asks = prompts(32 if options.tiny else 256, 3)
    everybody = {"lotune": ours, **{f"generate-{size}": generate_in_batches(size) for size in (1, 16, 64)}}
    everybody["continuous"] = continuous
    lines = compare(model_40m(options), asks, everybody, {"generate-1": len(asks) // 8}, options.rounds)
    return {**lines, "ratio": best(lines), "reach": 4.0}


def stream(options: argparse.Namespace) -> dict[str, Any]:
    """One prompt alone, and which share of the lower limit we reach."""
    asks, model = [Ask(prompts(2, 5)[1].ids, 16 if options.tiny else 128)], model_40m(options)
    lines, allowed = one_at_a_time(model, asks, options.rounds), limits(model)
    share = lines["lotune-plain"].get("tokens_a_second", 0) / min(allowed["bandwidth"], allowed["dispatch"])
    return {**lines, "reach": 4.0, "limits": allowed, "share": share}


def one_by_one(options: argparse.Namespace) -> dict[str, Any]:
    """Sentences under one instruction, one after the other."""
    asks = sentences(20 if options.tiny else 150, 3)
    return {**one_at_a_time(model_40m(options), asks, options.rounds), "reach": 10.0}


def nano(options: argparse.Namespace) -> dict[str, Any]:
    """What nano itself answers, one prompt after the other: each answer runs to its own end, and no further."""
    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    base = load_model(BaseSettings(dtype="float32"), options.device)
    model: Any = base.model
    asked = [Ask(ask.ids, 300) for ask in prompts(4 if options.tiny else 60, 9)]
    asks = [Ask(ask.ids, max(1, len(answer))) for ask, answer in zip(asked, ours(model, asked), strict=True)]
    model.generation_config.eos_token_id = None
    return one_at_a_time(model, asks, options.rounds)


def requests_1b(options: argparse.Namespace) -> dict[str, Any]:
    """512 prompts of both kinds at once, on a GPU."""
    asks = prompts(32 if options.tiny else 512, 3)
    model = made("llama-tiny" if options.tiny else "llama-1b", "bfloat16", options.device)
    sizes = (8, 32) if options.tiny else (32, 64, 128, 256, 512)
    everybody = {"lotune": ours, **{f"generate-{size}": generate_in_batches(size) for size in sizes}}
    lines = compare(model, asks, everybody, {}, options.rounds)
    return {**lines, "ratio": best(lines), "reach": 5.0}


def model_40m(options: argparse.Namespace) -> Any:
    """The model of the figures of a processor."""
    return made("llama-tiny" if options.tiny else "llama-40m", "float32", options.device)


FIGURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "mixed": mixed,
    "stream": stream,
    "sentences": one_by_one,
    "nano": nano,
    "retention": lambda options: retention(30 if options.tiny else PROTOCOL_ITEMS, options.device),
    "deviations": lambda options: deviations(20 if options.tiny else 256, options.device),
    "requests-1b": requests_1b,
}
ON_GPU = "requests-1b"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", help="which ones, with commas (default: all of the device)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="on which everybody computes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.figures = (options.figures or ",".join(one for one in FIGURES if (one == ON_GPU) == on_gpu)).split(",")
    if unknown := set(options.figures) - set(FIGURES):
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    if ON_GPU in options.figures and not (on_gpu or options.tiny):
        parser.error(f"{ON_GPU}: needs --device cuda, or --tiny")
    return options


def main() -> None:
    """Run the figures that are asked for and print them."""
    options = arguments()
    check_device(options.device)
    import torch

    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {}
    for figure in options.figures:
        print(figure, file=sys.stderr, flush=True)
        found[figure] = FIGURES[figure](options)
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
