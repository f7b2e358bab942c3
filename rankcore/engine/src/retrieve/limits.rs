//! The limits of the wire contract, checked in one place. Each function lists everything that is wrong.
//!
//! Lengths are in characters (Unicode scalar values), as in the comments of `proto/muster/v1`.

use std::collections::HashSet;

use crate::error::Violation;
use crate::plan::priority::Priority;
use crate::wire;

use super::facets::ATTRIBUTE_PREFIX;

/// Events of one batch.
pub const EVENTS_MAX: usize = 1_000;
const QUERY_MAX: usize = 1_024;
const PAGE_MAX: u32 = 100;
const OFFSET_MAX: u32 = 900;
const FACETS_MAX: usize = 8;
const RERANK_MAX: usize = 1_000;
/// Items of a history.
pub const HISTORY_MAX: usize = 1_000;
const NAME_MAX: usize = 256;
const ID_MAX: usize = 128;
const VALUES_MAX: usize = 64;
const CONDITIONS_MAX: usize = 16;

struct Found {
    prefix: String,
    violations: Vec<Violation>,
}

impl Found {
    fn under(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            violations: Vec::new(),
        }
    }

    fn refuse(&mut self, field: &str, description: impl Into<String>) {
        self.violations.push(Violation {
            field: match (self.prefix.as_str(), field) {
                ("", field) => field.to_owned(),
                (prefix, "") => prefix.to_owned(),
                (prefix, field) => format!("{prefix}.{field}"),
            },
            description: description.into(),
        });
    }

    fn longest(&mut self, field: &str, text: &str, most: usize) {
        // A text of few bytes cannot have many characters.
        if text.len() > most {
            let characters = text.chars().count();
            if characters > most {
                self.refuse(
                    field,
                    format!("{characters} characters; accepted: at most {most}"),
                );
            }
        }
    }

    fn most(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            self.refuse(field, format!("{count} entries; accepted: at most {most}"));
        }
    }

    fn id(&mut self, field: &str, id: &str) {
        if id.is_empty() {
            self.refuse(field, format!("empty; accepted: 1 to {ID_MAX} characters"));
        }
        self.longest(field, id, ID_MAX);
        if id.chars().any(char::is_control) {
            self.refuse(field, "has a control character");
        }
    }

    fn number(&mut self, field: &str, value: Option<f64>, most: f64) {
        if let Some(value) = value
            && !(value.is_finite() && (0.0..=most).contains(&value))
        {
            let accepted = if most.is_finite() {
                format!("0 to {most}")
            } else {
                "finite and at least 0".to_owned()
            };
            self.refuse(field, format!("{value}; accepted: {accepted}"));
        }
    }

    fn count(&mut self, field: &str, value: Option<i64>) {
        if let Some(value) = value
            && value < 0
        {
            self.refuse(field, format!("{value}; accepted: at least 0"));
        }
    }

    fn priority(&mut self, number: i32) {
        if let Err(number) = Priority::from_wire(number) {
            self.refuse(
                "priority",
                format!("{number}; accepted: 0 to {}", Priority::ALL.len()),
            );
        }
    }

    /// What is wrong is said without the value: it may be a shopper's name.
    fn named(&mut self, shopper_id: &str, session_id: &str, history: &[wire::HistoryItem]) {
        self.longest("shopper_id", shopper_id, NAME_MAX);
        self.longest("session_id", session_id, NAME_MAX);
        self.most("history", history.len(), HISTORY_MAX);
        for (at, item) in history.iter().enumerate().take(HISTORY_MAX) {
            self.id(&format!("history[{at}].product_id"), &item.product_id);
            if wire::FeedbackKind::try_from(item.kind).is_err() {
                self.refuse(
                    &format!("history[{at}].kind"),
                    format!("{}; accepted: a kind of FeedbackKind", item.kind),
                );
            }
        }
    }

    fn query(&mut self, query: &str) {
        let characters = query.trim().chars().count();
        if !(1..=QUERY_MAX).contains(&characters) {
            self.refuse(
                "query",
                format!("{characters} characters after trimming; accepted: 1 to {QUERY_MAX}"),
            );
        }
    }
}

