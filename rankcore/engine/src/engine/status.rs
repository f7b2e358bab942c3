//! What an engine tells of itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Engine, estimate};
use crate::account::{Accounted, Accounts};
use crate::bundle::{PlanSpec, Tier};
use crate::error::{Error, Result};
use crate::plan::Shape;
use crate::plan::cost::{Rate, Stage};
use crate::plan::priority::Priority;
use crate::recommend;
use crate::recommend::admission::Recommended;
use crate::request::Answer;

/// How requests ended since the engine was made.
#[derive(Debug, Default)]
pub(super) struct Counters {
    answered: [AtomicU64; Tier::ALL.len()],
    answered_by_priority: [AtomicU64; Priority::ALL.len()],
    refused_by_priority: [AtomicU64; Priority::ALL.len()],
    refused: AtomicU64,
    expired: AtomicU64,
    cancelled: AtomicU64,
    invalid: AtomicU64,
    failed: AtomicU64,
    accounts: Accounts,
    recommended: [AtomicU64; recommend::Tier::ALL.len()],
    recommended_by_reason: [AtomicU64; REASONS_MAX],
}

/// Reasons on the wire, their numbers from 0.
const REASONS_MAX: usize = 7;

impl Counters {
    pub(super) fn recommended(&self, result: &Result<Recommended>) {
        if let Ok(recommended) = result {
            self.recommended[recommended.tier as usize].fetch_add(1, Ordering::Relaxed);
            let reason = usize::try_from(recommended.reason as i32).unwrap_or(0);
            if let Some(counter) = self.recommended_by_reason.get(reason) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts an end. `priority`: the request's class; `None`: it was not understood so far. `in_time`: the answer is ready
    /// before the deadline.
    pub(super) fn count(&self, priority: Option<Priority>, result: &Result<Answer>, in_time: bool) {
        if let Ok(answer) = result {
            self.accounts.add(&answer.account, in_time);
        }
        let by_priority = match result {
            Ok(_) => Some(&self.answered_by_priority),
            Err(Error::Overloaded { .. }) => Some(&self.refused_by_priority),
            Err(_) => None,
        };
        if let (Some(counters), Some(priority)) = (by_priority, priority) {
            counters[priority as usize].fetch_add(1, Ordering::Relaxed);
        }
        let counter = match result {
            Ok(answer) => &self.answered[answer.tier as usize],
            Err(Error::Overloaded { .. } | Error::NotReady(_)) => &self.refused,
            Err(Error::DeadlineExceeded(_)) => &self.expired,
            Err(Error::Cancelled) => &self.cancelled,
            Err(Error::InvalidRequest(_)) => &self.invalid,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// One plan as the planner sees it now.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanNow {
    /// The plan.
    pub plan: PlanSpec,
    /// Predicted cost on an idle core now, milliseconds.
    pub cost_ms: f64,
}

/// One stage's cost as it stands now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageNow {
    /// The stage.
    pub stage: Stage,
    /// Calibration.
    pub rate: Rate,
    /// Mean of actual over calibrated cost.
    pub ratio: f64,
    /// 95th percentile of actual over corrected cost.
    pub tail: f64,
}

/// The engine as it stands now.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Requests waiting or running.
    pub in_flight: usize,
    /// Requests waiting.
    pub queued: usize,
    /// Worker threads that take work.
    pub workers: usize,
    /// Plans, cheapest tier first.
    pub plans: Vec<PlanNow>,
    /// Stage costs.
    pub stages: Vec<StageNow>,
    /// Requests answered, by tier.
    pub answered: BTreeMap<&'static str, u64>,
    /// Requests answered, by class.
    pub answered_by_priority: BTreeMap<&'static str, u64>,
    /// Requests refused at once for load, by class.
    pub refused_by_priority: BTreeMap<&'static str, u64>,
    /// Requests refused at once for load, or because nothing was ready.
    pub refused: u64,
    /// Requests whose budget was too small or was spent.
    pub expired: u64,
    /// Requests that their caller gave up.
    pub cancelled: u64,
    /// Requests that break the contract.
    pub invalid: u64,
    /// Requests that failed for an internal reason.
    pub failed: u64,
    /// What the answers tell of themselves, added up.
    pub accounted: Accounted,
    /// Parts that failed while a request ran, which was answered without them.
    pub part_failures: u64,
    /// What the last of them said.
    pub last_part_failure: Option<String>,
    /// Price of a core millisecond now, nDCG per millisecond.
    pub price: f64,
    /// Chunks of cross-encoders that workers read for requests of others.
    pub helped_chunks: u64,
    /// Share of the time that such help could save which is not counted on now, from 0 to 1.
    pub help_lost: f64,
    /// What plans but the cheapest keep free for stalls now, microseconds.
    pub stall_us: u64,
    /// Recommendations given, by tier; those that were never given are left out.
    pub recommended: BTreeMap<&'static str, u64>,
    /// Recommendations given, by why this tier; those that never were are left out.
    pub recommended_by_reason: BTreeMap<String, u64>,
}

impl Engine {
    /// The engine as it stands now.
    #[must_use]
    pub fn status(&self) -> Status {
        let (queued, in_flight) = self.core.crew.scheduler.depth();
        let now_us = self.core.services.clock.now_us();
        let costs = self.core.services.costs.at(now_us);
        let products = self
            .core
            .serving
            .load()
            .as_ref()
            .map_or(0, |generation| generation.products());
        let shape = Shape {
            words: 3,
            brought: None,
            products,
            facets: 0,
            page: 10,
            chunk_pairs: self.core.services.chunk_pairs(),
            personal: false,
        };
        let scale = self.core.services.planner.scale(&shape, &costs);
        let (part_failures, last_part_failure) = self.core.services.failures.seen();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let by_priority = |counters: &[AtomicU64]| {
            Priority::ALL
                .into_iter()
                .map(|priority| (priority.as_str(), count(&counters[priority as usize])))
                .collect()
        };
        Status {
            in_flight,
            queued,
            workers: self.core.crew.scheduler.workers(),
            plans: self
                .core
                .services
                .planner
                .plans()
                .iter()
                .map(|plan| PlanNow {
                    plan: plan.clone(),
                    cost_ms: estimate(plan, &shape, &costs).mean_us / 1_000.0,
                })
                .collect(),
            stages: Stage::ALL
                .into_iter()
                .map(|stage| {
                    let (rate, ratio, tail) = costs.parts(stage);
                    StageNow {
                        stage,
                        rate,
                        ratio,
                        tail,
                    }
                })
                .collect(),
            answered: Tier::ALL
                .into_iter()
                .map(|tier| {
                    (
                        tier.as_str(),
                        count(&self.core.counters.answered[tier as usize]),
                    )
                })
                .collect(),
            answered_by_priority: by_priority(&self.core.counters.answered_by_priority),
            refused_by_priority: by_priority(&self.core.counters.refused_by_priority),
            refused: count(&self.core.counters.refused),
            expired: count(&self.core.counters.expired),
            cancelled: count(&self.core.counters.cancelled),
            invalid: count(&self.core.counters.invalid),
            failed: count(&self.core.counters.failed),
            accounted: self.core.counters.accounts.read(),
            part_failures,
            last_part_failure,
            price: self.core.services.price.at(
                now_us,
                self.core.crew.scheduler.backlog_us(),
                &scale,
                Priority::Default,
            ),
            helped_chunks: self.core.services.help.chunks(),
            help_lost: self.core.services.help.at(1, now_us).lost,
            stall_us: self.core.services.stalls.allowed_us(now_us),
            recommended: recommend::Tier::ALL
                .into_iter()
                .map(|tier| {
                    (
                        tier.as_str(),
                        count(&self.core.counters.recommended[tier as usize]),
                    )
                })
                .filter(|(_, count)| *count > 0)
                .collect(),
            recommended_by_reason: (0..)
                .zip(&self.core.counters.recommended_by_reason)
                .filter_map(|(number, counter)| {
                    let reason = crate::wire::Reason::try_from(number).ok()?;
                    let name = reason
                        .as_str_name()
                        .trim_start_matches("REASON_")
                        .to_lowercase();
                    Some((name, count(counter)))
                })
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}
