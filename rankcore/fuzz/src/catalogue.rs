//! A small catalogue, its generation on disk, and everything that can be asked of one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use rankcore_engine::error::{Error, Result};
use rankcore_engine::generation::{Generation, GenerationBuilder};
use rankcore_engine::rerank::late::QueryTokens;
use rankcore_engine::retrieve::{DenseSearch, Row, dense};
use rankcore_engine::wire;

use crate::models::{BUNDLE_ID, DIMENSION, Hashed, TOKEN_DIMENSION, unit};

/// Sequence up to which the generation here was built.
pub const SEQUENCE: u64 = 7;

/// Products with every field, with none but the required ones, and with words that repeat.
pub fn products() -> Vec<wire::Product> {
    let full = wire::Product {
        product_id: "p1".into(),
        title: "Wireless Mouse, quiet".into(),
        brand: "Acme".into(),
        category: vec!["Computers".into(), "Mice".into()],
        bullets: vec!["2.4 GHz".into(), "12 months on one battery".into()],
        description: "A mouse that is heard by nobody.".into(),
        attributes: [("colour", "black"), ("hand", "Left")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        price: Some(19.9),
        stock: Some(3),
        rating: Some(4.5),
        rating_count: Some(120),
        popularity: Some(7.25),
    };
    let mut found = vec![full.clone()];
    for (number, title) in [
        "red running shoes",
        "Red Shoes red laces",
        "苹果手机壳 透明",
        "usb c cable 2m black",
        "mug",
        "Café table, oak",
    ]
    .into_iter()
    .enumerate()
    {
        found.push(wire::Product {
            product_id: format!("p{}", number + 2),
            title: title.into(),
            brand: if number % 2 == 0 { "ACME" } else { "Möbel" }.into(),
            category: vec!["Home".into()],
            attributes: [("colour".to_owned(), "Black".to_owned())].into(),
            price: (number != 3).then_some(number as f64),
            stock: (number % 3 == 0).then_some(number as i64),
            ..Default::default()
        });
    }
    found
}

/// Writes a generation of [`products`] to `dir`.
pub fn build(dir: &Path) -> Result<()> {
    let mut builder = GenerationBuilder::new_with(Arc::new(Hashed::new()), dir, 1, None)?;
    for product in products() {
        builder.add(product)?;
    }
    builder.finish(|_, _| {})?;
    let manifest = format!(
        r#"{{"schema_version": 2, "generation_id": "gen-fuzz", "bundle_id": "{BUNDLE_ID}",
            "sequence": {SEQUENCE}, "epoch": 1, "products": {}, "dimension": {DIMENSION},
            "token_dimension": {TOKEN_DIMENSION}}}"#,
        products().len()
    );
    std::fs::write(dir.join("manifest.json"), manifest)
        .map_err(|error| Error::Generation(error.to_string()))
}

/// Exact search over the vectors of [`products`].
struct Exact(Vec<Vec<f32>>);

impl DenseSearch for Exact {
    fn search(&self, query: &[f32], k: usize, eligible: Option<&[u8]>) -> Result<Vec<(Row, f32)>> {
        let scored = self
            .0
            .iter()
            .enumerate()
            .filter(|(row, _)| eligible.is_none_or(|bits| bits[row / 8] >> (row % 8) & 1 == 1))
            .map(|(row, vector)| {
                let score = vector.iter().zip(query).map(|(a, b)| a * b).sum();
                (row as Row, score)
            })
            .collect();
        Ok(dense::best(scored, k))
    }
}

/// Opens a generation that [`build`] wrote.
pub fn open(dir: &Path) -> Result<Arc<Generation>> {
    let vectors = products()
        .iter()
        .map(|product| unit(&product.title, DIMENSION))
        .collect();
    Generation::open_with(dir, Arc::new(Hashed::new()), Some(Arc::new(Exact(vectors))))
}

