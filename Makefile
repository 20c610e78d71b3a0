# `make test` and `make demo` set up everything they need; nothing is installed outside this folder but the
# converted model, which goes to the user's cache (STEERKIT_CACHE overrides the place).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export HF_HUB_OFFLINE ?= 1

# What `make fast` leaves out: the bundled models, whole studies, other programs.
FAST := not models and not slow and not architectures and not browser and not notebooks and not consumers and not vllm

# What the browser tests drive.
CHROMIUM := /usr/bin/chromium

# Which third of the architectures `make test` checks: 0, 1 or 2, or all. By itself every commit has its own, and three
# in a row have all.
ARCHITECTURES ?= $(shell expr $$(git rev-list --count HEAD 2>/dev/null || echo 0) % 3)
export ARCHITECTURES

.PHONY: help setup fast coverage test browser notebooks docs fuzz architectures test-vllm test-consumers lint demo bench clean
help:
	@echo "make setup   create .venv with the pinned dependencies"
	@echo "make fast    the tests that need no bundled model, in under two minutes"
	@echo "make coverage   make fast, and which lines of the package it leaves out"
	@echo "make test    lint, types and all tests (fetches the bundled models on the first run)"
	@echo "make browser    the tests that drive the workbench and the docs in Chromium"
	@echo "make notebooks  the tutorials of docs/, executed, and written anew where they came out otherwise"
	@echo "make docs    the site, into ./site, without a warning"
	@echo "make fuzz    5,000 random command lines with odd files, texts and options (RUNS=, SEED= for others)"
	@echo "make architectures   check every architecture that transformers has, and write docs/architectures.md anew"
	@echo "make test-vllm   the vLLM plugin's tests, in an environment of their own"
	@echo "make test-consumers   exports run by the programs they are for, each in an environment of its own"
	@echo "make demo    the main job on a real model: pairs, vectors, sweeps, report"
	@echo "make bench   speed and memory beside the floor and the peers (an hour, quiet; PARTS=sweep for one part)"
	@echo "make clean   remove the environments and demo results"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	@# setuptools warns of a flat layout, which is the one meant
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Two workers, each with the tests of whole files, which share their models; each holds both bundled ones.
WORKERS ?= 2
IN_PARALLEL := -n $(WORKERS) --dist loadfile

fast: setup
	STEERKIT_TEST_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL) -m "$(FAST)"

coverage: setup
	$(BIN)/python -m pytest -m "$(FAST)" --cov --cov-report=term

test: setup lint $(CHROMIUM)
	STEERKIT_TEST_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL) -m "not consumers and not vllm"

browser: setup $(CHROMIUM)
	STEERKIT_TEST_THREADS=1 $(BIN)/python -m pytest -m browser

# Debian's Chromium, installed only where nobody has to be asked; elsewhere the browser tests say what to install.
$(CHROMIUM):
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium >/dev/null; \
	else echo "$(CHROMIUM) is missing: the browser tests will fail"; fi

notebooks: setup
	$(BIN)/python -m docs.generate.notebooks

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html, or, for its search: $(PYTHON) -m http.server --directory site"

# Half an hour on two cores, a third of it for the hundred that are processes of their own. Make test has 200, of a
# fixed seed.
RUNS ?= 5000
SEED ?= 15

fuzz: setup
	STEERKIT_FUZZ=$(RUNS) STEERKIT_FUZZ_SEED=$(SEED) STEERKIT_TEST_THREADS=1 $(BIN)/python -m pytest -s tests/fuzz

# Ten minutes. What is no longer as recorded stands in the difference that git shows.
architectures: setup
	OMP_NUM_THREADS=1 $(BIN)/steerkit models --check --record tests/checks/recorded.json --page docs/architectures.md

# vLLM for a CPU, in an environment of its own: it pins other versions. Torch comes first and brings what it needs,
# which is little where pip finds a CPU build and gigabytes of CUDA libraries where PyPI alone serves it.
test-vllm: .venv-vllm/.ready
	.venv-vllm/bin/python -m pytest -m vllm tests/integrations/vllm tests/serving/contract tests/interchange/test_merged.py

.venv-vllm/.ready: constraints-vllm.txt pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet $$(grep '^torch==' constraints-vllm.txt)
	.venv-vllm/bin/python -m pip install --quiet --no-deps -r constraints-vllm.txt
	.venv-vllm/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

# Other programs that read our files or write what we read, each in an environment of its own; CONSUMERS=llama for one alone.
CONSUMERS ?= llama lm-eval repeng inspect saelens

test-consumers: setup $(CONSUMERS:%=.venvs/%/.ready)
	$(BIN)/python -m pytest -m consumers -rs

# llama.cpp is compiled for any x86-64 of its age: tuned to this very machine, it may use what a virtual one lacks.
.venvs/%/.ready: tests/consumers/%.txt
	$(PYTHON) -m venv .venvs/$*
	grep '^torch==' $< | xargs -r .venvs/$*/bin/python -m pip install --quiet
	CMAKE_ARGS=-DGGML_NATIVE=OFF .venvs/$*/bin/python -m pip install --quiet --no-deps -r $<
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --cache-dir .import_linter_cache

demo: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash experiments/demo/run.sh

# A measurement needs a quiet machine. Peers get their own environments below benchmarks/.venvs.
bench: setup
	$(BIN)/python -m benchmarks $(PARTS)

clean:
	rm -rf $(VENV) .venvs .venv-vllm demo site
