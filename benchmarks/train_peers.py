"""The peers of benchmarks/train.py: transformers' Trainer, TRL's SFTTrainer and LitGPT, by their public interfaces.

Each takes the same base, starting adapter and rows, in the same order, as many of them a step, and its own defaults
wherever the workload does not say otherwise; what differs stands beside its reason.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_plain
from train_workload import RANK, SHAPES, Plan, Result

UNSCORED = -100


class TrainedError(Exception):
    """LitGPT has done its steps."""


def _rows(folder: Path, plan: Plan) -> list[dict[str, list[int]]]:
    """Yield tokens and labels of each row; the reader shifts the labels.

    The first token follows nothing, so that it is never scored; Trainer would count it in the mean all the same.
    """
    rows = np.load(folder / "rows.npy", allow_pickle=False).tolist()
    hidden = max(1, plan.prompt_tokens)
    return [{"input_ids": row, "labels": [UNSCORED] * hidden + row[hidden:]} for row in rows]


def _model(folder: Path, plan: Plan, attention: str = "sdpa") -> Any:
    """Return the base; for LoRA with the initial adapter, which PEFT keeps in float32."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder / "base", dtype=getattr(torch, plan.precision), attn_implementation=attention
    )
    if not plan.prompt_tokens:
        return model
    return PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)


def _arguments(folder: Path, plan: Plan) -> dict[str, Any]:
    """Return the arguments of Trainer and SFTTrainer: the workload, without any output or evaluation."""
    pretraining = {"adam_beta2": 0.95, "weight_decay": 0.1} if not plan.prompt_tokens else {}
    return {
        "output_dir": str(folder / "out"), "max_steps": plan.steps, "per_device_train_batch_size": plan.step_rows,
        "learning_rate": plan.learning_rate, "lr_scheduler_type": "constant", "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential", "use_cpu": plan.device == "cpu", "bf16": plan.precision == "bfloat16",
        "gradient_checkpointing": False, "logging_steps": 1, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "dataloader_pin_memory": plan.device != "cpu", "seed": 0, **pretraining,
    }  # fmt: skip


def _watch(result: Result) -> Any:
    """Return a callback that records the end of each step, its loss and the norm of its gradient."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            result.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            result.step_ends()

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                result.losses.append(float(logs["loss"]))
                result.norms.append(float(logs["grad_norm"]))

    return Watch()


def trainer(folder: Path, plan: Plan, compile: bool = False) -> Result:
    """Run the Trainer of transformers, with PEFT's adapter for LoRA; compiled if the plan says so."""
    from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast, Trainer, TrainingArguments

    result = Result(plan.device)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "base")
    Trainer(
        model=_model(folder, plan),
        args=TrainingArguments(**_arguments(folder, plan), torch_compile=compile),
        train_dataset=_rows(folder, plan),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=UNSCORED),
        callbacks=[_watch(result)],
    ).train()
    return result


def trl(folder: Path, plan: Plan, packing: bool = False) -> Result:
    """Run TRL's SFTTrainer; its gradient checkpointing, on by default, is off as for all contestants.

    With packing, the rows of a part of the step make a line and the lines of a step are accumulated one by one: TRL
    lays the lines of a batch behind one another, where attention that is masked and not skipped costs their whole
    length squared. On a GPU flash attention, where its package is installed, skips it.
    """
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    arguments = _arguments(folder, plan) | {"packing": packing, "max_length": plan.row_tokens}
    if packing:
        arguments["per_device_train_batch_size"], arguments["gradient_accumulation_steps"] = 1, plan.parts
        arguments["max_length"] = plan.tokens_a_step // plan.parts
    skips = packing and plan.device == "cuda" and find_spec("flash_attn") is not None
    result = Result(plan.device)
    SFTTrainer(
        model=_model(folder, plan, "flash_attention_2" if skips else "sdpa"),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(_rows(folder, plan)),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder / "base"),
        callbacks=[_watch(result)],
    ).train()
    return result


