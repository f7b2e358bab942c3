//! Tokens, callers and certificates that are refused before their time is over.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use crate::files;

/// Lines of a list at most.
pub const LINES_MAX: usize = 200_000;

/// The list: a line each of `token ID`, `subject NAME` or `certificate SHA256` (64 hex digits); what follows a `#` at the
/// begin of a line, and empty lines, say nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Revoked(HashSet<(Kind, Box<str>)>);

/// What a line names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A token, by its `jti`.
    Token,
    /// Whoever a token or a certificate names.
    Subject,
    /// A certificate, by its fingerprint.
    Certificate,
}

impl Revoked {
    /// Reads a list from a file.
    ///
    /// # Errors
    /// One sentence that names the file and the line.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::parse(&files::read(path)?).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// Parses a list. One line that is not understood refuses all of it: it may be the one that matters.
    ///
    /// # Errors
    /// One sentence that names the line.
    pub fn parse(data: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(data).map_err(|_| "not UTF-8".to_owned())?;
        let mut all = HashSet::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = entry(line).ok_or_else(|| {
                format!(
                    "line {}: write `token ID`, `subject NAME` or `certificate SHA256`",
                    number + 1
                )
            })?;
            all.insert(entry);
            if all.len() > LINES_MAX {
                return Err(format!("more than {LINES_MAX} entries"));
            }
        }
        Ok(Self(all))
    }

    /// Whether it is refused.
    #[must_use]
    pub fn holds(&self, kind: Kind, name: &str) -> bool {
        // The usual list is empty, and a look at it then costs nothing.
        !self.0.is_empty() && self.0.contains(&(kind, Box::from(name)))
    }

    /// Whether a certificate is refused.
    #[must_use]
    pub fn holds_certificate(&self, fingerprint: &[u8; 32]) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut hex = String::with_capacity(64);
        for byte in fingerprint {
            let _ = write!(hex, "{byte:02x}");
        }
        self.holds(Kind::Certificate, &hex)
    }

    /// How many entries there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

fn entry(line: &str) -> Option<(Kind, Box<str>)> {
    let (kind, name) = line.split_once(char::is_whitespace)?;
    let name = name.trim();
    let kind = match kind {
        "token" => Kind::Token,
        "subject" => Kind::Subject,
        "certificate" => Kind::Certificate,
        _ => return None,
    };
    if kind != Kind::Certificate {
        return super::token::is_name(name).then(|| (kind, name.into()));
    }
    // As openssl prints it, too: upper case, with colons.
    let hex = name.replace(':', "").to_ascii_lowercase();
    let good = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    good.then(|| (kind, hex.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_subjects_and_certificates_are_told_apart() {
        let text = format!(
            "# lost laptops\n\ntoken a-1\nsubject ops\ncertificate {}\n",
            "AB:".repeat(31) + "AB"
        );
        let revoked = Revoked::parse(text.as_bytes()).expect("a list");
        assert_eq!(revoked.count(), 3);
        assert!(revoked.holds(Kind::Token, "a-1") && !revoked.holds(Kind::Token, "ops"));
        assert!(revoked.holds(Kind::Subject, "ops"));
        assert!(revoked.holds_certificate(&[0xab; 32]) && !revoked.holds_certificate(&[0xac; 32]));
        assert!(!Revoked::default().holds(Kind::Token, "a-1"));
    }

    #[test]
    fn one_line_that_is_not_understood_refuses_the_list() {
        for (text, line) in [
            ("token a\ntokens b", "line 2"),
            ("token", "line 1"),
            ("subject a b", "line 1"),
            ("certificate 12", "line 1"),
        ] {
            let told = Revoked::parse(text.as_bytes()).expect_err("refused");
            assert!(told.contains(line), "{told}");
        }
        assert!(Revoked::parse(b"token \xff").is_err());
    }
}
