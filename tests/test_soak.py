"""The tests marked soak are left out; a stopped soak goes on with those that have not passed."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]
CONFTEST = """
from soak import pytest_addoption, pytest_runtest_makereport, pytest_sessionfinish, select

def pytest_collection_modifyitems(config, items):
    select(config, items)
"""
TESTS = """
import os, pytest

def test_quick():
    pass

@pytest.mark.soak
@pytest.mark.parametrize("number", range(3))
def test_long(number):
    assert number != 1 or "MENDED" in os.environ
"""


def test_a_soak_resumes_with_tests_that_have_not_passed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nmarkers = soak: long")
    pytester.runpytest_inprocess().assert_outcomes(passed=1, deselected=3)
    pytester.runpytest_inprocess("--soak").assert_outcomes(passed=2, failed=1, deselected=1)
    monkeypatch.setenv("MENDED", "yes")
    pytester.runpytest_inprocess("--soak").assert_outcomes(passed=1, deselected=3)
    pytester.runpytest_inprocess("--soak").assert_outcomes(passed=3, deselected=1)
