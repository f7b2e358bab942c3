//! Changes of the catalogue: a batch as callers send it, and events as the log gives them back.

use std::collections::BTreeMap;

use prost::Message;
use rankcore_engine::error::Error;
use rankcore_engine::retrieve::columns::Values;
use rankcore_engine::retrieve::{validate_apply, validate_product};
use rankcore_engine::wire::{self, event::Change};

use crate::catalogue::{SEQUENCE, events as sequenced, exercise, fresh, products};

/// A serialised `ApplyRequest`: what passes the limits is applied, and the catalogue is then as a map would have it.
pub fn apply(data: &[u8]) {
    let Ok(request) = wire::ApplyRequest::decode(data) else {
        return;
    };
    if !validate_apply(&request).is_empty() {
        return;
    }
    let changes: Vec<Change> = request
        .events
        .into_iter()
        .filter_map(|event| event.change)
        .collect();
    let mut expected: BTreeMap<String, wire::Product> = products()
        .into_iter()
        .map(|product| (product.product_id.clone(), product))
        .collect();
    for change in &changes {
        match change {
            Change::Upsert(product) => {
                assert!(validate_product(product).is_empty());
                expected.insert(product.product_id.clone(), product.clone());
            }
            Change::Patch(patch) => {
                if let Some(product) = expected.get_mut(&patch.product_id) {
                    let mut values = Values::of(product);
                    values.patch(patch);
                    values.write_to(product);
                }
            }
            Change::Delete(delete) => {
                expected.remove(&delete.product_id);
            }
            Change::Deploy(_) | Change::Feedback(_) => unreachable!("refused by the limits"),
        }
    }
    let generation = fresh();
    let last = SEQUENCE + changes.len() as u64;
    let applied = generation
        .apply(&sequenced(SEQUENCE + 1, changes))
        .expect("valid changes apply");
    assert_eq!(applied, last);
    while generation
        .encode_pending(3)
        .expect("these models cannot fail")
        > 0
    {}
    assert_eq!(generation.products(), expected.len());
    let (mut found, rest) = generation.snapshot_products(0, usize::MAX);
    assert_eq!(rest, None);
    found.sort_by(|left, right| left.product_id.cmp(&right.product_id));
    assert!(found.iter().eq(expected.values()), "{found:?}");
    exercise(&generation);
}

/// A serialised `SequencedEvent`, straight to the projection, which trusts the log and so checks no limit.
pub fn events(data: &[u8]) {
    let generation = fresh();
    match generation.apply(&[data.to_vec()]) {
        Ok(applied) => assert!(applied >= SEQUENCE),
        Err(Error::InvalidRequest(violations)) => {
            assert_eq!(violations.len(), 1);
            assert_eq!(generation.applied_sequence(), SEQUENCE);
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let _ = generation.encode_pending(10);
    exercise(&generation);
    let _ = wire::decode_product(data);
}
