//! The scheduler with its real threads, under a clock that stands still unless told otherwise.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::clock::VirtualClock;
use super::*;
use crate::rerank::chunks::Chunks;

/// Far longer than anything takes here.
const LONG: Duration = Duration::from_secs(60);

/// What happened, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// Pieces that are read by whoever takes one; a piece ends when it is let go.
struct Pieces {
    name: &'static str,
    chunks: Chunks<std::thread::ThreadId>,
    log: Log,
    /// A message lets one piece of a helper end.
    gate: Mutex<Receiver<()>>,
    begun: Sender<()>,
    gone: AtomicBool,
    ends_by_us: u64,
    panics: bool,
}

impl Offer for Pieces {
    fn open(&self) -> usize {
        self.chunks.open()
    }

    fn take(&self, now_us: u64) -> Option<(Range<usize>, u64)> {
        if self.gone.load(Ordering::SeqCst) || now_us > self.ends_by_us {
            return None;
        }
        self.chunks.take().map(|piece| (piece, 70))
    }

    fn run(&self, piece: Range<usize>) {
        self.chunks.run(piece, |piece| {
            self.log
                .lock()
                .push(format!("{} {}", self.name, piece.start));
            self.begun.send(()).expect("the test listens");
            self.gate.lock().recv_timeout(LONG).expect("let go");
            assert!(!self.panics, "a helper that fails");
            std::thread::current().id()
        });
    }
}

/// The test's end of some pieces.
struct Desk {
    pieces: Arc<Pieces>,
    let_go: Sender<()>,
    begun: Receiver<()>,
}

impl Desk {
    fn new(name: &'static str, total: usize, log: &Log) -> Desk {
        Desk::with(name, total, log, |_| {})
    }

    fn with(name: &'static str, total: usize, log: &Log, set: impl FnOnce(&mut Pieces)) -> Desk {
        let (let_go, gate) = channel();
        let (began, begun) = channel();
        let mut pieces = Pieces {
            name,
            chunks: Chunks::new(total, 1, total),
            log: Arc::clone(log),
            gate: Mutex::new(gate),
            begun: began,
            gone: AtomicBool::new(false),
            ends_by_us: u64::MAX,
            panics: false,
        };
        set(&mut pieces);
        Desk {
            pieces: Arc::new(pieces),
            let_go,
            begun,
        }
    }

    fn one_begins(&self) {
        self.begun.recv_timeout(LONG).expect("a helper begins");
    }

    fn one_ends(&self) {
        self.let_go.send(()).expect("the pieces listen");
    }
}

/// A task of two steps: the first ends at once, and what it offers is there from then on; the second when it is let go.
struct Two {
    name: &'static str,
    log: Log,
    offer: Option<Arc<Pieces>>,
    first: bool,
    gate: Receiver<()>,
    /// Told when the task is over.
    over: Sender<bool>,
}

impl Work for Two {
    fn abandoned(&self) -> bool {
        false
    }
    fn remaining_us(&self) -> u64 {
        1_000
    }
    fn step_us(&self) -> u64 {
        100
    }
}

impl Task for Two {
    fn step(&mut self, _pressure: Pressure) -> Step {
        if std::mem::take(&mut self.first) {
            return Step::Again;
        }
        self.log.lock().push(self.name.to_owned());
        self.gate.recv_timeout(LONG).expect("let go");
        self.over.send(true).expect("the test listens");
        Step::Done
    }

    fn leave(&mut self, _why: Leaving) {
        self.over.send(false).expect("the test listens");
    }

    fn offer(&self) -> Option<Arc<dyn Offer>> {
        let pieces = self.offer.as_ref().filter(|_| !self.first)?;
        Some(Arc::clone(pieces) as Arc<dyn Offer>)
    }
}

struct Bench {
    clock: Arc<VirtualClock>,
    scheduler: Scheduler,
    log: Log,
}

/// A task that was let in: its gate, and how it ended.
struct Running {
    let_go: Sender<()>,
    over: Receiver<bool>,
}

