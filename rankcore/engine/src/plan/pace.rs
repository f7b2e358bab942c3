//! One request against its deadline: what is left to do, and whether the next piece is still affordable.

use super::cost::{Estimate, STAGES, Stage};

/// Whether to go on, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is time for the next piece and the answer.
    Go,
    /// The deadline leaves no time for it, and would not have on an idle server.
    TooLate,
    /// It would have been affordable but for other work.
    Loaded,
}

/// Follows one request.
#[derive(Debug, Clone)]
pub struct Pace {
    left: [Estimate; STAGES],
    allotted_us: f64,
    started_us: u64,
    deadline_us: Option<u64>,
    reserve_us: u64,
    busy_us: u64,
    /// Time that other workers spent on this request.
    helped_us: u64,
}

/// How far above its allotment a request may go while others wait.
const LAG_FACTOR: f64 = 1.5;

/// Stages that turn an order into an answer.
const CLOSING: [Stage; 3] = [Stage::Order, Stage::Facets, Stage::Reply];

impl Pace {
    /// Follows a request that has `stages` before it. `deadline_us`: absolute; `None`: it never hurries.
    /// `reserve_us` of the time is kept for the way back.
    #[must_use]
    pub fn new(
        stages: &[(Stage, Estimate)],
        started_us: u64,
        deadline_us: Option<u64>,
        reserve_us: u64,
    ) -> Self {
        let mut left = [Estimate::default(); STAGES];
        for (stage, estimate) in stages {
            left[*stage as usize] = *estimate;
        }
        Self {
            left,
            allotted_us: stages.iter().map(|(_, estimate)| estimate.p95_us).sum(),
            started_us,
            deadline_us,
            reserve_us,
            busy_us: 0,
            helped_us: 0,
        }
    }

    /// Predicted rest of a stage.
    #[must_use]
    pub fn left(&self, stage: Stage) -> Estimate {
        self.left[stage as usize]
    }

    /// Records work on a stage that took `took_us`; `part` is what had been predicted for it, `None` for the whole stage.
    pub fn ran(&mut self, stage: Stage, part: Option<Estimate>, took_us: u64) {
        self.does_less(stage, part);
        self.busy_us += took_us;
    }

    /// Records a part of a stage that another worker did meanwhile.
    pub fn helped(&mut self, stage: Stage, part: Estimate, took_us: u64) {
        self.does_less(stage, Some(part));
        self.helped_us += took_us;
    }

    fn does_less(&mut self, stage: Stage, part: Option<Estimate>) {
        let left = &mut self.left[stage as usize];
        *left = match part {
            None => Estimate::default(),
            Some(part) => Estimate {
                mean_us: (left.mean_us - part.mean_us).max(0.0),
                p95_us: (left.p95_us - part.p95_us).max(0.0),
            },
        };
    }

    /// Time that the request's own worker spent on it, microseconds.
    #[must_use]
    pub fn busy_us(&self) -> u64 {
        self.busy_us
    }

    /// When the request reached the planner.
    #[must_use]
    pub fn started_us(&self) -> u64 {
        self.started_us
    }

    /// Predicted cost of turning the order there is into an answer.
    #[must_use]
    pub fn closing(&self) -> Estimate {
        CLOSING.into_iter().map(|stage| self.left(stage)).sum()
    }

    /// Predicted rest of the whole request, microseconds of one core.
    #[must_use]
    pub fn remaining_us(&self) -> u64 {
        whole_us(self.left.iter().map(|estimate| estimate.mean_us).sum())
    }

    /// True if work of `needed_us` and the answer cannot be expected to end before the deadline.
    #[must_use]
    pub fn hopeless(&self, now_us: u64, needed_us: f64) -> bool {
        self.deadline_us.is_some_and(|deadline_us| {
            now_us + whole_us(needed_us + self.closing().mean_us) > deadline_us
        })
    }

    /// How long from now a further piece of work may take and still leave time to answer, microseconds; `None`: as long as
    /// it likes.
    #[must_use]
    pub fn room_us(&self, now_us: u64) -> Option<u64> {
        let kept_us = whole_us(self.closing().p95_us) + self.reserve_us;
        self.deadline_us
            .map(|deadline_us| deadline_us.saturating_sub(now_us + kept_us))
    }

