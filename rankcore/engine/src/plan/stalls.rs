//! How much later answers come than even the 95th percentile that was predicted for them: the process stood still.
//!
//! A container whose share of a core is used up, a virtual machine whose host is busy, a disk that holds a page back: none of
//! it is a stage's cost. A stage that was caught by it looks ten times as dear for once and cheap again the next time, and a
//! tail that is a multiple of a millisecond's work never reaches a stall of twenty. So stalls are counted as what they are,
//! time that passes whatever is run: for each request by how much it ended after the moment that its plan had promised. The
//! 98th percentile of that over the last seconds is kept free of dearer plans' budgets. It never keeps anybody out: the
//! cheapest plan is let in as if there were no stalls, for it is the best answer to them.
//!
//! Where promises are kept, as on an idle machine, it is nothing: one request in twenty may break its promise by a little, and
//! a single hiccup is not believed.

use parking_lot::Mutex;

/// What is ordinarily broken of a promise, microseconds: less counts as kept.
const ORDINARY_US: f64 = 2_000.0;
/// Each class of lateness is so much wider than the one before.
const GROWTH: f64 = 1.25;
/// The last class holds all from about 57 ms on.
const CLASSES: usize = 17;
/// Share of requests that may be later than is allowed for.
const BEYOND: f64 = 0.02;
/// Time after which a request counts half, microseconds.
const HALF_LIFE_US: f64 = 2_000_000.0;
/// Kept promises that are always counted with: what few requests tell is believed less.
const PRIOR: f64 = 60.0;
/// Weights are counted up from the first request on, and scaled down before they become unwieldy.
const SCALE_MAX: f64 = 1e9;

#[derive(Debug, Clone, Copy)]
struct State {
    /// Weights of the requests in each class of lateness; that of a request at `origin_us` is 1.
    late: [f64; CLASSES],
    all: f64,
    origin_us: u64,
}

impl State {
    /// How much a request at `now_us` weighs beside one at the origin.
    fn scale(&self, now_us: u64) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let passed_us = now_us.saturating_sub(self.origin_us) as f64;
        (passed_us / HALF_LIFE_US).exp2()
    }

    fn note(&mut self, now_us: u64, over_us: u64) {
        let mut scale = self.scale(now_us);
        if scale > SCALE_MAX {
            for weight in self.late.iter_mut().chain([&mut self.all]) {
                *weight /= scale;
            }
            self.origin_us = now_us;
            scale = 1.0;
        }
        self.all += scale;
        if let Some(class) = class(over_us) {
            self.late[class] += scale;
        }
    }

    fn allowed_us(&self, now_us: u64) -> f64 {
        let scale = self.scale(now_us);
        let beyond = BEYOND * (self.all / scale + PRIOR);
        let mut later = 0.0;
        for (class, weight) in self.late.iter().enumerate().rev() {
            later += weight / scale;
            if later > beyond {
                return upper_us(class);
            }
        }
        0.0
    }
}

/// `None`: the promise was kept, as far as one can ask.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn class(over_us: u64) -> Option<usize> {
    let times = over_us as f64 / ORDINARY_US;
    (times > 1.0).then(|| (times.log(GROWTH) as usize).min(CLASSES - 1))
}

/// The most that a request of this class was late, microseconds. Of the last class it is the least of the one after: no
/// longer stall is allowed for.
#[allow(clippy::cast_precision_loss)]
fn upper_us(class: usize) -> f64 {
    ORDINARY_US * GROWTH.powf(class as f64 + 1.0)
}

/// What plans allow for stalls. Shared by all requests of a process.
#[derive(Debug)]
pub struct Stalls(Mutex<State>);

impl Default for Stalls {
    fn default() -> Self {
        Self(Mutex::new(State {
            late: [0.0; CLASSES],
            all: 0.0,
            origin_us: 0,
        }))
    }
}

impl Stalls {
    /// A request ended at `now_us`, `over_us` after the moment by which its plan was to be done; 0: before it.
    pub fn note(&self, now_us: u64, over_us: u64) {
        self.0.lock().note(now_us, over_us);
    }

