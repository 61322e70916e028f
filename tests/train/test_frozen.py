"""What is frozen is held once, in its own number format; only the adapter has gradients, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from steps import PAD, some_rows
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lotune.data.collate import Collator
from lotune.model.adapters import add_adapter
from lotune.model.loading import load_model
from lotune.model.methods.lora import LoraSettings
from lotune.model.new_models import new_llama
from lotune.model.packing import enable_packing
from lotune.model.settings import BaseSettings
from lotune.train.loop import train
from lotune.train.optimizers import adamw


class Copies(TorchDispatchMode):
    """Notes every operation that makes a new tensor of the shape of one of the matrices, as it is or transposed."""

    def __init__(self, matrices: list[torch.Tensor]) -> None:
        super().__init__()
        self.shapes = {shape for matrix in matrices for shape in (matrix.shape, matrix.shape[::-1])}
        self.held = {matrix.untyped_storage().data_ptr() for matrix in matrices}
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            alike = isinstance(tensor, torch.Tensor) and tensor.shape in self.shapes
            if alike and tensor.untyped_storage().data_ptr() not in self.held:
                self.found.append(f"{func} makes {tuple(tensor.shape)} of {tensor.dtype}")
        return out


@pytest.mark.parametrize("packed", [True, False])
def test_frozen_bfloat16_weights_have_no_second_copy(tmp_path: Path, packed: bool) -> None:
    shape = {
        "vocab_size": 307, "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
    }  # fmt: skip
    new_llama(shape).to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer(tmp_path)
    base = load_model(BaseSettings(model=str(tmp_path), dtype="bfloat16"), "cpu")
    model: Any = add_adapter(base.model, LoraSettings(rank=2, target_modules="all-linear"), 0)
    frozen = [p for p in model.parameters() if not p.requires_grad and p.ndim == 2]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert enable_packing(model, 36) or not packed
    batches = Collator(99, 9999, PAD, packed=packed).batches(some_rows(9))
    with Copies(frozen) as copies:
        [step] = train(model, [batches], adamw(trained, 1e-3, (0.9, 0.99), 1e-8, 0.0), [1.0])
    assert copies.found == []
    assert step.gradient_norm > 0
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    assert {p.dtype for p in trained} == {torch.float32}
    with Copies(frozen) as copies:
        frozen[0].float()
    assert copies.found  # the check can fail


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(307)}
    made = Tokenizer(WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="w1", pad_token="w2").save_pretrained(folder)
