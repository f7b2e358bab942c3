//! The meeting point of a request's worker and whoever waits for its answer.
//!
//! The answer goes to a function that is called once, on whichever thread ends the request first: the worker that answers it,
//! the caller that gives it up, the clock that says its time is over. No thread waits in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::request::Answer;

/// Takes the answer; called once.
pub type Done<A = Answer> = Box<dyn FnOnce(Result<A>) + Send>;

/// Takes a request that has ended out of wherever it waits; called at most once, without a lock of its own held.
pub type Forget = Box<dyn FnOnce() + Send>;

struct State<A> {
    done: Option<Done<A>>,
    forget: Option<Forget>,
}

struct Slot<A> {
    state: Mutex<State<A>>,
    /// What `state.done.is_none()` says, for those who only look.
    ended: AtomicBool,
}

impl<A> Slot<A> {
    /// The first to end the request passes the answer on, and is given what takes the request out of its queue; later ones
    /// change nothing.
    fn end(&self, answer: impl FnOnce() -> Result<A>) -> Option<Option<Forget>> {
        let (done, forget) = {
            let mut state = self.state.lock();
            (state.done.take()?, state.forget.take())
        };
        self.ended.store(true, Ordering::SeqCst);
        done(answer());
        Some(forget)
    }
}

/// What a caller can do to a request, whatever its answer is.
trait GiveUp: Send + Sync {
    fn give_up(&self, why: Error);

    fn ended(&self) -> bool;

    fn on_end(&self, forget: Forget);
}

impl<A> GiveUp for Slot<A> {
    fn give_up(&self, why: Error) {
        if let Some(Some(forget)) = self.end(|| Err(why)) {
            forget();
        }
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn on_end(&self, forget: Forget) {
        let mut state = self.state.lock();
        if state.done.is_some() {
            state.forget = Some(forget);
        } else {
            drop(state);
            forget();
        }
    }
}

/// The caller's end: gives the request up. Dropping it changes nothing.
#[derive(Clone)]
pub struct Pending {
    slot: Arc<dyn GiveUp>,
}

impl Pending {
    /// The caller went away: the request ends with `Cancelled`, its work leaves before more is computed. Idempotent.
    pub fn cancel(&self) {
        self.slot.give_up(Error::Cancelled);
    }

    /// The caller's time is over: the request ends with `DeadlineExceeded`, its work leaves. Idempotent.
    pub fn expire(&self) {
        self.slot.give_up(Error::DeadlineExceeded(
            "the budget was spent before the answer was ready".to_owned(),
        ));
    }

    /// True once the request has ended in whatever way.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.slot.ended()
    }

    /// Says how to take the request out of the queue should its caller give it up.
    pub fn on_end(&self, forget: Forget) {
        self.slot.on_end(forget);
    }
}

/// The worker's end: used once. Dropped unused, it tells the caller that the work failed.
pub struct Reply<A: 'static = Answer> {
    slot: Option<Arc<Slot<A>>>,
}

impl<A: 'static> Reply<A> {
    /// Gives the caller its answer. False: it had given the request up.
    pub fn send(mut self, answer: Result<A>) -> bool {
        self.slot
            .take()
            .is_some_and(|slot| slot.end(|| answer).is_some())
    }

    /// True if nobody waits for the answer any more.
    #[must_use]
    pub fn abandoned(&self) -> bool {
        self.slot
            .as_ref()
            .is_some_and(|slot| slot.ended.load(Ordering::SeqCst))
    }

    /// The caller's end, for those who only want to know whether it still waits; `None`: it was used.
    #[must_use]
    pub fn pending(&self) -> Option<Pending> {
        let slot = Arc::clone(self.slot.as_ref()?);
        Some(Pending { slot })
    }
}

impl<A: 'static> Drop for Reply<A> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.end(|| Err(Error::Internal("a worker failed while ranking".to_owned())));
        }
    }
}

/// Both ends of a request whose answer goes to `done`.
#[must_use]
pub fn pair<A: 'static>(done: Done<A>) -> (Reply<A>, Pending) {
    let slot = Arc::new(Slot {
        state: Mutex::new(State {
            done: Some(done),
            forget: None,
        }),
        ended: AtomicBool::new(false),
    });
    (
        Reply {
            slot: Some(Arc::clone(&slot)),
        },
        Pending { slot },
    )
}

