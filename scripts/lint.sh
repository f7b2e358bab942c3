#!/usr/bin/env bash
# Every check that needs no running server. Prints each step; stops at the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
step() { printf 'lint: %s\n' "$1"; }

step "rust format"
cargo fmt --all --check
step "clippy"
cargo clippy --release --workspace --all-targets --quiet -- -D warnings
step "ruff"
$bin/ruff format --check --quiet .
$bin/ruff check --quiet .
step "mypy --strict"
$bin/mypy --no-error-summary muster server rankcore training drills benchmarks examples scripts
step "native stub"
$bin/python -m mypy.stubtest rankcore._native --allowlist scripts/stubtest-allowlist.txt --ignore-disjoint-bases
step "generated code is current"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
scripts/proto.sh "$fresh"
for file in "$fresh"/*; do
  cmp --silent "$file" "muster/v1/$(basename "$file")" || { echo "muster/v1/$(basename "$file") is stale: run 'make proto'" >&2; exit 1; }
done
if command -v npm >/dev/null; then
  step "buf lint"
  [ -x .build/buf/node_modules/.bin/buf ] || npm install --silent --no-audit --no-fund --no-package-lock --prefix .build/buf @bufbuild/buf@1 >/dev/null
  .build/buf/node_modules/.bin/buf lint proto
else
  echo "lint: buf lint skipped: npm is not installed (apt-get install npm)"
fi
