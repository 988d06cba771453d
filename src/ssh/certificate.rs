//! OpenSSH certificates, of hosts and of users: what they say, and whether it holds.
//!
//! Pure: the time is passed in, and whose authority counts is for the caller to know. Source: PROTOCOL.certkeys of OpenSSH.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::{self, HashAlg};
use russh::keys::{Algorithm, PublicKey};

use crate::model::Timestamp;

use super::hostkey::HostKey;
use super::printable;

/// The longest line that is read as a key or a certificate. One with 256 principals and RSA keys of 16 Kbit stays below.
pub(super) const MAX_KEY_LINE_BYTES: usize = 64 * 1024;

/// How often the name of a certificate type may stand in a blob. An honest one has it once; the library's parser follows
/// certificates inside certificates without end, so a deep nest would overflow the stack.
const MAX_NESTING: usize = 8;

/// Names in a sentence; a certificate may have 256.
const MAX_NAMES_SHOWN: usize = 8;

/// What a certificate was signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Host,
    User,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::User => "user",
        })
    }
}

/// Why a certificate does not count. Each reads on after "the certificate cannot be used: ".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateProblem {
    /// Not `…-cert-v01@openssh.com AAAA…`, or of an unknown kind.
    Unreadable,
    OtherPurpose {
        wanted: Purpose,
    },
    NotYetValid {
        from: Timestamp,
    },
    Expired {
        since: Timestamp,
    },
    OtherPrincipals {
        wanted: String,
        named: Vec<String>,
    },
    /// It sets a condition that nobody here knows how to keep.
    CriticalOption {
        name: String,
    },
    /// The authority's signature is not over these contents.
    WrongSignature,
    /// Signed with SHA-1 or DSA, which can be forged.
    WeakSignature,
    /// It was made for another key than the one it came with.
    OtherKey,
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("it is not an OpenSSH certificate"),
            Self::OtherPurpose { wanted } => write!(f, "it is not a {wanted} certificate"),
            Self::NotYetValid { from } => write!(f, "it is not valid before {from}"),
            Self::Expired { since } => write!(f, "it expired at {since}"),
            Self::OtherPrincipals { wanted, named } if named.is_empty() => {
                write!(f, "it names no principal, so not '{wanted}' either")
            }
            Self::OtherPrincipals { wanted, named } => {
                let more = if named.len() > MAX_NAMES_SHOWN { ", …" } else { "" };
                let named: Vec<_> = named.iter().take(MAX_NAMES_SHOWN).map(String::as_str).collect();
                write!(f, "it is for {}{more}, not for '{wanted}'", named.join(", "))
            }
            Self::CriticalOption { name } => write!(f, "it has the condition '{name}', which is not known"),
            Self::WrongSignature => f.write_str("its signature is wrong"),
            Self::WeakSignature => f.write_str("its authority signed it with SHA-1 or DSA"),
            Self::OtherKey => f.write_str("it belongs to another key"),
        }
    }
}

impl CertificateProblem {
    /// What whoever keeps the authority does about it.
    #[must_use]
    pub fn advice(&self, purpose: Purpose) -> String {
        let sign = match purpose {
            Purpose::Host => "`ssh-keygen -s CA -h -I ID -n HOSTNAME -V +52w ssh_host_ed25519_key.pub`",
            Purpose::User => "`ssh-keygen -s CA -I ID -n USER -V +52w KEY.pub`",
        };
        match self {
            Self::Unreadable => {
                "Give the line of the file KEY-cert.pub, as `ssh-keygen -s` writes it.".to_owned()
            }
            Self::NotYetValid { .. } | Self::Expired { .. } => {
                format!("Check the clocks here and there, or sign the key again: {sign}.")
            }
            Self::CriticalOption { .. } => {
                format!("Sign the key again without the option (`-O clear`): {sign}.")
            }
            Self::OtherKey => {
                "Give the certificate together with the private key that it was made for.".to_owned()
            }
            Self::WeakSignature => {
                format!("Sign the key again, with `-t rsa-sha2-512` if the authority's key is RSA: {sign}.")
            }
            Self::OtherPurpose { .. } | Self::OtherPrincipals { .. } | Self::WrongSignature => {
                format!("Sign the key again: {sign}.")
            }
        }
    }
}

