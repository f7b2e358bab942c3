//! Every call is let in or not for who makes it, how often, and from where.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use ring::hmac;

use super::*;
use crate::status::Code;

const SEARCH: &str = "/muster.v1.RankingService/Search";
const APPLY: &str = "/muster.v1.CatalogueService/Apply";
const DRAIN: &str = "/muster.v1.AdminService/Drain";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

const SLOWLY: Rate = Rate {
    per_s: 0.001,
    burst: 3.0,
};

struct Shop {
    gate: Gate,
    folder: tempfile::TempDir,
}

impl Shop {
    fn new(change: impl FnOnce(&mut Settings), quota: Quota) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = Settings {
            keys: Some(folder.path().join("keys.json")),
            revoked: Some(folder.path().join("revoked")),
            rules: Rules {
                issuer: None,
                audience: "muster".to_owned(),
                audience_once: "muster/a".to_owned(),
                skew_s: 0,
                lifetime_max_s: 3_600,
                started_s: 0,
            },
            certificates: vec!["dns:loader.shop.example=write".to_owned()],
            admin_once: false,
            failures: SLOWLY,
        };
        write_keys(&folder, &["one"]);
        write(&folder, "revoked", "");
        change(&mut settings);
        let gate = Gate::new(Some(settings), quota).expect("settings");
        Self { gate, folder }
    }

    fn open() -> Self {
        Self::new(|_| {}, Quota::default())
    }

    fn call(&self, path: &str, token: Option<&str>) -> Result<Caller, Reason> {
        self.call_from("192.0.2.1", path, token)
    }

    fn call_from(&self, address: &str, path: &str, token: Option<&str>) -> Result<Caller, Reason> {
        let admitted = self.gate.admit(&remote(address), path, &headers(token));
        admitted.map_err(|denied| denied.reason)
    }
}

fn write(folder: &tempfile::TempDir, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let draft = folder.path().join("draft");
    std::fs::write(&draft, text).expect("room");
    let rights = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&draft, rights).expect("it is ours");
    std::fs::rename(draft, folder.path().join(name)).expect("one folder");
}

fn secret(id: &str) -> Vec<u8> {
    id.bytes().cycle().take(32).collect()
}

fn write_keys(folder: &tempfile::TempDir, ids: &[&str]) {
    let keys: Vec<_> = ids
        .iter()
        .map(|id| {
            let k = URL_SAFE_NO_PAD.encode(secret(id));
            format!(r#"{{"kty":"oct","kid":"{id}","k":"{k}"}}"#)
        })
        .collect();
    let set = format!("{{\"keys\":[{}]}}", keys.join(","));
    write(folder, "keys.json", &set);
}

/// A token of the key `id` with more claims.
fn token(id: &str, subject: &str, scope: &str, more: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let (now_s, audience) = (
        unix_s(),
        if more.contains("once") {
            "muster/a"
        } else {
            "muster"
        },
    );
    let end_s = if more.contains("exp") {
        String::new()
    } else {
        format!(r#","exp":{}"#, now_s + 600)
    };
    let claims = URL_SAFE_NO_PAD.encode(format!(
        r#"{{"sub":"{subject}","aud":"{audience}","iat":{now_s},"scope":"{scope}"{end_s}{more}}}"#
    ));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret(id));
    let made = hmac::sign(&key, format!("{head}.{claims}").as_bytes());
    format!("{head}.{claims}.{}", URL_SAFE_NO_PAD.encode(made))
}

fn headers(token: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("ASCII");
        headers.insert(AUTHORIZATION, value);
    }
    headers
}

fn remote(address: &str) -> Remote {
    Remote {
        address: address.parse().expect("an address"),
        certificate: None,
    }
}

fn shown(name: &str, not_after_s: i64) -> Remote {
    Remote {
        certificate: Some(Certificate {
            fingerprint: [7; 32],
            names: vec![name.to_owned()],
            not_after_s,
        }),
        ..remote("192.0.2.1")
    }
}

