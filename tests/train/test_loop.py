"""The training loop beside transformers' loss and torch's optimiser: the same numbers, however a step is divided."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import EOS, PAD, assert_same, plain_loss, plain_step, some_rows, step_of
from tiny_models import causal_lm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lotune.data.collate import Collator, pad_rows
from lotune.model.adapters import add_adapter
from lotune.model.methods.lora import LoraSettings
from lotune.train.loop import NotFiniteError, evaluate_loss, train
from lotune.train.loss import MAX_LOGITS_PER_CHUNK, CausalLoss, _ChunkedLinearCrossEntropy
from lotune.train.optimizers import adamw, make_optimizers, muon
from lotune.train.resource_estimate import estimate
from lotune.train.settings import TuneSettings


@pytest.fixture(scope="module")
def llama() -> Any:
    from lotune.model.new_models import new_llama

    shape = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "tie_word_embeddings": True,
        "eos_token_id": EOS, "pad_token_id": PAD,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return new_llama(shape)


@pytest.mark.oracle
@settings(max_examples=20)
@given(count=st.integers(1, 9), seed=st.integers(0, 99), order=st.randoms(use_true_random=False), data=st.data())
def test_a_step_is_that_of_one_large_batch_however_it_is_divided(
    llama: Any, count: int, seed: int, order: random.Random, data: st.DataObject
) -> None:
    rows = some_rows(count, seed)
    loss, gradients = plain_step(llama, rows)
    order.shuffle(rows)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, count - 1)), max_size=count)) - {count})
    groups = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
    step, result = step_of(llama, [pad_rows(group, PAD) for group in groups])
    assert step.loss == pytest.approx(loss, rel=1e-5)
    assert_same(result, gradients)
    assert step.supervised == sum(len(row.token_ids) - row.completion_start for row in rows)
    assert step.tokens <= sum(len(row.token_ids) for row in rows)
    assert step.gradient_norm == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item(), rel=1e-4)


@pytest.mark.oracle
def test_groups_by_length_give_the_same_step(llama: Any) -> None:
    rows = some_rows(24, 5)
    loss, gradients = plain_step(llama, rows)
    for layout in (Collator(4, 999, PAD, packed=False), Collator(9, 40, PAD, packed=False)):
        step, result = step_of(llama, layout.batches(rows))
        assert step.loss == pytest.approx(loss, rel=1e-5)
        assert_same(result, gradients)


@pytest.mark.oracle
def test_logits_made_in_parts_give_the_same_step(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows(12, 5)
    loss, gradients = plain_step(llama, rows)
    monkeypatch.setitem(MAX_LOGITS_PER_CHUNK, "cpu", 900)
    step, result = step_of(llama, [pad_rows(rows, PAD)])
    assert step.loss == pytest.approx(loss, rel=1e-5)
    assert_same(result, gradients)


def test_prompt_and_padding_are_no_targets(llama: Any) -> None:
    """A row's prompt is context only: another padding changes nothing, nor does another row."""
    rows = some_rows(2, 8)
    alone = [evaluate_loss(llama, [pad_rows([row], PAD)]) for row in rows]
    counts = [len(row.token_ids) - row.completion_start for row in rows]
    together = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    for padding in (PAD, EOS, 77):
        assert evaluate_loss(llama, [pad_rows(rows, padding)]) == pytest.approx(together, rel=1e-5)


@pytest.mark.oracle
def test_the_adapter_alone_is_trained(llama: Any) -> None:
    model = add_adapter(copy.deepcopy(llama), LoraSettings(rank=4, target_modules=["q_proj", "down_proj"]), 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    rows = some_rows(7, 2)
    loss, gradients = plain_step(model, rows)
    step, result = step_of(model, [pad_rows(rows[:3], PAD), pad_rows(rows[3:], PAD)])
    assert step.loss == pytest.approx(loss, rel=1e-5)
    assert_same(result, gradients)
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in model.named_parameters())
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": PAD,
}  # fmt: skip


