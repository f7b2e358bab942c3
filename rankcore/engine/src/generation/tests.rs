use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use wire::event::Change as Wire;

use super::*;
use crate::bundle::{Boosts, Fusion, FusionKind, FusionWeights};
use crate::retrieve::lexical::{ANALYSER, field_texts, for_each_stem, query_stems};
use crate::text::{ProductFields, TextConfig, words};

const DIMENSION: usize = 16;
const TOKEN_DIMENSION: usize = 8;

/// Models whose vectors follow from the words alone.
struct Fake {
    text: TextConfig,
    lexical: LexicalConfig,
    encoded: AtomicUsize,
}

fn fake() -> Arc<Fake> {
    let fields = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    Arc::new(Fake {
        text: TextConfig {
            product: ProductFields {
                dense_fields: fields(&["title", "brand", "category", "bullets"]),
                token_fields: fields(&["title", "brand", "category", "bullets"]),
                cross_fields: fields(&["title", "brand"]),
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
                category: 1.5,
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
        encoded: AtomicUsize::new(0),
    })
}

fn word_vector(word: &str, dimension: usize) -> Vec<f32> {
    let mut state = word.bytes().fold(0x9e37_79b9_u32, |state, byte| {
        (state ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    }) | 1;
    let mut vector: Vec<f32> = (0..dimension)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        })
        .collect();
    normalise(&mut vector);
    vector
}

fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    for value in vector {
        *value /= length.max(1e-9);
    }
}

fn text_vector(text: &str) -> Vec<f32> {
    let mut sum = vec![0.0; DIMENSION];
    for word in words(text) {
        for (sum, value) in sum.iter_mut().zip(word_vector(&word, DIMENSION)) {
            *sum += value;
        }
    }
    normalise(&mut sum);
    sum
}

impl Models for Fake {
    fn bundle_id(&self) -> &str {
        "fake-0123456789ab"
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
        self.encoded.fetch_add(products.len(), Ordering::Relaxed);
        products
            .iter()
            .map(|product| {
                let text = product_text(product, &self.text.product.dense_fields);
                let found = words(&text);
                let tokens: Vec<f32> = found
                    .iter()
                    .flat_map(|word| word_vector(word, TOKEN_DIMENSION))
                    .collect();
                Ok(EncodedProduct {
                    dense: text_vector(&text),
                    tokens: late::pack(&tokens, TOKEN_DIMENSION),
                    token_count: found.len(),
                    pieces: self.pieces(product)?,
                })
            })
            .collect()
    }

    fn pieces(&self, product: &wire::Product) -> Result<Vec<u32>> {
        let text = product_text(product, &self.text.product.cross_fields);
        Ok(words(&text).iter().map(|word| word.len() as u32).collect())
    }
}

/// Exact search over the vectors of the products as built; counts its calls.
struct Exact {
    vectors: Vec<Vec<f32>>,
    bitmaps: AtomicUsize,
    calls: AtomicUsize,
}

impl DenseSearch for Exact {
    fn search(&self, query: &[f32], k: usize, eligible: Option<&[u8]>) -> Result<Vec<(Row, f32)>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bitmaps
            .fetch_add(usize::from(eligible.is_some()), Ordering::Relaxed);
        let scored = self
            .vectors
            .iter()
            .enumerate()
            .filter(|(row, _)| eligible.is_none_or(|bits| bits[row / 8] >> (row % 8) & 1 == 1))
            .map(|(row, vector)| {
                let score = vector
                    .iter()
                    .zip(query)
                    .map(|(left, right)| left * right)
                    .sum();
                (row as Row, score)
            })
            .collect();
        Ok(dense::best(scored, k))
    }
}

fn write_manifest(dir: &Path, products: usize, sequence: u64) {
    let manifest = serde_json::json!({
        "schema_version": SCHEMA_VERSION, "generation_id": "gen-test", "bundle_id": "fake-0123456789ab",
        "sequence": sequence, "epoch": 1, "products": products, "dimension": DIMENSION,
        "token_dimension": TOKEN_DIMENSION, "files": {},
    });
    std::fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
}

fn build_files(
    dir: &Path,
    models: &Arc<Fake>,
    products: &[wire::Product],
    reuse: Option<&Path>,
) -> BuildReport {
    let mut builder = GenerationBuilder::new_with(models.clone(), dir, 2, reuse).unwrap();
    for product in products {
        builder.add(product.clone()).unwrap();
    }
    let mut seen = Vec::new();
    let report = builder
        .finish(|done, total| seen.push((done, total)))
        .unwrap();
    assert_eq!(seen.last(), Some(&(products.len(), products.len())));
    write_manifest(dir, products.len(), 0);
    report
}

fn exact(products: &[wire::Product], models: &Fake) -> Arc<Exact> {
    Arc::new(Exact {
        vectors: products
            .iter()
            .map(|product| text_vector(&product_text(product, &models.text.product.dense_fields)))
            .collect(),
        bitmaps: AtomicUsize::new(0),
        calls: AtomicUsize::new(0),
    })
}

fn built(products: &[wire::Product]) -> (tempfile::TempDir, Arc<Generation>) {
    built_with(fake(), products)
}

fn built_with(
    models: Arc<Fake>,
    products: &[wire::Product],
) -> (tempfile::TempDir, Arc<Generation>) {
    let dir = tempfile::tempdir().unwrap();
    build_files(dir.path(), &models, products, None);
    let nearest = exact(products, &models);
    let generation = Generation::open_with(dir.path(), models, Some(nearest)).unwrap();
    (dir, generation)
}

fn product(id: &str, title: &str) -> wire::Product {
    wire::Product {
        product_id: id.into(),
        title: title.into(),
        ..Default::default()
    }
}

fn events(first: u64, changes: Vec<Wire>) -> Vec<Vec<u8>> {
    changes
        .into_iter()
        .enumerate()
        .map(|(at, change)| {
            wire::SequencedEvent {
                sequence: first + at as u64,
                epoch: 3,
                committed_unix_us: 0,
                event: Some(wire::Event {
                    event_id: format!("e{at}"),
                    change: Some(change),
                }),
            }
            .encode_to_vec()
        })
        .collect()
}

