//! From an error to the gRPC status that tells the caller what to do next: the rows of the service's table of errors that a
//! ranking call can end with. `tests/contract` compares them with that table.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use rankcore_engine::error::{Error, Violation};

/// Domain of every `ErrorInfo`.
pub const DOMAIN: &str = "muster.v1";

/// Trailer that tells clients when to try again, milliseconds.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

// Text and details travel in trailers, of which gRPC accepts 8 KiB by default; more would lose them all.
const TEXT_BYTES_MAX: usize = 512;
const VIOLATIONS_MAX: usize = 10;
const FIELD_BYTES_MAX: usize = 100;
const DESCRIPTION_BYTES_MAX: usize = 200;

/// The codes of gRPC that the front itself uses, by their number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Cancelled,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::Unauthenticated,
    ];
}

/// The standard messages of `google.rpc` that a status carries.
mod rpc {
    use std::collections::HashMap;

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Status {
        #[prost(int32, tag = "1")]
        pub code: i32,
        #[prost(string, tag = "2")]
        pub message: String,
        #[prost(message, repeated, tag = "3")]
        pub details: Vec<Any>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Any {
        #[prost(string, tag = "1")]
        pub type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        pub value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ErrorInfo {
        #[prost(string, tag = "1")]
        pub reason: String,
        #[prost(string, tag = "2")]
        pub domain: String,
        #[prost(map = "string, string", tag = "3")]
        pub metadata: HashMap<String, String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct BadRequest {
        #[prost(message, repeated, tag = "1")]
        pub field_violations: Vec<FieldViolation>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct FieldViolation {
        #[prost(string, tag = "1")]
        pub field: String,
        #[prost(string, tag = "2")]
        pub description: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        pub retry_delay: Option<Duration>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Duration {
        #[prost(int64, tag = "1")]
        pub seconds: i64,
        #[prost(int32, tag = "2")]
        pub nanos: i32,
    }
}

/// Why a call is not answered.
#[derive(Debug)]
pub enum Refusal {
    /// The ranking core's reason.
    Core(Error),
    /// The deadline had passed on arrival.
    BudgetSpent,
    /// Nothing to ask yet.
    Starting,
    /// For who asks.
    Denied(Denial),
    /// gRPC's own reasons, without details: a limit, a message that is none.
    Transport(Code, String),
}

/// Why a caller is not served, as far as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// It did not show who it is.
    Unauthenticated,
    /// Its token was good until it expired.
    TokenExpired,
    /// It may not do this; one of these scopes would allow it.
    ScopeMissing(String),
    /// It calls more often than it may.
    QuotaExceeded {
        /// When it may again.
        retry_after_ms: u64,
    },
    /// Too many bad tokens came from its address.
    TooManyRefusals {
        /// When one more is looked at.
        retry_after_ms: u64,
    },
}

/// One row: what the caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Name of the error.
    pub error: &'static str,
    /// Status.
    pub code: Code,
    /// Stable reason of the `ErrorInfo`.
    pub reason: &'static str,
    /// What is said where the error's own text is for the server's log only.
    pub meaning: &'static str,
}

const fn row(error: &'static str, code: Code, reason: &'static str, meaning: &'static str) -> Row {
    Row {
        error,
        code,
        reason,
        meaning,
    }
}

const INVALID: Row = row(
    "InvalidRequest",
    Code::InvalidArgument,
    "INVALID_FIELDS",
    "",
);
const OVERLOADED: Row = row("Overloaded", Code::ResourceExhausted, "OVERLOADED", "");
const SPENT: Row = row("BudgetSpent", Code::DeadlineExceeded, "BUDGET_SPENT", "");
const TOO_SMALL: Row = row(
    "DeadlineExceeded",
    Code::DeadlineExceeded,
    "BUDGET_TOO_SMALL",
    "",
);
const UNAUTHENTICATED: Row = row(
    "Unauthenticated",
    Code::Unauthenticated,
    "UNAUTHENTICATED",
    "",
);
const EXPIRED: Row = row("TokenExpired", Code::Unauthenticated, "TOKEN_EXPIRED", "");
const FORBIDDEN: Row = row("ScopeMissing", Code::PermissionDenied, "SCOPE_MISSING", "");
const QUOTA: Row = row(
    "QuotaExceeded",
    Code::ResourceExhausted,
    "QUOTA_EXCEEDED",
    "",
);
const GUARDED: Row = row(
    "TooManyRefusals",
    Code::ResourceExhausted,
    "TOO_MANY_REFUSALS",
    "",
);
const STARTING: Row = row("ReplicaNotReady", Code::Unavailable, "NOT_READY", "");
const NOT_READY: Row = row("NotReady", Code::Unavailable, "NOT_READY", "");
const CANCELLED: Row = row("Cancelled", Code::Cancelled, "CANCELLED", "");
const FAILED: Row = row(
    "RankError",
    Code::Internal,
    "RANKING_FAILED",
    "The ranking core failed on this request",
);

/// Every row, for comparing it with the service's table.
pub const ROWS: [Row; 13] = [
    INVALID,
    OVERLOADED,
    SPENT,
    TOO_SMALL,
    STARTING,
    NOT_READY,
    CANCELLED,
    FAILED,
    UNAUTHENTICATED,
    EXPIRED,
    FORBIDDEN,
    QUOTA,
    GUARDED,
];

/// What a call that is not answered ends with.
#[derive(Debug)]
pub struct Status {
    /// The code.
    pub code: Code,
    /// Trailers: code, text, details.
    pub trailers: HeaderMap,
    /// What the server's log must say, with the reference that the caller gets; `None`: nothing.
    pub failure: Option<Failure>,
}

/// An error that is the server's fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Names the failure to the caller.
    pub reference: String,
    /// The cause.
    pub cause: String,
    /// The name that the call's metadata give it.
    pub request_id: Option<String>,
}

impl Refusal {
    /// The status.
    #[must_use]
    pub fn status(&self) -> Status {
        let (row, mut text, mut details) = match self {
            Self::Transport(code, text) => {
                let mut trailers = HeaderMap::with_capacity(2);
                trailers.insert(STATUS, HeaderValue::from(*code as u8 as u16));
                trailers.insert(MESSAGE, message(text));
                return Status {
                    code: *code,
                    trailers,
                    failure: None,
                };
            }
            Self::BudgetSpent => (
                SPENT,
                "the deadline had passed on arrival".to_owned(),
                Vec::new(),
            ),
            Self::Starting => (
                STARTING,
                "this replica is still starting".to_owned(),
                Vec::new(),
            ),
            Self::Denied(denial) => {
                let (row, text) = denial.told();
                (row, text, Vec::new())
            }
            Self::Core(error) => {
                let text = error.to_string();
                match error {
                    Error::InvalidRequest(violations) => {
                        (INVALID, text, vec![bad_request(violations)])
                    }
                    Error::Overloaded { .. } => (OVERLOADED, text, Vec::new()),
                    Error::DeadlineExceeded(_) => (TOO_SMALL, text, Vec::new()),
                    Error::NotReady(_) => (NOT_READY, text, Vec::new()),
                    Error::Cancelled => (CANCELLED, text, Vec::new()),
                    Error::Bundle(_) | Error::Generation(_) | Error::Internal(_) => {
                        (FAILED, text, Vec::new())
                    }
                }
            }
        };
        let mut trailers = HeaderMap::with_capacity(4);
        if let Some(retry_after_ms) = self.retry_after_ms() {
            details.push(any(
                "google.rpc.RetryInfo",
                &rpc::RetryInfo {
                    retry_delay: Some(rpc::Duration {
                        seconds: i64::try_from(retry_after_ms / 1_000).unwrap_or(i64::MAX),
                        nanos: i32::try_from(retry_after_ms % 1_000).unwrap_or(0) * 1_000_000,
                    }),
                },
            ));
            trailers.insert(PUSHBACK, HeaderValue::from(retry_after_ms));
        }
        let mut failure = None;
        if row.code == Code::Internal {
            let reference = reference();
            failure = Some(Failure {
                reference: reference.clone(),
                cause: text,
                request_id: None,
            });
            text = format!("{} (reference {reference})", row.meaning);
        }
        let text = cut(&text, TEXT_BYTES_MAX);
        details.insert(
            0,
            any(
                "google.rpc.ErrorInfo",
                &rpc::ErrorInfo {
                    reason: row.reason.to_owned(),
                    domain: DOMAIN.to_owned(),
                    metadata: self.metadata(),
                },
            ),
        );
        let status = rpc::Status {
            code: row.code as i32,
            message: text.clone(),
            details,
        };
        trailers.insert(STATUS, HeaderValue::from(row.code as u8 as u16));
        trailers.insert(MESSAGE, message(&text));
        trailers.insert(DETAILS, base64(&status.encode_to_vec()));
        Status {
            code: row.code,
            trailers,
            failure,
        }
    }
}

impl Refusal {
    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Core(Error::Overloaded { retry_after_ms })
            | Self::Denied(
                Denial::QuotaExceeded { retry_after_ms }
                | Denial::TooManyRefusals { retry_after_ms },
            ) => Some((*retry_after_ms).max(1)),
            _ => None,
        }
    }

