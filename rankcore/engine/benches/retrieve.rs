//! Question: what do retrieval and changes cost on a catalogue of 26,000 products?
//!
//! Data: made up, seeded; words follow Zipf's law over 30,000 (a third of all words are the ten most
//! frequent), titles of 12 words, 5 bullets of 14, descriptions of 120; queries are 4 words of a title.
//! Times are processor time of the one working thread, so that other work on the machine counts little.
//! Excluded: the approximate dense index, query encoding, all models (vectors are random).
//! Run: `cargo bench --workspace --bench retrieve`. `MUSTER_PRODUCTS` changes the number of products.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, criterion_group, criterion_main};
use prost::Message;
use rankcore_engine::bundle::{Boosts, Fusion, FusionKind, FusionWeights, LexicalConfig};
use rankcore_engine::encode::EncodedProduct;
use rankcore_engine::error::Result;
use rankcore_engine::generation::{Generation, GenerationBuilder, Models, SCHEMA_VERSION};
use rankcore_engine::rerank::late;
use rankcore_engine::retrieve::{Row, fuse};
use rankcore_engine::text::{ProductFields, TextConfig};
use rankcore_engine::wire;

const DIMENSION: usize = 128;
const TOKEN_DIMENSION: usize = 64;
const TOKENS: usize = 32;

/// Processor time of this thread. Linux adds it up at each tick, so spans should be long.
fn processor_time() -> Duration {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = line.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number of nanoseconds"))
}

