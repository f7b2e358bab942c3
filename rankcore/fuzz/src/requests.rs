//! Requests as callers send them, then run against a small catalogue.

use rankcore_engine::error::Error;
use rankcore_engine::request::{Ask, Source};
use rankcore_engine::retrieve::Row;

use crate::catalogue::asked;

/// Refused with reasons, or accepted; any other error is a defect.
fn understood(ask: Result<Ask, Error>) -> Option<Ask> {
    match ask {
        Ok(ask) => {
            let characters = ask.query.chars().count();
            assert!((1..=1_024).contains(&characters));
            assert_eq!(ask.query, ask.query.trim());
            assert!(ask.page <= 1_000);
            for told in [None, Some("critical"), Some("low")] {
                let _ = ask.priority(told);
            }
            Some(ask)
        }
        Err(Error::InvalidRequest(violations)) => {
            assert!(!violations.is_empty());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A serialised `SearchRequest`.
pub fn search(data: &[u8]) {
    let Some(ask) = understood(Ask::search(data)) else {
        return;
    };
    let generation = asked();
    let shape = ask.shape(generation.products(), 8, true);
    assert_eq!((shape.words, shape.brought), (ask.keys.len(), None));
    let Source::Search { filter, facets, .. } = &ask.source else {
        panic!("a search became something else");
    };
    let eligible = match generation.filter(filter.as_ref()) {
        Ok(eligible) => eligible,
        Err(Error::InvalidRequest(_)) => return,
        Err(error) => panic!("{error}"),
    };
    let found = generation
        .lexical(&ask.query, 100, eligible.as_ref())
        .expect("a sound index answers");
    assert!(found.windows(2).all(|pair| pair[0].1 >= pair[1].1));
    let rows: Vec<Row> = found.iter().map(|(row, _)| *row).collect();
    let scores = generation
        .lexical_score(&ask.query, &rows)
        .expect("a sound index answers");
    for ((row, score), again) in found.iter().zip(scores) {
        assert!(*score > 0.0 && score.is_finite());
        assert_eq!(score.to_bits(), again.to_bits(), "row {row}");
        assert!(
            eligible
                .as_ref()
                .is_none_or(|rows| rows.contains(*row as usize))
        );
        assert!(generation.render(*row).is_some());
    }
    let counted = generation
        .facets(&ask.query, facets, eligible.as_ref())
        .expect("validated facets are counted");
    assert_eq!(counted.len(), facets.len());
    for facet in counted {
        assert!(facet.counts.iter().all(|value| value.count > 0));
    }
}

/// A serialised `RerankRequest`.
pub fn rerank(data: &[u8]) {
    let Some(ask) = understood(Ask::rerank(data)) else {
        return;
    };
    let generation = asked();
    let Source::Brought { product_ids } = &ask.source else {
        panic!("candidates were brought");
    };
    assert!((1..=1_000).contains(&product_ids.len()));
    let shape = ask.shape(generation.products(), 8, true);
    assert_eq!(shape.brought, Some(product_ids.len()));
    let rows: Vec<Row> = product_ids
        .iter()
        .filter_map(|id| generation.row(id))
        .collect();
    let scores = generation
        .lexical_score(&ask.query, &rows)
        .expect("a sound index answers");
    assert!(
        scores
            .iter()
            .all(|score| score.is_finite() && *score >= 0.0)
    );
}
