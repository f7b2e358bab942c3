//! What a caller wants to be recommended: decoded, checked, its history put in order.

use std::collections::HashMap;

use prost::Message;

use crate::error::{Error, Result, Violation};
use crate::memory::{Memory, Named};
use crate::retrieve::{validate_filter, validate_recommend};
use crate::wire;

/// Results of a request that does not say how many it wants.
const PAGE_DEFAULT: usize = 10;

/// A validated request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Products that the shopper took, oldest first, each once, at its latest place.
    pub history: Vec<String>,
    /// Of them and of what was passed over, products that feedback alone has told.
    pub recorded: usize,
    /// Conditions.
    pub filter: Option<wire::Filter>,
    /// Results wanted.
    pub page: usize,
    /// Say what brought each result.
    pub explain: bool,
    /// How much a result that is like those before it loses, 0 to 1.
    pub diversity: f64,
    /// What is in the history may be named.
    pub repeats: bool,
}

impl Ask {
    /// Decodes and checks a serialised `RecommendRequest`.
    ///
    /// # Errors
    /// `InvalidRequest` with every violation.
    pub fn decoded(bytes: &[u8]) -> Result<wire::RecommendRequest> {
        let request = wire::RecommendRequest::decode(bytes).map_err(|error| {
            Error::InvalidRequest(vec![Violation {
                field: "request".to_owned(),
                description: format!("cannot be decoded: {error}"),
            }])
        })?;
        let mut violations = validate_recommend(&request);
        violations.extend(request.filter.iter().flat_map(validate_filter));
        if violations.is_empty() {
            Ok(request)
        } else {
            Err(Error::InvalidRequest(violations))
        }
    }

    /// What a valid request asks for. `now_unix_us`: what happened later counts as now. `memory`: what feedback has told of
    /// whom it names.
    #[must_use]
    pub fn of(
        request: wire::RecommendRequest,
        now_unix_us: u64,
        memory: Option<&dyn Memory>,
    ) -> Self {
        let named = Named {
            shopper_id: request.shopper_id,
            session_id: request.session_id,
            history: request.history,
        };
        let (history, recorded) = named.whole(memory, now_unix_us);
        Self {
            history: in_order(history, now_unix_us),
            recorded,
            filter: request.filter,
            page: match request.page_size {
                0 => PAGE_DEFAULT,
                page => page as usize,
            },
            explain: request.explain,
            diversity: request.diversity,
            repeats: request.repeats,
        }
    }
}

/// Products by time, each once, at its latest place; an item without a time has that of the item before it.
pub(crate) fn in_order(items: Vec<wire::HistoryItem>, now_unix_us: u64) -> Vec<String> {
    let mut before_us = 0;
    let mut timed: Vec<(u64, String)> = items
        .into_iter()
        .map(|item| {
            if item.occurred_unix_us > 0 {
                before_us = item.occurred_unix_us.min(now_unix_us);
            }
            (before_us, item.kind, item.product_id)
        })
        .filter(|(_, kind, _)| *kind != wire::FeedbackKind::View as i32)
        .map(|(at_us, _, product_id)| (at_us, product_id))
        .collect();
    timed.sort_by_key(|(at_us, _)| *at_us);
    let latest: HashMap<String, usize> = timed
        .iter()
        .enumerate()
        .map(|(at, (_, product_id))| (product_id.clone(), at))
        .collect();
    timed
        .into_iter()
        .enumerate()
        .filter(|(at, (_, product_id))| latest[product_id] == *at)
        .map(|(_, (_, product_id))| product_id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: u64 = 1_000;

    fn item(product_id: &str, occurred_unix_us: u64) -> wire::HistoryItem {
        wire::HistoryItem {
            product_id: product_id.to_owned(),
            kind: wire::FeedbackKind::Click.into(),
            occurred_unix_us,
        }
    }

    fn asked(request: &wire::RecommendRequest) -> Result<Ask> {
        let request = Ask::decoded(&request.encode_to_vec())?;
        Ok(Ask::of(request, NOW_US, None))
    }

    fn history(items: Vec<wire::HistoryItem>) -> Vec<String> {
        let request = wire::RecommendRequest {
            history: items,
            ..Default::default()
        };
        asked(&request).expect("valid").history
    }

    #[test]
    fn times_that_jump_back_are_put_in_order_and_the_future_is_now() {
        assert_eq!(
            history(vec![item("b", 20), item("a", 10), item("c", 30)]),
            ["a", "b", "c"]
        );
        assert_eq!(
            history(vec![
                item("late", u64::MAX),
                item("now", NOW_US),
                item("a", 1)
            ]),
            ["a", "late", "now"]
        );
    }

    #[test]
    fn items_without_a_time_keep_their_place_and_the_latest_place_counts() {
        assert_eq!(
            history(vec![item("a", 0), item("b", 0), item("a", 0)]),
            ["b", "a"]
        );
        assert_eq!(
            history(vec![item("x", 50), item("y", 0), item("z", 40)]),
            ["z", "x", "y"]
        );
    }

    #[test]
    fn a_view_tells_nothing() {
        let seen = wire::HistoryItem {
            kind: wire::FeedbackKind::View.into(),
            ..item("seen", 5)
        };
        assert_eq!(history(vec![seen, item("a", 1)]), ["a"]);
    }

    #[test]
    fn every_violation_is_named() {
        let request = wire::RecommendRequest {
            shopper_id: "s".repeat(257),
            session_id: "s".repeat(257),
            history: vec![wire::HistoryItem {
                kind: 99,
                ..item("", 1)
            }],
            page_size: 101,
            diversity: f64::NAN,
            priority: 9,
            filter: Some(wire::Filter {
                price_min: Some(-1.0),
                ..Default::default()
            }),
            ..Default::default()
        };
        let Err(Error::InvalidRequest(violations)) = asked(&request) else {
            panic!("accepted");
        };
        let fields: Vec<_> = violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(
            fields,
            [
                "shopper_id",
                "session_id",
                "history[0].product_id",
                "history[0].kind",
                "page_size",
                "diversity",
                "priority",
                "filter.price_min",
            ]
        );
        let request = wire::RecommendRequest {
            history: vec![item("a", 1); 1_001],
            ..Default::default()
        };
        assert!(
            matches!(asked(&request), Err(Error::InvalidRequest(found)) if found[0].field == "history")
        );
        assert!(matches!(
            Ask::decoded(&[0xff; 3]),
            Err(Error::InvalidRequest(_))
        ));
    }
}
