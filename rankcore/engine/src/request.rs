//! One request as a state machine of small steps.
//!
//! Search: lexical -> encode the query -> dense and fusion -> late interaction in chunks -> cross-encoder in chunks, from
//! the top down -> final order, page, receipt. Re-ranking is the same over candidates that the caller brought. After the
//! first step an answer exists; before each further one the request asks itself whether it can still afford it, and if
//! not, answers with the order it has.

mod ask;
mod cross;
mod order;
mod personal;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use fixedbitset::FixedBitSet;
use parking_lot::Mutex;
use prost::Message;

use crate::account::{Account, Match};
use crate::bundle::{Bundle, PlanSpec, Tier};
use crate::encode::EncodedQuery;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::memory::Memory;
use crate::plan::cost::{CostBook, Costs, Estimate, Stage};
use crate::plan::help::{Help, HelpBook};
use crate::plan::pace::{Pace, Verdict, whole_us};
use crate::plan::price::Price;
use crate::plan::stalls::Stalls;
use crate::plan::way_back::WayBack;
use crate::plan::{self, Chosen, LATE_CHUNK, Planner};
use crate::reply::Reply;
use crate::rerank::cross::Cross;
use crate::rerank::settled::Settled;
use crate::retrieve::{Row, fuse};
use crate::schedule::clock::Clock;
use crate::schedule::queue::{Leaving, Work};
use crate::schedule::{Offer, Pressure, Step, Task};
use crate::signals::{self, Column, Matrix, Reading, Readings};
use crate::wire;

pub use ask::{Ask, Source, class};
use order::{Order, fill_unknown, share, sort};

/// What all requests of an engine share.
pub struct Services {
    /// Models and configuration.
    pub bundle: Arc<Bundle>,
    /// Stage costs, read and corrected by every request.
    pub costs: CostBook,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Plans.
    pub planner: Planner,
    /// How the rankers read signals.
    pub readings: Readings,
    /// Name of this replica.
    pub replica: String,
    /// How much a shopper's history moves a search's results, 0 (not at all) to 1: see [`crate::taste::most`].
    pub taste_weight: f64,
    /// Pairs in one chunk of a cross-encoder; see [`Services::chunk_pairs`].
    pub chunk: AtomicUsize,
    /// Parts that failed while a request ran.
    pub failures: Failures,
    /// What a millisecond costs now.
    pub price: Price,
    /// What is kept of each budget for the way back.
    pub way_back: Arc<WayBack>,
    /// What plans allow for stalls of the process.
    pub stalls: Arc<Stalls>,
    /// What help from other workers is worth.
    pub help: HelpBook,
}

impl Services {
    /// Pairs in one chunk of a cross-encoder, at least 1.
    #[must_use]
    pub fn chunk_pairs(&self) -> usize {
        self.chunk.load(Ordering::Relaxed).max(1)
    }

    /// The help that a request can count on when `helpers` other workers are idle.
    #[must_use]
    pub fn help(&self, helpers: usize, now_us: u64) -> Help {
        let delegated = [Tier::CrossSmall, Tier::CrossLarge]
            .into_iter()
            .filter_map(|tier| self.bundle.cross(tier))
            .any(Cross::delegated);
        self.help.at(if delegated { 0 } else { helpers }, now_us)
    }
}

/// Parts that failed while a request ran; the request was answered without them.
#[derive(Debug, Default)]
pub struct Failures {
    count: AtomicU64,
    last: Mutex<Option<String>>,
}

impl Failures {
    pub(crate) fn note(&self, error: &Error) {
        self.count.fetch_add(1, Ordering::Relaxed);
        *self.last.lock() = Some(error.to_string());
    }

    /// How many there were, and what the last one said.
    #[must_use]
    pub fn seen(&self) -> (u64, Option<String>) {
        (self.count.load(Ordering::Relaxed), self.last.lock().clone())
    }
}

/// What the log looked like when the request was planned.
#[derive(Debug, Clone, Copy, Default)]
pub struct Freshness {
    /// Highest epoch seen.
    pub epoch: u64,
    /// Every event up to this one is visible.
    pub applied_sequence: u64,
    /// Milliseconds since the whole log was last known to be applied.
    pub staleness_ms: u64,
}

/// The time a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// When the request reached the planner, on the engine's clock.
    pub arrived_us: u64,
    /// Absolute deadline on the engine's clock.
    pub deadline_us: u64,
}

