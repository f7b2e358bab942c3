#!/usr/bin/env bash
# Looks for undefined behaviour: Miri over the modules that touch no file or foreign code, AddressSanitizer over all of the
# engine's tests and the fuzz targets' seeds. Each part says why where it cannot run.  scripts/sanitize.sh [miri | address]
set -euo pipefail
cd "$(dirname "$0")/.."
part=${1:-all}
host=x86_64-unknown-linux-gnu
if ! rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
  echo "sanitize: skipped: no nightly toolchain (rustup toolchain install nightly --component miri,rust-src)"
  exit 0
fi
if [ "$part" != address ]; then
  if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "sanitize: Miri skipped: not installed (rustup component add miri rust-src --toolchain nightly)"
  else
    # Mapped files, threads' clocks and tantivy are beyond Miri, so only modules without them are named. A few cases of each
    # property suffice: Miri is some hundred times slower.
    modules=(rerank:: retrieve::dense retrieve::fuse text:: plan::)
    export MIRIFLAGS="-Zmiri-disable-isolation" PROPTEST_CASES=${PROPTEST_CASES:-4}
    for features in "" "+avx2" "+avx512f,+avx512bw,+avx512vnni"; do
      echo "sanitize: Miri over ${modules[*]}, kernels for ${features:-the least that x86-64 has}"
      RUSTFLAGS="${features:+-Ctarget-feature=$features}" CARGO_TARGET_DIR=target/miri \
        cargo +nightly miri test --quiet -p rankcore-engine --lib -- "${modules[@]}"
    done
  fi
fi
if [ "$part" != miri ]; then
  echo "sanitize: AddressSanitizer over the engine's tests and the fuzz targets"
  # Without leak detection: the runtime's environment and caches of threads live as long as the process.
  RUSTFLAGS="-Zsanitizer=address" RUSTDOCFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=0 CARGO_TARGET_DIR=target/address \
    MUSTER_FUZZ_RUNS=${MUSTER_FUZZ_RUNS:-200} \
    cargo +nightly test --release --quiet --target $host -p rankcore-engine -p rankcore-fuzz --lib --tests
fi
