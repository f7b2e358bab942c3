//! Question: how long does late interaction take for one query over many candidates, on one core?
//!
//! Data: random unit vectors, packed; 1,000 products of 48 tokens (3 MB at 64 dimensions, so from L2/L3 cache).
//! Excluded: quantising the query (under 2 us), reading products from disk.
//! Run: `cargo bench -p rankcore-engine --bench maxsim`. `maxsim_against_numpy.py` puts numpy beside it.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rankcore_engine::rerank::late::{QueryTokens, kernel, maxsim, pack};

const PRODUCTS: usize = 1000;
const PRODUCT_TOKENS: usize = 48;

fn unit_tokens(count: usize, dimension: usize, state: &mut u64) -> Vec<f32> {
    let mut tokens = Vec::with_capacity(count * dimension);
    for _ in 0..count {
        let token: Vec<f32> = (0..dimension)
            .map(|_| {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                (*state >> 40) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect();
        let norm = token.iter().map(|value| value * value).sum::<f32>().sqrt();
        tokens.extend(token.iter().map(|value| value / norm));
    }
    tokens
}

fn bench(criterion: &mut Criterion) {
    println!("kernel: {}", kernel());
    let mut state = 42;
    let mut group = criterion.benchmark_group("maxsim");
    group.throughput(Throughput::Elements(PRODUCTS as u64));
    for (query_tokens, dimension) in [(4, 64), (8, 64), (16, 64), (32, 64), (16, 128)] {
        let query = QueryTokens::new(&unit_tokens(query_tokens, dimension, &mut state), dimension);
        let products: Vec<Vec<i8>> = (0..PRODUCTS)
            .map(|_| {
                pack(
                    &unit_tokens(PRODUCT_TOKENS, dimension, &mut state),
                    dimension,
                )
            })
            .collect();
        let shape = BenchmarkId::from_parameter(format!(
            "{query_tokens}x{PRODUCTS}x{PRODUCT_TOKENS}x{dimension}"
        ));
        group.bench_with_input(shape, &query, |bencher, query| {
            bencher.iter(|| {
                products
                    .iter()
                    .map(|product| maxsim(query, product, PRODUCT_TOKENS))
                    .sum::<f32>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
