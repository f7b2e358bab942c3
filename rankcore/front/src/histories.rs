//! What shoppers did lately, as the log has told it: the newest products of each, under pseudonyms, in memory alone.
//!
//! Nothing is written: what is forgotten here is only known less, and what the log no longer holds is not looked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message;
use rankcore_engine::wire::{Feedback, FeedbackKind, HistoryItem};

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Products of one name; 0: nothing at all.
    pub products_max: usize,
    /// Names; whose last deed is the oldest is forgotten first.
    pub shoppers_max: usize,
    /// What is older is not told, by the wall clock.
    pub age_max_us: u64,
}

/// What an event of the log says of feedback; other changes are skipped while decoding.
#[derive(Clone, PartialEq, Message)]
struct Sequenced {
    #[prost(uint64, tag = "3")]
    committed_unix_us: u64,
    #[prost(message, optional, tag = "4")]
    event: Option<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(message, optional, tag = "6")]
    feedback: Option<Feedback>,
}

#[derive(Debug, Clone)]
struct Did {
    product_id: String,
    kind: i32,
    committed_unix_us: u64,
}

/// Of one name.
#[derive(Debug, Default)]
struct Remembered {
    /// The order in which they were last done.
    products: Vec<Did>,
    /// Whose it is, or those of whom a visit told: an erasure takes the visit along.
    shoppers: BTreeSet<String>,
    touched: u64,
}

/// Remembers and tells.
#[derive(Debug)]
pub struct Histories {
    bounds: Bounds,
    by_name: HashMap<String, Remembered>,
    /// Names by when something was last done.
    by_touch: BTreeMap<u64, String>,
    touches: u64,
}

/// True: it says something of the shopper. A view only says that the product was shown.
fn tells(kind: i32) -> bool {
    FeedbackKind::try_from(kind)
        .is_ok_and(|kind| !matches!(kind, FeedbackKind::Unspecified | FeedbackKind::View))
}

impl Histories {
    /// Knows nothing.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            by_name: HashMap::new(),
            by_touch: BTreeMap::new(),
            touches: 0,
        }
    }

    /// Takes in serialised `SequencedEvent`s, ascending; what tells nothing of a shopper is passed over.
    pub fn follow<'a>(&mut self, events: impl IntoIterator<Item = &'a [u8]>) {
        if self.bounds.products_max == 0 {
            return;
        }
        for bytes in events {
            let Ok(sequenced) = Sequenced::decode(bytes) else {
                continue;
            };
            let Some(feedback) = sequenced.event.and_then(|event| event.feedback) else {
                continue;
            };
            if feedback.erased || !tells(feedback.kind) || feedback.product_id.is_empty() {
                continue;
            }
            let did = Did {
                product_id: feedback.product_id,
                kind: feedback.kind,
                committed_unix_us: sequenced.committed_unix_us,
            };
            for name in [&feedback.shopper, &feedback.session] {
                if !name.is_empty() {
                    self.note(name, &feedback.shopper, did.clone());
                }
            }
        }
    }

    fn note(&mut self, name: &str, shopper: &str, did: Did) {
        self.touches += 1;
        let remembered = self.by_name.entry(name.to_owned()).or_default();
        self.by_touch.remove(&remembered.touched);
        remembered.touched = self.touches;
        self.by_touch.insert(self.touches, name.to_owned());
        if !shopper.is_empty() {
            remembered.shoppers.insert(shopper.to_owned());
        }
        let products = &mut remembered.products;
        products.retain(|other| other.product_id != did.product_id);
        products.push(did);
        let over = products.len().saturating_sub(self.bounds.products_max);
        products.drain(..over);
        while self.by_name.len() > self.bounds.shoppers_max {
            let Some((_, oldest)) = self.by_touch.pop_first() else {
                break;
            };
            self.by_name.remove(&oldest);
        }
    }

    /// What is remembered under any of the pseudonyms, oldest first, each product once. `erased`: whether nothing may be told of
    /// a pseudonym any more; it is forgotten then.
    pub fn of(
        &mut self,
        pseudonyms: &[String],
        now_unix_us: u64,
        mut erased: impl FnMut(&str) -> bool,
    ) -> Vec<HistoryItem> {
        let since_us = now_unix_us.saturating_sub(self.bounds.age_max_us);
        let mut latest: Vec<Did> = Vec::new();
        for name in pseudonyms {
            let Some(remembered) = self.by_name.get(name) else {
                continue;
            };
            if remembered.shoppers.iter().any(|shopper| erased(shopper)) {
                self.forget(std::slice::from_ref(name));
                continue;
            }
            for did in &remembered.products {
                if did.committed_unix_us < since_us {
                    continue;
                }
                match latest
                    .iter_mut()
                    .find(|other| other.product_id == did.product_id)
                {
                    Some(other) if other.committed_unix_us <= did.committed_unix_us => {
                        *other = did.clone();
                    }
                    Some(_) => {}
                    None => latest.push(did.clone()),
                }
            }
        }
        latest.sort_by_key(|did| did.committed_unix_us);
        let over = latest.len().saturating_sub(self.bounds.products_max);
        latest
            .into_iter()
            .skip(over)
            .map(|did| HistoryItem {
                product_id: did.product_id,
                kind: did.kind,
                occurred_unix_us: did.committed_unix_us,
            })
            .collect()
    }

    /// Remembers nothing of these any more, nor of a visit that one of them made.
    pub fn forget(&mut self, pseudonyms: &[String]) {
        let gone: BTreeSet<&String> = pseudonyms.iter().collect();
        let by_touch = &mut self.by_touch;
        self.by_name.retain(|name, one| {
            let forgotten =
                gone.contains(name) || one.shoppers.iter().any(|name| gone.contains(name));
            if forgotten {
                by_touch.remove(&one.touched);
            }
            !forgotten
        });
    }

    /// Pseudonyms that something is remembered of.
    #[must_use]
    pub fn shoppers(&self) -> usize {
        self.by_name.len()
    }
}
