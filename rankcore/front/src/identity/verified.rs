//! Tokens that were verified, remembered by their hash, so that a signature is looked at once and not at every call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use ring::digest;

use super::keys::Keys;
use super::token::{Rules, Verified};

/// Tokens remembered at once, twice at most: those of now and those before.
const TOKENS_MAX: usize = 8_192;

type Digest = [u8; 32];

/// Good tokens alone are remembered, so whoever has none cannot push others out.
///
/// They are found by SHA-256: how long a look-up takes says nothing of a token that the caller does not hold already.
#[derive(Default)]
pub struct Remembered {
    all: Mutex<All>,
    verifications: AtomicU64,
}

#[derive(Default)]
struct All {
    /// The set that they were verified with; another one may lack a key.
    keys: Option<Arc<Keys>>,
    now: HashMap<Digest, Arc<Verified>>,
    before: HashMap<Digest, Arc<Verified>>,
}

impl All {
    fn with(&mut self, keys: &Arc<Keys>) {
        if !self
            .keys
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, keys))
        {
            self.keys = Some(Arc::clone(keys));
            self.now.clear();
            self.before.clear();
        }
    }

    fn keep(&mut self, digest: Digest, verified: Arc<Verified>) {
        if self.now.len() >= TOKENS_MAX {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.insert(digest, verified);
    }
}

impl Remembered {
    /// What is known of a token under these keys.
    pub fn find(&self, token: &str, keys: &Arc<Keys>) -> Option<Arc<Verified>> {
        let digest = hash(token);
        let mut all = self.all.lock();
        all.with(keys);
        if let Some(found) = all.now.get(&digest) {
            return Some(Arc::clone(found));
        }
        // It is in use, so it moves to where it stays longer.
        let found = all.before.remove(&digest)?;
        all.keep(digest, Arc::clone(&found));
        Some(found)
    }

    /// Remembers a token that was verified under these keys. Those that are over are forgotten where room is needed.
    pub fn keep(
        &self,
        token: &str,
        keys: &Arc<Keys>,
        verified: &Arc<Verified>,
        now_s: i64,
        rules: &Rules,
    ) {
        let digest = hash(token);
        let mut all = self.all.lock();
        all.with(keys);
        if all.now.len() >= TOKENS_MAX {
            all.now.retain(|_, known| known.over_s(rules) > now_s);
        }
        all.keep(digest, Arc::clone(verified));
    }

    /// Counts a look at a signature.
    pub fn verifies(&self) {
        self.verifications.fetch_add(1, Ordering::Relaxed);
    }

    /// Signatures looked at.
    pub fn verifications(&self) -> u64 {
        self.verifications.load(Ordering::Relaxed)
    }
}

fn hash(token: &str) -> Digest {
    let hashed = digest::digest(&digest::SHA256, token.as_bytes());
    hashed.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
