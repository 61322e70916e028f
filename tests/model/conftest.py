import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lotune.model.checkpoints import save_model
from lotune.model.loading import LoadedModel, load_model
from lotune.model.new_models import new_llama
from lotune.model.settings import BaseSettings

SHAPE = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 256,
    "pad_token_id": 257,
}


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """A random tied Llama of 2 layers, width 32, with grouped keys."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return new_llama(SHAPE).eval()


@pytest.fixture
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, 258 in all."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture
def base_folder(llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """The random Llama, written as a base model in float32."""
    save_model(llama, byte_tokenizer, tmp_path / "base", torch.float32)
    return tmp_path / "base"


@pytest.fixture
def base(base_folder: Path) -> LoadedModel:
    return load_model(BaseSettings(model=str(base_folder), dtype="float32"), "cpu")


@pytest.fixture
def tokens() -> torch.Tensor:
    """(3, 20) int64."""
    return torch.randint(0, 256, (3, 20), generator=torch.Generator().manual_seed(2))
