//! What a request asks for, decoded and checked.

use prost::Message;

use crate::error::{Error, Result, Violation};
use crate::memory::Named;
use crate::plan::Shape;
use crate::plan::priority::Priority;
use crate::retrieve::{query_keys, validate_rerank, validate_search};
use crate::wire;

/// Results of a search that does not say how many it wants.
const PAGE_DEFAULT: usize = 10;

/// Metadata that names the class of a request whose field does not.
const PRIORITY_METADATA: &str = "muster-priority";

/// Where the candidates come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Retrieval.
    Search {
        /// Conditions.
        filter: Option<wire::Filter>,
        /// Facets to count.
        facets: Vec<String>,
        /// Results to skip.
        offset: usize,
    },
    /// The caller.
    Brought {
        /// Products, in the caller's order.
        product_ids: Vec<String>,
    },
}

/// A validated request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Query, trimmed.
    pub query: String,
    /// Its words, as match signals compare them.
    pub keys: Vec<u32>,
    /// Where the candidates come from.
    pub source: Source,
    /// Results wanted.
    pub page: usize,
    /// Wait until this sequence has been applied; 0: do not wait.
    pub min_sequence: u64,
    /// Return the signals of each result.
    pub explain: bool,
    /// Class, as the request's field says it; `None`: it does not.
    pub stated: Option<Priority>,
    /// Whose search it is; `None`: it does not say.
    pub named: Option<Named>,
}

fn undecodable(error: &prost::DecodeError) -> Error {
    Error::InvalidRequest(vec![Violation {
        field: "request".to_owned(),
        description: format!("cannot be decoded: {error}"),
    }])
}

fn accept(violations: Vec<Violation>) -> Result<()> {
    if violations.is_empty() {
        Ok(())
    } else {
        Err(Error::InvalidRequest(violations))
    }
}

/// A request's class: the stated one, else `told`, the one its metadata name, else the default.
///
/// # Errors
/// `InvalidRequest` for metadata that name no class, even where one is stated.
pub fn class(stated: Option<Priority>, told: Option<&str>) -> Result<Priority> {
    let told = told
        .map(|name| {
            Priority::parse(name).ok_or_else(|| {
                Error::InvalidRequest(vec![Violation {
                    field: PRIORITY_METADATA.to_owned(),
                    description: format!("{name:?}; accepted: critical, default or sheddable"),
                }])
            })
        })
        .transpose()?;
    Ok(stated.or(told).unwrap_or_default())
}

impl Ask {
    /// Decodes and checks a serialised `SearchRequest`.
    ///
    /// # Errors
    /// `InvalidRequest` with every violation.
    pub fn search(bytes: &[u8]) -> Result<Self> {
        let request = wire::SearchRequest::decode(bytes).map_err(|error| undecodable(&error))?;
        accept(validate_search(&request))?;
        let query = request.query.trim().to_owned();
        Ok(Self {
            keys: query_keys(&query),
            query,
            source: Source::Search {
                filter: request.filter,
                facets: request.facets,
                offset: request.offset as usize,
            },
            page: match request.page_size {
                0 => PAGE_DEFAULT,
                page => page as usize,
            },
            min_sequence: request.min_sequence,
            explain: request.explain,
            stated: Priority::from_wire(request.priority).unwrap_or_default(),
            named: Some(Named {
                shopper_id: request.shopper_id,
                session_id: request.session_id,
                history: request.history,
            })
            .filter(|named| !named.is_empty()),
        })
    }

    /// Decodes and checks a serialised `RerankRequest`.
    ///
    /// # Errors
    /// `InvalidRequest` with every violation.
    pub fn rerank(bytes: &[u8]) -> Result<Self> {
        let request = wire::RerankRequest::decode(bytes).map_err(|error| undecodable(&error))?;
        accept(validate_rerank(&request))?;
        let query = request.query.trim().to_owned();
        let page = match request.page_size {
            0 => request.product_ids.len(),
            page => page as usize,
        };
        Ok(Self {
            keys: query_keys(&query),
            query,
            source: Source::Brought {
                product_ids: request.product_ids,
            },
            page,
            min_sequence: request.min_sequence,
            explain: request.explain,
            stated: Priority::from_wire(request.priority).unwrap_or_default(),
            named: None,
        })
    }

    /// The request's class: its field's, else `told`, the one its metadata name, else the default.
    ///
    /// # Errors
    /// `InvalidRequest` for metadata that name no class, even where the field does.
    pub fn priority(&self, told: Option<&str>) -> Result<Priority> {
        class(self.stated, told)
    }