def granite(**changes: Any) -> Any:
    return causal_lm("GraniteConfig", **SHAPE, logits_scaling=7.0, **changes)


def cohere() -> Any:
    return causal_lm("CohereConfig", **SHAPE, logit_scale=0.25)


def gemma2() -> Any:
    return causal_lm("Gemma2Config", **SHAPE, head_dim=8, final_logit_softcapping=30.0)


def gemma3() -> Any:
    return causal_lm("Gemma3TextConfig", **SHAPE, head_dim=8, final_logit_softcapping=30.0)


def llama_that(answers: Callable[[Any, torch.Tensor], torch.Tensor]) -> Any:
    """A Llama whose logits are made in another way of its hidden states (B, T, D)."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_outputs import CausalLMOutputWithPast

    class Other(LlamaForCausalLM):
        def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None, **words: Any) -> Any:
            hidden = self.model(input_ids, attention_mask=attention_mask, **words).last_hidden_state
            logits = answers(self, hidden)
            loss = None if labels is None else self.loss_function(logits, labels, self.vocab_size)
            return CausalLMOutputWithPast(loss=loss, logits=logits)

    return Other(LlamaConfig(**SHAPE))


def divided_before_the_head() -> Any:
    """As in models that are scaled with their width (muP)."""
    return llama_that(lambda model, hidden: model.lm_head(hidden / 4))


def looking_back() -> Any:
    """Its logits hang on the token before, too."""
    return llama_that(lambda model, hidden: model.lm_head(hidden + hidden.roll(1, 1)))


SCALED = [granite, cohere, gemma2, gemma3, divided_before_the_head]


@pytest.mark.oracle
@pytest.mark.parametrize("shape", SCALED)
def test_scaled_and_capped_logits_are_the_model_s_own_however_large(
    shape: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh model's logits are too small to show a cap; what was found of it then holds when they have grown."""
    monkeypatch.setitem(MAX_LOGITS_PER_CHUNK, "cpu", 900)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = shape().train()
    rows = some_rows(6, 4)
    head, batch = CausalLoss(model), pad_rows(rows, PAD)
    fresh = head(batch).item()
    assert fresh == pytest.approx(plain_loss(model, rows).item() * batch.num_scored_tokens, rel=1e-5)
    assert head.is_chunked
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(200)
        hidden = model.get_decoder()(input_ids=batch.input_ids).last_hidden_state
        simple = torch.nn.functional.cross_entropy(model.get_output_embeddings()(hidden).mT, batch.targets)
    result = head(batch)
    loss, gradients = plain_step(model, rows)
    assert result.item() == pytest.approx(loss * batch.num_scored_tokens, rel=1e-5)
    assert simple.item() > 1.1 * loss  # the head alone would be wrong
    step, caught = step_of(model, [pad_rows(rows[:2], PAD), pad_rows(rows[2:], PAD)])
    assert step.loss == pytest.approx(loss, rel=1e-5)
    assert_same(caught, gradients)


@pytest.mark.oracle
def test_a_model_whose_logits_depend_on_more_than_a_hidden_state_is_called_whole() -> None:
    model, rows = looking_back().train(), some_rows(6, 4)
    head, batch = CausalLoss(model), pad_rows(rows, PAD)
    assert head(batch).item() == pytest.approx(plain_loss(model, rows).item() * batch.num_scored_tokens, rel=1e-5)
    assert not head.is_chunked


