//! A candidate bundle on trial beside the serving one: which requests it answers, which it answers a second time for comparison
//! alone, and what is measured of both.
//!
//! Nobody but the judge pays for a bad candidate: what it cannot answer is given to the serving bundle while there is time, and
//! comparisons run behind all other work, where no other work waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderValue;
use parking_lot::Mutex;
use prost::Message;
use rankcore_engine::bundle::Tier;
use rankcore_engine::engine::{Call, Engine, Method};
use rankcore_engine::error::Error;
use rankcore_engine::memory::Memory;
use rankcore_engine::reply::Cancel;
use rankcore_engine::request::Answer;
use rankcore_engine::wire;
use tokio::sync::oneshot;

use crate::status::Refusal;
use crate::turn::Ended;

/// Shares are told in so many parts.
pub const PARTS: u32 = 10_000;
/// Results that are compared.
const PAGE: usize = 10;
/// Comparisons that run or wait at a time.
const COMPARISONS_MAX: usize = 4;
/// Upper bound of the first bucket of a histogram, microseconds; each further one is a quarter above the one before.
const BUCKET_US: f64 = 50.0;
const BUCKET_GROWTH: f64 = 1.25;
/// Buckets of a histogram; the last one counts the rest, from about 47 s on.
pub const BUCKETS: usize = 64;

/// A histogram of microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times([u64; BUCKETS]);

impl Default for Times {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Times {
    fn add(&mut self, us: u64) {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let bucket = ((us as f64 / BUCKET_US).ln() / BUCKET_GROWTH.ln())
            .ceil()
            .max(0.0) as usize;
        self.0[bucket.min(BUCKETS - 1)] += 1;
    }

    /// How many values fall in each bucket.
    #[must_use]
    pub fn buckets(&self) -> &[u64] {
        &self.0
    }

    /// True without a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }
}

/// What was measured of the requests that one bundle answered in one role.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arm {
    /// Answered.
    pub answered: u64,
    /// Failed for an internal reason.
    pub failed: u64,
    /// Refused for load, or because no plan fitted.
    pub refused: u64,
    /// Given up by their callers, who had an answer from elsewhere or no more time.
    pub given_up: u64,
    /// Sum of expected nDCG, each as a share of the bundle's best plan's.
    pub worth_total: f64,
    /// From arrival to answer.
    pub latency: Times,
    /// Work, waiting left out, by tier.
    pub work: [Times; Tier::ALL.len()],
}

impl Arm {
    fn answered(&mut self, seen: &Seen, latency_us: Option<u64>) {
        self.answered += 1;
        self.worth_total += seen.worth;
        self.work[seen.tier as usize].add(seen.work_us);
        if let Some(latency_us) = latency_us {
            self.latency.add(latency_us);
        }
    }

    fn ended(&mut self, error: &Error) {
        match error {
            // The caller's doing.
            Error::InvalidRequest(_) => {}
            Error::Cancelled => self.given_up += 1,
            Error::Overloaded { .. } | Error::DeadlineExceeded(_) | Error::NotReady(_) => {
                self.refused += 1;
            }
            _ => self.failed += 1,
        }
    }
}

/// What was measured since the trial began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// Requests that the serving bundle answered.
    pub serving: Arm,
    /// Requests that the candidate answered for callers.
    pub canary: Arm,
    /// Requests that the candidate answered for comparison.
    pub shadow: Arm,
    /// Requests that both answered.
    pub compared: u64,
    /// Requests that were to be compared, but other work waited.
    pub dropped: u64,
    /// Sum of [`agreement`].
    pub agreement_total: f64,
    /// Sum of the shares of the serving order's products that the candidate returned too.
    pub overlap_total: f64,
}

/// What a response says, as far as the trial wants to know. Both kinds of responses have these fields at the same numbers.
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(message, repeated, tag = "1")]
    results: Vec<wire::RankedProduct>,
    #[prost(message, optional, tag = "2")]
    receipt: Option<wire::Receipt>,
}

/// One answer.
struct Seen {
    tier: Tier,
    worth: f64,
    work_us: u64,
    /// The first products, best first.
    page: Vec<String>,
}

