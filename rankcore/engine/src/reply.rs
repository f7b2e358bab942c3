//! The meeting point of a request's worker and its waiting caller.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::request::Answer;

#[derive(Default)]
struct Slot {
    answer: Mutex<Option<Result<Answer>>>,
    changed: Condvar,
    abandoned: AtomicBool,
}

/// Lets a caller give a request up from another thread. One per request.
#[derive(Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    slot: Mutex<Weak<Slot>>,
}

impl Cancel {
    /// Gives the request up: its caller wakes with `Cancelled`, its work leaves before more is computed. Idempotent; before
    /// the request has begun it cancels it on arrival.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(slot) = self.slot.lock().upgrade() {
            slot.abandoned.store(true, Ordering::SeqCst);
            // Taken so that the waiter is either before its check or asleep, never in between.
            drop(slot.answer.lock());
            slot.changed.notify_all();
        }
    }

    /// True once [`Cancel::cancel`] was called.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}

/// The worker's end: used once. Dropped unused, it tells the caller that the work failed.
pub struct Reply {
    slot: Option<Arc<Slot>>,
}

impl Reply {
    /// Gives the caller its answer.
    pub fn send(mut self, answer: Result<Answer>) {
        self.put(answer);
    }

    /// True if nobody waits for the answer any more.
    #[must_use]
    pub fn abandoned(&self) -> bool {
        self.slot
            .as_ref()
            .is_some_and(|slot| slot.abandoned.load(Ordering::SeqCst))
    }

    fn put(&mut self, answer: Result<Answer>) {
        if let Some(slot) = self.slot.take() {
            *slot.answer.lock() = Some(answer);
            slot.changed.notify_all();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.slot.is_some() {
            self.put(Err(Error::Internal(
                "a worker failed while ranking".to_owned(),
            )));
        }
    }
}

/// The caller's end.
pub struct Waiter {
    slot: Arc<Slot>,
}

/// How often a waiting caller is asked whether it was interrupted.
const INTERRUPT_CHECK: Duration = Duration::from_millis(100);

/// A reply and its waiter; `cancel`, if any, ends the wait.
#[must_use]
pub fn pair(cancel: Option<&Cancel>) -> (Reply, Waiter) {
    let slot = Arc::new(Slot::default());
    if let Some(cancel) = cancel {
        *cancel.slot.lock() = Arc::downgrade(&slot);
        if cancel.cancelled() {
            slot.abandoned.store(true, Ordering::SeqCst);
        }
    }
    (
        Reply {
            slot: Some(Arc::clone(&slot)),
        },
        Waiter { slot },
    )
}

impl Waiter {
    /// Waits for the answer until `deadline`. `interrupted` is asked now and then whether to give up.
    ///
    /// # Errors
    /// The worker's; `DeadlineExceeded` when the time is over; `Cancelled` when given up.
    pub fn wait(self, deadline: Instant, interrupted: &dyn Fn() -> bool) -> Result<Answer> {
        let mut answer = self.slot.answer.lock();
        loop {
            if let Some(answer) = answer.take() {
                return answer;
            }
            if self.slot.abandoned.load(Ordering::SeqCst) {
                return Err(Error::Cancelled);
            }
            let now = Instant::now();
            if now >= deadline {
                self.slot.abandoned.store(true, Ordering::SeqCst);
                return Err(Error::DeadlineExceeded(
                    "the budget was spent before the answer was ready".to_owned(),
                ));
            }
            let until = deadline.min(now + INTERRUPT_CHECK);
            if self.slot.changed.wait_until(&mut answer, until).timed_out() && until < deadline {
                // Asked without the lock: the question may take other locks.
                drop(answer);
                if interrupted() {
                    self.slot.abandoned.store(true, Ordering::SeqCst);
                    return Err(Error::Cancelled);
                }
                answer = self.slot.answer.lock();
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.slot.abandoned.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Tier;
    use crate::wire;

    fn answer() -> Answer {
        Answer {
            bytes: vec![1],
            tier: Tier::Lexical,
            reason: wire::Reason::Best,
        }
    }

    fn soon(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[test]
    fn an_answer_reaches_its_caller_from_another_thread() {
        let (reply, waiter) = pair(None);
        let worker = std::thread::spawn(move || reply.send(Ok(answer())));
        let received = waiter.wait(soon(60_000), &|| false).expect("an answer");
        assert_eq!(received.bytes, [1]);
        worker.join().expect("the worker ends");
    }

    #[test]
    fn a_cancelled_wait_ends_and_its_work_is_abandoned() {
        let cancel = Arc::new(Cancel::default());
        let (reply, waiter) = pair(Some(&cancel));
        assert!(!reply.abandoned());
        let canceller = {
            let cancel = Arc::clone(&cancel);
            std::thread::spawn(move || cancel.cancel())
        };
        assert!(matches!(
            waiter.wait(soon(60_000), &|| false),
            Err(Error::Cancelled)
        ));
        canceller.join().expect("the canceller ends");
        assert!(reply.abandoned());
    }

    #[test]
    fn a_request_cancelled_before_it_began_is_abandoned_on_arrival() {
        let cancel = Cancel::default();
        cancel.cancel();
        let (reply, _waiter) = pair(Some(&cancel));
        assert!(reply.abandoned());
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_abandons_the_work() {
        let (reply, waiter) = pair(None);
        assert!(matches!(
            waiter.wait(soon(0), &|| false),
            Err(Error::DeadlineExceeded(_))
        ));
        assert!(reply.abandoned());
    }

    #[test]
    fn an_interrupted_wait_ends() {
        let (_reply, waiter) = pair(None);
        assert!(matches!(
            waiter.wait(soon(60_000), &|| true),
            Err(Error::Cancelled)
        ));
    }

    #[test]
    fn a_worker_that_vanishes_is_an_internal_error() {
        let (reply, waiter) = pair(None);
        drop(reply);
        assert!(matches!(
            waiter.wait(soon(60_000), &|| false),
            Err(Error::Internal(_))
        ));
    }
}
