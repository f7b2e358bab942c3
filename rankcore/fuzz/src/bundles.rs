//! The files of a bundle, and the text that its tokeniser reads.

use std::path::Path;
use std::sync::LazyLock;

use rankcore_engine::bundle::{LexicalConfig, Manifest, PlanSpec};
use rankcore_engine::encode::Pieces;
use rankcore_engine::generation::Manifest as GenerationManifest;
use rankcore_engine::golden::Golden;
use rankcore_engine::model::{inflate, reads};
use rankcore_engine::plan::cost::CostBook;
use rankcore_engine::plan::help::Help;
use rankcore_engine::plan::priority::Priority;
use rankcore_engine::plan::{Moment, Parts, Planner, Shape};
use rankcore_engine::rerank::forest::Forest;
use rankcore_engine::retrieve::lexical::{for_each_stem, query_stems};
use rankcore_engine::retrieve::{MatchText, query_keys};
use rankcore_engine::text::{FIELDS, TextConfig, product_text, words};
use rankcore_engine::wire;

/// Any of the JSON files: each reader is given it, and takes it for its own or refuses it.
pub fn json(data: &[u8]) {
    let _ = GenerationManifest::parse(data);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = Manifest::parse(text);
    let _ = Golden::parse(text);
    if let Ok(config) = TextConfig::parse(text) {
        assert_eq!(config.product.dense_fields, config.product.token_fields);
    }
    if let Ok(config) = LexicalConfig::parse(text) {
        assert!(config.boosts.title >= 0.0 && config.fusion.rrf_k >= 0.0);
    }
    if let Ok(plans) = PlanSpec::parse_all(text) {
        plan(&plans);
    }
}

/// Plans that were accepted can be chosen from, whatever the moment.
fn plan(plans: &[PlanSpec]) {
    let planner = Planner::new(plans);
    let costs = CostBook::new().at(0);
    for (brought, products) in [(None, 0), (None, 1_000_000), (Some(1_000), 20)] {
        let shape = Shape {
            words: 5,
            brought,
            products,
            facets: 2,
            page: 10,
            chunk_pairs: 8,
            personal: brought.is_none(),
        };
        let _ = planner.scale(&shape, &costs);
        for budget_us in [0, 50_000, u64::MAX] {
            let moment = Moment {
                budget_us,
                reserve_us: 2_000,
                stall_us: 3_000,
                delay_us: budget_us / 4,
                parts: Parts {
                    dense: true,
                    cross_small: false,
                    cross_large: false,
                },
                priority: Priority::Default,
                price: 0.001,
                help: Help {
                    helpers: 1,
                    lost: 0.5,
                },
                help_idle: Help::default(),
            };
            if let Ok(chosen) = planner.choose(&shape, &moment, &costs) {
                let plan = chosen.plan;
                assert!(
                    (0.0..=1.0).contains(&planner.worth(plan.tier, plan.depth, plan.width)),
                    "{plan:?}"
                );
            }
        }
    }
}

/// A tree ensemble in LightGBM's text format: what is accepted scores every row, one by one as all at once.
pub fn forest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(forest) = Forest::parse(text) else {
        return;
    };
    let width = forest.feature_names().len();
    let special = [f64::NAN, 0.0, -0.0, 1e-36, 0.5, -1e300, f64::INFINITY];
    let rows: Vec<f64> = (0..9 * width)
        .map(|at| special[at % special.len()])
        .collect();
    let mut together = vec![0.0; 9];
    forest.score_rows(&rows, &mut together);
    for (row, score) in rows.chunks_exact(width).zip(together) {
        assert_eq!(forest.score(row).to_bits(), score.to_bits());
    }
}

/// A compressed model: what comes out is within the limit, however small what went in.
pub fn gzip(data: &[u8]) {
    const BYTES_MAX: u64 = 1 << 16;
    match inflate(data, BYTES_MAX) {
        Ok(content) => assert!(content.len() as u64 <= BYTES_MAX),
        Err(reason) => assert!(!reason.is_empty()),
    }
}

/// An ONNX file, as the encoder, and as a cross-encoder that takes its words from one.
pub fn onnx(data: &[u8]) {
    let _ = reads(data, data);
}

/// The content of `tokenizer.json`.
pub fn tokeniser(data: &[u8]) {
    let Ok(pieces) = Pieces::parse(data) else {
        return;
    };
    for text in [
        "",
        "Wireless Mouse, 2.4 GHz",
        "ünïcode 漢字 \u{200d}\0",
        "[CLS] a",
    ] {
        let _ = pieces.of(text);
    }
}

static TOKENISER: LazyLock<Pieces> = LazyLock::new(|| {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/muster-base/tokenizer.json");
    let content =
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Pieces::parse(&content).expect("the committed bundle's tokeniser")
});

/// Any text, as a query and in every field of a product.
pub fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for word in words(&text) {
        assert!(!word.is_empty());
    }
    let mut stems = 0;
    for_each_stem(&text, |stem| {
        assert!(!stem.is_empty());
        stems += 1;
    });
    assert_eq!(query_keys(&text).len(), stems);
    assert!(query_stems(&text).len() <= stems);
    TOKENISER.of(&text).expect("any text has pieces");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let product = wire::Product {
        title: lines.first().cloned().unwrap_or_default(),
        brand: lines.get(1).cloned().unwrap_or_default(),
        category: lines.iter().skip(2).step_by(2).cloned().collect(),
        bullets: lines.iter().skip(3).step_by(2).cloned().collect(),
        attributes: lines
            .windows(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect(),
        ..Default::default()
    };
    let fields = FIELDS.map(str::to_owned);
    let joined = product_text(&product, &fields);
    assert!(joined.starts_with(&product.title));
    let words = MatchText::of(&product);
    assert_eq!(words.title(), query_keys(&product.title));
    assert_eq!(MatchText::decode(&words.encode()), words);
}
