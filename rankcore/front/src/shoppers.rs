//! From a shopper's name to what is remembered: by the pseudonyms that the name has now and had lately. No name is kept.
//!
//! `muster/privacy/pseudonyms.py` says what a pseudonym is, `server/privacy/secrets.py` what an erased one's mark is; both are the
//! same here to the letter, and a test compares them.

use std::collections::HashSet;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::SystemTime;

use parking_lot::Mutex;
use rankcore_engine::memory::Memory;
use rankcore_engine::wire::HistoryItem;
use ring::hmac;
use serde::Deserialize;

use crate::histories::{Bounds, Histories};

const SHOPPER: &str = "shopper";
const SESSION: &str = "session";
const DAY_US: u64 = 86_400_000_000;
const DIGEST_BYTES: usize = 16;
/// A name that is longer is nobody's.
const NAME_CHARACTERS_MAX: usize = 256;

/// What pseudonyms and marks are made with.
pub struct Keys {
    /// Name and key of each secret, the newest first.
    pub secrets: Vec<(String, [u8; 32])>,
    /// Days for which a name keeps its pseudonym, at least 1.
    pub period_days: u64,
    /// Key of the marks of the erased.
    pub mark: [u8; 32],
}

/// The marks of the erased, from a file that is read again when it has changed.
struct Erased {
    path: PathBuf,
    key: hmac::Key,
    seen: Option<(SystemTime, u64)>,
    marks: HashSet<String>,
}

/// One line of the file.
#[derive(Deserialize)]
struct Mark {
    mark: String,
}

impl Erased {
    /// Looks at the file. False: it cannot be read, so nobody knows who was erased.
    fn look(&mut self) -> bool {
        let found =
            match std::fs::metadata(&self.path).and_then(|at| Ok((at.modified()?, at.len()))) {
                Ok(found) => Some(found),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(_) => return false,
            };
        if found == self.seen {
            return true;
        }
        self.marks.clear();
        if found.is_some() {
            let Ok(content) = std::fs::read(&self.path) else {
                self.seen = None;
                return false;
            };
            // A line that was cut short by a crash is passed over.
            self.marks = content
                .split(|byte| *byte == b'\n')
                .filter_map(|line| serde_json::from_slice::<Mark>(line).ok())
                .map(|line| line.mark)
                .collect();
        }
        self.seen = found;
        true
    }

    fn has(&self, pseudonym: &str) -> bool {
        !self.marks.is_empty()
            && self
                .marks
                .contains(&hex(hmac::sign(&self.key, pseudonym.as_bytes()).as_ref()))
    }
}

/// What is remembered of shoppers, by name. Shared by all threads.
pub struct Shoppers {
    age_max_us: u64,
    period_days: u64,
    keys: Vec<(String, hmac::Key)>,
    histories: Mutex<Histories>,
    erased: Mutex<Erased>,
}

impl fmt::Debug for Shoppers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shoppers").finish_non_exhaustive()
    }
}

impl Shoppers {
    /// Knows nobody yet. `erased`: the file with the marks of the erased.
    #[must_use]
    pub fn new(bounds: Bounds, keys: Keys, erased: PathBuf) -> Self {
        let key = |bytes: &[u8; 32]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        Self {
            age_max_us: bounds.age_max_us,
            period_days: keys.period_days.max(1),
            keys: keys
                .secrets
                .iter()
                .map(|(name, bytes)| (name.clone(), key(bytes)))
                .collect(),
            histories: Mutex::new(Histories::new(bounds)),
            erased: Mutex::new(Erased {
                path: erased,
                key: key(&keys.mark),
                seen: None,
                marks: HashSet::new(),
            }),
        }
    }

    /// Takes in serialised `SequencedEvent`s, ascending.
    pub fn follow<'a>(&self, events: impl IntoIterator<Item = &'a [u8]>) {
        self.histories.lock().follow(events);
    }

    /// What is remembered under any of the pseudonyms, oldest first, each product once.
    #[must_use]
    pub fn of(&self, pseudonyms: &[String], now_unix_us: u64) -> Vec<HistoryItem> {
        let mut erased = self.erased.lock();
        if !erased.look() {
            return Vec::new();
        }
        self.histories
            .lock()
            .of(pseudonyms, now_unix_us, |name| erased.has(name))
    }

    /// Remembers nothing of these pseudonyms any more, nor of a visit that one of them made.
    pub fn forget(&self, pseudonyms: &[String]) {
        self.histories.lock().forget(pseudonyms);
    }

    /// Pseudonyms that something is remembered of.
    #[must_use]
    pub fn count(&self) -> usize {
        self.histories.lock().shoppers()
    }

    /// The pseudonyms under which a name may be remembered: those of now, and those of before.
    #[must_use]
    pub fn pseudonyms(&self, kind: &str, name: &str, now_unix_us: u64) -> Vec<String> {
        let period_us = self.period_days * DAY_US;
        let since_us = now_unix_us.saturating_sub(self.age_max_us);
        let mut found = Vec::new();
        for (secret, key) in &self.keys {
            for period in since_us / period_us..=now_unix_us / period_us {
                let days = self.period_days;
                let message = format!("{kind}\0{days}/{period}\0{name}");
                let tag = hmac::sign(key, message.as_bytes());
                let digest = hex(&tag.as_ref()[..DIGEST_BYTES]);
                found.push(format!("{secret}-{days}-{period}-{digest}"));
            }
        }
        found
    }
}

impl Memory for Shoppers {
    fn recall(&self, shopper_id: &str, session_id: &str, now_unix_us: u64) -> Vec<HistoryItem> {
        let mut names = Vec::new();
        for (kind, name) in [(SHOPPER, shopper_id), (SESSION, session_id)] {
            if !name.is_empty() && name.chars().count() <= NAME_CHARACTERS_MAX {
                names.extend(self.pseudonyms(kind, name, now_unix_us));
            }
        }
        if names.is_empty() {
            return Vec::new();
        }
        self.of(&names, now_unix_us)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests;
