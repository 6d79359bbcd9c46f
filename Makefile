# Two words are enough: `make quickstart` and `make test`. `make help` lists the others.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help env quickstart check test test-here test-fast simulate fuzz bench golden test-cloud cloudlab-up cloudlab-down clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) ## .venv with exact versions; seconds when nothing changed

# torch: constraints.txt pins the version; where pip finds a CPU build of it, that one is taken.
# compat: a plain path entry; the default import hook would cost every start of `still` 20 ms. It is
# deprecated, and setuptools says so at length.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "stillhouse needs Python 3.11 or newer: make env PYTHON=/path/to/python3"; exit 1; }
	@echo "setting up .venv (some minutes the first time): a dot for each package, and then they are unpacked"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip setuptools wheel
	@set -o pipefail; PYTHONWARNINGS=ignore $(BIN)/python -m pip install --disable-pip-version-check \
		-c constraints.txt -e '.[dev]' --config-settings editable_mode=compat | \
		awk '/^Collecting/ {printf "."; fflush()} END {print ""}'
	@touch $(STAMP)

quickstart: env ## two real distillations on this machine, their receipts and their comparison
	$(BIN)/python -m distill.prepare recipes/quickstart-teacher.yaml --name additions
	$(BIN)/still launch recipes/quickstart.yaml --yes
	$(BIN)/still launch recipes/quickstart-labels.yaml --yes
	$(BIN)/still compare

check: env ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: env ## the tests that take a moment
	$(BIN)/python -m pytest -n 2 -m 'not slow and not cloudlab'

# One after the other: a busy machine makes SkyPilot slow, and its launches are what takes the time.
test: check test-here test-cloud ## static checks and every test; those on the emulated cloud need root

test-here: env ## every test but those on the emulated cloud
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not cloudlab'

test-cloud: env ## the tests on the emulated cloud, with the real SkyPilot; needs root
	$(BIN)/python -m pytest -m cloudlab

simulate: env ## worlds by the million against the guarantee; SEED=N tells the story of one
	$(BIN)/python tests/simulation/simulate.py $(if $(SEED),--seed $(SEED),--worlds $(or $(WORLDS),1000000) --first $(or $(FIRST),0))

fuzz: env ## what strangers may have written against its readers, SECONDS=60 each
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]' \
		--config-settings editable_mode=compat
	@for target in recipe events store; do \
		$(BIN)/python tests/fuzz/fuzz.py $$target -max_total_time=$(or $(SECONDS),60) || exit 1; done

bench: env ## the measurements behind the claims in docs and README
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/plan_speed.py

golden: env ## write the expected outputs again; read the diff before you commit it
	STILLHOUSE_GOLDEN=write $(BIN)/python -m pytest -q -m golden

cloudlab-up: env ## the emulated cloud, to try things on by hand; builds its image once
	$(BIN)/python tests/cloudlab/lab.py up

cloudlab-down: ## take it down again
	$(BIN)/python tests/cloudlab/lab.py down

clean: ## remove the environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
