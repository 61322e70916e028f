"""The divergence from the base as an objective, beside the same computed by torch from whole logits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from steps import EOS, PAD, assert_same, some_rows
from tiny_models import causal_lm, with_random_adapter
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from lotune.data.collate import IGNORE_INDEX, Batch, Collator, pack_rows, pad_rows, replay_part
from lotune.data.tokenized import EncodedRow
from lotune.model.adapters import add_adapter, base_alone
from lotune.model.methods.lora import LoraSettings
from lotune.model.methods.prompt_tuning import PromptTuningSettings
from lotune.model.packing import enable_packing
from lotune.model.parts import virtual_ids
from lotune.model.settings import AdapterSettings
from lotune.train.divergence import DivergenceLoss, divergences
from lotune.train.loop import enable_gradient_checkpointing, train
from lotune.train.loss import MAX_LOGITS_PER_CHUNK, CausalLoss
from lotune.train.optimizers import adamw

WEIGHT = 3.0
SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 96, "initializer_range": 0.3, "eos_token_id": EOS, "pad_token_id": PAD,
}  # fmt: skip


def llama() -> Any:
    return causal_lm("LlamaConfig", **SHAPE)


def granite() -> Any:
    """A model that scales its logits, so that its own code makes them."""
    return causal_lm("GraniteConfig", **SHAPE, logits_scaling=7)


def gpt2() -> Any:
    """A model whose base drops, in training, what the comparison must not see."""
    return causal_lm("GPT2Config", vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=96, eos_token_id=EOS)


LORA = LoraSettings(rank=2, target_modules="all-linear")
WITH_HEAD = LoraSettings(rank=2, target_modules=["q_proj", "lm_head"])
PROMPT = PromptTuningSettings(num_virtual_tokens=9)


def adapted(base: Callable[[], Any] = llama, settings: AdapterSettings = LORA, std: float = 0.2) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return with_random_adapter(add_adapter(base(), settings, 0), std)


def mixed_rows(count: int, shared: int = 0) -> list[EncodedRow]:
    """Rows of which every third is a replay row."""
    return [replace(row, is_replay=number % 3 == 0) for number, row in enumerate(some_rows(count, shared=shared))]


def row_logits(model: Any, row: EncodedRow) -> tuple[Tensor, Tensor]:
    """Logits and targets of the scored positions of a row, by one call of the model for this row alone."""
    targets = torch.full((len(row.token_ids),), IGNORE_INDEX)
    targets[row.completion_start - 1 : -1] = torch.tensor(row.token_ids[row.completion_start :])
    logits: Tensor = model(input_ids=torch.tensor([row.token_ids]), use_cache=False).logits[0, -len(targets) :]
    return logits[targets != IGNORE_INDEX], targets[targets != IGNORE_INDEX]


def plain_loss(model: Any, base: Any, rows: list[EncodedRow]) -> Tensor:
    """The objective by PEFT's and torch's own code: a copy of the base, a row at a time."""
    total = torch.zeros((), dtype=model.dtype)
    for row in rows:
        logits, targets = row_logits(model, row)
        if row.is_replay:
            expected = row_logits(base, row)[0].log_softmax(-1).detach()
            loss = WEIGHT * kl_div(logits.log_softmax(-1), expected, reduction="sum", log_target=True)
        else:
            loss = cross_entropy(logits, targets, reduction="sum")
        total = total + loss
    return total


def gradients(loss: Tensor, model: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


@pytest.mark.oracle
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("base", "settings"),
    [(llama, LORA), (llama, PROMPT), (llama, WITH_HEAD), (granite, LORA), (gpt2, LORA)],
    ids=["llama", "prompt tuning", "adapted head", "scaled logits", "dropout"],
)
@pytest.mark.parametrize("double", [False, True])
def test_it_is_the_divergence_that_torch_computes(
    base: Callable[[], Any], settings: AdapterSettings, packed: bool, double: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_LOGITS_PER_CHUNK, "cpu", 7 * 300)  # a few positions a chunk
    model, rows = adapted(base, settings), mixed_rows(11, shared=10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        untuned = base()
    if double:
        model.double()
        untuned.double()
    packed = packed and enable_packing(model, 60)
    expected = plain_loss(model.eval(), untuned.eval(), rows)
    expected_gradients = gradients(expected, model)
    batches = Collator(6, 200, PAD, packed, virtual_ids(model)).batches(rows)
    assert len(batches) > 1
    if base is not gpt2:
        model.train()
    relative = 1e-9 if double and not packed else 2e-5  # packed attention keeps its sums in float32
    of_each_step, kept = DivergenceLoss(model, WEIGHT), DivergenceLoss(model, WEIGHT, recurring=1_000)
    for objective in (of_each_step, kept, kept):
        found = torch.stack([objective(batch) for batch in batches]).sum()
        assert found.item() == pytest.approx(expected.item(), rel=relative)
        assert_same(gradients(found, model), expected_gradients, relative)


def test_base_logits_do_not_see_dropout() -> None:
    model = adapted(gpt2, std=1e-6).train()
    rows = [replace(row, is_replay=True) for row in some_rows(5)]
    batch = pad_rows(rows, PAD)
    states = DivergenceLoss(model, 1.0)._base_states(batch)
    assert states is not None
    again = DivergenceLoss(model, 1.0)._base_states(batch)
    assert torch.equal(states, again)
    assert model.training


def count_base_passes(objective: DivergenceLoss, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each pass of the base, as they come."""
    passes: list[int] = []
    scored_states = objective._scored_states

    def counted(batch: Batch) -> Tensor:
        passes.append(batch.input_ids.numel())
        return scored_states(batch)

    monkeypatch.setattr(objective, "_scored_states", counted)
    return passes


