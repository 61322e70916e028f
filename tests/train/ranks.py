"""One of several processes that train the tiny model, and write what came of it: torchrun ... ranks.py PLANS.

PLANS is a list in JSON. Each plan names a `folder`, and may say: save (after these steps), all (weights are trained),
shard (them), tied (input and output embeddings), scaled (its logits), most_logits (held at once), old (is PyTorch, and
knows no files of shards), divergence (its weight on the last six rows, which are then replay rows), kill and ask
([rank, step]: killed, or asked to stop, there), full (the rank that may write no more after the second step). Weights,
and the gradients of all steps, are saved in the folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import GraniteConfig, GraniteForCausalLM

from lotune.data.collate import Collator
from lotune.data.rank_split import RankSplit
from lotune.data.samplers import tuning_batches
from lotune.data.token_files import FIRST_REPLAY_ROW, TokenFile, write_token_file
from lotune.data.tokenized import EncodedRow
from lotune.distributed import ProcessGroup, init_process_group
from lotune.errors import LotuneError
from lotune.model.adapters import add_adapter
from lotune.model.methods.lora import LoraSettings
from lotune.model.new_models import new_llama
from lotune.model.packing import enable_packing
from lotune.train.divergence import DivergenceLoss
from lotune.train.fsdp import apply_fsdp
from lotune.train.loop import Step, train
from lotune.train.loss import MAX_LOGITS_PER_CHUNK
from lotune.train.optimizers import adamw
from lotune.train.saved_steps import save_states_between
from lotune.train.train_state import (
    SavedState,
    Training,
    load_state,
    sync_follower,
    sync_followers,
)

SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 65, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
STEPS, STEP_ROWS, SEED = 6, 7, 5


def rows(folder: Path) -> TokenFile:
    """Twenty rows of 3 to 40 tokens; written by whoever starts the processes."""
    if not (folder / "rows.tokens.npy").exists():
        lengths = [3 + (7 * number) % 38 for number in range(20)]
        notes = {FIRST_REPLAY_ROW: 14}
        write_token_file(folder / "rows", (_row(number, length) for number, length in enumerate(lengths)), 300, notes)
    return TokenFile(folder / "rows")


def _row(number: int, length: int) -> EncodedRow:
    tokens = (*(2 + (number * 31 + index * 17) % 290 for index in range(length - 1)), 0)
    return EncodedRow(str(number), tokens, 1 + length // 2)


def model(plan: dict[str, Any]) -> Any:
    """The tiny model: with an adapter, or all of it trained."""
    torch.manual_seed(0)
    shape = {**SHAPE, "tie_word_embeddings": plan.get("tied", True)}
    base = GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=7)) if "scaled" in plan else new_llama(shape)
    if plan.get("all"):
        return base
    adapted = add_adapter(base, LoraSettings(rank=2, target_modules=["q_proj", "v_proj"]), 1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight.data, std=0.1)
    return adapted


def run(plan: dict[str, Any], world: ProcessGroup) -> list[Step]:
    """The steps of a training that begins anew, or goes on from a state in the folder."""
    folder = Path(plan["folder"])
    MAX_LOGITS_PER_CHUNK["cpu"] = plan.get("most_logits", 2**22)
    trained = model(plan)
    if plan.get("shard") and world.size > 1:
        unsharded = [] if plan.get("all") else [p for p in trained.parameters() if p.requires_grad]
        apply_fsdp(trained, world, "cpu", unsharded)
    packed = enable_packing(trained, 64)
    # an epsilon above the last bits of gradients, which Adam would make whole steps of
    optimizers = adamw([p for p in trained.parameters() if p.requires_grad], 1e-2, (0.9, 0.99), 1e-5, 0.1)
    training = Training(trained, optimizers, "mark", world)
    with torch_of(plan):
        completed = begun(folder / "states", training)
    layout, token_file = Collator(4, 64, 1, packed), rows(folder)
    batches = tuning_batches(
        token_file,
        layout,
        step_rows=STEP_ROWS,
        steps=STEPS,
        seed=SEED,
        first_step=completed + 1,
        rank_split=RankSplit(world.rank, world.size),
    )
    shares = [1.0] * STEPS
    objective = DivergenceLoss(trained, plan["divergence"]) if "divergence" in plan else None
    steps = train(
        trained,
        batches,
        optimizers,
        shares,
        objective=objective,
        max_grad_norm=0.5,
        first_step=completed + 1,
        world=world,
    )
    result: list[Step] = []
    gradients: dict[str, torch.Tensor] = {}

    def keep(*_: Any) -> None:
        number = completed + len(result) + 1
        named = ((f"{number}/{name}", p.grad) for name, p in trained.named_parameters() if p.grad is not None)
        gradients.update((name, grad.detach().clone()) for name, grad in named)

    for optimizer in optimizers.members:
        optimizer.register_step_pre_hook(keep)
    with torch_of(plan):
        for step in save_states_between(
            steps, folder / "states", training, dict, minutes=60, always=plan.get("save", [])
        ):
            result.append(step)
            if plan.get("kill") == [world.rank, step.number]:
                os.kill(os.getpid(), signal.SIGKILL)
            if plan.get("ask") == [world.rank, step.number]:
                os.kill(os.getpid(), signal.SIGTERM)
            if plan.get("full") == world.rank and step.number == 2:
                import resource  # not everywhere

                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    weights = {name: weight for name, weight in trained.named_parameters() if weight.requires_grad}
    for name, tensors in (("weights", weights), ("gradients", gradients)):
        complete = {key: _whole(tensor) for key, tensor in tensors.items()}
        if world.is_main_process:
            save_file(complete, folder / f"{name}.safetensors")
    return result


def begun(states: Path, training: Training) -> int:
    """The steps done in the newest state of a folder, to which a training is brought."""
    if not training.world.is_main_process:
        return sync_follower(states, training, SEED)
    state = load_state(states, training).state or SavedState(0, None)
    sync_followers(training, state)
    return state.step


def torch_of(plan: dict[str, Any]) -> AbstractContextManager[Any]:
    """A block in which PyTorch is old, or else puts no tensor but a single number together from its shards."""
    if plan.get("old"):
        return patch("lotune.train.train_state.supports_sharded_safetensors", lambda: False)
    put_together = DTensor.full_tensor

    def number(tensor: Any, **how: Any) -> torch.Tensor:
        assert tensor.ndim == 0, f"a tensor of {tensor.shape} is put together"
        return put_together(tensor, **how)

    return patch.object(DTensor, "full_tensor", number)


def _whole(weight: Any) -> torch.Tensor:
    result: torch.Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return result.detach().clone()


def figures(steps: list[Step]) -> Iterator[dict[str, Any]]:
    """What does not depend on the clock."""
    for step in steps:
        yield {
            "number": step.number, "loss": step.loss, "norm": step.gradient_norm, "tokens": step.tokens,
            "supervised": step.supervised,
        }  # fmt: skip


def main() -> int:
    """Train plan by plan and write the leader's steps; the exit status is that of the error, if any."""
    torch.set_num_threads(1)
    try:
        with init_process_group("cpu") as world:
            for plan in json.loads(sys.argv[1]):
                results = list(figures(run(plan, world)))
                if world.is_main_process:
                    (Path(plan["folder"]) / "steps.json").write_text(json.dumps(results))
    except LotuneError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
