//! What each stage costs: measured when the engine warms up, corrected while it serves.
//!
//! A stage's base cost is `calls x fixed + units x unit`. Two factors follow the machine's mood: `ratio`, the mean of
//! actual over base cost, and `tail`, the 95th percentile of actual over corrected cost. Both drift back towards the
//! calibration when a stage has not been seen for a while, so one bad moment cannot banish a plan for ever: a stage that
//! is never chosen would otherwise never be measured again.

use parking_lot::Mutex;

/// A stage of a request. The unit of each is what its cost grows with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Tokenising and encoding the query; unit: one word of it.
    Encode,
    /// Filter and BM25F retrieval; unit: one word of the query.
    Lexical,
    /// Dense retrieval and fusion; unit: one candidate of the width.
    Dense,
    /// BM25F of candidates that the caller brought; unit: one candidate.
    Score,
    /// Dense scores and fusion of candidates that the caller brought; unit: one candidate.
    Vectors,
    /// Late interaction; unit: one candidate.
    Late,
    /// The small cross-encoder; unit: one pair, call: one chunk.
    CrossSmall,
    /// The large cross-encoder; unit: one pair, call: one chunk.
    CrossLarge,
    /// Signals and final order; unit: one candidate.
    Order,
    /// What a shopper's history says of the first candidates; unit: one of them.
    Taste,
    /// Facets; unit: one facet.
    Facets,
    /// Rendering and encoding the answer; unit: one result.
    Reply,
}

impl Stage {
    /// Every stage, in the order in which they can run.
    pub const ALL: [Stage; 12] = [
        Stage::Encode,
        Stage::Lexical,
        Stage::Dense,
        Stage::Score,
        Stage::Vectors,
        Stage::Late,
        Stage::CrossSmall,
        Stage::CrossLarge,
        Stage::Order,
        Stage::Taste,
        Stage::Facets,
        Stage::Reply,
    ];

    /// Name for status and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Encode => "encode",
            Stage::Lexical => "lexical",
            Stage::Dense => "dense",
            Stage::Score => "score",
            Stage::Vectors => "vectors",
            Stage::Late => "late",
            Stage::CrossSmall => "cross_small",
            Stage::CrossLarge => "cross_large",
            Stage::Order => "order",
            Stage::Taste => "taste",
            Stage::Facets => "facets",
            Stage::Reply => "reply",
        }
    }
}

/// Number of stages.
pub const STAGES: usize = Stage::ALL.len();

/// Calibrated cost of one stage, microseconds of one core.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Per call.
    pub fixed_us: f64,
    /// Per unit.
    pub unit_us: f64,
}

impl Rate {
    /// Base cost of `calls` calls over `units` units together, microseconds.
    #[must_use]
    pub fn cost_us(self, calls: f64, units: f64) -> f64 {
        self.fixed_us * calls + self.unit_us * units
    }

    /// Fits a rate to `(units, microseconds)` of single calls, robustly: the line through the medians of the smaller and
    /// the larger half. `None` without samples.
    #[must_use]
    pub fn fit(samples: &[(f64, f64)]) -> Option<Rate> {
        if samples.is_empty() {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (small, large) = sorted.split_at(sorted.len() / 2);
        let whole = (
            median(sorted.iter().map(|sample| sample.0)),
            median(sorted.iter().map(|sample| sample.1)),
        );
        let mut unit_us = 0.0;
        if !small.is_empty() {
            let units = median(large.iter().map(|sample| sample.0))
                - median(small.iter().map(|sample| sample.0));
            let us = median(large.iter().map(|sample| sample.1))
                - median(small.iter().map(|sample| sample.1));
            if units > 0.0 && us > 0.0 {
                unit_us = us / units;
            }
            if units == 0.0 {
                // All calls alike: they tell nothing about smaller ones, so half the work costs half.
                unit_us = f64::INFINITY;
            }
        }
        // A line that would pass below zero at no units is bent up to the origin.
        unit_us = if whole.0 > 0.0 {
            unit_us.min(whole.1 / whole.0)
        } else {
            0.0
        };
        Some(Rate {
            fixed_us: (whole.1 - unit_us * whole.0).max(0.0),
            unit_us,
        })
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[length / 2],
        length => (values[length / 2 - 1] + values[length / 2]) / 2.0,
    }
}

/// Cost of some work: what to expect, and what to allow for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Estimate {
    /// Expected, microseconds.
    pub mean_us: f64,
    /// 95th percentile, microseconds.
    pub p95_us: f64,
}

impl std::ops::Add for Estimate {
    type Output = Estimate;