/// A certificate that was read. Nothing of what it says is believed before [`Certificate::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate(ssh_key::Certificate);

impl Certificate {
    /// Reads `ssh-ed25519-cert-v01@openssh.com AAAA… [comment]`.
    ///
    /// # Errors
    /// [`CertificateProblem::Unreadable`].
    pub fn parse(line: &str) -> Result<Self, CertificateProblem> {
        let line = line.trim();
        if !has_sane_blob(line) {
            return Err(CertificateProblem::Unreadable);
        }
        ssh_key::Certificate::from_openssh(line).map(Self).map_err(|_| CertificateProblem::Unreadable)
    }

    pub(super) const fn of(certificate: ssh_key::Certificate) -> Self {
        Self(certificate)
    }

    pub(super) const fn inner(&self) -> &ssh_key::Certificate {
        &self.0
    }

    /// The key that the certificate is about.
    #[must_use]
    pub fn key(&self) -> HostKey {
        HostKey::of(&PublicKey::new(self.0.public_key().clone(), ""))
    }

    /// The key that signed it.
    #[must_use]
    pub fn authority(&self) -> HostKey {
        HostKey::of(&PublicKey::new(self.0.signature_key().clone(), ""))
    }

    /// What the authority wrote to recognise it by, cleaned.
    #[must_use]
    pub fn id(&self) -> String {
        printable::line(self.0.key_id().as_bytes(), 100)
    }

    /// Names of hosts or users that it is for, cleaned. None: the authority named nobody.
    #[must_use]
    pub fn principals(&self) -> Vec<String> {
        self.0.valid_principals().iter().map(|name| printable::line(name.as_bytes(), 100)).collect()
    }

    /// None: it does not expire.
    #[must_use]
    pub fn valid_until(&self) -> Option<Timestamp> {
        (self.0.valid_before() != u64::MAX).then(|| from_seconds(self.0.valid_before()))
    }

    /// Whether it was signed for this purpose, holds at `now`, and its signature is good. Whose signature it is
    /// ([`Certificate::authority`]) and for whom ([`Certificate::is_for`]) are for the caller to judge.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self, purpose: Purpose, now: Timestamp) -> Result<(), CertificateProblem> {
        let wanted = match purpose {
            Purpose::Host => CertType::Host,
            Purpose::User => CertType::User,
        };
        if self.0.cert_type() != wanted {
            return Err(CertificateProblem::OtherPurpose { wanted: purpose });
        }
        if matches!(self.0.signature().algorithm(), Algorithm::Dsa | Algorithm::Rsa { hash: None }) {
            return Err(CertificateProblem::WeakSignature);
        }
        // An authority's fingerprint is compared by the caller; here the signature is compared with the key that is named.
        let signer = self.0.signature_key().fingerprint(HashAlg::Sha256);
        let now_s = u64::try_from(now.as_millis() / 1000).unwrap_or(0);
        if now_s < self.0.valid_after() {
            return Err(CertificateProblem::NotYetValid { from: from_seconds(self.0.valid_after()) });
        }
        if now_s >= self.0.valid_before() {
            return Err(CertificateProblem::Expired { since: from_seconds(self.0.valid_before()) });
        }
        self.0.validate_at(now_s, [&signer]).map_err(|_| CertificateProblem::WrongSignature)?;
        // No critical option exists for hosts; those of users are for the server to keep.
        match self.0.critical_options().keys().next() {
            Some(name) if purpose == Purpose::Host => {
                Err(CertificateProblem::CriticalOption { name: printable::line(name.as_bytes(), 60) })
            }
            _ => Ok(()),
        }
    }

    /// Whether `principal` is among the names. Host names do not care for case. A host certificate without names is for
    /// every host (PROTOCOL.certkeys); sshd takes no user certificate without names.
    ///
    /// # Errors
    /// [`CertificateProblem::OtherPrincipals`].
    pub fn is_for(&self, purpose: Purpose, principal: &str) -> Result<(), CertificateProblem> {
        let named = self.0.valid_principals();
        let holds = match purpose {
            Purpose::Host => {
                named.is_empty() || named.iter().any(|name| name.eq_ignore_ascii_case(principal))
            }
            Purpose::User => named.iter().any(|name| name == principal),
        };
        if holds {
            return Ok(());
        }
        let wanted = printable::line(principal.as_bytes(), 100);
        Err(CertificateProblem::OtherPrincipals { wanted, named: self.principals() })
    }
}

