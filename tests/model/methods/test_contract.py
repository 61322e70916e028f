"""What holds for every method in METHODS: a new row of the table is tested from here on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import with_random_adapter
from transformers import AutoModelForCausalLM

from lotune.data.collate import Collator
from lotune.data.tokenized import EncodedRow
from lotune.errors import ModelError, SettingsError
from lotune.evaluate.parameter_ratio import count_adapter
from lotune.generate.backends import slot_batcher
from lotune.generate.engine import Engine, generate_completions
from lotune.generate.loglikelihood import Continuation, LogLikelihood
from lotune.generate.requests import Request
from lotune.generate.transformers_fallback import TransformersBatcher
from lotune.model.adapters import add_adapter, base_alone, has_adapter, trainable_count
from lotune.model.checkpoints import init_adapter, load_adapter, merge, save_adapter
from lotune.model.known_bases import known_base
from lotune.model.loading import LoadedModel, context_length, declared_context_length, load_model, meta_model
from lotune.model.methods.full import FullSettings
from lotune.model.methods.lora import LoraSettings
from lotune.model.methods.method import Method
from lotune.model.methods.prompt_tuning import PromptTuningSettings
from lotune.model.methods.registry import METHODS
from lotune.model.packing import enable_packing
from lotune.model.parts import token_reader, virtual_ids
from lotune.model.settings import AdapterSettings, BaseSettings
from lotune.train.loop import train
from lotune.train.loss import CausalLoss
from lotune.train.optimizers import adamw
from lotune.train.train_state import Training, load_state, save_state

SETTINGS: dict[str, AdapterSettings] = {
    "lora": LoraSettings(rank=3, target_modules="all-linear"),
    "prompt_tuning": PromptTuningSettings(num_virtual_tokens=9),
    "full": FullSettings(),
}
"""Settings of each method that fit the tiny model."""


@pytest.fixture(params=METHODS)
def settings(request: pytest.FixtureRequest) -> AdapterSettings:
    return SETTINGS[request.param]


@pytest.fixture
def method(settings: AdapterSettings) -> Method:
    return METHODS[settings.method]


def reload(base: LoadedModel) -> LoadedModel:
    return load_model(BaseSettings(model=str(base.folder), dtype="float32"), "cpu")


def shaken(model: Any) -> Any:
    """The model with other weights in its adapter."""
    return with_random_adapter(model, 0.1)


def test_every_method_has_its_own_settings(method: Method, settings: AdapterSettings) -> None:
    assert METHODS[method.name] is method
    assert type(settings) is method.settings
    assert method.settings().method == method.name


def test_the_count_is_the_closed_formula(
    method: Method, settings: AdapterSettings, base: LoadedModel, tmp_path: Path
) -> None:
    empty = meta_model(BaseSettings(model=base.name))
    predicted = method.parameter_count(settings, empty)
    model = add_adapter(base.model, settings, seed=0)
    save_adapter(model, tmp_path / "adapter")
    assert predicted == trainable_count(model) == count_adapter(tmp_path / "adapter").trainable > 0
    shape = known_base(base.name).shape
    if method.count_on_shape is not None:
        assert method.count_on_shape(settings, shape) == predicted
    if (name := method.size_setting) is not None:
        single = settings.model_copy(update={name: 1})
        assert method.parameter_count(single, empty) * getattr(settings, name) == predicted


def test_a_fresh_adapter_is_the_identity_if_the_method_says_so(
    method: Method, settings: AdapterSettings, base: LoadedModel, tokens: torch.Tensor
) -> None:
    before = base.model(tokens).logits
    model = add_adapter(base.model, settings, seed=0)
    assert has_adapter(base.model)
    after = model(input_ids=tokens).logits[:, -tokens.shape[1] :]
    assert torch.equal(after, before) == method.identity_at_init
    with model.disable_adapter():
        assert torch.equal(model(input_ids=tokens).logits, before)


def test_the_base_inside_answers_as_if_it_had_no_adapter(
    settings: AdapterSettings, base: LoadedModel, tokens: torch.Tensor
) -> None:
    requests = [Request(tuple(range(5, 5 + length)), 8, min_new_tokens=8) for length in (3, 9, 20)]

    def answers(model: Any) -> list[tuple[int, ...]]:
        completions = generate_completions(model, base.tokenizer, requests, batch_tokens=4096)
        return [completion.token_ids for completion in completions]

    alone, logits = answers(base.model), base.model(tokens).logits
    model = with_random_adapter(add_adapter(base.model, settings, seed=0), 1.0)
    adapted = answers(model)
    with base_alone(model) as inside:
        assert answers(inside) == alone != adapted
        assert torch.equal(inside(input_ids=tokens).logits, logits)
        assert virtual_ids(inside) == ()
    assert answers(model) == adapted
    assert trainable_count(model) == trainable_count(add_adapter(reload(base).model, settings, seed=0))


def test_equal_seeds_are_equal_adapters(settings: AdapterSettings, base: LoadedModel) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        model = add_adapter(reload(base).model, settings, seed)
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    pairs = list(zip(weights(5), weights(5), strict=True))
    assert all(torch.equal(weight, other) for weight, other in pairs)
    alike = all(torch.equal(weight, other) for weight, other in zip(weights(5), weights(6), strict=True))
    assert alike == METHODS[settings.method].trains_base  # which draws nothing


def test_only_the_adapter_trains_in_float32(settings: AdapterSettings, base: LoadedModel, tokens: torch.Tensor) -> None:
    base.model.to(torch.bfloat16)  # type: ignore[arg-type]
    model = add_adapter(base.model, settings, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == trained


@pytest.mark.oracle
def test_a_saved_adapter_gives_the_same_logits_here_and_in_peft(
    settings: AdapterSettings, base: LoadedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = shaken(add_adapter(base.model, settings, seed=0))
    expected = model(input_ids=tokens).logits
    save_adapter(model, tmp_path / "adapter", base=base)
    reference: Any = AutoModelForCausalLM.from_pretrained(base.name)
    if METHODS[
        settings.method
    ].trains_base:  # PEFT has no such adapters: the file has the weights under transformers' names
        unread = reference.load_state_dict(load_file(tmp_path / "adapter" / "adapter_model.safetensors"), strict=False)
        assert unread.unexpected_keys == []
    else:
        reference = PeftModel.from_pretrained(reference, str(tmp_path / "adapter"))
    assert torch.equal(reference(input_ids=tokens).logits, expected)
    actual: Any = load_adapter(reload(base), tmp_path / "adapter")
    assert torch.equal(actual(input_ids=tokens).logits, expected)
    assert trainable_count(actual) == 0
    save_adapter(actual, tmp_path / "again", base=base)
    names = ("adapter_config.json", "adapter_model.safetensors")
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes() for name in names)
    further: Any = init_adapter(reload(base), settings.model_copy(update={"init_from": tmp_path / "adapter"}), seed=7)
    assert trainable_count(further) == trainable_count(model)
    assert torch.equal(further(input_ids=tokens).logits, expected)


@pytest.mark.oracle
def test_virtual_ids_give_the_embeddings_that_peft_puts_before_a_prompt(
    method: Method, settings: AdapterSettings, base: LoadedModel, tokens: torch.Tensor
) -> None:
    model: Any = shaken(add_adapter(base.model, settings, seed=0))
    ids = virtual_ids(model)
    assert len(ids) == method.num_virtual_tokens(settings)
    assert context_length(model) == (declared_context_length(base.model.config) or 0) - len(ids)
    complete = torch.cat([torch.tensor([ids], dtype=torch.int64).expand(len(tokens), -1), tokens], 1)
    assert torch.equal(token_reader(model)(input_ids=complete).logits, model(input_ids=tokens).logits)


def test_merged_is_adapted_or_refused(
    method: Method, settings: AdapterSettings, base: LoadedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = shaken(add_adapter(base.model, settings, seed=0))
    save_adapter(model, tmp_path / "adapter")
    if not method.mergeable:
        with pytest.raises(ModelError, match=f"{method.name} cannot be merged"):
            merge(reload(base), tmp_path / "adapter")
        return
    merged = merge(reload(base), tmp_path / "adapter")
    torch.testing.assert_close(merged(tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=1e-4)


def rows(tokens: torch.Tensor) -> list[EncodedRow]:
    """Rows of different lengths; the first is scored twice."""
    ids = [tuple(row[: 12 + 3 * number].tolist()) for number, row in enumerate(tokens)]
    return [EncodedRow(str(number), row, 8, ((2, 4),) if number == 0 else ()) for number, row in enumerate(ids)]


@pytest.mark.oracle
@pytest.mark.parametrize("packed", [False, True])
def test_the_loss_is_that_of_peft_row_by_row(
    packed: bool, settings: AdapterSettings, base: LoadedModel, tokens: torch.Tensor
) -> None:
    model = shaken(add_adapter(base.model, settings, seed=0))
    expected = torch.tensor(0.0)
    for row in rows(tokens):
        logits = model(input_ids=torch.tensor([row.token_ids])).logits[0, -len(row.token_ids) :].log_softmax(-1)
        positions = [item for first, last in row.spans for item in range(first, last)]
        expected = expected - sum(logits[item - 1, row.token_ids[item]] for item in positions)
    expected.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained]
    for parameter in trained:
        parameter.grad = None
    assert not packed or enable_packing(model, 64)
    batches = Collator(8, 4096, 257, packed, virtual_ids(model)).batches(rows(tokens))
    loss = torch.stack([CausalLoss(model)(batch) for batch in batches]).sum()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for parameter, gradient in zip(trained, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)


def test_a_resumed_training_ends_with_the_same_weights(
    settings: AdapterSettings, base: LoadedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    def training() -> Training:
        model: Any = init_adapter(reload(base), settings, seed=0)
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return Training(model, adamw(weights, 1e-2, (0.9, 0.99), 1e-8, 0.1), "same inputs")

    def steps(begun: Training, first: int, last: int) -> None:
        batches = Collator(8, 4096, 257, False, virtual_ids(begun.model)).batches(rows(tokens))
        list(train(begun.model, [batches] * (last - first + 1), begun.optimizers, [1.0] * 4, first_step=first))

    complete, stopped, resumed = training(), training(), training()
    steps(complete, 1, 4)
    steps(stopped, 1, 2)
    save_state(tmp_path, stopped, 2, None)
    state = load_state(tmp_path, resumed).state
    assert state is not None
    steps(resumed, state.step + 1, 4)
    weights = [dict(begun.model.named_parameters()) for begun in (complete, resumed)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def greedy(model: Any, prompt: Sequence[int], count: int) -> tuple[int, ...]:
    """The greedy answer to a prompt that is read anew for each token by PEFT's own forward pass."""
    ids = list(prompt)
    for _ in range(count):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.index_fill(0, torch.tensor([256]), float("-inf")).argmax()))  # no end of text
    return tuple(ids[len(prompt) :])


