"""Two real processes over gloo do what one does; one that dies leaves a folder that can be gone on from."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lotune.data.rank_split import balance_by_tokens
from lotune.distributed import SINGLE_PROCESS

sys.path.insert(0, str(Path(__file__).parent))
import ranks

RANKS = Path(__file__).parent / "ranks.py"


@given(st.lists(st.integers(1, 500), max_size=40), st.integers(1, 8))
def test_rows_are_divided_evenly(lengths: list[int], parts: int) -> None:
    owners = balance_by_tokens(lengths, parts)
    loads = [
        sum(length for length, owner in zip(lengths, owners, strict=True) if owner == part) for part in range(parts)
    ]
    assert len(owners) == len(lengths)
    assert max(loads) - min(loads) <= max(lengths, default=0)
    assert len(lengths) < parts or min(loads) > 0


def launched(plans: list[dict[str, Any]], number: int = 2) -> processes.Ended:
    """What several processes leave that go through the plans together."""
    return processes.ranks(processes.RUN_SCRIPT, [RANKS, json.dumps(plans)], number)


def begun(folder: Path, **plan: Any) -> dict[str, Any]:
    """A plan whose folder has the rows."""
    folder.mkdir()
    ranks.rows(folder)
    return {"folder": str(folder), **plan}


def alone(plan: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Steps and weights of one process."""
    steps = list(ranks.figures(ranks.run(plan, SINGLE_PROCESS)))
    return steps, load_file(Path(plan["folder"]) / "weights.safetensors")


def together(plan: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Steps and weights that several processes left."""
    folder = Path(plan["folder"])
    return json.loads((folder / "steps.json").read_text()), load_file(folder / "weights.safetensors")


def going_on(folder: Path, before: dict[str, Any], step: int, **plan: Any) -> dict[str, Any]:
    """A plan that goes on from the state after `step` of another one."""
    again = begun(folder, **plan)
    [state] = (Path(before["folder"]) / "states").glob(f"step-{step:09d}.*")
    (folder / "states").mkdir()
    copy = shutil.copytree if state.is_dir() else shutil.copy
    copy(state, folder / "states" / state.name)
    return again


def assert_same(found: Any, expected: Any) -> None:
    """Losses alike to a relative 1e-5; norms and weights to what Adam makes of the last bit of a gradient."""
    for result, other in zip(found[0], expected[0], strict=True):
        assert result["norm"] == pytest.approx(other["norm"], rel=1e-4)
        assert {**result, "norm": 0} == pytest.approx({**other, "norm": 0}, rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, weight in found[1].items():
        torch.testing.assert_close(weight, expected[1][name], rtol=1e-4, atol=1e-4)


def assert_same_gradients(one: Path, other: Path, step: int) -> None:
    """Each weight's gradients of a step alike to a relative 1e-5: of weights that were the same to the bit before."""
    results, expected = (
        {name: tensor for name, tensor in load_file(folder / "gradients.safetensors").items() if name[0] == str(step)}
        for folder in (one, other)
    )
    assert results.keys() == expected.keys() != set()
    for name, gradient in results.items():
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


WAYS: dict[str, dict[str, Any]] = {
    "adapter": {},
    "adapter in shards": {"shard": True},
    "adapter, divergence": {"divergence": 3.0},
    "adapter in shards, divergence": {"shard": True, "divergence": 3.0, "tied": False},
    "all": {"all": True},
    "all in shards": {"all": True, "shard": True},
    "all in shards, untied": {"all": True, "shard": True, "tied": False},
    "all in shards, untied, in parts": {"all": True, "shard": True, "tied": False, "most_logits": 900},
    "scaled in shards, untied, in parts": {"shard": True, "tied": False, "scaled": True, "most_logits": 900},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], ...]]:
    """For each of WAYS: the plan of two processes, and of two that go on from the third step of one."""
    folder = tmp_path_factory.mktemp("ranks")
    results = {}
    for name, way in WAYS.items():
        one = begun(folder / f"{name}, one", save=[3, ranks.STEPS], **way)
        ranks.run(one, SINGLE_PROCESS)
        two = begun(folder / f"{name}, two", save=[3, ranks.STEPS], **way)
        results[name] = (two, going_on(folder / f"{name}, on", one, 3, **way))
    completed = launched([plan for plans in results.values() for plan in plans])
    assert completed.returncode == 0, completed.stderr
    return results


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_give_the_result_of_one(trained: Any, way: str, tmp_path: Path) -> None:
    two, onward = trained[way]
    expected = alone(begun(tmp_path / "one", **WAYS[way]))
    assert [step["number"] for step in expected[0]] == list(range(1, ranks.STEPS + 1))
    assert_same(together(two), expected)
    assert_same_gradients(Path(two["folder"]), tmp_path / "one", 1)
    assert_same_gradients(Path(onward["folder"]), tmp_path / "one", 4)
    assert_same(together(onward), (expected[0][3:], expected[1]))  # from one process to two
    assert_same(alone(going_on(tmp_path / "back", two, 3, **WAYS[way])), (expected[0][3:], expected[1]))


