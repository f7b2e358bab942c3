//! Who calls, and what they may: decided here for every call, before anything else is done for it.
//!
//! A call is let in by a token (`token`, verified with `keys`) or by the client certificate of its connection (`certificate`);
//! `scope` says what its method asks for, `revoked` who is refused whatever they bring. What was verified once is remembered,
//! so a call costs a hash and a look-up. Addresses that bring bad tokens again and again are refused before a signature is
//! looked at, and every caller has a rate of its own.

pub mod certificate;
pub mod keys;
mod once;
pub mod refused;
pub mod revoked;
pub mod scope;
pub mod token;
mod verified;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::buckets::{Buckets, Rate};
use crate::files::{Kept, Look};
use crate::status::{Denial, Refusal};
use certificate::{Certificate, Named};
use keys::Keys;
use once::Once;
use refused::{Reason, Refused};
use revoked::{Kind, Revoked};
use scope::Scopes;
use token::{Rules, Verified, verify};
use verified::Remembered;

/// Callers and addresses with buckets of their own.
const CALLERS_MAX: usize = 65_536;

/// How callers are known.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The key set that tokens are verified with; `None`: no tokens.
    pub keys: Option<PathBuf>,
    /// The list of what is revoked; `None`: nothing.
    pub revoked: Option<PathBuf>,
    /// What tokens must say.
    pub rules: Rules,
    /// Entries of [`Named`].
    pub certificates: Vec<String>,
    /// Tokens of calls that ask for `admin` or `drill` must be good for one call only.
    pub admin_once: bool,
    /// Bad tokens that an address may bring.
    pub failures: Rate,
}

/// How often callers may call.
#[derive(Debug, Clone, Default)]
pub struct Quota {
    /// Every caller; `None`: as often as they like.
    pub each: Option<Rate>,
    /// Single callers, by name.
    pub named: Vec<(String, Rate)>,
}

impl Quota {
    fn of(&self, caller: &Who) -> Option<Rate> {
        if let Who::Subject(subject) = caller
            && let Some((_, rate)) = self.named.iter().find(|(name, _)| **name == **subject)
        {
            return Some(*rate);
        }
        self.each
    }
}

/// Whom a bucket belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Subject(Arc<str>),
    Address(IpAddr),
}

/// An address as one party is likely to have it: the whole of IPv4, of IPv6 the network (RFC 6177).
fn party(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        v4 => v4,
    }
}

/// The client at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Where it is.
    pub address: IpAddr,
    /// The certificate that it proved to own.
    pub certificate: Option<Certificate>,
}

/// A caller that was let in. subject: `None` where nobody is asked who they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Name of a token or a certificate.
    pub subject: Option<Arc<str>>,
}

/// A caller that was not.
#[derive(Debug)]
pub struct Denied {
    /// Why, for the metrics.
    pub reason: Reason,
    /// Who it is, where that is certain.
    pub subject: Option<Arc<str>>,
    /// Whether the call was an operator's.
    pub operates: bool,
    /// What the caller is told.
    pub refusal: Refusal,
}

/// The numbers of a gate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Calls refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Signatures looked at.
    pub verified: u64,
    /// Name of a kind of file, how often it was taken anew, and how often what was there could not be used.
    pub files: Vec<(&'static str, u64, u64)>,
}

/// Decides about every call of a front.
pub struct Gate {
    identity: Option<Identity>,
    quota: Quota,
    calls: Buckets<Who>,
    refused: Refused,
}

impl Gate {
    /// `settings`: `None`: nobody is asked who they are.
    ///
    /// # Errors
    /// One sentence: a file cannot be used, an entry is not understood.
    pub fn new(settings: Option<Settings>, quota: Quota) -> Result<Self, String> {
        Ok(Self {
            identity: settings.map(Identity::new).transpose()?,
            quota,
            calls: Buckets::new(CALLERS_MAX),
            refused: Refused::default(),
        })
    }