class Largest(TorchDispatchMode):
    """The most numbers that a tensor has of those that operations make."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        made = (leaf.numel() for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor))
        self.numbers = max(self.numbers, *made, 0)
        return results


def adapted_head() -> Any:
    """A head that is no mere matrix."""
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaForCausalLM(LlamaConfig(**SHAPE | {"vocab_size": 3000}))
    return add_adapter(base, LoraSettings(rank=2, target_modules=["q_proj", "lm_head"]), 1)


@pytest.mark.parametrize("shape", ["llama", granite, gemma3, adapted_head, looking_back])
def test_no_tensor_of_a_step_grows_with_scored_positions_times_vocabulary(
    shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHAPE, "vocab_size", 3000)
    monkeypatch.setitem(MAX_LOGITS_PER_CHUNK, "cpu", 9000)
    model = llama_that(lambda model, hidden: model.lm_head(hidden)) if shape == "llama" else shape()
    largest = {}
    for count in (16, 32):
        batch, head = pad_rows(some_rows(count), PAD), CausalLoss(model)
        head(batch)  # what is asked once
        with Largest() as seen:
            head(batch).backward()
        largest[count] = seen.numbers
        logits = batch.num_scored_tokens * 3000
    if shape is looking_back:  # so the measure sees them
        assert largest[32] >= logits
    else:
        assert largest[16] == largest[32] == model.get_output_embeddings().weight.numel()
        assert logits > 5 * largest[32]


def test_a_plain_model_has_its_head_at_scored_positions_only(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def watched(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(tuple(hidden.shape))
        return entropy(hidden, *rest)

    entropy = _ChunkedLinearCrossEntropy.apply
    monkeypatch.setattr(_ChunkedLinearCrossEntropy, "apply", watched)
    batch = pad_rows(some_rows(5), PAD)
    CausalLoss(llama)(batch)
    assert seen == [(batch.num_scored_tokens, llama.config.hidden_size)]


@pytest.mark.oracle
def test_a_head_that_is_no_mere_matrix_is_called_in_parts(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an adapter of its own, or a bias, its logits are made part by part, and again backward."""
    monkeypatch.setitem(MAX_LOGITS_PER_CHUNK, "cpu", 900)
    untied, biased = copy.deepcopy(llama), copy.deepcopy(llama)
    untied.config.tie_word_embeddings = False
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    adapted = add_adapter(untied, LoraSettings(rank=4, target_modules=["q_proj", "lm_head"]), 1)
    biased.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, llama.config.vocab_size))
    rows = some_rows(9, 6)
    for model in (adapted, biased):
        loss, gradients = plain_step(model, rows)
        step, result = step_of(model, [pad_rows(rows, PAD)])
        assert step.loss == pytest.approx(loss, rel=1e-5)
        assert_same(result, gradients)


def test_a_measured_loss_makes_no_gradient(llama: Any) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    batch, head, operations = pad_rows(some_rows(4), PAD), CausalLoss(llama), []
    losses = [head(batch).item()]
    for learning in (False, True):
        with torch.set_grad_enabled(learning), FlopCounterMode(display=False) as counter:
            losses.append(head(batch).item())
        operations.append(counter.get_total_flops())
    assert losses == pytest.approx(losses[:1] * 3, rel=1e-6)
    product = 2 * batch.num_scored_tokens * llama.config.hidden_size * llama.config.vocab_size
    assert operations[1] - operations[0] == product  # to the hidden states; what is added in place is not counted


