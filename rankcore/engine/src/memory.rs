//! Whom a request names, and what is remembered of them.

use std::collections::HashSet;
use std::fmt;

use crate::retrieve::HISTORY_MAX;
use crate::wire;

/// What is remembered of shoppers and visits. Never shows a name.
pub trait Memory: fmt::Debug + Send + Sync {
    /// What was done lately under these names, oldest first, each product once. Nothing: nobody knows them, or nothing may be
    /// told of them. An empty name is nobody's. `now_unix_us`: the wall clock.
    fn recall(
        &self,
        shopper_id: &str,
        session_id: &str,
        now_unix_us: u64,
    ) -> Vec<wire::HistoryItem>;
}

/// Whom a request names, and the history that it brings.
#[derive(Clone, PartialEq)]
pub struct Named {
    /// The shop's name for the shopper; empty: not known.
    pub shopper_id: String,
    /// The shop's name for the visit; empty: not known.
    pub session_id: String,
    /// What the request tells, oldest first.
    pub history: Vec<wire::HistoryItem>,
}

impl fmt::Debug for Named {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Named")
            .field("history", &self.history.len())
            .finish_non_exhaustive()
    }
}

impl Named {
    /// True: it names nobody and brings nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shopper_id.is_empty() && self.session_id.is_empty() && self.history.is_empty()
    }

    /// What is remembered, then the request's own history, and how many products memory alone tells. A product of both stands
    /// where the request has it; where both are too long, the oldest that is remembered is left out.
    #[must_use]
    pub fn whole(
        self,
        memory: Option<&dyn Memory>,
        now_unix_us: u64,
    ) -> (Vec<wire::HistoryItem>, usize) {
        let known = !(self.shopper_id.is_empty() && self.session_id.is_empty());
        let Some(memory) = memory.filter(|_| known) else {
            return (self.history, 0);
        };
        let mut whole = memory.recall(&self.shopper_id, &self.session_id, now_unix_us);
        let own: HashSet<&str> = self
            .history
            .iter()
            .map(|item| item.product_id.as_str())
            .collect();
        whole.retain(|item| !own.contains(item.product_id.as_str()));
        let over = (whole.len() + self.history.len()).saturating_sub(HISTORY_MAX);
        whole.drain(..over.min(whole.len()));
        let recorded = whole.len();
        whole.extend(self.history);
        (whole, recorded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Remembers(Vec<&'static str>);

    impl Memory for Remembers {
        fn recall(&self, shopper_id: &str, _: &str, _: u64) -> Vec<wire::HistoryItem> {
            if shopper_id == "ada" {
                self.0.iter().map(|name| item(name)).collect()
            } else {
                Vec::new()
            }
        }
    }

    fn item(product_id: &str) -> wire::HistoryItem {
        wire::HistoryItem {
            product_id: product_id.to_owned(),
            ..Default::default()
        }
    }

    fn named(shopper_id: &str, own: &[&str]) -> Named {
        Named {
            shopper_id: shopper_id.to_owned(),
            session_id: String::new(),
            history: own.iter().map(|name| item(name)).collect(),
        }
    }

    fn ids(items: &[wire::HistoryItem]) -> Vec<&str> {
        items.iter().map(|item| item.product_id.as_str()).collect()
    }

    #[test]
    fn what_is_remembered_goes_first_and_a_product_of_both_stands_where_the_request_has_it() {
        let memory = Remembers(vec!["a", "b", "c"]);
        let (whole, recorded) = named("ada", &["x", "b"]).whole(Some(&memory), 1);
        assert_eq!((ids(&whole), recorded), (vec!["a", "c", "x", "b"], 2));
        for unknown in [named("eve", &["x"]), named("", &["x"])] {
            let (whole, recorded) = unknown.whole(Some(&memory), 1);
            assert_eq!((ids(&whole), recorded), (vec!["x"], 0));
        }
        let (whole, recorded) = named("ada", &["x"]).whole(None, 1);
        assert_eq!((ids(&whole), recorded), (vec!["x"], 0));
    }

    #[test]
    fn of_too_much_the_oldest_that_is_remembered_is_left_out() {
        let memory = Remembers(vec!["a", "b"]);
        let own = vec!["x"; HISTORY_MAX - 1];
        let (whole, recorded) = named("ada", &own).whole(Some(&memory), 1);
        assert_eq!((whole.len(), recorded), (HISTORY_MAX, 1));
        assert_eq!(whole[0].product_id, "b");
    }

    #[test]
    fn names_are_never_shown() {
        let shown = format!("{:?}", named("ada", &["secret"]));
        assert!(
            !shown.contains("ada") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
