//! The price of a core's millisecond: what a request must gain, in nDCG, to take it from the others.
//!
//! The service wants the greatest total quality under one constraint: no more work per second than the cores can do. The
//! price is that constraint's dual variable. It is raised while the backlog stands above its target and lowered while it
//! stands below (dual ascent; compare DCAF, Jiang et al. 2020, arXiv:2006.09684), so that under overload requests fall
//! back to cheaper plans in order of worth long before any must be refused. A second, immediate term answers a burst
//! before the dual variable has moved.
//!
//! The backlog is a prediction. Where predictions fail, because something else takes the cores or a stage has become
//! slow, it is too short, and requests that were promised an answer in time miss it; each of them raises the price too.
//!
//! One price holds for all classes of requests, and the backlog counts them all.
//!
//! Both are counted in units of the slope between the cheapest and the best plan, so the same constants serve bundles
//! whose plans differ by a factor of a hundred in cost or in worth.

use parking_lot::Mutex;

use super::priority::Priority;

/// Time in which a backlog of twice the target raises the price by one unit, microseconds.
const RISE_US: f64 = 100_000.0;
/// Units that each further target's worth of backlog adds at once.
const AT_ONCE: f64 = 0.5;
/// Most units that requests of weight 1 raise the slow term to: at one unit the best plan is worth no more to them than the
/// cheapest. Requests of a greater weight raise it so much further, or a storm of them alone would never fall back.
const LEVEL_MAX: f64 = 2.0;
/// Backlogs are counted up to so many targets, so that one stall does not take seconds to forget.
const EXCESS_MAX: f64 = 4.0;
/// Units by which a request raises the price that was taken on and not answered in time.
const MISSED: f64 = 0.1;
/// Between two requests the backlog is taken to have stood at most so long as the second one found it, microseconds.
const HELD_US: u64 = 20_000;

/// How dear time is, relative to the plans at hand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Gain per cost between the cheapest and the best plan, nDCG per millisecond.
    pub slope: f64,
    /// Backlog of one worker that keeps it busy without making anybody wait long, microseconds.
    pub target_us: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    level: f64,
    seen_us: u64,
}

/// What a deployment may set of the price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pricing {
    /// Backlog of one worker above which time is charged for, microseconds; 0: the cost of the best plan, as the scale has
    /// it.
    pub backlog_us: u64,
    /// Times the pace at which the price follows the backlog, above 0; 1: as it was measured.
    pub gain: f64,
}

impl Default for Pricing {
    fn default() -> Self {
        Self {
            backlog_us: 0,
            gain: 1.0,
        }
    }
}

/// The price as it develops. Shared by all requests of an engine.
#[derive(Debug, Default)]
pub struct Price {
    state: Mutex<State>,
    pricing: Pricing,
}

impl Price {
    /// A price of 0.
    #[must_use]
    pub fn new(pricing: Pricing) -> Self {
        Self {
            state: Mutex::default(),
            pricing,
        }
    }