@pytest.mark.oracle
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5])
def test_a_training_is_that_of_torch_and_transformers(llama: Any, max_grad_norm: float) -> None:
    """Five steps: loss, clipping, AdamW with decay on matrices, and the course of the learning rate."""
    from transformers import get_cosine_schedule_with_warmup

    from lotune.train.schedule import lr_factor

    actual, expected = copy.deepcopy(llama), copy.deepcopy(llama)
    steps = [some_rows(6, seed) for seed in range(5)]
    shares = [lr_factor(step, 5, 2, "cosine") for step in range(1, 6)]
    optimizers = adamw(list(actual.parameters()), 1e-2, (0.9, 0.99), 1e-3, 0.1)
    batches = [[pad_rows(rows[:4], PAD), pad_rows(rows[4:], PAD)] for rows in steps]
    records = list(train(actual, batches, optimizers, shares, max_grad_norm=max_grad_norm))

    matrices = [p for p in expected.parameters() if p.ndim >= 2]
    vectors = [p for p in expected.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99), eps=1e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, 5)
    optimizer.step()  # without gradients nothing moves; ours counts from 1: its first step already has a learning rate
    expected.train()
    for rows, record in zip(steps, records, strict=True):
        schedule.step()
        loss = plain_loss(expected, rows)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), max_grad_norm or float("inf"))
        assert record.learning_rate == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        assert record.loss == pytest.approx(loss.item(), rel=1e-4)
        assert record.gradient_norm == pytest.approx(norm.item(), rel=1e-3)
    assert [record.number for record in records] == [1, 2, 3, 4, 5]
    assert_same(list(actual.parameters()), list(expected.parameters()))
    moved = [(a - b).norm().item() for a, b in zip(actual.parameters(), llama.parameters(), strict=True)]
    assert min(moved) > 0


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(llama: Any) -> None:
    model = copy.deepcopy(llama)
    with torch.no_grad():
        model.model.norm.weight[3] = float("inf")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NotFiniteError, match=r"step 1: the loss is nan and .* nan, first in model.norm\n"):
        list(
            train(
                model, [[pad_rows(some_rows(3), PAD)]], adamw(list(model.parameters()), 1.0, (0.9, 0.9), 1e-8, 0.0), [1]
            )
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_names_the_layer_where_it_began(llama: Any, max_grad_norm: float) -> None:
    """The loss is finite: only the way back fails, in the products of one layer, and so in all below it."""
    model = copy.deepcopy(llama)
    spoilt = model.model.layers[1].self_attn.o_proj
    spoilt.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * float("nan"),))
    optimizers = adamw(list(model.parameters()), 1.0, (0.9, 0.9), 1e-8, 0.0)
    with pytest.raises(NotFiniteError) as caught:
        list(train(model, [[pad_rows(some_rows(3), PAD)]], optimizers, [1], max_grad_norm=max_grad_norm))
    assert math.isfinite(caught.value.loss)
    assert caught.value.layer == "model.layers.1.self_attn.v_proj.weight"
    named = str(caught.value.of_rows(["a.csv:7"]))
    assert "nan, first in model.layers.1.self_attn.v_proj.weight; its rows: a.csv:7" in named
    assert "the model is at fault" in named


def test_a_step_that_is_not_finite_names_some_rows() -> None:
    few, many = (NotFiniteError(7, 1.0, float("inf")).of_rows([f"a:{n}" for n in range(rows)]) for rows in (2, 40))
    assert (few.step, few.exit_status) == (7, 1)
    assert "norm of its gradient inf; its rows: a:0, a:1" in str(few)
    assert "a:31 and 8 more" in str(many)
    assert len(str(many).splitlines()) == 3


def test_training_learns_and_is_the_same_each_time(llama: Any) -> None:
    def losses() -> list[float]:
        model = copy.deepcopy(llama)
        batches = ([pad_rows(some_rows(8, 1), PAD)] for _ in range(30))
        optimizers = adamw(list(model.parameters()), 1e-2, (0.9, 0.99), 1e-8, 0.0)
        return [step.loss for step in train(model, batches, optimizers, [1.0] * 30)]

    first = losses()
    assert first[-1] < 0.3 * first[0]
    assert losses() == first


def test_products_in_bfloat16_leave_the_weights_in_float32(llama: Any) -> None:
    def trained(half: bool) -> tuple[list[float], Any]:
        model, formats = copy.deepcopy(llama), set[torch.dtype]()
        hook = lambda module, inputs, output: formats.add(output.dtype)  # noqa: E731
        model.model.layers[0].mlp.up_proj.register_forward_hook(hook)
        batches = ([pad_rows(some_rows(8, seed), PAD)] for seed in range(20))
        optimizers = adamw(list(model.parameters()), 1e-2, (0.9, 0.99), 1e-8, 0.0)
        losses = [step.loss for step in train(model, batches, optimizers, [1.0] * 20, autocast_bfloat16=half)]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert (torch.bfloat16 in formats) == half
        return losses, model

    (half, _), (complete, _) = trained(True), trained(False)
    assert half == pytest.approx(complete, rel=0.05)
    assert half != complete


