//! The keys that tokens are verified with: a JSON Web Key set (RFC 7517), read from a file and never from the network.
//!
//! A key allows one algorithm, by its kind; what a token says of itself never chooses how it is verified (RFC 8725, 3.1).

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use serde::Deserialize;

use crate::files;

/// Keys of a set at most.
pub const KEYS_MAX: usize = 64;
/// Bytes that a shared secret must have: those of the hash (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;

/// What a signature is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// HMAC with SHA-256: whoever can verify can also issue.
    Hs256,
}

impl Algorithm {
    /// Its name in a token's head (RFC 7518, section 3.1; RFC 8037, section 3.1).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Hs256 => "HS256",
        }
    }
}

enum Material {
    Ed25519(Vec<u8>),
    P256(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Secret(hmac::Key),
}

/// One key.
pub struct Key {
    id: String,
    material: Material,
}

impl Key {
    /// Its name in tokens.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The one algorithm that it allows.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Ed25519(_) => Algorithm::EdDsa,
            Material::P256(_) => Algorithm::Es256,
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::Secret(_) => Algorithm::Hs256,
        }
    }

    /// Whether `signature` was made with this key over exactly `message`. Secrets are compared in constant time.
    #[must_use]
    pub fn fits(&self, message: &[u8], made: &[u8]) -> bool {
        match &self.material {
            Material::Ed25519(x) => signature::UnparsedPublicKey::new(&signature::ED25519, x)
                .verify(message, made)
                .is_ok(),
            Material::P256(point) => {
                signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, made)
                    .is_ok()
            }
            Material::Rsa { n, e } => signature::RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, made)
                .is_ok(),
            Material::Secret(secret) => hmac::verify(secret, message, made).is_ok(),
        }
    }
}

/// All keys.
pub struct Keys(Vec<Key>);

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

/// The members that are used, and those that must not be there. Others are passed over (RFC 7517, section 4).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    k: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl Keys {
    /// Reads a set from a file.
    ///
    /// # Errors
    /// One sentence: the file cannot be read, is no key set, or holds a secret that others may read.
    pub fn read(path: &Path) -> Result<Self, String> {
        let told = |why: String| format!("{}: {why}", path.display());
        let keys = Self::parse(&files::read(path)?).map_err(told)?;
        let mode = std::fs::metadata(path).map_or(0, |found| found.mode());
        let secret = keys.0.iter().any(|key| key.algorithm() == Algorithm::Hs256);
        if secret && mode & 0o007 != 0 {
            return Err(told(
                "it holds a shared secret, and everybody on this machine may read it; take that right away (chmod o=)"
                    .to_owned(),
            ));
        }
        Ok(keys)
    }

    /// Parses a set.
    ///
    /// # Errors
    /// One sentence, which never quotes a key.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        // The text of serde's errors may quote what it read.
        let set: Set = serde_json::from_slice(data).map_err(|error| {
            format!(
                "not a JSON Web Key set, at line {} column {}",
                error.line(),
                error.column()
            )
        })?;
        if set.keys.is_empty() || set.keys.len() > KEYS_MAX {
            return Err(format!("it must hold 1 to {KEYS_MAX} keys"));
        }
        let mut keys: Vec<Key> = Vec::new();
        for (place, jwk) in set.keys.iter().enumerate() {
            let key = key(jwk).map_err(|why| format!("keys[{place}]: {why}"))?;
            if keys.iter().any(|known| known.id == key.id) {
                return Err(format!("keys[{place}]: its kid is there twice"));
            }
            keys.push(key);
        }
        Ok(Self(keys))
    }

    /// The key of that name. A token that names none can mean only the one key that there is.
    #[must_use]
    pub fn find(&self, id: Option<&str>) -> Option<&Key> {
        match (id, self.0.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id == id),
            (None, [key]) => Some(key),
            (None, _) => None,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

fn key(jwk: &Jwk) -> Result<Key, String> {
    if jwk.d.is_some() {
        return Err("it is a private key; only those who issue tokens should have it".to_owned());
    }
    if jwk
        .purpose
        .as_deref()
        .is_some_and(|purpose| purpose != "sig")
    {
        return Err("its use is not sig".to_owned());
    }
    let id = jwk.kid.clone().filter(|id| (1..=128).contains(&id.len()));
    let id = id.ok_or("its kid must have 1 to 128 bytes: tokens name their key by it")?;
    let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x", jwk.x.as_ref(), Some(32))?),
        ("EC", Some("P-256")) => {
            // Uncompressed (SEC 1, section 2.3.3).
            let mut point = vec![4];
            point.extend(bytes("x", jwk.x.as_ref(), Some(32))?);
            point.extend(bytes("y", jwk.y.as_ref(), Some(32))?);
            Material::P256(point)
        }
        ("RSA", _) => {
            let n = bytes("n", jwk.n.as_ref(), None)?;
            let bits = n.len() * 8 - n.first().map_or(0, |top| top.leading_zeros() as usize);
            if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
                return Err(format!(
                    "an RSA key must have {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, not {bits}"
                ));
            }
            Material::Rsa {
                n,
                e: bytes("e", jwk.e.as_ref(), None)?,
            }
        }
        ("oct", _) => {
            let secret = bytes("k", jwk.k.as_ref(), None)?;
            if secret.len() < SECRET_BYTES_MIN {
                return Err(format!(
                    "a secret must have at least {SECRET_BYTES_MIN} bytes"
                ));
            }
            Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, &secret))
        }
        _ => return Err("its kind is none of Ed25519, P-256, RSA and oct".to_owned()),
    };
    let key = Key { id, material };
    if jwk
        .alg
        .as_deref()
        .is_some_and(|alg| alg != key.algorithm().name())
    {
        return Err(format!(
            "a key of its kind is for {}",
            key.algorithm().name()
        ));
    }
    Ok(key)
}

