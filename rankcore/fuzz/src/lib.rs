//! Arbitrary bytes for every parser of the engine and of the front.
//!
//! Each target is a plain function of bytes. It may reject them, with one of the engine's errors, but must not panic,
//! overflow, allocate without bound or run for long; what it accepts must then work. Two things call the targets:
//!
//! - `tests/seeds.rs`, on any compiler: the seeds and past failures, then mutations of them from a seeded generator
//!   (`MUSTER_FUZZ_SEED`, `MUSTER_FUZZ_RUNS`, `MUSTER_FUZZ_SECONDS`).
//! - `fuzz_targets/`, under cargo-fuzz: libFuzzer with AddressSanitizer (`make fuzz`).
//!
//! `seeds/TARGET/` is written by `scripts/fuzz_seeds.py` from the committed bundle; `regressions/TARGET/` holds inputs that
//! once failed.

pub mod mutate;

mod bundles;
mod catalogue;
mod changes;
mod files;
mod front;
mod identity;
mod models;
mod recommend;
mod requests;

/// A parser, or a family of them, that takes bytes.
pub struct Target {
    /// As in `fuzz_targets/`, `seeds/` and `regressions/`.
    pub name: &'static str,
    /// Panics where the engine does not keep its word.
    pub run: fn(&[u8]),
    /// Mutations that the tests try, chosen so that each target takes about a second on one core.
    pub runs: u64,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "search",
        run: requests::search,
        runs: 4_000,
    },
    Target {
        name: "rerank",
        run: requests::rerank,
        runs: 4_000,
    },
    Target {
        name: "recommend",
        run: recommend::request,
        runs: 2_000,
    },
    Target {
        name: "recommend_section",
        run: recommend::section,
        runs: 2_000,
    },
    Target {
        name: "apply",
        run: changes::apply,
        runs: 500,
    },
    Target {
        name: "events",
        run: changes::events,
        runs: 1_000,
    },
    Target {
        name: "bundle_json",
        run: bundles::json,
        runs: 10_000,
    },
    Target {
        name: "forest",
        run: bundles::forest,
        runs: 4_000,
    },
    Target {
        name: "gzip",
        run: bundles::gzip,
        runs: 10_000,
    },
    Target {
        name: "onnx",
        run: bundles::onnx,
        runs: 2_000,
    },
    Target {
        name: "tokeniser",
        run: bundles::tokeniser,
        runs: 2_000,
    },
    Target {
        name: "text",
        run: bundles::text,
        runs: 4_000,
    },
    Target {
        name: "generation_files",
        run: files::one,
        runs: 2_000,
    },
    Target {
        name: "generation",
        run: files::generation,
        runs: 500,
    },
    Target {
        name: "vectors",
        run: models::vectors,
        runs: 10_000,
    },
    Target {
        name: "http2",
        run: front::http2,
        runs: 2_000,
    },
    Target {
        name: "grpc",
        run: front::grpc,
        runs: 10_000,
    },
    Target {
        name: "token",
        run: identity::token,
        runs: 10_000,
    },
    Target {
        name: "key_set",
        run: identity::key_set,
        runs: 10_000,
    },
    Target {
        name: "revoked",
        run: identity::revoked,
        runs: 10_000,
    },
    Target {
        name: "certificate",
        run: identity::certificate,
        runs: 10_000,
    },
];

/// Runs the target of that name. Panics where there is none, and where the engine does not keep its word.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .unwrap_or_else(|| panic!("no target {name:?}"));
    (target.run)(data);
}