    /// Whether a call may go on.
    ///
    /// # Errors
    /// It may not.
    pub fn admit(
        &self,
        remote: &Remote,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Caller, Denied> {
        let Some(needed) = scope::needed(path) else {
            return Ok(Caller::default());
        };
        let now = Instant::now();
        let mut subject = None;
        let judged = self.judge(remote, needed, headers, now, &mut subject);
        match judged {
            Ok(()) => Ok(Caller { subject }),
            Err((reason, denial)) => {
                self.refused.count(reason);
                Err(Denied {
                    reason,
                    subject,
                    operates: scope::operates(needed),
                    refusal: Refusal::Denied(denial),
                })
            }
        }
    }

    /// `subject`: told as soon as it is certain.
    fn judge(
        &self,
        remote: &Remote,
        needed: Scopes,
        headers: &HeaderMap,
        now: Instant,
        subject: &mut Option<Arc<str>>,
    ) -> Result<(), (Reason, Denial)> {
        let mut token = None;
        if let Some(identity) = &self.identity {
            let known = identity.recognise(remote, headers, now)?;
            *subject = Some(Arc::clone(&known.subject));
            if !known.scopes.meets(needed) {
                return Err((Reason::Scope, Denial::ScopeMissing(needed.names())));
            }
            if identity.must_be_once(needed) && known.token.as_ref().is_some_and(|one| !one.once) {
                return Err((Reason::Claims, Denial::Unauthenticated));
            }
            token = known.token;
        }
        let who = subject
            .clone()
            .map_or_else(|| Who::Address(party(remote.address)), Who::Subject);
        if let Some(rate) = self.quota.of(&who)
            && let Err(wait) = self.calls.take(&who, rate, now)
        {
            let retry_after_ms = told_ms(wait);
            return Err((Reason::Quota, Denial::QuotaExceeded { retry_after_ms }));
        }
        // Last: a call that is refused has not used its token.
        if let (Some(identity), Some(token)) = (&self.identity, token)
            && token.once
            && !identity.used.first(&token, &identity.rules, unix_s())
        {
            return Err((Reason::Replayed, Denial::Unauthenticated));
        }
        Ok(())
    }

    /// Looks whether files have changed, and takes those that have.
    pub fn look(&self) -> Vec<Look> {
        let Some(identity) = &self.identity else {
            return Vec::new();
        };
        let keys = identity.keys.as_ref().and_then(Kept::look);
        let revoked = identity.revoked.as_ref().and_then(Kept::look);
        keys.into_iter().chain(revoked).collect()
    }

    /// The numbers now.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let mut counted = Counted {
            refused: self.refused.read(),
            ..Counted::default()
        };
        if let Some(identity) = &self.identity {
            counted.verified = identity.remembered.verifications();
            counted
                .files
                .extend(identity.keys.as_ref().map(Kept::counted));
            counted
                .files
                .extend(identity.revoked.as_ref().map(Kept::counted));
        }
        counted
    }
}

/// Whom a call comes from.
struct Known {
    subject: Arc<str>,
    scopes: Scopes,
    token: Option<Arc<Verified>>,
}

struct Identity {
    keys: Option<Kept<Keys>>,
    revoked: Option<Kept<Revoked>>,
    rules: Rules,
    named: Named,
    admin_once: bool,
    failures: Rate,
    guard: Buckets<IpAddr>,
    remembered: Remembered,
    used: Once,
}

impl Identity {
    fn new(settings: Settings) -> Result<Self, String> {
        let keys = settings
            .keys
            .map(|path| Kept::open("keys", vec![path.clone()], move || Keys::read(&path)));
        let revoked = settings
            .revoked
            .map(|path| Kept::open("revoked", vec![path.clone()], move || Revoked::read(&path)));
        Ok(Self {
            keys: keys.transpose()?,
            revoked: revoked.transpose()?,
            rules: settings.rules,
            named: Named::parse(&settings.certificates)?,
            admin_once: settings.admin_once,
            failures: settings.failures,
            guard: Buckets::new(CALLERS_MAX),
            remembered: Remembered::default(),
            used: Once::default(),
        })
    }

    fn must_be_once(&self, needed: Scopes) -> bool {
        self.admin_once && scope::operates(needed)
    }

