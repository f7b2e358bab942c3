//! Tokens of the standards, and tokens that must not pass.

use ring::signature::{Ed25519KeyPair, KeyPair};
use ring::{hmac, rand};

use super::*;

const NOW_S: i64 = 1_800_000_000;

fn rules() -> Rules {
    Rules {
        issuer: None,
        audience: "muster".to_owned(),
        audience_once: "muster/a".to_owned(),
        skew_s: 30,
        lifetime_max_s: 3_600,
        started_s: NOW_S - 600,
    }
}

fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Who issues tokens, and the set that others verify them with.
struct Issuer {
    pair: Ed25519KeyPair,
    keys: Keys,
}

impl Issuer {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&rand::SystemRandom::new()).expect("chance");
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let secret = URL_SAFE_NO_PAD.encode([7; 32]);
        let set = format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"a","x":"{x}"}},{{"kty":"oct","kid":"s","k":"{secret}"}}]}}"#
        );
        let keys = Keys::parse(set.as_bytes()).expect("a set");
        Self { pair, keys }
    }

    fn signed(&self, head: &str, claims: &str) -> String {
        let text = format!("{}.{}", encoded(head), encoded(claims));
        let made = URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()));
        format!("{text}.{made}")
    }

    fn token(&self, claims: &str) -> String {
        self.signed(r#"{"alg":"EdDSA","kid":"a"}"#, claims)
    }

    fn judged(&self, token: &str) -> Result<Verified, Reason> {
        verify(token, &self.keys, &rules(), NOW_S)
    }
}

const GOOD: &str =
    r#"{"sub":"shop","aud":"muster","exp":1800000060,"scope":"read write","jti":"1"}"#;

#[test]
fn a_good_token_says_who_and_what() {
    let issuer = Issuer::new();
    let verified = issuer.judged(&issuer.token(GOOD)).expect("it is good");
    assert_eq!(&*verified.subject, "shop");
    assert_eq!(verified.scopes, Scopes::READ.with(Scopes::WRITE));
    assert_eq!(verified.id.as_deref(), Some("1"));
    assert!(!verified.once && verified.bound.is_none());
}

