//! One process's ranking engine: a bundle, the generation being served, one scheduler.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::{Condvar, Mutex};

use crate::account::{Accounted, Accounts};
use crate::bundle::{Bundle, PlanSpec, Tier};
use crate::error::{Error, Result, Violation};
use crate::generation::Generation;
use crate::model::Choice;
use crate::plan::cost::{CostBook, Estimate, Rate, Stage};
use crate::plan::help::HelpBook;
use crate::plan::pace::whole_us;
use crate::plan::price::{Price, Pricing};
use crate::plan::priority::Priority;
use crate::plan::stalls::Stalls;
use crate::plan::way_back::WayBack;
use crate::plan::{Moment, Parts, Planner, stages};
use crate::recommend::admission::{self, Recommended};
use crate::recommend::answer::Known;
use crate::reply::{Cancel, Done, Pending, Reply, pair};
use crate::request::{
    Admitted, Answer, Ask, Budget, Failures, Freshness, Gauge, Job, Services, Source,
};
use crate::rerank::cross::PairScorer;
use crate::retrieve::DenseSearch;
use crate::schedule::clock::{Clock, MonotonicClock};
use crate::schedule::{Scheduler, retry_after_ms};
use crate::signals::{Matrix, Readings};

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Worker threads; 0: one per core.
    pub workers: usize,
    /// Name of this replica, for receipts.
    pub replica: String,
    /// Pairs in one chunk of a cross-encoder, at least 1.
    pub chunk_pairs: usize,
    /// Part of each budget kept for the way back beyond what the engine is told of it: see [`WayBack`]. Microseconds.
    pub reserve_us: u64,
    /// Most requests that wait or run at a time, at least 1; the lower classes are refused below it.
    pub queue_max: usize,
    /// When and how soon time is charged for.
    pub pricing: Pricing,
    /// What the models are run by.
    pub kernels: Choice,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 0,
            replica: String::new(),
            chunk_pairs: 4,
            reserve_us: 500,
            queue_max: 1_024,
            pricing: Pricing::default(),
            kernels: Choice::Auto,
        }
    }
}

/// How requests ended since the engine was made.
#[derive(Debug, Default)]
struct Counters {
    answered: [AtomicU64; Tier::ALL.len()],
    answered_by_priority: [AtomicU64; Priority::ALL.len()],
    refused_by_priority: [AtomicU64; Priority::ALL.len()],
    refused: AtomicU64,
    expired: AtomicU64,
    cancelled: AtomicU64,
    invalid: AtomicU64,
    failed: AtomicU64,
    accounts: Accounts,
}

impl Counters {
    /// Counts an end. `priority`: the request's class; `None`: it was not understood so far. `in_time`: the answer is ready
    /// before the deadline.
    fn count(&self, priority: Option<Priority>, result: &Result<Answer>, in_time: bool) {
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

/// A request that was understood and has not been admitted yet.
struct Asked {
    ask: Ask,
    priority: Priority,
    budget: Budget,
    /// Behind all other work, and only while none waits.
    behind: bool,
    reply: Reply,
    pending: Pending,
}

/// A request that waits for the sequence it asks for.
struct Parked {
    asked: Asked,
    until_us: u64,
}

/// Requests that wait for a sequence; a thread of their own looks after them.
#[derive(Default)]
struct Parking {
    parked: Mutex<Vec<Parked>>,
    moved: Condvar,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A serialised `SearchRequest`; the answer is a `SearchResponse`.
    Search,
    /// A serialised `RerankRequest`; the answer is a `RerankResponse`.
    Rerank,
}

/// One request as it came in.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// What it asks for.
    pub method: Method,
    /// The serialised message.
    pub request: &'a [u8],
    /// When its budget was counted.
    pub arrived: Instant,
    /// What was left of its budget then, microseconds.
    pub remaining_us: u64,
    /// The class that the call's metadata name.
    pub priority: Option<&'a str>,
}

#[derive(Debug, Clone, Copy)]
struct Observed {
    epoch: u64,
    caught_up: Instant,
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
}

/// Budgets are cut to this; it keeps absolute deadlines far from overflow.
const BUDGET_MAX_US: u64 = 3_600_000_000;
/// Added to the place in the queue of work that goes behind all other: no deadline is further away.
const BEHIND_US: u64 = 2 * BUDGET_MAX_US;

/// The workers of a process, and the engines that share them and the way to the callers. The last engine to close stops
/// them.
struct Crew {
    scheduler: Scheduler,
    clock: Arc<dyn Clock>,
    way_back: Arc<WayBack>,
    stalls: Arc<Stalls>,
    engines: AtomicUsize,
}

/// The engine. Shared by all threads of a process; [`Engine::close`] or dropping it stops its threads.
pub struct Engine {
    core: Arc<Core>,
    opened: Arc<Mutex<Vec<Weak<Generation>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the engine's own threads share with it.
struct Core {
    services: Arc<Services>,
    crew: Arc<Crew>,
    queue_max: usize,
    serving: ArcSwapOption<Generation>,
    parking: Parking,
    observed: Mutex<Observed>,
    /// The log cannot be read, so that waiting for a sequence is in vain.
    log_away: AtomicBool,
    counters: Arc<Counters>,
    recommending: Arc<admission::Costs>,
    closing: AtomicBool,
}

impl Engine {
    /// Opens the bundle in `bundle` and starts the workers. `runtime_library` is the path of `libonnxruntime.so`.
    ///
    /// # Errors
    /// `Bundle`, naming the file; `InvalidRequest` for settings out of range.
    pub fn new(bundle: &Path, runtime_library: &Path, settings: Settings) -> Result<Self> {
        Self::on(None, bundle, runtime_library, settings)
    }

