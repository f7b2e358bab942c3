#!/usr/bin/env bash
# Says in one line what is missing, and how to get it on Debian or Ubuntu.
set -u
python=${1:-python3}
missing=()
command -v "$python" >/dev/null || missing+=("Python 3.11 or newer (apt-get install python3 python3-venv)")
if command -v "$python" >/dev/null; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || missing+=("Python 3.11 or newer; found $("$python" --version 2>&1) (set PYTHON=...)")
  "$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=("Python's venv module (apt-get install python3-venv)")
fi
command -v cargo >/dev/null || missing+=("a Rust toolchain, 1.89 or newer (rustup)")
command -v cc >/dev/null || missing+=("a C compiler (apt-get install build-essential)")
if [ "${#missing[@]}" -gt 0 ]; then
  printf 'missing: %s\n' "$(IFS=';'; echo "${missing[*]}")" >&2
  exit 1
fi
