# Everything a user or a maintainer does, as one word. `make` alone lists the targets.

CASE ?= conv16
# What to run: CASE[:VARIANT]; `make cases` lists them.
VARIANTS ?=
# Several variants of it: core, sweep:channels, all, or names with commas; empty: what CASE names.
DEVICE ?= auto
# What to measure on: auto, cpu, x86 or orin.
PLACE ?= auto
# Where: host, docker or auto.
HOST ?=
# A board's Docker engine, such as ssh://user@orin; empty: Docker's own choice.
RELEASE ?=
# Which pinned release (`repro images list`); empty: the device's own.
ARGS ?=
# More options for the verb, for example ARGS='--builds 5'.
A ?=
B ?=
# What to compare: bundles for `make compare` (A alone where it is an alternating session), for `make ab`
# CASE[:VARIANT][@RELEASE][+SETTING=VALUE…].
BUNDLE ?=
# The bundle to verify, show or replay; empty, but for replay: the newest in bundles/.
PART ?= 1/6
# Which part of the measurements on a GPU.
PYTHON ?= python3
# The interpreter that makes .venv: 3.10 or newer.
VENV ?= .venv

# Some shells export a HOST of their own, which names no board.
ifneq ($(origin HOST),command line)
override HOST :=
endif

BIN := $(VENV)/bin
REPRO := $(BIN)/repro

.DEFAULT_GOAL := help
.PHONY: help repro ab releases images offline verify show compare replay doctor cases devices test test-arm64 \
  lint format bench bench-stats measure-ab measure-gpu schema compose lock clean

help: ## List the targets.
	@sed -n 's/^\([a-z0-9-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 12

repro: $(VENV)/run.stamp ## Run CASE on DEVICE and seal a signed bundle.
	@$(REPRO) run $(CASE) --device $(DEVICE) --place $(PLACE) $(if $(HOST),--host $(HOST)) \
	  $(if $(RELEASE),--release $(RELEASE)) \
	  $(if $(VARIANTS),--variants=$(VARIANTS)) $(if $(filter-out auto,$(DEVICE)),--pull) $(ARGS)

ab: $(VENV)/run.stamp ## Compare A and B on DEVICE, alternating in one session.
	@$(REPRO) ab $(or $(A),$(CASE)) $(or $(B),$(CASE)) --device $(DEVICE) --place $(PLACE) $(ARGS)

releases: $(VENV)/run.stamp ## List the releases and where they are.
	@$(REPRO) releases

images: $(VENV)/run.stamp ## Build the image of RELEASE for DEVICE, and have it prove what it holds.
	@$(REPRO) images build $(RELEASE) --device $(DEVICE) $(HOST:%=--host %) $(ARGS)

offline: $(VENV)/run.stamp ## Write one tar that installs kit and image for DEVICE without internet.
	@$(REPRO) offline $(RELEASE:%=--release %) --device $(DEVICE) $(HOST:%=--host %) $(ARGS)

verify: $(VENV)/run.stamp ## Check BUNDLE (default: the newest).
	@$(REPRO) verify $(BUNDLE) $(ARGS)

show: $(VENV)/run.stamp ## Show what BUNDLE says (default: the newest).
	@$(REPRO) show $(BUNDLE) $(ARGS)

compare: $(VENV)/run.stamp ## Compare the bundles A and B (and C …, by ARGS).
	@$(REPRO) compare $(A) $(B) $(ARGS)

replay: $(VENV)/run.stamp ## Run BUNDLE of somebody else's again, and seal the reply.
	@$(REPRO) replay $(BUNDLE) --device $(DEVICE) --place $(PLACE) $(if $(RELEASE),--release $(RELEASE)) $(ARGS)

doctor: $(VENV)/run.stamp ## Tell what would spoil a measurement here.
	@$(REPRO) doctor $(ARGS)

cases: $(VENV)/run.stamp ## List the cases.
	@$(REPRO) cases

devices: $(VENV)/run.stamp ## List the devices.
	@$(REPRO) devices

test: $(VENV)/dev.stamp ## Run the tests; what can't run here is skipped by name.
	$(BIN)/pytest -n auto --dist loadgroup $(ARGS)

test-arm64: $(VENV)/dev.stamp ## Build and run the image for orin for arm64, under qemu (root; never for timing).
	$(BIN)/python -m tests.docker.arm64 $(ARGS)

lint: $(VENV)/dev.stamp ## Check style and types.
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/dev.stamp ## Format the code.
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

measure-gpu: ## Measure PART (1/6 … 6/6) on a machine with an NVIDIA GPU; needs PYTHON with torch, no network.
	$(PYTHON) tests/measure_gpu.py $(PART) build/measure-gpu

measure-ab: $(VENV)/run.stamp ## Measure how often comparisons are wrong here, 8 minutes at a time; ARGS='--help' tells more.
	$(BIN)/python tests/measure_ab.py $(or $(ARGS),cpu build/measure-ab)

bench: $(VENV)/dev.stamp ## Measure the kit itself, as ratios side by side.
	$(BIN)/python tests/bench.py $(ARGS)

bench-stats: $(VENV)/dev.stamp ## Rates of wrong verdicts on simulated noise, beside other tools' rules.
	$(BIN)/python tests/bench_stats.py $(ARGS)

schema: $(VENV)/run.stamp ## Write the JSON Schemas from the types.
	$(BIN)/python -m repro.schemas

compose: $(VENV)/run.stamp ## Write compose.yaml from the launcher's options.
	$(BIN)/python -m repro.launch.compose

lock: $(VENV)/dev.stamp ## Lock every dependency anew, for all platforms and Pythons (needs the network).
	$(BIN)/pip install -q uv
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --upgrade \
	  --python-version 3.10 --extra run --group build pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --upgrade \
	  --python-version 3.10 --group dev -c requirements.lock -o requirements-dev.lock
	$(BIN)/python images/lock.py $(BIN)/uv

clean: ## Remove caches and builds; never bundles, keys or work folders.
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find repro tests cases -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ------------------------------------------------------------------------------

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	  || { echo "make: $(PYTHON) is missing or older than 3.10: name a newer one with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "make: $(PYTHON) has no venv: sudo apt install python3-venv" >&2; exit 1; }
	@echo "making $(VENV) and installing requirements.lock (once; about 400 MB)" >&2
	@$(PYTHON) -m venv $(VENV)

# The checkout is installed last, in place and without build isolation: the lock holds its builder too.
$(VENV)/run.stamp: requirements.lock pyproject.toml | $(VENV)/bin/pip
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