/// What was decided when a request was let in.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The plan to run, and why.
    pub chosen: Chosen,
    /// The time it may take.
    pub budget: Budget,
    /// By when the plan is to be done, at its 95th percentile, on the engine's clock; `None`: nothing is promised.
    pub promised_us: Option<u64>,
    /// Stage costs that the decision was made with.
    pub costs: Costs,
    /// Other workers that the decision counted on.
    pub helpers: usize,
}

/// The answer to one request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Serialised `SearchResponse` or `RerankResponse`.
    pub bytes: Vec<u8>,
    /// Tier executed.
    pub tier: Tier,
    /// Reason given in the receipt.
    pub reason: wire::Reason,
    /// What it tells of itself in numbers.
    pub account: Account,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Lexical,
    Encode,
    Dense,
    Late,
    Cross,
    Finish,
}

/// What gave a candidate its score.
#[derive(Debug, Clone, Copy)]
enum Scorer {
    /// The ranker of a tier.
    Ranker(Tier),
    /// One signal alone.
    Signal(Column),
}

/// A request on its way.
pub struct Job {
    services: Arc<Services>,
    generation: Arc<Generation>,
    ask: Ask,
    /// What is remembered of whom the request names.
    memory: Option<Arc<dyn Memory>>,
    plan: PlanSpec,
    reason: wire::Reason,
    price: f64,
    freshness: Freshness,
    /// `None`: a fixed plan, which neither hurries nor forgives a missing part.
    budget: Option<Budget>,
    /// By when the plan was to be done, at its 95th percentile; `None`: nothing was promised, or others went first.
    promised_us: Option<u64>,
    reply: Option<Reply>,
    costs: Costs,
    pace: Pace,

    next: Next,
    eligible: Option<FixedBitSet>,
    unknown: Vec<String>,
    lexical: Vec<(Row, f32)>,
    query: Option<EncodedQuery>,
    rows: Vec<Row>,
    matrix: Matrix,
    text_described: Vec<bool>,
    /// Per candidate, only for an explanation: what gave it its score.
    scorers: Vec<Scorer>,
    live_described: bool,
    bm25_complete: bool,
    /// Order in which the running stage takes its candidates.
    order: Order,
    reached: Tier,
    late_done: usize,
    cross_done: usize,
    settled: Settled,
    /// The cross-encoder stage from its begin on; `None`: it has not begun, or nothing could run it.
    reading: Option<cross::Reading>,
    helpers: usize,
    timings: wire::StageTimings,
    lexical_match: Option<Match>,
    nearest: Option<f32>,
    gauge: Option<Gauge>,
}

/// Samples of single calls, for calibration: stage, units, microseconds.
pub type Gauge = Arc<Mutex<Vec<(Stage, f64, f64)>>>;

impl Job {
    /// A request with a deadline; the answer goes to `reply`.
    #[must_use]
    pub fn new(
        services: Arc<Services>,
        generation: Arc<Generation>,
        ask: Ask,
        admitted: Admitted,
        freshness: Freshness,
        reply: Reply,
    ) -> Self {
        let Admitted {
            chosen,
            budget,
            promised_us,
            costs,
            helpers,
        } = admitted;
        let mut job = Self::prepare(
            services,
            generation,
            ask,
            chosen.plan,
            freshness,
            costs,
            Some(budget),
        );
        job.reason = chosen.reason;
        job.price = chosen.price;
        job.promised_us = promised_us;
        job.helpers = helpers;
        job.reply = Some(reply);
        job
    }

    /// A request with a fixed plan and no deadline.
    #[must_use]
    pub fn fixed(
        services: Arc<Services>,
        generation: Arc<Generation>,
        ask: Ask,
        plan: PlanSpec,
        freshness: Freshness,
    ) -> Self {
        let costs = services.costs.at(services.clock.now_us());
        Self::prepare(services, generation, ask, plan, freshness, costs, None)
    }

    /// Asks `memory` what is known of whom the request names.
    #[must_use]
    pub fn remembering(mut self, memory: Option<Arc<dyn Memory>>) -> Self {
        self.memory = memory;
        self
    }

    /// Collects what each call of a stage takes into `gauge`.
    pub fn measure(&mut self, gauge: Gauge) {
        self.gauge = Some(gauge);
    }

