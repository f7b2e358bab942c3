# One page of commands. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
RUST_SOURCES := $(shell find rankcore/engine rankcore/front rankcore/binding proto -type f \( -name '*.rs' -o -name '*.toml' -o -name '*.proto' \)) Cargo.toml Cargo.lock
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1
export HF_HUB_OFFLINE := 1
# Extensions of one process must not each start a thread per core; rankcore owns the cores.
export OMP_NUM_THREADS ?= 1

.PHONY: sbom audit help tools build build-all demo test test-rust test-python lint format proto bench compare drill-tools drill nightly fuzz sanitize clean

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

tools:
	@scripts/check-tools.sh $(PYTHON)

$(BIN)/maturin: | tools
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the build tool"
	@$(BIN)/python -m pip install --quiet maturin

# Two stamps: serving needs no torch; tests and training do.
.venv/.serve: $(BIN)/maturin pyproject.toml constraints.txt $(RUST_SOURCES)
	@echo "building the extension (release) and installing what serving needs; the first time takes some minutes"
	@source $(BIN)/activate && maturin develop --release --quiet --extras cpu,drills
	@touch $@

.venv/.all: .venv/.serve
	@echo "installing what training and tests need (torch is large)"
	@$(BIN)/python scripts/requirements.py train private postgresql otel console dev | xargs -d '\n' $(BIN)/python -m pip install --quiet
	@touch $@

build: .venv/.serve ## build the extension, install what serving needs

build-all: .venv/.all ## the same, and what training and tests need

demo: .venv/.serve ## a primary and two standbys on a real catalogue; the primary is killed on the way
	@$(BIN)/muster demo

test: lint test-rust test-python ## set up everything, lint, and run every test

test-rust: .venv/.all
	cargo test --release --workspace --quiet

test-python: .venv/.all
	$(BIN)/python -m pytest -q -p no:cacheprovider --reruns 1

lint: .venv/.all ## formatters, linters, types, generated code, native stubs, import directions
	@scripts/lint.sh

format: .venv/.all ## apply the formatters
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --quiet .

sbom: .venv/.all ## bills of materials (CycloneDX) in .build/sbom and docs/licences.md; ends with 10 where a licence is refused
	@$(BIN)/python -m scripts.sbom --page docs/licences.md

audit: .venv/.all ## known weaknesses of dependencies: 0 none, 10 some, 20 could not be asked
	@$(BIN)/python -m scripts.audit_dependencies

proto: .venv/.all ## regenerate muster/v1 from proto/
	@scripts/proto.sh muster/v1

bench: .venv/.all ## pytest-benchmark over tiers, depths and sizes; Criterion for the kernels
	$(BIN)/python -m pytest benchmarks -q -p no:cacheprovider --benchmark-only
	cargo bench --workspace

# ARGS: `make compare ARGS="--quick --only litserve"`.
compare: .venv/.all ## Muster beside other servers, same model and machine (each peer in an environment of its own)
	$(BIN)/python -m benchmarks.peers.compare $(ARGS)

drill-tools: ## what some drills break things with (nftables, strace, libfaketime), where apt and root are there
	@scripts/drill-tools.sh

drill: .venv/.serve drill-tools ## every drill once, and the page about them
	@code=0; $(BIN)/muster drill run all || code=$$?; $(BIN)/muster drill report; exit $$code

# ARGS: `make nightly ARGS="failover latency"`.
nightly: .venv/.serve drill-tools ## every drill whole and without its protection, and a table of both
	@$(BIN)/muster drill nightly $(ARGS)

fuzz: ## libFuzzer on every parser of engine and front, MINUTES (1) each; without a nightly compiler, the tests' mutator
	@MINUTES=$(or $(MINUTES),1) scripts/fuzz.sh

sanitize: ## Miri, AddressSanitizer and ThreadSanitizer over engine and front, where a nightly compiler is installed
	@scripts/sanitize.sh

clean: ## remove what was built, keep .venv
	rm -rf target .build rankcore/_native*.so
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
