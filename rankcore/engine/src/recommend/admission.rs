//! Which tier answers a request for recommendations, and when: the queue of all ranking work, by deadline.
//!
//! One answer is one step: it takes from some microseconds to a few milliseconds. Its tier is chosen when it is let in, by the
//! time left behind the work already queued, and again when it begins, so that one that waited longer than predicted still
//! answers in time, by what is popular if need be.

use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;

use super::Tier;
use super::answer::{Known, Maker};
use super::ask::Ask;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::plan::cost::{Rate, Tracker};
use crate::plan::pace::whole_us;
use crate::plan::priority::Priority;
use crate::reply::Reply;
use crate::request::{Freshness, Services};
use crate::schedule::queue::{Leaving, Work};
use crate::schedule::{Load, Pressure, Step, Task, retry_after_ms};
use crate::wire;

/// What the tiers cost before any was measured, microseconds, in their order.
const FIRST_US: [f64; Tier::ALL.len()] = [200.0, 1_500.0, 1_000.0, 3_000.0, 4_000.0];

/// What the tiers cost lately.
pub struct Costs(Mutex<[Tracker; Tier::ALL.len()]>);

impl Default for Costs {
    fn default() -> Self {
        Self(Mutex::new(FIRST_US.map(|fixed_us| {
            Tracker::new(Rate {
                fixed_us,
                unit_us: 0.0,
            })
        })))
    }
}

impl Costs {
    /// Mean and 95th percentile of a tier now, microseconds.
    fn of(&self, tier: Tier, now_us: u64) -> (f64, f64) {
        let estimate = self.0.lock()[tier as usize].at(now_us).estimate(1.0, 0.0);
        (estimate.mean_us, estimate.p95_us)
    }

    fn note(&self, tier: Tier, took_us: f64, now_us: u64) {
        self.0.lock()[tier as usize].record(FIRST_US[tier as usize], took_us, now_us);
    }

    /// The best of the tiers that is done within `budget_us`, by its 95th percentile.
    fn best(&self, tiers: &[Tier], budget_us: f64, now_us: u64) -> Option<Tier> {
        tiers
            .iter()
            .rev()
            .copied()
            .find(|tier| self.of(*tier, now_us).1 <= budget_us)
    }
}

/// The answer to a request for recommendations.
#[derive(Debug, Clone)]
pub struct Recommended {
    /// Serialised `RecommendResponse`.
    pub bytes: Vec<u8>,
    /// Tier executed.
    pub tier: Tier,
    /// Reason given in the receipt.
    pub reason: wire::Reason,
}

/// What a request is decided with, and what its answer is made from.
pub struct Request {
    /// What all requests of the engine share.
    pub services: Arc<Services>,
    /// What the tiers cost.
    pub costs: Arc<Costs>,
    /// The catalogue.
    pub generation: Arc<Generation>,
    /// What is wanted.
    pub ask: Ask,
    /// Its history, looked up.
    pub known: Known,
    /// The tiers that can answer it, cheap to dear.
    pub tiers: Vec<Tier>,
    /// Its class.
    pub priority: Priority,
    /// What the log looked like.
    pub freshness: Freshness,
    /// When the request came, on the engine's clock.
    pub arrived_us: u64,
    /// Absolute deadline on the engine's clock.
    pub deadline_us: u64,
}

impl Request {
    /// Decides by which tier the request is to be answered, and why by no better one.
    ///
    /// # Errors
    /// `Overloaded` where nothing fits behind what is queued, `DeadlineExceeded` where nothing would on an idle engine.
    pub fn decide(&self, load: Load) -> Result<(Tier, wire::Reason)> {
        let now_us = self.services.clock.now_us();
        // Looked up before: this runs under the queue's lock.
        let (known, tiers) = (&self.known, &self.tiers);
        let left_us = as_f64(
            self.deadline_us
                .saturating_sub(now_us + self.services.way_back.reserve_us(now_us)),
        );
        let wait_us = as_f64(load.delay_us) * (1.0 + self.priority.delay_margin());
        let idle = self.costs.best(tiers, left_us, now_us);
        let Some(idle) = idle else {
            return Err(Error::DeadlineExceeded(
                "the budget is too small for any recommendation".to_owned(),
            ));
        };
        let Some(planned) = self.costs.best(tiers, left_us - wait_us, now_us) else {
            return Err(Error::Overloaded {
                retry_after_ms: retry_after_ms(load.delay_us),
            });
        };
        let best = tiers.last().copied().unwrap_or(planned);
        let reason = if planned < idle {
            wire::Reason::Load
        } else if planned < best {
            wire::Reason::Deadline
        } else {
            self.best_reason(known)
        };
        Ok((planned, reason))
    }

    /// Time that the least answer needs, microseconds.
    #[must_use]
    pub fn least_us(costs: &Costs, now_us: u64) -> u64 {
        whole_us(costs.of(Tier::Popularity, now_us).1)
    }

    /// Why the best tier that there is for this history is no better.
    fn best_reason(&self, known: &Known) -> wire::Reason {
        match &self.services.bundle.recommend {
            None => wire::Reason::Dependency,
            Some(_) if known.places.is_empty() => wire::Reason::History,
            Some(_) => wire::Reason::Best,
        }
    }

    fn worth(&self, tier: Tier) -> f64 {
        let section = self.services.bundle.recommend.as_ref();
        section.map_or(0.0, |section| section.worths[tier as usize].unwrap_or(0.0))
    }
}