    // Stages of one request slow down together on a busy machine, so their tails are added, not averaged out.
    fn add(self, other: Estimate) -> Estimate {
        Estimate {
            mean_us: self.mean_us + other.mean_us,
            p95_us: self.p95_us + other.p95_us,
        }
    }
}

impl std::iter::Sum for Estimate {
    fn sum<I: Iterator<Item = Estimate>>(estimates: I) -> Estimate {
        estimates.fold(Estimate::default(), |sum, estimate| sum + estimate)
    }
}

/// What one kind of work costs: calibrated, and corrected by what it takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tracker {
    rate: Rate,
    ratio: f64,
    tail: f64,
    seen_us: u64,
}

const RATIO_WEIGHT: f64 = 0.08;
const RATIO_RANGE: (f64, f64) = (0.1, 10.0);
const TAIL_START: f64 = 1.3;
const TAIL_RANGE: (f64, f64) = (1.05, 4.0);
const TAIL_STEP: f64 = 0.05;
const TAIL_QUANTILE: f64 = 0.95;
/// Time in which an unseen stage forgets half of its excess, microseconds.
const FORGET_HALF_US: f64 = 2_000_000.0;
/// Corrections younger than this are taken as they are, microseconds.
const FRESH_US: u64 = 250_000;

impl Tracker {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            ratio: 1.0,
            tail: TAIL_START,
            seen_us: 0,
        }
    }

    /// The tracker as it stands at `now_us`, after forgetting.
    pub(crate) fn at(self, now_us: u64) -> Tracker {
        let idle_us = now_us.saturating_sub(self.seen_us + FRESH_US);
        if idle_us == 0 {
            return self;
        }
        #[allow(clippy::cast_precision_loss)]
        let keep = 0.5_f64.powf(idle_us as f64 / FORGET_HALF_US);
        // Only what makes a stage look dear is forgotten; a stage that proved cheap stays cheap.
        Tracker {
            ratio: if self.ratio > 1.0 {
                self.ratio.powf(keep)
            } else {
                self.ratio
            },
            tail: if self.tail > TAIL_START {
                TAIL_START * (self.tail / TAIL_START).powf(keep)
            } else {
                self.tail
            },
            ..self
        }
    }

    pub(crate) fn record(&mut self, base_us: f64, actual_us: f64, now_us: u64) {
        *self = self.at(now_us);
        self.seen_us = now_us;
        let seen = (actual_us / base_us.max(1.0)).clamp(RATIO_RANGE.0, RATIO_RANGE.1);
        let tail_seen = seen / self.ratio;
        let step = if tail_seen > self.tail {
            TAIL_STEP * TAIL_QUANTILE
        } else {
            -TAIL_STEP * (1.0 - TAIL_QUANTILE)
        };
        self.tail = (self.tail * step.exp()).clamp(TAIL_RANGE.0, TAIL_RANGE.1);
        self.ratio += RATIO_WEIGHT * (seen - self.ratio);
    }

    pub(crate) fn estimate(self, calls: f64, units: f64) -> Estimate {
        let mean_us = self.rate.cost_us(calls, units) * self.ratio;
        Estimate {
            mean_us,
            p95_us: mean_us * self.tail,
        }
    }
}

/// A consistent view of all stage costs at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Costs([Tracker; STAGES]);

impl Costs {
    /// Predicted cost of `calls` calls over `units` units together.
    #[must_use]
    pub fn estimate(&self, stage: Stage, calls: f64, units: f64) -> Estimate {
        self.0[stage as usize].estimate(calls, units)
    }

    /// Calibrated rate, current ratio and current tail of a stage, for status.
    #[must_use]
    pub fn parts(&self, stage: Stage) -> (Rate, f64, f64) {
        let tracker = self.0[stage as usize];
        (tracker.rate, tracker.ratio, tracker.tail)
    }
}

/// The costs that all requests share and correct.
#[derive(Debug)]
pub struct CostBook {
    trackers: Mutex<[Tracker; STAGES]>,
}

impl Default for CostBook {
    fn default() -> Self {
        Self::new()
    }
}

impl CostBook {
    /// Costs of a middling core, used until the engine has measured its own.
    #[must_use]
    pub fn new() -> Self {
        Self {
            trackers: Mutex::new(Stage::ALL.map(|stage| {
                let (fixed_us, unit_us) = match stage {
                    Stage::Encode => (1_000.0, 150.0),
                    Stage::Lexical => (150.0, 50.0),
                    Stage::Dense => (400.0, 1.0),
                    Stage::Score => (100.0, 2.0),
                    Stage::Vectors => (20.0, 0.5),
                    Stage::Late => (20.0, 2.0),
                    Stage::CrossSmall => (200.0, 800.0),
                    Stage::CrossLarge => (500.0, 3_000.0),
                    Stage::Order => (20.0, 3.0),
                    Stage::Taste => (100.0, 5.0),
                    Stage::Facets => (0.0, 300.0),
                    Stage::Reply => (50.0, 2.0),
                };
                Tracker::new(Rate { fixed_us, unit_us })
            })),
        }
    }