@pytest.mark.parametrize("packed", [False, True])
def test_the_base_reads_a_recurring_row_once_and_alone(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = adapted(), [replace(row, is_replay=True) for row in some_rows(6, shared=10)]
    packed = packed and enable_packing(model, 60)
    make = pack_rows if packed else lambda rows: pad_rows(rows, PAD)
    objective = DivergenceLoss(model, WEIGHT, recurring=1_000)
    passes = count_base_passes(objective, monkeypatch)
    first, second, mixed = (objective._base_states(make(part)) for part in (rows[:3], rows[3:], rows[::2]))
    assert first is not None
    assert second is not None
    assert mixed is not None
    assert sorted(passes) == sorted(len(row.token_ids) - 1 for row in rows)
    counts = [len(row.token_ids) - row.completion_start for row in rows]
    parts = [*first.split(counts[:3]), *second.split(counts[3:])]
    assert torch.equal(mixed, torch.cat(parts[::2])), "the rows beside it change no bit"


def test_the_base_reads_rows_anew_that_do_not_recur_or_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = adapted(), pad_rows([replace(row, is_replay=True) for row in some_rows(4)], PAD)
    for recurring, times in ((0, 2), (100, 2), (50, 4)):  # twice the whole batch, or each row once
        monkeypatch.setattr("lotune.train.divergence.MAX_STATE_BYTES", 99 * 32 * 4)
        objective = DivergenceLoss(model, WEIGHT, recurring=recurring)
        passes = count_base_passes(objective, monkeypatch)
        for _ in range(2):
            objective(batch)
        assert len(passes) == times


def test_without_an_adapter_the_model_is_its_base_and_still_trains_afterwards() -> None:
    model, ids = adapted(), torch.tensor([[5, 6, 7]])
    with torch.no_grad(), model.disable_adapter():
        expected = model(input_ids=ids).logits
    frozen = next(p for p in model.parameters() if p.requires_grad).requires_grad_(False)
    with torch.no_grad(), base_alone(model):
        found = model(input_ids=ids).logits
    assert torch.equal(found, expected)
    assert not torch.allclose(model(input_ids=ids).logits, expected)
    assert not frozen.requires_grad


@pytest.mark.parametrize("shared", [0, 12])
@pytest.mark.parametrize("packed", [False, True])
def test_the_replay_part_of_a_batch_is_the_batch_of_its_replay_rows(packed: bool, shared: int) -> None:
    rows = mixed_rows(8, shared)
    replay = [row for row in rows if row.is_replay]
    make = pack_rows if packed else lambda rows: pad_rows(rows, PAD)
    part, whole = replay_part(make(rows)), make(replay)
    assert part is not None
    if not packed or part.shared_prefix == whole.shared_prefix:
        for name in ("input_ids", "targets", "positions", "sequence_ids"):
            assert torch.equal(getattr(part, name), getattr(whole, name)), name
    assert list(part.rows()) == list(whole.rows())
    assert part.num_scored_tokens == whole.num_scored_tokens
    assert replay_part(make([row for row in rows if not row.is_replay])) is None


def losses(model: Any, batches: list[list[Batch]], **objective: Any) -> list[float]:
    optimizers = adamw([p for p in model.parameters() if p.requires_grad], 1e-2, (0.9, 0.99), 1e-8, 0.0)
    return [step.loss for step in train(model, batches, optimizers, [1.0] * len(batches), **objective)]


@pytest.mark.parametrize("settings", [LORA, PROMPT], ids=["lora", "prompt tuning"])
def test_activations_computed_again_change_nothing(settings: AdapterSettings) -> None:
    rows = mixed_rows(8)
    plain = adapted(settings=settings)
    recomputed = copy.deepcopy(plain)
    batches = [[pad_rows_of(plain, rows)]] * 3
    enable_gradient_checkpointing(recomputed, "tune.gradient_checkpointing")
    found = losses(recomputed, batches, objective=DivergenceLoss(recomputed, WEIGHT))
    assert found == pytest.approx(losses(plain, batches, objective=DivergenceLoss(plain, WEIGHT)), rel=1e-5)


def pad_rows_of(model: Any, rows: list[EncodedRow]) -> Batch:
    [batch] = Collator(99, 9999, PAD, False, virtual_ids(model)).batches(rows)
    return batch


def test_task_rows_alone_have_their_cross_entropy() -> None:
    rows = [replace(row, is_replay=False) for row in some_rows(6)]
    one, other = adapted(), adapted()
    batches = [[pad_rows(rows, PAD)]] * 2
    assert losses(one, batches) == losses(other, batches, objective=DivergenceLoss(other, WEIGHT))


def test_it_holds_a_model_on_replay_rows() -> None:
    """Trained with it, the model stays near its base on replay rows, and learns the others all the same."""
    rows = mixed_rows(9)
    free, held = adapted(std=0.05), adapted(std=0.05)
    batch = pad_rows(rows, PAD)
    task = pad_rows([replace(row, is_replay=False) for row in rows if not row.is_replay], PAD)

    def apart(model: Any) -> float:
        part = pad_rows([row for row in rows if row.is_replay], PAD)
        with torch.no_grad():
            return float(DivergenceLoss(model, 1.0)(part))

    free_losses = losses(free, [[task]] * 15)
    held_losses = losses(held, [[batch]] * 15, objective=DivergenceLoss(held, WEIGHT))
    assert apart(held) < 0.5 * apart(free)
    assert held_losses[-1] < held_losses[0]
    assert free_losses[-1] < free_losses[0]
    with torch.no_grad():
        assert CausalLoss(held)(task) < CausalLoss(adapted(std=0.05))(task)


def test_tokens_that_both_models_mask_count_nothing() -> None:
    base, tuned = torch.randn(2, 5), torch.randn(2, 5)
    base[:, 3] = tuned[:, 3] = -torch.inf
    kept = [0, 1, 2, 4]
    expected = kl_div(tuned[:, kept].log_softmax(-1), base[:, kept].softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(divergences(base, tuned), expected)
