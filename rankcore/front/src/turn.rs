//! Whose turn it is to be planned. While the front keeps up, a call is planned as soon as it is read. Where calls came in faster
//! than they could be read, the one with the nearest deadline goes first, and those whose deadline has passed cost nothing more.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use parking_lot::Mutex;
use rankcore_engine::account::Account;
use rankcore_engine::engine::Method;
use rankcore_engine::memory::Memory;
use rankcore_engine::recommend::admission::Recommended;
use rankcore_engine::reply::Cancel;
use rankcore_engine::request::Answer;
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;

use crate::Shared;
use crate::ranking::Called;
use crate::status::Refusal;
use crate::trace::unix_us;
use crate::trial::Asked;

/// Calls planned before answers that wait are written.
const BATCH: usize = 16;

/// A call that was read.
pub struct Read {
    /// What it asks for.
    pub method: Called,
    /// Its message.
    pub message: Bytes,
    /// When its budget was counted.
    pub arrived: Instant,
    /// What was left of its budget then, microseconds, above 0.
    pub remaining_us: u64,
    /// The class that its metadata name.
    pub priority: Option<HeaderValue>,
    /// What its metadata say that it belongs to.
    pub key: Option<HeaderValue>,
    /// Gives it up.
    pub cancel: Arc<Cancel>,
    /// Takes its end.
    pub done: oneshot::Sender<Ended>,
}

/// How a call ended, and when.
pub struct Ended {
    /// When there was nothing left to do but to tell the caller.
    pub at: Instant,
    /// What there is to tell.
    pub result: Result<Given, Refusal>,
}

/// An answer on its way to the socket.
pub struct Given {
    /// The serialised message.
    pub bytes: Vec<u8>,
    /// What it tells of itself in numbers; `None`: recommendations tell none.
    pub account: Option<Account>,
}

impl From<Answer> for Given {
    fn from(answer: Answer) -> Self {
        Self {
            bytes: answer.bytes,
            account: Some(answer.account),
        }
    }
}

impl From<Recommended> for Given {
    fn from(recommended: Recommended) -> Self {
        Self {
            bytes: recommended.bytes,
            account: None,
        }
    }
}

impl Ended {
    /// At this moment.
    #[must_use]
    pub fn now(result: Result<impl Into<Given>, Refusal>) -> Self {
        Self {
            at: Instant::now(),
            result: result.map(Into::into),
        }
    }

    /// At this moment, without an answer.
    #[must_use]
    pub fn refused(refusal: Refusal) -> Self {
        Self::now(Err::<Given, _>(refusal))
    }
}

struct Waiting {
    deadline: Instant,
    number: u64,
    read: Read,
}

impl Waiting {
    fn key(&self) -> (Instant, u64) {
        (self.deadline, self.number)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    // The heap keeps the greatest on top; the nearest deadline must be the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

#[derive(Default)]
struct Queue {
    waiting: BinaryHeap<Waiting>,
    numbers: u64,
}

/// The calls of one message thread that were read and not planned yet.
#[derive(Default)]
pub struct Turn {
    queue: Mutex<Queue>,
    came: Notify,
}

impl Turn {
    /// Adds a call.
    pub fn push(&self, read: Read) {
        let mut queue = self.queue.lock();
        queue.numbers += 1;
        let waiting = Waiting {
            deadline: read.arrived + Duration::from_micros(read.remaining_us),
            number: queue.numbers,
            read,
        };
        queue.waiting.push(waiting);
        drop(queue);
        self.came.notify_one();
    }

    fn pop(&self) -> Option<Waiting> {
        self.queue.lock().waiting.pop()
    }

    /// Hands calls to the engine, for as long as the thread lives.
    pub async fn run(&self, shared: &Shared) {
        loop {
            self.came.notified().await;
            // Whoever can be read now is read before anybody is planned.
            yield_now().await;
            for number in 1_usize.. {
                let Some(waiting) = self.pop() else { break };
                plan(waiting, shared);
                if number.is_multiple_of(BATCH) {
                    yield_now().await;
                }
            }
        }
    }
}

fn plan(waiting: Waiting, shared: &Shared) {
    let Waiting { deadline, read, .. } = waiting;
    // Its time is over, or its caller has left and listens no more.
    if read.cancel.cancelled() || Instant::now() >= deadline {
        let _ = read.done.send(Ended::refused(Refusal::BudgetSpent));
        return;
    }
    let engine = shared.engine.load();
    let Some(engine) = engine.as_ref() else {
        let _ = read.done.send(Ended::refused(Refusal::Starting));
        return;
    };
    let Read { cancel, done, .. } = read;
    let (method, recommend) = match read.method {
        Called::Ranked(method) => (method, false),
        // Its method is passed over.
        Called::Recommend => (Method::Search, true),
    };
    let asked = Asked {
        method,
        message: read.message,
        arrived: read.arrived,
        remaining_us: read.remaining_us,
        priority: read.priority,
        key: read.key,
        memory: shared
            .shoppers
            .load_full()
            .map(|shoppers| shoppers as Arc<dyn Memory>),
    };
    if recommend {
        // A trial compares what ranks for queries.
        let pending = asked.with(|call| {
            engine.recommend(call, unix_us(Instant::now()), move |result| {
                let _ = done.send(Ended::now(result.map_err(Refusal::Core)));
            })
        });
        cancel.attach(&pending);
        return;
    }
    if let Some(trial) = shared.trial.load_full()
        && trial.touches()
    {
        trial.answer(engine, asked, &cancel, done);
        return;
    }
    let pending = asked.with(|call| {
        engine.submit(call, move |result| {
            let _ = done.send(Ended::now(result.map_err(Refusal::Core)));
        })
    });
    cancel.attach(&pending);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arrived: Instant, remaining_us: u64) -> Read {
        Read {
            method: Called::Recommend,
            message: Bytes::new(),
            arrived,
            remaining_us,
            priority: None,
            key: None,
            cancel: Arc::default(),
            done: oneshot::channel().0,
        }
    }

    #[test]
    fn the_nearest_deadline_goes_first_and_equals_keep_their_order() {
        let (turn, now) = (Turn::default(), Instant::now());
        for remaining_us in [300, 100, 200, 100] {
            turn.push(read(now, remaining_us));
        }
        let order: Vec<_> = std::iter::from_fn(|| turn.pop())
            .map(|waiting| (waiting.read.remaining_us, waiting.number))
            .collect();
        assert_eq!(order, [(100, 2), (100, 4), (200, 3), (300, 1)]);
    }
}
