//! The pairs of one request, handed out in chunks from the top down, read by any number of threads, and taken back in the
//! order in which they were handed out.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

struct State<T> {
    /// Places before it were handed out.
    next: usize,
    /// Nobody begins a chunk at or behind it: it may turn out not to be wanted.
    certain: usize,
    closed: bool,
    /// Chunks that were handed out and not taken back, in order, and what became of those that have ended: `None` inside:
    /// its reader panicked.
    out: VecDeque<(Range<usize>, Option<Option<T>>)>,
}

/// Places `0..total` in chunks. `T`: what becomes of a chunk.
pub struct Chunks<T> {
    total: usize,
    chunk: usize,
    state: Mutex<State<T>>,
    ended: Condvar,
}

/// Ends a chunk as lost unless told otherwise: its reader has panicked.
struct Lost<'a, T> {
    chunks: &'a Chunks<T>,
    places: Option<Range<usize>>,
}

impl<T> Drop for Lost<'_, T> {
    fn drop(&mut self) {
        if let Some(places) = self.places.take() {
            self.chunks.end(&places, None);
        }
    }
}

impl<T> Chunks<T> {
    /// Places `0..total` in chunks of `chunk`, at least 1, of which those before `certain` are wanted in any case.
    #[must_use]
    pub fn new(total: usize, chunk: usize, certain: usize) -> Self {
        Self {
            total,
            chunk: chunk.max(1),
            state: Mutex::new(State {
                next: 0,
                certain,
                closed: false,
                out: VecDeque::new(),
            }),
            ended: Condvar::new(),
        }
    }

    /// Places of the next chunk; 0: none can be taken now.
    #[must_use]
    pub fn next_len(&self) -> usize {
        self.next(&self.state.lock()).len()
    }

    /// Chunks that can be taken now.
    #[must_use]
    pub fn open(&self) -> usize {
        let state = self.state.lock();
        if state.closed {
            return 0;
        }
        let certain = state.certain.min(self.total);
        certain.saturating_sub(state.next).div_ceil(self.chunk)
    }

    fn next(&self, state: &State<T>) -> Range<usize> {
        if state.closed || state.next >= state.certain {
            return state.next..state.next;
        }
        state.next..self.total.min(state.next + self.chunk)
    }

    /// Takes the next chunk, which must then be run; `None`: there is none now.
    pub fn take(&self) -> Option<Range<usize>> {
        let mut state = self.state.lock();
        let places = self.next(&state);
        if places.is_empty() {
            return None;
        }
        state.next = places.end;
        state.out.push_back((places.clone(), None));
        Some(places)
    }

    /// Reads a chunk that was taken. A panic of `read` is told to whoever collects, and goes on.
    pub fn run(&self, places: Range<usize>, read: impl FnOnce(Range<usize>) -> T) {
        let mut lost = Lost {
            chunks: self,
            places: Some(places.clone()),
        };
        let found = read(places);
        if let Some(places) = lost.places.take() {
            self.end(&places, Some(found));
        }
    }

    fn end(&self, places: &Range<usize>, found: Option<T>) {
        let mut state = self.state.lock();
        let chunk = state.out.iter_mut().find(|(other, _)| other == places);
        if let Some((_, ended)) = chunk {
            *ended = Some(found);
        }
        drop(state);
        self.ended.notify_all();
    }

    /// Takes the first chunk back that was not taken back yet, with what became of it (`None`: its reader panicked), if it
    /// has ended within `wait` from now; waits only while it is being read.
    pub fn collect(&self, wait: Duration) -> Option<(Range<usize>, Option<T>)> {
        let mut state = self.state.lock();
        if !wait.is_zero() {
            let reading = |state: &mut State<T>| matches!(state.out.front(), Some((_, None)));
            self.ended.wait_while_for(&mut state, reading, wait);
        }
        state.out.front()?.1.as_ref()?;
        let (places, ended) = state.out.pop_front()?;
        Some((places, ended?))
    }