    /// The price at `now_us`, nDCG per millisecond, for a request of class `priority`, given the predicted work that waits
    /// or runs, microseconds a worker. It is the same for every class; the class says how far the request may raise it.
    #[must_use]
    pub fn at(&self, now_us: u64, backlog_us: u64, scale: &Scale, priority: Priority) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let target_us = match self.pricing.backlog_us {
            0 => scale.target_us,
            set_us => set_us as f64,
        };
        #[allow(clippy::cast_precision_loss)]
        let excess = (backlog_us as f64 / target_us.max(1.0) - 1.0).min(EXCESS_MAX);
        let mut state = self.state.lock();
        let mut passed_us = now_us.saturating_sub(state.seen_us);
        if excess > 0.0 {
            passed_us = passed_us.min(HELD_US);
        }
        #[allow(clippy::cast_precision_loss)]
        let step = self.pricing.gain * excess * passed_us as f64 / RISE_US;
        let most = (LEVEL_MAX * priority.weight().max(1.0)).max(state.level);
        // Above what default requests reach, steps are in proportion: it is forgotten about as soon.
        let pace = (state.level / LEVEL_MAX).max(1.0);
        state.level = (state.level + step * pace).clamp(0.0, most);
        state.seen_us = state.seen_us.max(now_us);
        (state.level + self.pricing.gain * AT_ONCE * excess.max(0.0)) * scale.slope
    }

    /// A request was taken on and not answered in time.
    pub fn missed(&self) {
        let mut state = self.state.lock();
        state.level = (state.level + MISSED).min(LEVEL_MAX.max(state.level));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale = Scale {
        slope: 0.01,
        target_us: 5_000.0,
    };

    #[test]
    fn time_is_free_while_nothing_waits() {
        let price = Price::default();
        for now_us in [0, 1_000, 10_000_000] {
            assert!(price.at(now_us, 0, &SCALE, Priority::Default).abs() < f64::EPSILON);
        }
    }

    #[test]
    fn a_backlog_that_is_set_is_the_one_above_which_time_is_charged_for() {
        let price = Price::new(Pricing {
            backlog_us: 20_000,
            ..Pricing::default()
        });
        for step in 0..100 {
            let now = price.at(step * 10_000, 20_000, &SCALE, Priority::Default);
            assert!(now.abs() < f64::EPSILON, "at the target: {now}");
        }
        assert!(price.at(1_000_000, 40_000, &SCALE, Priority::Default) > 0.0);
    }

    #[test]
    fn a_greater_gain_raises_the_price_sooner_and_a_smaller_one_later() {
        let after = |gain: f64| {
            let price = Price::new(Pricing {
                gain,
                ..Pricing::default()
            });
            (0..5)
                .map(|step| price.at(step * 10_000, 10_000, &SCALE, Priority::Default))
                .last()
                .unwrap()
        };
        assert!(after(0.5) < after(1.0) && after(1.0) < after(2.0));
        assert!((after(2.0) - 2.0 * after(1.0)).abs() < 1e-9);
    }

    #[test]
    fn a_burst_is_priced_at_once() {
        let price = Price::default();
        assert!(price.at(0, 15_000, &SCALE, Priority::Default) >= SCALE.slope);
    }

    #[test]
    fn a_lasting_backlog_raises_the_price_until_the_best_plan_no_longer_pays() {
        let price = Price::default();
        let mut last = 0.0;
        for step in 1..=40_u64 {
            let now = price.at(step * 10_000, 6_000, &SCALE, Priority::Default);
            assert!(now >= last);
            last = now;
        }
        assert!(last > 0.5 * SCALE.slope, "{last}");
        let peak = price.at(100_000_000, 1_000_000_000, &SCALE, Priority::Default);
        assert!(peak <= (LEVEL_MAX + AT_ONCE * EXCESS_MAX) * SCALE.slope);
    }

    #[test]
    fn the_price_is_forgotten_soon_after_the_storm() {
        let price = Price::default();
        for step in 1..=200_u64 {
            let _ = price.at(step * 10_000, 50_000, &SCALE, Priority::Default);
        }
        assert!(price.at(2_250_000, 0, &SCALE, Priority::Default).abs() < f64::EPSILON);
    }

    #[test]
    fn a_lasting_storm_of_critical_requests_moves_them_too() {
        let price = Price::default();
        let unit = Priority::Critical.weight() * SCALE.slope;
        let storm = |priority, from_us: u64| {
            (1..=400_u64)
                .map(|step| price.at(from_us + step * 10_000, 6_000, &SCALE, priority))
                .fold(0.0, f64::max)
        };
        assert!(storm(Priority::Default, 0) < unit);
        assert!(storm(Priority::Critical, 4_000_000) > unit);
        // A default request does not raise it further, but does not forget it either.
        let level = price.at(8_000_000, 5_000, &SCALE, Priority::Default);
        assert!(level > unit);
        assert!(price.at(8_500_000, 0, &SCALE, Priority::Default).abs() < f64::EPSILON);
    }

    #[test]
    fn one_request_after_a_pause_does_not_price_the_pause() {
        let price = Price::default();
        let _ = price.at(0, 0, &SCALE, Priority::Default);
        let _ = price.at(60_000_000, 5_500, &SCALE, Priority::Default);
        assert!(price.at(60_000_001, 0, &SCALE, Priority::Default) < 0.1 * SCALE.slope);
    }

    #[test]
    fn a_miss_raises_the_price_and_is_soon_forgotten_where_nothing_waits() {
        let price = Price::default();
        let _ = price.at(0, 0, &SCALE, Priority::Default);
        price.missed();
        assert!(price.at(0, 0, &SCALE, Priority::Default) > 0.0);
        assert!(price.at(20_000, 0, &SCALE, Priority::Default).abs() < f64::EPSILON);
        for _ in 0..1_000 {
            price.missed();
        }
        assert!(price.at(20_000, 0, &SCALE, Priority::Default) <= LEVEL_MAX * SCALE.slope);
    }

    /// A worker, Poisson arrivals, two plans: 0.3 ms for 0.70, 5 ms for 0.74. Returns mean quality, dear share and the
    /// longest backlog met, microseconds, over ten seconds.
    fn served(arrivals_per_s: f64, priced: bool) -> (f64, f64, u64) {
        let (quality, dear, longest_us, _) = served_by(arrivals_per_s, priced, 1.0, false);
        (quality, dear, longest_us)
    }

    /// The same for a worker that takes `slowdown` times as long as predicted; `told`: the price hears of requests that
    /// took more than 50 ms. Returns their share, too.
    fn served_by(
        arrivals_per_s: f64,
        priced: bool,
        slowdown: f64,
        told: bool,
    ) -> (f64, f64, u64, f64) {
        let scale = Scale {
            slope: 0.04 / 4.7,
            target_us: 5_000.0,
        };
        let price = Price::default();
        let mut random = 42_u64;
        let (mut now_us, mut backlog_us, mut longest_us) = (0.0_f64, 0.0_f64, 0.0_f64);
        let (mut count, mut dear, mut late) = (0_u32, 0_u32, 0_u32);
        // What is predicted to wait drains as predicted; what waits does not.
        let mut predicted_us = 0.0_f64;
        let mut misses = std::collections::VecDeque::new();
        while now_us < 10_000_000.0 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            #[allow(clippy::cast_precision_loss)]
            let uniform = ((random >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            let gap_us = -uniform.ln() * 1e6 / arrivals_per_s;
            now_us += gap_us;
            backlog_us = (backlog_us - gap_us).max(0.0);
            predicted_us = (predicted_us - gap_us).max(0.0);
            while misses.front().is_some_and(|ended_us| *ended_us <= now_us) {
                misses.pop_front();
                price.missed();
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let asked = if priced {
                price.at(
                    now_us as u64,
                    predicted_us as u64,
                    &scale,
                    Priority::Default,
                )
            } else {
                0.0
            };
            let takes_dear = 0.74 - asked * 5.0 > 0.70 - asked * 0.3;
            let cost_us = if takes_dear { 5_000.0 } else { 300.0 };
            predicted_us += cost_us;
            backlog_us += cost_us * slowdown;
            longest_us = longest_us.max(backlog_us);
            if backlog_us > 50_000.0 {
                late += 1;
                if told {
                    misses.push_back(now_us + backlog_us);
                }
            }
            count += 1;
            dear += u32::from(takes_dear);
        }
        let share = f64::from(dear) / f64::from(count);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        (
            0.70 + 0.04 * share,
            share,
            longest_us as u64,
            f64::from(late) / f64::from(count),
        )
    }

    #[test]
    fn where_work_takes_longer_than_predicted_misses_make_requests_fall_back() {
        let (_, _, _, untold) = served_by(1_000.0, true, 1.6, false);
        let (_, _, _, told) = served_by(1_000.0, true, 1.6, true);
        assert!(untold > 0.5, "{untold}");
        assert!(told < 0.5 * untold, "{told} of {untold}");
    }

    #[test]
    fn under_overload_the_spare_time_still_buys_quality_and_the_backlog_stays_short() {
        // 1,000 a second: cheap plans for all take 0.3 of the worker; the rest pays for at most 149 dear ones.
        let (_, dear, longest_us) = served(1_000.0, true);
        assert!(dear > 0.8 * 0.149, "{dear}");
        assert!(longest_us < 25_000, "{longest_us}");
        let (_, _, unpriced_us) = served(1_000.0, false);
        assert!(
            unpriced_us > 1_000_000,
            "without a price the backlog grows without end"
        );
    }

    #[test]
    fn a_light_load_is_served_in_full() {
        let (_, dear, _) = served(40.0, true);
        assert!(dear > 0.95, "{dear}");
    }
}
