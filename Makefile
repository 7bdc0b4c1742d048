# Targets with a double-hash comment are listed by `make help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH := .bench-venv
BENCH_INSTALLED := $(BENCH)/.installed
STREAM_BENCH := .stream-bench-venv
STREAM_BENCH_INSTALLED := $(STREAM_BENCH)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup smoke test test-fast lint types format reference bench-env bench stream-bench-env stream-bench \
	prepare-bench clean

help: ## What the targets do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Create .venv with everything

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	touch $@

smoke: setup ## The whole way on the CPU: prepare, train, stop, resume, generate
	$(BIN)/python -P tests/smoke.py

test: setup ## All tests
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -n 3 --dist worksteal

test-fast: setup ## The tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -m 'not slow' -n 3 --dist worksteal

lint: setup ## Lint and format, as the pre-commit hooks do
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## Static types
	$(BIN)/mypy

format: setup ## Mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: setup ## Write docs/configuration.md and docs/parameters.md anew
	$(BIN)/python -P -m launcher.reference > docs/configuration.md
	$(BIN)/python -P -m launcher.parameter_table > docs/parameters.md

bench-env: $(BENCH_INSTALLED) ## Create .bench-venv with the trainers whose requirements clash with ours

$(BENCH_INSTALLED): benchmarks/requirements.txt
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	touch $@

bench: setup bench-env ## Training steps against other trainers, into benchmarks/results; on a quiet machine
	$(BIN)/python benchmarks/step.py --out benchmarks/results

stream-bench-env: $(STREAM_BENCH_INSTALLED) ## Create .stream-bench-venv with other loaders of tokens

$(STREAM_BENCH_INSTALLED): benchmarks/requirements-stream.txt
	test -x $(STREAM_BENCH)/bin/python || $(PYTHON) -m venv $(STREAM_BENCH)
	$(STREAM_BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-stream.txt
	touch $@

stream-bench: setup stream-bench-env ## The stream against other loaders, into benchmarks/results; on a quiet machine
	$(BIN)/python benchmarks/stream.py --cold --scale --out benchmarks/results

prepare-bench: setup ## Preparing against datatrove's own blocks, into benchmarks/results; on a quiet machine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench-prepare]'
	$(BIN)/python benchmarks/prepare.py --out benchmarks/results

clean: ## Remove the environment and caches; runs/ and prepared/ stay
	rm -rf $(VENV) $(BENCH) $(STREAM_BENCH) .mypy_cache .pytest_cache .ruff_cache .hypothesis thalweg.egg-info