fn found(generation: &Generation, query: &str) -> Vec<String> {
    named(generation, &generation.lexical(query, 100, None).unwrap())
        .into_iter()
        .map(|(id, _)| id)
        .collect()
}

fn named(generation: &Generation, rows: &[(Row, f32)]) -> Vec<(String, u32)> {
    rows.iter()
        .map(|&(row, score)| (generation.render(row).unwrap().product_id, score.to_bits()))
        .collect()
}

/// BM25F of each product, written down from the formula. Fields must have at most 40 words: up to there the
/// index keeps lengths exactly. boosts: title, brand, category, bullets, description, attributes.
fn bm25f(products: &[wire::Product], query: &str, boosts: [f32; 6]) -> Vec<f64> {
    let (k1, b) = (0.9, 0.75);
    let fields: Vec<[Vec<String>; 6]> = products
        .iter()
        .map(|product| {
            field_texts(product).map(|text| {
                let mut stems = Vec::new();
                for_each_stem(&text, |stem| stems.push(stem.to_owned()));
                assert!(stems.len() <= 40);
                stems
            })
        })
        .collect();
    let documents = products.len() as f64;
    let mut scores = vec![0.0; products.len()];
    for stem in query_stems(query) {
        let mut frequencies = vec![0.0; products.len()];
        let mut most_carriers = 0_usize;
        for (field, &boost) in boosts.iter().enumerate().filter(|(_, boost)| **boost > 0.0) {
            let words: usize = fields.iter().map(|fields| fields[field].len()).sum();
            let mean = words as f64 / documents;
            let mut carriers = 0;
            for (frequency, fields) in frequencies.iter_mut().zip(&fields) {
                let length = fields[field].len() as f64;
                let count = fields[field].iter().filter(|word| **word == stem).count();
                if count > 0 {
                    carriers += 1;
                    *frequency += f64::from(boost) * count as f64 / (1.0 - b + b * length / mean);
                }
            }
            most_carriers = most_carriers.max(carriers);
        }
        let carriers = most_carriers as f64;
        let idf = (1.0 + (documents - carriers + 0.5) / (carriers + 0.5)).ln();
        for (score, x) in scores.iter_mut().zip(frequencies) {
            *score += idf * (k1 + 1.0) * x / (x + k1);
        }
    }
    scores
}

const WORDS: [&str; 15] = [
    "lamp",
    "oak",
    "table",
    "tables",
    "red",
    "Café",
    "shoe",
    "running",
    "light",
    "steel",
    "chair",
    "soft",
    "保温杯",
    "水杯oak",
    "杯",
];

fn phrase(most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&WORDS[..]), 1..=most)
        .prop_map(|words| words.join(" "))
}

fn any_product() -> impl Strategy<Value = wire::Product> {
    (
        0..12_u32,
        phrase(5),
        prop::sample::select(&["", "Acme", "ACME", "Möbel"][..]),
        prop::collection::vec(
            prop::sample::select(&["Home", "home", "Garden", "Light"][..]),
            0..3,
        ),
        prop::option::of(phrase(8)),
        prop::collection::btree_map(
            prop::sample::select(&["colour", "size"][..]),
            prop::sample::select(&["Red", "red", "blue"][..]),
            0..3,
        ),
        (
            prop::option::of((0..8_u32).prop_map(f64::from)),
            prop::option::of(0..3_i64),
            prop::option::of((0..5_u32).prop_map(f64::from)),
        ),
    )
        .prop_map(
            |(id, title, brand, category, description, attributes, columns)| wire::Product {
                product_id: format!("p{id}"),
                title,
                brand: brand.into(),
                category: category.into_iter().map(str::to_owned).collect(),
                bullets: description.iter().cloned().collect(),
                description: description.unwrap_or_default(),
                attributes: attributes
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                price: columns.0,
                stock: columns.1,
                rating: columns.2,
                ..Default::default()
            },
        )
}

fn any_change() -> impl Strategy<Value = Wire> {
    prop_oneof![
        6 => any_product().prop_map(Wire::Upsert),
        2 => (0..12_u32, prop::option::of(0.0..9.0_f64), prop::option::of(0..3_i64)).prop_map(
            |(id, price, stock)| Wire::Patch(wire::Patch {
                product_id: format!("p{id}"),
                price,
                stock,
                ..Default::default()
            })
        ),
        2 => (0..12_u32).prop_map(|id| Wire::Delete(wire::Delete { product_id: format!("p{id}") })),
    ]
}

fn distinct(products: Vec<wire::Product>) -> Vec<wire::Product> {
    let by_id: BTreeMap<String, wire::Product> = products
        .into_iter()
        .map(|product| (product.product_id.clone(), product))
        .collect();
    by_id.into_values().collect()
}

fn any_filter() -> impl Strategy<Value = wire::Filter> {
    (
        prop::collection::vec(prop::sample::select(&["acme", "MÖBEL", "other"][..]), 0..3),
        prop::collection::vec(prop::sample::select(&["HOME", "light"][..]), 0..2),
        prop::option::of((0..5_u32).prop_map(f64::from)),
        prop::option::of((4..8_u32).prop_map(f64::from)),
        any::<bool>(),
        prop::option::of(prop::sample::select(&["RED", "blue"][..])),
    )
        .prop_map(
            |(brands, categories, price_min, price_max, in_stock, colour)| wire::Filter {
                brands: brands.into_iter().map(str::to_owned).collect(),
                categories: categories.into_iter().map(str::to_owned).collect(),
                price_min,
                price_max,
                in_stock,
                attributes: colour
                    .into_iter()
                    .map(|value| wire::AttributeFilter {
                        name: "colour".into(),
                        values: vec![value.into()],
                    })
                    .collect(),
            },
        )
}

/// What the contract says a filter admits, product by product.
fn passes(filter: &wire::Filter, product: &wire::Product) -> bool {
    let same = |left: &str, right: &str| left.to_lowercase() == right.to_lowercase();
    (filter.brands.is_empty()
        || filter
            .brands
            .iter()
            .any(|brand| same(brand, &product.brand)))
        && (filter.categories.is_empty()
            || filter
                .categories
                .iter()
                .any(|name| product.category.iter().any(|other| same(name, other))))
        && filter
            .price_min
            .is_none_or(|least| product.price.is_some_and(|price| price >= least))
        && filter
            .price_max
            .is_none_or(|most| product.price.is_some_and(|price| price <= most))
        && (!filter.in_stock || product.stock != Some(0))
        && filter.attributes.iter().all(|condition| {
            product
                .attributes
                .get(&condition.name)
                .is_some_and(|value| condition.values.iter().any(|wanted| same(wanted, value)))
        })
}

