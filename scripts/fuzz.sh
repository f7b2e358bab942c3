#!/usr/bin/env bash
# Fuzzes the engine's parsers, each target for MINUTES (default 1): scripts/fuzz.sh [TARGET ...]
# By libFuzzer with AddressSanitizer where cargo-fuzz and a nightly toolchain are installed; else by the mutator of the tests.
# What libFuzzer finds stays in target/fuzz: corpus/TARGET (kept for the next run) and failures/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${MINUTES:-1}
jobs=${JOBS:-2}
crate=rankcore/fuzz
if [ "$#" -gt 0 ]; then
  targets=("$@")
else
  mapfile -t targets < <(basename -s .rs -a $crate/fuzz_targets/*.rs)
fi
export PATH="$PWD/target/tools/bin:$PATH"
missing=()
rustup toolchain list 2>/dev/null | grep -q '^nightly' || missing+=("a nightly toolchain (rustup toolchain install nightly)")
command -v cargo-fuzz >/dev/null || missing+=("cargo-fuzz (cargo install cargo-fuzz --locked)")
if [ "${#missing[@]}" -gt 0 ]; then
  printf 'fuzz: no libFuzzer here, missing: %s\n' "$(IFS=';'; echo "${missing[*]}")"
  echo "fuzz: the seeded mutator runs instead: no coverage feedback, no sanitizer"
  for target in "${targets[@]}"; do
    MUSTER_FUZZ_SECONDS=$((60 * minutes)) MUSTER_FUZZ_SEED=${MUSTER_FUZZ_SEED:-$(date +%s)} \
      cargo test --release --quiet -p rankcore-fuzz --test seeds -- --exact "$target" --nocapture
  done
  exit 0
fi
export CARGO_BUILD_JOBS=$jobs
# The sanitizer slows and grows a program, so the limits are wider than what the engine is held to without it.
limits=(-timeout=20 -rss_limit_mb=3072 -malloc_limit_mb=1024 -max_len=16384 -print_final_stats=1)
failed=()
for target in "${targets[@]}"; do
  known=("$crate/seeds/$target")
  [ ! -d "$crate/regressions/$target" ] || known+=("$crate/regressions/$target")
  mkdir -p "target/fuzz/corpus/$target" "target/fuzz/failures/$target"
  echo "fuzz: $target for $minutes min"
  cargo +nightly fuzz run --fuzz-dir $crate --target-dir target/fuzz --features libfuzzer "$target" \
    "target/fuzz/corpus/$target" "${known[@]}" -- "${limits[@]}" -max_total_time=$((60 * minutes)) \
    -artifact_prefix="target/fuzz/failures/$target/" >"target/fuzz/$target.log" 2>&1 || failed+=("$target")
  grep -E 'stat::number_of_executed_units|cov:|SUMMARY|panicked at' "target/fuzz/$target.log" | tail -3 || true
done
if [ "${#failed[@]}" -gt 0 ]; then
  echo "fuzz: failed: ${failed[*]}; logs are target/fuzz/TARGET.log, inputs lie in target/fuzz/failures/TARGET/" >&2
  exit 1
fi
