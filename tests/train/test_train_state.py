"""States of a training: going on from one gives the weights of a training that was never stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lotune.data.collate import pad_rows
from lotune.data.tokenized import EncodedRow
from lotune.errors import RunError
from lotune.train.loop import NotFiniteError, Step, train
from lotune.train.optimizers import Optimizers, adamw, muon
from lotune.train.saved_steps import save_states_between
from lotune.train.train_state import (
    HEADER,
    STATES_KEPT,
    Training,
    load_state,
    save_shards,
    save_state,
)

STEPS = 6


def batches(first: int) -> Iterator[list[Any]]:
    for number in range(first, STEPS + 1):
        rows = [EncodedRow(str(i), tuple(2 + (number * 7 + i * 5 + t) % 250 for t in range(12)), 3) for i in range(3)]
        yield [pad_rows(rows, 1)]


def begin(model: Any, optimizer: str, mark: str = "m") -> Training:
    """A training of a model with dropout, so that the random generator matters."""
    model.config.attention_dropout = 0.2
    torch.manual_seed(1)
    made: Optimizers = (
        muon(model, 1e-2, 0.1) if optimizer == "muon" else adamw(list(model.parameters()), 1e-2, (0.9, 0.99), 1e-8, 0.1)
    )
    return Training(model, made, mark)


def steps(training: Training, first: int = 1) -> Iterator[Step]:
    return train(training.model, batches(first), training.optimizers, [1.0] * STEPS, first_step=first)


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("save", [save_state, save_shards])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resuming_gives_the_same_weights_bit_for_bit(
    tiny_llama: Any, tmp_path: Path, optimizer: str, save: Callable[..., Any]
) -> None:
    start = {name: value.clone() for name, value in tiny_llama.state_dict().items()}
    complete = begin(tiny_llama, optimizer)
    for step in steps(complete):
        if step.number == 4:
            save(tmp_path, complete, 4, {"found": [1.5]})
    expected = weights(complete)
    tiny_llama.load_state_dict(start)
    again = begin(tiny_llama, optimizer)
    torch.manual_seed(99)
    result = load_state(tmp_path, again)
    assert result.state is not None
    assert (result.state.step, result.state.notes) == (4, {"found": [1.5]})
    assert not same(weights(again), expected)
    assert [step.number for step in steps(again, 5)] == [5, 6]
    assert same(weights(again), expected)


@pytest.mark.parametrize("harm", ["cut", "altered"])
def test_a_damaged_state_is_noticed_and_the_one_before_it_used(tiny_llama: Any, tmp_path: Path, harm: str) -> None:
    training = begin(tiny_llama, "adamw")
    for step in steps(training):
        newest = save_state(tmp_path, training, step.number, None)
    content = bytearray(newest.read_bytes())
    if harm == "cut":
        del content[len(content) // 2 :]
    else:
        content[-5] ^= 1
    newest.write_bytes(content)
    result = load_state(tmp_path, training)
    assert result.damaged == (newest.name,)
    assert result.state is not None
    assert result.state.step == STEPS - 1


@pytest.mark.parametrize("harm", ["cut", "altered", "gone", "added", "header"])
def test_a_damaged_sharded_state_is_detected_and_written_again(tiny_llama: Any, tmp_path: Path, harm: str) -> None:
    training = begin(tiny_llama, "adamw")
    for step in steps(training):
        save_shards(tmp_path, training, step.number, None)
    newest = max(tmp_path.iterdir())
    [file] = newest.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    if harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "altered":
        file.write_bytes(content)
    elif harm == "gone":
        file.unlink()
    elif harm == "added":
        (newest / "other.safetensors").write_bytes(file.read_bytes())
    else:
        (newest / HEADER).write_bytes(b"{}")
    result = load_state(tmp_path, training)
    assert result.damaged == (newest.name,)
    assert result.state is not None
    assert result.state.step == STEPS - 1
    for step in steps(training, STEPS):
        save_shards(tmp_path, training, step.number, None)
    assert load_state(tmp_path, training).damaged == ()
    assert [path.name.split(".")[0] for path in sorted(tmp_path.iterdir())] == ["step-000000005", "step-000000006"]


def test_a_torch_that_cannot_read_shards_is_refused(
    tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = begin(tiny_llama, "adamw")
    next(steps(training))
    save_shards(tmp_path, training, 1, None)
    monkeypatch.setattr("lotune.train.sharded_state.supports_sharded_safetensors", lambda: False)
    with pytest.raises(RunError, match=r"is in shards, which PyTorch .* cannot read\nexpected: PyTorch 2.9 or later"):
        load_state(tmp_path, training)


@pytest.mark.parametrize("save", [save_state, save_shards])
def test_the_newest_states_stay_and_partial_files_of_a_crash_are_removed(
    tiny_llama: Any, tmp_path: Path, save: Callable[..., Any]
) -> None:
    training = begin(tiny_llama, "adamw")
    for step in steps(training):
        save(tmp_path, training, step.number, None)
    (tmp_path / ".123.tmp").write_bytes(b"half a state")
    (tmp_path / ".step-000000007.tmp").mkdir()
    (tmp_path / ".step-000000007.tmp" / "shard.safetensors").write_bytes(b"half a shard")
    load_state(tmp_path, training)
    assert [path.name.split(".")[0] for path in sorted(tmp_path.iterdir())] == ["step-000000005", "step-000000006"]
    assert STATES_KEPT == 2


def test_a_state_of_other_inputs_is_left_alone(tiny_llama: Any, tmp_path: Path) -> None:
    training = begin(tiny_llama, "adamw")
    next(steps(training))
    save_state(tmp_path, training, 1, None)
    before = weights(training)
    assert load_state(tmp_path, Training(training.model, training.optimizers, "other")).state is None
    assert same(weights(training), before)
    assert len(list(tmp_path.iterdir())) == 1


def test_states_of_an_earlier_training_do_not_push_out_those_of_this_one(tiny_llama: Any, tmp_path: Path) -> None:
    """The settings were changed at step 6: the new training's first states are kept, though their steps are lower."""
    training = begin(tiny_llama, "adamw")
    next(steps(training))
    for step in (5, 6):
        save_state(tmp_path, training, step, None)
    changed = Training(training.model, training.optimizers, "other")
    for step in (1, 2, 3):
        save_state(tmp_path, changed, step, None)
        state = load_state(tmp_path, changed).state
        assert state is not None
        assert state.step == step
    assert len(list(tmp_path.iterdir())) == STATES_KEPT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_saves_first(tiny_llama: Any, tmp_path: Path, number: int) -> None:
    training = begin(tiny_llama, "adamw")
    seen: list[int] = []
    handler = signal.getsignal(number)

    def work() -> None:
        for step in save_states_between(steps(training), tmp_path, training, lambda: {"seen": len(seen)}, minutes=60):
            seen.append(step.number)
            if step.number == 3:
                os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [1, 2, 3]
    result = load_state(tmp_path, training).state
    assert result is not None
    assert (result.step, result.notes) == (3, {"seen": 3})
    assert signal.getsignal(number) is handler


