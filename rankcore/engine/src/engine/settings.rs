//! Settings of an engine, and what they may be.

use crate::error::{Error, Result, Violation};
use crate::model::Choice;
use crate::plan::price::Pricing;

/// As [`Settings::taste_weight`] is shipped: see decision 22.
const TASTE_WEIGHT: f64 = 0.25;

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Worker threads; 0: one per core.
    pub workers: usize,
    /// Name of this replica, for receipts.
    pub replica: String,
    /// Pairs in one chunk of a cross-encoder, at least 1.
    pub chunk_pairs: usize,
    /// Part of each budget kept for the way back beyond what the engine is told of it: see [`crate::plan::way_back`]. Microseconds.
    pub reserve_us: u64,
    /// Most requests that wait or run at a time, at least 1; the lower classes are refused below it.
    pub queue_max: usize,
    /// When and how soon time is charged for.
    pub pricing: Pricing,
    /// What the models are run by.
    pub kernels: Choice,
    /// How much a shopper's history moves a search's results, 0 (not at all) to 1: see [`crate::taste::most`].
    pub taste_weight: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 0,
            replica: String::new(),
            chunk_pairs: 4,
            reserve_us: 500,
            queue_max: 1_024,
            pricing: Pricing::default(),
            kernels: Choice::Auto,
            taste_weight: TASTE_WEIGHT,
        }
    }
}

/// The part of each budget kept for the way back, from milliseconds.
///
/// # Errors
/// `InvalidRequest` unless it is finite, at least 0 and at most 60,000.
pub fn reserve_us(reserve_ms: f64) -> Result<u64> {
    if !(0.0..=60_000.0).contains(&reserve_ms) {
        return Err(Error::InvalidRequest(vec![Violation {
            field: "reserve_ms".to_owned(),
            description: format!("{reserve_ms}; accepted: 0 to 60,000"),
        }]));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((reserve_ms * 1_000.0).round() as u64)
}

/// The price's settings, from milliseconds of backlog and a factor.
///
/// # Errors
/// `InvalidRequest` unless the backlog is from 0 to 60,000 and the gain from 0.01 to 100.
pub fn pricing(backlog_ms: f64, gain: f64) -> Result<Pricing> {
    let mut violations = Vec::new();
    for (field, value, range) in [
        ("backlog_ms", backlog_ms, 0.0..=60_000.0),
        ("price_gain", gain, 0.01..=100.0),
    ] {
        if !range.contains(&value) {
            violations.push(Violation {
                field: field.to_owned(),
                description: format!("{value}; accepted: {} to {}", range.start(), range.end()),
            });
        }
    }
    if !violations.is_empty() {
        return Err(Error::InvalidRequest(violations));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let backlog_us = (backlog_ms * 1_000.0).round() as u64;
    Ok(Pricing { backlog_us, gain })
}
