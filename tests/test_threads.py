"""Threads that wait do not hold a core."""

import os
import sys

import pytest

from lotune.cli.app import main
from lotune.model import optional_libraries
from lotune.threads import SPIN_COUNT, share_cores


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restores what a test sets
        monkeypatch.delenv(name)


def test_threads_sleep_soon() -> None:
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == SPIN_COUNT


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "77"), ("OMP_WAIT_POLICY", "active")])
def test_the_users_setting_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    share_cores()
    assert os.environ.get("GOMP_SPINCOUNT", "77") == "77"
    assert os.environ[name] == value


def test_every_command_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lotune", "--version"])
    # other tests of this process need the libraries that it hides
    monkeypatch.setattr(optional_libraries, "hide_optional_libraries", lambda: None)
    with pytest.raises(SystemExit):
        main()
    assert os.environ["GOMP_SPINCOUNT"] == SPIN_COUNT
