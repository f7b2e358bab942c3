//! The earliest-deadline-first queue of chunks: pure state, no threads, time passed in; O(log n) for whatever it is asked.
//!
//! Work that was given up by its caller, or whose deadline has passed, leaves when it reaches the front and before
//! anything is computed for it. The queue also answers the planner's question: how long would work with this
//! deadline wait before it starts?

use super::ordered::{Key, Ordered};

/// What the queue must know about a unit of work.
pub trait Work {
    /// The caller went away: computing more would be wasted.
    fn abandoned(&self) -> bool;
    /// Predicted work left, microseconds of one core.
    fn remaining_us(&self) -> u64;
    /// Predicted length of the next step, microseconds: the longest it holds a worker before it may be preempted.
    fn step_us(&self) -> u64;
    /// Work that came later was begun before it: its deadline is nearer, and the wait that was predicted has grown.
    fn overtaken(&mut self) {}
}

/// Why work left without being finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// Its caller gave up.
    Abandoned,
    /// Its deadline passed while it waited.
    Expired,
}

/// Work with its deadline.
#[derive(Debug)]
pub struct Entry<T> {
    /// Absolute deadline on the scheduler's clock, microseconds.
    pub deadline_us: u64,
    /// Order of arrival; breaks ties, so equal deadlines are served first come, first served.
    pub arrival: u64,
    /// The work itself.
    pub work: T,
}

impl<T> Entry<T> {
    /// The entry's place in the order.
    #[must_use]
    pub fn key(&self) -> Key {
        (self.deadline_us, self.arrival)
    }
}

/// What a worker is doing, for the backlog.
#[derive(Debug, Clone, Copy)]
struct Running {
    deadline_us: u64,
    started_us: u64,
    step_us: u64,
    remaining_us: u64,
    /// It works for a request that another worker answers for, and is free for its own after the step.
    helping: bool,
}

/// The queue and the workers' current steps.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: Ordered<T>,
    /// The step of each worker; of those that rest at the end, the one that they are just leaving.
    running: Vec<Option<Running>>,
    /// Workers that take work; the others rest.
    active: usize,
    arrivals: u64,
    /// Of the work that was ever taken, the arrival of the latest.
    latest: u64,
}

/// Result of [`Queue::take`].
#[derive(Debug)]
pub struct Taken<T> {
    /// The work to run next; `None` when nothing is left to run.
    pub next: Option<Entry<T>>,
    /// Work that left at the front of the queue without being run.
    pub left: Vec<(Entry<T>, Leaving)>,
}