fn all_products(generation: &Generation) -> Vec<wire::Product> {
    let mut all = Vec::new();
    let mut from = Some(0);
    while let Some(row) = from {
        let (products, next) = generation.snapshot_products(row, 3);
        all.extend(products);
        from = next;
    }
    all.sort_by(|left, right| left.product_id.cmp(&right.product_id));
    all
}

/// Everything a reader can see, without row numbers.
#[derive(Debug, PartialEq)]
struct Seen {
    products: Vec<wire::Product>,
    count: usize,
    lexical: Vec<Vec<(String, u32)>>,
    filtered: Vec<std::result::Result<Vec<String>, String>>,
    facets: Vec<wire::Facet>,
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values
}

fn seen(generation: &Generation, filters: &[wire::Filter]) -> Seen {
    let products = all_products(generation);
    let filtered = filters
        .iter()
        .map(|filter| {
            let eligible = generation
                .filter(Some(filter))
                .map_err(|error| error.to_string())?;
            Ok(products
                .iter()
                .map(|product| product.product_id.clone())
                .filter(|id| {
                    let row = generation.row(id).unwrap();
                    eligible
                        .as_ref()
                        .is_none_or(|rows| rows.contains(row as usize))
                })
                .collect())
        })
        .collect();
    Seen {
        count: generation.products(),
        lexical: [
            "lamp",
            "red tables",
            "cafe running shoes oak",
            "soft acme home",
            "missing",
        ]
        .iter()
        .map(|query| {
            sorted(named(
                generation,
                &generation.lexical(query, 100, None).unwrap(),
            ))
        })
        .collect(),
        filtered,
        facets: generation
            .facets(
                "lamp table red",
                &[
                    "brand".into(),
                    "category".into(),
                    "attributes.colour".into(),
                    "attributes.none".into(),
                ],
                None,
            )
            .unwrap(),
        products,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_batching_and_any_replay_give_the_same_state(
        before in prop::collection::vec(any_product(), 0..8),
        changes in prop::collection::vec(any_change(), 1..40),
        cuts in prop::collection::vec(1_usize..7, 40),
        filters in prop::collection::vec(any_filter(), 2),
    ) {
        let (_dir, whole) = built(&distinct(before));
        let models = fake();
        let pieces = Generation::open_with(_dir.path(), models, None).unwrap();
        let events = events(1, changes);
        let last = events.len() as u64;
        prop_assert_eq!(whole.apply(&events).unwrap(), last);
        let mut start = 0;
        for cut in cuts {
            let end = (start + cut).min(events.len());
            // Each batch comes with the one before it, as after a lost reply.
            pieces.apply(&events[start.saturating_sub(cut)..end]).unwrap();
            start = end;
        }
        prop_assert_eq!(pieces.applied_sequence(), last);
        prop_assert_eq!(pieces.epoch(), 3);
        prop_assert_eq!(pieces.delta_products(), whole.delta_products());
        prop_assert_eq!(seen(&pieces, &filters), seen(&whole, &filters));
        prop_assert_eq!(whole.apply(&events).unwrap(), last);
        prop_assert_eq!(seen(&pieces, &filters), seen(&whole, &filters));
    }

    #[test]
    fn changes_are_seen_as_if_the_generation_had_been_built_with_them(
        before in prop::collection::vec(any_product(), 0..8),
        changes in prop::collection::vec(any_change(), 1..40),
        filters in prop::collection::vec(any_filter(), 2),
    ) {
        let (_dir, changed) = built(&distinct(before));
        changed.apply(&events(1, changes)).unwrap();
        while changed.encode_pending(3).unwrap() > 0 {}
        let products = all_products(&changed);
        let (_other, rebuilt) = built(&products);
        prop_assert_eq!(rebuilt.delta_products(), 0);
        prop_assert_eq!(seen(&changed, &filters), seen(&rebuilt, &filters));

        let query = text_vector("red oak lamp");
        let tokens = QueryTokens::new(&word_vector("lamp", TOKEN_DIMENSION), TOKEN_DIMENSION);
        for product in &products {
            let rows = [&changed, &rebuilt].map(|generation| {
                let row = generation.row(&product.product_id).unwrap();
                let (mut dense, mut late) = ([0.0], [0.0]);
                generation.dense_score(&query, &[row], &mut dense);
                generation.late(&tokens, &[row], &mut late);
                let pieces = generation.with_pieces(&[row], |pieces| pieces[0].to_vec());
                (dense[0].to_bits(), late[0].to_bits(), pieces, generation.match_text(row))
            });
            prop_assert_eq!(&rows[0], &rows[1]);
            prop_assert!(!f32::from_bits(rows[0].0).is_nan());
        }
        if let (Some(one), Some(other)) =
            (changed.dense(&query, 5, None).unwrap(), rebuilt.dense(&query, 5, None).unwrap())
        {
            for ((_, left), (_, right)) in one.iter().zip(&other) {
                prop_assert!((left - right).abs() < 0.02);
            }
        }
    }

    #[test]
    fn filters_admit_what_a_scan_of_the_products_admits(
        before in prop::collection::vec(any_product(), 0..12),
        changes in prop::collection::vec(any_change(), 0..12),
        filter in any_filter(),
    ) {
        let (_dir, generation) = built(&distinct(before));
        generation.apply(&events(1, changes)).unwrap();
        let products = all_products(&generation);
        let carried = products.iter().any(|product| product.attributes.contains_key("colour"));
        match generation.filter(Some(&filter)) {
            Err(Error::InvalidRequest(violations)) => {
                prop_assert!(!carried && !filter.attributes.is_empty());
                prop_assert_eq!(&violations[0].field, "filter.attributes[0].name");
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
            Ok(rows) => {
                prop_assert!(carried || filter.attributes.is_empty());
                for product in &products {
                    let row = generation.row(&product.product_id).unwrap() as usize;
                    let admitted = rows.as_ref().is_none_or(|rows| rows.contains(row));
                    prop_assert_eq!(admitted, passes(&filter, product), "{:?}", product);
                }
                if let Some(rows) = rows {
                    let admitted = products.iter().filter(|product| passes(&filter, product)).count();
                    prop_assert_eq!(rows.count_ones(..), admitted);
                }
            }
        }
    }

    #[test]
    fn scores_are_bm25f_of_the_live_products(
        before in prop::collection::vec(any_product(), 0..12),
        changes in prop::collection::vec(any_change(), 0..20),
        query in phrase(4),
        boosts in prop::array::uniform6(prop::sample::select(&[0.0_f32, 0.25, 1.0, 4.0][..])),
    ) {
        let query = format!("{query} acme home colour red");
        let mut models = fake();
        let [title, brand, category, bullets, description, attributes] = boosts;
        Arc::get_mut(&mut models).unwrap().lexical.boosts =
            Boosts { title, brand, category, bullets, description, attributes };
        let (_dir, generation) = built_with(models, &distinct(before));
        generation.apply(&events(1, changes)).unwrap();
        let products = all_products(&generation);
        let rows: Vec<Row> = products
            .iter()
            .map(|product| generation.row(&product.product_id).unwrap())
            .collect();
        let expected = bm25f(&products, &query, boosts);
        let scores = generation.lexical_score(&query, &rows).unwrap();
        for (score, expected) in scores.iter().zip(&expected) {
            prop_assert!((f64::from(*score) - expected).abs() < 1e-5 * (1.0 + expected));
        }
        let found = generation.lexical(&query, 100, None).unwrap();
        prop_assert_eq!(found.len(), expected.iter().filter(|&&score| score > 0.0).count());
        for (row, score) in found {
            let at = rows.iter().position(|known| *known == row).unwrap();
            prop_assert_eq!(score.to_bits(), scores[at].to_bits());
        }
    }

    #[test]
    fn two_neighbouring_characters_of_a_chinese_title_find_it(
        title in prop::collection::vec(prop::char::range('\u{4e00}', '\u{9fff}'), 2..12),
        from in 0_usize..12,
        length in 2_usize..12,
    ) {
        let from = from.min(title.len() - 2);
        let part: String = title[from..(from + length).min(title.len())].iter().collect();
        let title: String = title.into_iter().collect();
        let (_dir, generation) = built(&[product("a", &title), product("b", "lamp")]);
        prop_assert_eq!(found(&generation, &part), ["a"]);
    }

    #[test]
    fn the_best_rows_are_those_of_an_exhaustive_scoring(
        texts in prop::collection::vec((phrase(6), phrase(2), phrase(12)), 150..400),
        newer in prop::collection::vec((phrase(6), phrase(2), phrase(12)), 0..40),
        query in phrase(6),
        width in 1_usize..40,
        every in 1_usize..4,
    ) {
        // Some fields stay empty, so that a word is rare in one field and common in another.
        let worded = |at: usize, (title, brand, description): &(String, String, String)| {
            wire::Product {
                brand: if at.is_multiple_of(5) { brand.clone() } else { String::new() },
                description: if at.is_multiple_of(3) { description.clone() } else { String::new() },
                ..product(&format!("p{at}"), title)
            }
        };
        let products: Vec<_> =
            texts.iter().enumerate().map(|(at, texts)| worded(at, texts)).collect();
        let (_dir, generation) = built(&products);
        let changes = newer
            .iter()
            .enumerate()
            .map(|(at, texts)| Wire::Upsert(worded(at * 7, texts)))
            .collect();
        generation.apply(&events(1, changes)).unwrap();
        let rows: Vec<Row> = (0..texts.len())
            .filter_map(|at| generation.row(&format!("p{at}")))
            .filter(|row| (*row as usize).is_multiple_of(every))
            .collect();
        let mut eligible = FixedBitSet::with_capacity(texts.len() + newer.len());
        for &row in &rows {
            eligible.insert(row as usize);
        }
        let scores = generation.lexical_score(&query, &rows).unwrap();
        let mut expected: Vec<(Row, f32)> = rows
            .into_iter()
            .zip(scores)
            .filter(|&(_, score)| score > 0.0)
            .collect();
        expected = dense::best(expected, width);
        prop_assert_eq!(generation.lexical(&query, width, Some(&eligible)).unwrap(), expected);
    }
}

#[test]
fn fields_are_weighed_before_occurrences_saturate() {
    let mut branded = product("b", "oak lamp");
    branded.brand = "Lamp".into();
    let products = [
        product("a", "red lamp lamp"),
        branded,
        product("c", "chair"),
    ];
    let (_dir, generation) = built(&products);
    // The title has two carriers, the brand one; the greater number counts for both.
    let weight = (1.0 + (3.0 - 2.0 + 0.5) / (2.0 + 0.5_f64)).ln() * 1.9;
    // Mean lengths: 2 words of title, a third of a word of brand.
    let first = 3.0 * 2.0 / (0.25 + 0.75 * 3.0 / 2.0);
    let second = 3.0 / (0.25 + 0.75 * 2.0 / 2.0) + 2.0 / (0.25 + 0.75 * 1.0 * 3.0);
    let found = generation.lexical("Lamps", 10, None).unwrap();
    let expected = [(0, first), (1, second)];
    assert_eq!(found.len(), 2);
    for ((row, score), (expected_row, frequency)) in found.iter().zip(expected) {
        let expected = weight * frequency / (frequency + 0.9);
        assert_eq!(*row, expected_row);
        assert!(
            (f64::from(*score) - expected).abs() < 1e-5,
            "{score} {expected}"
        );
    }
}

#[test]
fn two_words_of_a_query_beat_one_word_in_every_field() {
    let mut repeated = product("repeated", "lamp stand");
    repeated.brand = "lamp".into();
    repeated.category = vec!["lamp".into()];
    repeated.bullets = vec!["lamp".into()];
    repeated.description = "lamp lamp lamp".into();
    let (_dir, generation) = built(&[
        repeated,
        product("both", "oak lamp"),
        product("other", "oak chair"),
    ]);
    assert_eq!(
        found(&generation, "oak lamp"),
        ["both", "repeated", "other"]
    );
}

#[test]
fn text_is_found_without_case_accents_and_plural() {
    let (_dir, generation) = built(&[
        product("a", "Crème Brûlée torches, ΚΑΛΗΜΈΡΑ"),
        product("b", "plain"),
    ]);
    for query in ["creme", "BRULEE", "torch", "καλημέρα", "Crème-brûlée"] {
        assert_eq!(found(&generation, query), ["a"], "{query}");
    }
    assert!(found(&generation, "!!!").is_empty());
    assert_eq!(query_stems("Running runs RUN").len(), 1);
}

#[test]
fn a_chinese_word_is_found_inside_a_run_of_characters() {
    let (_dir, generation) = built(&[
        product("bottle", "不锈钢保温杯 500毫升"),
        product("child", "儿童保温水杯 带吸管"),
        product("case", "苹果iPhone手机壳"),
    ]);
    assert_eq!(found(&generation, "保温杯"), ["bottle", "child"]);
    assert_eq!(found(&generation, "手机壳"), ["case"]);
    assert_eq!(found(&generation, "iphone"), ["case"]);
    assert_eq!(found(&generation, "500"), ["bottle"]);
    generation
        .apply(&events(
            1,
            vec![Wire::Upsert(product("new", "电热水壶手机壳"))],
        ))
        .unwrap();
    assert_eq!(sorted(found(&generation, "手机壳")), ["case", "new"]);
}

#[test]
fn of_a_very_long_query_the_rarest_words_count() {
    let mut products: Vec<_> = (0..60)
        .map(|at| product(&format!("p{at}"), "common everywhere words"))
        .collect();
    products.push(product("rare", "needle"));
    let (_dir, generation) = built(&products);
    let mut query = "common everywhere words ".to_owned();
    for at in 0..60 {
        query.push_str(&format!("absent{at} "));
    }
    query.push_str("needle");
    assert_eq!(found(&generation, &query)[0], "rare");
}

#[test]
fn new_text_is_found_as_soon_as_it_is_applied_and_vectors_follow() {
    let models = fake();
    let generation = Generation::empty_with(models.clone()).unwrap();
    assert!(generation.id().is_empty() && generation.products() == 0);
    assert!(found(&generation, "lamp").is_empty());
    assert_eq!(
        generation.dense(&text_vector("lamp"), 5, None).unwrap(),
        None
    );
    let changes = vec![
        Wire::Upsert(product("a", "red lamp")),
        Wire::Upsert(product("b", "oak table")),
    ];
    assert_eq!(generation.apply(&events(1, changes)).unwrap(), 2);
    assert_eq!(found(&generation, "lamps"), ["a"]);
    assert_eq!((generation.products(), generation.delta_products()), (2, 2));

    let row = generation.row("a").unwrap();
    let mut score = [0.0];
    generation.dense_score(&text_vector("red lamp"), &[row], &mut score);
    assert!(score[0].is_nan());
    assert!(!generation.has_dense());
    // The cross-encoder's input does not wait for vectors.
    assert_eq!(
        generation.with_pieces(&[row], |pieces| pieces[0].to_vec()),
        [3, 4]
    );

    assert_eq!(generation.encode_pending(1).unwrap(), 1);
    assert_eq!(generation.encode_pending(9).unwrap(), 1);
    assert_eq!(generation.encode_pending(9).unwrap(), 0);
    generation.dense_score(&text_vector("red lamp"), &[row], &mut score);
    assert!((score[0] - 1.0).abs() < 0.01);
    assert!(generation.has_dense());
    let dense = generation
        .dense(&text_vector("red lamp"), 1, None)
        .unwrap()
        .unwrap();
    assert_eq!(named(&generation, &dense)[0].0, "a");
}

#[test]
fn an_upsert_with_the_same_text_changes_columns_alone() {
    let (_dir, generation) = built(&[product("a", "red lamp")]);
    let row = generation.row("a").unwrap();
    let mut dearer = product("a", "red lamp");
    dearer.price = Some(9.5);
    generation
        .apply(&events(1, vec![Wire::Upsert(dearer.clone())]))
        .unwrap();
    assert_eq!(generation.row("a"), Some(row));
    assert_eq!(generation.delta_products(), 0);
    assert_eq!(generation.product("a"), Some(dearer));
    // Columns that the new version does not have are unknown again.
    generation
        .apply(&events(2, vec![Wire::Upsert(product("a", "red lamp"))]))
        .unwrap();
    assert_eq!(generation.product("a"), Some(product("a", "red lamp")));
}

#[test]
fn vectors_stay_when_only_text_that_models_do_not_read_changes() {
    let (_dir, generation) = built(&[product("a", "red lamp")]);
    let query = text_vector("red lamp");
    for (sequence, description) in [(1, "warm"), (2, "warm glow")] {
        let mut described = product("a", "red lamp");
        described.description = description.into();
        generation
            .apply(&events(sequence, vec![Wire::Upsert(described)]))
            .unwrap();
        let row = generation.row("a").unwrap();
        let mut score = [0.0];
        generation.dense_score(&query, &[row], &mut score);
        assert!((score[0] - 1.0).abs() < 0.01, "{description}");
        assert_eq!(generation.encode_pending(9).unwrap(), 0);
        assert_eq!(found(&generation, "warm"), ["a"]);
    }
}

#[test]
fn a_result_whose_product_got_a_new_row_shows_that_one_and_a_deleted_one_nothing() {
    let (_dir, generation) = built(&[product("a", "red lamp"), product("b", "table")]);
    let (a, b) = (generation.row("a").unwrap(), generation.row("b").unwrap());
    let mut new = product("a", "blue lamp");
    new.stock = Some(4);
    let delete = wire::Delete {
        product_id: "b".into(),
    };
    generation
        .apply(&events(1, vec![Wire::Upsert(new), Wire::Delete(delete)]))
        .unwrap();
    let shown = generation.render(a).unwrap();
    assert_eq!((shown.title.as_str(), shown.stock), ("blue lamp", Some(4)));
    assert_eq!(generation.render(b), None);
    assert_eq!(generation.render(99), None);
    assert!(generation.contains("a") && !generation.contains("b"));
    assert_eq!(
        generation.match_text(a),
        MatchText::of(&product("a", "red lamp"))
    );
    // It may come back.
    generation
        .apply(&events(3, vec![Wire::Upsert(product("b", "table"))]))
        .unwrap();
    assert_eq!(found(&generation, "table"), ["b"]);
}

#[test]
fn an_event_that_cannot_be_decoded_is_refused_and_nothing_is_applied() {
    let generation = Generation::empty_with(fake()).unwrap();
    let mut batch = events(1, vec![Wire::Upsert(product("a", "lamp"))]);
    batch.push(vec![0xff; 7]);
    match generation.apply(&batch) {
        Err(Error::InvalidRequest(violations)) => assert_eq!(violations[0].field, "events[1]"),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        (generation.products(), generation.applied_sequence()),
        (0, 0)
    );
}

#[test]
fn facets_count_matching_eligible_products_most_frequent_first() {
    let mut products = Vec::new();
    for at in 0..30 {
        let mut lamp = product(&format!("p{at}"), if at < 25 { "lamp" } else { "table" });
        lamp.brand = format!("brand {:02}", at % 23);
        lamp.category = vec!["Home".into(), "Home".into(), "Light".into()];
        lamp.price = Some(f64::from(at));
        products.push(lamp);
    }
    let (_dir, generation) = built(&products);
    let fields = ["brand".to_owned(), "category".to_owned()];
    let facets = generation.facets("lamp chair", &fields, None).unwrap();
    assert_eq!(facets[0].counts.len(), 20);
    let counts: Vec<_> = facets[0].counts[..3]
        .iter()
        .map(|count| (count.value.as_str(), count.count))
        .collect();
    assert_eq!(counts, [("brand 00", 2), ("brand 01", 2), ("brand 02", 1)]);
    let counts: Vec<_> = facets[1].counts.iter().map(|count| count.count).collect();
    assert_eq!(counts, [25, 25]);
    let cheap = wire::Filter {
        price_max: Some(4.0),
        ..Default::default()
    };
    let eligible = generation.filter(Some(&cheap)).unwrap();
    let facets = generation
        .facets("lamp", &fields, eligible.as_ref())
        .unwrap();
    assert_eq!(facets[1].counts[0].count, 5);
    assert!(matches!(
        generation.facets("lamp", &["price".into()], None),
        Err(Error::InvalidRequest(_))
    ));
}

#[test]
fn dense_retrieval_uses_the_index_unless_few_rows_are_eligible() {
    let products: Vec<_> = (0..2_000)
        .map(|at| {
            let mut product = product(&format!("p{at}"), &format!("w{at} w{}", at % 7));
            product.price = Some(f64::from(at));
            product
        })
        .collect();
    let models = fake();
    let dir = tempfile::tempdir().unwrap();
    build_files(dir.path(), &models, &products, None);
    let nearest = exact(&products, &models);
    let generation = Generation::open_with(dir.path(), models, Some(nearest.clone())).unwrap();
    let query = text_vector("w3 w1500");
    let calls = || {
        (
            nearest.calls.load(Ordering::Relaxed),
            nearest.bitmaps.load(Ordering::Relaxed),
        )
    };
    let below = |price: f64| {
        let filter = wire::Filter {
            price_max: Some(price),
            ..Default::default()
        };
        generation.filter(Some(&filter)).unwrap()
    };
    let rows = generation.dense(&query, 10, None).unwrap().unwrap();
    assert_eq!((rows.len(), calls()), (10, (1, 0)));
    let eligible = below(1_000.0);
    let rows = generation
        .dense(&query, 10, eligible.as_ref())
        .unwrap()
        .unwrap();
    assert_eq!((rows.len(), calls()), (10, (2, 1)));
    assert!(rows.iter().all(|&(row, _)| row <= 1_000));
    let eligible = below(100.0);
    let rows = generation
        .dense(&query, 10, eligible.as_ref())
        .unwrap()
        .unwrap();
    assert_eq!((rows.len(), calls()), (10, (2, 1)));
    assert!(rows.iter().all(|&(row, _)| row <= 100));

    // Tombstones: a few are asked for on top, many are kept out by a bitmap.
    let best = generation.dense(&query, 1, None).unwrap().unwrap()[0].0;
    let delete = |id: String| Wire::Delete(wire::Delete { product_id: id });
    generation
        .apply(&events(1, vec![delete(format!("p{best}"))]))
        .unwrap();
    let rows = generation.dense(&query, 10, None).unwrap().unwrap();
    assert_eq!((rows.len(), calls()), (10, (4, 1)));
    assert!(rows.iter().all(|&(row, _)| row != best));
    let deletes = (1_000..1_200).map(|at| delete(format!("p{at}"))).collect();
    generation.apply(&events(2, deletes)).unwrap();
    let rows = generation.dense(&query, 10, None).unwrap().unwrap();
    assert_eq!((rows.len(), calls()), (10, (5, 2)));
    assert!(rows.iter().all(|&(row, _)| !(1_000..1_200).contains(&row)));
}

#[test]
fn without_a_dense_index_there_is_no_dense_retrieval() {
    let (dir, _) = built(&[product("a", "lamp")]);
    let generation = Generation::open_with(dir.path(), fake(), None).unwrap();
    assert!(!generation.has_dense());
    assert_eq!(
        generation.dense(&text_vector("lamp"), 5, None).unwrap(),
        None
    );
    assert!(matches!(
        generation.dense(&[0.0; 3], 5, None),
        Err(Error::Internal(_))
    ));
}

#[test]
fn unchanged_text_keeps_its_vectors_in_a_new_build() {
    let first = [product("a", "red lamp"), product("b", "oak table")];
    let (older, _generation) = built(&first);
    let models = fake();
    let dir = tempfile::tempdir().unwrap();
    let mut moved = product("a", "red lamp");
    moved.price = Some(3.0);
    moved.description = "not read by the models".into();
    let second = [product("c", "chair"), product("b", "steel table"), moved];
    let report = build_files(dir.path(), &models, &second, Some(older.path()));
    assert_eq!((report.encoded, report.reused), (2, 1));
    assert_eq!(models.encoded.load(Ordering::Relaxed), 2);
    let raw = std::fs::metadata(dir.path().join("dense.f32"))
        .unwrap()
        .len();
    assert_eq!(raw as usize, 3 * DIMENSION * 4);
    let generation = Generation::open_with(dir.path(), models, None).unwrap();
    for (id, text) in [("a", "red lamp"), ("b", "steel table"), ("c", "chair")] {
        let mut score = [0.0];
        generation.dense_score(
            &text_vector(text),
            &[generation.row(id).unwrap()],
            &mut score,
        );
        assert!((score[0] - 1.0).abs() < 0.01, "{id}: {}", score[0]);
    }
}

#[test]
fn a_build_refuses_products_that_come_twice_or_break_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = GenerationBuilder::new_with(fake(), dir.path(), 1, None).unwrap();
    builder.add(product("a", "lamp")).unwrap();
    assert!(matches!(
        builder.add(product("a", "table")),
        Err(Error::Generation(_))
    ));
    assert!(matches!(
        builder.add(product("b", "")),
        Err(Error::InvalidRequest(_))
    ));
    drop(builder);
    // What is left of a build is neither built upon nor opened.
    assert!(GenerationBuilder::new_with(fake(), dir.path(), 1, None).is_err());
    write_manifest(dir.path(), 1, 0);
    assert!(Generation::open_with(dir.path(), fake(), None).is_err());
}

#[test]
fn each_file_that_is_absent_cut_or_foreign_is_refused_by_name() {
    let products = [product("a", "red lamp"), product("b", "oak table")];
    let (dir, _generation) = built(&products);
    let mut files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && !path.ends_with("dense.f32"))
        .collect();
    files.extend(
        std::fs::read_dir(dir.path().join("lexical"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_string_lossy();
                // Locks and the writer's own list are not read.
                name == "meta.json" || name.ends_with(".term") || name.ends_with(".fieldnorm")
            }),
    );
    assert!(files.len() > 15);
    for path in files {
        let whole = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let cut = whole[..whole.len() / 2].to_vec();
        for damaged in [
            Some(cut),
            Some(b"something else entirely, longer than a header of sixty-four bytes".to_vec()),
            None,
        ] {
            match &damaged {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let error = Generation::open_with(dir.path(), fake(), None)
                .expect_err(&name)
                .to_string();
            let folder = if path.parent().unwrap().ends_with("lexical") {
                "lexical"
            } else {
                name.as_str()
            };
            assert!(error.contains(folder), "{name}: {error}");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    assert!(Generation::open_with(dir.path(), fake(), None).is_ok());
}

#[test]
fn numbers_that_point_beyond_the_last_row_or_value_are_refused_by_name() {
    let mut lamp = product("a", "red lamp");
    lamp.brand = "Acme".into();
    let (dir, generation) = built(&[lamp, product("b", "oak table")]);
    drop(generation);
    for name in ["keywords.u32", "keyword_rows.u32", "id_rows.u32"] {
        let path = dir.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        let mut beyond = whole.clone();
        beyond[64..68].copy_from_slice(&7_u32.to_le_bytes());
        std::fs::write(&path, &beyond).unwrap();
        let error = Generation::open_with(dir.path(), fake(), None)
            .expect_err(name)
            .to_string();
        assert!(
            error.contains(name) && error.contains("beyond the last"),
            "{error}"
        );
        std::fs::write(&path, &whole).unwrap();
    }
    assert!(Generation::open_with(dir.path(), fake(), None).is_ok());
}

#[test]
fn a_flipped_bit_anywhere_in_the_lexical_index_is_found_when_it_is_opened() {
    let (dir, generation) = built(&[product("a", "red lamp"), product("b", "oak table")]);
    drop(generation);
    for entry in std::fs::read_dir(dir.path().join("lexical")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".json") || name.ends_with(".lock") {
            continue;
        }
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x04;
            std::fs::write(&path, &flipped).unwrap();
            if let Ok(generation) = Generation::open_with(dir.path(), fake(), None) {
                // The footer also names the library's version, which answers nothing.
                assert_eq!(found(&generation, "lamp"), ["a"], "{name}, byte {at}");
            }
        }
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(
                Generation::open_with(dir.path(), fake(), None).is_err(),
                "{name} cut to {length}"
            );
        }
        std::fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn a_generation_of_another_bundle_or_layout_is_refused() {
    let (dir, _generation) = built(&[product("a", "lamp")]);
    let path = dir.path().join("manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("fake-0123456789ab", "other-0123456789ab"),
        ("\"schema_version\":2", "\"schema_version\":1"),
        ("\"dimension\":16", "\"dimension\":32"),
        ("\"products\":1", "\"products\":2"),
    ] {
        assert!(manifest.contains(from), "{from}");
        std::fs::write(&path, manifest.replace(from, to)).unwrap();
        assert!(
            Generation::open_with(dir.path(), fake(), None).is_err(),
            "{to}"
        );
    }
}

#[test]
fn a_generation_whose_words_were_made_by_other_rules_is_refused() {
    let (dir, _generation) = built(&[product("a", "lamp")]);
    let path = dir.path().join("lexical/meta.json");
    let meta = std::fs::read_to_string(&path).unwrap();
    let older = meta.replace(ANALYSER, "muster_en");
    assert_ne!(meta, older);
    std::fs::write(&path, older).unwrap();
    let error = Generation::open_with(dir.path(), fake(), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("not a lexical index of this version"),
        "{error}"
    );
}

#[test]
fn readers_and_one_writer_work_side_by_side() {
    let products: Vec<_> = (0..200)
        .map(|at| product(&format!("p{at}"), "red lamp"))
        .collect();
    let (_dir, generation) = built(&products);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..20_u64 {
                let changes = (0..50)
                    .map(|at| {
                        Wire::Upsert(product(&format!("p{at}"), &format!("blue lamp {round}")))
                    })
                    .collect();
                generation.apply(&events(round * 50 + 1, changes)).unwrap();
                generation.encode_pending(16).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let rows = generation.lexical("lamp", 300, None).unwrap();
            // A product whose text is being replaced is on one row or the other, never on both.
            assert_eq!(rows.len(), 200);
            for (row, _) in rows {
                assert!(generation.render(row).is_some());
            }
            generation.dense(&text_vector("lamp"), 10, None).unwrap();
        }
    });
    assert_eq!(
        (generation.products(), generation.delta_products()),
        (200, 50)
    );
}

