//! The targets on any compiler: seeds and past failures as they are, then seeded mutations of them.
//!
//! `MUSTER_FUZZ_SEED` chooses the mutations, `MUSTER_FUZZ_RUNS` their number for each target, `MUSTER_FUZZ_SECONDS` goes on
//! for so long instead. A failing input is written to a file, and the message says how to run it alone.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rankcore_fuzz::mutate::{Random, mutated};
use rankcore_fuzz::{TARGETS, Target};

const SEED: u64 = 20_260_401;

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    match value.parse() {
        Ok(value) => Some(value),
        Err(_) => panic!("{name} is {value:?}; accepted: a number"),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder in the order of their names; none where there is no such folder.
fn inputs(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// Runs one input; where it fails, keeps it and says how to go on.
fn attempt(target: &Target, data: &[u8], origin: &str) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(data)));
    if let Err(panic) = outcome {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("failed-{}", target.name));
        fs::write(&kept, data).unwrap();
        eprintln!(
            "target {} failed on {origin} ({} bytes, kept as {}). Alone: MUSTER_FUZZ_INPUT={} cargo test --release \
             -p rankcore-fuzz one_input_alone -- --nocapture. Once mended, it belongs into \
             rankcore/fuzz/regressions/{}/",
            target.name,
            data.len(),
            kept.display(),
            kept.display(),
            target.name
        );
        resume_unwind(panic);
    }
}

fn replay_and_mutate(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let mut known = inputs(&root().join("seeds").join(name));
    assert!(
        !known.is_empty(),
        "no seeds for {name}: run scripts/fuzz_seeds.py"
    );
    known.extend(inputs(&root().join("regressions").join(name)));
    attempt(target, &[], "no bytes at all");
    for (path, data) in &known {
        attempt(target, data, &path.display().to_string());
    }
    let seed = setting("MUSTER_FUZZ_SEED").unwrap_or(SEED);
    let runs = setting("MUSTER_FUZZ_RUNS").unwrap_or(target.runs);
    let until =
        setting("MUSTER_FUZZ_SECONDS").map(|s: f64| Instant::now() + Duration::from_secs_f64(s));
    let mut random = Random::new(seed);
    let mut run = 0;
    while until.map_or(run < runs, |until| Instant::now() < until) {
        let input = &known[random.below(known.len())].1;
        let other = &known[random.below(known.len())].1;
        let data = mutated(input, other, &mut random);
        attempt(target, &data, &format!("mutation {run} of seed {seed}"));
        run += 1;
    }
    println!(
        "{name}: {} known inputs, {run} mutations of seed {seed}",
        known.len()
    );
}

macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                replay_and_mutate(stringify!($name));
            }
        )+

        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

targets!(
    search,
    rerank,
    recommend,
    recommend_section,
    apply,
    events,
    bundle_json,
    forest,
    gzip,
    onnx,
    tokeniser,
    text,
    generation_files,
    generation,
    vectors,
    http2,
    grpc,
    token,
    key_set,
    revoked,
    certificate,
);

#[test]
fn every_target_is_tested_and_has_its_harness() {
    let tested: BTreeSet<String> = TESTED.iter().map(|name| (*name).to_owned()).collect();
    let names: BTreeSet<String> = TARGETS
        .iter()
        .map(|target| target.name.to_owned())
        .collect();
    assert_eq!(tested, names);
    let harnesses: BTreeSet<String> = inputs(&root().join("fuzz_targets"))
        .iter()
        .map(|(path, _)| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(harnesses, names);
    for folder in ["seeds", "regressions"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            assert!(
                names.contains(&name),
                "{folder}/{name} belongs to no target"
            );
        }
    }
}

#[test]
fn seeds_stay_small() {
    let bytes: usize = TARGETS
        .iter()
        .flat_map(|target| inputs(&root().join("seeds").join(target.name)))
        .map(|(_, data)| data.len())
        .sum();
    assert!(bytes <= 200 << 10, "{bytes} bytes of seeds");
}

#[test]
fn one_input_alone() {
    let Some(path) = std::env::var_os("MUSTER_FUZZ_INPUT").map(PathBuf::from) else {
        return;
    };
    let file = path.file_name().unwrap().to_string_lossy().into_owned();
    let folder = path
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let target = TARGETS
        .iter()
        .find(|target| file == format!("failed-{}", target.name) || folder == target.name)
        .unwrap_or_else(|| {
            panic!(
                "{}: neither the file nor its folder names a target",
                path.display()
            )
        });
    (target.run)(&fs::read(&path).unwrap());
}

#[test]
fn the_same_seed_gives_the_same_mutations() {
    let all = |seed| {
        let mut random = Random::new(seed);
        (0..50)
            .map(|_| mutated(b"{\"depth\": 50}", b"[1, 2, 3]", &mut random))
            .collect::<Vec<_>>()
    };
    assert_eq!(all(1), all(1));
    assert_ne!(all(1), all(2));
    assert!(all(1).iter().any(|input| input != b"{\"depth\": 50}"));
}
