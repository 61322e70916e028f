"""Shapes of base models from their configurations, compared with transformers' own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import causal_lm

from lotune.errors import ModelError
from lotune.model.catalogue import CATALOGUE, catalogue_name
from lotune.model.known_bases import known_base
from lotune.model.methods.lora import lora_count
from lotune.model.methods.target_names import read_targets
from lotune.model.shapes import ARCHITECTURES, shape_of_config

PUBLISHED = {
    "llama-2-7b": 6_738_415_616, "llama-3-8b": 8_030_261_248, "llama-3.2-1b": 1_235_814_400,
    "tinyllama-1.1b": 1_100_048_384, "mistral-7b": 7_241_732_096, "internlm2-1.8b": 1_889_110_016,
    "internlm2-7b": 7_737_708_544, "internlm2.5-7b": 7_737_708_544, "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304, "qwen2-7b": 7_615_616_512, "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304, "qwen2.5-7b": 7_615_616_512, "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096, "qwen3-8b": 8_190_735_360, "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896, "gemma-2-2b": 2_614_341_888, "gemma-3-1b": 999_885_952, "gpt2": 124_439_808,
}  # fmt: skip
"""Totals on the models' pages on the hub (safetensors metadata); that of InternLM-7B is known in whole millions."""


@pytest.mark.parametrize("name", CATALOGUE)
def test_totals_are_the_published_ones(name: str) -> None:
    total = CATALOGUE[name].shape.total
    assert total == PUBLISHED.get(name, total)
    if name == "internlm-7b":
        assert total // 10**6 == 7321


def transformers_config(config: dict[str, Any]) -> Any:
    """Return transformers' configuration; InternLM's have the form of Llama's."""
    from transformers import AutoConfig

    values = dict(config)
    kind = values.pop("model_type")
    if kind in ("internlm", "internlm2"):
        values["attention_bias"] = values.pop("bias", kind == "internlm")
        kind = "llama"
    return AutoConfig.for_model(kind, **values)


@pytest.mark.oracle
@pytest.mark.parametrize("name", CATALOGUE)
def test_total_and_layers_are_those_of_transformers(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from lotune.model.methods.targets import shape_of_model

    config = transformers_config(dict(CATALOGUE[name].config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected, shape = shape_of_model(model), CATALOGUE[name].shape
    assert shape.total == expected.total == sum(parameter.numel() for parameter in model.parameters())
    assert dict(shape.linear) == dict(expected.linear)
    assert list(shape.linear) == list(expected.linear)
    assert (shape.width, shape.head, shape.tied) == (expected.width, expected.head, expected.tied)


SMALL = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
VARIANTS = [
    ("LlamaConfig", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2}),
    ("LlamaConfig", {"head_dim": 16, "tie_word_embeddings": True}),
    ("MistralConfig", {"num_key_value_heads": 1}),
    ("Qwen2Config", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    ("Qwen3Config", {"num_key_value_heads": 2, "attention_bias": True, "head_dim": 8}),
    ("GemmaConfig", {"num_key_value_heads": 1, "head_dim": 8, "attention_bias": True}),
    ("Gemma2Config", {"num_key_value_heads": 2, "head_dim": 8}),
    ("Gemma3TextConfig", {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False}),
    ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 20, "n_positions": 64}),
    ("GPT2Config", {"n_embd": 32, "n_layer": 1, "n_head": 4, "tie_word_embeddings": False}),
]


@pytest.mark.oracle
@pytest.mark.parametrize(("config_class", "more"), VARIANTS)
def test_the_config_json_of_a_model_of_each_family(config_class: str, more: dict[str, Any], tmp_path: Path) -> None:
    """What transformers writes, which leaves out some defaults, is read as it means it."""
    settings = {"vocab_size": 90} if config_class == "GPT2Config" else SMALL
    model = causal_lm(config_class, **settings, **more)
    model.config.save_pretrained(tmp_path)
    from lotune.model.methods.targets import shape_of_model

    base, expected = known_base(str(tmp_path)), shape_of_model(model)
    assert base.source == "config.json"
    assert (base.shape.total, dict(base.shape.linear)) == (expected.total, dict(expected.linear))
    assert (base.shape.tied, base.shape.width) == (expected.tied, expected.width)
    assert known_base(str(tmp_path / "config.json")).shape == base.shape


def test_every_architecture_has_a_variant_or_an_entry() -> None:
    assert {str(entry.config["model_type"]) for entry in CATALOGUE.values()} == set(ARCHITECTURES)


@pytest.mark.oracle
def test_an_unknown_architecture_is_read_by_transformers(tmp_path: Path) -> None:
    model = causal_lm("GPTNeoXConfig", **SMALL | {"num_hidden_layers": 1})
    model.config.save_pretrained(tmp_path)
    base = known_base(str(tmp_path))
    assert base.source == "transformers"
    assert base.shape.total == sum(parameter.numel() for parameter in model.parameters())
    assert base.shape.targets(["query_key_value"]) == ["gpt_neox.layers.0.attention.query_key_value"]
    (tmp_path / "renamed.json").write_text((tmp_path / "config.json").read_text())
    assert known_base(str(tmp_path / "renamed.json")).shape.total == base.shape.total


def test_nano_and_names() -> None:
    assert known_base("nano").shape.total == 2_164_416
    assert known_base("Meta-Llama/meta-llama-3-8B").name == "llama-3-8b"
    assert catalogue_name("internlm_7b") == "internlm-7b"
    names = [hub for entry in CATALOGUE.values() for hub in entry.hub_names]
    assert len(names) == len(set(names))
    assert all(catalogue_name(hub) == key for key, entry in CATALOGUE.items() for hub in entry.hub_names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no object"),
        ("{", "cannot be read"),
        ("{}", "names no model_type"),
        (json.dumps({"model_type": "llama", **SMALL, "num_hidden_layers": 10**9}), "num_hidden_layers is 1000000000"),
        (json.dumps({"model_type": "llama", **SMALL, "hidden_size": -4}), "hidden_size is -4"),
        (json.dumps({"model_type": "nosuch"}), "cannot be loaded"),
        (" " * 10_000_001, "10,000,001 bytes"),
    ],
)
def test_a_damaged_configuration_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        known_base(str(tmp_path))


