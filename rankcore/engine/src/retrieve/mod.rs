//! Finding candidates: lexical and dense retrieval, fusion, filters, facets, and the live state on top
//! of a generation.

pub mod columns;
pub mod delta;
pub mod dense;
pub mod facets;
pub mod filter;
pub mod fuse;
pub mod lexical;
pub mod limits;
pub mod lists;
pub mod match_text;
pub mod scan;

pub use columns::Candidate;
pub use dense::DenseSearch;
pub use fuse::fuse;
pub use limits::{
    HISTORY_MAX, validate_apply, validate_event, validate_filter, validate_product,
    validate_recommend, validate_rerank, validate_search,
};
pub use match_text::{MatchText, query_keys};

/// Number of a product's text inside one generation: append-only, never reused. A product whose text
/// changes gets a new row and leaves a tombstone.
pub type Row = u32;
