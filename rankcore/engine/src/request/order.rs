//! The order of a request's candidates: by the ranker of the tier that was reached, or by that tier's own score.

use std::sync::Arc;

use super::{Job, Scorer};
use crate::bundle::Tier;
use crate::error::Result;
use crate::plan;
use crate::recommend::answer::below;
use crate::signals::{self, Column, Reading};

/// Candidates in some order, best first: index into the job's rows, score of that order.
pub(super) type Order = Vec<(usize, f64)>;

impl Job {
    /// `members` by the score that the tier orders by, best first; unknown scores keep their order at the end.
    pub(super) fn rank(&mut self, tier: Tier, members: &[usize]) -> Result<Order> {
        let mut order = self.scores(tier, members)?;
        sort(&mut order);
        Ok(order)
    }

    /// Scores `members`, in their order, with the tier's ranker, or its own score.
    pub(super) fn scores(&mut self, tier: Tier, members: &[usize]) -> Result<Order> {
        let services = Arc::clone(&self.services);
        let ranker = services
            .readings
            .of(tier)
            .and_then(|reading| Some((services.bundle.rankers.get(&tier)?, reading)));
        let order: Order = match ranker {
            Some((forest, reading)) => {
                self.scored(members, Scorer::Ranker(tier));
                self.describe(members, reading)?;
                let mut scratch = Vec::new();
                members
                    .iter()
                    .map(|candidate| {
                        let row = self.matrix.row(*candidate);
                        (
                            *candidate,
                            signals::score(forest, reading, row, &mut scratch),
                        )
                    })
                    .collect()
            }
            None => {
                let column = match tier {
                    Tier::Lexical => Column::Bm25,
                    Tier::Hybrid => Column::Fused,
                    Tier::Late => Column::Late,
                    Tier::CrossSmall | Tier::CrossLarge => Column::Cross,
                };
                self.scored(members, Scorer::Signal(column));
                members
                    .iter()
                    .map(|candidate| (*candidate, self.matrix.get(*candidate, column)))
                    .collect()
            }
        };
        Ok(order)
    }

    /// Sets the signals that a ranker reads and that no stage has set.
    pub(super) fn describe(&mut self, members: &[usize], reading: &Reading) -> Result<()> {
        if reading.bm25 {
            self.complete_bm25()?;
        }
        if reading.live && !self.live_described {
            self.live_described = true;
            for (candidate, live) in self.generation.candidates(&self.rows).iter().enumerate() {
                signals::describe_live(self.matrix.row_mut(candidate), &live.values);
            }
        }
        if reading.text {
            for candidate in members {
                if !std::mem::replace(&mut self.text_described[*candidate], true) {
                    let product = self.generation.match_text(self.rows[*candidate]);
                    signals::describe_text(
                        self.matrix.row_mut(*candidate),
                        &self.ask.keys,
                        &product,
                    );
                }
            }
        }
        if self.late_done > 0 {
            let best = (0..self.rows.len())
                .map(|candidate| self.matrix.get(candidate, Column::Late))
                .fold(f64::NAN, f64::max);
            for candidate in 0..self.rows.len() {
                let late = self.matrix.get(candidate, Column::Late);
                self.matrix
                    .set(candidate, Column::LateShare, share(late, best));
                self.matrix.set(candidate, Column::LateMaxGap, best - late);
            }
        }
        Ok(())
    }

    /// Late candidates in the late tier's order, the others below as they were.
    pub(super) fn late_order(&mut self) -> Result<Order> {
        let members: Vec<usize> = self.order[..self.late_done]
            .iter()
            .map(|(candidate, _)| *candidate)
            .collect();
        let head = self.rank(Tier::Late, &members)?;
        Ok(stack(head, &self.order[self.late_done..]))
    }

    /// The order of the tier that was reached.
    pub(super) fn final_order(&mut self) -> Result<Order> {
        match self.reached {
            tier @ (Tier::Lexical | Tier::Hybrid) => {
                let all: Vec<usize> = self.order.iter().map(|(candidate, _)| *candidate).collect();
                self.rank(tier, &all)
            }
            Tier::Late => {
                if self.plan.tier > Tier::Late && self.next_after_late() {
                    // The order below the cross-encoder is the late tier's already.
                    return Ok(std::mem::take(&mut self.order));
                }
                self.late_order()
            }
            tier @ (Tier::CrossSmall | Tier::CrossLarge) => {
                let members: Vec<usize> = self.order[..self.cross_done]
                    .iter()
                    .map(|(candidate, _)| *candidate)
                    .collect();
                let head = self.rank(tier, &members)?;
                Ok(stack(head, &self.order[self.cross_done..]))
            }
        }
    }

    fn next_after_late(&self) -> bool {
        self.late_done >= plan::late_depth(&self.plan, self.rows.len())
    }

    /// Remembers what gave candidates their scores, for an explanation.
    pub(super) fn scored(&mut self, members: &[usize], by: Scorer) {
        if self.ask.explain {
            for candidate in members {
                self.scorers[*candidate] = by;
            }
        }
    }
}

pub(super) fn share(value: f64, best: f64) -> f64 {
    if best > 0.0 { value / best } else { 0.0 }
}

/// Best first; unknown scores last; equals keep their order.
pub(super) fn sort(order: &mut Order) {
    order.sort_by(|a, b| match (a.1.is_nan(), b.1.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Greater,
        (false, true) => std::cmp::Ordering::Less,
        (false, false) => b.1.total_cmp(&a.1),
    });
}

/// Puts `tail` below `head`. The tail's scores, which may be on another scale, are moved below the head's, so that scores
/// never rise from one result to the next.
fn stack(head: Order, tail: &[(usize, f64)]) -> Order {
    let mut order = head;
    fill_unknown(&mut order);
    let floor = order.last().map(|(_, score)| *score);
    let top = tail.first().map(|(_, score)| *score);
    let shift = match (floor, top) {
        (Some(floor), Some(top)) if !top.is_nan() => floor - below(floor) - top,
        _ => 0.0,
    };
    order.extend(
        tail.iter()
            .map(|(candidate, score)| (*candidate, score + shift)),
    );
    order
}

/// Gives unknown scores, which stand at the end, values just below the last known one.
pub(super) fn fill_unknown(order: &mut Order) {
    let mut last = None;
    for (_, score) in order.iter_mut() {
        if score.is_nan() {
            *score = last.map_or(0.0, |last: f64| last - below(last));
        }
        last = Some(*score);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_on_another_scale_stays_below_the_head() {
        let head = vec![(3, 2.0), (1, -1.0)];
        let order = stack(head, &[(0, 40.0), (2, 39.0), (4, f64::NAN)]);
        let mut order = order;
        fill_unknown(&mut order);
        let candidates: Vec<_> = order.iter().map(|(candidate, _)| *candidate).collect();
        assert_eq!(candidates, [3, 1, 0, 2, 4]);
        assert!(
            order.windows(2).all(|pair| pair[0].1 > pair[1].1),
            "{order:?}"
        );
    }

    #[test]
    fn unknown_scores_sort_last_and_keep_their_order() {
        let mut order = vec![(0, f64::NAN), (1, 1.0), (2, f64::NAN), (3, 2.0)];
        sort(&mut order);
        let candidates: Vec<_> = order.iter().map(|(candidate, _)| *candidate).collect();
        assert_eq!(candidates, [3, 1, 0, 2]);
    }
}