def test_what_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config.json"):
        known_base(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter"):
        known_base(str(tmp_path))
    with pytest.raises(ModelError, match="llama-3-8b"):
        known_base("./missing")
    with pytest.raises(ModelError, match="not in the catalogue"):
        known_base("llama-4", hub=False)


COUNTS = [
    ("llama-3-8b", 8, "q,v", 3_407_872),
    ("llama-3-8b", 8, "q,v,o", 5_505_024),
    ("llama-3-8b", 8, "q,k,v,o", 6_815_744),
    ("llama-3-8b", 16, "q,v", 6_815_744),
    ("llama-3-8b", 4, "q,v", 1_703_936),
    ("llama-3-8b", 12, "q,v", 5_111_808),
    ("llama-3-8b", 16, "q,k,v,o", 13_631_488),
    ("llama-3-8b", 64, "q,k,v,o", 54_525_952),
    ("internlm-7b", 8, "q,o", 4_194_304),
    ("internlm-7b", 8, ".*wk|.*wo", 4_194_304),
    ("internlm-7b", 16, "wq,wo", 8_388_608),
    ("internlm-7b", 8, "all-linear", 19_988_480),
    ("internlm-7b", 8, "q,k,v,o,gate,up,down", 19_988_480),
    ("internlm-7b", 8, "wq,wk,wv,wo,w1,w2,w3", 19_988_480),
    ("internlm-7b", 8, "self_attn.q_proj attention.wo", 4_194_304),
]
"""Numbers of LoRA parameters in the contest: base, rank, layers."""


@pytest.mark.parametrize(("base", "rank", "targets", "count"), COUNTS)
def test_lora_counts_of_the_contest(base: str, rank: int, targets: str, count: int) -> None:
    assert lora_count(CATALOGUE[base].shape.target_shapes(read_targets(targets)), rank) == count


def test_a_tied_head_is_refused_and_a_formula_needs_all_sizes() -> None:
    with pytest.raises(ModelError, match="lm_head shares its weights"):
        CATALOGUE["gpt2"].shape.targets(["c_attn", "lm_head"])
    assert CATALOGUE["llama-3-8b"].shape.targets(["lm_head"]) == ["lm_head"]
    assert shape_of_config({"model_type": "llama", "hidden_size": 8}) is None
