//! How long an answer takes from the worker that has it to the socket.
//!
//! That time is part of every budget and no worker sees it. It is short while the front's thread is free and grows when it,
//! or whoever shares its core, is busy: just when budgets are hardest to meet. So it is measured on every answer, and the
//! part of a budget that is kept for it follows its 95th percentile. What nobody here can see, the network and the caller's
//! own reading, is a fixed part on top.
//!
//! The percentile is followed by steps: up by a share of itself for an answer above it, down by a nineteenth of that for one
//! below, so that it rests where one in twenty is above (stochastic approximation, Robbins and Monro 1951).

use parking_lot::Mutex;

/// Share by which one answer above the estimate raises it.
const STEP: f64 = 0.05;
/// Answers below it for each one above.
const BELOW: f64 = 19.0;
/// Bounds of the estimate, microseconds. A longer way back is a stall of the machine, which no reserve mends.
const LEAST_US: f64 = 20.0;
const MOST_US: f64 = 20_000.0;
/// Time without answers after which half of the estimate is forgotten, microseconds: what is refused for want of time
/// brings no answers that would tell that there is time again.
const HALF_LIFE_US: f64 = 500_000.0;

#[derive(Debug, Clone, Copy)]
struct State {
    p95_us: f64,
    seen_us: u64,
}

impl State {
    fn at(self, now_us: u64) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let passed_us = now_us.saturating_sub(self.seen_us) as f64;
        (self.p95_us * (-passed_us / HALF_LIFE_US).exp2()).max(LEAST_US)
    }
}

/// The part of a budget that is kept for the way back. Shared by all requests of an engine.
#[derive(Debug)]
pub struct WayBack {
    fixed_us: u64,
    state: Mutex<State>,
}

impl WayBack {
    /// `fixed_us`: kept for what cannot be measured here.
    #[must_use]
    pub fn new(fixed_us: u64) -> Self {
        Self {
            fixed_us,
            state: Mutex::new(State {
                p95_us: LEAST_US,
                seen_us: 0,
            }),
        }
    }

    /// An answer was handed to the socket at `now_us`, `took_us` after its worker had it.
    pub fn note(&self, now_us: u64, took_us: u64) {
        let mut state = self.state.lock();
        let p95_us = state.at(now_us);
        #[allow(clippy::cast_precision_loss)]
        let above = took_us as f64 > p95_us;
        let factor = if above {
            1.0 + STEP
        } else {
            1.0 - STEP / BELOW
        };
        state.p95_us = (p95_us * factor).clamp(LEAST_US, MOST_US);
        state.seen_us = state.seen_us.max(now_us);
    }

    /// What to keep of a budget at `now_us`, microseconds.
    #[must_use]
    pub fn reserve_us(&self, now_us: u64) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let p95_us = self.state.lock().at(now_us).ceil() as u64;
        self.fixed_us + p95_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED_US: u64 = 500;

    /// One answer each millisecond, from `from_us` on.
    fn answers(way_back: &WayBack, from_us: u64, took_us: impl Iterator<Item = u64>) -> u64 {
        let mut now_us = from_us;
        for took_us in took_us {
            now_us += 1_000;
            way_back.note(now_us, took_us);
        }
        now_us
    }

    #[test]
    fn before_any_answer_little_more_than_the_fixed_part_is_kept() {
        let kept_us = WayBack::new(FIXED_US).reserve_us(0);
        assert!((FIXED_US..FIXED_US + 100).contains(&kept_us), "{kept_us}");
    }

    #[test]
    fn it_settles_where_one_answer_in_twenty_takes_longer() {
        let way_back = WayBack::new(0);
        // 1 to 1,000 us in a scrambled order.
        let now_us = answers(&way_back, 0, (0..20_000_u64).map(|i| i * 617 % 1_000 + 1));
        let kept_us = way_back.reserve_us(now_us);
        assert!((880..=1_000).contains(&kept_us), "{kept_us}");
    }

    #[test]
    fn a_way_back_that_becomes_long_is_followed_within_a_hundred_answers() {
        let way_back = WayBack::new(0);
        let now_us = answers(&way_back, 0, std::iter::repeat_n(100, 2_000));
        let now_us = answers(&way_back, now_us, std::iter::repeat_n(8_000, 100));
        assert!(way_back.reserve_us(now_us) > 7_000);
    }

    #[test]
    fn it_is_forgotten_within_seconds_though_no_answer_comes() {
        let way_back = WayBack::new(FIXED_US);
        let now_us = answers(&way_back, 0, std::iter::repeat_n(50_000, 1_000));
        let most_us = way_back.reserve_us(now_us);
        assert!(most_us > FIXED_US + 19_000, "{most_us}");
        assert!(most_us <= FIXED_US + 20_000, "a stall is not reserved for");
        assert!(way_back.reserve_us(now_us + 5_000_000) < FIXED_US + 100);
    }

    #[test]
    fn a_clock_that_has_not_moved_changes_nothing_by_itself() {
        let way_back = WayBack::new(0);
        let now_us = answers(&way_back, 0, std::iter::repeat_n(1_000, 500));
        let kept_us = way_back.reserve_us(now_us);
        assert_eq!(kept_us, way_back.reserve_us(now_us));
        assert_eq!(kept_us, way_back.reserve_us(now_us - 10_000));
    }
}
