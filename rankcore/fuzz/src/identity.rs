//! What says who calls: tokens, the keys that they are judged by, what is revoked, certificates.

use std::sync::LazyLock;

use rankcore_front::identity::certificate::Certificate;
use rankcore_front::identity::keys::Keys;
use rankcore_front::identity::revoked::{Kind, Revoked};
use rankcore_front::identity::token::{Rules, TOKEN_BYTES_MAX, is_name, verify};

/// Keys that a set may hold.
const KEYS_MAX: usize = 64;
/// 2027-01-15, within the life of the seeds.
const NOW_S: i64 = 1_800_000_000;
/// Every token that the seeds' key has signed and that is good here. Nothing else may pass.
const SIGNED: &[&str] = &[
    include_str!("../seeds/token/plain"),
    include_str!("../seeds/token/full"),
];

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    Keys::parse(include_bytes!("../seeds/key_set/ed25519")).expect("the seeds' own keys")
});

/// A token. What was not signed must not pass, however little it differs.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let rules = Rules {
        issuer: None,
        audience: "muster".to_owned(),
        audience_once: "muster/a".to_owned(),
        skew_s: 5,
        lifetime_max_s: 86_400,
        started_s: NOW_S,
    };
    let Ok(verified) = verify(text, &KEYS, &rules, NOW_S) else {
        return;
    };
    assert!(text.len() <= TOKEN_BYTES_MAX);
    assert!(is_name(&verified.subject));
    let said = |token: &str| token.rsplit_once('.').map(|(said, _)| said.to_owned());
    assert!(
        SIGNED
            .iter()
            .any(|signed| said(signed.trim_end()) == said(text)),
        "a token passed that nobody has signed"
    );
}

/// A key set, as a file holds it.
pub fn key_set(data: &[u8]) {
    let Ok(keys) = Keys::parse(data) else {
        return;
    };
    assert!((1..=KEYS_MAX).contains(&keys.count()));
    if let Some(key) = keys.find(None) {
        assert_eq!(keys.count(), 1);
        assert!(keys.find(Some(key.id())).is_some());
        assert!(!key.fits(data, b"no signature"));
    }
}

/// A list of what is revoked.
pub fn revoked(data: &[u8]) {
    let Ok(list) = Revoked::parse(data) else {
        return;
    };
    assert!(list.count() <= data.len());
    for kind in [Kind::Token, Kind::Subject] {
        assert!(!list.holds(kind, ""));
    }
    let _ = list.holds_certificate(&[0; 32]);
}

/// A certificate in DER.
pub fn certificate(data: &[u8]) {
    let Ok(read) = Certificate::read(data) else {
        return;
    };
    assert!(read.names.iter().all(|name| is_name(name)));
    assert_eq!(Certificate::read(data), Ok(read));
}