fn product_under(prefix: &str, product: &wire::Product) -> Vec<Violation> {
    let mut found = Found::under(prefix);
    found.id("product_id", &product.product_id);
    if product.title.is_empty() {
        found.refuse("title", "empty; accepted: 1 to 2048 characters");
    }
    found.longest("title", &product.title, 2_048);
    found.longest("brand", &product.brand, 256);
    found.most("category", product.category.len(), 16);
    for (at, name) in product.category.iter().enumerate() {
        found.longest(&format!("category[{at}]"), name, 256);
    }
    found.most("bullets", product.bullets.len(), 64);
    for (at, bullet) in product.bullets.iter().enumerate() {
        found.longest(&format!("bullets[{at}]"), bullet, 4_096);
    }
    found.longest("description", &product.description, 32_768);
    found.most("attributes", product.attributes.len(), 256);
    let mut attributes: Vec<_> = product.attributes.iter().collect();
    attributes.sort();
    for (name, value) in attributes {
        found.longest("attributes", name, 128);
        found.longest(&format!("attributes[{name:?}]"), value, 1_024);
    }
    found.number("price", product.price, f64::INFINITY);
    found.count("stock", product.stock);
    found.number("rating", product.rating, 5.0);
    found.count("rating_count", product.rating_count);
    found.number("popularity", product.popularity, f64::INFINITY);
    found.violations
}

/// What is wrong with a product.
pub fn validate_product(product: &wire::Product) -> Vec<Violation> {
    product_under("", product)
}

/// What is wrong with an event.
pub fn validate_event(event: &wire::Event) -> Vec<Violation> {
    event_under("", event)
}

fn event_under(prefix: &str, event: &wire::Event) -> Vec<Violation> {
    use wire::event::Change;
    let mut found = Found::under(prefix);
    found.id("event_id", &event.event_id);
    let inner = |name: &str| {
        if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}.{name}")
        }
    };
    match &event.change {
        None => found.refuse("change", "missing; accepted: upsert, patch or delete"),
        Some(Change::Upsert(product)) => {
            found
                .violations
                .extend(product_under(&inner("upsert"), product));
        }
        Some(Change::Patch(patch)) => {
            let mut inside = Found::under(&inner("patch"));
            inside.id("product_id", &patch.product_id);
            inside.number("price", patch.price, f64::INFINITY);
            inside.count("stock", patch.stock);
            inside.number("rating", patch.rating, 5.0);
            inside.count("rating_count", patch.rating_count);
            inside.number("popularity", patch.popularity, f64::INFINITY);
            let empty = patch.price.is_none()
                && patch.stock.is_none()
                && patch.rating.is_none()
                && patch.rating_count.is_none()
                && patch.popularity.is_none();
            if empty {
                inside.refuse("", "no value; at least one must be present");
            }
            found.violations.extend(inside.violations);
        }
        Some(Change::Delete(delete)) => {
            let mut inside = Found::under(&inner("delete"));
            inside.id("product_id", &delete.product_id);
            found.violations.extend(inside.violations);
        }
        Some(Change::Deploy(_)) => found.refuse(
            "deploy",
            "steps of a deploy are written by AdminService.RecordDeploy alone",
        ),
        Some(Change::Feedback(_)) => found.refuse(
            "feedback",
            "feedback is written by FeedbackService.Record alone",
        ),
    }
    found.violations
}

/// What is wrong with a batch of events.
pub fn validate_apply(request: &wire::ApplyRequest) -> Vec<Violation> {
    let mut found = Found::under("");
    if !(1..=EVENTS_MAX).contains(&request.events.len()) {
        found.refuse(
            "events",
            format!(
                "{} events; accepted: 1 to {EVENTS_MAX}",
                request.events.len()
            ),
        );
    }
    for (at, event) in request.events.iter().enumerate().take(EVENTS_MAX) {
        found
            .violations
            .extend(event_under(&format!("events[{at}]"), event));
    }
    found.violations
}