impl Seen {
    fn of(answer: &Answer) -> Self {
        let told = Told::decode(&*answer.bytes).unwrap_or_default();
        let receipt = told.receipt.unwrap_or_default();
        let timings = receipt.timings.unwrap_or_default();
        Self {
            tier: answer.tier,
            worth: receipt.expected_ndcg,
            work_us: timings.total_us.saturating_sub(timings.queue_us),
            page: told
                .results
                .into_iter()
                .take(PAGE)
                .map(|result| result.product_id)
                .collect(),
        }
    }
}

/// nDCG of `order`, 0 to 1, where the product at place i of the `reference` has the gain n - i, n being its length; and the share
/// of the reference's products that the order has. `None` without a reference.
#[must_use]
pub fn agreement(reference: &[String], order: &[String]) -> Option<(f64, f64)> {
    if reference.is_empty() {
        return None;
    }
    #[allow(clippy::cast_precision_loss)]
    let gain = |place: usize| (reference.len() - place) as f64;
    #[allow(clippy::cast_precision_loss)]
    let discount = |rank: usize| ((rank + 2) as f64).log2();
    let ideal: f64 = (0..reference.len())
        .map(|rank| gain(rank) / discount(rank))
        .sum();
    let (mut found, mut shared) = (0.0, 0_u32);
    for (rank, id) in order.iter().take(reference.len()).enumerate() {
        if let Some(place) = reference.iter().position(|other| other == id) {
            found += gain(place) / discount(rank);
            shared += 1;
        }
    }
    #[allow(clippy::cast_precision_loss)]
    Some((found / ideal, f64::from(shared) / reference.len() as f64))
}

/// A ranking call, kept so that it can be made again.
pub struct Asked {
    /// What it asks for.
    pub method: Method,
    /// Its message.
    pub message: Bytes,
    /// When its budget was counted.
    pub arrived: Instant,
    /// What was left of its budget then, microseconds.
    pub remaining_us: u64,
    /// The class that its metadata name.
    pub priority: Option<HeaderValue>,
    /// What its metadata say that it belongs to.
    pub key: Option<HeaderValue>,
    /// What is remembered of whom it may name.
    pub memory: Option<Arc<dyn Memory>>,
}

impl Asked {
    /// Makes the call.
    pub fn with<T>(&self, make: impl FnOnce(Call<'_>) -> T) -> T {
        let priority = self
            .priority
            .as_ref()
            .map(|value| String::from_utf8_lossy(value.as_bytes()));
        make(Call {
            method: self.method,
            request: &self.message,
            arrived: self.arrived,
            remaining_us: self.remaining_us,
            priority: priority.as_deref(),
            memory: self.memory.as_ref(),
        })
    }

    fn late(&self) -> bool {
        self.arrived.elapsed().as_micros() >= u128::from(self.remaining_us)
    }
}

/// Takes the end of a call.
pub type Done = oneshot::Sender<Ended>;

/// A candidate on trial.
pub struct Trial {
    candidate: Arc<Engine>,
    salt: u64,
    shadow_parts: AtomicU32,
    canary_parts: AtomicU32,
    comparisons: AtomicUsize,
    drawn: AtomicU64,
    measured: Mutex<Measured>,
}

impl Trial {
    /// A trial of this candidate that touches no request yet.
    #[must_use]
    pub fn new(candidate: Arc<Engine>) -> Self {
        Self {
            salt: hash(0, candidate.bundle().id.as_bytes()),
            candidate,
            shadow_parts: AtomicU32::new(0),
            canary_parts: AtomicU32::new(0),
            comparisons: AtomicUsize::new(0),
            drawn: AtomicU64::new(0),
            measured: Mutex::default(),
        }
    }

    /// Shares of the requests that are compared, and that the candidate answers, from the next request on; in [`PARTS`].
    pub fn share(&self, shadow: u32, canary: u32) {
        self.shadow_parts
            .store(shadow.min(PARTS), Ordering::Relaxed);
        self.canary_parts
            .store(canary.min(PARTS), Ordering::Relaxed);
    }

    /// Whether any request is compared or answered by the candidate; else nothing is measured.
    #[must_use]
    pub fn touches(&self) -> bool {
        self.shadow_parts.load(Ordering::Relaxed) > 0
            || self.canary_parts.load(Ordering::Relaxed) > 0
    }

    /// What was measured so far.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.measured.lock().clone()
    }

