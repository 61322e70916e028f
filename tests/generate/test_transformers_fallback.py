"""Models whose cache cannot be ours: states of recurrent layers, caches of their own, none at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tiny_models import causal_lm

from lotune.errors import ModelError
from lotune.generate.continuous_batching import ContinuousBatcher
from lotune.generate.engine import Engine, generate_completions
from lotune.generate.requests import Request
from lotune.generate.transformers_fallback import TransformersBatcher
from tests.generate.test_engine import SMALL, WIDE, bloom, eager_llama, gemma3, gpt2, ids, llama, made, mistral, theirs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

STATES = {**SMALL, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}


def mamba() -> PreTrainedModel:
    return causal_lm("MambaConfig", **STATES, time_step_rank=4)


def falcon_mamba() -> PreTrainedModel:
    return causal_lm("FalconMambaConfig", **STATES, time_step_rank=4)


def mamba2() -> PreTrainedModel:
    return causal_lm("Mamba2Config", **STATES, num_heads=4, head_dim=16, n_groups=1, chunk_size=8)


def bamba() -> PreTrainedModel:
    return causal_lm("BambaConfig", **WIDE, **MAMBA, attn_layer_indices=[1])


def falcon_h1() -> PreTrainedModel:
    return causal_lm("FalconH1Config", **WIDE, **MAMBA, mamba_d_ssm=64, head_dim=8)


def rwkv() -> PreTrainedModel:
    return causal_lm("RwkvConfig", **SMALL, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2)


def minimax() -> PreTrainedModel:
    return causal_lm("MiniMaxConfig", **WIDE, head_dim=8, num_local_experts=2, block_size=4)


def xlstm() -> PreTrainedModel:
    return causal_lm("xLSTMConfig", **SMALL, hidden_size=32, num_blocks=2, num_heads=2, chunk_size=8)


def hybrid_without_attention() -> PreTrainedModel:
    """One that transformers itself cannot read on with a cache."""
    return causal_lm("BambaConfig", **WIDE, **MAMBA)


TOGETHER = [mamba, falcon_mamba, mamba2, bamba, falcon_h1, minimax]
ALONE = [rwkv]
ANEW = [xlstm, hybrid_without_attention]


def asked() -> list[Request]:
    """Prompts of mixed lengths, several of each, and answers of mixed lengths."""
    draw = random.Random(4)
    lengths = [1, 2, 9, 9, 9, 17, 17, 30]
    return [Request(tuple(draw.randrange(2, 300) for _ in range(n)), draw.randint(1, 12)) for n in lengths]


def theirs_anew(model: PreTrainedModel, request: Request) -> tuple[int, ...]:
    """The answer of transformers' own generate, without a cache."""
    model.generation_config.use_cache = False
    return theirs(model, request)


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [*TOGETHER, *ALONE, *ANEW], ids=lambda shape: shape.__name__)
def test_answers_are_those_of_transformers(
    shape: Callable[[], PreTrainedModel], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = made(shape)
    expected = [(theirs_anew if shape in ANEW else theirs)(model, request) for request in asked()]
    assert len(set(expected)) > 4
    configured, engine = model.generation_config, Engine(model, byte_tokenizer)
    way = engine._backend
    assert isinstance(way, TransformersBatcher)
    assert (way.batched, way.use_cache) == (shape in TOGETHER, shape not in ANEW)
    for batch_tokens in (1, 10_000):
        answers = dict(engine.stream(asked(), batch_tokens=batch_tokens))
        assert [answers[number].token_ids for number in range(len(expected))] == expected
    assert model.generation_config is configured


@pytest.mark.parametrize("shape", [gpt2, mistral, gemma3, eager_llama], ids=lambda shape: shape.__name__)
def test_slots_are_used_if_the_model_supports_them(
    shape: Callable[[], PreTrainedModel], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert isinstance(Engine(made(shape), byte_tokenizer)._backend, ContinuousBatcher)


@pytest.mark.oracle
def test_a_model_without_slots_generates_through_transformers(
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """One whose attention mixes the rows of a batch, wherever they are of different lengths."""
    model: Any = made(llama)

    def mix(module: Any, given: Any, named: Any, output: Any) -> Any:
        positions = named["position_ids"]
        if len(positions) > 1 and not (positions == positions[:1]).all():
            output.logits += output.logits.mean(0, keepdim=True)
        return output

    model.register_forward_hook(mix, with_kwargs=True)
    engine = Engine(model, byte_tokenizer)
    assert isinstance(engine._backend, TransformersBatcher)
    answers = dict(engine.stream(asked(), batch_tokens=10_000))
    assert [answers[number].token_ids for number in range(8)] == [theirs(model, request) for request in asked()]


def test_cancelling_and_deadlines_end_a_row_of_a_batch(
    byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("lotune.generate.running.time.monotonic", lambda: now[0])
    model, prompt = made(bloom), (5, 9, 30)
    requests = [Request(prompt, 8, 8, timeout_seconds=seconds) for seconds in (None, None, 3.5, 0.0)]

    def tick(number: int, _: int) -> bool:
        now[0] += number == 0
        return number == 1 and now[0] >= 2

    complete, cancelled, cut, none = generate_completions(
        model, byte_tokenizer, requests, batch_tokens=1000, on_token=tick
    )
    assert [item.finish_reason for item in (complete, cancelled, cut, none)] == [
        "length",
        "cancelled",
        "deadline",
        "deadline",
    ]
    assert len(complete.token_ids) == 8
    for short in (cancelled, cut):
        assert 0 < len(short.token_ids) < 6
        assert short.token_ids == complete.token_ids[: len(short.token_ids)]
    assert none.token_ids == ()


def test_the_generation_config_is_ignored(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model = made(bloom)
    expected = ids(generate_completions(model, byte_tokenizer, asked(), batch_tokens=500))
    model.generation_config.repetition_penalty, model.generation_config.do_sample = 5.0, True
    assert ids(generate_completions(model, byte_tokenizer, asked(), batch_tokens=500)) == expected


def test_a_model_that_cannot_generate_is_refused(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model: Any = made(bloom)
    model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ValueError("no logits today")))
    with pytest.raises(ModelError, match="does not generate with a bloom model: no logits today"):
        Engine(model, byte_tokenizer)