impl Running {
    fn ends(&self) {
        self.let_go.send(()).expect("the task listens");
        assert!(self.over.recv_timeout(LONG).expect("the task ends"));
    }
}

impl Bench {
    fn new(workers: usize) -> Bench {
        let clock = Arc::new(VirtualClock::default());
        let shared: Arc<dyn Clock> = Arc::<VirtualClock>::clone(&clock);
        Bench {
            clock,
            scheduler: Scheduler::new(workers, 1_000, shared).expect("threads"),
            log: Log::default(),
        }
    }

    fn submit(&self, name: &'static str, deadline_us: u64, offer: Option<&Desk>) -> Running {
        let (let_go, gate) = channel();
        let (over, ended) = channel();
        let task = Two {
            name,
            log: Arc::clone(&self.log),
            offer: offer.map(|desk| Arc::clone(&desk.pieces)),
            first: true,
            gate,
            over,
        };
        self.scheduler
            .submit(deadline_us, |_| Ok(Box::new(task)))
            .expect("let in");
        Running {
            let_go,
            over: ended,
        }
    }

    fn load(&self, deadline_us: u64) -> Load {
        let mut seen = None;
        let refused = self.scheduler.submit(deadline_us, |load| {
            seen = Some(load);
            Err(Error::Cancelled)
        });
        assert!(refused.is_err());
        seen.expect("asked")
    }