def test_an_adapter_of_a_bfloat16_base_gets_inputs_and_gradients_of_bfloat16_precision(llama: Any) -> None:
    """Its gradients are as near to those of float64 as where PEFT turns every input to float32."""
    model = add_adapter(copy.deepcopy(llama), LoraSettings(rank=4, target_modules="all-linear"), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.1) if parameter.requires_grad else None
    batch, inputs = pad_rows(some_rows(8, 1), PAD), set[torch.dtype]()

    def gradients(base: torch.dtype, half: bool) -> torch.Tensor:
        own = copy.deepcopy(model)
        for parameter in own.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else base)
        if base == torch.float64:
            own.double()
        inputs.clear()
        for name, module in own.named_modules():
            if name.endswith("lora_A.default"):
                module.register_forward_pre_hook(lambda _, given: inputs.add(given[0].dtype))
        _, results = step_of(own, [batch], autocast_bfloat16=half)
        assert all(getattr(module, "cast_input_dtype_enabled", True) for module in own.modules())
        return torch.cat([gradient.flatten().double() for gradient in results])

    exact = gradients(torch.float64, half=False)
    turned = (gradients(torch.bfloat16, half=False) - exact).norm()
    assert inputs == {torch.float32}
    rounding_error = (gradients(torch.bfloat16, half=True) - exact).norm()
    assert inputs == {torch.bfloat16}
    assert rounding_error <= 1.5 * turned
    assert rounding_error <= 0.1 * exact.norm()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.soak)])