    fn recognise(
        &self,
        remote: &Remote,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<Known, (Reason, Denial)> {
        match bearer(headers) {
            Ok(Some(token)) => self.by_token(token, remote, now),
            Ok(None) => self
                .by_certificate(remote)
                .map_err(|reason| (reason, Denial::Unauthenticated)),
            Err(reason) => Err((reason, Denial::Unauthenticated)),
        }
    }

    fn by_token(
        &self,
        token: &str,
        remote: &Remote,
        now: Instant,
    ) -> Result<Known, (Reason, Denial)> {
        let Some(keys) = &self.keys else {
            return Err((Reason::UnknownKey, Denial::Unauthenticated));
        };
        let (keys, now_s) = (keys.get(), unix_s());
        let party = party(remote.address);
        let known = self.remembered.find(token, &keys);
        let verified = match known {
            Some(verified) => verified,
            None => {
                if let Err(wait) = self.guard.check(&party, self.failures, now) {
                    let retry_after_ms = told_ms(wait);
                    return Err((Reason::Guarded, Denial::TooManyRefusals { retry_after_ms }));
                }
                self.remembered.verifies();
                let verified = verify(token, &keys, &self.rules, now_s).map_err(|reason| {
                    let _ = self.guard.take(&party, self.failures, now);
                    (reason, told(reason))
                })?;
                let verified = Arc::new(verified);
                self.remembered
                    .keep(token, &keys, &verified, now_s, &self.rules);
                verified
            }
        };
        verified
            .timely(now_s, &self.rules)
            .map_err(|reason| (reason, told(reason)))?;
        self.not_revoked(&verified.subject, verified.id.as_deref(), remote)
            .map_err(|reason| (reason, Denial::Unauthenticated))?;
        if let Some(bound) = &verified.bound {
            let own = remote.certificate.as_ref().map(|one| &one.fingerprint);
            if own != Some(bound) {
                return Err((Reason::Binding, Denial::Unauthenticated));
            }
        }
        Ok(Known {
            subject: Arc::clone(&verified.subject),
            scopes: verified.scopes,
            token: Some(verified),
        })
    }

    fn by_certificate(&self, remote: &Remote) -> Result<Known, Reason> {
        let certificate = remote.certificate.as_ref().ok_or(Reason::Absent)?;
        // A connection may outlive the certificate that it was made with.
        if certificate.not_after_s <= unix_s() {
            return Err(Reason::Expired);
        }
        let (name, scopes) = self.named.find(certificate).ok_or(Reason::Certificate)?;
        self.not_revoked(name, None, remote)?;
        Ok(Known {
            subject: name.into(),
            scopes,
            token: None,
        })
    }

    fn not_revoked(
        &self,
        subject: &str,
        token: Option<&str>,
        remote: &Remote,
    ) -> Result<(), Reason> {
        let Some(revoked) = &self.revoked else {
            return Ok(());
        };
        let revoked = revoked.get();
        let certificate = remote.certificate.as_ref();
        if revoked.holds(Kind::Subject, subject)
            || token.is_some_and(|id| revoked.holds(Kind::Token, id))
            || certificate.is_some_and(|one| revoked.holds_certificate(&one.fingerprint))
        {
            return Err(Reason::Revoked);
        }
        Ok(())
    }
}

/// What the caller hears of a token that is not good. That it has expired is said, as a new one helps; all else would help
/// only those who try.
fn told(reason: Reason) -> Denial {
    match reason {
        Reason::Expired => Denial::TokenExpired,
        _ => Denial::Unauthenticated,
    }
}

/// The token of a call (RFC 6750, section 2.1); `None`: it brings none.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Reason> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    if all.next().is_some() {
        return Err(Reason::Malformed);
    }
    let value = value.to_str().map_err(|_| Reason::Malformed)?;
    let (scheme, token) = value.split_once(' ').ok_or(Reason::Malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Reason::Malformed);
    }
    Ok(Some(token.trim()))
}

fn unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

fn told_ms(wait: std::time::Duration) -> u64 {
    // Rounded up, or the one who keeps to it comes too early.
    u64::try_from(wait.as_millis())
        .unwrap_or(u64::MAX)
        .saturating_add(1)
}

#[cfg(test)]
mod tests;
