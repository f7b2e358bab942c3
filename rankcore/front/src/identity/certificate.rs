//! Who a client is by the certificate that its connection was made with.

use ring::digest;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::scope::Scopes;
use super::token::is_name;

/// A client's certificate, which the TLS library has found to be signed by an authority of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of its DER form.
    pub fingerprint: [u8; 32],
    /// Its alternative names, each with its kind, `dns:` or `uri:`. The name in the subject is no name of anybody (RFC 9525,
    /// section 2).
    pub names: Vec<String>,
    /// End of its validity, Unix seconds.
    pub not_after_s: i64,
}

impl Certificate {
    /// Reads one.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let none = || "not a certificate".to_owned();
        let owned = CertificateDer::from(der);
        let parsed = EndEntityCert::try_from(&owned).map_err(|_| none())?;
        let dns = parsed.valid_dns_names().map(|name| format!("dns:{name}"));
        let uris = parsed.valid_uri_names().map(|name| format!("uri:{name}"));
        let hashed = digest::digest(&digest::SHA256, der);
        Ok(Self {
            fingerprint: hashed.as_ref().try_into().expect("SHA-256 has 32 bytes"),
            names: dns.chain(uris).filter(|name| is_name(name)).collect(),
            not_after_s: not_after_s(der).ok_or_else(none)?,
        })
    }
}

