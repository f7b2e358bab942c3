//! Question: what does the final order cost for one request's candidates?
//!
//! Data: the committed LightGBM model, its trees repeated to 300 (7 leaves each), 64 and 200 random rows of which a
//! tenth is missing. Excluded: computing the signals.
//! Run: `cargo bench -p rankcore-engine --bench forest`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rankcore_engine::rerank::forest::Forest;

const TREES: usize = 300;

fn model() -> Forest {
    let text = include_str!("../tests/fixtures/lambdarank.txt");
    let (header, rest) = text.split_once("\nTree=0\n").expect("a first tree");
    let trees = rest.split("\nend of trees").next().expect("the trees");
    let trees: Vec<&str> = std::iter::once(trees)
        .flat_map(|all| all.split("\nTree="))
        .map(|tree| tree.split_once("num_leaves").expect("a tree").1)
        .collect();
    let mut repeated = header.to_owned();
    for number in 0..TREES {
        repeated.push_str(&format!(
            "\nTree={number}\nnum_leaves{}",
            trees[number % trees.len()]
        ));
    }
    repeated.push_str("\nend of trees\n");
    Forest::parse(&repeated).expect("a model")
}

fn bench(criterion: &mut Criterion) {
    let forest = model();
    assert_eq!(forest.trees(), TREES);
    let width = forest.feature_names().len();
    let mut group = criterion.benchmark_group("forest");
    for count in [64, 200] {
        let mut state = 7_u64;
        let rows: Vec<f64> = (0..count * width)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if state.is_multiple_of(10) {
                    f64::NAN
                } else {
                    (state >> 40) as f64 / f64::from(1 << 23) - 1.0
                }
            })
            .collect();
        let mut scores = vec![0.0; count];
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(
            BenchmarkId::new("rows together", count),
            &rows,
            |bencher, rows| {
                bencher.iter(|| forest.score_rows(rows, &mut scores));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("row by row", count),
            &rows,
            |bencher, rows| {
                bencher.iter(|| {
                    rows.chunks_exact(width)
                        .map(|row| forest.score(row))
                        .sum::<f64>()
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
