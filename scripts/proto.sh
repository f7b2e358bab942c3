#!/usr/bin/env bash
# Generates Python from proto/ into the folder given. grpcio-tools carries the compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath "$1")
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m grpc_tools.protoc -Iproto \
  --python_out="$tree" --grpc_python_out="$tree" --mypy_out="quiet:$tree" --mypy_grpc_out="quiet:$tree" \
  proto/muster/v1/*.proto
mkdir -p "$out"
cp "$tree"/muster/v1/* "$out"/