#[test]
fn a_call_needs_a_token_with_a_scope_of_its_method_and_health_needs_none() {
    let shop = Shop::open();
    let reader = token("one", "ui", "read", "");
    assert_eq!(shop.call(HEALTH, None), Ok(Caller::default()));
    assert_eq!(shop.call(SEARCH, None), Err(Reason::Absent));
    let caller = shop.call(SEARCH, Some(&reader)).expect("it may read");
    assert_eq!(caller.subject.as_deref(), Some("ui"));
    assert_eq!(shop.call(APPLY, Some(&reader)), Err(Reason::Scope));
    assert_eq!(shop.call(DRAIN, Some(&reader)), Err(Reason::Scope));
    let denied = shop
        .gate
        .admit(&remote("192.0.2.1"), DRAIN, &headers(Some(&reader)));
    let denied = denied.expect_err("it may not");
    assert!(denied.operates && denied.subject.as_deref() == Some("ui"));
    assert_eq!(denied.refusal.status().code, Code::PermissionDenied);
    let counted = shop.gate.counted();
    assert_eq!(counted.verified, 1, "one token is verified once");
    let counts: std::collections::HashMap<_, _> = counted.refused.into_iter().collect();
    assert_eq!(
        (counts["absent"], counts["scope"], counts["signature"]),
        (1, 3, 0)
    );
}

#[test]
fn what_a_caller_hears_does_not_depend_on_what_was_wrong() {
    let shop = Shop::open();
    let good = token("one", "ui", "read", "");
    let said = |token: Option<&str>| {
        let denied = shop
            .gate
            .admit(&remote("192.0.2.9"), SEARCH, &headers(token));
        let status = denied.expect_err("it is not good").refusal.status();
        (status.code, format!("{:?}", status.trailers))
    };
    let nothing = said(None);
    assert_eq!(nothing.0, Code::Unauthenticated);
    let altered = format!("{}AAAA", &good[..good.len() - 4]);
    for bad in [altered.as_str(), "a.b.c"] {
        assert_eq!(said(Some(bad)), nothing);
    }
    let unknown = token("two", "ui", "read", "");
    assert_eq!(said(Some(&unknown)), nothing);
}