def test_states_are_saved_when_due(tiny_llama: Any, tmp_path: Path) -> None:
    training = begin(tiny_llama, "adamw")
    state_names = []
    for _ in save_states_between(steps(training), tmp_path, training, lambda: None, minutes=60, always=(2, 5)):
        state_names.append(sorted(path.name.split(".")[0] for path in tmp_path.iterdir()))
    assert [len(names) for names in state_names] == [0, 0, 1, 1, 1, 2]
    assert state_names[-1] == ["step-000000002", "step-000000005"]


def test_the_last_good_state_is_saved_if_a_loss_is_not_finite(tiny_llama: Any, tmp_path: Path) -> None:
    """At any interval: the weights in memory are those after the last whole step."""
    training = begin(tiny_llama, "adamw")
    good: dict[str, torch.Tensor] = {}

    def failing() -> Iterator[Step]:
        for step in steps(training):
            good.update(weights(training))
            yield step
            if step.number == 3:
                raise NotFiniteError(4, float("nan"), 1.0)

    with pytest.raises(NotFiniteError):
        list(save_states_between(failing(), tmp_path, training, lambda: {"seen": 3}, minutes=5))
    with torch.no_grad():
        next(tiny_llama.parameters()).zero_()
    result = load_state(tmp_path, training).state
    assert result is not None
    assert (result.step, result.notes) == (3, {"seen": 3})
    assert same(weights(training), good)
