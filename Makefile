# make quickstart   a virtual environment, the installation, and the first run
# make test         the same environment, the test extra, and all tests
# make soak         the long versions of the kill tests
# make slurm        Debian's Slurm for its tests, where it can be installed (part of make test)
# make chromium     Debian's Chromium for the tests of the report's page, likewise

VENV   := .venv
PYTHON ?= python3.11
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: quickstart test fast soak slurm chromium lint clean

quickstart: $(VENV)/.installed
	$(BIN)/kdscale run configs/quickstart.yaml

test: $(VENV)/.installed-test slurm chromium
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 -m "not slow"
	$(BIN)/pytest -n 2 --dist loadgroup -m "slow and not soak"

fast: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 -m "not slow"

soak: $(VENV)/.installed-test slurm
	$(BIN)/pytest -m soak
	KDSCALE_KILLS=100 $(BIN)/pytest -m slow tests/integration/test_kill.py
	KDSCALE_SOAK=10 $(BIN)/pytest -m slow tests/integration/test_slurm_soak.py

slurm:
	tests/support/slurm/install.sh

chromium:
	tests/support/install_chromium.sh

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)

# torch comes first and by its exact version: a looser requirement may fetch a build for GPUs of several gigabytes.
$(VENV)/.installed: setup.py constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt setuptools torch
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) runs *.egg-info
