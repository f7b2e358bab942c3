//! One process's ranking engine: a bundle, the generation being served, one scheduler.

mod admit;
mod parking;
mod settings;
mod status;
mod warm_up;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::bundle::{Bundle, PlanSpec, Tier};
use crate::error::{Error, Result, Violation};
use crate::generation::Generation;
use crate::memory::Memory;
use crate::plan::cost::{CostBook, Estimate};
use crate::plan::help::HelpBook;
use crate::plan::price::Price;
use crate::plan::stalls::Stalls;
use crate::plan::way_back::WayBack;
use crate::plan::{Planner, stages};
use crate::recommend::admission::{self, Recommended};
use crate::reply::{Cancel, Done, Pending};
use crate::request::{Answer, Ask, Budget, Failures, Freshness, Job, Services};
use crate::rerank::cross::PairScorer;
use crate::retrieve::DenseSearch;
use crate::schedule::Scheduler;
use crate::schedule::clock::{Clock, MonotonicClock};
use crate::signals::{Matrix, Readings};

use parking::Parking;
pub use settings::{Settings, pricing, reserve_us};
use status::Counters;
pub use status::{PlanNow, StageNow, Status};

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
    /// What is remembered of whom the request may name; `None`: nothing.
    pub memory: Option<&'a Arc<dyn Memory>>,
}

impl Call<'_> {
    fn deadline(&self) -> Instant {
        self.arrived + Duration::from_micros(self.remaining_us.min(BUDGET_MAX_US))
    }

    /// What the call has left, on the engine's clock.
    fn budget(&self, now_us: u64) -> Budget {
        let spent_us = u64::try_from(self.arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
        let arrived_us = now_us.saturating_sub(spent_us);
        Budget {
            arrived_us,
            deadline_us: arrived_us + self.remaining_us.min(BUDGET_MAX_US),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Observed {
    epoch: u64,
    caught_up: Instant,
}
/// Budgets are cut to this; it keeps absolute deadlines far from overflow.
const BUDGET_MAX_US: u64 = 3_600_000_000;

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
        if !(0.0..=1.0).contains(&settings.taste_weight) {
            violations.push(Violation {
                field: "taste_weight".to_owned(),
                description: format!("{}; accepted: 0 to 1", settings.taste_weight),
            });
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
            taste_weight: settings.taste_weight,
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
            memory: None,
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
            memory: None,
        };
        self.wait(call, cancel, interrupted)
    }

    /// Starts to answer a serialised `RecommendRequest`, as [`Engine::submit`] does; the call's method is passed over.
    pub fn recommend(
        &self,
        call: Call<'_>,
        now_unix_us: u64,
        done: impl FnOnce(Result<Recommended>) + Send + 'static,
    ) -> Pending {
        self.core.recommend(call, now_unix_us, done)
    }

    /// Answers a serialised `RecommendRequest`, as [`Engine::recommend`], and waits.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn recommend_waiting(&self, call: Call<'_>, now_unix_us: u64) -> Result<Recommended> {
        let started = |done: Done<Recommended>| self.recommend(call, now_unix_us, done);
        wait(call.deadline(), started, None, &|| false)
    }

    fn wait(
        &self,
        call: Call<'_>,
        cancel: Option<&Cancel>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Answer> {
        wait(
            call.deadline(),
            |done| self.submit(call, done),
            cancel,
            interrupted,
        )
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

/// Starts a request and waits for its end until the deadline, when it is given up.
fn wait<A: Send + 'static>(
    deadline: Instant,
    start: impl FnOnce(Done<A>) -> Pending,
    cancel: Option<&Cancel>,
    interrupted: &dyn Fn() -> bool,
) -> Result<A> {
    let (sender, receiver) = sync_channel(1);
    let pending = start(Box::new(move |result| {
        // A caller that a signal took away listens no more.
        let _ = sender.send(result);
    }));
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

/// How often a waiting caller is asked whether it was interrupted.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);

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
