//! Everything that can go wrong in the core, each meaning "the caller should now do X".

use thiserror::Error;

/// One thing wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, for example `filter.price_min`.
    pub field: String,
    /// What is wrong and what is accepted.
    pub description: String,
}

/// An error of the core.
#[derive(Debug, Error)]
pub enum Error {
    /// The request breaks the contract: the caller must change it.
    #[error("invalid request: {}", describe(.0))]
    InvalidRequest(Vec<Violation>),
    /// The budget is spent, or too small for the cheapest plan even on an idle server.
    #[error("deadline exceeded: {0}")]
    DeadlineExceeded(String),
    /// Queued work leaves no room: come back later.
    #[error("overloaded: retry after {retry_after_ms} ms")]
    Overloaded {
        /// When to come back, milliseconds.
        retry_after_ms: u64,
    },
    /// No generation is being served, or the sequence asked for has not been applied.
    #[error("not ready: {0}")]
    NotReady(String),
    /// The caller went away.
    #[error("cancelled by the caller")]
    Cancelled,
    /// The bundle cannot be used; names the file.
    #[error("bundle: {0}")]
    Bundle(String),
    /// The generation cannot be used; names the file.
    #[error("generation: {0}")]
    Generation(String),
    /// A model or index failed while running.
    #[error("internal: {0}")]
    Internal(String),
}

fn describe(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Result of the core.
pub type Result<T> = std::result::Result<T, Error>;
