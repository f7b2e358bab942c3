//! Why callers are refused: all of it for the metrics, less of it for the caller.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a call is refused for who makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reason {
    Absent,
    Malformed,
    UnknownKey,
    Algorithm,
    Signature,
    Issuer,
    Audience,
    Claims,
    Lifetime,
    Expired,
    NotYet,
    Revoked,
    Replayed,
    Binding,
    Certificate,
    Scope,
    Guarded,
    Quota,
}

impl Reason {
    /// All of them, as the metrics name them.
    pub const NAMED: [(Self, &'static str); 18] = [
        (Self::Absent, "absent"),
        (Self::Malformed, "malformed"),
        (Self::UnknownKey, "unknown_key"),
        (Self::Algorithm, "algorithm"),
        (Self::Signature, "signature"),
        (Self::Issuer, "issuer"),
        (Self::Audience, "audience"),
        (Self::Claims, "claims"),
        (Self::Lifetime, "lifetime"),
        (Self::Expired, "expired"),
        (Self::NotYet, "not_yet"),
        (Self::Revoked, "revoked"),
        (Self::Replayed, "replayed"),
        (Self::Binding, "binding"),
        (Self::Certificate, "certificate"),
        (Self::Scope, "scope"),
        (Self::Guarded, "guarded"),
        (Self::Quota, "quota"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMED[self as usize].1
    }
}

/// How often, by reason.
#[derive(Debug, Default)]
pub struct Refused([AtomicU64; Reason::NAMED.len()]);

impl Refused {
    /// Counts one.
    pub fn count(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now.
    #[must_use]
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        let counts = Reason::NAMED.iter().zip(&self.0);
        counts
            .map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_counted_under_its_own_name() {
        let refused = Refused::default();
        for (place, (reason, name)) in Reason::NAMED.iter().enumerate() {
            assert_eq!((*reason as usize, reason.name()), (place, *name));
            for _ in 0..=place {
                refused.count(*reason);
            }
        }
        let counts: Vec<_> = refused.read().iter().map(|(_, count)| *count).collect();
        let want: Vec<u64> = (1..=Reason::NAMED.len() as u64).collect();
        assert_eq!(counts, want);
    }
}
