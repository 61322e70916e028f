"""lotune's part of benchmarks/train.py: make the workload, tune and pre-train as its stages do, time matrices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_workload import RANK, SEED, SHAPES, Plan, Result, settle

from lotune.data.collate import Collator
from lotune.data.rank_split import RankSplit
from lotune.data.samplers import epoch_order, pretraining_batches, tuning_batches
from lotune.data.token_files import TokenFile, write_token_file
from lotune.data.tokenized import EncodedRow
from lotune.distributed import SINGLE_PROCESS, ProcessGroup, init_process_group
from lotune.model.adapters import add_adapter
from lotune.model.attention import register_packed_attention
from lotune.model.checkpoints import init_adapter, save_adapter
from lotune.model.loading import LoadedModel, load_model
from lotune.model.methods.lora import LoraSettings
from lotune.model.packing import enable_packing
from lotune.model.settings import BaseSettings
from lotune.train.loop import train
from lotune.train.loss import CausalLoss
from lotune.train.optimizers import Optimizers, make_optimizers
from lotune.train.settings import PretrainSettings, TuneSettings


def make(folder: Path, plan: Plan) -> None:
    """Write base, tokeniser, rows and, for LoRA, the adapter that all contestants start with."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(SEED)
    config = AutoConfig.for_model(**SHAPES[plan.shape], bos_token_id=1, eos_token_id=1)
    with torch.device(plan.device):  # billions of weights are drawn in seconds on a GPU, in minutes elsewhere
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, plan.precision))
    model.save_pretrained(folder / "base")
    del model
    _tokenizer(config.vocab_size).save_pretrained(folder / "base")
    drawn = np.random.default_rng(SEED).integers(2, config.vocab_size, (plan.steps * plan.step_rows, plan.row_tokens))
    drawn[:, : plan.preamble_tokens] = drawn[0, : plan.preamble_tokens]
    rows = (EncodedRow(str(number), tuple(row), plan.prompt_tokens) for number, row in enumerate(drawn.tolist()))
    write_token_file(folder / "train", rows, config.vocab_size)
    np.save(folder / "rows.npy", drawn[epoch_order(len(drawn), SEED, 0)])
    if plan.prompt_tokens:
        base = _base(folder, plan)
        settings = LoraSettings(rank=RANK, target_modules=list(plan.targets))
        save_adapter(add_adapter(base.model, settings, SEED), folder / "adapter")


def _tokenizer(vocabulary: int) -> Any:
    """Return a tokeniser of numbered words: no text is read, but every library needs a tokeniser."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<end>": 1, **{f"w{number}": number for number in range(2, vocabulary)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<end>"
    )


def _base(folder: Path, plan: Plan) -> LoadedModel:
    settings = BaseSettings(model=str(folder / "base"), dtype=plan.precision)  # type: ignore[arg-type]
    return load_model(settings, plan.device)


def tune(folder: Path, plan: Plan, compile: bool = False, parts: int = 1) -> Result:
    """Do the steps of `lotune tune`: its batches, its loop, its optimiser, with the default settings.

    A step of several `parts` has a token budget a batch that makes as many passes of it; under torchrun the processes
    share each step.
    """
    rows, settings = TokenFile(folder / "train"), TuneSettings(learning_rate=plan.learning_rate)
    model: Any = init_adapter(_base(folder, plan), LoraSettings(init_from=folder / "adapter"), SEED)
    packed = enable_packing(model, int(rows.lengths().max()))
    batch_tokens = settings.max_batch_tokens if parts == 1 else plan.tokens_a_step // parts
    layout = Collator(plan.step_rows, batch_tokens, pad_token_id=0, packed=packed)
    optimizers = make_optimizers(model, settings)
    with init_process_group(plan.device) as world:
        split = RankSplit(world.rank, world.size)
        batches = tuning_batches(rows, layout, step_rows=plan.step_rows, steps=plan.steps, seed=SEED, rank_split=split)
        half = plan.precision == "bfloat16"
        return _timed(model, batches, optimizers, plan, settings.max_grad_norm, compile, world, half)


def pretrain(folder: Path, plan: Plan, compile: bool = False) -> Result:
    """Do the steps of `lotune pretrain` from a model, with AdamW; every parameter trains, in float32."""
    rows, settings = TokenFile(folder / "train"), PretrainSettings(learning_rate=plan.learning_rate, optimizer="adamw")
    model: Any = _base(folder, plan).model.requires_grad_(True)
    register_packed_attention(model)
    batch_tokens = plan.step_rows * (plan.row_tokens - 1)
    batches = pretraining_batches(rows, batch_tokens=batch_tokens, steps=plan.steps, seed=SEED)
    return _timed(model, batches, make_optimizers(model, settings), plan, settings.max_grad_norm, compile)


def _timed(
    model: Any,
    batches: Any,
    optimizers: Optimizers,
    plan: Plan,
    max_grad_norm: float,
    compile: bool,
    world: ProcessGroup = SINGLE_PROCESS,
    half: bool = False,
) -> Result:
    result, shares = Result(plan.device), [1.0] * plan.steps
    for step in train(
        model,
        batches,
        optimizers,
        shares,
        max_grad_norm=max_grad_norm,
        objective=CausalLoss(model, compile),
        world=world,
        autocast_bfloat16=half,
    ):
        result.step_ends()
        result.losses.append(step.loss)
        result.norms.append(step.gradient_norm)
    return result


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MOST_SECONDS = 5.0
"""A matrix product that would take longer, such as in emulated bfloat16, is timed with smaller matrices."""


def matrix_rates(size: int, device: str) -> dict[str, float]:
    """Return the median floating-point operations per second of a product of two square matrices, by dtype."""
    repeats = 7 if device == "cpu" else 100  # a GPU first has to raise its clock
    return {name: _matrix_rate(size, device, dtype, repeats) for name, dtype in DTYPES.items()}


def _matrix_rate(size: int, device: str, dtype: torch.dtype, repeats: int) -> float:
    small = min(size, 256)
    rate = 2 * small**3 / _product_seconds(small, device, dtype, 3)
    while size > small and 2 * size**3 / rate > MOST_SECONDS:
        size //= 2
    return 2 * size**3 / _product_seconds(size, device, dtype, repeats)


def _product_seconds(size: int, device: str, dtype: torch.dtype, repeats: int) -> float:
    """Return the median seconds of a product, after an untimed one."""
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    product = left @ right
    seconds = []
    for _ in range(repeats):
        settle(device)
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        settle(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def contend(folder: Path, plan: Plan, compile: bool = False, divide: bool = False) -> Result:
    """Run the contestant of a plan: LoRA or pre-training."""
    if not plan.prompt_tokens:
        return pretrain(folder, plan, compile)
    return tune(folder, plan, compile, plan.parts if divide else 1)


CONTESTANTS: dict[str, Callable[[Path, Plan], Result]] = {
    "lotune": contend,
    "lotune-compiled": partial(contend, compile=True),
    "lotune-parts": partial(contend, divide=True),
    "lotune-parts-compiled": partial(contend, compile=True, divide=True),
}