fn bytes(name: &str, value: Option<&String>, length: Option<usize>) -> Result<Vec<u8>, String> {
    let value = value.ok_or_else(|| format!("its {name} is missing"))?;
    let data = URL_SAFE_NO_PAD
        .decode(value)
        .map_err(|_| format!("its {name} is not base64url"))?;
    match length {
        Some(length) if data.len() != length => Err(format!("its {name} must have {length} bytes")),
        _ if data.is_empty() => Err(format!("its {name} is empty")),
        _ => Ok(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn refused(key: &str) -> String {
        let set = format!("{{\"keys\":[{key}]}}");
        Keys::parse(set.as_bytes()).err().expect("it is refused")
    }

    #[test]
    fn keys_are_found_by_their_name_and_one_alone_without() {
        let one = format!("{{\"keys\":[{ED25519}]}}");
        let keys = Keys::parse(one.as_bytes()).expect("a set");
        assert!(keys.find(Some("a")).is_some() && keys.find(None).is_some());
        assert!(keys.find(Some("b")).is_none());
        let two = format!(
            "{{\"keys\":[{ED25519},{}]}}",
            ED25519.replace("\"a\"", "\"b\"")
        );
        let keys = Keys::parse(two.as_bytes()).expect("a set");
        assert!(keys.find(Some("b")).is_some() && keys.find(None).is_none());
        assert_eq!(keys.count(), 2);
    }

    #[test]
    fn what_is_no_key_to_verify_with_is_refused_and_never_quoted() {
        for (key, why) in [
            (
                ED25519.replace("\"x\"", "\"d\":\"c2VjcmV0\",\"x\""),
                "private key",
            ),
            (ED25519.replace("\"kid\":\"a\",", ""), "kid"),
            (ED25519.replace("Ed25519", "Ed448"), "none of"),
            (ED25519.replace("11qY", "11q"), "x is not base64url"),
            (ED25519.replace("11qYAYKx", ""), "must have 32 bytes"),
            (
                ED25519.replace("\"OKP\"", "\"OKP\",\"alg\":\"HS256\""),
                "is for EdDSA",
            ),
            (
                ED25519.replace("\"OKP\"", "\"OKP\",\"use\":\"enc\""),
                "use is not sig",
            ),
            (format!("{ED25519},{ED25519}"), "there twice"),
            (
                r#"{"kty":"oct","kid":"s","k":"c2VjcmV0"}"#.to_owned(),
                "at least 32",
            ),
            (
                r#"{"kty":"RSA","kid":"r","n":"c2VjcmV0","e":"AQAB"}"#.to_owned(),
                "2048",
            ),
            (
                r#"{"kty":"oct","kid":7,"k":"c2VjcmV0"}"#.to_owned(),
                "not a JSON Web Key set",
            ),
            (String::new(), "1 to 64"),
        ] {
            let told = refused(&key);
            assert!(told.contains(why), "{told}");
            assert!(!told.contains("c2VjcmV0"), "{told}");
        }
    }

    #[test]
    fn a_secret_that_everybody_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.json");
        let secret = URL_SAFE_NO_PAD.encode([7; 32]);
        let set = format!("{{\"keys\":[{{\"kty\":\"oct\",\"kid\":\"s\",\"k\":\"{secret}\"}}]}}");
        std::fs::write(&path, set).expect("room");
        for (mode, allowed) in [(0o600, true), (0o640, true), (0o644, false)] {
            let rights = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, rights).expect("it is ours");
            assert_eq!(Keys::read(&path).is_ok(), allowed, "{mode:o}");
        }
    }
}