def test_a_compiled_model_learns_the_same(llama: Any, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, differentiated and run; the kernels themselves, half a minute of a C++ compiler's work, are torch's."""
    complete = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: complete(module, backend=backend))

    def losses(compile: bool) -> list[float]:
        model = copy.deepcopy(llama)
        optimizers = adamw(list(model.parameters()), 1e-2, (0.9, 0.99), 1e-8, 0.0)
        batches = ([pad_rows(some_rows(8, seed), PAD)] for seed in range(4))
        return [
            step.loss for step in train(model, batches, optimizers, [1.0] * 4, objective=CausalLoss(model, compile))
        ]

    assert losses(compile=True) == pytest.approx(losses(compile=False), rel=1e-4)


def test_a_model_that_cannot_be_compiled_is_refused_with_the_setting(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    from lotune.library_errors import translate_error

    def failing(graph: Any, inputs: Any) -> Any:
        raise FileNotFoundError("g++")

    complete = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: complete(module, backend=failing))
    optimizers = adamw(list(llama.parameters()), 1e-2, (0.9, 0.99), 1e-8, 0.0)
    with pytest.raises(BackendCompilerFailed) as raised:
        list(
            train(llama, [[pad_rows(some_rows(8), PAD)]], optimizers, [1.0], objective=CausalLoss(llama, compile=True))
        )
    output = str(translate_error(raised.value))
    assert "compile: the model cannot be compiled" in output
    assert "tune.compile=off" in output


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
def test_muon_takes_the_matrices_of_the_layers(llama: Any) -> None:
    model = copy.deepcopy(llama)
    optimizers = muon(model, 0.02, 0.01)
    held = [{id(p) for group in member.param_groups for p in group["params"]} for member in optimizers.members]
    assert not held[0] & held[1]
    assert held[0] | held[1] == {id(p) for p in model.parameters()}
    assert id(model.model.embed_tokens.weight) in held[1]
    before = evaluate_loss(model, [pad_rows(some_rows(8), PAD)])
    list(train(model, ([pad_rows(some_rows(8), PAD)] for _ in range(10)), optimizers, [1.0] * 10))
    assert evaluate_loss(model, [pad_rows(some_rows(8), PAD)]) < before


def test_muon_leaves_embeddings_and_the_head_of_any_architecture_to_adamw() -> None:
    """GPT-2 calls its embeddings wte and wpe, and BioGPT its untied head output_projection."""
    from transformers import BioGptConfig, BioGptForCausalLM, GPT2Config, GPT2LMHeadModel

    small = {"vocab_size": 300, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD}
    gpt2 = GPT2LMHeadModel(GPT2Config(**small, n_embd=32, n_layer=1, n_head=4, n_positions=64))
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    biogpt = BioGptForCausalLM(BioGptConfig(**small, **shape, tie_word_embeddings=False))
    for model, layers in ((gpt2, 4), (biogpt, 6)):
        optimizers = muon(model, 1e-3, 0.01)
        matrices = {id(p) for group in optimizers.members[0].param_groups for p in group["params"]}
        assert len(matrices) == layers
        assert not matrices & {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
        assert optimizers.peak_lrs == pytest.approx((1e-3, 1.5e-3))
    assert muon(gpt2, 1e-2, 0.01).peak_lrs == (1e-2, 3e-3)


def test_muon_trains_an_adapter_and_leaves_its_base_alone(llama: Any) -> None:
    model = add_adapter(copy.deepcopy(llama), LoraSettings(rank=2), 0)
    optimizers = make_optimizers(model, TuneSettings(optimizer="muon", learning_rate=0.02))
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in optimizers.members[0].param_groups for p in group["params"]} == trainable
    batch = pad_rows(some_rows(8), PAD)
    before, base = evaluate_loss(model, [batch]), copy.deepcopy(model.get_base_model().lm_head.weight)
    list(train(model, ([batch] for _ in range(10)), optimizers, [1.0] * 10))
    assert evaluate_loss(model, [batch]) < before
    assert torch.equal(model.get_base_model().lm_head.weight, base)


def test_the_layer_of_a_fault_is_named_in_a_compiled_model_too(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, complete = copy.deepcopy(llama), torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: complete(module, backend="eager"))
    model.model.layers[1].mlp.up_proj.weight.data[0] = math.inf
    optimizers = adamw(list(model.parameters()), 1e-2, (0.9, 0.99), 1e-8, 0.0)
    batches = [[pad_rows(some_rows(8), PAD)]]
    with pytest.raises(NotFiniteError) as caught:
        list(train(model, batches, optimizers, [1.0], objective=CausalLoss(model, compile=True)))
    assert caught.value.layer == "model.layers.1.mlp.up_proj"


def test_measuring_a_loss_changes_nothing(llama: Any) -> None:
    model = copy.deepcopy(llama).train()
    rows = some_rows(9)
    complete = evaluate_loss(model, [pad_rows(rows, PAD)])
    assert evaluate_loss(model, [pad_rows([row], PAD) for row in rows]) == pytest.approx(complete, rel=1e-5)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert evaluate_loss(model, []) == 0


def test_an_estimate_leaves_no_trace_and_grows_with_the_work(llama: Any) -> None:
    model = add_adapter(copy.deepcopy(llama), LoraSettings(rank=2), 0)
    before = copy.deepcopy(model.state_dict())
    step = [pad_rows(some_rows(8), PAD)]
    few, many = estimate(model, step, 10, 1, 0), estimate(model, step, 1000, 5, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert few.steps == 10
    assert 0 < few.seconds < many.seconds
    assert few.memory_bytes == many.memory_bytes > sum(p.numel() * 4 for p in model.parameters())
    adapter = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    states = 3 * 3 * adapter
    assert few.disk_bytes == adapter + states
    assert many.disk_bytes == 5 * adapter + states + sum(p.numel() * 4 for p in llama.parameters())
    assert "10 steps" in few.describe()