    /// Sets a stage's calibration and forgets its corrections.
    pub fn calibrate(&self, stage: Stage, rate: Rate) {
        self.trackers.lock()[stage as usize] = Tracker::new(rate);
    }

    /// The costs as they stand at `now_us`.
    #[must_use]
    pub fn at(&self, now_us: u64) -> Costs {
        Costs(self.trackers.lock().map(|tracker| tracker.at(now_us)))
    }

    /// Tells what a stage really took. `actual_us` outside 0.1 to 10 times the calibration is taken as that bound.
    pub fn record(&self, stage: Stage, calls: f64, units: f64, actual_us: f64, now_us: u64) {
        let mut trackers = self.trackers.lock();
        let tracker = &mut trackers[stage as usize];
        let base_us = tracker.rate.cost_us(calls, units);
        tracker.record(base_us, actual_us, now_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(unit_us: f64) -> CostBook {
        let book = CostBook::new();
        book.calibrate(
            Stage::CrossSmall,
            Rate {
                fixed_us: 0.0,
                unit_us,
            },
        );
        book
    }

    #[test]
    fn a_fit_finds_the_fixed_and_the_unit_part() {
        let samples: Vec<_> = (1..=20)
            .map(|units| (f64::from(units), 30.0 + 5.0 * f64::from(units)))
            .collect();
        let rate = Rate::fit(&samples).expect("samples");
        assert!((rate.unit_us - 5.0).abs() < 1e-9, "{rate:?}");
        assert!((rate.fixed_us - 30.0).abs() < 1e-9, "{rate:?}");
    }

    #[test]
    fn a_fit_shrugs_off_a_hiccup() {
        let mut samples: Vec<_> = (1..=20)
            .map(|units| (f64::from(units), 30.0 + 5.0 * f64::from(units)))
            .collect();
        samples[3].1 = 9_000.0;
        let rate = Rate::fit(&samples).expect("samples");
        assert!(rate.cost_us(1.0, 20.0) < 160.0, "{rate:?}");
    }

    #[test]
    fn a_fit_is_never_negative() {
        for samples in [
            vec![(1.0, 50.0), (10.0, 20.0)],
            vec![(10.0, 1.0), (11.0, 200.0)],
            vec![(5.0, 7.0)],
        ] {
            let rate = Rate::fit(&samples).expect("samples");
            assert!(rate.fixed_us >= 0.0 && rate.unit_us >= 0.0, "{rate:?}");
        }
        assert!(Rate::fit(&[]).is_none());
    }

    #[test]
    fn a_slower_machine_raises_the_estimate_and_a_faster_one_lowers_it() {
        for (actual_us, expected_us) in [(300.0, 300.0), (50.0, 50.0)] {
            let book = book(100.0);
            for turn in 0..200 {
                book.record(Stage::CrossSmall, 1.0, 1.0, actual_us, turn);
            }
            let estimate = book.at(200).estimate(Stage::CrossSmall, 1.0, 1.0);
            assert!(
                (estimate.mean_us - expected_us).abs() < expected_us * 0.05,
                "{estimate:?}"
            );
        }
    }

    #[test]
    fn the_tail_lies_above_about_nineteen_of_twenty() {
        let book = book(100.0);
        // A fixed pattern: 1 to 100, shuffled by a step that is coprime to 100.
        let actual = |turn: u64| {
            #[allow(clippy::cast_precision_loss)]
            let place = (turn * 37 % 100) as f64;
            50.0 + place
        };
        for turn in 0..5_000 {
            book.record(Stage::CrossSmall, 1.0, 1.0, actual(turn), turn);
        }
        let p95_us = book.at(5_000).estimate(Stage::CrossSmall, 1.0, 1.0).p95_us;
        let below = (0..100).filter(|turn| actual(*turn) <= p95_us).count();
        assert!((88..=99).contains(&below), "{below} of 100 below {p95_us}");
    }

    #[test]
    fn an_unseen_stage_drifts_back_to_its_calibration() {
        let book = book(100.0);
        for turn in 0..200 {
            book.record(Stage::CrossSmall, 1.0, 1.0, 900.0, turn);
        }
        let at = |now_us| {
            book.at(now_us)
                .estimate(Stage::CrossSmall, 1.0, 1.0)
                .mean_us
        };
        assert!(at(200) > 800.0);
        assert!(at(2_000_000) < at(200));
        assert!(at(60_000_000) < 105.0);
    }
}