def states(plan: dict[str, Any]) -> list[Path]:
    """What is in a plan's folder of states, the oldest first."""
    return sorted((Path(plan["folder"]) / "states").iterdir())


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("a pickle is read or written")


@pytest.mark.slow
def test_a_state_in_shards_is_a_file_of_safetensors_for_each_process(trained: Any) -> None:
    for state in states(trained["all in shards, untied"][0]):
        header, *files = sorted(state.iterdir(), reverse=True)
        assert header.name == "state.json"
        assert json.loads(header.read_text())["files"].keys() == {file.name for file in files}
        sizes = [sum(tensor.numel() for tensor in load_file(file).values()) for file in files]
        assert len(sizes) == 2
        assert sizes[0] == pytest.approx(sizes[1], rel=0.1), "the leader's has the random generator, too"


@pytest.mark.slow
def test_any_number_of_processes_resumes_from_shards_unless_they_are_damaged(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = WAYS["all in shards, untied"]
    expected = alone(begun(tmp_path / "one", **way))
    onward = (expected[0][3:], expected[1])
    two = trained["all in shards, untied"][0]
    plans = {number: begun(tmp_path / f"on {number}", save=[ranks.STEPS], **way) for number in (1, 2, 3)}
    for plan in plans.values():
        shutil.copytree(Path(two["folder"]) / "states", Path(plan["folder"]) / "states")
        damaged = max(states(plan)[1].glob("*.safetensors"))  # of a follower
        content = bytearray(damaged.read_bytes())
        content[-5] ^= 1
        damaged.write_bytes(content)
    for number in (2, 3):
        completed = launched([plans[number]], number)
        assert completed.returncode == 0, completed.stderr
        assert_same(together(plans[number]), onward)
        assert [path.name.split(".")[0] for path in states(plans[number])] == ["step-000000003", "step-000000006"]
        assert len(list(states(plans[number])[1].glob("*.safetensors"))) == number
    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert_same(alone(plans[1]), onward)


@pytest.mark.slow
def test_an_older_torch_puts_the_shards_together_in_one_file(tmp_path: Path) -> None:
    plan = begun(tmp_path / "old", save=[3], old=True, **WAYS["all in shards, untied"])
    completed = launched([plan])
    assert completed.returncode == 0, completed.stderr
    assert [path.suffix for path in states(plan)] == [".safetensors"]
    expected = alone(begun(tmp_path / "one", **WAYS["all in shards, untied"]))
    assert_same(alone(plan), (expected[0][3:], expected[1]))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of a file")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_of_one_process_is_raised_by_all_and_the_previous_state_is_complete(
    tmp_path: Path, rank: int
) -> None:
    plan = begun(tmp_path / "full", save=[1, 3], full=rank, **WAYS["all in shards"])
    completed = launched([plan])
    assert completed.returncode != 0
    assert "states: cannot be written (File too large)" in completed.stderr
    assert "the same command again" in completed.stderr
    assert [path.name.split(".")[0] for path in states(plan)] == ["step-000000001"]
    expected = alone(begun(tmp_path / "one", **WAYS["all in shards"]))
    assert_same(alone({**plan, "full": None}), (expected[0][1:], expected[1]))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_with_a_state(tmp_path: Path, rank: int) -> None:
    plan = begun(tmp_path / "killed", save=[2], kill=[rank, 3])
    completed = launched([plan])
    assert completed.returncode != 0
    last = 3 if rank else 2  # what the leader knew is lost with it
    if rank:
        assert "process 1 of 2: lost another process after step 3" in completed.stderr
        assert "remedy:" in completed.stderr
    expected = alone(begun(tmp_path / "one"))
    assert_same(alone({**plan, "kill": None}), (expected[0][last:], expected[1]))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_a_request_to_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    plan = begun(tmp_path / "asked", ask=[1, 2])
    assert launched([plan]).returncode != 0
    assert [path.name.split(".")[0] for path in (tmp_path / "asked" / "states").iterdir()] == ["step-000000002"]