    /// What programs read beside the reason.
    fn metadata(&self) -> HashMap<String, String> {
        match self {
            Self::Denied(Denial::ScopeMissing(scopes)) => {
                HashMap::from([("scopes".to_owned(), scopes.clone())])
            }
            _ => HashMap::new(),
        }
    }
}

impl Denial {
    fn told(&self) -> (Row, String) {
        match self {
            Self::Unauthenticated => (
                UNAUTHENTICATED,
                "a valid token, or a client certificate that is known here, is needed".to_owned(),
            ),
            Self::TokenExpired => (EXPIRED, "the token has expired; send a new one".to_owned()),
            Self::ScopeMissing(scopes) => (
                FORBIDDEN,
                format!("the caller needs one of these scopes: {scopes}"),
            ),
            Self::QuotaExceeded { retry_after_ms } => (
                QUOTA,
                format!(
                    "the caller calls more often than it may; the next call is due in {retry_after_ms} ms"
                ),
            ),
            Self::TooManyRefusals { retry_after_ms } => (
                GUARDED,
                format!(
                    "too many bad tokens came from this address; the next one is looked at in {retry_after_ms} ms"
                ),
            ),
        }
    }
}

/// The trailers of a call that was answered.
#[must_use]
pub fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(STATUS, HeaderValue::from_static("0"));
    trailers
}

