"""A tiny model, a byte tokeniser and the reference data, for all tests. Nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

hypothesis.settings.register_profile("lotune", deadline=None, max_examples=50)
hypothesis.settings.load_profile("lotune")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

END, PAD = "<|endoftext|>", "<|pad|>"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu are skipped where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def tiny_llama() -> LlamaForCausalLM:
    """A new Llama of two layers, hidden size 32, vocabulary 300 and context 256; the same weights each time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokeniser whose tokens are single bytes: ids 0 (end of text), 1 (padding) and 2 to 257."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = [END, PAD, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of real data that LOTUNE_REFERENCE_DATA names; the test is skipped where there is none."""
    folder = os.environ.get("LOTUNE_REFERENCE_DATA")
    if not folder:
        pytest.skip("LOTUNE_REFERENCE_DATA is not set: no reference data to compare with")
    if not Path(folder).is_dir():
        pytest.skip(f"LOTUNE_REFERENCE_DATA names {folder}, which is not there")
    return Path(folder)


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete base model: two layers of width 32 with random weights, context 1024."""
    import torch

    from lotune.data.tokenizers import train_tokenizer
    from lotune.model.base import build_from_config
    from lotune.model.checkpoints import save_full

    folder = tmp_path_factory.mktemp("base")
    texts = ["计算 1 + 1 等于多少？ the answer is short", "### Instruction:", "### Response:"] * 20
    tokenizer = train_tokenizer(texts, 400, folder / "tokenizer")
    shape = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.2,
        "tie_word_embeddings": True, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_full(build_from_config(shape), tokenizer, folder / "model", torch.float32)
    return folder / "model"
