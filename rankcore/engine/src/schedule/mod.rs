//! Worker threads around one earliest-deadline-first queue of chunks.
//!
//! A [`Task`] is a state machine that does a small piece of work at each `step`; between two steps a task with a nearer
//! deadline goes first. A worker that would sleep helps a task that has more than one piece to do at a time (see
//! [`Offer`]), one piece after another, for as long as nothing waits. Admission runs under the queue's lock, so two requests can never both count on the same free
//! time.

pub mod clock;
pub mod ordered;
pub mod queue;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use clock::Clock;
use ordered::Key;
use queue::{Entry, Leaving, Queue, Work};

/// What a step leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// More to do.
    Again,
    /// The task has answered.
    Done,
}

/// What a task may want to know about the others before it decides to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// Other work waits for a worker.
    pub others_wait: bool,
}

/// One request as a state machine.
pub trait Task: Work + Send {
    /// Does the next piece of work.
    fn step(&mut self, pressure: Pressure) -> Step;
    /// Leaves without being finished; the task tells its caller.
    fn leave(&mut self, why: Leaving);
    /// What other workers may do for it until its next step ends; `None`: nothing.
    fn offer(&self) -> Option<Arc<dyn Offer>> {
        None
    }
}

/// A part of a task that is cut into pieces which may be done at the same time, by whoever takes one.
///
/// A piece that was taken is always run, and a run that panics must be seen by the task: it is the task's failure.
pub trait Offer: Send + Sync {
    /// Pieces that could be taken now. Runs under the queue's lock.
    fn open(&self) -> usize;
    /// Takes a piece for a worker that has nothing else to do, and predicts its length, microseconds; `None`: there is
    /// none now, or it would be of no use. Runs under the queue's lock.
    fn take(&self, now_us: u64) -> Option<(Range<usize>, u64)>;
    /// Does a piece that was taken.
    fn run(&self, piece: Range<usize>);
}

impl Work for Box<dyn Task> {
    fn abandoned(&self) -> bool {
        (**self).abandoned()
    }
    fn remaining_us(&self) -> u64 {
        (**self).remaining_us()
    }
    fn step_us(&self) -> u64 {
        (**self).step_us()
    }
    fn overtaken(&mut self) {
        (**self).overtaken();
    }
}

/// What admission sees of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Predicted wait before the new work starts, microseconds.
    pub delay_us: u64,
    /// Predicted work that waits or runs, whatever its deadline, microseconds a worker.
    pub backlog_us: u64,
    /// Units of work that wait or run.
    pub in_flight: usize,
    /// Workers that the new work can count on besides its own; see [`Queue::helpers`].
    pub helpers: usize,
    /// All workers, at least 1.
    pub workers: usize,
}

/// An offer, with the deadline of its task.
type Offered = (u64, Arc<dyn Offer>);

struct State {
    queue: Queue<Box<dyn Task>>,
    /// What the task that each worker runs lets others do.
    offers: Vec<Option<Offered>>,
    /// Workers that wait for something to do.
    asleep: usize,
    closed: bool,
}

impl State {
    /// Takes a piece of somebody's offer for a worker that has no work of its own, the nearest deadline first.
    fn help(&mut self, worker: usize, now_us: u64) -> Option<(Arc<dyn Offer>, Range<usize>)> {
        let mut offers: Vec<&Offered> = self.offers.iter().flatten().collect();
        offers.sort_unstable_by_key(|(deadline_us, _)| *deadline_us);
        let (offer, piece, step_us) = offers.into_iter().find_map(|(_, offer)| {
            let (piece, step_us) = offer.take(now_us)?;
            Some((Arc::clone(offer), piece, step_us))
        })?;
        self.queue.note_help(worker, step_us, now_us);
        Some((offer, piece))
    }
}

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    work_arrived: Condvar,
    /// For workers that rest: how many take work has changed.
    resized: Condvar,
    queue_max: usize,
}