    /// Opens another bundle on the workers of this engine: both take turns in one queue, by deadline, and nothing is
    /// doubled but the models. The number of workers in `settings` is passed over.
    ///
    /// # Errors
    /// As [`Engine::new`]; `NotReady` if this engine is closed.
    pub fn beside(
        &self,
        bundle: &Path,
        runtime_library: &Path,
        settings: Settings,
    ) -> Result<Self> {
        if self.core.closing.load(Ordering::SeqCst) {
            return Err(Error::NotReady("the engine is closed".to_owned()));
        }
        Self::on(
            Some(Arc::clone(&self.core.crew)),
            bundle,
            runtime_library,
            settings,
        )
    }

    fn on(
        crew: Option<Arc<Crew>>,
        bundle: &Path,
        runtime_library: &Path,
        settings: Settings,
    ) -> Result<Self> {
        let mut violations = Vec::new();
        for (field, value) in [
            ("chunk_pairs", settings.chunk_pairs),
            ("queue_max", settings.queue_max),
        ] {
            if value == 0 {
                violations.push(Violation {
                    field: field.to_owned(),
                    description: "must be at least 1".to_owned(),
                });
            }
        }
        if !violations.is_empty() {
            return Err(Error::InvalidRequest(violations));
        }
        let bundle = Bundle::open_with(bundle, runtime_library, settings.kernels)?;
        // Deadlines are told by the clock of the queue that they are compared in.
        let clock = crew.as_ref().map_or_else(
            || Arc::new(MonotonicClock::new()) as Arc<dyn Clock>,
            |crew| Arc::clone(&crew.clock),
        );
        let services = Arc::new(Services {
            costs: CostBook::new(),
            planner: Planner::new(&bundle.plans),
            way_back: crew.as_ref().map_or_else(
                || Arc::new(WayBack::new(settings.reserve_us)),
                |crew| Arc::clone(&crew.way_back),
            ),
            stalls: crew
                .as_ref()
                .map_or_else(Arc::default, |crew| Arc::clone(&crew.stalls)),
            readings: Readings::new(&bundle)?,
            clock: Arc::clone(&clock),
            replica: settings.replica,
            chunk: AtomicUsize::new(settings.chunk_pairs),
            failures: Failures::default(),
            price: Price::new(settings.pricing),
            help: HelpBook::default(),
            bundle,
        });
        let crew = match crew {
            Some(crew) => crew,
            None => Arc::new(Crew {
                scheduler: Scheduler::new(
                    workers(settings.workers),
                    settings.queue_max,
                    Arc::clone(&clock),
                )?,
                clock,
                way_back: Arc::clone(&services.way_back),
                stalls: Arc::clone(&services.stalls),
                engines: AtomicUsize::new(0),
            }),
        };
        crew.engines.fetch_add(1, Ordering::SeqCst);
        let core = Arc::new(Core {
            crew,
            services,
            queue_max: settings.queue_max,
            serving: ArcSwapOption::empty(),
            parking: Parking::default(),
            observed: Mutex::new(Observed {
                epoch: 0,
                caught_up: Instant::now(),
            }),
            log_away: AtomicBool::new(false),
            counters: Arc::new(Counters::default()),
            recommending: Arc::default(),
            closing: AtomicBool::new(false),
        });
        let engine = Self {
            core,
            opened: Arc::new(Mutex::new(Vec::new())),
            threads: Mutex::new(Vec::with_capacity(2)),
        };
        engine.start_encoding()?;
        engine.start_unparking()?;
        Ok(engine)
    }

    /// The bundle.
    #[must_use]
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.core.services.bundle
    }

