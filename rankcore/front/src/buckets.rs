//! Token buckets, one for each key, in bounded memory: so many at once, and so many a second on the long run.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Rate and size of a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// What comes back a second, above 0.
    pub per_s: f64,
    /// What a full bucket holds, at least 1.
    pub burst: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at: Instant,
    rate: Rate,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self {
            level: rate.burst,
            at: now,
            rate,
        }
    }

    fn fill(&mut self, now: Instant) {
        let since_s = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since_s * self.rate.per_s).min(self.rate.burst);
        self.at = now;
    }

    /// How long until it holds one.
    fn wait(&self) -> Duration {
        Duration::from_secs_f64((1.0 - self.level).max(0.0) / self.rate.per_s)
    }
}

/// The buckets. A key that is not known has a full one.
///
/// There are at most so many. Where there are more keys, those whose buckets are full again are forgotten, which changes
/// nothing; beyond that all new keys share one bucket, so nobody is forgiven by a flood of keys.
#[derive(Debug)]
pub struct Buckets<K> {
    keys_max: usize,
    all: Mutex<All<K>>,
}

#[derive(Debug)]
struct All<K> {
    known: HashMap<K, Bucket>,
    others: Option<Bucket>,
    swept: Option<Instant>,
}

/// A table that is full is swept at most so often, for that looks at every bucket.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// `keys_max`: buckets kept at once.
    pub fn new(keys_max: usize) -> Self {
        Self {
            keys_max,
            all: Mutex::new(All {
                known: HashMap::new(),
                others: None,
                swept: None,
            }),
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// There is none; how long until there is.
    pub fn take(&self, key: &K, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.with(key, rate, now, |bucket| {
            if bucket.level < 1.0 {
                return Err(bucket.wait());
            }
            bucket.level -= 1.0;
            Ok(())
        })
    }

    /// Whether there is one, which stays.
    ///
    /// # Errors
    /// There is none; how long until there is.
    pub fn check(&self, key: &K, rate: Rate, now: Instant) -> Result<(), Duration> {
        let all = self.all.lock();
        let Some(bucket) = all.known.get(key).or(all.others.as_ref()) else {
            return Ok(());
        };
        let mut bucket = Bucket { rate, ..*bucket };
        bucket.fill(now);
        if bucket.level < 1.0 {
            return Err(bucket.wait());
        }
        Ok(())
    }

    /// How many keys are known.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.all.lock().known.len()
    }

    fn with<R>(
        &self,
        key: &K,
        rate: Rate,
        now: Instant,
        use_it: impl FnOnce(&mut Bucket) -> R,
    ) -> R {
        let mut all = self.all.lock();
        let all = &mut *all;
        if all.known.len() >= self.keys_max && !all.known.contains_key(key) {
            let due = all
                .swept
                .is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_EVERY);
            if due {
                all.swept = Some(now);
                all.known.retain(|_, bucket| {
                    bucket.fill(now);
                    bucket.level < bucket.rate.burst
                });
            }
        }
        let bucket = if all.known.len() < self.keys_max || all.known.contains_key(key) {
            all.known
                .entry(key.clone())
                .or_insert_with(|| Bucket::full(rate, now))
        } else {
            all.others.get_or_insert_with(|| Bucket::full(rate, now))
        };
        bucket.rate = rate;
        bucket.fill(now);
        use_it(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_s: 2.0,
        burst: 3.0,
    };

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (buckets, start) = (Buckets::new(8), Instant::now());
        for _ in 0..3 {
            assert_eq!(buckets.take(&"a", RATE, start), Ok(()));
        }
        assert_eq!(
            buckets.take(&"a", RATE, start),
            Err(Duration::from_millis(500))
        );
        assert_eq!(
            buckets.check(&"a", RATE, start),
            Err(Duration::from_millis(500))
        );
        assert_eq!(buckets.take(&"b", RATE, start), Ok(()));
        let later = start + Duration::from_millis(500);
        assert_eq!(buckets.check(&"a", RATE, later), Ok(()));
        assert_eq!(buckets.take(&"a", RATE, later), Ok(()));
        assert!(buckets.take(&"a", RATE, later).is_err());
        // A long pause fills it, and no more than that.
        let much_later = start + Duration::from_secs(1_000);
        let passed = (0..10).filter(|_| buckets.take(&"a", RATE, much_later).is_ok());
        assert_eq!(passed.count(), 3);
    }

    #[test]
    fn a_flood_of_keys_takes_no_memory_and_forgives_nobody() {
        let (buckets, start) = (Buckets::new(4), Instant::now());
        while buckets.take(&0, RATE, start).is_ok() {}
        let passed = (1..1_000).filter(|key| buckets.take(key, RATE, start).is_ok());
        // Three keys of their own bucket, and what the shared one holds.
        assert_eq!(passed.count(), 3 + 3);
        assert_eq!(buckets.len(), 4);
        assert!(buckets.check(&0, RATE, start).is_err());
        assert!(buckets.check(&5_000, RATE, start).is_err());
        // Once they are full again they are forgotten.
        let later = start + Duration::from_secs(60);
        assert_eq!(buckets.take(&7_000, RATE, later), Ok(()));
        assert_eq!(buckets.len(), 1);
    }
}