/// A request that was let in.
pub struct Waiting {
    request: Option<Request>,
    planned: Tier,
    reason: wire::Reason,
    reply: Option<Reply<Recommended>>,
}

impl Waiting {
    /// A request that [`Request::decide`] let in; its answer goes to `reply`.
    #[must_use]
    pub fn new(
        request: Request,
        (planned, reason): (Tier, wire::Reason),
        reply: Reply<Recommended>,
    ) -> Self {
        Self {
            request: Some(request),
            planned,
            reason,
            reply: Some(reply),
        }
    }

    fn answer(&self, request: &Request) -> Result<Recommended> {
        let clock = &request.services.clock;
        let began_us = clock.now_us();
        let left_us = as_f64(request.deadline_us.saturating_sub(began_us));
        let fitting = request
            .costs
            .best(&request.tiers, left_us, began_us)
            .unwrap_or(Tier::Popularity);
        let mut tier = fitting.min(self.planned);
        let mut reason = if tier < self.planned {
            wire::Reason::Load
        } else {
            self.reason
        };
        let maker = Maker {
            section: request.services.bundle.recommend.as_ref(),
            generation: &request.generation,
            ask: &request.ask,
            known: &request.known,
        };
        let found = match maker.make(tier) {
            // What the network was asked for is answered without it.
            Err(error @ Error::Internal(_)) if tier > Tier::Mixture => {
                request.services.failures.note(&error);
                (tier, reason) = (Tier::Mixture, wire::Reason::Dependency);
                maker.make(tier)?
            }
            found => found?,
        };
        let ended_us = clock.now_us();
        let took_us = ended_us.saturating_sub(began_us);
        request.costs.note(tier, as_f64(took_us), ended_us);
        let services = &request.services;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let receipt = wire::Receipt {
            tier: tier.to_wire().into(),
            depth: count(found.depth),
            candidates: count(found.candidates),
            expected_ndcg: request.worth(tier),
            reason: reason.into(),
            planned_tier: self.planned.to_wire().into(),
            planned_depth: 0,
            timings: Some(wire::StageTimings {
                queue_us: began_us.saturating_sub(request.arrived_us),
                retrieve_us: took_us,
                total_us: ended_us.saturating_sub(request.arrived_us),
                ..Default::default()
            }),
            price: 0.0,
            bundle_id: services.bundle.id.clone(),
            generation_id: request.generation.id().to_owned(),
            epoch: request.freshness.epoch,
            applied_sequence: request.freshness.applied_sequence,
            staleness_ms: request.freshness.staleness_ms,
            replica: services.replica.clone(),
            query_truncated: false,
            budget_us: request.deadline_us - request.arrived_us,
            receipt_id: String::new(),
            taste: 0,
        };
        let response = wire::RecommendResponse {
            results: found.results,
            receipt: Some(receipt),
            history: Some(found.history),
        };
        Ok(Recommended {
            bytes: response.encode_to_vec(),
            tier,
            reason,
        })
    }

    fn send(&mut self, result: Result<Recommended>) {
        if let Some(reply) = self.reply.take() {
            reply.send(result);
        }
    }

    fn cost_us(&self) -> u64 {
        self.request.as_ref().map_or(0, |request| {
            whole_us(
                request
                    .costs
                    .of(self.planned, request.services.clock.now_us())
                    .0,
            )
        })
    }
}

impl Work for Waiting {
    fn abandoned(&self) -> bool {
        self.reply.as_ref().is_some_and(Reply::abandoned)
    }

    fn remaining_us(&self) -> u64 {
        self.cost_us()
    }

    fn step_us(&self) -> u64 {
        self.cost_us()
    }
}

impl Task for Waiting {
    fn step(&mut self, _: Pressure) -> Step {
        if let Some(request) = self.request.take() {
            let answer = self.answer(&request);
            self.send(answer);
        }
        Step::Done
    }

    fn leave(&mut self, why: Leaving) {
        let error = match why {
            Leaving::Abandoned => Error::Cancelled,
            Leaving::Expired => {
                Error::DeadlineExceeded("the budget was spent waiting behind other work".to_owned())
            }
        };
        self.send(Err(error));
    }
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_picks_the_tier() {
        let costs = Costs::default();
        for (budget_us, expected) in [
            (100.0, None),
            (400.0, Some(Tier::Popularity)),
            (1_400.0, Some(Tier::Mixture)),
            (4_500.0, Some(Tier::Sequence)),
            (10_000.0, Some(Tier::Ordered)),
        ] {
            let tiers = [
                Tier::Popularity,
                Tier::Mixture,
                Tier::Sequence,
                Tier::Ordered,
            ];
            assert_eq!(costs.best(&tiers, budget_us, 0), expected, "{budget_us}");
        }
        assert_eq!(
            costs.best(&[Tier::Popularity], 10_000.0, 0),
            Some(Tier::Popularity)
        );
    }

    #[test]
    fn a_tier_that_proves_dear_is_left_aside_and_comes_back() {
        let costs = Costs::default();
        let tiers = [Tier::Popularity, Tier::Ordered];
        for at_us in 0..100 {
            costs.note(Tier::Ordered, 40_000.0, at_us);
        }
        assert_eq!(costs.best(&tiers, 10_000.0, 100), Some(Tier::Popularity));
        // Nobody could find out that it is cheap again, so what makes it look dear is forgotten.
        assert_eq!(
            costs.best(&tiers, 10_000.0, 60_000_000),
            Some(Tier::Ordered)
        );
    }
}
