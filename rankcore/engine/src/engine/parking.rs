//! Requests that wait for a sequence of the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Core;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::reply::Pending;

/// Goes on with a request on the generation that it waited for, or ends it.
pub(super) type Resume = Box<dyn FnOnce(&Core, Result<Arc<Generation>>) + Send>;

/// A request that waits for the sequence it asks for.
struct Parked {
    sequence: u64,
    until_us: u64,
    pending: Pending,
    resume: Resume,
}

/// Requests that wait for a sequence; a thread of their own looks after them.
#[derive(Default)]
pub(super) struct Parking {
    parked: Mutex<Vec<Parked>>,
    moved: Condvar,
}

impl Core {
    /// Resumes a request once a sequence is applied, or, less the way back before `until_us`, tells it that it is not.
    pub(super) fn wait_for(&self, sequence: u64, until_us: u64, pending: Pending, resume: Resume) {
        let reserve_us = self
            .services
            .way_back
            .reserve_us(self.services.clock.now_us());
        self.parking.parked.lock().push(Parked {
            sequence,
            until_us: until_us.saturating_sub(reserve_us),
            pending,
            resume,
        });
        // Also so that a sequence applied right before is not missed.
        self.parking.moved.notify_one();
    }

    pub(super) fn unpark(&self) {
        // Taken so that the thread is either before its look at the generation or asleep, never in between.
        drop(self.parking.parked.lock());
        self.parking.moved.notify_one();
    }

    pub(super) fn look_after_parked(&self) {
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
                    || parked.sequence <= applied
                    || parked.pending.ended()
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
            let why = if away {
                ", and the log cannot be read"
            } else {
                ""
            };
            for Parked {
                sequence, resume, ..
            } in leaving
            {
                let found = match &serving {
                    _ if closing => Err(Error::Cancelled),
                    Ok(generation) if sequence <= applied => Ok(Arc::clone(generation)),
                    _ => Err(Error::NotReady(format!(
                        "sequence {sequence} has not been applied; {applied} has{why}"
                    ))),
                };
                resume(self, found);
            }
            parked = self.parking.parked.lock();
        }
    }
}
