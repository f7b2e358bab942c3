//! Question: how long do a query and a batch of products take in the encoder, with each kind of instructions?
//!
//! Data: the committed bundle's encoder (6 layers of 384), token ids from a fixed seed: a query of 8 tokens, and 64
//! products of 10 to 42 tokens, both counted with [CLS] and [SEP] beyond the query's 8. One thread. Excluded:
//! tokenising. `limit` is what the processor's 8-bit multiply-add unit does on registers alone; against ONNX Runtime,
//! in turns: `python -m training.speed BUNDLE`.
//! Run: `cargo bench -p rankcore-engine --bench encoder`.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rankcore_engine::model::{Choice, Instructions, Single, int8_limit};

const WORDS: u64 = 2_000;

/// Rows of one text, of the given numbers of tokens.
fn rows(lengths: impl Iterator<Item = usize>) -> Vec<(Vec<i64>, usize)> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    lengths
        .map(|length| {
            let ids = (0..length)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    ((state >> 16) % WORDS) as i64
                })
                .collect();
            (ids, length)
        })
        .collect()
}

fn bench(criterion: &mut Criterion) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/muster-base/encoder/model.onnx");
    let query = rows([10].into_iter());
    let products = rows((0..64).map(|at| 10 + at * 32 / 63));
    let tokens: usize = products.iter().map(|(ids, _)| ids.len()).sum();
    for instructions in Instructions::all() {
        if instructions == Instructions::Portable {
            // Without fused multiply-adds in hardware it is a thousand times slower, and only there for tests.
            continue;
        }
        let choice = Choice::Only(instructions);
        let encoder = Single::open(&path, false, Path::new(""), choice)
            .expect("the bundle's encoder is ours");
        let operations = encoder
            .int8_operations_per_token()
            .expect("our kernels run it");
        let mut group = criterion.benchmark_group(format!("encoder/{}", instructions.as_str()));
        group.throughput(Throughput::Elements((operations * 10) as u64));
        group.bench_function("query", |bencher| {
            bencher.iter(|| encoder.run(black_box(query.clone())).expect("runs"));
        });
        group.throughput(Throughput::Elements((operations * tokens) as u64));
        group.bench_function("products", |bencher| {
            bencher.iter(|| encoder.run(black_box(products.clone())).expect("runs"));
        });
        group.finish();
    }
    if let Some(operations) = int8_limit(1) {
        let mut group = criterion.benchmark_group("encoder");
        group.throughput(Throughput::Elements(operations * 100_000));
        group.bench_function("limit", |bencher| {
            bencher.iter(|| int8_limit(black_box(100_000)))
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