/// Where a unit of work waits.
pub struct Place {
    shared: Weak<Shared>,
    key: Key,
}

impl Place {
    /// Takes the work out if it still waits: its caller has given it up, and it counts against nobody from here on.
    pub fn forget(self) {
        if let Some(shared) = self.shared.upgrade() {
            let work = shared.state.lock().queue.forget(self.key);
            // Dropped without the lock: it may own a whole request.
            drop(work);
        }
    }
}

/// The process's only queue of ranking work and its workers.
pub struct Scheduler {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Scheduler {
    /// Starts `workers` threads (at least one). At most `queue_max` units of work wait or run at a time.
    ///
    /// # Errors
    /// `Internal` if the system refuses a thread.
    pub fn new(workers: usize, queue_max: usize, clock: Arc<dyn Clock>) -> Result<Self> {
        let workers = workers.max(1);
        let shared = Arc::new(Shared {
            clock,
            state: Mutex::new(State {
                queue: Queue::new(workers),
                offers: std::iter::repeat_with(|| None).take(workers).collect(),
                asleep: 0,
                closed: false,
            }),
            work_arrived: Condvar::new(),
            resized: Condvar::new(),
            queue_max,
        });
        let scheduler = Self {
            shared: Arc::clone(&shared),
            threads: Mutex::new(Vec::with_capacity(workers)),
        };
        for worker in 0..workers {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name(format!("rank-{worker}"))
                .spawn(move || work(&shared, worker))
                .map_err(|error| Error::Internal(format!("cannot start a worker: {error}")))?;
            scheduler.threads.lock().push(thread);
        }
        Ok(scheduler)
    }

    /// Admits one unit of work. `admit` sees the load and returns the task, or the error to give the caller; it runs
    /// under the queue's lock and must be short.
    ///
    /// # Errors
    /// Whatever `admit` returns; `Overloaded` if the queue is full; `NotReady` after [`Scheduler::close`].
    pub fn submit(
        &self,
        deadline_us: u64,
        admit: impl FnOnce(Load) -> Result<Box<dyn Task>>,
    ) -> Result<Place> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(Error::NotReady("the engine is closed".to_owned()));
        }
        let now_us = self.shared.clock.now_us();
        let load = Load {
            delay_us: state.queue.delay_us(deadline_us, now_us),
            backlog_us: state.queue.backlog_us(now_us),
            in_flight: state.queue.in_flight(),
            helpers: state.queue.helpers(),
            workers: state.queue.workers(),
        };
        if load.in_flight >= self.shared.queue_max {
            return Err(Error::Overloaded {
                retry_after_ms: retry_after_ms(load.delay_us),
            });
        }
        let task = admit(load)?;
        let key = state.queue.push(deadline_us, task);
        drop(state);
        self.shared.work_arrived.notify_one();
        Ok(Place {
            shared: Arc::downgrade(&self.shared),
            key,
        })
    }

    /// Units of work that wait and units that wait or run.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        (state.queue.waiting(), state.queue.in_flight())
    }

    /// Predicted work that waits or runs, microseconds a worker.
    #[must_use]
    pub fn backlog_us(&self) -> u64 {
        let state = self.shared.state.lock();
        state.queue.backlog_us(self.shared.clock.now_us())
    }

    /// Number of workers that take work.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.state.lock().queue.workers()
    }

    /// Lets so many workers take work from now on, at least one and at most as many as were started; returns how many. One
    /// that is to rest ends the step that it is at, and its task goes on elsewhere.
    pub fn resize(&self, workers: usize) -> usize {
        let workers = self.shared.state.lock().queue.resize(workers);
        // Who waits for work may have to rest, and who rests may have to work.
        self.shared.work_arrived.notify_all();
        self.shared.resized.notify_all();
        workers
    }

    /// Stops: waiting work leaves as abandoned, running steps end, threads are joined. Further work is refused.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            state.queue.drain()
        };
        self.shared.work_arrived.notify_all();
        self.shared.resized.notify_all();
        for mut work in waiting {
            work.leave(Leaving::Abandoned);
        }
        let threads: Vec<_> = self.threads.lock().drain(..).collect();
        for thread in threads {
            // A worker never drops the last owner of the scheduler, but joining oneself would never end.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.close();
    }
}