/// What is wrong with a filter, but for attributes that no product carries, which only a generation knows.
pub fn validate_filter(filter: &wire::Filter) -> Vec<Violation> {
    let mut found = Found::under("filter");
    found.most("brands", filter.brands.len(), VALUES_MAX);
    found.most("categories", filter.categories.len(), VALUES_MAX);
    found.number("price_min", filter.price_min, f64::INFINITY);
    found.number("price_max", filter.price_max, f64::INFINITY);
    if let (Some(least), Some(most)) = (filter.price_min, filter.price_max)
        && least > most
    {
        found.refuse(
            "price_max",
            format!("{most}; accepted: at least price_min, {least}"),
        );
    }
    found.most("attributes", filter.attributes.len(), CONDITIONS_MAX);
    for (at, condition) in filter.attributes.iter().enumerate() {
        if !(1..=VALUES_MAX).contains(&condition.values.len()) {
            found.refuse(
                &format!("attributes[{at}].values"),
                format!(
                    "{} values; accepted: 1 to {VALUES_MAX}",
                    condition.values.len()
                ),
            );
        }
    }
    found.violations
}

/// What is wrong with a search.
pub fn validate_search(request: &wire::SearchRequest) -> Vec<Violation> {
    let mut found = Found::under("");
    found.query(&request.query);
    if let Some(filter) = &request.filter {
        found.violations.extend(validate_filter(filter));
    }
    if request.page_size > PAGE_MAX {
        found.refuse(
            "page_size",
            format!("{}; accepted: 0 to {PAGE_MAX}", request.page_size),
        );
    }
    if request.offset > OFFSET_MAX {
        found.refuse(
            "offset",
            format!("{}; accepted: 0 to {OFFSET_MAX}", request.offset),
        );
    }
    found.most("facets", request.facets.len(), FACETS_MAX);
    for (at, facet) in request.facets.iter().enumerate() {
        if !is_facet(facet) {
            found.refuse(
                &format!("facets[{at}]"),
                format!("{facet:?}; accepted: brand, category, attributes.NAME"),
            );
        }
    }
    found.priority(request.priority);
    found.named(&request.shopper_id, &request.session_id, &request.history);
    found.violations
}

/// True: `brand`, `category` or `attributes.NAME`.
pub fn is_facet(name: &str) -> bool {
    name == "brand"
        || name == "category"
        || name
            .strip_prefix(ATTRIBUTE_PREFIX)
            .is_some_and(|name| !name.is_empty())
}

/// What is wrong with a request to re-rank.
pub fn validate_rerank(request: &wire::RerankRequest) -> Vec<Violation> {
    let mut found = Found::under("");
    found.query(&request.query);
    let ids = &request.product_ids;
    if !(1..=RERANK_MAX).contains(&ids.len()) {
        found.refuse(
            "product_ids",
            format!("{} products; accepted: 1 to {RERANK_MAX}", ids.len()),
        );
    }
    let mut seen = HashSet::new();
    for (at, id) in ids.iter().enumerate().take(RERANK_MAX) {
        found.id(&format!("product_ids[{at}]"), id);
        if !seen.insert(id) {
            found.refuse(
                &format!("product_ids[{at}]"),
                "a second time; accepted: each once",
            );
        }
    }
    if request.page_size as usize > RERANK_MAX {
        found.refuse(
            "page_size",
            format!("{}; accepted: 0 to {RERANK_MAX}", request.page_size),
        );
    }
    found.priority(request.priority);
    found.violations
}