    /// Whether the candidate answers a call: always the same for the same key, and for other candidates another choice.
    fn chosen(&self, asked: &Asked) -> bool {
        let key = asked
            .key
            .as_ref()
            .map_or(&asked.message[..], |key| key.as_bytes());
        hash(self.salt, key) % u64::from(PARTS)
            < u64::from(self.canary_parts.load(Ordering::Relaxed))
    }

    /// Whether a call is compared. Spread evenly over the calls, not bound to keys: a comparison shows nobody anything.
    fn compared(&self) -> bool {
        let parts = u64::from(self.shadow_parts.load(Ordering::Relaxed));
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        let so_far = |calls: u64| calls.wrapping_mul(parts) / u64::from(PARTS);
        so_far(number + 1) > so_far(number)
    }

    /// Has a call answered by one of the two bundles.
    pub fn answer(
        self: &Arc<Self>,
        serving: &Arc<Engine>,
        asked: Asked,
        cancel: &Arc<Cancel>,
        done: Done,
    ) {
        let asked = Arc::new(asked);
        if self.chosen(&asked) {
            self.answer_as_canary(serving, &asked, cancel, done);
        } else {
            self.answer_as_before(serving, &asked, cancel, done, true);
        }
    }

    fn answer_as_before(
        self: &Arc<Self>,
        serving: &Arc<Engine>,
        asked: &Arc<Asked>,
        cancel: &Arc<Cancel>,
        done: Done,
        may_compare: bool,
    ) {
        let (trial, again) = (Arc::clone(self), Arc::clone(asked));
        let compared = may_compare && self.compared();
        let pending = asked.with(|call| {
            serving.submit(call, move |result| {
                let latency_us = elapsed_us(again.arrived);
                let seen = result.as_ref().ok().map(Seen::of);
                {
                    let arm = &mut trial.measured.lock().serving;
                    match (&seen, &result) {
                        (Some(seen), _) => arm.answered(seen, Some(latency_us)),
                        (None, Err(error)) => arm.ended(error),
                        (None, Ok(_)) => {}
                    }
                }
                // The client may be gone.
                let _ = done.send(Ended::now(result.map_err(Refusal::Core)));
                if let (true, Some(seen)) = (compared, seen) {
                    let candidate = Arc::clone(&trial.candidate);
                    trial.compare(&candidate, &again, seen, true);
                }
            })
        });
        cancel.attach(&pending);
    }

    fn answer_as_canary(
        self: &Arc<Self>,
        serving: &Arc<Engine>,
        asked: &Arc<Asked>,
        cancel: &Arc<Cancel>,
        done: Done,
    ) {
        let (trial, again) = (Arc::clone(self), Arc::clone(asked));
        let (before, caller) = (Arc::clone(serving), Arc::clone(cancel));
        let pending = asked.with(|call| {
            self.candidate.submit(call, move |result| match result {
                Ok(answer) => {
                    let seen = Seen::of(&answer);
                    let latency_us = elapsed_us(again.arrived);
                    trial
                        .measured
                        .lock()
                        .canary
                        .answered(&seen, Some(latency_us));
                    let _ = done.send(Ended::now(Ok(answer)));
                    trial.compare(&before, &again, seen, false);
                }
                Err(error @ (Error::InvalidRequest(_) | Error::Cancelled)) => {
                    trial.measured.lock().canary.ended(&error);
                    let _ = done.send(Ended::refused(Refusal::Core(error)));
                }
                Err(error) => {
                    trial.measured.lock().canary.ended(&error);
                    if again.late() || caller.cancelled() {
                        let _ = done.send(Ended::refused(Refusal::Core(error)));
                    } else {
                        trial.answer_as_before(&before, &again, &caller, done, false);
                    }
                }
            })
        });
        // One that was refused at once is with the serving bundle already, which has attached it.
        if !pending.ended() {
            cancel.attach(&pending);
        }
    }

