//! A request from what it says to its place in the queue, or to a refusal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::parking::Resume;
use super::{BUDGET_MAX_US, Call, Core, Method, estimate};
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::memory::Memory;
use crate::plan::pace::whole_us;
use crate::plan::priority::Priority;
use crate::plan::{Moment, Parts, Shape};
use crate::recommend::admission::{self, Recommended};
use crate::recommend::answer::Known;
use crate::recommend::ask::Ask as RecommendAsk;
use crate::reply::{Done, Pending, Reply, pair};
use crate::request::{Admitted, Answer, Ask, Budget, Job, Source, class};
use crate::schedule::retry_after_ms;

/// A request that was understood and has not been admitted yet.
struct Asked {
    ask: Ask,
    priority: Priority,
    budget: Budget,
    /// Behind all other work, and only while none waits.
    behind: bool,
    reply: Reply,
    pending: Pending,
    memory: Option<Arc<dyn Memory>>,
}

/// A request for recommendations that was understood and has not been admitted yet.
struct Wish {
    ask: RecommendAsk,
    priority: Priority,
    budget: Budget,
}

/// Added to the place in the queue of work that goes behind all other: no deadline is further away.
const BEHIND_US: u64 = 2 * BUDGET_MAX_US;

impl Core {
    pub(super) fn submit(
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
        let asked = Asked {
            ask,
            priority,
            budget: call.budget(self.services.clock.now_us()),
            behind,
            reply,
            pending: pending.clone(),
            memory: call.memory.map(Arc::clone),
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

    pub(super) fn recommend(
        self: &Arc<Self>,
        call: Call<'_>,
        now_unix_us: u64,
        done: impl FnOnce(Result<Recommended>) + Send + 'static,
    ) -> Pending {
        let core = Arc::clone(self);
        let (reply, pending) = pair::<Recommended>(Box::new(move |result| {
            core.counters.recommended(&result);
            done(result);
        }));
        // What happened before a sequence that was waited for is part of the history, so the names are kept until then.
        let read = RecommendAsk::decoded(call.request).and_then(|request| {
            let priority = class(
                Priority::from_wire(request.priority).unwrap_or_default(),
                call.priority,
            )?;
            Ok((request, priority, self.serving()?))
        });
        let (request, priority, generation) = match read {
            _ if self.closing.load(Ordering::SeqCst) => {
                reply.send(Err(Error::NotReady("the engine is closed".to_owned())));
                return pending;
            }
            Err(error) => {
                reply.send(Err(error));
                return pending;
            }
            Ok(read) => read,
        };
        let budget = call.budget(self.services.clock.now_us());
        let (sequence, memory) = (request.min_sequence, call.memory.map(Arc::clone));
        let told = pending.clone();
        let resume: Resume = Box::new(move |core, generation| match generation {
            Ok(generation) => {
                let wish = Wish {
                    ask: RecommendAsk::of(request, now_unix_us, memory.as_deref()),
                    priority,
                    budget,
                };
                core.admit_recommendation(generation, wish, reply, &told);
            }
            Err(error) => {
                reply.send(Err(error));
            }
        });
        if generation.applied_sequence() >= sequence {
            resume(self, Ok(generation));
        } else {
            let least_us =
                admission::Request::least_us(&self.recommending, self.services.clock.now_us());
            let until_us = budget.deadline_us.saturating_sub(least_us);
            self.wait_for(sequence, until_us, pending.clone(), resume);
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
            memory,
        } = asked;
        let clock = &self.services.clock;
        let freshness = self.freshness(&generation);
        let parts = self.parts(&generation, &ask);
        let shape = ask.shape(
            generation.products(),
            self.services.chunk_pairs(),
            self.services.taste_weight > 0.0,
        );
        // What the closure does not take is still here to tell the caller why.
        let mut given = Some((generation, ask, reply, memory));
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
            let chosen = planner.choose(&shape, &moment, &costs).or_else(|refused| {
                // Nobody is refused for a history: it is looked at if there is time in the end.
                let plain = Shape {
                    personal: false,
                    ..shape
                };
                if plain == shape {
                    return Err(refused);
                }
                planner.choose(&plain, &moment, &costs)
            })?;
            // What goes behind all other work is promised nothing.
            let promised_us = (!behind).then(|| now_us + whole_us(chosen.finish_us));
            let (generation, ask, reply, memory) = given.take().expect("taken once");
            let job = Job::new(
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
            );
            Ok(Box::new(job.remembering(memory)))
        });
        match (admitted, given) {
            (Ok(place), _) => pending.on_end(Box::new(move || place.forget())),
            (Err(error), Some((_, _, reply, _))) => {
                reply.send(Err(error));
            }
            // The job was made and refused: it has told its caller by being dropped.
            (Err(_), None) => {}
        }
    }