/// The end of a certificate's validity, Unix seconds: the one field that the TLS library checks and does not tell. Source:
/// RFC 5280, section 4.1, in DER (ITU-T X.690).
fn not_after_s(der: &[u8]) -> Option<i64> {
    let (SEQUENCE, certificate, _) = element(der)? else {
        return None;
    };
    let (SEQUENCE, mut fields, _) = element(certificate)? else {
        return None;
    };
    if element(fields)?.0 == VERSION {
        fields = element(fields)?.2;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (SEQUENCE, validity, _) = element(fields)? else {
        return None;
    };
    let (_, _, rest) = element(validity)?;
    let (kind, text, _) = element(rest)?;
    moment(kind, text)
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Tag and contents of the first element, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// `YYMMDDhhmmssZ` of 1950 to 2049, or `YYYYMMDDhhmmssZ` (RFC 5280, section 4.1.2.5).
fn moment(kind: u8, text: &[u8]) -> Option<i64> {
    let (year, rest) = match kind {
        UTC_TIME => {
            let (year, rest) = number(text, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => number(text, 4)?,
        _ => return None,
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    let sane = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60;
    if !sane || second > 60 || rest != b"Z" {
        return None;
    }
    // Days since 1970, of a year that begins in March, so that a leap day is its last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn number(text: &[u8], digits: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = text.split_at_checked(digits)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Some((value, rest))
}

/// Which names of certificates have which scopes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named(Vec<(String, Scopes)>);

impl Named {
    /// From entries such as `dns:search.shop.example=read+feedback`.
    ///
    /// # Errors
    /// One sentence that names the entry at fault.
    pub fn parse(entries: &[String]) -> Result<Self, String> {
        entries
            .iter()
            .map(|entry| named(entry))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The first name of the certificate that is known here, and what it may.
    #[must_use]
    pub fn find(&self, certificate: &Certificate) -> Option<(&str, Scopes)> {
        let known = |name: &String| self.0.iter().find(|(known, _)| known == name);
        let (name, scopes) = certificate.names.iter().find_map(known)?;
        Some((name, *scopes))
    }
}

fn named(entry: &str) -> Result<(String, Scopes), String> {
    let wrong = |why: &str| format!("{entry:?}: {why}");
    let (name, scopes) = entry
        .rsplit_once('=')
        .ok_or_else(|| wrong("write KIND:NAME=SCOPE+SCOPE"))?;
    let kinds = ["dns:", "uri:"];
    let kind = kinds.iter().find_map(|kind| name.strip_prefix(kind));
    if kind.is_none_or(str::is_empty) || !is_name(name) {
        return Err(wrong(
            "its name must begin with dns: or uri:, and hold no spaces",
        ));
    }
    let mut all = Scopes::NONE;
    for scope in scopes.split('+') {
        let scope = Scopes::named(scope);
        all = all.with(
            scope
                .ok_or_else(|| wrong(&format!("its scopes must be of {}", Scopes::ANY.names())))?,
        );
    }
    Ok((name.to_owned(), all))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate with `dns:search.shop.example`, `uri:spiffe://shop/ui`, until 2049-12-31 23:59:59, of nobody's key.
    const UNTIL_2049: &str = "MIIBOzCB46ADAgECAgEHMAoGCCqGSM49BAMCMA0xCzAJBgNVBAMMAnVpMB4XDTI0MDEwMTAwMDAwMFoXDTQ5MTIzMT\
        IzNTk1OVowDTELMAkGA1UEAwwCdWkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARn7FxeKnUnGdpWILs6xNuZklgo\
        3+Gnn4TcHxdy4kPbs34EHIMqrnbnRsjbHMb5Qk8u46e8CkXt4P9bkpvE7xXtozQwMjAwBgNVHREEKTAnghNzZWFyY2\
        guc2hvcC5leGFtcGxlhhBzcGlmZmU6Ly9zaG9wL3VpMAoGCCqGSM49BAMCA0cAMEQCICxFbJgqdja658nrsHUEWAUn\
        EOuqiT7s9thTpCEbe3iBAiAkz3BT/1rM7tU2PQAgewa4KzncwNcTm3YA+5gncNcrQA==";
    /// The same without a name, until 2051-01-02 03:04:05, which is written with four digits of the year.
    const UNTIL_2051: &str = "MIIBCDCBr6ADAgECAgEHMAoGCCqGSM49BAMCMA0xCzAJBgNVBAMMAnVpMCAXDTI0MDEwMTAwMDAwMFoYDzIwNTEwMT\
        AyMDMwNDA1WjANMQswCQYDVQQDDAJ1aTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABE9/655NKrydyCzc6WUt0YzR\
        N9pL5HP7F+igq0KFbyPqSHQA3o0sTrtNe6lZVcQ6b/XrYvPkwhDpTJS/dL6JiEIwCgYIKoZIzj0EAwIDSAAwRQIhAP\
        qiw/FbBb9wC9KlnaONigs1pLTyJXRwdTEshp49z2SFAiAC10IeHH2hlKn9ReAVVUeDxElM8r1swjgIRUMnY+qb+A==";

    fn certificate(base64: &str) -> Certificate {
        use base64::Engine as _;
        let der = base64::engine::general_purpose::STANDARD.decode(base64);
        Certificate::read(&der.expect("base64")).expect("a certificate")
    }

    #[test]
    fn names_are_told_with_their_kind_and_the_end_as_seconds() {
        let read = certificate(UNTIL_2049);
        assert_eq!(read.not_after_s, 2_524_607_999);
        assert_eq!(
            read.names,
            ["dns:search.shop.example", "uri:spiffe://shop/ui"]
        );
        let other = certificate(UNTIL_2051);
        assert_eq!((other.not_after_s, other.names.len()), (2_556_241_445, 0));
        assert_ne!(read.fingerprint, other.fingerprint);
        assert!(Certificate::read(b"no certificate").is_err());
    }

    #[test]
    fn moments_are_counted_from_1970_and_strange_ones_are_none() {
        for (kind, text, want) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "691231235959Z", Some(-1)),
            (UTC_TIME, "000229120000Z", Some(951_825_600)),
            (GENERALIZED_TIME, "21000301000000Z", Some(4_107_542_400)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "700101000000", None),
            (UTC_TIME, "7001010000+0Z", None),
            (2, "700101000000Z", None),
        ] {
            assert_eq!(moment(kind, text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn the_first_known_name_says_what_a_certificate_may() {
        let entries = [
            "dns:ops.shop.example=admin+drill",
            "uri:spiffe://shop/ui=read",
        ];
        let entries = entries.map(str::to_owned);
        let named = Named::parse(&entries).expect("entries");
        let certificate = certificate(UNTIL_2049);
        assert_eq!(
            named.find(&certificate),
            Some(("uri:spiffe://shop/ui", Scopes::READ))
        );
        let other = Named::parse(&entries[..1]).expect("entries");
        assert_eq!(other.find(&certificate), None);
    }

    #[test]
    fn entries_that_say_nothing_are_refused_by_name() {
        for entry in [
            "dns:a",
            "cn:a=read",
            "dns:=read",
            "dns:a b=read",
            "dns:a=root",
            "dns:a=",
        ] {
            let told = Named::parse(&[entry.to_owned()]).expect_err("refused");
            assert!(told.contains(&format!("{entry:?}")), "{told}");
        }
    }
}
