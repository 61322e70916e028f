"""Fine-tuning configurations in MindFormers' layout: what they say, and the recipe made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import call

from lotune.errors import SettingsError
from lotune.evaluate.adapter_layout import lora_layout
from lotune.model.convert.mindformers import is_mindformers, read_mindformers
from lotune.model.convert.mindformers_recipe import recipe_of
from lotune.recipe import Recipe, read_recipe

INTERNLM = """
seed: 42
output_dir: './output'
load_checkpoint: '/ckpt/internlm.ckpt'
run_mode: 'finetune'
use_parallel: True
trainer:
  type: CausalLanguageModelingTrainer
  model_name: 'internlm_7b_lora'
runner_config:
  epochs: 10
  batch_size: 2
  sink_mode: True
  sink_size: 2
optimizer:
  type: FP32StateAdamWeightDecay
  beta1: 0.9
  beta2: 0.95
  eps: 1.e-8
  weight_decay: 0.01
lr_schedule:
  type: CosineWithWarmUpLR
  learning_rate: 2.e-4
  lr_end: 1.e-6
  warmup_ratio: 0.03
  total_steps: -1
train_dataset: &train_dataset
  data_loader:
    type: MindDataset
    dataset_dir: "/data/train.mindrecord"
    shuffle: True
  input_columns: ["input_ids", "labels"]
train_dataset_task:
  type: CausalLanguageModelDataset
  dataset_config: *train_dataset
parallel_config:
  data_parallel: 8
  model_parallel: 1
  pipeline_stage: 1
  micro_batch_num: 4
callbacks:
  - type: MFLossMonitor
  - type: CheckpointMonitor
    save_checkpoint_steps: 500
runner_wrapper:
  type: MFTrainOneStepCell
  use_clip_grad: True
model:
  model_config:
    type: InternLMConfig
    batch_size: 1
    seq_length: 512
    hidden_size: 4096
    num_layers: 32
    num_heads: 32
    vocab_size: 103168
    multiple_of: 256
    compute_dtype: "float16"
    has_bias: True
    checkpoint_name_or_path: "internlm_7b_lora"
    pet_config:
      pet_type: lora
      lora_rank: 8
      lora_alpha: 16
      lora_dropout: 0.1
      target_modules: '.*wk|.*wo'
  arch:
    type: InternLMForCausalLM
"""
LLAMA = """
seed: 0
run_mode: train
runner_config: {epochs: 2, batch_size: 64}
optimizer: {type: AdamW, betas: [0.9, 0.95], eps: 1e-8, learning_rate: 1.e-4}
lr_schedule: {type: LinearWithWarmUpLR, learning_rate: 3.e-4, warmup_steps: 20, total_steps: 900}
train_dataset: {data_loader: {dataset_dir: rows/train.jsonl}, batch_size: 6}
recompute_config: {recompute: True}
runner_wrapper: {use_clip_grad: False}
model:
  model_config:
    type: LlamaConfig
    seq_length: 256
    hidden_size: 4096
    num_layers: 32
    num_heads: 32
    n_kv_heads: 8
    vocab_size: 128256
    intermediate_size: 14336
    compute_dtype: bfloat16
    checkpoint_name_or_path: ""
    pet_config: {pet_type: lora, lora_rank: 8, lora_alpha: 16, lora_dropout: 0.05, target_modules: '.*wq|.*wv|.*wo'}
  arch: {type: LlamaForCausalLM}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "finetune.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(text: str, key: str, value: Any) -> str:
    """The YAML with another value under a dotted key; None removes it."""
    content = yaml.safe_load(text)
    *groups, last = key.split(".")
    inner = content
    for group in groups:
        inner = inner[group]
    inner.pop(last, None)
    if value is not None:
        inner[last] = value
    return yaml.safe_dump(content)


def test_what_a_configuration_says(tmp_path: Path) -> None:
    tuning = read_mindformers(write(tmp_path, INTERNLM))
    assert (tuning.rank, tuning.alpha, tuning.dropout, tuning.target_modules) == (8, 16, 0.1, ".*wk|.*wo")
    assert (tuning.catalogued, tuning.seed, tuning.sequence_length) == ("internlm-7b", 42, 512)
    assert (tuning.learning_rate, tuning.batch_size, tuning.rows_per_step) == (2e-4, 2, 16)
    assert tuning.shape is not None
    assert lora_layout(tuning.shape, ".*wk|.*wo", 8).count == 4_194_304


