"""Models answer in float32 on a processor, unless the settings name another format or memory has no room for it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from lotune.model import answering
from lotune.model.answering import choose_answer_dtype
from lotune.model.eval_mode import in_float32_for_now
from lotune.model.settings import BaseSettings


def test_a_processor_answers_in_float32_however_fast_bfloat16_is(
    small_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lotune.model.dtype_benchmark.bfloat16_is_faster", lambda _: True)
    settings = BaseSettings(model=str(small_base))
    assert choose_answer_dtype("auto", settings, "cpu").dtype == "float32"
    assert choose_answer_dtype("bfloat16", settings, "cpu") == ("bfloat16", "named in the settings")
    assert choose_answer_dtype("auto", settings, "cuda").dtype == "bfloat16"


@pytest.mark.parametrize(("free", "dtype"), [(None, "float32"), (10**9, "float32"), (10**3, "bfloat16")])
def test_weights_without_room_in_float32_answer_in_bfloat16(
    small_base: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, dtype: str
) -> None:
    monkeypatch.setattr(answering, "free_memory_bytes", lambda _: free)
    result = choose_answer_dtype("auto", BaseSettings(model=str(small_base)), "cpu")
    assert result.dtype == dtype
    assert ("GiB are free" in result.why) == (dtype == "bfloat16")
    assert choose_answer_dtype("float32", BaseSettings(model=str(small_base)), "cpu").dtype == "float32"


def test_a_model_computes_in_float32_for_a_block_and_is_then_restored(tiny_llama: LlamaForCausalLM) -> None:
    tiny_llama.to(torch.bfloat16)  # type: ignore[arg-type]
    exact, ids = copy.deepcopy(tiny_llama).float(), torch.tensor([[5, 3, 7]])
    before = {name: weight.data for name, weight in tiny_llama.named_parameters()}
    with torch.inference_mode(), in_float32_for_now(tiny_llama):
        assert torch.equal(tiny_llama(ids).logits, exact(ids).logits)
    assert all(weight.data_ptr() == before[name].data_ptr() for name, weight in tiny_llama.named_parameters())