/// When to come back, given the wait that was predicted, milliseconds; at least 1.
#[must_use]
pub fn retry_after_ms(delay_us: u64) -> u64 {
    delay_us.div_ceil(1_000).max(1)
}

/// How far ranking steps back behind the threads that read and write messages, as a step of the scheduling priority.
/// With all cores busy a request that is read late is ranked late too, and one that must be refused at once is not.
const NICENESS: i32 = 5;

fn work(shared: &Shared, worker: usize) {
    // On Linux this is the priority of one thread. A system that refuses it serves all the same.
    let _ = rustix::process::nice(NICENESS);
    let mut state = shared.state.lock();
    loop {
        if state.queue.rests(worker) && !state.closed {
            state.queue.note_rest(worker);
            if state.queue.waiting() > 0 {
                // What it has left, or was woken for, is another one's.
                shared.work_arrived.notify_one();
            }
            shared.resized.wait(&mut state);
            continue;
        }
        let now_us = shared.clock.now_us();
        let taken = state.queue.take(worker, now_us);
        if taken.left.is_empty() && taken.next.is_none() {
            if state.closed {
                return;
            }
            if let Some((offer, piece)) = state.help(worker, now_us) {
                MutexGuard::unlocked(&mut state, || {
                    // The offer has told its task of a panic.
                    let _ = catch_unwind(AssertUnwindSafe(|| offer.run(piece)));
                    drop(offer);
                });
                continue;
            }
            state.asleep += 1;
            shared.work_arrived.wait(&mut state);
            state.asleep -= 1;
            continue;
        }
        let others_wait = state.queue.waiting() > 0;
        drop(state);
        for (mut entry, why) in taken.left {
            entry.work.leave(why);
        }
        let preempted = taken
            .next
            .and_then(|entry| run(shared, worker, entry, others_wait));
        state = shared.state.lock();
        if let Some(offered) = state.offers[worker].take() {
            // Perhaps the last owner of a whole request.
            MutexGuard::unlocked(&mut state, || drop(offered));
        }
        if let Some(entry) = preempted {
            if state.closed {
                drop(state);
                let mut entry = entry;
                entry.work.leave(Leaving::Abandoned);
                state = shared.state.lock();
            } else {
                state.queue.put_back(entry);
            }
        }
    }
}

/// Steps one task until it is done, leaves, or must give way; in the last case it is handed back.
fn run(
    shared: &Shared,
    worker: usize,
    mut entry: Entry<Box<dyn Task>>,
    mut others_wait: bool,
) -> Option<Entry<Box<dyn Task>>> {
    loop {
        if let Some(offer) = entry.work.offer() {
            let mut state = shared.state.lock();
            let helpers = offer.open().min(state.asleep);
            let before = state.offers[worker].replace((entry.deadline_us, offer));
            drop(state);
            drop(before);
            for _ in 0..helpers {
                shared.work_arrived.notify_one();
            }
        }
        // A panic ends this request alone: dropping the task answers its caller with an internal error.
        let step = catch_unwind(AssertUnwindSafe(|| {
            entry.work.step(Pressure { others_wait })
        }));
        match step {
            Ok(Step::Again) => {}
            Ok(Step::Done) | Err(_) => return None,
        }
        if entry.work.abandoned() {
            entry.work.leave(Leaving::Abandoned);
            return None;
        }
        let mut state = shared.state.lock();
        if state.closed || state.queue.rests(worker) || state.queue.should_yield(&entry) {
            return Some(entry);
        }
        state.queue.note_step(worker, &entry, shared.clock.now_us());
        others_wait = state.queue.waiting() > 0;
    }
}

#[cfg(test)]
mod tests;
