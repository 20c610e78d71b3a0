# `make test` and `make demo` set up everything they need; nothing is installed outside this folder but the
# converted model, which goes to the user's cache (STEERKIT_CACHE overrides the place).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export HF_HUB_OFFLINE ?= 1

.PHONY: help setup test lint demo bench clean
help:
	@echo "make setup   create .venv with the pinned dependencies"
	@echo "make test    lint, types and tests (fetches the bundled models on the first run)"
	@echo "make demo    the main job on a real model: pairs, vectors, sweeps, report"
	@echo "make bench   speed and memory beside the floor and the peers (25 quiet minutes; PARTS=sweep for one part)"
	@echo "make clean   remove .venv and demo results"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	@# setuptools warns of a flat layout, which is the one meant
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash experiments/demo/run.sh

# A measurement needs a quiet machine. Peers get their own environments below benchmarks/.venvs.
bench: setup
	$(BIN)/python -m benchmarks $(PARTS)

clean:
	rm -rf $(VENV) demo