    fn prepare(
        services: Arc<Services>,
        generation: Arc<Generation>,
        ask: Ask,
        plan: PlanSpec,
        freshness: Freshness,
        costs: Costs,
        budget: Option<Budget>,
    ) -> Self {
        let shape = ask.shape(
            generation.products(),
            services.chunk_pairs(),
            services.taste_weight > 0.0,
        );
        let now_us = services.clock.now_us();
        let pace = Pace::new(
            &plan::stages(&plan, &shape, &costs),
            budget.map_or(now_us, |budget| budget.arrived_us),
            budget.map(|budget| budget.deadline_us),
            services.way_back.reserve_us(now_us) + services.stalls.allowed_us(now_us),
        );
        let settled = Settled::new(ask.seen(), plan.settled_pairs);
        Self {
            services,
            generation,
            ask,
            memory: None,
            plan,
            reason: wire::Reason::Best,
            price: 0.0,
            freshness,
            budget,
            promised_us: None,
            reply: None,
            costs,
            pace,
            next: Next::Lexical,
            eligible: None,
            unknown: Vec::new(),
            lexical: Vec::new(),
            query: None,
            rows: Vec::new(),
            matrix: Matrix::default(),
            text_described: Vec::new(),
            scorers: Vec::new(),
            live_described: false,
            bm25_complete: false,
            order: Vec::new(),
            reached: Tier::Lexical,
            late_done: 0,
            cross_done: 0,
            settled,
            reading: None,
            helpers: 0,
            timings: wire::StageTimings::default(),
            lexical_match: None,
            nearest: None,
            gauge: None,
        }
    }

    /// Runs a fixed plan to its end on the calling thread.
    ///
    /// # Errors
    /// Those of the stages; `NotReady` if a part that the plan needs is missing.
    pub fn run(mut self) -> Result<Answer> {
        self.run_stages()?;
        self.answer()
    }