impl<T: Work> Queue<T> {
    /// An empty queue served by `workers` workers (at least one).
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let workers = workers.max(1);
        Self {
            waiting: Ordered::default(),
            running: vec![None; workers],
            active: workers,
            arrivals: 0,
            latest: 0,
        }
    }

    /// Number of workers that take work.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.active
    }

    /// Lets so many workers take work from now on, at least one and at most as many as there are; returns how many.
    pub fn resize(&mut self, workers: usize) -> usize {
        self.active = workers.clamp(1, self.running.len());
        self.active
    }

    /// Whether `worker` is to rest once its step has ended.
    #[must_use]
    pub fn rests(&self, worker: usize) -> bool {
        worker >= self.active
    }

    /// Records that `worker` does nothing.
    pub fn note_rest(&mut self, worker: usize) {
        self.running[worker] = None;
    }

    /// Units of work that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Units of work that wait or run.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let running = self.running.iter().flatten();
        self.waiting.len() + running.filter(|running| !running.helping).count()
    }

    /// Workers that one more unit of work can count on besides its own: what is left of them once each unit has one,
    /// shared evenly among the units.
    #[must_use]
    pub fn helpers(&self) -> usize {
        let units = self.in_flight() + 1;
        self.workers().saturating_sub(units) / units
    }

    /// Adds new work; returns its key.
    pub fn push(&mut self, deadline_us: u64, work: T) -> Key {
        self.arrivals += 1;
        let key = (deadline_us, self.arrivals);
        self.waiting.insert(key, work.remaining_us(), work);
        key
    }

    /// Puts preempted work back; it keeps its place among equal deadlines.
    pub fn put_back(&mut self, entry: Entry<T>) {
        self.waiting
            .insert(entry.key(), entry.work.remaining_us(), entry.work);
    }

    /// Takes work out that its caller has given up, so that nobody counts on waiting behind it. `None`: it does not wait.
    pub fn forget(&mut self, key: Key) -> Option<T> {
        self.waiting.remove(key)
    }

    /// Takes the work with the nearest deadline for `worker`; abandoned and expired work leaves on the way.
    pub fn take(&mut self, worker: usize, now_us: u64) -> Taken<T> {
        self.running[worker] = None;
        let mut left = Vec::new();
        while let Some(((deadline_us, arrival), work)) = self.waiting.pop_first() {
            let mut entry = Entry {
                deadline_us,
                arrival,
                work,
            };
            if arrival < self.latest {
                entry.work.overtaken();
            }
            self.latest = self.latest.max(arrival);
            if entry.work.abandoned() {
                left.push((entry, Leaving::Abandoned));
            } else if entry.deadline_us <= now_us {
                left.push((entry, Leaving::Expired));
            } else {
                self.note_step(worker, &entry, now_us);
                return Taken {
                    next: Some(entry),
                    left,
                };
            }
        }
        Taken { next: None, left }
    }

    /// Records that `worker` begins a step of `entry` now.
    pub fn note_step(&mut self, worker: usize, entry: &Entry<T>, now_us: u64) {
        self.running[worker] = Some(Running {
            deadline_us: entry.deadline_us,
            started_us: now_us,
            step_us: entry.work.step_us(),
            remaining_us: entry.work.remaining_us(),
            helping: false,
        });
    }

    /// Records that `worker`, which has no work of its own, begins a step of `step_us` for another's now. What is left of
    /// that work is counted where it runs.
    pub fn note_help(&mut self, worker: usize, step_us: u64, now_us: u64) {
        self.running[worker] = Some(Running {
            deadline_us: u64::MAX,
            started_us: now_us,
            step_us,
            remaining_us: 0,
            helping: true,
        });
    }

    /// True when work with a nearer deadline than `entry` waits: `entry` should give way.
    #[must_use]
    pub fn should_yield(&self, entry: &Entry<T>) -> bool {
        self.waiting
            .first()
            .is_some_and(|first| first < entry.key())
    }

    /// Predicted wait before new work with this deadline starts, microseconds.
    ///
    /// Work with earlier (or equal) deadlines is poured over the workers, those that are free first; a running step with a
    /// later deadline only has to end its current chunk. Work is taken to be divisible: with several workers the wait comes
    /// out at most one unit of work longer than if each had to stay on one of them.
    #[must_use]
    pub fn delay_us(&self, deadline_us: u64, now_us: u64) -> u64 {
        let mut free_at: Vec<u64> = self.running[..self.active]
            .iter()
            .map(|slot| {
                slot.map_or(0, |running| {
                    let elapsed = now_us.saturating_sub(running.started_us);
                    let whole = if running.deadline_us <= deadline_us && !running.helping {
                        running.remaining_us
                    } else {
                        running.step_us
                    };
                    whole.saturating_sub(elapsed)
                })
            })
            .collect();
        free_at.sort_unstable();
        // What a worker leaves that is about to rest is done by the others.
        let left = self.running[self.active..].iter().flatten();
        let left = left.filter(|running| running.deadline_us <= deadline_us && !running.helping);
        let left_us: u64 = left.map(|running| running.remaining_us).sum();
        let mut pouring = self.waiting.total_until(deadline_us) + left_us;
        let mut level = free_at[0];
        for (workers, next) in (1_u64..).zip(free_at[1..].iter().chain([&u64::MAX])) {
            let room = (next - level).saturating_mul(workers);
            if pouring <= room {
                return level + pouring / workers;
            }
            pouring -= room;
            level = *next;
        }
        level
    }

    /// Predicted work that waits or runs, whatever its deadline, microseconds a worker.
    #[must_use]
    pub fn backlog_us(&self, now_us: u64) -> u64 {
        let running = self.running.iter().flatten().map(|running| {
            running
                .remaining_us
                .saturating_sub(now_us.saturating_sub(running.started_us))
        });
        (running.sum::<u64>() + self.waiting.total()) / self.active as u64
    }

    /// Everything that waits, for shutting down.
    pub fn drain(&mut self) -> Vec<T> {
        std::iter::from_fn(|| self.waiting.pop_first().map(|(_, work)| work)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Item {
        name: &'static str,
        abandoned: bool,
        remaining_us: u64,
        overtaken: bool,
    }

    impl Work for Item {
        fn abandoned(&self) -> bool {
            self.abandoned
        }
        fn remaining_us(&self) -> u64 {
            self.remaining_us
        }
        fn step_us(&self) -> u64 {
            self.remaining_us.min(100)
        }
        fn overtaken(&mut self) {
            self.overtaken = true;
        }
    }

    fn item(name: &'static str, remaining_us: u64) -> Item {
        Item {
            name,
            abandoned: false,
            remaining_us,
            overtaken: false,
        }
    }

    #[test]
    fn the_nearest_deadline_goes_first_and_ties_keep_their_order() {
        let mut queue = Queue::new(1);
        queue.push(300, item("late", 1));
        queue.push(100, item("first", 1));
        queue.push(200, item("middle", 1));
        queue.push(100, item("second", 1));
        let order: Vec<_> = std::iter::from_fn(|| queue.take(0, 0).next)
            .map(|entry| entry.work.name)
            .collect();
        assert_eq!(order, ["first", "second", "middle", "late"]);
    }

    #[test]
    fn abandoned_and_expired_work_leaves_before_it_is_run() {
        let mut queue = Queue::new(1);
        queue.push(50, item("expired", 1));
        let mut gone = item("abandoned", 1);
        gone.abandoned = true;
        queue.push(150, gone);
        queue.push(200, item("alive", 1));
        let taken = queue.take(0, 100);
        let left: Vec<_> = taken
            .left
            .iter()
            .map(|(entry, why)| (entry.work.name, *why))
            .collect();
        assert_eq!(
            left,
            [
                ("expired", Leaving::Expired),
                ("abandoned", Leaving::Abandoned)
            ]
        );
        assert_eq!(taken.next.map(|entry| entry.work.name), Some("alive"));
    }

    #[test]
    fn work_gives_way_only_to_a_nearer_deadline() {
        let mut queue = Queue::new(1);
        queue.push(500, item("running", 10));
        let running = queue.take(0, 0).next.expect("one entry waits");
        assert!(!queue.should_yield(&running));
        queue.push(500, item("same deadline", 10));
        assert!(!queue.should_yield(&running));
        queue.push(400, item("nearer", 10));
        assert!(queue.should_yield(&running));
        queue.put_back(running);
        assert_eq!(
            queue.take(0, 0).next.map(|entry| entry.work.name),
            Some("nearer")
        );
        assert_eq!(
            queue.take(0, 0).next.map(|entry| entry.work.name),
            Some("running")
        );
    }

    #[test]
    fn work_hears_that_later_work_went_first() {
        let mut queue = Queue::new(2);
        for (deadline_us, name) in [(100, "first"), (300, "far"), (200, "near"), (400, "last")] {
            queue.push(deadline_us, item(name, 1));
        }
        let taken: Vec<_> = (0..4)
            .filter_map(|turn| queue.take(turn % 2, 0).next)
            .map(|entry| (entry.work.name, entry.work.overtaken))
            .collect();
        assert_eq!(
            taken,
            [
                ("first", false),
                ("near", false),
                ("far", true),
                ("last", false)
            ]
        );
    }

    #[test]
    fn the_delay_counts_only_work_that_would_go_first() {
        let mut queue = Queue::new(1);
        queue.push(100, item("before", 30));
        queue.push(300, item("after", 70));
        assert_eq!(queue.delay_us(200, 0), 30);
        assert_eq!(queue.delay_us(300, 0), 100);
        assert_eq!(queue.delay_us(50, 0), 0);
    }

    #[test]
    fn the_delay_is_zero_while_a_worker_is_free() {
        let mut queue = Queue::new(2);
        queue.push(100, item("long", 1_000));
        queue.take(0, 0);
        assert_eq!(queue.delay_us(200, 0), 0);
        queue.push(100, item("second", 400));
        queue.take(1, 0);
        assert_eq!(queue.delay_us(200, 0), 400);
        assert_eq!(queue.delay_us(200, 150), 250, "time already spent counts");
    }

    #[test]
    fn a_running_step_with_a_later_deadline_only_ends_its_chunk() {
        let mut queue = Queue::new(1);
        queue.push(900, item("long", 1_000));
        queue.take(0, 0);
        assert_eq!(queue.delay_us(200, 0), 100);
        assert_eq!(queue.delay_us(900, 0), 1_000);
    }

    #[test]
    fn the_backlog_is_all_work_shared_among_the_workers() {
        let mut queue = Queue::new(2);
        queue.push(100, item("running", 1_000));
        queue.take(0, 0);
        queue.push(900, item("waiting", 400));
        assert_eq!(queue.backlog_us(0), 700);
        assert_eq!(queue.backlog_us(600), 400, "time already spent counts");
    }

    #[test]
    fn work_is_poured_over_the_workers_that_are_free_first() {
        let mut queue = Queue::new(2);
        queue.push(100, item("long", 1_000));
        queue.take(0, 0);
        queue.push(100, item("short", 200));
        queue.take(1, 0);
        queue.push(100, item("waiting", 600));
        assert_eq!(queue.delay_us(100, 0), 800);
        queue.push(100, item("more", 400));
        assert_eq!(queue.delay_us(100, 0), 1_100);
    }

    #[test]
    fn a_helper_holds_its_worker_for_one_step_and_is_no_work_of_its_own() {
        let mut queue = Queue::new(2);
        queue.push(900, item("long", 1_000));
        queue.take(0, 0);
        queue.note_help(1, 80, 0);
        assert_eq!((queue.in_flight(), queue.backlog_us(0)), (1, 500));
        for deadline_us in [200, 900, u64::MAX] {
            assert_eq!(queue.delay_us(deadline_us, 0), 80);
            assert_eq!(queue.delay_us(deadline_us, 30), 50);
        }
        assert!(queue.take(1, 80).next.is_none());
        assert_eq!(queue.delay_us(200, 80), 0);
    }

    #[test]
    fn a_worker_that_is_to_rest_counts_for_nothing_but_what_it_leaves() {
        let mut queue = Queue::new(2);
        queue.push(100, item("a", 40));
        queue.push(100, item("b", 60));
        queue.push(100, item("c", 20));
        assert!(queue.take(0, 0).next.is_some() && queue.take(1, 0).next.is_some());
        assert_eq!(queue.delay_us(100, 0), 60);
        assert_eq!((queue.resize(1), queue.workers()), (1, 1));
        assert!(queue.rests(1) && !queue.rests(0));
        // The one that stays has its own 40, the 20 that wait, and the 60 that are left.
        assert_eq!((queue.delay_us(100, 0), queue.backlog_us(0)), (120, 120));
        assert_eq!(queue.in_flight(), 3);
        queue.note_rest(1);
        assert_eq!((queue.delay_us(100, 0), queue.in_flight()), (60, 2));
        assert_eq!((queue.resize(0), queue.resize(9)), (1, 2));
    }

    #[test]
    fn help_is_counted_on_only_from_workers_that_no_other_work_needs() {
        for (workers, in_flight, helpers) in [
            (1, 0, 0),
            (2, 0, 1),
            (2, 1, 0),
            (4, 0, 3),
            (4, 1, 1),
            (4, 2, 0),
            (8, 1, 3),
            (8, 9, 0),
        ] {
            let mut queue = Queue::new(workers);
            for unit in 0..in_flight {
                queue.push(100, item("work", 1));
                // Half of it runs, the other half waits.
                if unit % 2 == 0 && unit / 2 < workers {
                    queue.take(unit / 2, 0);
                }
            }
            assert_eq!(queue.helpers(), helpers, "{workers} workers, {in_flight}");
        }
    }

    #[test]
    fn forgotten_work_counts_no_longer() {
        let mut queue = Queue::new(1);
        let key = queue.push(100, item("given up", 500));
        queue.push(150, item("stays", 7));
        assert_eq!((queue.delay_us(200, 0), queue.backlog_us(0)), (507, 507));
        assert_eq!(queue.forget(key).map(|work| work.name), Some("given up"));
        assert!(queue.forget(key).is_none());
        assert_eq!((queue.delay_us(200, 0), queue.backlog_us(0)), (7, 7));
    }
}