struct ProcessorTime;

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        processor_time()
    }

    fn end(&self, start: Duration) -> Duration {
        processor_time() - start
    }

    fn add(&self, left: &Duration, right: &Duration) -> Duration {
        *left + *right
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Random numbers of one seed (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// 0 up to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A word, by Zipf's law: its number is exponentially distributed.
    fn word(&mut self) -> String {
        format!("w{}", (30_000_f64.powf(self.unit()) - 1.0) as u32)
    }

    fn words(&mut self, count: usize) -> String {
        (0..count)
            .map(|_| self.word())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

fn product(random: &mut Random, id: usize) -> wire::Product {
    wire::Product {
        product_id: format!("p{id}"),
        title: random.words(12),
        brand: format!("brand {}", random.next() % 3_000),
        category: vec![
            format!("c{}", random.next() % 10),
            format!("d{}", random.next() % 200),
        ],
        bullets: (0..5).map(|_| random.words(14)).collect(),
        description: random.words(120),
        attributes: (0..4)
            .map(|at| {
                (
                    format!("name {at}"),
                    format!("value {}", random.next() % 50),
                )
            })
            .collect(),
        price: Some(random.unit() * 100.0),
        stock: Some((random.next() % 5) as i64),
        ..Default::default()
    }
}

struct RandomVectors {
    text: TextConfig,
    lexical: LexicalConfig,
}

impl Models for RandomVectors {
    fn bundle_id(&self) -> &str {
        "bench-000000000000"
    }

    fn text(&self) -> &TextConfig {
        &self.text
    }

    fn lexical(&self) -> &LexicalConfig {
        &self.lexical
    }

    fn dimension(&self) -> usize {
        DIMENSION
    }

    fn token_dimension(&self) -> usize {
        TOKEN_DIMENSION
    }

    fn encode(&self, products: &[wire::Product]) -> Result<Vec<EncodedProduct>> {
        let mut random = Random(7);
        let mut vector = |length: usize| -> Vec<f32> {
            (0..length)
                .map(|_| (random.unit() - 0.5) as f32 / 4.0)
                .collect()
        };
        Ok(products
            .iter()
            .map(|_| EncodedProduct {
                dense: vector(DIMENSION),
                tokens: late::pack(&vector(TOKENS * TOKEN_DIMENSION), TOKEN_DIMENSION),
                token_count: TOKENS,
                pieces: vec![5; TOKENS],
            })
            .collect())
    }

    fn pieces(&self, _: &wire::Product) -> Result<Vec<u32>> {
        Ok(vec![5; TOKENS])
    }
}

fn models() -> Arc<RandomVectors> {
    let fields = vec!["title".to_owned(), "brand".to_owned()];
    Arc::new(RandomVectors {
        text: TextConfig {
            product: ProductFields {
                dense_fields: fields.clone(),
                token_fields: fields.clone(),
                cross_fields: fields,
            },
            dense_tokens_max: 64,
            late_tokens_max: 48,
            cross_tokens_max: 48,
            query_tokens_max: 32,
        },
        lexical: LexicalConfig {
            boosts: Boosts {
                title: 3.0,
                brand: 2.0,
                category: 1.0,
                bullets: 1.0,
                description: 0.5,
                attributes: 1.0,
            },
            fusion: Fusion {
                kind: FusionKind::Rrf,
                rrf_k: 60.0,
                weights: FusionWeights {
                    lexical: 1.0,
                    dense: 1.0,
                },
            },
        },
    })
}

fn upserts(random: &mut Random, first: u64, ids: impl Iterator<Item = usize>) -> Vec<Vec<u8>> {
    ids.enumerate()
        .map(|(at, id)| {
            wire::SequencedEvent {
                sequence: first + at as u64,
                epoch: 1,
                committed_unix_us: 0,
                event: Some(wire::Event {
                    event_id: format!("e{}", first + at as u64),
                    change: Some(wire::event::Change::Upsert(product(random, id))),
                }),
            }
            .encode_to_vec()
        })
        .collect()
}

fn retrieve(criterion: &mut Criterion<ProcessorTime>) {
    let count: usize = std::env::var("MUSTER_PRODUCTS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(26_000);
    let mut random = Random(0x5eed);
    let dir = tempfile::tempdir().expect("a folder for the generation");
    let models = models();
    let mut builder =
        GenerationBuilder::new_with(models.clone(), dir.path(), 1, None).expect("an empty folder");
    let started = processor_time();
    let mut queries: Vec<String> = Vec::new();
    for id in 0..count {
        let product = product(&mut random, id);
        if id % (count / 64).max(1) == 0 {
            let words: Vec<&str> = product.title.split(' ').skip(2).step_by(3).collect();
            queries.push(words.join(" "));
        }
        builder.add(product).expect("a valid product");
    }
    builder.finish(|_, _| ()).expect("a build");
    println!(
        "build of {count} products without models: {:.2?}",
        processor_time() - started
    );
    let manifest = format!(
        r#"{{"schema_version":{SCHEMA_VERSION},"generation_id":"g","bundle_id":"bench-000000000000","sequence":0,"epoch":1,
            "products":{count},"dimension":{DIMENSION},"token_dimension":{TOKEN_DIMENSION}}}"#
    );
    std::fs::write(dir.path().join("manifest.json"), manifest).expect("a manifest");
    let started = processor_time();
    let generation = Generation::open_with(dir.path(), models.clone(), None).expect("a generation");
    println!("open: {:.2?}", processor_time() - started);

    let changes = upserts(&mut random, 1, 0..count);
    let empty = Generation::empty_with(models.clone()).expect("an empty generation");
    let started = processor_time();
    for batch in changes.chunks(1_000) {
        empty.apply(batch).expect("valid events");
    }
    println!(
        "apply of {count} upserts to an empty generation: {:.2?}",
        processor_time() - started
    );
    let replaced = Generation::open_with(dir.path(), models, None).expect("a generation");
    let started = processor_time();
    for batch in changes.chunks(1_000) {
        replaced.apply(batch).expect("valid events");
    }
    println!(
        "apply of {count} upserts that replace all text: {:.2?}",
        processor_time() - started
    );

    let mut group = criterion.benchmark_group("retrieve");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    let mut at = 0;
    let mut next = || {
        at = (at + 1) % queries.len();
        queries[at].as_str()
    };
    for (name, generation) in [("", &generation), (" all in the delta", &empty)] {
        group.bench_function(format!("lexical 200{name}"), |bench| {
            bench.iter(|| black_box(generation.lexical(next(), 200, None).expect("results")));
        });
    }
    let filter = wire::Filter {
        price_max: Some(50.0),
        in_stock: true,
        categories: vec!["C1".into(), "c2".into(), "c3".into()],
        ..Default::default()
    };
    group.bench_function("filter and lexical 200", |bench| {
        bench.iter(|| {
            let eligible = generation.filter(Some(&filter)).expect("a filter");
            black_box(
                generation
                    .lexical(next(), 200, eligible.as_ref())
                    .expect("results"),
            )
        });
    });
    group.bench_function("facets brand and category", |bench| {
        let fields = ["brand".to_owned(), "category".to_owned()];
        bench.iter(|| black_box(generation.facets(next(), &fields, None).expect("facets")));
    });
    let rows: Vec<Row> = (0..400)
        .map(|at| at * (count as Row / 400).max(1))
        .collect();
    let vector = vec![0.1_f32; DIMENSION];
    let mut scores = vec![0.0; rows.len()];
    group.bench_function("dense score of 400", |bench| {
        bench.iter(|| generation.dense_score(black_box(&vector), &rows, &mut scores));
    });
    group.bench_function("match text of 400", |bench| {
        bench.iter(|| {
            rows.iter()
                .map(|&row| generation.match_text(row).title().len())
                .sum::<usize>()
        });
    });
    group.bench_function("lexical score of 400", |bench| {
        bench.iter(|| black_box(generation.lexical_score(next(), &rows).expect("scores")));
    });
    group.bench_function("render 10", |bench| {
        bench.iter(|| {
            rows[..10]
                .iter()
                .filter_map(|&row| generation.render(row))
                .count()
        });
    });
    let fusion = Fusion {
        kind: FusionKind::Rrf,
        rrf_k: 60.0,
        weights: FusionWeights {
            lexical: 1.0,
            dense: 1.0,
        },
    };
    let list = |step: Row| -> Vec<(Row, f32)> {
        (0..200).map(|at| (at * step, 200.0 - at as f32)).collect()
    };
    let (lexical, dense) = (list(3), list(5));
    group.bench_function("fuse 200 and 200", |bench| {
        bench.iter(|| black_box(fuse(&lexical, Some(&dense), &fusion)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ProcessorTime);
    targets = retrieve
}
criterion_main!(benches);
