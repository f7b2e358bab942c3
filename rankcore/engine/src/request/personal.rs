//! The last step of a search's order: what the shopper lately did moves candidates up, within bounds.
//!
//! It works on the final order alone, so nothing before it depends on whose search it is, and the result does not depend on how
//! the work was cut. Scores only rise, and only among the first candidates, so whoever stands below these stays there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Job;
use super::order::{Order, sort};
use crate::plan::cost::Stage;
use crate::recommend::ask::in_order;
use crate::retrieve::Row;
use crate::schedule::Pressure;
use crate::taste::{self, CANDIDATES, Taste};
use crate::wire;

/// What a shopper's history did to one candidate.
pub struct Moved {
    /// The taste for it, 0 to 1.
    pub taste: f64,
    /// What that adds to its score.
    pub adds: f64,
    /// Only for an explanation: what of the history speaks for it.
    pub because: Vec<wire::Because>,
}

/// What became of a search's order.
#[derive(Default)]
pub struct Personal {
    /// Whether the history entered it, and why not.
    pub taste: wire::Taste,
    /// What was made of the history; `None`: it was not looked at.
    pub history: Option<wire::HistoryAccount>,
    /// By candidate, of those that were moved.
    pub moved: HashMap<usize, Moved>,
}

impl Personal {
    fn not(taste: wire::Taste) -> Self {
        Self {
            taste,
            ..Self::default()
        }
    }
}

impl Job {
    /// Moves up what the history of whom the request names speaks for. order: final, best first, without unknown scores.
    pub(super) fn personal(&mut self, order: &mut Order) -> Personal {
        let Some(named) = self.ask.named.take() else {
            return Personal::default();
        };
        let weight = self.services.taste_weight;
        if weight <= 0.0 {
            return Personal::not(wire::Taste::Off);
        }
        let needed_us = self.pace.left(Stage::Taste).p95_us;
        // Whoever waits has no claim on this: it is shorter than a chunk.
        if self
            .refused(needed_us, Pressure { others_wait: false })
            .is_some()
        {
            return Personal::not(wire::Taste::Time);
        }
        let from_us = self.services.clock.now_us();
        let now_unix_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        let (whole, recorded) = named.whole(self.memory.as_deref(), now_unix_us);
        let history = in_order(whole, now_unix_us);
        if history.is_empty() {
            self.tasted(0, from_us);
            return Personal {
                taste: wire::Taste::Unknown,
                history: Some(wire::HistoryAccount::default()),
                moved: HashMap::new(),
            };
        }
        let (services, generation) = (Arc::clone(&self.services), Arc::clone(&self.generation));
        let taste = Taste::new(&history, services.bundle.recommend.as_ref(), &generation);
        let head = order.len().min(CANDIDATES);
        let rows: Vec<Row> = order[..head]
            .iter()
            .map(|(candidate, _)| self.rows[*candidate])
            .collect();
        let tastes = taste.of(&rows);
        let scores: Vec<f64> = order[..head].iter().map(|(_, score)| *score).collect();
        let most = taste::most(&scores, weight);
        let told = Personal {
            history: Some(taste.account(recorded)),
            ..Personal::not(wire::Taste::Unrelated)
        };
        if !taste::tells(&tastes) {
            self.tasted(head, from_us);
            return told;
        }
        let mut first: Order = Vec::with_capacity(head);
        let mut moved = HashMap::with_capacity(head);
        for ((candidate, score), taste) in order[..head].iter().zip(&tastes) {
            let adds = most * taste;
            first.push((*candidate, score + adds));
            if *taste > 0.0 {
                let one = Moved {
                    taste: *taste,
                    adds,
                    because: Vec::new(),
                };
                moved.insert(*candidate, one);
            }
        }
        sort(&mut first);
        order[..head].copy_from_slice(&first);
        if self.ask.explain {
            let page = first.iter().skip(self.offset()).take(self.ask.page);
            for (candidate, _) in page {
                if let Some(one) = moved.get_mut(candidate) {
                    one.because = taste.because(self.rows[*candidate], most);
                }
            }
        }
        self.tasted(head, from_us);
        Personal {
            taste: wire::Taste::Applied,
            moved,
            ..told
        }
    }

    /// Accounts for the step; it is part of ordering to whoever asked.
    fn tasted(&mut self, candidates: usize, from_us: u64) {
        self.timings.order_us += self.ran(Stage::Taste, None, candidates, from_us);
    }
}

impl Moved {
    /// Adds what it did to the explanation of a result.
    pub fn explain(self, product: &mut wire::RankedProduct) {
        product.signals.push(wire::Signal {
            name: taste::SIGNAL.to_owned(),
            value: Some(self.taste),
            contribution: Some(self.adds),
        });
        product.because = self.because;
    }
}
