# What a developer does, by name; `make help` lists it. A target builds what it needs, and only what changed.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

export PATH := $(HOME)/.cargo/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
BIN := $(VENV)/bin
say = @printf '\033[1m==> %s\033[0m\n' "$(1)"

# The extension is built again only when one of these changed: an edit of Python alone rebuilds nothing.
# Tests and counts of instructions are no part of it.
RUST := Cargo.toml Cargo.lock $(shell find crates -type f -not -path '*/tests/*' -not -path '*/benches/*')

.PHONY: help build demo run test test-rust test-python kill-anything bench bench-memory bench-platform bench-prompt-cache bench-recall instructions flamegraph fuzz lint lint-python lint-rust format lock clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

build: $(VENV)/.extension ## make .venv and the extension, in release mode

demo: build ## an agent remembers across sessions and kills, played for real
	@$(BIN)/trunkline demo

run: build ## start Trunkline for daily use; Ctrl-C stops it
	@exec $(BIN)/trunkline up

# The extension's linking takes one processor for a minute: meanwhile the others check and compile the tests.
test: ## all that CI runs
	@$(MAKE) --jobs=3 $(if $(filter output-sync,$(.FEATURES)),--output-sync=line) lint test-rust
	@$(MAKE) test-python
	@echo passed

test-rust: ## the gateway's tests
	$(call say,cargo test)
	@cargo test --locked --package trunkline-gateway --no-run
	@cargo test --locked --package trunkline-gateway --quiet

test-python: $(VENV)/.extension ## the tests of all the rest, against a real Postgres
	$(call say,pytest)
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile

KILL_RUNS := 10
KILL_SECONDS := 60
KILL_SEED := 0

kill-anything: build ## ten times a minute of killing and freezing every part under 50 sessions (KILL_RUNS, KILL_SECONDS, KILL_SEED)
	@for run in $$(seq $(KILL_RUNS)); do \
		KILL_SEED=$(KILL_SEED) KILL_SECONDS=$(KILL_SECONDS) KILL_SESSIONS=50 KILL_TURNS=10 $(BIN)/python -m pytest -q -s tests/end_to_end/test_kill_anything.py; \
	done

bench: build ## measure the gateway against nginx and others (about ten minutes)
	@$(BIN)/python -m bench.gateway

bench-recall: build ## measure recall on a set of conversations: make bench-recall DATA=FILE [EMBEDDER=PACKAGE]
	@$(BIN)/trunkline bench recall --data "$(DATA)" --json bench/results/recall.json $(if $(EMBEDDER),--embedder "$(EMBEDDER)")

bench-memory: build ## measure blocks, up to a million sessions, and recall in big stores and in many
	@$(BIN)/python -m bench.memory
	@$(BIN)/python -m bench.recall

bench-platform: build ## measure agents that run: messages, streams, takeovers, sessions a process (a few minutes)
	@$(BIN)/python -m bench.platform

bench-prompt-cache: build ## count what memory leaves of providers' prompt caches (a few minutes)
	@$(BIN)/python -m bench.prompt_cache

instructions: ## count the gateway's instructions a call under valgrind; 5 % more than the reference is a failure
	@command -v valgrind >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq valgrind >/dev/null; } || \
		{ echo "There is no valgrind: apt-get install valgrind" >&2; exit 1; }
	@cargo bench --locked --package trunkline-gateway --bench instructions

flamegraph: build ## draw where the gateway's processor time goes (bench/results/flamegraph.svg)
	@$(BIN)/python -m bench.flamegraph

FUZZ_SECONDS := 60

fuzz: ## feed each parser with made-up bytes for a minute (FUZZ_SECONDS); needs a nightly toolchain
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	$(call say,cargo fuzz build)
	@cd fuzz && cargo +nightly fuzz build
	$(call say,Fuzzing each target for $(FUZZ_SECONDS) s)
	@cd fuzz && for target in $$(cargo +nightly fuzz list); do \
		mkdir -p corpus/$$target; log=corpus/$$target.log; \
		cargo +nightly fuzz run "$$target" corpus/$$target ../crates/gateway/tests/fixtures -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -verbosity=0 -print_final_stats=1 >$$log 2>&1 \
			|| { tail -n 40 $$log; echo "$$target: a finding; the input is in fuzz/artifacts/$$target" >&2; exit 1; }; \
		echo "$$target: $$(sed -n 's/^stat::number_of_executed_units: *//p' $$log) inputs, no finding"; \
	done

lint: lint-python lint-rust ## formatting, lints, types, imports; warnings are errors

lint-python: $(VENV)/.extension
	$(call say,ruff)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "run: make format" >&2; exit 1; }
	$(call say,mypy)
	@$(BIN)/mypy --no-error-summary
	$(call say,stubtest)
	@$(BIN)/stubtest --concise trunkline._core
	$(call say,import-linter)
	@said=$$($(BIN)/lint-imports --no-logo) || { echo "$$said"; exit 1; }

lint-rust:
	$(call say,cargo fmt)
	@cargo fmt --all --check
	@cargo fmt --manifest-path bench/Cargo.toml --check
	$(call say,cargo clippy)
	@# In the profile of the tests, which run the same build scripts, and of the fuzz targets below.
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@cargo clippy --release --locked --manifest-path bench/Cargo.toml --target-dir bench/work/target --all-targets -- -D warnings
	@# It takes a nightly toolchain to run them, but none to see that they compile.
	@CUSTOM_LIBFUZZER_PATH=/not-linked/libfuzzer.a cargo check --quiet --locked --manifest-path fuzz/Cargo.toml --target-dir target

format: $(VENV)/.packages ## rewrite the sources in the one format
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .
	@cargo fmt --all
	@cargo fmt --manifest-path bench/Cargo.toml

lock: $(VENV)/.packages ## pin every Python package anew in constraints.txt
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade --quiet \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file constraints.txt

clean: ## remove all that was built; TRUNKLINE_HOME stays
	@rm -rf $(VENV) target bench/work dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find python tests bench -name __pycache__ -prune -exec rm -rf {} +
	@rm -f python/trunkline/_core*.so

# The first of these that is at least 3.11; `make PYTHON=…` takes another.
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))

# One whose interpreter is gone, as after an upgrade of the system's Python, is made anew.
ifneq ($(wildcard $(VENV)/.made),)
ifneq ($(shell $(BIN)/python -c 'print("runs")' 2>/dev/null),runs)
$(shell rm -rf $(VENV))
endif
endif

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Trunkline needs Python 3.11 or newer: apt-get install python3" >&2; exit 1; }
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		if test "$$(id -u)" != 0; then \
			echo "$(PYTHON) cannot make virtual environments: sudo apt-get install python$$version-venv" >&2; exit 1; \
		fi; \
		echo "==> Installing python$$version-venv"; \
		apt-get install -y -qq python$$version-venv >/dev/null || \
			{ apt-get update -qq && apt-get install -y -qq python$$version-venv >/dev/null; }; \
	fi
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.packages: constraints.txt | $(VENV)/.made
	$(call say,Installing Python packages into $(VENV))
	@$(BIN)/python -m pip install --quiet --no-deps --requirement constraints.txt
	@touch $@

$(VENV)/.extension: $(RUST) pyproject.toml $(VENV)/.packages
	$(call say,Building the extension)
	@command -v cargo >/dev/null || { echo "There is no cargo: install a Rust toolchain, for example with rustup" >&2; exit 1; }
	@PIP_QUIET=1 PIP_CONSTRAINT=constraints.txt VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --locked
	@touch $@