    /// Whether a further piece of work, whose 95th percentile is `needed_us`, leaves time to answer. A request that has
    /// taken far more than was allotted to it gives up its better order while others wait.
    #[must_use]
    pub fn affords(&self, now_us: u64, needed_us: f64, others_wait: bool) -> Verdict {
        let Some(deadline_us) = self.deadline_us else {
            return Verdict::Go;
        };
        #[allow(clippy::cast_precision_loss)]
        let used_us = (self.busy_us + self.helped_us) as f64 + needed_us;
        if others_wait && used_us > LAG_FACTOR * self.allotted_us {
            return Verdict::Loaded;
        }
        let end_us = now_us + whole_us(needed_us + self.closing().p95_us) + self.reserve_us;
        let waited_us = now_us.saturating_sub(self.started_us + self.busy_us);
        if end_us <= deadline_us {
            Verdict::Go
        } else if end_us - waited_us.min(end_us) <= deadline_us {
            Verdict::Loaded
        } else {
            Verdict::TooLate
        }
    }
}

/// Microseconds without their fraction; nothing below 0.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn whole_us(us: f64) -> u64 {
    us.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(us: f64) -> Estimate {
        Estimate {
            mean_us: us,
            p95_us: us,
        }
    }

    fn pace(deadline_us: u64) -> Pace {
        Pace::new(
            &[
                (Stage::Lexical, us(300.0)),
                (Stage::CrossSmall, us(8_000.0)),
                (Stage::Reply, us(100.0)),
            ],
            1_000,
            Some(deadline_us),
            2_000,
        )
    }

    #[test]
    fn a_piece_is_affordable_while_it_leaves_time_for_the_answer_and_the_way_back() {
        let pace = pace(10_000);
        assert_eq!(pace.affords(1_000, 6_900.0, false), Verdict::Go);
        assert_eq!(pace.affords(1_000, 6_901.0, false), Verdict::TooLate);
    }

    #[test]
    fn the_room_is_what_the_answer_and_the_way_back_leave() {
        let pace = pace(10_000);
        assert_eq!(pace.room_us(1_000), Some(6_900));
        assert_eq!(pace.room_us(9_000), Some(0));
        assert_eq!(Pace::new(&[], 0, None, 0).room_us(1_000), None);
    }

    #[test]
    fn a_piece_that_only_waiting_made_too_late_is_blamed_on_load() {
        let mut pace = pace(10_000);
        pace.ran(Stage::Lexical, None, 300);
        assert_eq!(pace.affords(6_000, 2_000.0, false), Verdict::Loaded);
        assert_eq!(pace.affords(6_000, 7_000.0, false), Verdict::TooLate);
    }

    #[test]
    fn a_lagging_request_stops_only_for_others() {
        let mut pace = pace(1_000_000);
        pace.ran(Stage::CrossSmall, Some(us(1_000.0)), 12_600);
        assert_eq!(pace.affords(14_000, 1_000.0, true), Verdict::Loaded);
        assert_eq!(pace.affords(14_000, 1_000.0, false), Verdict::Go);
    }

    #[test]
    fn help_is_work_done_and_time_used_but_not_time_waited() {
        let mut pace = pace(10_000);
        pace.ran(Stage::CrossSmall, Some(us(4_000.0)), 4_000);
        pace.helped(Stage::CrossSmall, us(4_000.0), 4_500);
        assert_eq!((pace.remaining_us(), pace.busy_us()), (400, 4_000));
        // At 5,000 nothing has waited: what no longer fits is the deadline's doing.
        assert_eq!(pace.affords(5_000, 2_901.0, false), Verdict::TooLate);
        assert_eq!(pace.affords(5_000, 2_900.0, false), Verdict::Go);
        // 8,500 us of cores were used of 8,400 allotted.
        assert_eq!(pace.affords(5_000, 4_101.0, true), Verdict::Loaded);
    }

    #[test]
    fn the_rest_shrinks_with_every_piece() {
        let mut pace = pace(1_000_000);
        assert_eq!(pace.remaining_us(), 8_400);
        pace.ran(Stage::Lexical, None, 500);
        pace.ran(Stage::CrossSmall, Some(us(1_000.0)), 900);
        assert_eq!(pace.remaining_us(), 7_100);
        assert_eq!(pace.busy_us(), 1_400);
        pace.ran(Stage::CrossSmall, Some(us(9_000.0)), 900);
        assert_eq!(pace.remaining_us(), 100);
    }

    #[test]
    fn what_cannot_end_in_time_is_hopeless_only_with_a_deadline() {
        assert!(pace(1_350).hopeless(1_000, 300.0));
        assert!(!pace(1_400).hopeless(1_000, 300.0));
        assert!(!Pace::new(&[], 0, None, 0).hopeless(u64::MAX / 2, 1e9));
    }
}