#[test]
fn the_examples_of_the_standards_verify() {
    // RFC 7515, A.1 (HS256), A.2 (RS256), A.3 (ES256); RFC 8037, A.4 (EdDSA). What they say is no token of ours, so that is
    // what they are refused for; with a byte of the signature changed, it is the signature.
    let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    for (key, head, claims, made) in [
        (
            r#"{"kty":"oct","kid":"k","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#,
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            claims,
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            r#"{"kty":"EC","kid":"k","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
            "eyJhbGciOiJFUzI1NiJ9",
            claims,
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            r#"{"kty":"RSA","kid":"k","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#,
            "eyJhbGciOiJSUzI1NiJ9",
            claims,
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
    ] {
        let set = format!("{{\"keys\":[{key}]}}");
        let keys = Keys::parse(set.as_bytes()).expect("a set");
        let token = format!("{head}.{claims}.{made}");
        assert_eq!(
            verify(&token, &keys, &rules(), NOW_S),
            Err(Reason::Malformed)
        );
        let first = if made.starts_with('d') { "e" } else { "d" };
        let other = format!("{head}.{claims}.{first}{}", &made[1..]);
        assert_eq!(
            verify(&other, &keys, &rules(), NOW_S),
            Err(Reason::Signature)
        );
    }
    let set = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let keys = Keys::parse(set.as_bytes()).expect("a set");
    let key = keys.find(Some("k")).expect("it is there");
    let signed = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let made = URL_SAFE_NO_PAD.decode(
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
    assert!(key.fits(signed, &made.expect("base64url")));
}

#[test]
fn what_a_token_says_of_itself_never_chooses_how_it_is_verified() {
    let issuer = Issuer::new();
    let claims = encoded(GOOD);
    for (head, made, want) in [
        (r#"{"alg":"none"}"#, String::new(), Reason::UnknownKey),
        (
            r#"{"alg":"none","kid":"a"}"#,
            String::new(),
            Reason::Algorithm,
        ),
        (
            r#"{"alg":"None","kid":"a"}"#,
            String::new(),
            Reason::Algorithm,
        ),
        (
            r#"{"alg":"HS256","kid":"a"}"#,
            hmac_by_public_key(&issuer, &claims),
            Reason::Algorithm,
        ),
        (
            r#"{"alg":"EdDSA","kid":"s"}"#,
            String::new(),
            Reason::Algorithm,
        ),
        (
            r#"{"alg":"EdDSA","kid":"b"}"#,
            String::new(),
            Reason::UnknownKey,
        ),
        (
            r#"{"alg":"EdDSA","kid":"a"}"#,
            String::new(),
            Reason::Signature,
        ),
        (
            r#"{"alg":"EdDSA","kid":"a"}"#,
            encoded("short"),
            Reason::Signature,
        ),
        (
            r#"{"alg":"EdDSA","kid":"a","crit":["exp"]}"#,
            String::new(),
            Reason::Malformed,
        ),
        (
            r#"{"alg":"EdDSA","kid":"a","typ":"JWE"}"#,
            String::new(),
            Reason::Malformed,
        ),
        (
            r#"{"alg":"EdDSA","kid":"a","kid":"s"}"#,
            String::new(),
            Reason::Malformed,
        ),
        (r#"{"kid":"a"}"#, String::new(), Reason::Malformed),
    ] {
        let token = format!("{}.{claims}.{made}", encoded(head));
        assert_eq!(issuer.judged(&token), Err(want), "{head}");
    }
}

/// The old trick: the public key, which everybody has, taken for a shared secret.
fn hmac_by_public_key(issuer: &Issuer, claims: &str) -> String {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, issuer.pair.public_key().as_ref());
    let text = format!("{}.{claims}", encoded(r#"{"alg":"HS256","kid":"a"}"#));
    URL_SAFE_NO_PAD.encode(hmac::sign(&secret, text.as_bytes()))
}

#[test]
fn claims_are_judged_one_by_one() {
    let issuer = Issuer::new();
    for (from, to, want) in [
        ("\"muster\"", "[\"other\",\"muster\"]", Ok(())),
        ("\"muster\"", "\"other\"", Err(Reason::Audience)),
        ("\"muster\"", "[]", Err(Reason::Audience)),
        ("\"aud\":\"muster\",", "", Err(Reason::Malformed)),
        ("\"exp\":1800000060,", "", Err(Reason::Malformed)),
        ("1800000060", "\"1800000060\"", Err(Reason::Malformed)),
        ("1800000060", "1799999971.9", Ok(())),
        ("1800000060", "1799999970", Err(Reason::Expired)),
        ("1800000060", "1e300", Err(Reason::Claims)),
        ("1800000060", "1800003631", Err(Reason::Lifetime)),
        ("\"jti\":\"1\"", "\"nbf\":1800000030", Ok(())),
        ("\"jti\":\"1\"", "\"nbf\":1800000031", Err(Reason::NotYet)),
        ("\"jti\":\"1\"", "\"iat\":1800000031", Err(Reason::NotYet)),
        ("\"jti\":\"1\"", "\"iat\":\"now\"", Err(Reason::Malformed)),
        ("\"shop\"", "\"\"", Err(Reason::Claims)),
        ("\"shop\"", "\"a b\"", Err(Reason::Claims)),
        ("\"shop\"", "\"a\\u000ab\"", Err(Reason::Claims)),
        (
            "\"sub\":\"shop\",",
            "\"sub\":\"shop\",\"sub\":\"root\",",
            Err(Reason::Malformed),
        ),
        (
            "\"jti\":\"1\"",
            "\"cnf\":{\"x5t#S256\":\"AAAA\"}",
            Err(Reason::Claims),
        ),
    ] {
        let claims = GOOD.replace(from, to);
        let judged = issuer.judged(&issuer.token(&claims)).map(|_| ());
        assert_eq!(judged, want, "{claims}");
    }
    let mut rules = rules();
    rules.issuer = Some("us".to_owned());
    for (issued_by, want) in [("us", Ok(())), ("them", Err(Reason::Issuer))] {
        let claims = GOOD.replace("\"jti\":\"1\"", &format!("\"iss\":\"{issued_by}\""));
        let token = issuer.token(&claims);
        let judged = verify(&token, &issuer.keys, &rules, NOW_S).map(|_| ());
        assert_eq!(judged, want);
    }
    let absent = verify(&issuer.token(GOOD), &issuer.keys, &rules, NOW_S);
    assert_eq!(absent, Err(Reason::Issuer));
}

#[test]
fn one_for_a_single_call_is_for_one_replica_and_younger_than_it() {
    let issuer = Issuer::new();
    let good =
        r#"{"sub":"ops","aud":"muster/a","exp":1800000060,"iat":1799999990,"jti":"7","once":true}"#;
    assert!(issuer.judged(&issuer.token(good)).expect("it is good").once);
    for (from, to, want) in [
        ("muster/a", "muster/b", Reason::Audience),
        ("muster/a", "muster", Reason::Audience),
        ("\"iat\":1799999990,", "", Reason::Claims),
        ("1799999990", "1799999399", Reason::Replayed),
        ("\"jti\":\"7\",", "", Reason::Claims),
    ] {
        let claims = good.replace(from, to);
        assert_eq!(issuer.judged(&issuer.token(&claims)), Err(want), "{claims}");
    }
}

#[test]
fn every_change_of_a_token_is_found() {
    let issuer = Issuer::new();
    let token = issuer.token(GOOD);
    for place in 0..token.len() {
        for other in *b"Aa.-" {
            let mut changed = token.clone().into_bytes();
            if changed[place] == other {
                continue;
            }
            changed[place] = other;
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(issuer.judged(&changed).is_err(), "{changed}");
        }
        assert!(issuer.judged(&token[..place]).is_err());
    }
    assert!(issuer.judged(&format!("{token}=")).is_err());
    assert!(issuer.judged(&format!("{token}.")).is_err());
    assert!(issuer.judged(&"a".repeat(TOKEN_BYTES_MAX + 1)).is_err());
}