static BUILT: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    build(dir.path()).expect("the catalogue here is valid");
    dir
});

/// A generation as it was built, without changes.
pub fn fresh() -> Arc<Generation> {
    open(BUILT.path()).expect("it was just built")
}

thread_local! {
    static ASKED: RefCell<Option<Arc<Generation>>> = const { RefCell::new(None) };
}

/// One generation that is only read, with rows in the index and in the delta, and a tombstone in each.
pub fn asked() -> Arc<Generation> {
    ASKED.with_borrow_mut(|asked| {
        Arc::clone(asked.get_or_insert_with(|| {
            let generation = fresh();
            let mut changed = products();
            for (number, product) in changed.iter_mut().enumerate() {
                product.title.push_str(" new");
                product.product_id = format!("q{number}");
            }
            let mut changes: Vec<_> = changed
                .into_iter()
                .map(wire::event::Change::Upsert)
                .collect();
            for id in ["q1", "p3"] {
                changes.push(wire::event::Change::Delete(wire::Delete {
                    product_id: id.into(),
                }));
            }
            generation
                .apply(&events(SEQUENCE + 1, changes))
                .expect("events of our own");
            generation
                .encode_pending(4)
                .expect("these models cannot fail");
            generation
        }))
    })
}

/// Serialised events that follow each other from sequence `first` on.
pub fn events(first: u64, changes: Vec<wire::event::Change>) -> Vec<Vec<u8>> {
    changes
        .into_iter()
        .enumerate()
        .map(|(at, change)| {
            prost::Message::encode_to_vec(&wire::SequencedEvent {
                sequence: first.saturating_add(at as u64),
                epoch: 2,
                committed_unix_us: 0,
                event: Some(wire::Event {
                    event_id: format!("e{at}"),
                    change: Some(change),
                }),
            })
        })
        .collect()
}

/// Asks `generation` everything that a request may ask; it may refuse, not panic.
pub fn exercise(generation: &Generation) {
    let (products, _) = generation.snapshot_products(0, usize::MAX);
    let mut found = HashMap::new();
    for product in &products {
        found.insert(product.product_id.clone(), product.clone());
    }
    let rows: Vec<Row> = found
        .keys()
        .filter_map(|id| generation.row(id))
        .chain(0..8)
        .collect();
    for query in [
        "red shoes",
        "black mouse 2m",
        "手机壳",
        "nothing of the kind",
    ] {
        let filter = wire::Filter {
            brands: vec!["acme".into(), "Möbel".into()],
            attributes: vec![wire::AttributeFilter {
                name: "colour".into(),
                values: vec!["BLACK".into()],
            }],
            price_max: Some(100.0),
            ..Default::default()
        };
        let eligible = generation.filter(Some(&filter)).unwrap_or_default();
        for eligible in [None, eligible.as_ref()] {
            let facets = ["brand", "category", "attributes.colour"].map(str::to_owned);
            let _ = generation.facets(query, &facets, eligible);
            for width in [1, 100] {
                let _ = generation.lexical(query, width, eligible);
                let _ = generation.dense(&unit(query, DIMENSION), width, eligible);
            }
        }
        let live: Vec<Row> = rows
            .iter()
            .copied()
            .filter(|&row| generation.render(row).is_some())
            .collect();
        let _ = generation.lexical_score(query, &live);
        let mut scores = vec![0.0; live.len()];
        generation.dense_score(&unit(query, DIMENSION), &live, &mut scores);
        let tokens = QueryTokens::new(&unit(query, TOKEN_DIMENSION), TOKEN_DIMENSION);
        generation.late(&tokens, &live, &mut scores);
        generation.with_pieces(&live, |pieces| assert_eq!(pieces.len(), live.len()));
        let _ = generation.candidates(&live);
        for &row in &live {
            let words = generation.match_text(row);
            let _ = (
                words.title(),
                words.brand(),
                words.attributes_and_category(),
            );
        }
    }
}
