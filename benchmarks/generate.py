"""Answer prompts beside transformers' own generation, in one run on one machine, and print medians and ratios.

    python benchmarks/generate.py [--figures mixed,stream,…] [--rounds 3] [--json FILE]
    python benchmarks/generate.py --device cuda         # requests-1b, the figure of a GPU
    python benchmarks/generate.py --tiny --rounds 1     # a trial run in seconds; its figures mean nothing

Everybody has the same random weights, number format, prompts and number of new tokens for each, and answers greedily;
an answer that differs from ours where the two best logits are more than 1e-4 apart ends the run with an error; in
bfloat16, which rounds a logit of 4 to .03 and whatever it is made from too, more than .25. A contestant that fails says
why, and the others go on. Rounds alternate the contestants. New tokens a second are those that were asked for: what a
batch generates beyond, because another of its rows is longer, does not count, and the peers get their prompts sorted by
length. On a GPU the most memory that PyTorch's tensors took is told, weights included.

Figures: `mixed`, contest questions and passages together, against `generate` in batches of 1, 16 and 64 (of 1 with an
eighth of the prompts) and transformers' continuous batching where it runs; `mixed-int8`, the same with lotune's int8
layers, and with torchao's in `generate`, without a comparison of texts; `stream`, one prompt alone, beside what the
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
"""Tokens that lotune's engine may hold at once."""


@dataclass(frozen=True)
class Ask:
    """A prompt and the number of tokens to generate."""

    ids: tuple[int, ...]
    new: int


Contestant = Callable[[Any, Sequence[Ask]], list[tuple[int, ...]]]


