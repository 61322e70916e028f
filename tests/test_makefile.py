"""What `make setup` does on machines that are set up otherwise than the developer's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

PYTHON = """#!/bin/sh
# a python whose venv has the modules that the folder `has` names
case "$*" in
    *sys.version_info*) echo python3.11 ;;
    "-m venv"*)
        echo venv >> "$CALLS"
        rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python
        [ -e "$HAS/pip" ] && touch .venv/pip
        [ -e "$HAS/pip" ] ;;
    "-m ensurepip"*) [ -e "$HAS/ensurepip" ] && touch .venv/pip ;;
    "-m pip --version") [ -e .venv/pip ] ;;
    "-m pip install"*) [ -e .venv/pip ] && echo install >> "$CALLS" ;;
    *) exit 3 ;;
esac
"""


class Machine:
    """A folder with the project's Makefile and a stand-in for Python that notes what it is called for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.has = folder / "has"
        self.has.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder / name)
        self.python = folder / "python3"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def make(self) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HAS": str(self.has), "CALLS": str(self.folder / "calls")}
        words = ["make", "setup", f"PYTHON={self.python}"]
        return subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def calls(self) -> list[str]:
        """What Python was called for since the last look."""
        path = self.folder / "calls"
        lines = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_make_names_a_missing_venv_package_and_leaves_no_files(machine: Machine) -> None:
    failed = machine.make()
    assert failed.returncode != 0
    assert "apt install python3.11-venv" in failed.stderr
    assert not (machine.folder / ".venv").exists()


def test_after_the_package_is_installed_make_succeeds(machine: Machine) -> None:
    machine.make()
    machine.calls()
    (machine.has / "pip").touch()
    assert machine.make().returncode == 0
    assert machine.calls() == ["venv", "install"]
    machine.make()
    assert machine.calls() == []  # the stamp says that everything is installed


def test_a_half_made_environment_is_made_again(machine: Machine) -> None:
    (machine.folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(machine.python, machine.folder / ".venv" / "bin" / "python")  # without pip
    (machine.has / "pip").touch()
    assert machine.make().returncode == 0
    assert machine.calls() == ["venv", "install"]


@pytest.mark.parametrize("has", ["pip", "ensurepip"])
def test_an_environment_that_has_or_can_get_pip_is_kept(machine: Machine, has: str) -> None:
    (machine.has / "pip").touch()
    machine.make()
    machine.calls()
    (machine.folder / ".venv" / ".installed").unlink()
    if has == "ensurepip":
        (machine.folder / ".venv" / "pip").unlink()
        (machine.has / "ensurepip").touch()
    assert machine.make().returncode == 0
    assert machine.calls() == ["install"]