    /// Places before `certain` are wanted in any case; it never falls.
    pub fn want(&self, certain: usize) {
        let mut state = self.state.lock();
        state.certain = state.certain.max(certain);
    }

    /// Nothing more is handed out.
    pub fn close(&self) {
        self.state.lock().closed = true;
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn chunks_are_handed_out_from_the_top_and_taken_back_in_that_order() {
        let chunks = Chunks::new(5, 2, usize::MAX);
        let taken: Vec<_> = std::iter::from_fn(|| chunks.take()).collect();
        assert_eq!(taken, [0..2, 2..4, 4..5]);
        assert_eq!((chunks.next_len(), chunks.open()), (0, 0));
        chunks.run(2..4, |_| "second");
        assert!(chunks.collect(NOW).is_none(), "the first is being read");
        chunks.run(0..2, |_| "first");
        assert_eq!(chunks.collect(NOW), Some((0..2, Some("first"))));
        assert_eq!(chunks.collect(NOW), Some((2..4, Some("second"))));
        assert!(chunks.collect(NOW).is_none());
    }

    #[test]
    fn nobody_begins_a_chunk_that_may_not_be_wanted() {
        let chunks: Chunks<()> = Chunks::new(100, 4, 5);
        assert_eq!((chunks.open(), chunks.next_len()), (2, 4));
        assert_eq!((chunks.take(), chunks.take()), (Some(0..4), Some(4..8)));
        assert_eq!((chunks.open(), chunks.take()), (0, None));
        chunks.want(8);
        assert_eq!(chunks.take(), None);
        chunks.want(9);
        assert_eq!(chunks.take(), Some(8..12));
        chunks.want(100);
        chunks.close();
        assert_eq!(
            (chunks.open(), chunks.next_len(), chunks.take()),
            (0, 0, None)
        );
    }

    #[test]
    fn a_reader_that_panics_is_told_of() {
        let chunks: Chunks<u8> = Chunks::new(1, 1, 1);
        let places = chunks.take().expect("one chunk");
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            chunks.run(places, |_| panic!("a reader that fails"));
        }));
        assert!(panicked.is_err());
        assert_eq!(chunks.collect(LONG), Some((0..1, None)));
    }

    #[test]
    fn waiting_ends_with_the_chunk_or_with_the_time() {
        let chunks = Chunks::new(2, 1, 2);
        assert_eq!(chunks.collect(LONG), None, "nothing is being read");
        let (first, second) = (chunks.take().expect("0"), chunks.take().expect("1"));
        assert_eq!(chunks.collect(Duration::from_millis(1)), None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                chunks.run(second, |places| places.start);
                chunks.run(first, |places| places.start);
            });
            assert_eq!(chunks.collect(LONG), Some((0..1, Some(0))));
            assert_eq!(chunks.collect(LONG), Some((1..2, Some(1))));
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_place_is_read_once_whoever_reads(
            total in 0_usize..200,
            chunk in 1_usize..40,
            readers in 1_usize..6,
        ) {
            let chunks = Chunks::new(total, chunk, usize::MAX);
            let mut seen = Vec::new();
            std::thread::scope(|scope| {
                for _ in 1..readers {
                    scope.spawn(|| {
                        while let Some(places) = chunks.take() {
                            chunks.run(places, |places| places.collect::<Vec<_>>());
                        }
                    });
                }
                while seen.len() < total {
                    if let Some(places) = chunks.take() {
                        chunks.run(places, |places| places.collect());
                    }
                    while let Some((places, found)) = chunks.collect(NOW) {
                        assert_eq!(found, Some(places.collect()));
                        seen.extend(found.expect("nobody panics"));
                    }
                    if chunks.next_len() == 0
                        && let Some((_, found)) = chunks.collect(LONG)
                    {
                        seen.extend(found.expect("nobody panics"));
                    }
                }
            });
            prop_assert_eq!(seen, (0..total).collect::<Vec<_>>());
        }
    }
}