def test_a_recipe_of_internlm(tmp_path: Path) -> None:
    values, left = recipe_of(write(tmp_path, INTERNLM))
    recipe: Any = Recipe.model_validate(values)
    assert recipe.seed == 42
    assert recipe.base.model == "internlm/internlm-7b"
    adapter, tune = recipe.adapter, recipe.tune
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.target_modules) == (8, 16, 0.1, ".*wk|.*wo")
    assert (tune.epochs, tune.steps, tune.learning_rate, tune.lr_schedule) == (10, None, 2e-4, "cosine")
    assert (tune.warmup_ratio, tune.min_lr_ratio, tune.weight_decay) == (0.03, pytest.approx(0.005), 0.01)
    assert (tune.micro_batch_rows, tune.gradient_accumulation_steps) == (2, 8)
    assert (tune.adam_beta1, tune.adam_beta2, tune.adam_epsilon) == (0.9, 0.95, 1e-8)
    assert (recipe.data.max_length, recipe.data.train) == (512, None)
    by_key = {one.key: one for one in left}
    assert by_key["train_dataset.data_loader.dataset_dir"].value == "/data/train.mindrecord"
    assert "MindRecord" in by_key["train_dataset.data_loader.dataset_dir"].why
    assert by_key["load_checkpoint"].value == "/ckpt/internlm.ckpt"
    assert by_key["model.model_config.compute_dtype"].value == "float16"
    assert by_key["lr_schedule.total_steps"].value == -1
    assert [key for key in by_key if key.startswith("train_dataset_task")] == ["train_dataset_task.type"]
    assert by_key["callbacks.1.save_checkpoint_steps"].value == 500
    assert "needs code of its own" in by_key["model.model_config.type"].why
    assert not {"model.model_config.pet_config.lora_rank", "seed", "optimizer.eps"} & by_key.keys()
    assert all(one.why for one in left)


def test_a_recipe_of_llama(tmp_path: Path) -> None:
    values, left = recipe_of(write(tmp_path, LLAMA))
    recipe: Any = Recipe.model_validate(values)
    tune = recipe.tune
    assert (recipe.base.model, recipe.base.dtype) == ("meta-llama/Meta-Llama-3-8B", "bfloat16")
    assert (tune.micro_batch_rows, tune.gradient_accumulation_steps) == (64, 1)
    assert (tune.learning_rate, tune.lr_schedule, tune.warmup_steps, tune.steps) == (3e-4, "linear", 20, None)
    assert (tune.max_grad_norm, tune.gradient_checkpointing, tune.adam_beta2) == (0, True, 0.95)
    assert recipe.data.train == Path("rows/train.jsonl")
    assert [(one.key, one.value) for one in left] == [("lr_schedule.total_steps", 900)]


def test_the_ratio_of_the_warm_up_prevails_as_in_mindformers(tmp_path: Path) -> None:
    values, left = recipe_of(write(tmp_path, changed(LLAMA, "lr_schedule.warmup_ratio", 0.1)))
    assert (values["tune"]["warmup_ratio"], values["tune"].get("warmup_steps")) == (0.1, None)
    assert ("lr_schedule.warmup_steps", 20, "warmup_ratio prevails there") in left


def test_every_value_is_carried_or_left(tmp_path: Path) -> None:
    """A key that nobody knows is among those left, with its value."""
    text = changed(changed(INTERNLM, "moe_config", {"expert_num": 8}), "lr_schedule.type", "PolynomialWithWarmUpLR")
    text = changed(text, "optimizer.type", "CAME")
    values, left = recipe_of(write(tmp_path, text))
    assert "optimizer" not in values["tune"]
    assert "lr_schedule" not in values["tune"]
    found = {one.key: one.value for one in left}
    assert found["moe_config.expert_num"] == 8
    assert found["lr_schedule.type"] == "PolynomialWithWarmUpLR"
    assert found["optimizer.type"] == "CAME"


