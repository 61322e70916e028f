"""What the probes find out about tiny models of several architectures, as one table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_models
import torch

from lotune.generate.backends import slot_batcher
from lotune.generate.transformers_fallback import TransformersBatcher
from lotune.model.packing import probe_causal, probe_packing
from lotune.model.probes import Finding, compare, format_table, relative_difference
from lotune.train.output_head import OutputHead

SIZE = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SIZE | HEADS),
    "window": ("MistralConfig", SIZE | HEADS | {"sliding_window": 8}),
    "gemma2": ("Gemma2Config", SIZE | HEADS | {"head_dim": 8, "final_logit_softcapping": 0.3}),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": 60,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "eos_token_id": 0,
            "bos_token_id": 0,
        },
    ),
    "mamba": ("MambaConfig", SIZE | {"state_size": 4}),
    "bert": ("BertConfig", SIZE | HEADS | {"is_decoder": False, "initializer_range": 0.2}),
}
EXPECTED = {
    #          causal packed head slots fast batched cached
    "llama": "yes yes yes yes yes yes yes",
    "window": "yes no yes yes no yes yes",
    "gemma2": "yes no no yes no yes yes",
    "gpt2": "yes no yes yes no yes yes",
    "mamba": "yes no yes no no yes yes",
    "bert": "no no no no no no no",
}


def findings(model: Any) -> Iterator[Finding]:
    """What each room's probe finds out about a model that is to be trained on rows of 30 tokens."""
    yield probe_causal(model)
    yield probe_packing(model, 30)
    path = OutputHead(model).probe_logits_path()
    yield Finding("logits of the head alone", path == "plain", reason=path)
    with torch.inference_mode():
        batcher = slot_batcher(model)
        yield Finding("rows in slots of one cache", batcher is not None)
        yield Finding("fast forward pass", batcher is not None and batcher.slots.fast is not None)
        fallback = TransformersBatcher(model, model)
    yield Finding("generate with batches", fallback.batched)
    yield Finding("generate with a cache", fallback.use_cache)


@pytest.mark.parametrize("name", MODELS)
def test_the_table_of_findings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config, settings = MODELS[name]
    model = tiny_models.causal_lm(config, **settings).eval()
    attention = model.config._attn_implementation
    table = list(findings(model))
    with capsys.disabled():
        print(f"\n{name}\n{format_table(table)}")
    assert " ".join("yes" if finding.holds else "no" for finding in table) == EXPECTED[name]
    assert model.config._attn_implementation == attention


def test_a_probe_that_fails_is_a_finding() -> None:
    def fails() -> tuple[torch.Tensor, torch.Tensor]:
        raise IndexError("no such\n layer")

    assert compare("layers", fails, torch.float32) == Finding("layers", False, reason="IndexError: no such layer")
    ones = torch.ones(3)
    assert not compare("ones", lambda: (ones * 1.001, ones), torch.float32).holds
    assert compare("ones", lambda: (ones * 1.001, ones), torch.bfloat16).holds
    assert relative_difference(ones * float("nan"), ones) == float("inf")
    assert relative_difference(torch.ones(2), ones) == float("inf")