/// Products of a few words each, no two alike.
fn varied(count: usize) -> Vec<wire::Product> {
    let word = |number: usize| ["red", "oak", "cup", "lamp", "sofa", "drill", "rug"][number % 7];
    (0..count)
        .map(|number| {
            let title = format!(
                "{} {} {}",
                word(number),
                word(number / 7),
                word(number / 49)
            );
            product(&format!("p{number}"), &format!("{title} no{number}"))
        })
        .collect()
}

/// Opens what was built in `dir`, its nearest rows found as `kind` says.
fn opened_as(dir: &Path, models: &Arc<Fake>, kind: &str, probes: usize) -> Result<Arc<Generation>> {
    let path = dir.join("manifest.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["dense_index"] = serde_json::json!({
        "kind": kind, "probes": probes, "recall_at_100": 0.99, "others": [],
    });
    std::fs::write(&path, manifest.to_string()).unwrap();
    Generation::open_with(dir, models.clone(), None)
}

#[test]
fn the_core_finds_the_nearest_of_its_own_rows_by_a_scan_or_by_lists() {
    const COUNT: usize = 1_500;
    const LISTS: usize = 12;
    let models = fake();
    let products = varied(COUNT);
    let dir = tempfile::tempdir().unwrap();
    build_files(dir.path(), &models, &products, None);
    let reference = exact(&products, &models);
    let centroids: Vec<f32> = reference.vectors[..LISTS].concat();
    let list_of: Vec<u32> = reference
        .vectors
        .iter()
        .map(|vector| {
            let cosine = |list: usize| -> f32 {
                let centroid = &reference.vectors[list];
                centroid
                    .iter()
                    .zip(vector)
                    .map(|(left, right)| left * right)
                    .sum()
            };
            let nearest = (0..LISTS).max_by(|left, right| cosine(*left).total_cmp(&cosine(*right)));
            nearest.unwrap() as u32
        })
        .collect();
    crate::retrieve::lists::write(dir.path(), &centroids, DIMENSION, &list_of).unwrap();
    let query = text_vector("red oak lamp");
    let odd = FixedBitSet::from_iter((0..COUNT).filter(|row| row % 2 == 1));
    let mut bits = vec![0_u8; COUNT.div_ceil(8)];
    odd.ones().for_each(|row| bits[row / 8] |= 1 << (row % 8));
    for (kind, probes) in [("scan", 0), ("lists", LISTS)] {
        let generation = opened_as(dir.path(), &models, kind, probes).unwrap();
        assert!(generation.has_dense());
        assert_eq!(generation.dense_index().unwrap().kind, kind);
        for (eligible, bits) in [(None, None), (Some(&odd), Some(&bits[..]))] {
            let expected = reference.search(&query, 30, bits).unwrap();
            let found = generation.dense(&query, 30, eligible).unwrap().unwrap();
            assert_eq!(found.len(), 30);
            let same = found
                .iter()
                .filter(|(row, _)| expected.iter().any(|(other, _)| other == row))
                .count();
            assert!(same >= 28, "{kind}: {same} of 30");
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found.1 - expected.1).abs() < 0.01);
            }
        }
        // A product that is gone is not returned, one whose text is new is.
        let nearest = generation.dense(&query, 1, None).unwrap().unwrap()[0].0;
        let gone = format!("p{nearest}");
        generation
            .apply(&events(
                1,
                vec![
                    Wire::Delete(wire::Delete { product_id: gone }),
                    Wire::Upsert(product("new", "red oak lamp")),
                ],
            ))
            .unwrap();
        generation.encode_pending(10).unwrap();
        let found = generation.dense(&query, 10, None).unwrap().unwrap();
        assert_eq!(found[0].0, COUNT as Row);
        assert!(found.iter().all(|(row, _)| *row != nearest));
    }
    let error = opened_as(dir.path(), &models, "elsewhere", 0).unwrap();
    assert!(!error.has_dense(), "another kind is the caller's to search");
    std::fs::remove_file(dir.path().join("lists.idx")).unwrap();
    let error = opened_as(dir.path(), &models, "lists", 4).unwrap_err();
    assert!(error.to_string().contains("lists.idx"), "{error}");
}

