"""Workload of every contestant of benchmarks/train.py, on disk, and its result.

A workload is a folder: `plan.json`, `base/` (config, safetensors, tokeniser), for LoRA `adapter/` (PEFT's format), and
`rows.npy`, (rows, tokens) int64, in the order in which the steps take them. Nothing here needs lotune, so that the
interpreter of the peers can read it.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "llama-40m": {
        "model_type": "llama", "vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1408,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    },
    "llama-tiny": {
        "model_type": "llama", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    },
    "llama-8b": {
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
    "llama-1b": {
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "gpt-15m": {
        "model_type": "gpt2", "vocab_size": 32_000, "n_embd": 288, "n_layer": 6, "n_head": 6, "n_positions": 256,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
    },
    "gpt-124m": {
        "model_type": "gpt2", "vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
    },
    "gpt-tiny": {
        "model_type": "gpt2", "vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
    },
}  # fmt: skip
RANK = 8
SEED = 0


@dataclass(frozen=True)
class Plan:
    """A workload in numbers; `prompt_tokens` of each row are not scored, 0 for pre-training.

    All rows begin with the same `preamble_tokens`, those of a prompt's template; the others are random. `targets`: the
    modules with an adapter; `part_rows`: rows of one pass of those who divide a step.
    """

    shape: str
    precision: str
    threads: int
    steps: int
    step_rows: int
    row_tokens: int
    prompt_tokens: int
    learning_rate: float
    targets: tuple[str, ...] = ("q_proj", "v_proj", "o_proj")
    part_rows: int = 8
    device: str = "cpu"
    preamble_tokens: int = 0

    @property
    def tokens_a_step(self) -> int:
        """Tokens without padding: rows × their length; the same number for every contestant."""
        return self.step_rows * self.row_tokens

    @property
    def parts(self) -> int:
        """Number of forward passes of a divided step."""
        return max(1, self.step_rows // self.part_rows)

    def operations_a_step(self) -> float:
        """Floating-point operations that one step of LoRA needs; W: weights of the linear layers, T: tokens of a row.

        Linear layers: 2 W forward and 2 W backward to the inputs a token; their weights are frozen, so the other 2 W
        of full training are not needed. Adapters: 6 for each weight and token. Attention, causal: 2 products of T²/2
        pairs forward, 4 backward, each 2 × width a pair, thus 6 × width × T² a layer and row. Head: 4 × width ×
        vocabulary a scored token. The last token of a row predicts nothing and is not counted; norms, activations and
        the optimiser are left out, and so is whatever a contestant computes beyond this.
        """
        shape = SHAPES[self.shape]
        width, layers, vocabulary = shape["hidden_size"], shape["num_hidden_layers"], shape["vocab_size"]
        keys = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
        linear = layers * (2 * width * width + 2 * width * keys + 3 * width * shape["intermediate_size"])
        outputs = {"q_proj": width, "v_proj": keys, "o_proj": width}
        adapters = layers * RANK * sum(width + outputs[name] for name in self.targets)
        tokens, scored = self.row_tokens - 1, self.row_tokens - self.prompt_tokens
        row = tokens * (4 * linear + 6 * adapters) + 6 * layers * width * tokens**2 + 4 * scored * width * vocabulary
        return float(self.step_rows * row)

    def write(self, folder: Path) -> None:
        """Write the plan into the folder of its workload."""
        (folder / "plan.json").write_text(json.dumps(asdict(self)))


def read_plan(folder: Path) -> Plan:
    """Return the plan of a workload."""
    plan = json.loads((folder / "plan.json").read_text())
    return Plan(**{**plan, "targets": tuple(plan["targets"])})


TUNERS = ("trainer", "trainer-compiled", "trl", "trl-packed", "litgpt")
PRETRAINERS = ("trainer", "trainer-compiled", "plain-loop", "plain-loop-compiled")


@dataclass(frozen=True)
class Contest:
    """A workload, its small form for a trial run, and the contestants beside lotune."""

    plan: Plan
    tiny: Plan
    peers: tuple[str, ...]


def _lora(rows: int, tokens: int, prompt: int, preamble: int = 0) -> Contest:
    plan = Plan("llama-40m", "auto", 1, 0, rows, tokens, prompt, 1e-3, preamble_tokens=preamble)
    return Contest(plan, replace(plan, shape="llama-tiny", step_rows=8), TUNERS)


def _gpt(shape: str, rows: int, tokens: int) -> Contest:
    plan = Plan(shape, "float32", 1, 0, rows, tokens, 0, 6e-4)
    return Contest(plan, replace(plan, shape="gpt-tiny", step_rows=2, row_tokens=64), PRETRAINERS)


def _lora_8b() -> Contest:
    plan = Plan("llama-8b", "bfloat16", 1, 0, 64, 81, 49, 1e-3, targets=("q_proj", "v_proj"), part_rows=32)
    return Contest(plan, replace(plan, shape="llama-tiny", step_rows=8, part_rows=4), ("trl", "trl-packed"))


CONTESTS = {
    "lora": _lora(32, 81, 49),
    "lora-preamble": _lora(32, 81, 49, preamble=22),
    "lora-512": _lora(8, 512, 310),
    "pretrain-15m": _gpt("gpt-15m", 16, 256),
    "pretrain-124m": _gpt("gpt-124m", 2, 1024),
    "lora-8b": _lora_8b(),
}


def check_device(device: str) -> None:
    """Check that the device is present. Raises: SystemExit with status 2, after printing what is missing."""
    if device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        print(f"--device: cuda was asked for, but PyTorch {torch.__version__} sees no GPU here", file=sys.stderr)
        print("expected: an NVIDIA GPU, and a PyTorch built for it", file=sys.stderr)
        print("remedy: --device cpu, or install PyTorch with CUDA for this interpreter", file=sys.stderr)
        raise SystemExit(2)


def settle(device: str) -> None:
    """Wait until the device has finished its work: a GPU computes asynchronously."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


@dataclass
class Result:
    """Seconds of each step, from end to end; losses; norms of the gradient if the contestant reports them."""

    device: str
    step_seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    last: float = field(default_factory=time.perf_counter)

    def begin(self) -> None:
        """Record the start of the first step."""
        settle(self.device)
        self.last = time.perf_counter()

    def step_ends(self) -> None:
        """Record the end of a step."""
        settle(self.device)
        now = time.perf_counter()
        self.step_seconds.append(now - self.last)
        self.last = now

    def remember_peak(self) -> None:
        """Record the peak memory so far; later calls change nothing."""
        self.peak_bytes = self.peak_bytes or peak_bytes(self.device)


def peak_bytes(device: str) -> int:
    """Return the peak memory of this process: of its tensors on a GPU, otherwise the resident memory."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process.

    The kernel's own mark where there is one: getrusage counts what the parent held before this program began, too.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