/// What is wrong with a request for recommendations, but for its filter.
pub fn validate_recommend(request: &wire::RecommendRequest) -> Vec<Violation> {
    let mut found = Found::under("");
    found.named(&request.shopper_id, &request.session_id, &request.history);
    if request.page_size > PAGE_MAX {
        found.refuse(
            "page_size",
            format!("{}; accepted: 0 to {PAGE_MAX}", request.page_size),
        );
    }
    found.number("diversity", Some(request.diversity), 1.0);
    found.priority(request.priority);
    found.violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::event::Change;

    fn product() -> wire::Product {
        wire::Product {
            product_id: "p1".into(),
            title: "Lamp".into(),
            price: Some(0.0),
            stock: Some(0),
            rating: Some(5.0),
            ..Default::default()
        }
    }

    fn fields(violations: &[Violation]) -> Vec<&str> {
        violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect()
    }

    #[test]
    fn a_product_at_every_limit_passes() {
        let mut product = product();
        product.product_id = "é".repeat(128);
        product.title = "ü".repeat(2_048);
        product.brand = "b".repeat(256);
        product.category = vec!["c".repeat(256); 16];
        product.bullets = vec!["ß".repeat(4_096); 64];
        product.description = "d".repeat(32_768);
        product.attributes = (0..256)
            .map(|at| (format!("{at:0>128}"), "v".repeat(1_024)))
            .collect();
        assert_eq!(validate_product(&product), []);
    }

    #[test]
    fn each_broken_limit_of_a_product_is_named() {
        type Breaking = fn(&mut wire::Product);
        let table: [(&str, Breaking); 17] = [
            ("product_id", |product| product.product_id.clear()),
            ("product_id", |product| product.product_id = "x".repeat(129)),
            ("product_id", |product| product.product_id = "a\nb".into()),
            ("title", |product| product.title.clear()),
            ("title", |product| product.title = "é".repeat(2_049)),
            ("brand", |product| product.brand = "b".repeat(257)),
            ("category", |product| {
                product.category = vec!["c".into(); 17]
            }),
            ("category[1]", |product| {
                product.category = vec!["c".into(), "c".repeat(257)]
            }),
            ("bullets", |product| product.bullets = vec!["b".into(); 65]),
            ("bullets[0]", |product| {
                product.bullets = vec!["b".repeat(4_097)]
            }),
            ("description", |product| {
                product.description = "d".repeat(32_769)
            }),
            ("attributes", |product| {
                product.attributes = [("n".repeat(129), "v".into())].into();
            }),
            ("attributes[\"n\"]", |product| {
                product.attributes = [("n".into(), "v".repeat(1_025))].into();
            }),
            ("price", |product| product.price = Some(f64::NAN)),
            ("stock", |product| product.stock = Some(-1)),
            ("rating", |product| product.rating = Some(5.1)),
            ("popularity", |product| {
                product.popularity = Some(f64::INFINITY)
            }),
        ];
        for (field, break_it) in table {
            let mut broken = product();
            break_it(&mut broken);
            assert_eq!(fields(&validate_product(&broken)), [field]);
        }
    }

    #[test]
    fn events_are_checked_with_what_they_carry() {
        let event = |change| wire::Event {
            event_id: "e".into(),
            change,
        };
        assert_eq!(fields(&validate_event(&event(None))), ["change"]);
        assert_eq!(validate_event(&event(Some(Change::Upsert(product())))), []);
        let mut unnamed = product();
        unnamed.title.clear();
        assert_eq!(
            fields(&validate_event(&event(Some(Change::Upsert(unnamed))))),
            ["upsert.title"]
        );
        let mut patch = wire::Patch {
            product_id: "p".into(),
            ..Default::default()
        };
        assert_eq!(
            fields(&validate_event(&event(Some(Change::Patch(patch.clone()))))),
            ["patch"]
        );
        patch.price = Some(-1.0);
        assert_eq!(
            fields(&validate_event(&event(Some(Change::Patch(patch))))),
            ["patch.price"]
        );
        let deploy = event(Some(Change::Deploy(wire::Deploy::default())));
        assert_eq!(fields(&validate_event(&deploy)), ["deploy"]);
        let feedback = event(Some(Change::Feedback(wire::Feedback::default())));
        assert_eq!(fields(&validate_event(&feedback)), ["feedback"]);
        let delete = wire::Delete::default();
        let batch = wire::ApplyRequest {
            events: vec![wire::Event {
                event_id: String::new(),
                change: Some(Change::Delete(delete)),
            }],
        };
        assert_eq!(
            fields(&validate_apply(&batch)),
            ["events[0].event_id", "events[0].delete.product_id"]
        );
        assert_eq!(
            fields(&validate_apply(&wire::ApplyRequest::default())),
            ["events"]
        );
    }

    #[test]
    fn each_broken_limit_of_a_search_is_named() {
        type Breaking = fn(&mut wire::SearchRequest);
        let filter = |change: fn(&mut wire::Filter)| {
            let mut filter = wire::Filter::default();
            change(&mut filter);
            Some(filter)
        };
        let good = wire::SearchRequest {
            query: " lamp ".into(),
            page_size: 100,
            offset: 900,
            facets: vec![
                "brand".into(),
                "category".into(),
                "attributes.colour".into(),
            ],
            filter: filter(|filter| {
                filter.price_min = Some(2.0);
                filter.price_max = Some(2.0);
            }),
            ..Default::default()
        };
        assert_eq!(validate_search(&good), []);
        let table: [(&str, Breaking); 9] = [
            ("priority", |search| search.priority = 4),
            ("priority", |search| search.priority = -1),
            ("query", |search| search.query = " \t".into()),
            ("query", |search| search.query = "é".repeat(1_025)),
            ("page_size", |search| search.page_size = 101),
            ("offset", |search| search.offset = 901),
            ("facets", |search| search.facets = vec!["brand".into(); 9]),
            ("facets[0]", |search| search.facets = vec!["price".into()]),
            ("facets[0]", |search| {
                search.facets = vec!["attributes.".into()]
            }),
        ];
        for (field, break_it) in table {
            let mut broken = good.clone();
            break_it(&mut broken);
            assert_eq!(fields(&validate_search(&broken)), [field]);
        }
        type Break = fn(&mut wire::Filter);
        let table: [(&str, Break); 6] = [
            ("filter.brands", |filter| {
                filter.brands = vec!["b".into(); 65]
            }),
            ("filter.categories", |filter| {
                filter.categories = vec!["c".into(); 65]
            }),
            ("filter.price_min", |filter| filter.price_min = Some(-0.5)),
            ("filter.price_max", |filter| {
                filter.price_min = Some(2.0);
                filter.price_max = Some(1.0);
            }),
            ("filter.attributes[0].values", |filter| {
                filter.attributes = vec![wire::AttributeFilter {
                    name: "n".into(),
                    values: vec![],
                }];
            }),
            ("filter.attributes", |filter| {
                let condition = wire::AttributeFilter {
                    name: "n".into(),
                    values: vec!["v".into()],
                };
                filter.attributes = vec![condition; 17];
            }),
        ];
        for (field, change) in table {
            let broken = filter(change).unwrap();
            assert_eq!(fields(&validate_filter(&broken)), [field]);
        }
    }

    #[test]
    fn candidates_brought_twice_or_beyond_the_limit_are_refused() {
        let rerank = |ids: Vec<String>, page_size| wire::RerankRequest {
            query: "lamp".into(),
            product_ids: ids,
            page_size,
            ..Default::default()
        };
        let many = |count: usize| (0..count).map(|at| at.to_string()).collect::<Vec<_>>();
        assert_eq!(validate_rerank(&rerank(many(1_000), 1_000)), []);
        assert_eq!(
            fields(&validate_rerank(&rerank(many(1_001), 0))),
            ["product_ids"]
        );
        assert_eq!(
            fields(&validate_rerank(&rerank(vec![], 0))),
            ["product_ids"]
        );
        assert_eq!(
            fields(&validate_rerank(&rerank(
                vec!["a".into(), "b".into(), "a".into()],
                0
            ))),
            ["product_ids[2]"]
        );
        assert_eq!(
            fields(&validate_rerank(&rerank(many(1), 1_001))),
            ["page_size"]
        );
        let mut unknown = rerank(many(1), 1);
        unknown.priority = 9;
        assert_eq!(fields(&validate_rerank(&unknown)), ["priority"]);
    }
}