fn any(name: &str, message: &impl Message) -> rpc::Any {
    rpc::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}

/// The first violations; one more says how many are left out.
fn bad_request(violations: &[Violation]) -> rpc::Any {
    let mut told: Vec<_> = violations
        .iter()
        .take(VIOLATIONS_MAX)
        .map(|violation| rpc::FieldViolation {
            field: cut(&violation.field, FIELD_BYTES_MAX),
            description: cut(&violation.description, DESCRIPTION_BYTES_MAX),
        })
        .collect();
    if violations.len() > VIOLATIONS_MAX {
        told.push(rpc::FieldViolation {
            field: String::new(),
            description: format!("and {} more", violations.len() - VIOLATIONS_MAX),
        });
    }
    any(
        "google.rpc.BadRequest",
        &rpc::BadRequest {
            field_violations: told,
        },
    )
}

fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max - 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

/// A name for one failure that cannot be guessed from another: 48 bits of a hash of the time and a counter.
fn reference() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    static FAILURES: AtomicU64 = AtomicU64::new(0);
    // Keys of a new state are drawn by the system at random, once for each thread.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(FAILURES.fetch_add(1, Ordering::Relaxed));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    hasher.write_u128(now.map_or(0, |since| since.as_nanos()));
    format!("{:012x}", hasher.finish() >> 16)
}

/// Percent-encoded as the protocol says: printable ASCII but `%` stays.
fn message(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    HeaderValue::from_str(&encoded).expect("printable ASCII is a header's value")
}

/// Standard alphabet, unpadded, as gRPC writes binary metadata (RFC 4648, section 4).
fn base64(data: &[u8]) -> HeaderValue {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for chunk in data.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let index = bits >> (18 - 6 * place) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    HeaderValue::from_str(&text).expect("the alphabet is printable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_metadata_is_written_without_padding() {
        // RFC 4648, section 10.
        for (data, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(data.as_bytes()), text);
        }
    }

    #[test]
    fn text_is_percent_encoded_and_cut_between_characters() {
        assert_eq!(message("50 % of ü\n"), "50 %25 of %C3%BC%0A");
        assert_eq!(cut("äöü", 6), "äöü");
        assert_eq!(cut("äöüä", 7), "äö...");
    }

    #[test]
    fn every_refusal_names_a_row_and_shed_load_says_when_to_come_back() {
        for (refusal, row) in [
            (
                Refusal::Core(Error::Overloaded { retry_after_ms: 0 }),
                OVERLOADED,
            ),
            (
                Refusal::Core(Error::DeadlineExceeded("late".to_owned())),
                TOO_SMALL,
            ),
            (Refusal::Core(Error::NotReady("no".to_owned())), NOT_READY),
            (Refusal::Core(Error::Cancelled), CANCELLED),
            (Refusal::BudgetSpent, SPENT),
            (Refusal::Starting, STARTING),
        ] {
            let status = refusal.status();
            assert_eq!(status.code, row.code);
            assert!(status.failure.is_none());
            assert_eq!(
                status.trailers.contains_key(PUSHBACK),
                row.code == Code::ResourceExhausted
            );
        }
    }

    #[test]
    fn a_failure_is_told_under_a_reference_and_its_cause_is_kept() {
        let refusal = Refusal::Core(Error::Internal("index 7 is torn".to_owned()));
        let (first, second) = (refusal.status(), refusal.status());
        let failure = first.failure.expect("it is the server's fault");
        assert!(failure.cause.contains("index 7 is torn"));
        let text = first.trailers[MESSAGE].to_str().expect("ASCII");
        assert!(text.contains(&failure.reference) && !text.contains("torn"));
        assert_ne!(
            failure.reference,
            second.failure.expect("as well").reference
        );
    }

    #[test]
    fn a_request_with_many_violations_names_the_first_and_counts_the_rest() {
        let violations: Vec<_> = (0..14)
            .map(|number| Violation {
                field: format!("product_ids[{number}]"),
                description: "x".repeat(1_000),
            })
            .collect();
        let told = rpc::BadRequest::decode(&*bad_request(&violations).value).expect("a message");
        assert_eq!(told.field_violations.len(), 11);
        assert_eq!(told.field_violations[10].description, "and 4 more");
        assert_eq!(told.field_violations[0].description.len(), 200);
        let status = Refusal::Core(Error::InvalidRequest(violations)).status();
        let bytes: usize = status.trailers.values().map(HeaderValue::len).sum();
        assert!(bytes < 8 * 1024, "{bytes}");
    }
}