    fn happened(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    fn wait_for(&self, count: usize) {
        let from = std::time::Instant::now();
        while self.log.lock().len() < count {
            assert!(from.elapsed() < LONG, "{:?}", self.log.lock());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_worker_that_would_sleep_helps_and_counts_as_free_after_its_piece() {
    let bench = Bench::new(2);
    let desk = Desk::new("piece", 2, &bench.log);
    assert_eq!(bench.load(500).helpers, 1);
    let task = bench.submit("task", 1_000, Some(&desk));
    desk.one_begins();
    let load = bench.load(500);
    assert_eq!((load.in_flight, load.helpers, load.delay_us), (1, 0, 70));
    bench.clock.advance(30);
    assert_eq!(bench.load(500).delay_us, 40);
    desk.one_ends();
    desk.one_begins();
    desk.one_ends();
    bench.wait_for(3);
    let readers: Vec<_> = std::iter::from_fn(|| desk.pieces.chunks.collect(LONG))
        .map(|(_, reader)| reader.expect("nobody panics"))
        .collect();
    assert_eq!(readers.len(), 2);
    assert_eq!(
        readers[0], readers[1],
        "the other worker is in its own step"
    );
    task.ends();
}

#[test]
fn a_helper_goes_to_work_that_waits_after_the_piece_it_reads() {
    let bench = Bench::new(2);
    let desk = Desk::new("piece", 3, &bench.log);
    let task = bench.submit("task", 1_000, Some(&desk));
    desk.one_begins();
    bench.wait_for(2);
    // Later deadlines than the helped task's: they have the right of way all the same.
    let (second, third) = (
        bench.submit("second", 5_000, None),
        bench.submit("third", 6_000, None),
    );
    desk.one_ends();
    bench.wait_for(3);
    second.ends();
    bench.wait_for(4);
    third.ends();
    desk.one_begins();
    desk.one_ends();
    desk.one_begins();
    desk.one_ends();
    task.ends();
    let mut happened = bench.happened();
    happened[..2].sort_unstable();
    assert_eq!(
        happened,
        ["piece 0", "task", "second", "third", "piece 1", "piece 2"]
    );
}

#[test]
fn a_single_worker_never_helps() {
    let bench = Bench::new(1);
    let desk = Desk::new("piece", 3, &bench.log);
    assert_eq!(bench.load(500).helpers, 0);
    bench.submit("task", 1_000, Some(&desk)).ends();
    bench.submit("next", 1_000, None).ends();
    assert_eq!(bench.happened(), ["task", "next"]);
}

#[test]
fn the_nearest_deadline_is_helped_first() {
    let bench = Bench::new(3);
    let (far, near) = (
        Desk::new("far", 1, &bench.log),
        Desk::new("near", 1, &bench.log),
    );
    // Nobody is free before both offers are there: a free worker would help whichever came first.
    let blockers = [10, 20, 30].map(|deadline_us| bench.submit("blocker", deadline_us, None));
    bench.wait_for(3);
    let tasks = [
        bench.submit("task far", 900, Some(&far)),
        bench.submit("task near", 800, Some(&near)),
    ];
    for (blocker, happened) in blockers.iter().zip(4..) {
        blocker.ends();
        bench.wait_for(happened);
    }
    near.one_begins();
    near.one_ends();
    far.one_begins();
    far.one_ends();
    for task in &tasks {
        task.ends();
    }
    assert_eq!(
        bench.happened()[3..],
        ["task near", "task far", "near 0", "far 0"]
    );
}

#[test]
fn what_is_of_no_use_any_more_is_not_taken() {
    let bench = Bench::new(2);
    let gone = Desk::new("gone", 2, &bench.log);
    let task = bench.submit("task", 1_000, Some(&gone));
    gone.one_begins();
    gone.pieces.gone.store(true, Ordering::SeqCst);
    gone.one_ends();
    task.ends();
    let late = Desk::with("late", 2, &bench.log, |pieces| pieces.ends_by_us = 300);
    let task = bench.submit("task", 1_000, Some(&late));
    late.one_begins();
    bench.clock.advance_to(301);
    late.one_ends();
    task.ends();
    let helped = |name: &str| {
        let happened = bench.happened();
        happened.iter().filter(|one| one.starts_with(name)).count()
    };
    assert_eq!((helped("gone"), helped("late")), (1, 1));
}

#[test]
fn a_panic_in_a_piece_is_told_of_and_the_worker_goes_on() {
    let bench = Bench::new(2);
    let desk = Desk::with("piece", 1, &bench.log, |pieces| pieces.panics = true);
    let task = bench.submit("task", 1_000, Some(&desk));
    desk.one_begins();
    desk.one_ends();
    assert_eq!(desk.pieces.chunks.collect(LONG), Some((0..1, None)));
    task.ends();
    // Both workers are there: each of these holds one.
    let both = [
        bench.submit("one", 1_000, None),
        bench.submit("other", 1_000, None),
    ];
    bench.wait_for(4);
    for task in &both {
        task.ends();
    }
}

#[test]
fn closing_ends_helpers_after_their_piece() {
    let bench = Bench::new(2);
    let desk = Desk::new("piece", 100, &bench.log);
    let task = bench.submit("task", 1_000, Some(&desk));
    desk.one_begins();
    let scheduler = &bench.scheduler;
    std::thread::scope(|scope| {
        scope.spawn(|| scheduler.close());
        let from = std::time::Instant::now();
        while !matches!(
            scheduler.submit(1, |_| Err(Error::Cancelled)),
            Err(Error::NotReady(_))
        ) {
            assert!(from.elapsed() < LONG);
        }
        desk.one_ends();
        task.ends();
    });
    assert_eq!(bench.happened().len(), 2, "{:?}", bench.happened());
}

#[test]
fn a_worker_that_rests_takes_nothing_and_works_again_when_it_may() {
    let bench = Bench::new(2);
    assert_eq!(bench.scheduler.resize(1), 1);
    let one = bench.submit("one", 1_000, None);
    bench.wait_for(1);
    let other = bench.submit("other", 2_000, None);
    assert_eq!(
        (bench.scheduler.workers(), bench.scheduler.depth()),
        (1, (1, 2))
    );
    one.ends();
    bench.wait_for(2);
    let third = bench.submit("third", 3_000, None);
    assert_eq!(bench.scheduler.depth(), (1, 2));
    assert_eq!(bench.scheduler.resize(9), 2);
    bench.wait_for(3);
    other.ends();
    third.ends();
    assert_eq!(bench.happened(), ["one", "other", "third"]);
}

#[test]
fn whoever_is_to_rest_ends_its_step_and_nothing_is_lost_whatever_the_size_does() {
    let bench = Bench::new(4);
    let tasks: Vec<_> = (0..200_u64)
        .map(|place| {
            let size = usize::try_from(place % 5).expect("small");
            bench.scheduler.resize(size);
            bench.submit("task", 1_000 + place, None)
        })
        .collect();
    for (place, task) in tasks.iter().enumerate() {
        bench.scheduler.resize(place % 5);
        task.let_go.send(()).expect("the task listens");
    }
    bench.scheduler.resize(1);
    for task in &tasks {
        assert!(task.over.recv_timeout(LONG).expect("the task ends"));
    }
    assert_eq!(bench.happened().len(), tasks.len());
}

#[test]
fn closing_ends_workers_that_rest() {
    let bench = Bench::new(3);
    bench.scheduler.resize(1);
    let task = bench.submit("task", 1_000, None);
    bench.wait_for(1);
    task.ends();
    bench.scheduler.close();
}

/// Reads its pieces together with whoever helps.
struct Counting {
    pieces: Arc<Counted>,
    seen: usize,
    over: Sender<usize>,
}

struct Counted {
    chunks: Chunks<usize>,
    total: usize,
    helped: AtomicUsize,
}

impl Counted {
    fn read(&self, piece: Range<usize>) {
        self.chunks.run(piece, |piece| {
            std::thread::yield_now();
            piece.len()
        });
    }
}

impl Offer for Counted {
    fn open(&self) -> usize {
        self.chunks.open()
    }
    fn take(&self, _now_us: u64) -> Option<(Range<usize>, u64)> {
        self.chunks.take().map(|piece| (piece, 1))
    }
    fn run(&self, piece: Range<usize>) {
        self.helped.fetch_add(1, Ordering::Relaxed);
        self.read(piece);
    }
}

impl Work for Counting {
    fn abandoned(&self) -> bool {
        false
    }
    fn remaining_us(&self) -> u64 {
        10
    }
    fn step_us(&self) -> u64 {
        1
    }
}

impl Task for Counting {
    fn step(&mut self, _pressure: Pressure) -> Step {
        let wait = match self.pieces.chunks.take() {
            Some(piece) => {
                self.pieces.read(piece);
                Duration::ZERO
            }
            None => LONG,
        };
        let mut came = self.pieces.chunks.collect(wait);
        while let Some((_, read)) = came {
            self.seen += read.expect("nobody panics");
            came = self.pieces.chunks.collect(Duration::ZERO);
        }
        if self.seen < self.pieces.total {
            return Step::Again;
        }
        let helped = self.pieces.helped.load(Ordering::Relaxed);
        self.over.send(helped).expect("the test listens");
        Step::Done
    }
    fn leave(&mut self, why: Leaving) {
        panic!("nobody leaves: {why:?}");
    }
    fn offer(&self) -> Option<Arc<dyn Offer>> {
        Some(Arc::clone(&self.pieces) as Arc<dyn Offer>)
    }
}

#[test]
fn many_tasks_with_many_helpers_all_end_with_every_piece_read_once() {
    let bench = Bench::new(4);
    let mut helped = 0;
    for round in 0..40 {
        let (over, ended) = channel();
        for number in 0..5 {
            let total = (round * 7 + number * 13) % 60 + 1;
            let task = Counting {
                pieces: Arc::new(Counted {
                    chunks: Chunks::new(total, 1 + number, usize::MAX),
                    total,
                    helped: AtomicUsize::new(0),
                }),
                seen: 0,
                over: over.clone(),
            };
            bench
                .scheduler
                .submit(u64::MAX - number as u64, |_| Ok(Box::new(task)))
                .expect("let in");
        }
        for _ in 0..5 {
            helped += ended.recv_timeout(LONG).expect("every task ends");
        }
    }
    assert!(helped > 0);
}
