//! What each answer tells of itself in numbers, and their sums for whoever publishes them.
//!
//! An answer carries its account; the engine adds it up in atomics, without a lock and without memory of its own for each
//! request. Queries are told by what they look like against the catalogue, never by their words, so that a shift of what is
//! asked can be seen from the counts alone.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::bundle::Tier;
use crate::wire::{Reason, StageTimings, Taste};

/// What a query looks like to the lexical index.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match {
    /// Mean rarity of the query's words, 0 (each product has them) to 1 (no product has them).
    pub rarity: f32,
    /// Score of the best product as a share of what the query's known words allow, 0 to 1; 0: nothing was found.
    pub top_share: f32,
}

/// The account of one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Account {
    /// Tier executed.
    pub tier: Tier,
    /// Why this plan.
    pub reason: Reason,
    /// Candidates re-ranked by that tier.
    pub depth: usize,
    /// Expected nDCG of the plan as chosen, as a share of the best plan's.
    pub planned_worth: f64,
    /// The same of what was executed.
    pub worth: f64,
    /// Price when the plan was chosen, nDCG per millisecond of a core.
    pub price: f64,
    /// Where the time went.
    pub timings: StageTimings,
    /// Words of the query.
    pub words: usize,
    /// The query against the lexical index; `None`: the caller brought the candidates.
    pub lexical: Option<Match>,
    /// Cosine of the nearest product; `None`: dense retrieval did not run.
    pub nearest: Option<f32>,
    /// Whether a shopper's history entered the order, and why not.
    pub taste: Taste,
}

/// Upper bounds of the buckets of depths; one more bucket holds the rest.
pub const DEPTH_BOUNDS: [u64; 7] = [0, 10, 20, 50, 100, 200, 500];
/// Upper bounds of the buckets of stages, microseconds; one more bucket holds the rest.
pub const STAGE_BOUNDS_US: [u64; 11] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000,
];
/// Names of the stages, in the order of their counts.
pub const STAGES: [&str; 7] = [
    "queue", "encode", "retrieve", "late", "cross", "order", "total",
];
/// Reasons that an answer can have, in the order of their counts.
pub const REASONS: [(Reason, &str); 5] = [
    (Reason::Best, "best"),
    (Reason::Deadline, "deadline"),
    (Reason::Load, "load"),
    (Reason::Priority, "priority"),
    (Reason::Dependency, "dependency"),
];
/// What can become of a history, in the order of their counts; requests without one are not counted.
pub const TASTES: [(Taste, &str); 5] = [
    (Taste::Applied, "applied"),
    (Taste::Off, "off"),
    (Taste::Unknown, "unknown"),
    (Taste::Unrelated, "unrelated"),
    (Taste::Time, "time"),
];
/// Bins of each distribution of queries and scores.
pub const BINS: usize = 12;
/// Names of the distributions, in the order of their counts.
pub const DISTRIBUTIONS: [&str; 4] = ["words", "rarity", "match", "nearest"];

/// Worths are summed in millionths, so that they fit an integer.
const MILLIONTHS: f64 = 1e6;

/// A histogram of whole numbers.
#[derive(Debug)]
struct Histogram<const BUCKETS: usize> {
    buckets: [AtomicU64; BUCKETS],
    total: AtomicU64,
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::default()),
            total: AtomicU64::default(),
        }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    fn add(&self, bounds: &[u64], value: u64) {
        let bucket = bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(value, Ordering::Relaxed);
    }

    fn read(&self) -> (Vec<u64>, u64) {
        (read(&self.buckets), self.total.load(Ordering::Relaxed))
    }
}

fn read(counters: &[AtomicU64]) -> Vec<u64> {
    counters
        .iter()
        .map(|counter| counter.load(Ordering::Relaxed))
        .collect()
}

/// The accounts of all answers so far.
#[derive(Debug, Default)]
pub struct Accounts {
    reasons: [AtomicU64; REASONS.len()],
    tastes: [AtomicU64; TASTES.len()],
    depths: Histogram<{ DEPTH_BOUNDS.len() + 1 }>,
    stages: [Histogram<{ STAGE_BOUNDS_US.len() + 1 }>; STAGES.len()],
    planned_millionths: AtomicU64,
    worth_millionths: AtomicU64,
    worth_in_time_millionths: AtomicU64,
    in_time: AtomicU64,
    late: AtomicU64,
    distributions: [[AtomicU64; BINS]; DISTRIBUTIONS.len()],
}

/// The sums at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Accounted {
    /// Answers by reason, as [`REASONS`].
    pub reasons: Vec<u64>,
    /// Answers by what became of a history, as [`TASTES`].
    pub tastes: Vec<u64>,
    /// Answers by depth, a count for each of [`DEPTH_BOUNDS`] and one for the rest; sum of depths.
    pub depths: (Vec<u64>, u64),
    /// For each of [`STAGES`]: answers by its time, a count for each of [`STAGE_BOUNDS_US`] and one for the rest; sum,
    /// microseconds. A stage that did not run is not counted.
    pub stages: Vec<(Vec<u64>, u64)>,
    /// Sum of the worth of the plans as chosen.
    pub planned_worth: f64,
    /// Sum of the worth of what was executed.
    pub worth: f64,
    /// The same of the answers that were ready before their deadline.
    pub worth_in_time: f64,
    /// Answers that were ready before their deadline.
    pub in_time: u64,
    /// Answers that were not.
    pub late: u64,
    /// For each of [`DISTRIBUTIONS`]: answers by bin.
    pub distributions: Vec<Vec<u64>>,
}