    /// Has the pairs of a cross-encoder tier scored by `delegate` from now on, where it can, in chunks of `chunk_pairs`;
    /// without one by the model of the bundle, on the engine's workers.
    ///
    /// Costs are those that the last warm-up saw: run [`Engine::warm_up`] after it.
    ///
    /// # Errors
    /// `InvalidRequest` if the bundle has no such cross-encoder, or for chunks of no pairs.
    pub fn delegate(
        &self,
        tier: Tier,
        delegate: Option<Arc<dyn PairScorer>>,
        chunk_pairs: usize,
    ) -> Result<()> {
        let invalid = |field: &str, description: String| {
            Err(Error::InvalidRequest(vec![Violation {
                field: field.to_owned(),
                description,
            }]))
        };
        let Some(cross) = self.core.services.bundle.cross(tier) else {
            let id = &self.core.services.bundle.id;
            return invalid("tier", format!("bundle {id} has no {tier}"));
        };
        if chunk_pairs == 0 {
            return invalid("chunk_pairs", "must be at least 1".to_owned());
        }
        cross.delegate(delegate);
        self.core
            .services
            .chunk
            .store(chunk_pairs, Ordering::Relaxed);
        Ok(())
    }

    /// A generation without products.
    ///
    /// # Errors
    /// `Generation`.
    pub fn empty(&self) -> Result<Arc<Generation>> {
        let generation = Generation::empty(Arc::clone(&self.core.services.bundle))?;
        self.adopt(&generation);
        Ok(generation)
    }

    /// Opens a built generation. `dense` searches its dense index; `None`: there is none.
    ///
    /// # Errors
    /// `Generation`, naming the file.
    pub fn open(&self, dir: &Path, dense: Option<Arc<dyn DenseSearch>>) -> Result<Arc<Generation>> {
        let generation = Generation::open(dir, Arc::clone(&self.core.services.bundle), dense)?;
        self.adopt(&generation);
        Ok(generation)
    }

    fn adopt(&self, generation: &Arc<Generation>) {
        let mut opened = self.opened.lock();
        opened.retain(|other| other.strong_count() > 0);
        opened.push(Arc::downgrade(generation));
    }

    /// Serves `generation` from now on; requests that run end on the one they began with.
    pub fn serve(&self, generation: Arc<Generation>) {
        self.core.serving.store(Some(generation));
        self.core.unpark();
    }

    /// The generation being served.
    ///
    /// # Errors
    /// `NotReady` if there is none.
    pub fn serving(&self) -> Result<Arc<Generation>> {
        self.core.serving()
    }

    /// Applies events to `generation` (see [`Generation::apply`]) and wakes requests that wait for them.
    ///
    /// # Errors
    /// Those of [`Generation::apply`].
    pub fn apply(&self, generation: &Generation, events: &[Vec<u8>]) -> Result<u64> {
        let applied = generation.apply(events);
        self.core.unpark();
        applied
    }

    /// An answer was handed to the socket `took` after it was given: the way back is kept of later budgets.
    pub fn handed_over(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let services = &self.core.services;
        services.way_back.note(services.clock.now_us(), took_us);
    }

    /// Tells the engine what the log looks like: called by the tailer at each poll.
    pub fn observe(&self, epoch: u64, head_sequence: u64) {
        let caught_up = self
            .core
            .serving
            .load()
            .as_ref()
            .is_some_and(|generation| generation.applied_sequence() >= head_sequence);
        let mut observed = self.core.observed.lock();
        observed.epoch = observed.epoch.max(epoch);
        if caught_up {
            observed.caught_up = Instant::now();
        }
        self.core.log_away.store(false, Ordering::SeqCst);
    }

    /// Lets so many workers take work from now on, of all engines that share them: at least one, at most as many as were
    /// started. Returns how many.
    pub fn resize(&self, workers: usize) -> usize {
        self.core.crew.scheduler.resize(workers)
    }

    /// Tells the engine that the log cannot be read: until the next [`Engine::observe`] a request that asks for a sequence
    /// which is not applied is refused at once, those that wait for one among them. Its caller is better off elsewhere.
    pub fn lose_log(&self) {
        if !self.core.log_away.swap(true, Ordering::SeqCst) {
            self.core.unpark();
        }
    }

    /// Replays the bundle's golden requests; an empty list means that they are reproduced.
    ///
    /// # Errors
    /// Those of the models.
    pub fn verify_golden(&self) -> Result<Vec<String>> {
        self.core.services.bundle.verify_golden()
    }

    /// Starts to answer a request; `done` is called once with how it ended, on any thread and perhaps before this returns,
    /// and must be short. A request that nobody ends before its budget is spent is ended by the thread that comes upon it;
    /// whoever wants to know at that very moment calls [`Pending::expire`].
    pub fn submit(
        &self,
        call: Call<'_>,
        done: impl FnOnce(Result<Answer>) + Send + 'static,
    ) -> Pending {
        self.core.submit(call, false, done)
    }

    /// As [`Engine::submit`], behind all other work: refused while other work waits for a worker, and every other request goes
    /// first between two of its chunks. Not counted.
    pub fn submit_behind(
        &self,
        call: Call<'_>,
        done: impl FnOnce(Result<Answer>) + Send + 'static,
    ) -> Pending {
        self.core.submit(call, true, done)
    }