#[test]
fn vectors_are_drawn_around_those_of_a_sample_and_always_the_same() {
    let models = fake();
    let products = varied(300);
    let drawn = |sample: usize| {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = GenerationBuilder::new_with(models.clone(), dir.path(), 2, None).unwrap();
        builder.draw(sample);
        for product in &products {
            builder.add(product.clone()).unwrap();
        }
        let before = models.encoded.load(Ordering::Relaxed);
        let report = builder.finish(|_, _| {}).unwrap();
        let encoded = models.encoded.load(Ordering::Relaxed) - before;
        write_manifest(dir.path(), products.len(), 0);
        (dir, report, encoded)
    };
    let (dir, report, encoded) = drawn(40);
    assert_eq!(
        (report.products, report.encoded, report.drawn, encoded),
        (300, 40, 300, 40)
    );
    let (again, ..) = drawn(40);
    for file in ["dense.i8", "dense.f32", "tokens.i8", "pieces.u32"] {
        let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(file)).unwrap();
        assert_eq!(read(&dir), read(&again), "{file}");
    }
    let generation = opened_as(dir.path(), &models, "scan", 0).unwrap();
    let query = text_vector("red oak lamp");
    let found = generation.dense(&query, 300, None).unwrap().unwrap();
    assert_eq!(found.len(), 300);
    assert!(found.iter().all(|(_, cosine)| cosine.abs() < 1.01));
    assert!(
        found[0].1 > 0.5,
        "drawn vectors lie where encoded ones do: {}",
        found[0].1
    );
    // Tokens and pieces are the product's own in number.
    let tokens = QueryTokens::new(&word_vector("red", TOKEN_DIMENSION), TOKEN_DIMENSION);
    let rows: Vec<Row> = (0..300).collect();
    let mut scores = vec![f32::NAN; 300];
    generation.late(&tokens, &rows, &mut scores);
    assert!(scores.iter().all(|score| (-1.01..=1.01).contains(score)));
    generation.with_pieces(&rows[..1], |pieces| {
        assert_eq!(pieces[0], models.pieces(&products[0]).unwrap());
    });
    // More than there are: all are encoded, and drawn around themselves.
    assert_eq!(drawn(1_000).1.encoded, 300);
}