/// Lets a caller that waits give its request up from another thread. One per request.
#[derive(Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    pending: Mutex<Option<Pending>>,
}

impl Cancel {
    /// Gives the request up, see [`Pending::cancel`]; before the request has begun it cancels it on arrival. Idempotent.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        let pending = self.pending.lock().take();
        if let Some(pending) = pending {
            pending.cancel();
        }
    }

    /// Ends the request as one whose time is over, see [`Pending::expire`]; one that has not begun is cancelled.
    pub fn expire(&self) {
        let pending = self.pending.lock().take();
        match pending {
            Some(pending) => pending.expire(),
            None => self.cancel(),
        }
    }

    /// True once [`Cancel::cancel`] was called.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// The request that this gives up.
    pub fn attach(&self, pending: &Pending) {
        *self.pending.lock() = Some(pending.clone());
        if self.cancelled() {
            self.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::account::Account;
    use crate::bundle::Tier;
    use crate::wire;

    fn answer() -> Answer {
        Answer {
            bytes: vec![1],
            tier: Tier::Lexical,
            reason: wire::Reason::Best,
            account: Account {
                tier: Tier::Lexical,
                reason: wire::Reason::Best,
                depth: 0,
                planned_worth: 1.0,
                worth: 1.0,
                price: 0.0,
                timings: wire::StageTimings::default(),
                words: 1,
                lexical: None,
                nearest: None,
                taste: wire::Taste::Unspecified,
            },
        }
    }

    fn waiting() -> (Reply, Pending, Receiver<Result<Answer>>) {
        let (sender, receiver) = channel();
        let (reply, pending) = pair(Box::new(move |result| {
            sender.send(result).expect("the test waits");
        }));
        (reply, pending, receiver)
    }

    #[test]
    fn an_answer_reaches_its_caller_from_another_thread() {
        let (reply, pending, receiver) = waiting();
        let worker = std::thread::spawn(move || reply.send(Ok(answer())));
        let received = receiver.recv().expect("an end").expect("an answer");
        assert_eq!(received.bytes, [1]);
        assert!(worker.join().expect("the worker ends"));
        assert!(pending.ended());
    }

    #[test]
    fn only_the_first_end_counts() {
        let (reply, pending, receiver) = waiting();
        pending.cancel();
        pending.expire();
        assert!(reply.abandoned());
        assert!(!reply.send(Ok(answer())));
        assert!(matches!(
            receiver.recv().expect("an end"),
            Err(Error::Cancelled)
        ));
        assert!(receiver.recv().is_err(), "told twice");
    }

    #[test]
    fn a_request_whose_time_is_over_is_abandoned() {
        let (reply, pending, receiver) = waiting();
        pending.expire();
        assert!(reply.abandoned());
        assert!(matches!(
            receiver.recv().expect("an end"),
            Err(Error::DeadlineExceeded(_))
        ));
    }

    #[test]
    fn a_request_cancelled_before_it_began_ends_on_arrival() {
        let cancel = Cancel::default();
        cancel.cancel();
        let (reply, pending, receiver) = waiting();
        cancel.attach(&pending);
        assert!(reply.abandoned());
        assert!(matches!(
            receiver.recv().expect("an end"),
            Err(Error::Cancelled)
        ));
    }

    #[test]
    fn a_request_that_ends_is_taken_out_of_the_queue_once() {
        for given_up_first in [false, true] {
            let (_reply, pending, _receiver) = waiting();
            let (sender, forgotten) = channel();
            let forget: Forget = Box::new(move || sender.send(()).expect("the test waits"));
            if given_up_first {
                pending.cancel();
                pending.on_end(forget);
            } else {
                pending.on_end(forget);
                assert!(forgotten.try_recv().is_err());
                pending.cancel();
            }
            forgotten.recv().expect("it is forgotten");
        }
    }

    #[test]
    fn a_worker_that_vanishes_is_an_internal_error() {
        let (reply, _pending, receiver) = waiting();
        drop(reply);
        assert!(matches!(
            receiver.recv().expect("an end"),
            Err(Error::Internal(_))
        ));
    }
}