fn from_seconds(seconds: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX))
}

/// Whether a line `algorithm base64 [comment]` may be given to the library's parser.
pub(super) fn has_sane_blob(line: &str) -> bool {
    if line.len() > MAX_KEY_LINE_BYTES {
        return false;
    }
    let Some(blob) = line.split_ascii_whitespace().nth(1) else { return false };
    STANDARD.decode(blob).is_ok_and(|blob| is_flat(&blob))
}

/// False: certificates are nested in it, deeper than any honest one.
pub(super) fn is_flat(blob: &[u8]) -> bool {
    const MARKER: &[u8] = b"-cert-v01@";
    blob.windows(MARKER.len()).filter(|window| *window == MARKER).count() <= MAX_NESTING
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;
    use std::process::Command;

    fn keygen(dir: &Path, words: &[&str]) {
        let made = Command::new("ssh-keygen").current_dir(dir).arg("-q").args(words).status();
        assert!(made.unwrap().success(), "{words:?}");
    }

    fn signed(words: &[&str]) -> Certificate {
        let dir = tempfile::tempdir().unwrap();
        keygen(dir.path(), &["-t", "ed25519", "-N", "", "-f", "ca"]);
        keygen(dir.path(), &["-t", "ed25519", "-N", "", "-f", "key"]);
        keygen(dir.path(), &[&["-s", "ca", "-I", "some id"], words, &["key.pub"]].concat());
        Certificate::parse(&std::fs::read_to_string(dir.path().join("key-cert.pub")).unwrap()).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    const DAYS: [&str; 2] = ["-V", "20240101000000Z:20240201000000Z"];

    #[test]
    fn a_certificate_holds_in_its_time_for_its_purpose_and_its_names() {
        let host = signed(&[&DAYS[..], &["-h", "-n", "web.example.com,10.0.0.5"]].concat());
        let during = at("2024-01-15T00:00:00Z");
        assert_eq!(host.check(Purpose::Host, during), Ok(()));
        assert_eq!(host.is_for(Purpose::Host, "WEB.example.com"), Ok(()));
        let error = host.is_for(Purpose::Host, "db.example.com").unwrap_err();
        assert_eq!(error.to_string(), "it is for web.example.com, 10.0.0.5, not for 'db.example.com'");
        let error = host.check(Purpose::Host, at("2024-02-01T00:00:00Z")).unwrap_err();
        assert_eq!(error.to_string(), "it expired at 2024-02-01T00:00:00.000Z");
        let error = host.check(Purpose::Host, at("2023-12-31T23:59:59Z")).unwrap_err();
        assert_eq!(error.to_string(), "it is not valid before 2024-01-01T00:00:00.000Z");
        let error = host.check(Purpose::User, during).unwrap_err();
        assert_eq!(error.to_string(), "it is not a user certificate");
        assert_eq!((host.id().as_str(), host.valid_until()), ("some id", Some(at("2024-02-01T00:00:00Z"))));
    }

    #[test]
    fn a_host_certificate_without_names_is_for_every_host_and_a_users_for_nobody() {
        assert_eq!(signed(&["-h"]).is_for(Purpose::Host, "anything"), Ok(()));
        let user = signed(&[]);
        assert_eq!(user.check(Purpose::User, at("2024-01-15T00:00:00Z")), Ok(()));
        assert_eq!(user.valid_until(), None);
        assert!(user.is_for(Purpose::User, "root").is_err());
    }

    #[test]
    fn a_critical_option_on_a_host_certificate_is_refused() {
        let host = signed(&["-h", "-O", "critical:only-on-sundays@example.com=yes"]);
        let error = host.check(Purpose::Host, at("2024-01-15T00:00:00Z")).unwrap_err();
        assert_eq!(
            error,
            CertificateProblem::CriticalOption { name: "only-on-sundays@example.com".to_owned() }
        );
    }

    #[test]
    fn a_certificate_that_was_changed_after_signing_is_refused() {
        let line = signed(&["-h", "-n", "web"]).0.to_openssh().unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let (kind, mut bytes) = (words[0], STANDARD.decode(words[1]).unwrap());
        let at_name = bytes.windows(3).position(|window| window == b"web").unwrap();
        bytes[at_name] = b'd';
        let forged = Certificate::parse(&format!("{kind} {}", STANDARD.encode(bytes))).unwrap();
        assert_eq!(forged.principals(), ["deb"]);
        let error = forged.check(Purpose::Host, at("2024-01-15T00:00:00Z")).unwrap_err();
        assert_eq!(error, CertificateProblem::WrongSignature);
    }

    #[test]
    fn an_authority_that_signs_with_sha_1_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        keygen(dir.path(), &["-t", "rsa", "-b", "2048", "-N", "", "-f", "ca"]);
        keygen(dir.path(), &["-t", "ed25519", "-N", "", "-f", "key"]);
        for (kind, expected) in
            [("ssh-rsa", Err(CertificateProblem::WeakSignature)), ("rsa-sha2-512", Ok(()))]
        {
            keygen(dir.path(), &["-s", "ca", "-t", kind, "-h", "-I", "id", "key.pub"]);
            let line = std::fs::read_to_string(dir.path().join("key-cert.pub")).unwrap();
            let found = Certificate::parse(&line).unwrap().check(Purpose::Host, at("2024-01-15T00:00:00Z"));
            assert_eq!(found, expected, "{kind}");
        }
    }

    #[test]
    fn a_deep_nest_of_certificates_and_an_endless_line_are_refused() {
        fn field(out: &mut Vec<u8>, bytes: &[u8]) {
            out.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
            out.extend(bytes);
        }
        let mut inner = Vec::new();
        field(&mut inner, b"a@b");
        field(&mut inner, b"");
        for _ in 0..400 {
            let mut outer = Vec::new();
            field(&mut outer, b"a-cert-v01@x");
            field(&mut outer, b"");
            field(&mut outer, b"");
            outer.extend(0_u64.to_be_bytes());
            outer.extend(1_u32.to_be_bytes());
            field(&mut outer, b"");
            field(&mut outer, b"");
            outer.extend(0_u64.to_be_bytes());
            outer.extend(u64::MAX.to_be_bytes());
            for _ in 0..3 {
                field(&mut outer, b"");
            }
            field(&mut outer, &inner);
            let mut signature = Vec::new();
            field(&mut signature, b"a@b");
            field(&mut signature, b"x");
            field(&mut outer, &signature);
            inner = outer;
        }
        let deep = STANDARD.encode(&inner);
        assert!(deep.len() < MAX_KEY_LINE_BYTES);
        for kind in ["a-cert-v01@x", "ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519"] {
            assert_eq!(Certificate::parse(&format!("{kind} {deep}")), Err(CertificateProblem::Unreadable));
            assert!(HostKey::parse(&format!("{kind} {deep}")).is_err());
        }
        assert!(
            Certificate::parse(&format!("ssh-ed25519-cert-v01@openssh.com {}", "A".repeat(100_000))).is_err()
        );
    }
}