#[test]
fn an_expired_token_is_told_and_one_that_expires_is_no_longer_good_though_it_is_remembered() {
    let shop = Shop::open();
    let expired = token("one", "ui", "read", r#","exp":1000"#);
    let denied = shop
        .gate
        .admit(&remote("192.0.2.1"), SEARCH, &headers(Some(&expired)));
    let denied = denied.expect_err("it has expired");
    assert!(matches!(
        denied.refusal,
        Refusal::Denied(Denial::TokenExpired)
    ));
    let soon = token("one", "ui", "read", &format!(r#","exp":{}"#, unix_s() + 1));
    assert!(shop.call(SEARCH, Some(&soon)).is_ok());
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(shop.call(SEARCH, Some(&soon)), Err(Reason::Expired));
}

#[test]
fn keys_are_rotated_and_a_key_that_is_gone_takes_its_tokens_along() {
    let shop = Shop::open();
    let (old, new) = (
        token("one", "ui", "read", ""),
        token("two", "ui", "read", ""),
    );
    assert!(shop.call(SEARCH, Some(&old)).is_ok());
    assert_eq!(shop.call(SEARCH, Some(&new)), Err(Reason::UnknownKey));
    write_keys(&shop.folder, &["one", "two"]);
    assert_eq!(shop.gate.look(), [Look::Taken("keys")]);
    assert!(shop.call(SEARCH, Some(&old)).is_ok() && shop.call(SEARCH, Some(&new)).is_ok());
    write(&shop.folder, "keys.json", "{}");
    assert!(matches!(shop.gate.look()[..], [Look::Kept("keys", _)]));
    assert!(shop.call(SEARCH, Some(&old)).is_ok());
    write_keys(&shop.folder, &["two"]);
    assert_eq!(shop.gate.look(), [Look::Taken("keys")]);
    assert_eq!(shop.call(SEARCH, Some(&old)), Err(Reason::UnknownKey));
    assert!(shop.call(SEARCH, Some(&new)).is_ok());
}

#[test]
fn what_is_revoked_is_refused_from_the_next_call_on() {
    let shop = Shop::open();
    let stolen = token("one", "ui", "read", r#","jti":"t-1""#);
    let other = token("one", "ui", "read", r#","jti":"t-2""#);
    assert!(shop.call(SEARCH, Some(&stolen)).is_ok());
    write(&shop.folder, "revoked", "token t-1\n");
    assert_eq!(shop.gate.look(), [Look::Taken("revoked")]);
    assert_eq!(shop.call(SEARCH, Some(&stolen)), Err(Reason::Revoked));
    assert!(shop.call(SEARCH, Some(&other)).is_ok());
    write(&shop.folder, "revoked", "subject ui\n");
    assert_eq!(shop.gate.look(), [Look::Taken("revoked")]);
    assert_eq!(shop.call(SEARCH, Some(&other)), Err(Reason::Revoked));
}

#[test]
fn a_token_for_one_call_is_good_for_one_and_a_refused_call_does_not_use_it() {
    let shop = Shop::new(|settings| settings.admin_once = true, Quota::default());
    let often = token("one", "ops", "admin", "");
    assert_eq!(shop.call(DRAIN, Some(&often)), Err(Reason::Claims));
    let once = token("one", "ops", "admin", r#","jti":"o-1","once":true"#);
    assert_eq!(shop.call(SEARCH, Some(&once)), Err(Reason::Scope));
    assert!(shop.call(DRAIN, Some(&once)).is_ok());
    assert_eq!(shop.call(DRAIN, Some(&once)), Err(Reason::Replayed));
}

#[test]
fn an_address_with_too_many_bad_tokens_is_refused_before_its_signatures_are_looked_at() {
    let shop = Shop::open();
    let known = token("one", "ui", "read", "");
    assert!(shop.call(SEARCH, Some(&known)).is_ok());
    for guess in 0..100 {
        let want = if guess < 3 {
            Reason::Signature
        } else {
            Reason::Guarded
        };
        let good = token("one", "ui", "admin", &format!(r#","jti":"{guess}""#));
        let bad = format!("{}AAAA", &good[..good.len() - 4]);
        assert_eq!(shop.call(SEARCH, Some(&bad)), Err(want));
    }
    assert_eq!(shop.gate.counted().verified, 1 + 3);
    // Who is known goes on, a new token from there must wait, and others are not affected.
    let new = token("one", "ui", "read", r#","jti":"n""#);
    assert!(shop.call(SEARCH, Some(&known)).is_ok());
    assert_eq!(shop.call(SEARCH, Some(&new)), Err(Reason::Guarded));
    assert!(shop.call_from("192.0.2.2", SEARCH, Some(&new)).is_ok());
}

#[test]
fn addresses_of_one_network_are_one_party() {
    for (one, other, same) in [
        ("192.0.2.1", "::ffff:192.0.2.1", true),
        ("192.0.2.1", "192.0.2.2", false),
        ("2001:db8::1", "2001:db8::ffff:1", true),
        ("2001:db8::1", "2001:db8:0:1::1", false),
    ] {
        let (one, other) = (one.parse().expect("it"), other.parse().expect("it"));
        assert_eq!(party(one) == party(other), same, "{one} {other}");
    }
}

#[test]
fn every_caller_has_a_rate_of_its_own_and_some_another() {
    let quota = Quota {
        each: Some(SLOWLY),
        named: vec![(
            "big".to_owned(),
            Rate {
                per_s: 0.001,
                burst: 5.0,
            },
        )],
    };
    let shop = Shop::new(|_| {}, quota.clone());
    for (subject, want) in [("small", 3), ("big", 5), ("other", 3)] {
        let token = token("one", subject, "read", "");
        let passed = (0..10).filter(|_| shop.call(SEARCH, Some(&token)).is_ok());
        assert_eq!(passed.count(), want, "{subject}");
        assert_eq!(shop.call(SEARCH, Some(&token)), Err(Reason::Quota));
    }
    // Where nobody is asked, addresses are counted, and health checks are not.
    let gate = Gate::new(None, quota).expect("no settings");
    let passed = |address| {
        let calls = (0..10).map(|_| gate.admit(&remote(address), SEARCH, &HeaderMap::new()));
        calls.filter(Result::is_ok).count()
    };
    assert_eq!(
        (
            passed("192.0.2.1"),
            passed("192.0.2.2"),
            passed("192.0.2.1")
        ),
        (3, 3, 0)
    );
    assert!(
        gate.admit(&remote("192.0.2.1"), HEALTH, &HeaderMap::new())
            .is_ok()
    );
    let refused = gate.admit(&remote("192.0.2.1"), SEARCH, &HeaderMap::new());
    let status = refused.expect_err("its rate is used up").refusal.status();
    assert!(status.trailers.contains_key("grpc-retry-pushback-ms"));
}

#[test]
fn a_certificate_lets_in_whom_the_settings_name_until_it_ends_or_is_revoked() {
    let shop = Shop::open();
    let end_s = unix_s() + 600;
    let call = |remote: &Remote, path| {
        let admitted = shop.gate.admit(remote, path, &HeaderMap::new());
        admitted.map_err(|denied| denied.reason)
    };
    let loader = shown("dns:loader.shop.example", end_s);
    let caller = call(&loader, APPLY).expect("it may write");
    assert_eq!(caller.subject.as_deref(), Some("dns:loader.shop.example"));
    assert_eq!(call(&loader, SEARCH), Err(Reason::Scope));
    assert_eq!(
        call(&shown("dns:x.example", end_s), APPLY),
        Err(Reason::Certificate)
    );
    assert_eq!(
        call(&shown("dns:loader.shop.example", unix_s() - 1), APPLY),
        Err(Reason::Expired)
    );
    write(
        &shop.folder,
        "revoked",
        &format!("certificate {}\n", "07".repeat(32)),
    );
    shop.gate.look();
    assert_eq!(call(&loader, APPLY), Err(Reason::Revoked));
}

#[test]
fn a_token_bound_to_a_certificate_is_worth_nothing_without_it() {
    let shop = Shop::open();
    let bound = format!(
        r#","cnf":{{"x5t#S256":"{}"}}"#,
        URL_SAFE_NO_PAD.encode([7; 32])
    );
    let headers = headers(Some(&token("one", "ui", "read", &bound)));
    let owner = shown("dns:ui", unix_s() + 600);
    assert!(shop.gate.admit(&owner, SEARCH, &headers).is_ok());
    let thief = shop.gate.admit(&remote("192.0.2.1"), SEARCH, &headers);
    assert_eq!(
        thief.expect_err("it is not its own").reason,
        Reason::Binding
    );
}

#[test]
fn strange_headers_are_no_token() {
    let shop = Shop::open();
    let good = token("one", "ui", "read", "");
    let with = |values: &[String]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                AUTHORIZATION,
                HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
            );
        }
        shop.gate
            .admit(&remote("192.0.2.1"), SEARCH, &headers)
            .map_err(|denied| denied.reason)
    };
    assert!(with(&[format!("bearer {good}")]).is_ok());
    for values in [
        vec![good.clone()],
        vec![format!("Basic {good}")],
        vec![format!("Bearer {good}"), format!("Bearer {good}")],
        vec!["Bearer \u{fc}".to_owned()],
        vec![String::new()],
    ] {
        assert_eq!(with(&values), Err(Reason::Malformed), "{values:?}");
    }
}