    /// Runs a fixed plan's stages and returns all candidates with all signals that its tier knows.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn run_signals(mut self) -> Result<(Vec<String>, Matrix)> {
        // All signals of all candidates, also of those that a search would not have read.
        self.plan.settled_pairs = 0;
        self.run_stages()?;
        let all: Vec<usize> = (0..self.rows.len()).collect();
        self.describe(&all, &Reading::everything())?;
        let mut ids = Vec::with_capacity(self.rows.len());
        let mut matrix = Matrix::unknown(self.rows.len());
        for (candidate, row) in self.rows.iter().enumerate() {
            if let Some(product) = self.generation.render(*row) {
                matrix
                    .row_mut(ids.len())
                    .copy_from_slice(self.matrix.row(candidate));
                ids.push(product.product_id);
            }
        }
        matrix.truncate(ids.len());
        Ok((ids, matrix))
    }

    fn run_stages(&mut self) -> Result<()> {
        while self.next != Next::Finish {
            self.advance(Pressure { others_wait: false })?;
        }
        Ok(())
    }

    /// Runs the next stage or chunk, or decides to stop with what there is.
    fn advance(&mut self, pressure: Pressure) -> Result<()> {
        match self.next {
            Next::Lexical => {
                self.check_time()?;
                self.run_lexical()?;
                self.next = if self.plan.tier >= Tier::Hybrid {
                    Next::Encode
                } else {
                    Next::Finish
                };
            }
            Next::Encode => {
                let retrieve = match self.ask.source {
                    Source::Search { .. } => Stage::Dense,
                    Source::Brought { .. } => Stage::Vectors,
                };
                // Encoding alone orders nothing: both steps or none.
                let needed_us =
                    self.pace.left(Stage::Encode).p95_us + self.pace.left(retrieve).p95_us;
                if self.affords(needed_us, pressure) {
                    let encoded = self.run_encode();
                    self.or_lower(encoded, Next::Dense)?;
                }
            }
            Next::Dense => {
                let fused = self.run_dense();
                let next = if self.rows.is_empty() || self.plan.tier < Tier::Late {
                    Next::Finish
                } else {
                    Next::Late
                };
                self.or_lower(fused, next)?;
            }
            Next::Late => {
                let total = plan::late_depth(&self.plan, self.rows.len());
                let chunk = LATE_CHUNK.min(total - self.late_done);
                let needed_us = self.chunk_estimate(Stage::Late, chunk).p95_us;
                if self.affords(needed_us, pressure) {
                    let scored = self.run_late(chunk);
                    let next = if self.late_done < total {
                        Next::Late
                    } else if self.plan.tier > Tier::Late {
                        Next::Cross
                    } else {
                        Next::Finish
                    };
                    self.or_lower(scored, next)?;
                    if self.next == Next::Cross {
                        self.begin_cross();
                    }
                }
            }
            Next::Cross => self.advance_cross(pressure)?,
            Next::Finish => {}
        }
        Ok(())
    }

    /// Goes on to `next` after a stage that worked; after one that could not run, answers with the order there is.
    fn or_lower(&mut self, ran: Result<bool>, next: Next) -> Result<()> {
        match ran {
            Ok(true) => self.next = next,
            ran if self.budget.is_some() => {
                if let Err(error) = ran {
                    self.services.failures.note(&error);
                }
                self.reason = wire::Reason::Dependency;
                self.next = Next::Finish;
            }
            Ok(false) => {
                return Err(Error::NotReady(format!(
                    "a part that tier {} needs is missing in generation {}",
                    self.plan.tier,
                    self.generation.id()
                )));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn chunk_estimate(&self, stage: Stage, units: usize) -> Estimate {
        #[allow(clippy::cast_precision_loss)]
        self.costs.estimate(stage, 1.0, units as f64)
    }

    /// Refuses to begin what cannot end in time.
    fn check_time(&self) -> Result<()> {
        let first = match self.ask.source {
            Source::Search { .. } => Stage::Lexical,
            Source::Brought { .. } => Stage::Score,
        };
        let needed_us = self.pace.left(first).mean_us;
        if self.pace.hopeless(self.services.clock.now_us(), needed_us) {
            return Err(Error::DeadlineExceeded(
                "the budget was spent waiting behind other work".to_owned(),
            ));
        }
        Ok(())
    }

    /// True if the next piece of work, allowing for its tail, leaves time to answer; if not, the answer comes next.
    fn affords(&mut self, needed_us: f64, pressure: Pressure) -> bool {
        let refused = self.refused(needed_us, pressure);
        if let Some(reason) = refused {
            self.stop(reason);
        }
        refused.is_none()
    }

    /// Why the next piece of work, allowing for its tail, would not leave time to answer; `None`: it would.
    fn refused(&self, needed_us: f64, pressure: Pressure) -> Option<wire::Reason> {
        let now_us = self.services.clock.now_us();
        match self.pace.affords(now_us, needed_us, pressure.others_wait) {
            Verdict::Go => None,
            Verdict::TooLate => Some(wire::Reason::Deadline),
            Verdict::Loaded => Some(wire::Reason::Load),
        }
    }

    /// Answers next, with the order there is.
    fn stop(&mut self, reason: wire::Reason) {
        // What kept the planner from a better plan stays the reason.
        if self.reason == wire::Reason::Best || self.reason == wire::Reason::Deadline {
            self.reason = reason;
        }
        self.next = Next::Finish;
    }

    /// Accounts for a whole stage, or for the chunk of it that `part` had predicted, that ran from `from_us` until now;
    /// returns its length.
    fn ran(&mut self, stage: Stage, part: Option<Estimate>, units: usize, from_us: u64) -> u64 {
        let now_us = self.services.clock.now_us();
        let took_us = now_us.saturating_sub(from_us);
        self.pace.ran(stage, part, took_us);
        #[allow(clippy::cast_precision_loss)]
        let (units, us) = (units as f64, took_us as f64);
        match &self.gauge {
            Some(gauge) => gauge.lock().push((stage, units, us)),
            // A fixed plan may be run on any thread at any width; it says little about served requests.
            None if self.budget.is_none() => {}
            None => self.services.costs.record(stage, 1.0, units, us, now_us),
        }
        took_us
    }

    /// Accounts for ordering between two stages; it is part of the final order's prediction.
    fn ordered(&mut self, from_us: u64) {
        let took_us = self.services.clock.now_us().saturating_sub(from_us);
        self.pace
            .ran(Stage::Order, Some(Estimate::default()), took_us);
        self.timings.order_us += took_us;
    }

    fn run_lexical(&mut self) -> Result<()> {
        let from_us = self.services.clock.now_us();
        let stage;
        let units;
        match &self.ask.source {
            Source::Search { filter, .. } => {
                self.eligible = self.generation.filter(filter.as_ref())?;
                let (found, seen) = self.generation.lexical_seen(
                    &self.ask.query,
                    self.plan.width,
                    self.eligible.as_ref(),
                )?;
                self.lexical = found;
                self.lexical_match = Some(seen);
                self.rows = self.lexical.iter().map(|(row, _)| *row).collect();
                (stage, units) = (Stage::Lexical, self.ask.keys.len());
            }
            Source::Brought { product_ids } => {
                for id in product_ids {
                    match self.generation.row(id) {
                        Some(row) => self.rows.push(row),
                        None => self.unknown.push(id.clone()),
                    }
                }
                let scores = self.generation.lexical_score(&self.ask.query, &self.rows)?;
                self.lexical = self
                    .rows
                    .iter()
                    .copied()
                    .zip(scores)
                    .filter(|(_, score)| *score > 0.0)
                    .collect();
                self.lexical.sort_by(|a, b| b.1.total_cmp(&a.1));
                self.bm25_complete = true;
                (stage, units) = (Stage::Score, product_ids.len());
            }
        }
        self.reset_matrix();
        self.order = (0..self.rows.len())
            .map(|candidate| (candidate, self.matrix.get(candidate, Column::Bm25)))
            .collect();
        sort(&mut self.order);
        self.timings.retrieve_us += self.ran(stage, None, units, from_us);
        Ok(())
    }

    /// Lays the matrix out for the current rows and sets the lexical signals.
    fn reset_matrix(&mut self) {
        self.matrix = Matrix::unknown(self.rows.len());
        if self.ask.explain {
            self.scorers = vec![Scorer::Signal(Column::Bm25); self.rows.len()];
        }
        self.text_described = vec![false; self.rows.len()];
        self.live_described = false;
        let best = self.lexical.first().map_or(0.0, |(_, score)| *score);
        // Right after lexical retrieval the candidates are its list, and nobody has to be looked up.
        let same = self.rows.iter().eq(self.lexical.iter().map(|(row, _)| row));
        let places: HashMap<Row, usize> = if same {
            HashMap::new()
        } else {
            self.lexical
                .iter()
                .enumerate()
                .map(|(place, (row, _))| (*row, place))
                .collect()
        };
        for (candidate, row) in self.rows.iter().enumerate() {
            let place = if same {
                Some(candidate)
            } else {
                places.get(row).copied()
            };
            let found = place.map(|place| (place + 1, self.lexical[place].1));
            let (rank, score) = match found {
                Some((place, score)) => (1.0 / as_f64(place), f64::from(score)),
                None if self.bm25_complete => (0.0, 0.0),
                None => (0.0, f64::NAN),
            };
            self.matrix.set(candidate, Column::Bm25Rank, rank);
            self.matrix.set(candidate, Column::Bm25, score);
            self.matrix
                .set(candidate, Column::Bm25Share, share(score, f64::from(best)));
        }
    }

    /// BM25F of candidates that only dense retrieval found.
    fn complete_bm25(&mut self) -> Result<()> {
        if self.bm25_complete {
            return Ok(());
        }
        self.bm25_complete = true;
        let missing: Vec<usize> = (0..self.rows.len())
            .filter(|candidate| self.matrix.get(*candidate, Column::Bm25).is_nan())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let rows: Vec<Row> = missing
            .iter()
            .map(|candidate| self.rows[*candidate])
            .collect();
        let scores = self.generation.lexical_score(&self.ask.query, &rows)?;
        let best = self.lexical.first().map_or(0.0, |(_, score)| *score);
        for (candidate, score) in missing.into_iter().zip(scores) {
            self.matrix.set(candidate, Column::Bm25, f64::from(score));
            self.matrix.set(
                candidate,
                Column::Bm25Share,
                share(f64::from(score), f64::from(best)),
            );
        }
        Ok(())
    }

    fn run_encode(&mut self) -> Result<bool> {
        let from_us = self.services.clock.now_us();
        let query = self.services.bundle.encoder.query(&self.ask.query);
        self.timings.encode_us += self.ran(Stage::Encode, None, self.ask.keys.len(), from_us);
        self.query = Some(query?);
        Ok(true)
    }

    fn run_dense(&mut self) -> Result<bool> {
        let from_us = self.services.clock.now_us();
        let query = self
            .query
            .take()
            .ok_or_else(|| Error::Internal("dense retrieval before encoding".to_owned()))?;
        let fused = self.fuse(&query);
        self.query = Some(query);
        let (stage, units) = match self.ask.source {
            Source::Search { .. } => (Stage::Dense, self.plan.width),
            Source::Brought { .. } => (Stage::Vectors, self.rows.len()),
        };
        self.timings.retrieve_us += self.ran(stage, None, units, from_us);
        let fused = fused?;
        if fused && self.plan.tier >= Tier::Late {
            // The ranker's order matters here only if it decides who is left out.
            if plan::late_depth(&self.plan, self.rows.len()) < self.rows.len() {
                let order_from_us = self.services.clock.now_us();
                let all: Vec<usize> = self.order.iter().map(|(candidate, _)| *candidate).collect();
                self.order = self.rank(Tier::Hybrid, &all)?;
                self.ordered(order_from_us);
            }
        }
        Ok(fused)
    }

    /// Dense list, fusion, dense scores of all candidates. False: there is no dense index or not one vector.
    fn fuse(&mut self, query: &EncodedQuery) -> Result<bool> {
        let mut cosines;
        let dense = match self.ask.source {
            Source::Search { .. } => {
                let Some(dense) =
                    self.generation
                        .dense(&query.dense, self.plan.width, self.eligible.as_ref())?
                else {
                    return Ok(false);
                };
                self.nearest = dense.first().map(|(_, cosine)| *cosine);
                let fused = fuse(
                    &self.lexical,
                    Some(&dense),
                    &self.services.bundle.lexical.fusion,
                );
                self.rows = fused.iter().map(|(row, _)| *row).collect();
                self.reset_matrix();
                cosines = vec![f32::NAN; self.rows.len()];
                self.generation
                    .dense_score(&query.dense, &self.rows, &mut cosines);
                for (candidate, (_, score)) in fused.iter().enumerate() {
                    self.matrix.set(candidate, Column::Fused, f64::from(*score));
                }
                dense
            }
            Source::Brought { .. } => {
                cosines = vec![f32::NAN; self.rows.len()];
                self.generation
                    .dense_score(&query.dense, &self.rows, &mut cosines);
                let mut dense: Vec<(Row, f32)> = self
                    .rows
                    .iter()
                    .copied()
                    .zip(cosines.iter().copied())
                    .filter(|(_, cosine)| !cosine.is_nan())
                    .collect();
                if dense.is_empty() && !self.rows.is_empty() {
                    return Ok(false);
                }
                dense.sort_by(|a, b| b.1.total_cmp(&a.1));
                let fused: HashMap<Row, f32> = fuse(
                    &self.lexical,
                    Some(&dense),
                    &self.services.bundle.lexical.fusion,
                )
                .into_iter()
                .collect();
                for (candidate, row) in self.rows.iter().enumerate() {
                    let score = fused.get(row).map_or(f64::NAN, |score| f64::from(*score));
                    self.matrix.set(candidate, Column::Fused, score);
                }
                dense
            }
        };
        let places: HashMap<Row, usize> = dense
            .iter()
            .enumerate()
            .map(|(place, (row, _))| (*row, place + 1))
            .collect();
        for (candidate, row) in self.rows.iter().enumerate() {
            let rank = places.get(row).map_or(0.0, |place| 1.0 / as_f64(*place));
            self.matrix.set(candidate, Column::DenseRank, rank);
            self.matrix
                .set(candidate, Column::Dense, f64::from(cosines[candidate]));
        }
        self.order = (0..self.rows.len())
            .map(|candidate| (candidate, self.matrix.get(candidate, Column::Fused)))
            .collect();
        sort(&mut self.order);
        if self.ask.explain {
            self.scorers = vec![Scorer::Signal(Column::Fused); self.rows.len()];
        }
        self.reached = Tier::Hybrid;
        Ok(true)
    }

    fn run_late(&mut self, chunk: usize) -> Result<bool> {
        let from_us = self.services.clock.now_us();
        let query = self
            .query
            .as_ref()
            .ok_or_else(|| Error::Internal("late interaction before encoding".to_owned()))?;
        let members: Vec<usize> = self.order[self.late_done..self.late_done + chunk]
            .iter()
            .map(|(candidate, _)| *candidate)
            .collect();
        let rows: Vec<Row> = members
            .iter()
            .map(|candidate| self.rows[*candidate])
            .collect();
        let mut scores = vec![f32::NAN; rows.len()];
        self.generation.late(&query.tokens, &rows, &mut scores);
        for (candidate, score) in members.iter().zip(&scores) {
            self.matrix.set(*candidate, Column::Late, f64::from(*score));
        }
        self.late_done += chunk;
        let part = self.chunk_estimate(Stage::Late, chunk);
        self.timings.late_us += self.ran(Stage::Late, Some(part), chunk, from_us);
        // Vectors of new products follow in the background; not one among the best means that none are there yet.
        if self.reached < Tier::Late && scores.iter().all(|score| score.is_nan()) {
            self.late_done = 0;
            return Ok(false);
        }
        self.reached = Tier::Late;
        let total = plan::late_depth(&self.plan, self.rows.len());
        if self.late_done >= total && self.plan.tier > Tier::Late {
            let order_from_us = self.services.clock.now_us();
            self.order = self.late_order()?;
            self.ordered(order_from_us);
        }
        Ok(true)
    }

    /// Orders, pages, renders and encodes the answer.
    fn answer(&mut self) -> Result<Answer> {
        let order_from_us = self.services.clock.now_us();
        let ordered = self.rows.len();
        let mut order = self.final_order()?;
        fill_unknown(&mut order);
        self.timings.order_us += self.ran(Stage::Order, None, ordered, order_from_us);
        let mut personal = self.personal(&mut order);

        let mut facets = Vec::new();
        let offset = self.offset();
        if let Source::Search { facets: fields, .. } = &self.ask.source
            && !fields.is_empty()
        {
            let from_us = self.services.clock.now_us();
            facets = self
                .generation
                .facets(&self.ask.query, fields, self.eligible.as_ref())?;
            let fields = fields.len();
            self.timings.retrieve_us += self.ran(Stage::Facets, None, fields, from_us);
        }

        let reply_from_us = self.services.clock.now_us();
        let page: Order = order.into_iter().skip(offset).take(self.ask.page).collect();
        if self.ask.explain {
            let members: Vec<usize> = page.iter().map(|(candidate, _)| *candidate).collect();
            self.describe(&members, &Reading::everything())?;
        }
        let mut results = Vec::with_capacity(page.len());
        for (candidate, score) in page {
            // A product deleted meanwhile has no face any more.
            let Some(mut product) = self.generation.render(self.rows[candidate]) else {
                continue;
            };
            product.score = score;
            let moved = personal.moved.remove(&candidate);
            if self.ask.explain {
                let adds = moved.as_ref().map_or(0.0, |moved| moved.adds);
                self.explain(candidate, adds, &mut product);
                if let Some(moved) = moved {
                    moved.explain(&mut product);
                }
            }
            results.push(product);
        }
        let mut receipt = self.receipt();
        receipt.taste = personal.taste.into();
        let (depth, worth) = (receipt.depth as usize, receipt.expected_ndcg);
        let now_us = self.services.clock.now_us();
        let total_us = now_us.saturating_sub(self.pace.started_us());
        let rendering_us = now_us.saturating_sub(reply_from_us);
        self.timings.total_us = total_us;
        self.timings.queue_us = total_us.saturating_sub(self.pace.busy_us() + rendering_us);
        receipt.timings = Some(self.timings);
        let bytes = match &self.ask.source {
            Source::Search { .. } => wire::SearchResponse {
                results,
                receipt: Some(receipt),
                facets,
                history: personal.history,
            }
            .encode_to_vec(),
            Source::Brought { .. } => wire::RerankResponse {
                results,
                receipt: Some(receipt),
                unknown_product_ids: std::mem::take(&mut self.unknown),
            }
            .encode_to_vec(),
        };
        self.ran(Stage::Reply, None, self.ask.page, reply_from_us);
        Ok(Answer {
            bytes,
            tier: self.reached,
            reason: self.reason,
            account: Account {
                tier: self.reached,
                reason: self.reason,
                depth,
                planned_worth: self.services.planner.worth(
                    self.plan.tier,
                    self.plan.depth,
                    self.width(),
                ),
                worth,
                price: self.price,
                timings: self.timings,
                words: self.ask.keys.len(),
                lexical: self.lexical_match,
                nearest: self.nearest,
                taste: personal.taste,
            },
        })
    }

    /// Results to skip.
    fn offset(&self) -> usize {
        match self.ask.source {
            Source::Search { offset, .. } => offset,
            Source::Brought { .. } => 0,
        }
    }

    /// Candidates retrieved from each side; those that the caller brought are all there are.
    fn width(&self) -> usize {
        match self.ask.source {
            Source::Search { .. } => self.plan.width,
            Source::Brought { .. } => usize::MAX,
        }
    }

    /// Gives a result its signals, and what each of them adds to its score, to which a shopper's history added `adds`.
    fn explain(&self, candidate: usize, adds: f64, product: &mut wire::RankedProduct) {
        let row = self.matrix.row(candidate);
        let parts = match self.scorers.get(candidate) {
            Some(Scorer::Ranker(tier)) => {
                let forest = self.services.bundle.rankers.get(tier);
                let reading = self.services.readings.of(*tier);
                forest
                    .zip(reading)
                    .and_then(|(forest, reading)| signals::contributions(forest, reading, row))
            }
            Some(Scorer::Signal(column)) if !row[*column as usize].is_nan() => {
                let mut parts = vec![f64::NAN; signals::COUNT];
                parts[*column as usize] = row[*column as usize];
                Some(parts)
            }
            _ => None,
        };
        let known = |value: f64| (!value.is_nan()).then_some(value);
        // The base takes what the score was moved by as well, to stand below those of a better tier.
        product.base_score = parts.as_ref().map(|parts| {
            product.score - adds - parts.iter().filter(|part| !part.is_nan()).sum::<f64>()
        });
        let part_of = |at: usize| parts.as_ref().and_then(|parts| known(parts[at]));
        product.signals = signals::NAMES
            .iter()
            .zip(row)
            .enumerate()
            .map(|(at, (name, value))| wire::Signal {
                name: (*name).to_owned(),
                value: known(*value),
                contribution: part_of(at),
            })
            .collect();
    }

    fn receipt(&self) -> wire::Receipt {
        let planner = &self.services.planner;
        let candidates = self.rows.len();
        let depth = match self.reached {
            Tier::Lexical | Tier::Hybrid => 0,
            Tier::Late => self.late_done,
            Tier::CrossSmall | Tier::CrossLarge => self.cross_done,
        };
        // Re-ranking all there is is worth as much as a deeper plan.
        let reach = if depth >= candidates {
            usize::MAX
        } else {
            depth
        };
        let width = self.width();
        let (tier, expected_ndcg) = if candidates == 0 && self.reason != wire::Reason::Dependency {
            // Nothing to order: the plan was executed in full.
            (
                self.plan.tier,
                planner.worth(self.plan.tier, self.plan.depth, width),
            )
        } else {
            (self.reached, planner.worth(self.reached, reach, width))
        };
        wire::Receipt {
            tier: tier.to_wire().into(),
            depth: u32::try_from(depth).unwrap_or(u32::MAX),
            candidates: u32::try_from(candidates).unwrap_or(u32::MAX),
            expected_ndcg,
            reason: self.reason.into(),
            planned_tier: self.plan.tier.to_wire().into(),
            planned_depth: u32::try_from(self.plan.depth).unwrap_or(u32::MAX),
            timings: None,
            price: self.price,
            bundle_id: self.services.bundle.id.clone(),
            generation_id: self.generation.id().to_owned(),
            epoch: self.freshness.epoch,
            applied_sequence: self.freshness.applied_sequence,
            staleness_ms: self.freshness.staleness_ms,
            replica: self.services.replica.clone(),
            query_truncated: self.query.as_ref().is_some_and(|query| query.truncated),
            budget_us: self
                .budget
                .map_or(0, |budget| budget.deadline_us - budget.arrived_us),
            // The front names what it sends.
            receipt_id: String::new(),
            taste: 0,
        }
    }

    fn send(&mut self, result: Result<Answer>) {
        if let Some(reply) = self.reply.take() {
            let now_us = self.services.clock.now_us();
            if let Some(promised_us) = self.promised_us {
                let over_us = now_us.saturating_sub(promised_us);
                // A caller that leaves early tells nothing; one that leaves after the promise was broken does.
                if over_us > 0 || !matches!(result, Err(Error::Cancelled)) {
                    self.services.stalls.note(now_us, over_us);
                }
            }
            let deadline_us = self.budget.map(|budget| budget.deadline_us);
            let late = deadline_us.is_some_and(|at| now_us > at);
            if late || matches!(result, Err(Error::DeadlineExceeded(_))) {
                self.services.price.missed();
            }
            reply.send(result);
        }
    }
}

impl Work for Job {
    fn abandoned(&self) -> bool {
        self.reply.as_ref().is_some_and(Reply::abandoned)
    }

    fn overtaken(&mut self) {
        self.promised_us = None;
    }

    fn remaining_us(&self) -> u64 {
        if self.next == Next::Finish {
            return whole_us(self.pace.closing().mean_us);
        }
        self.pace.remaining_us()
    }

    fn step_us(&self) -> u64 {
        let left = |stage: Stage| self.pace.left(stage).mean_us;
        whole_us(match self.next {
            Next::Lexical => left(Stage::Lexical) + left(Stage::Score),
            Next::Encode => left(Stage::Encode),
            Next::Dense => left(Stage::Dense) + left(Stage::Vectors),
            Next::Late => self
                .chunk_estimate(Stage::Late, LATE_CHUNK)
                .mean_us
                .min(left(Stage::Late)),
            Next::Cross => self.cross_step().mean_us,
            Next::Finish => self.pace.closing().mean_us,
        })
    }
}

impl Task for Job {
    fn step(&mut self, pressure: Pressure) -> Step {
        let advanced = self.advance(pressure);
        if let Err(error) = advanced {
            self.send(Err(error));
            return Step::Done;
        }
        if self.next != Next::Finish {
            return Step::Again;
        }
        // Answering is short; giving way right before it would only make the answer late.
        let answer = self.answer();
        self.send(answer);
        Step::Done
    }

    fn offer(&self) -> Option<Arc<dyn Offer>> {
        self.reading.as_ref().and_then(cross::Reading::offer)
    }

    fn leave(&mut self, why: Leaving) {
        self.send(Err(match why {
            Leaving::Abandoned => Error::Cancelled,
            Leaving::Expired => {
                Error::DeadlineExceeded("the budget was spent waiting behind other work".to_owned())
            }
        }));
    }
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(value: usize) -> f64 {
    value as f64
}
