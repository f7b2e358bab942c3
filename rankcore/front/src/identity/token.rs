//! Reads and verifies one token: a JSON Web Token (RFC 7519) as a signed compact text (RFC 7515, section 7.1).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::keys::Keys;
use super::refused::Reason;
use super::scope::Scopes;

/// A longer token is not read.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest name of a caller or a token.
pub const NAME_BYTES_MAX: usize = 128;

/// What every token must say.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Who it must be from; `None`: whoever has a key.
    pub issuer: Option<String>,
    /// Whom it must be for: one of these.
    pub audience: String,
    /// Whom one that may be used once must be for: this replica alone, as others do not know of its use.
    pub audience_once: String,
    /// How far clocks may be apart, seconds.
    pub skew_s: i64,
    /// How far ahead the end of a token may lie, seconds.
    pub lifetime_max_s: i64,
    /// When this process started, Unix seconds. It does not know which tokens were used before.
    pub started_s: i64,
}

/// A token whose signature fits and which is for this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whom it names.
    pub subject: Arc<str>,
    /// What it opens.
    pub scopes: Scopes,
    /// Its own name.
    pub id: Option<Arc<str>>,
    /// Good for one call.
    pub once: bool,
    /// The SHA-256 of the only client certificate that it may come with (RFC 8705, section 3.1).
    pub bound: Option<[u8; 32]>,
    expires_s: i64,
    begins_s: i64,
}

impl Verified {
    /// Whether it is good at this moment.
    ///
    /// # Errors
    /// It has expired, or is not good yet.
    pub fn timely(&self, now_s: i64, rules: &Rules) -> Result<(), Reason> {
        if now_s >= self.expires_s.saturating_add(rules.skew_s) {
            return Err(Reason::Expired);
        }
        if now_s < self.begins_s.saturating_sub(rules.skew_s) {
            return Err(Reason::NotYet);
        }
        Ok(())
    }

    /// When it can be forgotten, Unix seconds.
    #[must_use]
    pub fn over_s(&self, rules: &Rules) -> i64 {
        self.expires_s.saturating_add(rules.skew_s)
    }
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    // Extensions that must be understood; none is (RFC 7515, section 4.1.11).
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Bound {
    #[serde(rename = "x5t#S256")]
    certificate: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: serde_json::Number,
    nbf: Option<serde_json::Number>,
    iat: Option<serde_json::Number>,
    iss: Option<String>,
    aud: Audience,
    jti: Option<String>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    once: bool,
    cnf: Option<Bound>,
}

/// Verifies a token. Nothing of it but the name of its key is looked at before its signature was found to fit.
///
/// `now_s`: Unix seconds.
///
/// # Errors
/// The first reason why it is not good.
pub fn verify(token: &str, keys: &Keys, rules: &Rules, now_s: i64) -> Result<Verified, Reason> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Reason::Malformed);
    }
    let (signed, made) = token.rsplit_once('.').ok_or(Reason::Malformed)?;
    let (head, claims) = signed.split_once('.').ok_or(Reason::Malformed)?;
    let head: Head = json(head)?;
    let made = URL_SAFE_NO_PAD
        .decode(made)
        .map_err(|_| Reason::Malformed)?;
    let typed = head.typ.as_deref().unwrap_or("JWT");
    let known = ["jwt", "at+jwt", "application/at+jwt"];
    if head.crit.is_some() || !known.contains(&typed.to_ascii_lowercase().as_str()) {
        return Err(Reason::Malformed);
    }
    let key = keys.find(head.kid.as_deref()).ok_or(Reason::UnknownKey)?;
    if head.alg != key.algorithm().name() {
        return Err(Reason::Algorithm);
    }
    if !key.fits(signed.as_bytes(), &made) {
        return Err(Reason::Signature);
    }
    let claims: Claims = json(claims)?;
    judge(claims, rules, now_s)
}

fn judge(claims: Claims, rules: &Rules, now_s: i64) -> Result<Verified, Reason> {
    if rules.issuer.is_some() && claims.iss != rules.issuer {
        return Err(Reason::Issuer);
    }
    let wanted = if claims.once {
        &rules.audience_once
    } else {
        &rules.audience
    };
    let ours = match &claims.aud {
        Audience::One(one) => one == wanted,
        Audience::Many(many) => many.contains(wanted),
    };
    if !ours {
        return Err(Reason::Audience);
    }
    let expires_s = seconds(&claims.exp)?;
    let issued_s = claims.iat.as_ref().map(seconds).transpose()?;
    let begins_s = claims.nbf.as_ref().map(seconds).transpose()?;
    let begins_s = begins_s.max(issued_s).unwrap_or(i64::MIN);
    let named = claims.jti.as_deref().is_none_or(is_name);
    if !is_name(&claims.sub) || !named {
        return Err(Reason::Claims);
    }
    let latest_s = now_s
        .saturating_add(rules.lifetime_max_s)
        .saturating_add(rules.skew_s);
    if expires_s > latest_s {
        return Err(Reason::Lifetime);
    }
    if claims.once {
        // Which of those issued before the start were used is not known any more.
        let issued_s = issued_s.ok_or(Reason::Claims)?;
        if claims.jti.is_none() {
            return Err(Reason::Claims);
        }
        if issued_s < rules.started_s {
            return Err(Reason::Replayed);
        }
    }
    let verified = Verified {
        subject: claims.sub.into(),
        scopes: Scopes::listed(&claims.scope),
        id: claims.jti.map(Into::into),
        once: claims.once,
        bound: claims.cnf.as_ref().map(fingerprint).transpose()?,
        expires_s,
        begins_s,
    };
    verified.timely(now_s, rules)?;
    Ok(verified)
}

/// A name as it may stand in metadata and in lines of a log: printable ASCII without spaces.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn fingerprint(bound: &Bound) -> Result<[u8; 32], Reason> {
    let data = URL_SAFE_NO_PAD
        .decode(&bound.certificate)
        .map_err(|_| Reason::Claims)?;
    data.try_into().map_err(|_| Reason::Claims)
}

/// A moment, which may have a fraction (RFC 7519, section 2).
fn seconds(number: &serde_json::Number) -> Result<i64, Reason> {
    #[allow(clippy::cast_possible_truncation, reason = "it is within the range")]
    let floor = |value: f64| (value.abs() < 1e15).then(|| value.floor() as i64);
    number
        .as_i64()
        .or_else(|| number.as_f64().and_then(floor))
        .ok_or(Reason::Claims)
}

fn json<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, Reason> {
    let data = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Reason::Malformed)?;
    serde_json::from_slice(&data).map_err(|_| Reason::Malformed)
}

#[cfg(test)]
mod tests;