def litgpt(folder: Path, plan: Plan) -> Result:
    """Run LitGPT's `finetune_lora`, one iteration per step; times and losses are those of its log.

    It draws its adapter itself (as many parameters, the same modules, identity at the start) and its learning rate
    rises from zero, so only the loss of the first step is comparable. It tells no norms, and does not tie the head.
    """
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.finetune import lora

    def after_training(*_: Any, **__: Any) -> None:
        raise TrainedError  # saving and merging, which follow, hold the model twice and read the command line again

    result = Result(plan.device)
    lora.save_lora_checkpoint = after_training
    _litgpt_checkpoint(folder, plan)
    with contextlib.suppress(TrainedError):
        lora.setup(
            folder / "litgpt", folder / "litgpt-out", lora_r=RANK, lora_alpha=16, lora_dropout=0.0,
            lora_projection="o_proj" in plan.targets, data=_litgpt_data(folder, plan),
            precision={"bfloat16": "bf16-true", "float32": "32-true"}[plan.precision],
            train=TrainArgs(global_batch_size=plan.step_rows, micro_batch_size=plan.step_rows, lr_warmup_steps=1,
                            epochs=2, max_steps=plan.steps, save_interval=None),
            eval=EvalArgs(interval=plan.steps + 1, max_iters=1, max_new_tokens=1, final_validation=False),
            optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": plan.learning_rate, "weight_decay": 0.0}},
        )  # fmt: skip
    result.remember_peak()
    with next((folder / "litgpt-out").rglob("metrics.csv")).open() as file:
        lines = [line for line in csv.DictReader(file) if line.get("iter_time")]
    result.step_seconds = [float(line["iter_time"]) for line in lines]
    result.losses = [float(line["loss"]) for line in lines]
    return result


def _litgpt_checkpoint(folder: Path, plan: Plan) -> None:
    """Convert the base to LitGPT's layout, by LitGPT's own conversion; its only format is that of torch.save."""
    import shutil

    from litgpt.config import Config
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.utils import save_config
    from safetensors.torch import load_file

    shape, target = SHAPES[plan.shape], folder / "litgpt"
    config = Config(
        name="benchmark", block_size=shape["max_position_embeddings"], vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"], n_layer=shape["num_hidden_layers"],
        n_head=shape["num_attention_heads"], n_query_groups=shape["num_key_value_heads"], n_embd=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"], head_size=shape["hidden_size"] // shape["num_attention_heads"],
        rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm", norm_eps=1e-6,
        mlp_class_name="LLaMAMLP",
    )  # fmt: skip
    target.mkdir(exist_ok=True)
    save_config(config, target)
    weights: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(folder / "base" / "model.safetensors"))
    torch.save(weights, target / "lit_model.pth")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / "base" / name, target / name)


def _litgpt_data(folder: Path, plan: Plan) -> Any:
    """Return the rows as LitGPT takes data; it always validates once, which gets one batch."""
    from litgpt.data import DataModule
    from litgpt.data.base import get_sft_collate_fn
    from litgpt.prompts import Default
    from torch.utils.data import DataLoader

    counts = {"raw": plan.row_tokens, "raw_plus_prompt_template": plan.row_tokens}
    rows = [
        {name: torch.tensor(values) for name, values in row.items()} | {"token_counts": counts}
        for row in _rows(folder, plan)
    ]

    class Rows(DataModule):
        prompt_style = Default()

        def connect(self, *_: Any, **__: Any) -> None:
            pass

        def _loader(self, chosen: list[Any]) -> DataLoader[Any]:
            return DataLoader(chosen, batch_size=plan.step_rows, collate_fn=get_sft_collate_fn(ignore_index=UNSCORED))

        def train_dataloader(self) -> DataLoader[Any]:
            return self._loader(rows)

        def val_dataloader(self) -> DataLoader[Any]:
            return self._loader(rows[:1])

    return Rows()


CONTESTANTS: dict[str, Callable[[Path, Plan], Result]] = {
    "trainer": trainer,
    "trainer-compiled": lambda folder, plan: trainer(folder, plan, compile=True),
    "trl": trl,
    "trl-packed": lambda folder, plan: trl(folder, plan, packing=True),
    "litgpt": litgpt,
    "plain-loop": train_plain.pretrain,
    "plain-loop-compiled": lambda folder, plan: train_plain.pretrain(folder, plan, compile=True),
}
