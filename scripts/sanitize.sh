#!/usr/bin/env bash
# Looks for undefined behaviour and races: Miri over what is `unsafe` or shared and needs no foreign code, AddressSanitizer
# over all tests of the engine and the front and the fuzz targets' seeds, ThreadSanitizer over what threads share. Each part
# says what it runs and what it leaves out; one that cannot run here says why.
# scripts/sanitize.sh [miri | address | thread ...]
set -euo pipefail
cd "$(dirname "$0")/.."
host=x86_64-unknown-linux-gnu
parts=("$@")
[ "${#parts[@]}" -gt 0 ] || parts=(miri address thread)
for part in "${parts[@]}"; do
  case $part in
    miri | address | thread) ;;
    *)
      echo "sanitize: $part is no part; parts: miri, address, thread" >&2
      exit 2
      ;;
  esac
done
if ! rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
  echo "sanitize: skipped: no nightly toolchain (rustup toolchain install nightly --component miri,rust-src)"
  exit 0
fi
has_source() { [ -d "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library" ]; }

# In a shell of its own, for its settings. Miri is some hundred times slower, so a few cases of each property suffice, and only
# modules that it can run are named: those with `unsafe`, and those that threads share.
miri() (
  if ! cargo +nightly miri --version >/dev/null 2>&1 || ! has_source; then
    echo "sanitize: Miri skipped: not installed (rustup component add miri rust-src --toolchain nightly)"
    exit 0
  fi
  # parking_lot keeps marks in the low bits of pointers, hence permissive.
  export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance"
  export PROPTEST_CASES=${PROPTEST_CASES:-4} CARGO_TARGET_DIR=target/miri
  local kernels=(rerank::late retrieve::dense retrieve::scan model::gemm model::lanes model::rows)
  local front=(budget:: counts:: limits:: message:: status:: turn::)
  echo "sanitize: Miri leaves out: what is safe and unshared, mapped files, sockets, threads of the scheduler, AVX-512"
  echo "sanitize: Miri over the engine's rerank::chunks ${kernels[*]}, kernels for the least that x86-64 has"
  cargo +nightly miri test --quiet -p rankcore-engine --lib -- rerank::chunks "${kernels[@]}"
  echo "sanitize: Miri over the engine's ${kernels[*]}, kernels for AVX2"
  RUSTFLAGS=-Ctarget-feature=+avx2 cargo +nightly miri test --quiet -p rankcore-engine --lib -- "${kernels[@]}"
  echo "sanitize: Miri over the front's ${front[*]}"
  cargo +nightly miri test --quiet -p rankcore-front --lib -- "${front[@]}"
)

address() {
  echo "sanitize: AddressSanitizer over all tests of the engine and the front, and $runs mutations for each fuzz target"
  # Without leak detection: the runtime's environment and caches of threads live as long as the process.
  RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=0 CARGO_TARGET_DIR=target/address MUSTER_FUZZ_RUNS=$runs \
    cargo +nightly test --release --quiet --target $host -p rankcore-engine -p rankcore-front -p rankcore-fuzz --lib --tests
}

thread() {
  if ! has_source; then
    echo "sanitize: ThreadSanitizer skipped: the standard library must be built with it (rustup component add rust-src" \
      "--toolchain nightly)"
    return
  fi
  local shared=(schedule:: generation::)
  echo "sanitize: ThreadSanitizer over the engine's ${shared[*]} and all of the front; it leaves out ONNX Runtime"
  local build=(cargo +nightly test --release --quiet -Zbuild-std --target "$host")
  RUSTFLAGS="-Zsanitizer=thread" CARGO_TARGET_DIR=target/thread "${build[@]}" -p rankcore-engine --lib -- "${shared[@]}"
  RUSTFLAGS="-Zsanitizer=thread" CARGO_TARGET_DIR=target/thread "${build[@]}" -p rankcore-front --lib
}

runs=${MUSTER_FUZZ_RUNS:-200}
for part in "${parts[@]}"; do
  "$part"
done