@pytest.mark.oracle
def test_answers_and_likelihoods_are_those_of_peft(
    settings: AdapterSettings, base: LoadedModel, tokens: torch.Tensor
) -> None:
    model: Any = shaken(add_adapter(base.model, settings, seed=0))
    prompts = [tuple(row.tolist()) for row in tokens] + [tuple(tokens[0, :7].tolist())]
    batcher = slot_batcher(model)
    assert batcher is not None
    assert batcher.slots.fast is not None
    requests = [Request(prompt, 5, min_new_tokens=5) for prompt in prompts]
    answers = generate_completions(model, base.tokenizer, requests, batch_tokens=4096)
    expected = [greedy(model, prompt, 5) for prompt in prompts]
    assert [answer.token_ids for answer in answers] == expected
    engine = Engine(model, base.tokenizer)
    engine._backend = TransformersBatcher(engine.model, engine._base)
    completed = dict(engine.stream(requests, batch_tokens=4096))
    assert [completed[number].token_ids for number in range(len(prompts))] == expected
    continuations = [Continuation(prompt, (7, 8)) for prompt in prompts]
    for prompt, values in zip(prompts, LogLikelihood(model).score(continuations, batch_tokens=4096), strict=True):
        logits = model(input_ids=torch.tensor([[*prompt, 7]])).logits[0, -2:].log_softmax(-1)
        torch.testing.assert_close(torch.tensor(values), logits[[0, 1], [7, 8]], rtol=0, atol=1e-4)


def test_a_saved_adapter_of_another_method_is_refused(
    method: Method, settings: AdapterSettings, base: LoadedModel, tmp_path: Path
) -> None:
    save_adapter(add_adapter(base.model, settings, seed=0), tmp_path / "adapter")
    for other in METHODS.values():
        if other is not method:
            with pytest.raises(ModelError, match=f"is a {method.name} adapter"):
                init_adapter(reload(base), other.settings(init_from=tmp_path / "adapter"), seed=0)


def test_a_prompt_starts_as_the_tokens_of_its_text(base: LoadedModel) -> None:
    settings = PromptTuningSettings(num_virtual_tokens=5, init_text="sum")
    model: Any = add_adapter(base.model, settings, 0, base.tokenizer)
    ids = [*base.tokenizer("sum")["input_ids"], *base.tokenizer("su")["input_ids"]]
    words = model.word_embeddings.weight[ids]
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, words)
    with pytest.raises(SettingsError, match=r"adapter.init_text: 'sum' has no tokens"):
        add_adapter(reload(base).model, settings, 0)
