"""Logits that are not finite stop whatever they decide, with model, row and layer; masked tokens are allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lotune.data.collate import Collator
from lotune.data.tokenized import EncodedRow
from lotune.errors import CheckError
from lotune.evaluate.logit_comparison import largest_difference
from lotune.generate.backends import slot_batcher
from lotune.generate.engine import Engine, generate_completions
from lotune.generate.loglikelihood import Continuation, LogLikelihood
from lotune.generate.requests import Request
from lotune.generate.sampling import Sampling
from lotune.model.adapters import add_adapter
from lotune.model.logits import NotFiniteLogitsError, largest_logits
from lotune.model.methods.lora import LoraSettings
from lotune.train.loop import evaluate_loss
from tests.generate.test_engine import SMALL, gpt2, llama, made, theirs
from tests.generate.test_transformers_fallback import mamba

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RARE = 299
"""A token that only the bad row reads."""
ROWS = [(5, 6, 7, 8), (9, 4, RARE, 3), (7, 7, 2)]


def phi(**changes: Any) -> PreTrainedModel:
    """A model whose head has a bias, with which a token can be masked."""
    from transformers import PhiConfig, PhiForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return PhiForCausalLM(PhiConfig(**SMALL, **shape, max_position_embeddings=256, **changes))


def spoil(tensor: Any, value: float, places: Any = slice(None)) -> None:
    with torch.no_grad():
        tensor[places] = value


def requests(sampling: Sampling | None = None) -> list[Request]:
    how = {} if sampling is None else {"sampling": sampling}
    return [Request(ids, 4, label=f"row {number}", **how) for number, ids in enumerate(ROWS)]


def continuations() -> list[Continuation]:
    return [Continuation(ids, option, f"row {n}") for n, ids in enumerate(ROWS) for option in ((5, 6), (7,))]


def batches(packed: bool) -> Any:
    rows = [EncodedRow(str(number), (*ids, 0), 2) for number, ids in enumerate(ROWS)]
    return Collator(8, 256, 1, packed).batches(rows)


def stopped(work: Callable[[], Any]) -> NotFiniteLogitsError:
    with pytest.raises(NotFiniteLogitsError) as caught:
        work()
    assert caught.value.exit_status == CheckError.exit_status == 1
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


@pytest.mark.parametrize("shape", [llama, gpt2, phi, mamba], ids=lambda shape: shape.__name__)
def test_nan_in_an_embedding_names_the_row_and_the_layer(
    shape: Callable[[], PreTrainedModel], byte_tokenizer: Any
) -> None:
    """Every way of the engine: lean, in slots, through transformers."""
    model = made(shape)
    model.name_or_path = "mine"
    spoil(model.get_input_embeddings().weight, math.nan, RARE)
    embedding = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    rows = (
        {"row 0", "row 1", "row 2"} if tied else {"row 1"}
    )  # where they are tied every row has a NaN among its logits
    for sampling in (None, Sampling(temperature=1.0)):
        result = stopped(
            lambda how=sampling: generate_completions(model, byte_tokenizer, requests(how), batch_tokens=999)
        )
        assert result.model == "mine"
        assert result.row in rows
        assert result.layer == (embedding if result.row == "row 1" else "lm_head")
        assert "the logits hold nan" in str(result)
    weighed = stopped(lambda: LogLikelihood(model).score(continuations(), batch_tokens=999))
    assert weighed.row in rows


def test_the_rows_before_a_bad_one_are_answered(byte_tokenizer: Any) -> None:
    model = made(llama)
    spoil(model.get_input_embeddings().weight, math.nan, RARE)
    answers = Engine(model, byte_tokenizer).stream(requests(), batch_tokens=8)
    completed = []
    result = stopped(lambda: completed.extend(iter(answers)))
    assert (result.row, result.layer) == ("row 1", "model.embed_tokens")
    assert [number for number, _ in completed] in ([], [0], [2], [0, 2])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_logit_is_enough(value: float, byte_tokenizer: Any) -> None:
    model = made(phi)
    spoil(model.get_output_embeddings().bias, value, 7)
    ways: Sequence[Callable[[], Any]] = (
        lambda: generate_completions(model, byte_tokenizer, requests(), batch_tokens=999),
        lambda: generate_completions(model, byte_tokenizer, requests(Sampling(1.0, top_k=3)), batch_tokens=999),
        lambda: LogLikelihood(model).score(continuations(), batch_tokens=999),
        lambda: evaluate_loss(model, batches(packed=False)),
    )
    for way in ways:
        assert stopped(way).layer == "lm_head"


def test_a_row_without_a_finite_logit(byte_tokenizer: Any) -> None:
    model = made(phi)
    spoil(model.get_output_embeddings().bias, -math.inf)
    assert "no logit is finite" in str(
        stopped(lambda: generate_completions(model, byte_tokenizer, requests(), batch_tokens=999))
    )
    weighed = stopped(lambda: LogLikelihood(model).score(continuations(), batch_tokens=999))
    assert "no logit is finite" in str(weighed)
    stopped(lambda: evaluate_loss(model, batches(packed=False)))


@pytest.mark.parametrize("packed", [False, True])
def test_the_validation_loss_finds_its_row(packed: bool) -> None:
    model = made(llama)
    spoil(model.get_input_embeddings().weight, math.nan, RARE)
    result = stopped(lambda: evaluate_loss(model, batches(packed)))
    assert result.layer == "model.embed_tokens"
    assert result.ids[:4] == ROWS[1]


def test_an_adapter_is_traced_like_its_base(byte_tokenizer: Any) -> None:
    base = made(llama)
    model: Any = add_adapter(base, LoraSettings(rank=2), 0)
    model.add_adapter("other", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if "layers.1" in name and "v_proj.lora_B.other" in name:
            spoil(parameter, math.nan)
    generate_completions(model, byte_tokenizer, requests(), batch_tokens=999)
    named = [Request(ids, 4, adapter="other") for ids in ROWS]
    result = stopped(lambda: generate_completions(model, byte_tokenizer, named, batch_tokens=999))
    assert (result.adapter, result.layer) == ("other", "model.layers.1.self_attn.v_proj.lora_B.other")
    model.set_adapter("other")
    result = stopped(lambda: generate_completions(model, byte_tokenizer, requests(), batch_tokens=999))
    assert result.layer == "model.layers.1.self_attn.v_proj.lora_B.other"


@pytest.fixture
def masked() -> PreTrainedModel:
    """A model that never says a token above 200."""
    model = made(phi)
    spoil(model.get_output_embeddings().bias, -math.inf, slice(200, None))
    return model


def test_masked_tokens_are_allowed(masked: PreTrainedModel, byte_tokenizer: Any) -> None:
    assert slot_batcher(masked) is not None
    submitted = [Request(ids, 12) for ids in ROWS]
    for request, answer in zip(
        submitted, generate_completions(masked, byte_tokenizer, submitted, batch_tokens=999), strict=True
    ):
        assert answer.token_ids == theirs(masked, request)
    generate_completions(masked, byte_tokenizer, requests(Sampling(1.0)), batch_tokens=999)
    values = LogLikelihood(masked).score([*continuations(), Continuation((5,), (250,))], batch_tokens=999)
    assert values[-1] == (-math.inf,)
    assert all(math.isfinite(value) for row in values[:-1] for value in row)
    assert largest_difference(masked, masked, [(5, 6, 7)], 99) == 0


def test_a_bad_logit_cannot_hide_behind_a_good_one() -> None:
    rows = [[1.0, -math.inf, 2.0], [math.inf, 2.0, 0.0], [9.0, math.nan, math.inf], [-math.inf] * 3]
    for dtype in (torch.float32, torch.bfloat16):
        largest = largest_logits(torch.tensor(rows, dtype=dtype))
        assert [math.isfinite(value) for value in largest] == [True, False, False, False]
