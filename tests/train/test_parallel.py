"""Two real processes over gloo do what one does; one that dies leaves a folder that can be gone on from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lotune.data.shares import divided
from lotune.train.parallel import ALONE

sys.path.insert(0, str(Path(__file__).parent))
import ranks

RANKS = Path(__file__).parent / "ranks.py"


@given(st.lists(st.integers(1, 500), max_size=40), st.integers(1, 8))
def test_rows_are_divided_evenly(lengths: list[int], parts: int) -> None:
    owners = divided(lengths, parts)
    loads = [
        sum(length for length, owner in zip(lengths, owners, strict=True) if owner == part) for part in range(parts)
    ]
    assert len(owners) == len(lengths)
    assert max(loads) - min(loads) <= max(lengths, default=0)
    assert len(lengths) < parts or min(loads) > 0


def launched(plans: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """What two processes leave that go through the plans together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(RANKS)]
    return subprocess.run([*command, json.dumps(plans)], capture_output=True, text=True, timeout=1200, check=False)


def begun(folder: Path, **plan: Any) -> dict[str, Any]:
    """A plan whose folder has the rows."""
    folder.mkdir()
    ranks.rows(folder)
    return {"folder": str(folder), **plan}


def alone(plan: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Steps and weights of one process."""
    steps = list(ranks.figures(ranks.run(plan, ALONE)))
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
    shutil.copy(state, folder / "states")
    return again


def assert_same(found: Any, expected: Any) -> None:
    """Losses alike to a relative 1e-5; norms and weights to what Adam makes of the last bit of a gradient."""
    for one, other in zip(found[0], expected[0], strict=True):
        assert one["norm"] == pytest.approx(other["norm"], rel=1e-4)
        assert {**one, "norm": 0} == pytest.approx({**other, "norm": 0}, rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, weight in found[1].items():
        torch.testing.assert_close(weight, expected[1][name], rtol=1e-4, atol=1e-4)


WAYS: dict[str, dict[str, Any]] = {
    "adapter": {},
    "adapter in shards": {"shard": True},
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
    found = {}
    for name, way in WAYS.items():
        one = begun(folder / f"{name}, one", save=[3, ranks.STEPS], **way)
        ranks.run(one, ALONE)
        two = begun(folder / f"{name}, two", save=[3, ranks.STEPS], **way)
        found[name] = (two, going_on(folder / f"{name}, on", one, 3, **way))
    done = launched([plan for plans in found.values() for plan in plans])
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_do_what_one_does(trained: Any, way: str, tmp_path: Path) -> None:
    two, onward = trained[way]
    expected = alone(begun(tmp_path / "one", **WAYS[way]))
    assert [step["number"] for step in expected[0]] == list(range(1, ranks.STEPS + 1))
    assert_same(together(two), expected)
    assert_same(together(onward), (expected[0][3:], expected[1]))  # from one process to two
    assert_same(alone(going_on(tmp_path / "back", two, 3, **WAYS[way])), (expected[0][3:], expected[1]))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_with_a_state(tmp_path: Path, rank: int) -> None:
    plan = begun(tmp_path / "killed", save=[2], kill=[rank, 3])
    done = launched([plan])
    assert done.returncode != 0
    last = 3 if rank else 2  # what the leader knew is lost with it
    if rank:
        assert "process 1 of 2: lost the others after step 3" in done.stderr
        assert "remedy:" in done.stderr
    expected = alone(begun(tmp_path / "one"))
    assert_same(alone({**plan, "kill": None}), (expected[0][last:], expected[1]))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_a_request_to_one_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    plan = begun(tmp_path / "asked", ask=[1, 2])
    assert launched([plan]).returncode != 0
    assert [path.name.split(".")[0] for path in (tmp_path / "asked" / "states").iterdir()] == ["step-000000002"]
