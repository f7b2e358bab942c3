//! Time as an argument: real in the service, virtual in tests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Microseconds that only ever grow, from an arbitrary start.
pub trait Clock: Send + Sync {
    /// Now, microseconds since the clock's own start.
    fn now_us(&self) -> u64;
}

/// The machine's monotonic clock.
#[derive(Debug)]
pub struct MonotonicClock {
    start: Instant,
}

impl MonotonicClock {
    /// A clock that starts at 0 now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A clock that moves only when told to, for tests and simulation.
#[derive(Debug, Default)]
pub struct VirtualClock {
    now_us: AtomicU64,
}

impl VirtualClock {
    /// Moves forward by `by_us` microseconds.
    pub fn advance(&self, by_us: u64) {
        self.now_us.fetch_add(by_us, Ordering::SeqCst);
    }

    /// Moves to `to_us`; a time in the past is ignored, so the clock stays monotonic.
    pub fn advance_to(&self, to_us: u64) {
        self.now_us.fetch_max(to_us, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now_us(&self) -> u64 {
        self.now_us.load(Ordering::SeqCst)
    }
}
