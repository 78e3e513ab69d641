# Everything a developer or a CI machine does with this project. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for v in python3.11 python3.12; do "$$v" -c '' >/dev/null 2>&1 && { echo "$$v"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
XR := $(BIN)/xr
STAMP := $(VENV)/.installed

.PHONY: help env test check lint format types unit demo demo-full demo-ablation measure-demo lock train-demo bench-overhead clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(STAMP) ## create .venv with everything the project needs (once)

$(STAMP): requirements.lock pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "make env: Python 3.11 or 3.12 is needed; install one, or name it: make env PYTHON=/path/to/python3.11" >&2; exit 2; fi
	# Debian's python3.11 without python3.11-venv makes no pip in the venv: its own pip serves then
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) >/dev/null || $(PYTHON) -m venv --without-pip $(VENV)
	$(BIN)/python -m pip --quiet install 'uv>=0.9,<1' 2>/dev/null || \
	  $(PYTHON) -m pip --quiet --python $(BIN)/python install 'uv>=0.9,<1'
	# uv, not pip: pip may prefer a local +cpu build of torch that torchvision cannot load
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

demo: env ## the whole system on this machine: Redis, gateway, coordinator, three agents, one benchmark
	$(XR) demo

demo-full: env ## the same over all demo queries, with 100 candidates verified
	$(XR) demo --full

test: env lint types unit ## what has to pass before a commit

check: test ## exactly what CI runs

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: env
	$(BIN)/mypy

unit: env
	$(BIN)/python -m pytest

lock: env ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra models --extra embedded --extra dev \
	  --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links \
	  --no-annotate --no-header --quiet -o requirements.lock

demo-ablation: env ## the demo, then the same with each agent left out
	$(XR) demo --ablation

measure-demo: env ## every skill of the demo checkpoints on held-out scenes
	$(BIN)/python -m agents.training.measure

train-demo: env ## train the demo checkpoints anew (see docs; takes hours on two cores)
	$(BIN)/python -m agents.training

bench-overhead: env ## what the messages cost beside the models
	$(BIN)/python -m tests.benchmarks.overhead

clean: ## remove caches and what `make env` made; runs and data under .xr stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
