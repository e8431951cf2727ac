# The developer's interface; CI calls the same targets. `make help` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STACK := $(BIN)/python -m deploy.stack
INSTALLED := $(VENV)/.newswire-installed
TEST_HOME := .newswire/test
BENCH_HOME := .newswire/bench
FAULT_HOME := .newswire/fault

# Measures coverage in every Python process that is started below it, those of the stack included.
MEASURED := COVERAGE_PROCESS_START="$(CURDIR)/pyproject.toml" COVERAGE_FILE="$(CURDIR)/.coverage"

# The process that `stop`, `start` and `logs` are about, such as P=projections.
P ?=
# How many seeds of faults `fault` runs, and the first of them.
SEEDS ?= 10
FIRST ?= 1
# How many nodes Kafka has in `fault-rows`: 3 for the rows that lose brokers.
NODES ?= 1
# More arguments: of pytest for `test` and `unit`, of the runner for `up`, of the benchmark for `bench`.
ARGS ?=

.PHONY: help install up down status logs clean stop start restart schemas demo test unit check bench bench-deciding bench-ledger bench-outage bench-ranking bench-rendering bench-sinks psql requirements installed fault fault-rows fault-long

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Install everything into .venv (only when requirements changed)

$(INSTALLED): requirements/dev.txt pyproject.toml
	@set -e; \
	for python in python3.11 python3 python; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then \
	    if [ -z "$${found:-}" ]; then \
	        echo "error: Python 3.11 is missing (no python3.11 or python3 of that version on the PATH): install it, then run make again." >&2; exit 3; \
	    fi; \
	    echo "Creating $(VENV) ..."; \
	    $$found -m venv --clear $(VENV); \
	fi; \
	echo "Installing into $(VENV) (some minutes the first time) ..."; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt || { \
	    echo "error: the packages could not be installed; pip says why above. Without a network they cannot be downloaded." >&2; exit 3; }; \
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	    --config-settings editable_mode=compat -e .; \
	touch $@

installed:
	@[ -f $(INSTALLED) ] || { \
	    echo "error: nothing is installed in $(VENV) yet: run 'make install', or wait for the 'make' that is installing." >&2; exit 3; }

up: install ## Start the stack: servers and every process (a second time: what is missing)
	@$(STACK) up $(ARGS)

down: installed ## Stop the stack; its data stays
	@$(STACK) down

status: installed ## Show what runs, with memory and ports
	@$(STACK) status

logs: installed ## Follow the logs of all, or of one with P=name
	@$(STACK) logs $(P)

clean: installed ## Stop the stacks and remove .newswire with all data
	@$(STACK) clean

stop: installed ## Stop one process with P=name (a group must be inactive to be reset)
	@$(if $(P),$(STACK) stop $(P),echo "error: say which, such as make stop P=projections" >&2; exit 2)

start: installed ## Start one process with P=name
	@$(if $(P),$(STACK) start $(P),echo "error: say which, such as make start P=projections" >&2; exit 2)

restart: installed ## Stop and start one process with P=name
	@$(if $(P),$(STACK) restart $(P),echo "error: say which, such as make restart P=projections" >&2; exit 2)

schemas: install ## Register the schemas, create and check the topics
	@$(BIN)/newswire schemas sync

demo: install ## Start everything, publish, deliver, and check every message
	@$(BIN)/python -m deploy.demo $(ARGS)

test: install ## Run all tests on a stack of their own, with coverage (ARGS= for pytest)
	@$(BIN)/python -m coverage erase
	@$(MEASURED) $(STACK) run --home $(TEST_HOME) --profile test --only infra -- \
	    $(BIN)/python -m tests.unsteady -q --tb=short -n 4 --dist loadfile --no-loadscope-reorder --durations 20 --ignore tests/system $(ARGS)
	@$(MEASURED) NEWSWIRE_TEST_HOME=$(TEST_HOME) $(STACK) run --home $(TEST_HOME) --profile test --only all -- \
	    $(BIN)/python -m tests.unsteady tests/system $(ARGS)
	@$(MEASURED) $(MAKE) fault SEEDS=10 FIRST=1 ARGS=--again
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --skip-covered --fail-under=85

unit: install ## Run the tests that need no servers
	@$(BIN)/python -m pytest -m "not stack" $(ARGS)

check: install ## Lint, format, types, stale generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/newswire schemas check

fault: install ## Run seeds of faults over every process, and check every message (SEEDS=200 FIRST=1; goes on where it stopped)
	@$(STACK) run --home $(FAULT_HOME) --profile fault -- \
	    $(BIN)/python -m tests.fault --home $(FAULT_HOME) seeds --seeds $(SEEDS) --first $(FIRST) $(ARGS)

fault-rows: install ## Run rows of the fault matrix: ARGS=storm, ARGS="backlog --waiting 100000", NODES=3 ARGS="leader majority"
	@$(STACK) run --home $(FAULT_HOME)-$(NODES) --profile fault --nodes $(NODES) -- \
	    $(BIN)/python -m tests.fault --home $(FAULT_HOME)-$(NODES) rows $(ARGS)

fault-long: install ## Run the rows that need root on Linux: clocks, memory, a full disk, a cut network (ARGS=disk)
	@$(STACK) run --home $(FAULT_HOME)-1 --profile fault -- $(BIN)/python -m tests.fault --home $(FAULT_HOME)-1 long $(ARGS)

bench: install ## Measure speed and memory on a stack of its own
	@code=0; NEWSWIRE_STACK_PROFILE=bench $(BIN)/python -m tests.benchmarks.pipeline --home $(BENCH_HOME) $(ARGS) || code=$$?; \
	$(STACK) down --home $(BENCH_HOME); exit $$code

bench-deciding: install ## Measure how many issues one core decides a second, and in how much memory (ARGS="--only model")
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.deciding $(ARGS)

bench-ledger: install ## Measure the ledger from 100 thousand to 10 million rows; takes 6 GB of disk (ARGS="--rows 1000000" for less)
	@$(STACK) run --home $(BENCH_HOME)-ledger --profile bench --only infra -- $(BIN)/python -m tests.benchmarks.ledger $(ARGS)

bench-outage: install ## Measure what one provider's outage costs the other channels, on a stack of its own
	@code=0; NEWSWIRE_STACK_PROFILE=bench $(BIN)/python -m tests.benchmarks.outage --home $(BENCH_HOME)-outage $(ARGS) || code=$$?; \
	$(STACK) down --home $(BENCH_HOME)-outage; exit $$code

bench-ranking: install ## Measure how well the ranking ranks, on the data beside the repository (ARGS="--data DIR")
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.ranking $(ARGS)

bench-sinks: install ## Measure each sink beside its bare client library, and alerts behind a backlog (ARGS="--waiting 12000" for less)
	@code=0; $(STACK) run --home $(BENCH_HOME)-sinks --profile bench --only infra -- \
	    $(BIN)/python -m tests.benchmarks.sinks --home $(BENCH_HOME)-sinks $(ARGS) || code=$$?; \
	$(STACK) clean --home $(BENCH_HOME)-sinks >/dev/null; exit $$code

bench-rendering: installed ## Measure how many issues of ten items one core renders a second, by channel
	@$(BIN)/python -m tests.benchmarks.rendering

psql: installed ## Query the read models as the read-only role
	@$(STACK) psql $(ARGS)

requirements: install ## Resolve and hash requirements/*.txt anew
	@for name in base dev; do \
	    $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	        --strip-extras --output-file=requirements/$$name.txt requirements/$$name.in || exit 1; \
	done