    /// What to keep free of a dearer plan's budget at `now_us`, microseconds.
    #[must_use]
    pub fn allowed_us(&self, now_us: u64) -> u64 {
        super::pace::whole_us(self.0.lock().allowed_us(now_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One request each 40 ms, from `from_us` on.
    fn requests(stalls: &Stalls, from_us: u64, over_us: impl IntoIterator<Item = u64>) -> u64 {
        let mut now_us = from_us;
        for over_us in over_us {
            now_us += 40_000;
            stalls.note(now_us, over_us);
        }
        now_us
    }

    #[test]
    fn where_promises_are_kept_nothing_is_allowed_for() {
        let stalls = Stalls::default();
        assert_eq!(stalls.allowed_us(0), 0);
        // One in twenty is later than promised by the length of a short stage, as the 95th percentile says.
        let now_us = requests(
            &stalls,
            0,
            (0..2_000).map(|number| if number % 20 == 0 { 1_500 } else { 0 }),
        );
        assert_eq!(stalls.allowed_us(now_us), 0);
    }

    #[test]
    fn a_single_hiccup_is_not_believed() {
        for before in [0, 1_000] {
            let stalls = Stalls::default();
            let now_us = requests(&stalls, 0, std::iter::repeat_n(0, before));
            let now_us = requests(&stalls, now_us, [45_000]);
            assert_eq!(stalls.allowed_us(now_us), 0, "after {before}");
        }
    }

    #[test]
    fn stalls_of_one_request_in_five_are_allowed_for_within_a_second() {
        let stalls = Stalls::default();
        let now_us = requests(&stalls, 0, std::iter::repeat_n(0, 1_000));
        let stalled = |number: u64| if number.is_multiple_of(5) { 20_000 } else { 0 };
        let now_us = requests(&stalls, now_us, (0..25).map(stalled));
        let allowed_us = stalls.allowed_us(now_us);
        assert!((20_000..26_000).contains(&allowed_us), "{allowed_us}");
    }

    #[test]
    fn what_is_allowed_covers_all_but_about_two_in_a_hundred() {
        let stalls = Stalls::default();
        // 0 to 50 ms, shuffled by a step that is coprime to 100.
        let over_us = |number: u64| (number * 37 % 100) * 500;
        let mut now_us = 0;
        for number in 0..20_000 {
            now_us += 1_000;
            stalls.note(now_us, over_us(number));
        }
        let allowed_us = stalls.allowed_us(now_us);
        let later = (0..100)
            .filter(|number| over_us(*number) > allowed_us)
            .count();
        assert!(later <= 2, "{later} of 100 are later than {allowed_us}");
        assert!(allowed_us < 60_000, "{allowed_us}");
    }

    #[test]
    fn stalls_are_forgotten_within_seconds_whether_requests_come_or_not() {
        for requests_after in [0, 250] {
            let stalls = Stalls::default();
            let now_us = requests(&stalls, 0, std::iter::repeat_n(30_000, 50));
            assert!(stalls.allowed_us(now_us) > 30_000);
            let _ = requests(&stalls, now_us, std::iter::repeat_n(0, requests_after));
            let after_us = stalls.allowed_us(now_us + 10_000_000);
            assert_eq!(after_us, 0, "{requests_after} requests later");
        }
    }

    #[test]
    fn a_stall_of_any_length_stays_within_bounds_for_any_time() {
        let stalls = Stalls::default();
        for hour in 0..100_u64 {
            let from_us = hour * 3_600_000_000;
            let now_us = requests(&stalls, from_us, std::iter::repeat_n(u64::MAX, 50));
            let allowed_us = stalls.allowed_us(now_us);
            assert!(
                (60_000..100_000).contains(&allowed_us),
                "{hour}: {allowed_us}"
            );
            // A clock that has not moved, or an older moment, changes nothing of it.
            assert!(stalls.allowed_us(now_us - 1_000) >= allowed_us);
        }
    }
}
