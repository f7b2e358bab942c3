//! How far other workers shorten a request's cross-encoder stage: predicted from who is idle now, corrected by what came of it.
//!
//! `n` chunks that `1 + helpers` workers read at once take `ceil(n / (1 + helpers)) / n` of the time of one worker. Not all of
//! that comes true: helpers leave for requests of their own, come late, or end last. `lost` is the share of the hoped-for
//! gain that did not come. Planning counts on little: on what is gained when more is lost than usual.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Share that is taken to be lost until the first request tells.
const LOST_START: f64 = 0.5;
const SPREAD_START: f64 = 0.125;
const WEIGHT: f64 = 0.08;
/// Mean deviations above the mean: about the 95th percentile of what is usual for a share.
const SPREADS: f64 = 2.0;
/// Time in which an unseen correction forgets half of its excess, microseconds. Without help no such plan may ever be chosen
/// that would show that help has come back.
const FORGET_HALF_US: f64 = 2_000_000.0;
/// Corrections younger than this are taken as they are, microseconds.
const FRESH_US: u64 = 250_000;

#[derive(Debug, Clone, Copy)]
struct Tracker {
    lost: f64,
    spread: f64,
    seen_us: u64,
}

impl Tracker {
    fn at(self, now_us: u64) -> Tracker {
        let idle_us = now_us.saturating_sub(self.seen_us + FRESH_US);
        if idle_us == 0 || self.lost <= LOST_START {
            return self;
        }
        #[allow(clippy::cast_precision_loss)]
        let keep = 0.5_f64.powf(idle_us as f64 / FORGET_HALF_US);
        Tracker {
            lost: LOST_START + (self.lost - LOST_START) * keep,
            spread: SPREAD_START + (self.spread - SPREAD_START) * keep,
            ..self
        }
    }
}

/// Help that one request may count on.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Help {
    /// Other workers.
    pub helpers: usize,
    /// Share of the gain not to be counted on, from 0 to 1.
    pub lost: f64,
}

impl Help {
    /// Share of one worker's time that `chunks` chunks take: 1 without helpers, or with a single chunk.
    #[must_use]
    pub fn share(self, chunks: usize) -> f64 {
        let most = most(self.helpers, chunks);
        most + (1.0 - most) * self.lost
    }
}

/// The share when nothing is lost.
#[allow(clippy::cast_precision_loss)]
fn most(helpers: usize, chunks: usize) -> f64 {
    if chunks == 0 {
        return 1.0;
    }
    chunks.div_ceil(1 + helpers) as f64 / chunks as f64
}

/// What all requests share and correct.
#[derive(Debug)]
pub struct HelpBook {
    tracker: Mutex<Tracker>,
    chunks: AtomicU64,
}

impl Default for HelpBook {
    fn default() -> Self {
        Self {
            tracker: Mutex::new(Tracker {
                lost: LOST_START,
                spread: SPREAD_START,
                seen_us: 0,
            }),
            chunks: AtomicU64::new(0),
        }
    }
}

impl HelpBook {
    /// The help that can be counted on at `now_us` when `helpers` workers are idle.
    #[must_use]
    pub fn at(&self, helpers: usize, now_us: u64) -> Help {
        let tracker = self.tracker.lock().at(now_us);
        Help {
            helpers,
            lost: (tracker.lost + SPREADS * tracker.spread).min(1.0),
        }
    }

    /// Counts a chunk that another worker than the request's own has read.
    pub fn count_chunk(&self) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
    }

    /// Chunks that other workers than the requests' own have read.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// Tells what became of `helpers` that were counted on: `chunks` chunks, which took `core_us` of cores in all, kept the
    /// request's own worker for `wall_us`.
    #[allow(clippy::cast_precision_loss)]
    pub fn record(&self, helpers: usize, chunks: usize, core_us: u64, wall_us: u64, now_us: u64) {
        let most = most(helpers, chunks);
        if most >= 1.0 || core_us == 0 {
            return;
        }
        let share = wall_us as f64 / core_us as f64;
        let lost = ((share - most) / (1.0 - most)).clamp(0.0, 1.0);
        let mut tracker = self.tracker.lock();
        *tracker = tracker.at(now_us);
        tracker.seen_us = now_us;
        tracker.spread += WEIGHT * ((lost - tracker.lost).abs() - tracker.spread);
        tracker.lost += WEIGHT * (lost - tracker.lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_helpers_or_with_one_chunk_nothing_is_gained() {
        for (helpers, chunks) in [(0, 1), (0, 7), (1, 1), (5, 1), (3, 0)] {
            let help = Help { helpers, lost: 0.0 };
            assert!((help.share(chunks) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn the_longest_share_of_the_chunks_decides_and_what_is_lost_is_not_gained() {
        for (helpers, chunks, lost, share) in [
            (1, 2, 0.0, 0.5),
            (1, 7, 0.0, 4.0 / 7.0),
            (3, 7, 0.0, 2.0 / 7.0),
            (1, 2, 0.5, 0.75),
            (1, 2, 1.0, 1.0),
        ] {
            let help = Help { helpers, lost };
            assert!((help.share(chunks) - share).abs() < 1e-12, "{help:?}");
        }
    }

    #[test]
    fn what_is_counted_on_follows_what_came() {
        let book = HelpBook::default();
        let lost = |now_us| book.at(1, now_us).lost;
        assert!((lost(0) - 0.75).abs() < 1e-12);
        for turn in 0..100 {
            book.record(1, 10, 10_000, 5_500, turn);
        }
        assert!(lost(100) < 0.15, "{}", lost(100));
        for turn in 100..200 {
            book.record(1, 10, 10_000, 10_000, turn);
        }
        assert!(lost(200) > 0.95, "{}", lost(200));
    }

    #[test]
    fn help_that_comes_half_of_the_time_is_hardly_counted_on() {
        let book = HelpBook::default();
        for turn in 0..200 {
            let wall_us = if turn % 2 == 0 { 5_000 } else { 10_000 };
            book.record(1, 10, 10_000, wall_us, turn);
        }
        assert!((book.at(1, 200).lost - 1.0).abs() < 1e-12);
    }

    #[test]
    fn help_that_failed_is_tried_again_and_help_that_came_is_remembered() {
        let book = HelpBook::default();
        for turn in 0..200 {
            book.record(1, 10, 10_000, 10_000, turn);
        }
        assert!(book.at(1, 60_000_000).lost < 0.76);
        for turn in 0..200 {
            book.record(1, 10, 10_000, 5_000, 60_000_000 + turn);
        }
        assert!(book.at(1, 900_000_000).lost < 0.05);
    }

    #[test]
    fn what_had_nothing_to_gain_tells_nothing() {
        let book = HelpBook::default();
        let before = book.at(1, 0);
        book.record(0, 10, 10_000, 10_000, 0);
        book.record(1, 1, 10_000, 10_000, 0);
        book.record(1, 10, 0, 0, 0);
        assert_eq!(book.at(1, 0), before);
    }
}