    /// Has the other bundle answer too, for comparison with what was `shown`. `shadow`: the other one is the candidate.
    fn compare(self: &Arc<Self>, other: &Arc<Engine>, asked: &Asked, shown: Seen, shadow: bool) {
        if self.comparisons.fetch_add(1, Ordering::Relaxed) >= COMPARISONS_MAX {
            self.comparisons.fetch_sub(1, Ordering::Relaxed);
            self.measured.lock().dropped += 1;
            return;
        }
        let trial = Arc::clone(self);
        asked.with(|call| {
            // Its time counts anew: what the caller had is spent.
            let call = Call {
                arrived: Instant::now(),
                ..call
            };
            other.submit_behind(call, move |result| {
                trial.comparisons.fetch_sub(1, Ordering::Relaxed);
                let seen = result.as_ref().ok().map(Seen::of);
                let mut measured = trial.measured.lock();
                match (&seen, &result) {
                    (_, Err(Error::Overloaded { .. } | Error::Cancelled)) => measured.dropped += 1,
                    (_, Err(error)) if shadow => measured.shadow.ended(error),
                    (Some(seen), _) => {
                        if shadow {
                            measured.shadow.answered(seen, None);
                        }
                        let (reference, order) = if shadow {
                            (&shown.page, &seen.page)
                        } else {
                            (&seen.page, &shown.page)
                        };
                        if let Some((agreement, overlap)) = agreement(reference, order) {
                            measured.compared += 1;
                            measured.agreement_total += agreement;
                            measured.overlap_total += overlap;
                        }
                    }
                    (None, _) => measured.dropped += 1,
                }
            })
        });
    }
}

fn elapsed_us(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// FNV-1a over the bytes, then the finisher of MurmurHash3, so that keys that differ little are spread as well.
fn hash(salt: u64, bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ salt;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn close(found: Option<(f64, f64)>, wanted: (f64, f64)) -> bool {
        found.is_some_and(|(agreement, overlap)| {
            (agreement - wanted.0).abs() < 1e-9 && (overlap - wanted.1).abs() < 1e-9
        })
    }

    #[test]
    fn equal_orders_agree_and_disjoint_ones_do_not() {
        assert!(close(agreement(&ids("a b c"), &ids("a b c")), (1.0, 1.0)));
        assert!(close(agreement(&ids("a b c"), &ids("x y z")), (0.0, 0.0)));
        assert!(close(agreement(&ids("a b c"), &[]), (0.0, 0.0)));
        assert_eq!(agreement(&[], &ids("a")), None);
    }

    #[test]
    fn a_turned_order_agrees_less_than_one_with_neighbours_exchanged() {
        let reference = ids("a b c d");
        let (near, _) = agreement(&reference, &ids("b a c d")).expect("a reference");
        let (far, overlap) = agreement(&reference, &ids("d c b a")).expect("a reference");
        assert!(far < near && near < 1.0);
        assert!((overlap - 1.0).abs() < 1e-9);
        // Places beyond the reference's length bring nothing.
        assert_eq!(
            agreement(&ids("a"), &ids("x a")).map(|(agreement, _)| agreement),
            Some(0.0)
        );
    }

    #[test]
    fn a_share_of_the_keys_is_chosen_the_same_ones_each_time_and_others_for_another_candidate() {
        let keys: Vec<String> = (0..20_000)
            .map(|number| format!("shopper-{number}"))
            .collect();
        let below = |salt: u64, parts: u64| {
            keys.iter()
                .filter(|key| hash(salt, key.as_bytes()) % u64::from(PARTS) < parts)
                .collect::<Vec<_>>()
        };
        let (ten, other) = (below(1, 1_000), below(2, 1_000));
        assert!((1_800..2_200).contains(&ten.len()), "{}", ten.len());
        assert_eq!(ten, below(1, 1_000));
        // A larger share keeps those that it had.
        let fifth = below(1, 2_000);
        assert!(ten.iter().all(|key| fifth.contains(key)));
        let both = ten.iter().filter(|key| other.contains(key)).count();
        assert!((100..320).contains(&both), "{both}");
    }

    #[test]
    fn times_are_counted_up_to_their_bound() {
        let mut times = Times::default();
        assert!(times.is_empty());
        for us in [0, 50, 51, 62, 63, u64::MAX] {
            times.add(us);
        }
        let filled: Vec<_> = (0..BUCKETS)
            .filter(|bucket| times.buckets()[*bucket] > 0)
            .map(|bucket| (bucket, times.buckets()[bucket]))
            .collect();
        assert_eq!(filled, [(0, 2), (1, 2), (2, 1), (BUCKETS - 1, 1)]);
    }
}