    /// Answers a serialised `SearchRequest` within `remaining_us`, as [`Engine::submit`], and waits. `priority`: the class that
    /// the call's metadata name. `interrupted` is asked now and then whether to give up.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn search(
        &self,
        request: &[u8],
        remaining_us: u64,
        priority: Option<&str>,
        cancel: Option<&Cancel>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Answer> {
        let call = Call {
            method: Method::Search,
            request,
            arrived: Instant::now(),
            remaining_us,
            priority,
        };
        self.wait(call, cancel, interrupted)
    }

    /// Answers a serialised `RerankRequest`, as [`Engine::search`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn rerank(
        &self,
        request: &[u8],
        remaining_us: u64,
        priority: Option<&str>,
        cancel: Option<&Cancel>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Answer> {
        let call = Call {
            method: Method::Rerank,
            request,
            arrived: Instant::now(),
            remaining_us,
            priority,
        };
        self.wait(call, cancel, interrupted)
    }

    /// Answers a serialised `RecommendRequest`, into whose history the caller has put what feedback has told, within
    /// `remaining_us`, and waits. `priority`: the class that the call's metadata name. `now_unix_us`: the wall clock.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn recommend(
        &self,
        request: &[u8],
        remaining_us: u64,
        priority: Option<&str>,
        now_unix_us: u64,
    ) -> Result<Recommended> {
        let core = &self.core;
        let ask = crate::recommend::ask::Ask::new(request, now_unix_us)?;
        let priority = ask.priority(priority)?;
        let generation = core.serving()?;
        if generation.applied_sequence() < ask.min_sequence {
            return Err(Error::NotReady(format!(
                "sequence {} has not been applied",
                ask.min_sequence
            )));
        }
        let arrived_us = core.services.clock.now_us();
        let remaining_us = remaining_us.min(BUDGET_MAX_US);
        let deadline_us = arrived_us + remaining_us;
        let section = core.services.bundle.recommend.as_ref();
        let known = Known::new(&ask.history, section, &generation);
        let request = admission::Request {
            tiers: known.tiers(section, &generation),
            known,
            services: Arc::clone(&core.services),
            costs: Arc::clone(&core.recommending),
            freshness: core.freshness(&generation),
            generation,
            ask,
            priority,
            arrived_us,
            deadline_us,
        };
        let (sender, receiver) = sync_channel(1);
        let given_up = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&given_up);
        let in_flight_max = priority.in_flight_max(core.queue_max);
        let place = core.crew.scheduler.submit(deadline_us, move |load| {
            if load.in_flight >= in_flight_max {
                let retry_after_ms = retry_after_ms(load.delay_us);
                return Err(Error::Overloaded { retry_after_ms });
            }
            Ok(Box::new(request.admit(load, sender, told)?))
        })?;
        match receiver.recv_timeout(Duration::from_micros(remaining_us)) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                given_up.store(true, Ordering::Relaxed);
                place.forget();
                Err(Error::DeadlineExceeded(
                    "the budget was spent before the recommendation was ready".to_owned(),
                ))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::Internal("a request ended untold".to_owned()))
            }
        }
    }

    fn wait(
        &self,
        call: Call<'_>,
        cancel: Option<&Cancel>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Answer> {
        let deadline = call.arrived + Duration::from_micros(call.remaining_us.min(BUDGET_MAX_US));
        let (sender, receiver) = sync_channel(1);
        let pending = self.submit(call, move |result| {
            // A caller that a signal took away listens no more.
            let _ = sender.send(result);
        });
        if let Some(cancel) = cancel {
            cancel.attach(&pending);
        }
        loop {
            let wait = deadline.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(wait.min(INTERRUPT_CHECK)) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => {
                    if Instant::now() >= deadline {
                        pending.expire();
                    } else if interrupted() {
                        pending.cancel();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Internal("a request ended untold".to_owned()));
                }
            }
        }
    }

    /// Answers a serialised `SearchRequest` with a fixed plan and no deadline, on the calling thread.
    ///
    /// # Errors
    /// See [`Error`]; `NotReady` if a part of the plan is missing.
    pub fn execute(
        &self,
        request: &[u8],
        tier: Tier,
        depth: usize,
        width: usize,
    ) -> Result<Answer> {
        self.fixed(Ask::search(request)?, tier, depth, width)?.run()
    }

    /// Answers a serialised `RerankRequest` with a fixed plan and no deadline, on the calling thread.
    ///
    /// # Errors
    /// As [`Engine::execute`].
    pub fn execute_rerank(&self, request: &[u8], tier: Tier, depth: usize) -> Result<Answer> {
        self.fixed(Ask::rerank(request)?, tier, depth, usize::MAX)?
            .run()
    }

    /// Product ids and all signals that `tier` knows, for the candidates that the caller names or, without names, for those
    /// that a search of this width finds. Unknown products are left out.
    ///
    /// # Errors
    /// As [`Engine::execute`].
    pub fn signals(
        &self,
        query: &str,
        tier: Tier,
        product_ids: Option<Vec<String>>,
        width: usize,
    ) -> Result<(Vec<String>, Matrix)> {
        use prost::Message;
        let ask = match product_ids {
            Some(product_ids) => Ask::rerank(
                &crate::wire::RerankRequest {
                    query: query.to_owned(),
                    product_ids,
                    ..Default::default()
                }
                .encode_to_vec(),
            )?,
            None => Ask::search(
                &crate::wire::SearchRequest {
                    query: query.to_owned(),
                    ..Default::default()
                }
                .encode_to_vec(),
            )?,
        };
        self.fixed(ask, tier, usize::MAX, width)?.run_signals()
    }

    fn fixed(&self, ask: Ask, tier: Tier, depth: usize, width: usize) -> Result<Job> {
        let invalid = |field: &str, description: String| {
            Error::InvalidRequest(vec![Violation {
                field: field.to_owned(),
                description,
            }])
        };
        if width == 0 {
            return Err(invalid("width", "must be at least 1".to_owned()));
        }
        if tier >= Tier::CrossSmall && self.core.services.bundle.cross(tier).is_none() {
            return Err(invalid(
                "tier",
                format!("bundle {} has no {tier}", self.core.services.bundle.id),
            ));
        }
        if tier >= Tier::Late && depth == 0 {
            return Err(invalid("depth", format!("tier {tier} re-ranks at least 1")));
        }
        let generation = self.serving()?;
        if generation.applied_sequence() < ask.min_sequence {
            return Err(Error::NotReady(format!(
                "sequence {} has not been applied",
                ask.min_sequence
            )));
        }
        let freshness = self.core.freshness(&generation);
        Ok(Job::fixed(
            Arc::clone(&self.core.services),
            generation,
            ask,
            PlanSpec {
                tier,
                depth: if tier < Tier::Late { 0 } else { depth },
                width,
                expected_ndcg: 0.0,
                low: 0.0,
                high: 0.0,
                cost_ms: 0.0,
                // A rule of the bundle, which its figures were measured with.
                settled_pairs: self
                    .core
                    .services
                    .planner
                    .plans()
                    .iter()
                    .find(|plan| plan.tier == tier)
                    .map_or(0, |plan| plan.settled_pairs),
            },
            freshness,
        ))
    }

    /// Runs every plan over the queries and takes the stage costs from what they took. Without a generation being served,
    /// only the models are warmed.
    ///
    /// # Errors
    /// Those of the stages.
    pub fn warm_up(&self, queries: &[String]) -> Result<()> {
        use prost::Message;
        let bundle = &self.core.services.bundle;
        let Some(generation) = self.core.serving.load_full() else {
            for query in queries {
                bundle.encoder.query(query)?;
            }
            return Ok(());
        };
        let plans: Vec<PlanSpec> = self.core.services.planner.plans().to_vec();
        let gauge = Gauge::default();
        // One round to touch files, caches and sessions; what it took is not typical.
        for round in 0..=WARM_UP_ROUNDS {
            let gauge = (round > 0).then_some(&gauge);
            for query in queries {
                let request = crate::wire::SearchRequest {
                    query: query.clone(),
                    facets: vec!["brand".to_owned()],
                    ..Default::default()
                };
                let Ok(ask) = Ask::search(&request.encode_to_vec()) else {
                    continue;
                };
                let mut found = Vec::new();
                for plan in &plans {
                    let Some(answer) = self.gauged(&generation, ask.clone(), plan, gauge)? else {
                        continue;
                    };
                    if let Ok(response) = crate::wire::SearchResponse::decode(&*answer.bytes) {
                        found = response.results;
                    }
                }
                let request = crate::wire::RerankRequest {
                    query: query.clone(),
                    product_ids: found.into_iter().map(|result| result.product_id).collect(),
                    ..Default::default()
                };
                let Ok(ask) = Ask::rerank(&request.encode_to_vec()) else {
                    continue;
                };
                for plan in plans.iter().filter(|plan| plan.tier <= Tier::Late) {
                    self.gauged(&generation, ask.clone(), plan, gauge)?;
                }
            }
        }
        let gauge = gauge.lock();
        for stage in Stage::ALL {
            let samples: Vec<(f64, f64)> = gauge
                .iter()
                .filter(|(measured, _, _)| *measured == stage)
                .map(|(_, units, us)| (*units, *us))
                .collect();
            if let Some(rate) = Rate::fit(&samples) {
                self.core.services.costs.calibrate(stage, rate);
            }
        }
        Ok(())
    }

    /// Runs one plan for [`Engine::warm_up`]; `None` where a part of it is missing.
    fn gauged(
        &self,
        generation: &Generation,
        ask: Ask,
        plan: &PlanSpec,
        gauge: Option<&Gauge>,
    ) -> Result<Option<Answer>> {
        if !self.core.parts(generation, &ask).allow(plan.tier) {
            return Ok(None);
        }
        let mut job = self.fixed(ask, plan.tier, plan.depth.max(1), plan.width)?;
        if let Some(gauge) = gauge {
            job.measure(Arc::clone(gauge));
        }
        match job.run() {
            Ok(answer) => Ok(Some(answer)),
            Err(Error::NotReady(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

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
        let shape = crate::plan::Shape {
            words: 3,
            brought: None,
            products,
            facets: 0,
            page: 10,
            chunk_pairs: self.core.services.chunk_pairs(),
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
        }
    }

    /// Stops the threads; requests that wait end as cancelled, later ones are refused. While another engine shares the
    /// workers, those go on, and what was admitted here ends as usual. Idempotent.
    pub fn close(&self) {
        let closed = self.core.closing.swap(true, Ordering::SeqCst);
        self.core.unpark();
        let threads: Vec<_> = self.threads.lock().drain(..).collect();
        for thread in threads {
            // The last owner may be a request's own thread.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
        if !closed && self.core.crew.engines.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.core.crew.scheduler.close();
        }
        for tier in [Tier::CrossSmall, Tier::CrossLarge] {
            if let Some(cross) = self.core.services.bundle.cross(tier) {
                cross.delegate(None);
            }
        }
        self.core.serving.store(None);
    }

    fn start(&self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|error| Error::Internal(format!("cannot start thread {name}: {error}")))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Vectors of new text follow here, so that applying events never waits for a model.
    fn start_encoding(&self) -> Result<()> {
        let (core, opened) = (Arc::clone(&self.core), Arc::clone(&self.opened));
        self.start("rank-encode", move || {
            let mut yielded = Instant::now();
            while !core.closing.load(Ordering::SeqCst) {
                // Requests go first, but a busy server must not starve new products of their vectors.
                let busy = core.crew.scheduler.depth().1 > 0;
                if busy && yielded.elapsed() < ENCODE_AT_LEAST_EVERY {
                    std::thread::sleep(ENCODE_PAUSE);
                    continue;
                }
                yielded = Instant::now();
                let generations: Vec<_> = opened.lock().iter().filter_map(Weak::upgrade).collect();
                let mut encoded = 0;
                for generation in generations {
                    if generation.pending() <= ENCODE_PENDING_MAX {
                        // A product that cannot be encoded stays findable by its words.
                        encoded += generation.encode_pending(ENCODE_BATCH).unwrap_or(0);
                    }
                }
                if encoded == 0 {
                    std::thread::sleep(ENCODE_IDLE);
                }
            }
        })
    }

    fn start_unparking(&self) -> Result<()> {
        let core = Arc::clone(&self.core);
        self.start("rank-park", move || core.look_after_parked())
    }
}

impl Core {
    fn serving(&self) -> Result<Arc<Generation>> {
        self.serving
            .load_full()
            .ok_or_else(|| Error::NotReady("no generation is being served".to_owned()))
    }

    fn freshness(&self, generation: &Generation) -> Freshness {
        let observed = *self.observed.lock();
        Freshness {
            epoch: observed.epoch.max(generation.epoch()),
            applied_sequence: generation.applied_sequence(),
            staleness_ms: u64::try_from(observed.caught_up.elapsed().as_millis())
                .unwrap_or(u64::MAX),
        }
    }

    fn submit(
        self: &Arc<Self>,
        call: Call<'_>,
        behind: bool,
        done: impl FnOnce(Result<Answer>) + Send + 'static,
    ) -> Pending {
        let ask = match call.method {
            Method::Search => Ask::search(call.request),
            Method::Rerank => Ask::rerank(call.request),
        };
        let understood = ask.and_then(|ask| Ok((ask.priority(call.priority)?, ask)));
        let priority = understood.as_ref().ok().map(|(priority, _)| *priority);
        let counters = Arc::clone(&self.counters);
        let (arrived, remaining_us) = (call.arrived, u128::from(call.remaining_us));
        let counted: Done = Box::new(move |result| {
            if !behind {
                let in_time = arrived.elapsed().as_micros() <= remaining_us;
                counters.count(priority, &result, in_time);
            }
            done(result);
        });
        let (reply, pending) = pair(counted);
        let (priority, ask) = match understood {
            Ok(understood) => understood,
            Err(error) => {
                reply.send(Err(error));
                return pending;
            }
        };
        let now_us = self.services.clock.now_us();
        let spent_us = u64::try_from(call.arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        let arrived_us = now_us.saturating_sub(spent_us);
        let asked = Asked {
            ask,
            priority,
            budget: Budget {
                arrived_us,
                deadline_us: arrived_us + call.remaining_us.min(BUDGET_MAX_US),
            },
            behind,
            reply,
            pending: pending.clone(),
        };
        match self.serving() {
            _ if self.closing.load(Ordering::SeqCst) => {
                let closed = Error::NotReady("the engine is closed".to_owned());
                asked.reply.send(Err(closed));
            }
            Err(error) => {
                asked.reply.send(Err(error));
            }
            Ok(generation) if generation.applied_sequence() >= asked.ask.min_sequence => {
                self.admit(generation, asked);
            }
            Ok(generation) => self.park(&generation, asked),
        }
        pending
    }

    /// Chooses a plan and lets the request into the queue, or refuses it.
    fn admit(&self, generation: Arc<Generation>, asked: Asked) {
        let Asked {
            ask,
            priority,
            budget,
            behind,
            reply,
            pending,
        } = asked;
        let clock = &self.services.clock;
        let freshness = self.freshness(&generation);
        let parts = self.parts(&generation, &ask);
        let shape = ask.shape(generation.products(), self.services.chunk_pairs());
        // What the closure does not take is still here to tell the caller why.
        let mut given = Some((generation, ask, reply));
        let (place_us, in_flight_max) = if behind {
            // Whoever compares has just been answered, by a worker that is counted until it has told so.
            let in_flight_max = self.crew.scheduler.workers() + 1;
            (budget.deadline_us + BEHIND_US, in_flight_max)
        } else {
            let in_flight_max = priority.in_flight_max(self.queue_max);
            (budget.deadline_us, in_flight_max)
        };
        let admitted = self.crew.scheduler.submit(place_us, |load| {
            let now_us = clock.now_us();
            let costs = self.services.costs.at(now_us);
            if load.in_flight >= in_flight_max {
                return Err(Error::Overloaded {
                    retry_after_ms: retry_after_ms(load.delay_us),
                });
            }
            let planner = &self.services.planner;
            let scale = planner.scale(&shape, &costs);
            let moment = Moment {
                budget_us: budget.deadline_us.saturating_sub(now_us),
                reserve_us: self.services.way_back.reserve_us(now_us),
                stall_us: self.services.stalls.allowed_us(now_us),
                delay_us: load.delay_us,
                parts,
                priority,
                price: self
                    .services
                    .price
                    .at(now_us, load.backlog_us, &scale, priority),
                help: self.services.help(load.helpers, now_us),
                help_idle: self.services.help(load.workers - 1, now_us),
            };
            let chosen = planner.choose(&shape, &moment, &costs)?;
            // What goes behind all other work is promised nothing.
            let promised_us = (!behind).then(|| now_us + whole_us(chosen.finish_us));
            let (generation, ask, reply) = given.take().expect("taken once");
            Ok(Box::new(Job::new(
                Arc::clone(&self.services),
                generation,
                ask,
                Admitted {
                    chosen,
                    budget,
                    promised_us,
                    costs,
                    helpers: moment.help.helpers,
                },
                freshness,
                reply,
            )))
        });
        match (admitted, given) {
            (Ok(place), _) => pending.on_end(Box::new(move || place.forget())),
            (Err(error), Some((_, _, reply))) => {
                reply.send(Err(error));
            }
            // The job was made and refused: it has told its caller by being dropped.
            (Err(_), None) => {}
        }
    }

    /// Lets the request wait for its sequence, as long as that leaves time for the cheapest plan.
    fn park(&self, generation: &Generation, asked: Asked) {
        let now_us = self.services.clock.now_us();
        let keep_us =
            self.services.way_back.reserve_us(now_us) + self.cheapest_us(generation, &asked.ask);
        let until_us = asked.budget.deadline_us.saturating_sub(keep_us);
        self.parking.parked.lock().push(Parked { asked, until_us });
        // Also so that a sequence applied right before is not missed.
        self.parking.moved.notify_one();
    }

    fn unpark(&self) {
        // Taken so that the thread is either before its look at the generation or asleep, never in between.
        drop(self.parking.parked.lock());
        self.parking.moved.notify_one();
    }

    fn look_after_parked(&self) {
        let mut parked = self.parking.parked.lock();
        loop {
            let closing = self.closing.load(Ordering::SeqCst);
            let away = self.log_away.load(Ordering::SeqCst);
            let now_us = self.services.clock.now_us();
            let serving = self.serving();
            let applied = serving
                .as_ref()
                .map_or(0, |generation| generation.applied_sequence());
            let leaves = |parked: &mut Parked| {
                closing
                    || away
                    || parked.until_us <= now_us
                    || parked.asked.ask.min_sequence <= applied
                    || parked.asked.pending.ended()
            };
            let leaving: Vec<Parked> = parked.extract_if(.., leaves).collect();
            if leaving.is_empty() {
                if closing {
                    return;
                }
                let next_us = parked.iter().map(|parked| parked.until_us).min();
                match next_us {
                    None => self.parking.moved.wait(&mut parked),
                    Some(next_us) => {
                        let wait = Duration::from_micros(next_us - now_us);
                        self.parking.moved.wait_for(&mut parked, wait);
                    }
                }
                continue;
            }
            drop(parked);
            for Parked { asked, .. } in leaving {
                match &serving {
                    _ if closing => {
                        asked.reply.send(Err(Error::Cancelled));
                    }
                    Ok(generation) if asked.ask.min_sequence <= applied => {
                        self.admit(Arc::clone(generation), asked);
                    }
                    _ => {
                        let wanted = asked.ask.min_sequence;
                        let why = if away {
                            ", and the log cannot be read"
                        } else {
                            ""
                        };
                        asked.reply.send(Err(Error::NotReady(format!(
                            "sequence {wanted} has not been applied; {applied} has{why}"
                        ))));
                    }
                }
            }
            parked = self.parking.parked.lock();
        }
    }

    fn cheapest_us(&self, generation: &Generation, ask: &Ask) -> u64 {
        let costs = self.services.costs.at(self.services.clock.now_us());
        let shape = ask.shape(generation.products(), self.services.chunk_pairs());
        let cheapest = self
            .services
            .planner
            .plans()
            .iter()
            .map(|plan| estimate(plan, &shape, &costs).p95_us)
            .fold(f64::INFINITY, f64::min);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        {
            cheapest as u64
        }
    }

    fn parts(&self, generation: &Generation, ask: &Ask) -> Parts {
        Parts {
            // Candidates that the caller brings need vectors, not an index.
            dense: matches!(ask.source, Source::Brought { .. }) || generation.has_dense(),
            cross_small: self.services.bundle.cross_small.is_some(),
            cross_large: self.services.bundle.cross_large.is_some(),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// Workers for a setting; 0: one per core.
fn workers(setting: usize) -> usize {
    match setting {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// How often a waiting caller is asked whether it was interrupted.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);

/// Measured runs of each plan and query in a warm-up.
const WARM_UP_ROUNDS: usize = 2;

/// Products encoded between two looks at the queue.
const ENCODE_BATCH: usize = 4;
/// More new text than this waits for the next generation, whose build encodes it.
const ENCODE_PENDING_MAX: usize = 2_048;
const ENCODE_PAUSE: Duration = Duration::from_millis(2);
const ENCODE_IDLE: Duration = Duration::from_millis(10);
const ENCODE_AT_LEAST_EVERY: Duration = Duration::from_millis(50);

fn estimate(
    plan: &PlanSpec,
    shape: &crate::plan::Shape,
    costs: &crate::plan::cost::Costs,
) -> Estimate {
    stages(plan, shape, costs)
        .into_iter()
        .map(|(_, estimate)| estimate)
        .sum()
}

/// The part of each budget kept for the way back, from milliseconds.
///
/// # Errors
/// `InvalidRequest` unless it is finite, at least 0 and at most 60,000.
pub fn reserve_us(reserve_ms: f64) -> Result<u64> {
    if !(0.0..=60_000.0).contains(&reserve_ms) {
        return Err(Error::InvalidRequest(vec![Violation {
            field: "reserve_ms".to_owned(),
            description: format!("{reserve_ms}; accepted: 0 to 60,000"),
        }]));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((reserve_ms * 1_000.0).round() as u64)
}

/// The price's settings, from milliseconds of backlog and a factor.
///
/// # Errors
/// `InvalidRequest` unless the backlog is from 0 to 60,000 and the gain from 0.01 to 100.
pub fn pricing(backlog_ms: f64, gain: f64) -> Result<Pricing> {
    let mut violations = Vec::new();
    for (field, value, range) in [
        ("backlog_ms", backlog_ms, 0.0..=60_000.0),
        ("price_gain", gain, 0.01..=100.0),
    ] {
        if !range.contains(&value) {
            violations.push(Violation {
                field: field.to_owned(),
                description: format!("{value}; accepted: {} to {}", range.start(), range.end()),
            });
        }
    }
    if !violations.is_empty() {
        return Err(Error::InvalidRequest(violations));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let backlog_us = (backlog_ms * 1_000.0).round() as u64;
    Ok(Pricing { backlog_us, gain })
}

/// Instruction sets of this machine that the kernels can use.
#[must_use]
pub fn cpu_features() -> Vec<&'static str> {
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        for (name, present) in [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            (
                "avx512vnni",
                std::arch::is_x86_feature_detected!("avx512vnni"),
            ),
        ] {
            if present {
                features.push(name);
            }
        }
    }
    features
}