    /// Lets the request wait for its sequence, as long as that leaves time for the cheapest plan.
    fn park(&self, generation: &Generation, asked: Asked) {
        let keep_us = self.cheapest_us(generation, &asked.ask);
        let (sequence, deadline_us) = (asked.ask.min_sequence, asked.budget.deadline_us);
        let pending = asked.pending.clone();
        let resume: Resume = Box::new(move |core, generation| match generation {
            Ok(generation) => core.admit(generation, asked),
            Err(error) => {
                asked.reply.send(Err(error));
            }
        });
        self.wait_for(
            sequence,
            deadline_us.saturating_sub(keep_us),
            pending,
            resume,
        );
    }

    /// Lets a request for recommendations into the queue, or refuses it.
    fn admit_recommendation(
        &self,
        generation: Arc<Generation>,
        wish: Wish,
        reply: Reply<Recommended>,
        pending: &Pending,
    ) {
        let section = self.services.bundle.recommend.as_ref();
        let known = Known::new(&wish.ask.history, section, &generation);
        let Wish {
            ask,
            priority,
            budget,
        } = wish;
        let request = admission::Request {
            tiers: known.tiers(section, &generation),
            known,
            services: Arc::clone(&self.services),
            costs: Arc::clone(&self.recommending),
            freshness: self.freshness(&generation),
            generation,
            ask,
            priority,
            arrived_us: budget.arrived_us,
            deadline_us: budget.deadline_us,
        };
        let in_flight_max = priority.in_flight_max(self.queue_max);
        let mut given = Some((request, reply));
        let place = self.crew.scheduler.submit(budget.deadline_us, |load| {
            if load.in_flight >= in_flight_max {
                let retry_after_ms = retry_after_ms(load.delay_us);
                return Err(Error::Overloaded { retry_after_ms });
            }
            let (request, _) = given.as_ref().expect("not taken yet");
            let decided = request.decide(load)?;
            let (request, reply) = given.take().expect("taken once");
            Ok(Box::new(admission::Waiting::new(request, decided, reply)))
        });
        match (place, given) {
            (Ok(place), _) => pending.on_end(Box::new(move || place.forget())),
            (Err(error), Some((_, reply))) => {
                reply.send(Err(error));
            }
            // Refused after it was made: it has told its caller by being dropped.
            (Err(_), None) => {}
        }
    }

    fn cheapest_us(&self, generation: &Generation, ask: &Ask) -> u64 {
        let costs = self.services.costs.at(self.services.clock.now_us());
        let shape = ask.shape(
            generation.products(),
            self.services.chunk_pairs(),
            self.services.taste_weight > 0.0,
        );
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

    pub(super) fn parts(&self, generation: &Generation, ask: &Ask) -> Parts {
        Parts {
            // Candidates that the caller brings need vectors, not an index.
            dense: matches!(ask.source, Source::Brought { .. }) || generation.has_dense(),
            cross_small: self.services.bundle.cross_small.is_some(),
            cross_large: self.services.bundle.cross_large.is_some(),
        }
    }
}
