# make demo: everything from a fresh machine to a scorecard. make test: every check and test that this machine can run.
# make soak: the long tests; stopped, it goes on with those that have not passed yet.

PYTHON ?= $(firstword $(foreach version,3 3.14 3.13 3.12 3.11,$(shell python$(version) -c 'import sys; sys.version_info >= (3, 11) and print("python$(version)")' 2>/dev/null)))
BIN := .venv/bin
STAMP := .venv/.installed
NO_VENV = $(PYTHON) cannot make a virtual environment. On Debian or Ubuntu: apt install $(notdir $(shell $(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])'))-venv, then make again.

.PHONY: setup demo test soak check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: name one with make PYTHON=..." >&2; exit 1; }
	@echo "Setting up .venv: PyTorch is large, this takes some minutes once."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null 2>&1 \
	  || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; echo "$(NO_VENV)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/lotune run demo

check: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

test: check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test --all

soak: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/test --soak

clean:
	rm -rf .venv build dist lotune.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
