"""Tests marked soak: left out unless asked for with --soak, which begins with those that have not passed yet.

--soak also runs the property tests, on many examples drawn at random; otherwise their examples are the same each time.

What has passed is remembered in pytest's cache, with a digest of the code, until all have or the code is another one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import hypothesis
import pytest

MEMORY = "lotune/soak"
ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the tests marked soak that have not passed yet, alone")


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave in `items` the tests that are to be run."""
    expected = bool(config.getoption("--soak"))
    passed = remembered(config) if expected else set()
    left = [item for item in items if belongs(item, expected) and item.nodeid not in passed]
    config.hook.pytest_deselected(items=[item for item in items if item not in left])
    items[:] = left


def belongs(item: pytest.Item, to_soak: bool) -> bool:
    """Return whether a test is part of the soak, or of everything else."""
    marked = bool(item.get_closest_marker("soak"))
    return marked == to_soak or (to_soak and hypothesis.is_hypothesis_test(getattr(item, "obj", None)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    report = yield
    if call.when == "call" and report.passed and item.config.getoption("--soak"):
        write(item.config, {*remembered(item.config), item.nodeid})
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption("--soak") and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        write(session.config, set())


def remembered(config: pytest.Config) -> set[str]:
    """The tests that have passed with this code."""
    assert config.cache is not None
    memory = config.cache.get(MEMORY, {})
    return set(memory["passed"]) if memory.get("code") == digest() else set()


def write(config: pytest.Config, passed: set[str]) -> None:
    assert config.cache is not None
    config.cache.set(MEMORY, {"code": digest(), "passed": sorted(passed)})


def digest() -> str:
    """The sha256 of package, tests and benchmarks."""
    result = hashlib.sha256()
    for folder in ("lotune", "tests", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            result.update(file.read_bytes())
    return result.hexdigest()