def test_bases_outside_the_catalogue(tmp_path: Path) -> None:
    text = changed(LLAMA, "model.model_config.num_layers", 3)
    values, left = recipe_of(write(tmp_path, changed(text, "trainer", {"model_name": "my_llama"})))
    assert values["base"]["model"] == "my_llama"
    assert any("check base.model" in one.why for one in left)
    tuning = read_mindformers(write(tmp_path, changed(LLAMA, "model.model_config.type", "BloomConfig")))
    assert (tuning.shape, tuning.catalogued) == (None, None)


@pytest.mark.parametrize(
    ("sizes", "inner"),
    [({"multiple_of": 256}, 11_008), ({"multiple_of": 1024, "ffn_dim_multiplier": 1.3}, 14_336), ({}, 11_008)],
)
def test_the_size_of_the_feed_forward_part(sizes: dict[str, float], inner: int, tmp_path: Path) -> None:
    """Llama 2 7B has 11,008, and Llama 3 8B 14,336 by a multiplier of 1.3."""
    text = changed(LLAMA, "model.model_config.intermediate_size", None)
    for key, value in sizes.items():
        text = changed(text, f"model.model_config.{key}", value)
    config = read_mindformers(write(tmp_path, text)).base_config
    assert config is not None
    assert config["intermediate_size"] == inner


def test_pipelines_and_accumulation_count_as_rows_of_a_step(tmp_path: Path) -> None:
    text = changed(INTERNLM, "parallel_config.pipeline_stage", 2)
    assert read_mindformers(write(tmp_path, text)).rows_per_step == 2 * 8 * 4
    text = changed(changed(text, "use_parallel", False), "runner_config.gradient_accumulation_steps", 3)
    assert read_mindformers(write(tmp_path, text)).rows_per_step == 6


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.model_config.pet_config.lora_rank", 2.5, "lora_rank is 2.5"),
        ("model.model_config.pet_config.lora_rank", "many", "lora_rank is 'many'"),
        ("model.model_config.pet_config.lora_alpha", -1, "lora_alpha is -1"),
        ("model.model_config.hidden_size", True, "hidden_size is True"),
        ("model.model_config", None, "no model.model_config"),
        ("model", "llama", "no model.model_config"),
    ],
)
def test_numbers_that_cannot_be(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        read_mindformers(write(tmp_path, changed(LLAMA, key, value)))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.model_config.pet_config", None, "trains all parameters"),
        ("model.model_config.pet_config.pet_type", "ptuning2", "trains ptuning2"),
        ("model.model_config.pet_config.target_modules", None, "lacks rank or targets"),
    ],
)
def test_only_lora_becomes_a_recipe(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        recipe_of(write(tmp_path, changed(LLAMA, key, value)))


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS.encode(), "references to anchors"),
        (b"x" * 200_001, "more than 200,000 bytes"),
        (b"model: !!python/object/apply:os.system [ls]", "is not YAML"),
        (b"model: [", "is not YAML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 5_000, "nested too deeply|is not YAML"),
        (b"model: {model_config: {type: LlamaConfig}}\nmodel: {}", "repeated keys"),
        (b"model: {model_config: {a: &a {b: *a}}}", "nested too deeply"),
        (
            ("model: {model_config: {}}\n" + "".join(f"k{n}: 1\n" for n in range(5_001))).encode(),
            "more than 5,000 values",
        ),
    ],
    ids=["laughs", "large", "code", "broken", "encoding", "deep", "repeated", "circle", "many"],
)
def test_hostile_files_are_refused_at_once(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "finetune.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        read_mindformers(path)


def test_a_recipe_is_no_configuration_of_mindformers() -> None:
    assert not is_mindformers({"base": {"model": "nano"}})
    assert not is_mindformers(["model"])
    assert not is_mindformers(None)


def test_convert_writes_a_recipe_that_lists_what_it_cannot_hold(tmp_path: Path) -> None:
    source, target = tmp_path / "finetune.yaml", tmp_path / "mine.yaml"
    source.write_text(INTERNLM)
    shown = call("convert", source, target).stdout
    assert "layout mindformers" in shown
    text = target.read_text(encoding="utf-8")
    assert read_recipe(target).adapter.rank == recipe_of(source)[0]["adapter"]["rank"]
    assert all(f"#   {one.key}: " in text and f"not carried over: {one.key}: " in shown for one in recipe_of(source)[1])
    assert "already exists" in call("convert", source, target, status=2).stderr
    assert "--tokenizer" in call("convert", source, tmp_path / "b.yaml", "--tokenizer", source, status=2).stderr