def prompts(count: int, seed: int) -> list[Ask]:
    """Return contest questions (16 to 96 new tokens) and passages with a question (4 to 24), alternating."""
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
    for index, row in enumerate(passages(count // 2, seed, "both")):
        text = TEMPLATES["retention"].render(row["context"], row["qas"][0]["question"])
        texts[2 * index] = (text, draw.randint(4, 24))
    return [Ask(tuple(tokenizer(text)["input_ids"]), new) for text, new in texts]


def sentences(count: int, seed: int) -> list[Ask]:
    """Return sentences to classify under one instruction, with two new tokens each."""
    from lotune.tasks.reading.passage_generator import sentences as plain
    from lotune.tasks.registry import build_task
    from lotune.tasks.sentence_classification import SentencesSettings

    task, tokenizer = build_task(SentencesSettings()), nano_tokenizer()
    rows = ((str(number), {"sentence": text, "label": "1"}) for number, text in enumerate(plain(count, seed, "en")))
    return [Ask(tuple(tokenizer(made.prompt)["input_ids"]), 2) for made in task.examples(rows, training=False)]


def nano_tokenizer() -> Any:
    """Return nano's tokeniser, whose ids every vocabulary here has."""
    from lotune.model.loading import load_tokenizer
    from lotune.model.settings import BaseSettings

    return load_tokenizer(BaseSettings())[0]


@lru_cache(maxsize=1)
def made(shape: str, dtype: str, device: str) -> Any:
    """Return a model with random weights that never ends an answer by itself."""
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
    """Stub of a tokeniser: nothing is decoded here."""

    eos_token_id = None

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """Return no text."""
        return ""


def ours(model: Any, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
    """Run lotune's engine with all prompts at once."""
    from lotune.generate.engine import generate_completions
    from lotune.generate.requests import Request

    tokens: Any = Tokens()
    batch_tokens = BATCH_TOKENS[model.device.type]
    requests = [Request(ask.ids, ask.new) for ask in asks]
    completions = generate_completions(model, tokens, requests, batch_tokens=batch_tokens)
    return [completion.token_ids for completion in completions]


def ours_without_drafts(model: Any, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
    """Run lotune's engine one prompt after the other, a token at a time."""
    from unittest.mock import patch

    from lotune.generate.continuous_batching import MAX_STEP_TOKENS

    with patch.dict(MAX_STEP_TOKENS, {model.device.type: 1}):
        return ours_one_by_one(model, asks)


def ours_one_by_one(model: Any, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
    """Run lotune's engine one prompt after the other."""
    from lotune.generate.engine import Engine
    from lotune.generate.requests import Request

    tokens: Any = Tokens()
    engine = Engine(model, tokens)
    batch_tokens = max(len(ask.ids) + ask.new for ask in asks)
    return [next(engine.stream([Request(ask.ids, ask.new)], batch_tokens=batch_tokens))[1].token_ids for ask in asks]


def generate_in_batches(size: int, **more: Any) -> Contestant:
    """Return a contestant: transformers' generate on padded batches of prompts of similar length."""

    def run(model: Any, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
        import torch

        answers: dict[int, tuple[int, ...]] = {}
        order = sorted(range(len(asks)), key=lambda index: (asks[index].new, len(asks[index].ids)))
        for start in range(0, len(order), size):
            group = order[start : start + size]
            # Each batch runs to its longest answer.
            length, new = max(len(asks[index].ids) for index in group), max(asks[index].new for index in group)
            ids = torch.tensor([[*[0] * (length - len(asks[index].ids)), *asks[index].ids] for index in group])
            mask = torch.tensor([[0] * (length - len(asks[i].ids)) + [1] * len(asks[i].ids) for i in group])
            out = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), max_new_tokens=new,
                do_sample=False, pad_token_id=0, **more,
            )  # fmt: skip
            for index, row in zip(group, out, strict=True):
                answers[index] = tuple(row[length : length + asks[index].new].tolist())
        return [answers[index] for index in range(len(asks))]

    return run


def continuous(model: Any, asks: Sequence[Ask]) -> list[tuple[int, ...]]:
    """Run transformers' continuous batching; it has one length for all, so each answer runs to the longest."""
    from transformers import GenerationConfig

    settings = GenerationConfig(max_new_tokens=max(ask.new for ask in asks), do_sample=False, eos_token_id=-1)
    out = model.generate_batch([list(ask.ids) for ask in asks], generation_config=settings, progress_bar=False)
    rows = [out[key] for key in sorted(out, key=lambda key: int(key.rsplit("_", 1)[-1]))]
    return [tuple(row.generated_tokens[: ask.new]) for row, ask in zip(rows, asks, strict=True)]


def one_at_a_time(model: Any, asks: Sequence[Ask], rounds: int) -> dict[str, Any]:
    """Compare lotune's engine and `generate`, one prompt at a time, each with and without drafts.

    `generate` drafts ten tokens, as in its guide.
    """
    contestants = {
        "lotune": ours_one_by_one, "lotune-plain": ours_without_drafts, "generate-1": generate_in_batches(1),
        "lookup": generate_in_batches(1, prompt_lookup_num_tokens=10),
    }  # fmt: skip
    lines = compare(model, asks, contestants, {}, rounds)
    peers = (("ratio", "generate-1"), ("ratio_to_lookup", "lookup"))
    return lines | {ratio: best({name: lines[name] for name in ("lotune", peer)}) for ratio, peer in peers}


def count_ties(model: Any, asks: Sequence[Ask], ours: Sequence[tuple[int, ...]], other: Any, name: str) -> int:
    """Return the number of answers that differ at a tie. Raises: SystemExit if one differs elsewhere."""
    import torch

    ties, close = 0, CLOSE[str(model.dtype).removeprefix("torch.")]
    for ask, answer, peer_answer in zip(asks, ours, other, strict=True):
        if answer == peer_answer:
            continue
        pairs = enumerate(zip(answer, peer_answer, strict=False))
        index = next((index for index, pair in pairs if pair[0] != pair[1]), None)
        if index is None:
            raise SystemExit(f"{name}: an answer has {len(peer_answer)} tokens, ours has {len(answer)}")
        with torch.inference_mode():
            ids = torch.tensor([[*ask.ids, *answer[:index]]], device=model.device)
            logits = model(input_ids=ids).logits[0, -1].float()
        difference = float(logits.max() - logits[[answer[index], peer_answer[index]]].min())
        if difference > close:
            raise SystemExit(f"{name}: another answer than ours, with logits {difference:.2e} apart at token {index}")
        ties += 1
    return ties


def compare(
    model: Any, asks: Sequence[Ask], contestants: dict[str, Contestant], part: dict[str, int], rounds: int
) -> Any:
    """Return the tokens per second of each contestant, or why it failed; `part` limits its number of prompts."""
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
                lines[name] = {"ties": count_ties(model, chosen, reference[::stride], answers, name), **memory}
            if name in rates:
                rates[name].append(sum(ask.new for ask in chosen) / seconds)
                print(f"  {name:<16}{rates[name][-1]:>10.1f} tokens/s", file=sys.stderr, flush=True)
    for name, rounds_of_name in rates.items():
        lines[name]["tokens_a_second"] = statistics.median(rounds_of_name)
    return lines


def _begin(device: str) -> float:
    """Wait for the device, reset its peak memory, and return the time."""
    settle(device)
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    return time.perf_counter()


def limits(model: Any) -> dict[str, float]:
    """Return the tokens per second of one stream that memory and dispatch of operations allow.

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
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        model(input_ids=ids)
    calls = sum(event.count for event in profiled.key_averages() if event.key.startswith("aten::"))
    small = torch.ones(8, device=device)
    thousand = [_seconds(lambda: [torch.add(small, small) for _ in range(1000)], device.type) for _ in range(9)]
    seconds_per_call = statistics.median(thousand) / 1000
    rate = matrix.numel() * 4 / statistics.median(read)
    return {"bandwidth_bytes_a_second": rate, "bandwidth": rate / size, "dispatch": 1 / (calls * seconds_per_call)}


def _seconds(do: Callable[[], Any], device: str) -> float:
    settle(device)
    started = time.perf_counter()
    do()
    settle(device)
    return time.perf_counter() - started


def retention(items: int, device: str) -> dict[str, float]:
    """Return the seconds of nano's answers to generated passages, one question each, without loading the model."""
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
    predictions = list(predict(task, examples, answering, batch_tokens=65_536, out=None, context=1024))
    return {"items": len(predictions), "seconds": time.perf_counter() - started, "reach": 90.0}


def deviations(count: int, device: str) -> dict[str, int]:
    """Return how many greedy answers of nano to prompts of both kinds differ in bfloat16.

    `from_float32`: from those in float32; `alone`: generated alone from generated together; `again`: generated by an
    engine that drafts from its earlier answers; `…_in_float32`: the same in float32, where they may differ at ties
    only.
    """
    from lotune.generate.engine import Engine
    from lotune.generate.requests import Request
    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    requests = [Request(ask.ids, ask.new) for ask in prompts(count, 9)]
    together: dict[str, list[tuple[int, ...]]] = {}
    alone: dict[str, list[tuple[int, ...]]] = {}
    again: dict[str, list[tuple[int, ...]]] = {}
    for dtype in ("float32", "bfloat16"):
        base = load_model(BaseSettings(dtype=dtype), device)  # type: ignore[arg-type]
        model: Any = base.model
        tokenizer: Any = base.tokenizer
        engine = Engine(model, tokenizer)
        completions = dict(engine.stream(requests, batch_tokens=65_536))
        together[dtype] = [completions[index].token_ids for index in range(count)]
        alone[dtype] = [
            next(Engine(model, tokenizer).stream([request], batch_tokens=1))[1].token_ids for request in requests
        ]
        again[dtype] = [next(engine.stream([request], batch_tokens=1))[1].token_ids for request in requests]

    def num_different(answers: list[Any], other: list[Any]) -> int:
        return sum(left != right for left, right in zip(answers, other, strict=True))

    return {
        "answers": count, "from_float32": num_different(together["bfloat16"], together["float32"]),
        "alone": num_different(alone["bfloat16"], together["bfloat16"]),
        "again": num_different(again["bfloat16"], alone["bfloat16"]),
        "alone_in_float32": num_different(alone["float32"], together["float32"]),
        "again_in_float32": num_different(again["float32"], alone["float32"]),
    }  # fmt: skip


def best(lines: dict[str, Any], name: str = "lotune") -> float | None:
    """Return lotune's rate divided by that of the fastest peer; None if lotune or all peers failed."""
    rates = {contestant: line["tokens_a_second"] for contestant, line in lines.items() if "tokens_a_second" in line}
    ours = rates.pop(name, None)
    return float(ours / max(rates.values())) if ours and rates else None


def mixed(options: argparse.Namespace) -> dict[str, Any]:
    """Measure 256 prompts of both kinds at once."""
    asks = prompts(32 if options.tiny else 256, 3)
    contestants = {"lotune": ours, **{f"generate-{size}": generate_in_batches(size) for size in (1, 16, 64)}}
    contestants["continuous"] = continuous
    lines = compare(model_40m(options), asks, contestants, {"generate-1": len(asks) // 8}, options.rounds)
    return {**lines, "ratio": best(lines), "reach": 4.0}


def mixed_int8(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the same prompts in int8: lotune's, and transformers' generate with torchao's int8 layers."""
    import copy

    from lotune.model.int8 import quantize_int8

    asks, model = prompts(32 if options.tiny else 256, 3), model_40m(options)
    peers = {f"generate-{size}": generate_in_batches(size) for size in (16, 64)}
    quantized, exact = copy.deepcopy(model), ours(model, asks)
    report = quantize_int8(quantized)
    contests: list[tuple[Any, dict[str, Contestant]]] = [
        (model, {"lotune": ours, **peers}), (quantized, {"lotune-int8": ours})
    ]  # fmt: skip
    pairs = [
        pair for one, other in zip(exact, ours(quantized, asks), strict=True) for pair in zip(one, other, strict=True)
    ]
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        other = copy.deepcopy(model)
        quantize_(other, Int8DynamicActivationInt8WeightConfig())
        contests.append((other, {"generate-64-torchao": generate_in_batches(64)}))
    except (ImportError, RuntimeError, AttributeError, NotImplementedError) as error:
        print(f"  generate-64-torchao failed: {str(error).splitlines()[0]}", file=sys.stderr)
    # Round by round, as the speed of a shared machine changes within minutes.
    rounds = [
        {name: line for made, ones in contests for name, line in compare(made, asks, ones, {}, 1).items()}
        for _ in range(options.rounds)
    ]
    lines = {
        name: {**line, "tokens_a_second": statistics.median(one[name].get("tokens_a_second", 0.0) for one in rounds)}
        for name, line in rounds[0].items()
    }
    in_float32 = {name: line for name, line in lines.items() if name not in ("lotune", "generate-64-torchao")}
    in_int8 = {name: lines[name] for name in ("lotune-int8", "generate-64-torchao") if name in lines}
    return {
        **lines, "ratio": best(in_float32, "lotune-int8"), "ratio_in_int8": best(in_int8, "lotune-int8"),
        "layers": report.layers, "same_tokens": sum(a == b for a, b in pairs) / len(pairs), "reach": 3.5,
    }  # fmt: skip


def stream(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one prompt alone, and the fraction of the lower limit that lotune reaches."""
    asks, model = [Ask(prompts(2, 5)[1].ids, 16 if options.tiny else 128)], model_40m(options)
    lines, allowed = one_at_a_time(model, asks, options.rounds), limits(model)
    fraction = lines["lotune-plain"].get("tokens_a_second", 0) / min(allowed["bandwidth"], allowed["dispatch"])
    return {**lines, "reach": 4.0, "limits": allowed, "share": fraction}


def one_by_one(options: argparse.Namespace) -> dict[str, Any]:
    """Measure sentences under one instruction, one after the other."""
    asks = sentences(20 if options.tiny else 150, 3)
    return {**one_at_a_time(model_40m(options), asks, options.rounds), "reach": 10.0}


def nano(options: argparse.Namespace) -> dict[str, Any]:
    """Measure nano, one prompt after the other; each answer ends where nano ends it."""
    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    base = load_model(BaseSettings(dtype="float32"), options.device)
    model: Any = base.model
    long = [Ask(ask.ids, 300) for ask in prompts(4 if options.tiny else 60, 9)]
    asks = [Ask(ask.ids, max(1, len(answer))) for ask, answer in zip(long, ours(model, long), strict=True)]
    model.generation_config.eos_token_id = None
    return one_at_a_time(model, asks, options.rounds)


def requests_1b(options: argparse.Namespace) -> dict[str, Any]:
    """Measure 512 prompts of both kinds at once, on a GPU."""
    asks = prompts(32 if options.tiny else 512, 3)
    model = made("llama-tiny" if options.tiny else "llama-1b", "bfloat16", options.device)
    sizes = (8, 32) if options.tiny else (32, 64, 128, 256, 512)
    contestants = {"lotune": ours, **{f"generate-{size}": generate_in_batches(size) for size in sizes}}
    lines = compare(model, asks, contestants, {}, options.rounds)
    return {**lines, "ratio": best(lines), "reach": 5.0}


def model_40m(options: argparse.Namespace) -> Any:
    """Return the model of the CPU figures."""
    return made("llama-tiny" if options.tiny else "llama-40m", "float32", options.device)


FIGURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "mixed": mixed,
    "mixed-int8": mixed_int8,
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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="on which contestants computes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.figures = (options.figures or ",".join(name for name in FIGURES if (name == ON_GPU) == on_gpu)).split(",")
    if unknown := set(options.figures) - set(FIGURES):
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    if ON_GPU in options.figures and not (on_gpu or options.tiny):
        parser.error(f"{ON_GPU}: needs --device cuda, or --tiny")
    return options


def main() -> None:
    """Measure the requested figures and print them."""
    options = arguments()
    check_device(options.device)
    import torch

    torch.set_num_threads(options.threads)
    results: dict[str, Any] = {}
    for figure in options.figures:
        print(figure, file=sys.stderr, flush=True)
        results[figure] = FIGURES[figure](options)
    print(json.dumps(results, indent=2))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