impl Accounts {
    /// Adds one answer. in_time: it was ready before its deadline.
    pub fn add(&self, account: &Account, in_time: bool) {
        let add = |counter: &AtomicU64, value: u64| counter.fetch_add(value, Ordering::Relaxed);
        if let Some(place) = REASONS
            .iter()
            .position(|(reason, _)| *reason == account.reason)
        {
            add(&self.reasons[place], 1);
        }
        if let Some(place) = TASTES.iter().position(|(taste, _)| *taste == account.taste) {
            add(&self.tastes[place], 1);
        }
        self.depths.add(&DEPTH_BOUNDS, account.depth as u64);
        for (place, (stage, us)) in self
            .stages
            .iter()
            .zip(by_stage(&account.timings))
            .enumerate()
        {
            // Waiting and the whole are told of each answer, the others of those in which they ran.
            if us > 0 || place == 0 || place == STAGES.len() - 1 {
                stage.add(&STAGE_BOUNDS_US, us);
            }
        }
        let worth = millionths(account.worth);
        add(&self.planned_millionths, millionths(account.planned_worth));
        add(&self.worth_millionths, worth);
        if in_time {
            add(&self.worth_in_time_millionths, worth);
            add(&self.in_time, 1);
        } else {
            add(&self.late, 1);
        }
        if let Some(seen) = account.lexical {
            let bins = [
                account.words.saturating_sub(1).min(BINS - 1),
                bin(seen.rarity),
                bin(seen.top_share),
            ];
            for (counts, bin) in self.distributions.iter().zip(bins) {
                add(&counts[bin], 1);
            }
            if let Some(nearest) = account.nearest {
                add(&self.distributions[3][bin(nearest)], 1);
            }
        }
    }

    /// The sums now.
    #[must_use]
    pub fn read(&self) -> Accounted {
        #[allow(clippy::cast_precision_loss)]
        let sum = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64 / MILLIONTHS;
        Accounted {
            reasons: read(&self.reasons),
            tastes: read(&self.tastes),
            depths: self.depths.read(),
            stages: self.stages.iter().map(Histogram::read).collect(),
            planned_worth: sum(&self.planned_millionths),
            worth: sum(&self.worth_millionths),
            worth_in_time: sum(&self.worth_in_time_millionths),
            in_time: self.in_time.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
            distributions: self.distributions.iter().map(|bins| read(bins)).collect(),
        }
    }
}

/// Microseconds of each of [`STAGES`].
#[must_use]
pub fn by_stage(timings: &StageTimings) -> [u64; STAGES.len()] {
    [
        timings.queue_us,
        timings.encode_us,
        timings.retrieve_us,
        timings.late_us,
        timings.cross_us,
        timings.order_us,
        timings.total_us,
    ]
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn millionths(worth: f64) -> u64 {
    (worth.clamp(0.0, 1.0) * MILLIONTHS).round() as u64
}

/// Bin of a share: the first for 0 and below, the last for 1 and above, equal parts between.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
fn bin(share: f32) -> usize {
    if share <= 0.0 || share.is_nan() {
        return 0;
    }
    let inner = (BINS - 2) as f32;
    (1 + (share * inner) as usize).min(BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            tier: Tier::Late,
            reason: Reason::Load,
            depth: 50,
            planned_worth: 1.0,
            worth: 0.75,
            price: 0.0,
            timings: StageTimings {
                encode_us: 300,
                total_us: 900,
                ..StageTimings::default()
            },
            words: 3,
            lexical: Some(Match {
                rarity: 0.25,
                top_share: 0.999,
            }),
            nearest: Some(1.0),
            taste: Taste::Unknown,
        }
    }

    #[test]
    fn an_answer_is_counted_by_reason_depth_stage_and_worth() {
        let accounts = Accounts::default();
        accounts.add(&account(), true);
        accounts.add(&account(), false);
        let read = accounts.read();
        assert_eq!(read.reasons, [0, 0, 2, 0, 0]);
        assert_eq!(read.tastes, [0, 0, 2, 0, 0]);
        assert_eq!(read.depths.1, 100);
        assert_eq!(read.depths.0[3], 2);
        assert_eq!((read.in_time, read.late), (1, 1));
        assert!((read.planned_worth - 2.0).abs() < 1e-9);
        assert!((read.worth - 1.5).abs() < 1e-9);
        assert!((read.worth_in_time - 0.75).abs() < 1e-9);
        let counted: Vec<u64> = read
            .stages
            .iter()
            .map(|(buckets, _)| buckets.iter().sum())
            .collect();
        // A stage that did not run is left out; waiting of no time is told.
        assert_eq!(counted, [2, 2, 0, 0, 0, 0, 2]);
        assert_eq!(
            read.stages[1],
            (vec![0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0], 600)
        );
    }

    #[test]
    fn a_query_is_put_in_one_bin_of_each_distribution() {
        let accounts = Accounts::default();
        accounts.add(&account(), true);
        let read = accounts.read();
        let places: Vec<_> = read
            .distributions
            .iter()
            .map(|bins| bins.iter().position(|count| *count == 1))
            .collect();
        assert_eq!(places, [Some(2), Some(3), Some(10), Some(11)]);
    }

    #[test]
    fn candidates_that_a_caller_brought_tell_nothing_of_what_is_asked_for() {
        let accounts = Accounts::default();
        let brought = Account {
            lexical: None,
            ..account()
        };
        accounts.add(&brought, true);
        let read = accounts.read();
        assert!(read.distributions.iter().flatten().all(|count| *count == 0));
    }

    #[test]
    fn shares_beyond_their_range_have_a_bin_of_their_own() {
        let bins: Vec<_> = [-1.0, 0.0, 1e-6, 0.55, 1.0, 7.0, f32::NAN]
            .map(bin)
            .into_iter()
            .collect();
        assert_eq!(bins, [0, 0, 1, 6, 11, 11, 0]);
    }
}