    /// Results up to the end of the page asked for.
    pub(super) fn seen(&self) -> usize {
        match self.source {
            Source::Search { offset, .. } => offset.saturating_add(self.page),
            Source::Brought { .. } => self.page,
        }
    }

    /// What the planner needs to know about this request. `personal`: a shopper's history may enter its order.
    #[must_use]
    pub fn shape(&self, products: usize, chunk_pairs: usize, personal: bool) -> Shape {
        let (brought, facets) = match &self.source {
            Source::Search { facets, .. } => (None, facets.len()),
            Source::Brought { product_ids } => (Some(product_ids.len()), 0),
        };
        Shape {
            words: self.keys.len(),
            brought,
            products,
            facets,
            page: self.page,
            chunk_pairs,
            personal: personal && self.named.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_of_a_search_is_named() {
        let request = wire::SearchRequest {
            query: "   ".to_owned(),
            page_size: 101,
            offset: 901,
            facets: vec![
                "brand".to_owned(),
                "price".to_owned(),
                "attributes.".to_owned(),
            ],
            ..Default::default()
        };
        let Err(Error::InvalidRequest(violations)) = Ask::search(&request.encode_to_vec()) else {
            panic!("accepted");
        };
        let fields: Vec<_> = violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(
            fields,
            ["query", "page_size", "offset", "facets[1]", "facets[2]"]
        );
    }

    #[test]
    fn a_class_is_the_fields_else_the_metadatas_else_the_default() {
        use wire::Priority as Field;
        let table = [
            (Field::Unspecified, None, Priority::Default),
            (Field::Unspecified, Some("critical"), Priority::Critical),
            (Field::Unspecified, Some("sheddable"), Priority::Sheddable),
            (Field::Sheddable, None, Priority::Sheddable),
            (Field::Sheddable, Some("critical"), Priority::Sheddable),
            (Field::Default, Some("critical"), Priority::Default),
        ];
        for (field, told, expected) in table {
            let search = wire::SearchRequest {
                query: "shoes".to_owned(),
                priority: field.into(),
                ..Default::default()
            };
            let rerank = wire::RerankRequest {
                query: "shoes".to_owned(),
                product_ids: vec!["a".to_owned()],
                priority: field.into(),
                ..Default::default()
            };
            for ask in [
                Ask::search(&search.encode_to_vec()),
                Ask::rerank(&rerank.encode_to_vec()),
            ] {
                let ask = ask.expect("a valid request");
                assert_eq!(ask.priority(told).expect("a class"), expected);
                let Err(Error::InvalidRequest(violations)) = ask.priority(Some("urgent")) else {
                    panic!("accepted");
                };
                assert_eq!(violations[0].field, "muster-priority");
            }
        }
    }

    #[test]
    fn a_query_is_measured_in_characters_after_trimming() {
        for (query, accepted) in [
            ("ü".repeat(1_024), true),
            (format!("  {}  ", "x".repeat(1_024)), true),
            ("ü".repeat(1_025), false),
        ] {
            let request = wire::SearchRequest {
                query,
                ..Default::default()
            };
            assert_eq!(Ask::search(&request.encode_to_vec()).is_ok(), accepted);
        }
    }

    #[test]
    fn every_violation_of_a_rerank_is_named() {
        let request = wire::RerankRequest {
            query: "shoes".to_owned(),
            product_ids: vec!["a".to_owned(), String::new(), "a".to_owned()],
            page_size: 1_001,
            ..Default::default()
        };
        let Err(Error::InvalidRequest(violations)) = Ask::rerank(&request.encode_to_vec()) else {
            panic!("accepted");
        };
        let fields: Vec<_> = violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(fields, ["product_ids[1]", "product_ids[2]", "page_size"]);
    }

    #[test]
    fn bytes_that_are_no_request_are_invalid() {
        assert!(matches!(
            Ask::search(&[0xff, 0xff, 0xff]),
            Err(Error::InvalidRequest(_))
        ));
    }

    #[test]
    fn defaults_follow_the_contract() {
        let search = Ask::search(
            &wire::SearchRequest {
                query: " red  shoes ".to_owned(),
                ..Default::default()
            }
            .encode_to_vec(),
        )
        .expect("valid");
        assert_eq!((search.page, search.query.as_str()), (10, "red  shoes"));
        let rerank = Ask::rerank(
            &wire::RerankRequest {
                query: "shoes".to_owned(),
                product_ids: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
                ..Default::default()
            }
            .encode_to_vec(),
        )
        .expect("valid");
        assert_eq!(rerank.page, 3);
    }
}
