//! Question: what does a query cost before any model runs, and what would tokenising its candidates have cost?
//!
//! Data: one query of six words; 64 product titles of about twelve words. Product tokens are stored in a
//! generation, so a request only ever pays for the query.
//! Run: `MUSTER_BUNDLE=DIR MUSTER_RUNTIME_LIBRARY=FILE cargo bench -p rankcore-engine --bench tokenise`;
//! any bundle will do (`python -m tests.fixtures.tiny_bundle DIR` writes one).

use std::path::PathBuf;

use criterion::{Criterion, criterion_group, criterion_main};
use rankcore_engine::bundle::Bundle;

fn bench(criterion: &mut Criterion) {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let (Some(bundle), Some(library)) = (
        variable("MUSTER_BUNDLE"),
        variable("MUSTER_RUNTIME_LIBRARY"),
    ) else {
        println!("skipped: MUSTER_BUNDLE and MUSTER_RUNTIME_LIBRARY are not both set");
        return;
    };
    let bundle = Bundle::open(&bundle, &library).expect("a bundle");
    let query = "waterproof trail running shoes for women";
    let titles: Vec<String> = (0..64)
        .map(|number| {
            format!("Model {number} waterproof winter hiking boots for men with soft rubber sole, brown leather")
        })
        .collect();
    let mut group = criterion.benchmark_group("tokenise");
    group.bench_function("query", |bencher| {
        bencher.iter(|| bundle.encoder.pieces(query).expect("pieces"));
    });
    group.bench_function("64 products", |bencher| {
        bencher.iter(|| {
            titles
                .iter()
                .map(|title| bundle.encoder.pieces(title).expect("pieces").len())
                .sum::<usize>()
        });
    });
    group.bench_function("query with encoder", |bencher| {
        bencher.iter(|| bundle.encoder.query(query).expect("vectors"));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
