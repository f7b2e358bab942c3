//! Tokens that are good for one call: which of them were used.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::token::{Rules, Verified};

/// Used tokens known at once. Where there are more, the next is refused: to forget one would make it good again.
const USED_MAX: usize = 65_536;

/// Those that were used and have not expired since.
#[derive(Debug, Default)]
pub struct Once(Mutex<HashMap<Arc<str>, i64>>);

impl Once {
    /// Whether this is the first use, which it is no more from now on.
    pub fn first(&self, token: &Verified, rules: &Rules, now_s: i64) -> bool {
        let Some(id) = &token.id else {
            return false;
        };
        let mut used = self.0.lock();
        if used.len() >= USED_MAX {
            used.retain(|_, over_s| *over_s > now_s);
        }
        if used.len() >= USED_MAX || used.contains_key(id) {
            return false;
        }
        used.insert(Arc::clone(id), token.over_s(rules));
        true
    }
}
