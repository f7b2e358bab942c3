//! What the front counts of its own calls: by method, status and time. Read by whoever publishes it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::status::Code;

/// Upper bounds of the histogram's buckets, microseconds; one more bucket holds the rest.
pub const BOUNDS_US: [u64; 15] = [
    1_000, 2_500, 5_000, 10_000, 20_000, 35_000, 50_000, 75_000, 100_000, 200_000, 350_000,
    500_000, 1_000_000, 2_500_000, 5_000_000,
];

/// The counters of one method.
#[derive(Debug, Default)]
pub struct Counts {
    started: AtomicU64,
    handled: [AtomicU64; Code::ALL.len()],
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    total_us: AtomicU64,
}

/// The counters of one method at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Calls begun.
    pub started: u64,
    /// Calls ended, by code.
    pub handled: Vec<(Code, u64)>,
    /// Calls by the time they took, a count for each of [`BOUNDS_US`] and one for the rest.
    pub buckets: Vec<u64>,
    /// Time of all calls, microseconds.
    pub total_us: u64,
}

impl Counts {
    /// Counts a call.
    pub fn start(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts its end.
    pub fn finish(&self, code: Code, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound_us| *bound_us < took_us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.total_us.fetch_add(took_us, Ordering::Relaxed);
        let place = Code::ALL.iter().position(|known| *known == code);
        self.handled[place.unwrap_or(0)].fetch_add(1, Ordering::Relaxed);
    }

    /// The counters now.
    #[must_use]
    pub fn read(&self) -> Counted {
        Counted {
            started: self.started.load(Ordering::Relaxed),
            handled: Code::ALL
                .into_iter()
                .zip(&self.handled)
                .map(|(code, count)| (code, count.load(Ordering::Relaxed)))
                .collect(),
            buckets: self
                .buckets
                .iter()
                .map(|bucket| bucket.load(Ordering::Relaxed))
                .collect(),
            total_us: self.total_us.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_by_status_and_in_the_bucket_that_its_time_does_not_exceed() {
        let counts = Counts::default();
        for took_us in [1_000, 1_001, 6_000_000] {
            counts.start();
            counts.finish(Code::Cancelled, Duration::from_micros(took_us));
        }
        let counted = counts.read();
        assert_eq!((counted.started, counted.total_us), (3, 6_002_001));
        let filled: Vec<_> = (0..counted.buckets.len())
            .filter(|bucket| counted.buckets[*bucket] > 0)
            .collect();
        assert_eq!(filled, [0, 1, BOUNDS_US.len()]);
        let handled: Vec<_> = counted
            .handled
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(handled, [(Code::Cancelled, 3)]);
    }
}
