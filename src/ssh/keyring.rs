//! What is known of a key without its secret half: kind, size, fingerprint, weakness, the user certificate that belongs to it.
//!
//! Also makes new keys of each kind. Pure but for random numbers; keeps nothing.

use russh::keys::ssh_key::{LineEnding, PublicKey};
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PrivateKey};

use crate::model::{Secret, Timestamp};
use crate::quote::quote;

use super::certificate::has_sane_blob;
use super::error::SshError;
use super::printable;

/// RSA below this is within reach of those who collect what they cannot break yet (NIST SP 800-131A, revision 2).
const LEAST_RSA_BITS: u32 = 2048;
/// Principals and options of a certificate that a person is shown.
const LISTED: usize = 50;
const WORD_CHARS: usize = 200;

/// Kinds of keys that Roundsman makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    #[default]
    Ed25519,
    /// NIST P-256, for servers before OpenSSH 6.5 and where FIPS rules.
    Ecdsa,
    /// 4096 bits, for servers that know nothing else. Takes seconds to make.
    Rsa4096,
}

impl KeyKind {
    pub const ALL: [Self; 3] = [Self::Ed25519, Self::Ecdsa, Self::Rsa4096];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Ecdsa => "ecdsa",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    /// None: Roundsman makes no such key.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text.trim())
    }
}

/// A new key: the private key as OpenSSH text, and the public key line with `comment`. Blocks for seconds for RSA.
///
/// # Errors
/// [`SshError::KeyUnreadable`]: the key could not be written as text.
pub fn generate(kind: KeyKind, comment: &str) -> Result<(Secret<String>, String), SshError> {
    let failed = |error: &dyn std::fmt::Display| SshError::KeyUnreadable {
        path: "that Roundsman makes".to_owned(),
        cause: error.to_string(),
    };
    let algorithm = match kind {
        KeyKind::Ed25519 => Algorithm::Ed25519,
        KeyKind::Ecdsa => Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        KeyKind::Rsa4096 => Algorithm::Rsa { hash: None },
    };
    let mut key = PrivateKey::random(&mut rand::rng(), algorithm).map_err(|error| failed(&error))?;
    key.set_comment(printable::line(comment.as_bytes(), 100));
    let text = key.to_openssh(LineEnding::LF).map_err(|error| failed(&error))?;
    let line = key.public_key().to_openssh().map_err(|error| failed(&error))?;
    Ok((Secret::new(text.to_string()), line))
}

/// A public key as a person compares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicFacts {
    /// `ssh-ed25519`, `ssh-rsa`, …
    pub algorithm: String,
    /// Size of the modulus or of the curve. None: the kind has no sizes that Roundsman knows.
    pub bits: Option<u32>,
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    /// Why the key should be replaced.
    pub weakness: Option<String>,
    /// Its private half lives in a security key, so nobody can log in with it from here.
    pub needs_hardware: bool,
}

impl PublicFacts {
    /// None: `line` is no public key line.
    #[must_use]
    pub fn of(line: &str) -> Option<Self> {
        let key = PublicKey::from_openssh(&sane_fields(line)?).ok()?;
        let data = key.key_data();
        let bits = match key.algorithm() {
            Algorithm::Rsa { .. } => data.rsa().map(|rsa| rsa.key_size()),
            Algorithm::Ed25519 | Algorithm::SkEd25519 => Some(256),
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 } => Some(384),
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 } => Some(521),
            Algorithm::Ecdsa { .. } | Algorithm::SkEcdsaSha2NistP256 => Some(256),
            _ => None,
        };
        let weakness = match (key.algorithm(), bits) {
            (Algorithm::Dsa, _) => Some("DSA keys have 1024 bits and OpenSSH 7.0 refuses them".to_owned()),
            (Algorithm::Rsa { .. }, Some(bits)) if bits < LEAST_RSA_BITS => {
                Some(format!("an RSA key of {bits} bits can be broken; {LEAST_RSA_BITS} are the least"))
            }
            _ => None,
        };
        Some(Self {
            algorithm: key.algorithm().as_str().to_owned(),
            bits,
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            weakness,
            needs_hardware: matches!(key.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256),
        })
    }
}

/// A public key line with a comment that is one printable line: what comes from a file may hold anything.
#[must_use]
pub fn clean_public_line(line: &str) -> String {
    let mut fields = line.splitn(3, ' ');
    let key = [fields.next(), fields.next()].map(Option::unwrap_or_default).join(" ");
    let comment = printable::line(fields.next().unwrap_or_default().as_bytes(), 100);
    format!("{key} {comment}").trim_end().to_owned()
}

/// The command that lets a key in when it is pasted into a shell of a server. Empty: `public_line` cannot be a word.
#[must_use]
pub fn paste_command(public_line: &str) -> String {
    quote(public_line).map_or_else(
        |_| String::new(),
        |line| {
            format!(
                "umask 077; mkdir -p ~/.ssh; f=~/.ssh/authorized_keys; \
                 [ -z \"$(tail -c 1 \"$f\" 2>/dev/null)\" ] || echo >>\"$f\"; echo {line} >>\"$f\""
            )
        },
    )
}

/// Algorithm and blob. None: they are not there, or no parser may see the blob.
fn sane_fields(line: &str) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let fields = format!("{} {}", fields.next()?, fields.next()?);
    has_sane_blob(&fields).then_some(fields)
}

/// What an authority signed about a key. Source: PROTOCOL.certkeys of OpenSSH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserCertificate {
    /// One line: algorithm and certificate, without comment.
    pub line: String,
    pub key_id: String,
    pub serial: u64,
    /// Names of accounts that it opens. Empty: none on OpenSSH, which wants at least one.
    pub principals: Vec<String>,
    pub valid_after: Timestamp,
    /// None: for ever.
    pub valid_before: Option<Timestamp>,
    /// `force-command=…`, `source-address=…`.
    pub critical_options: Vec<String>,
    /// Fingerprint of the authority's key.
    pub authority: String,
}

/// Why a certificate is not one for a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    #[error("this is not an OpenSSH certificate; it is the one line of a file that ends in -cert.pub")]
    NotOne,
    #[error("this is a host certificate; Roundsman logs in with a user certificate")]
    OfAHost,
    #[error(
        "this certificate belongs to another key ({fingerprint}); let the authority sign the public key of this one"
    )]
    OfAnotherKey { fingerprint: String },
    #[error("the certificate's signature is not by the authority that it names")]
    WronglySigned,
}

impl UserCertificate {
    /// Reads the certificate and checks that it belongs to the key of `public_line`. Whether it is valid now is for
    /// the caller to compare with the clock.
    ///
    /// # Errors
    /// [`BadCertificate`].
    pub fn of_key(certificate: &str, public_line: &str) -> Result<Self, BadCertificate> {
        let wanted = sane_fields(certificate).ok_or(BadCertificate::NotOne)?;
        let read = Certificate::from_openssh(&wanted).map_err(|_| BadCertificate::NotOne)?;
        if !read.cert_type().is_user() {
            return Err(BadCertificate::OfAHost);
        }
        let own = sane_fields(public_line).and_then(|line| PublicKey::from_openssh(&line).ok());
        if own.is_none_or(|own| own.key_data() != read.public_key()) {
            let fingerprint = read.public_key().fingerprint(HashAlg::Sha256).to_string();
            return Err(BadCertificate::OfAnotherKey { fingerprint });
        }
        read.verify_signature().map_err(|_| BadCertificate::WronglySigned)?;
        let shown = |text: &str| printable::line(text.as_bytes(), WORD_CHARS);
        let options = read.critical_options().iter().take(LISTED).map(|(name, value)| {
            if value.is_empty() { shown(name) } else { shown(&format!("{name}={value}")) }
        });
        Ok(Self {
            key_id: shown(read.key_id()),
            serial: read.serial(),
            principals: read.valid_principals().iter().take(LISTED).map(|name| shown(name)).collect(),
            valid_after: of_seconds(read.valid_after()).unwrap_or_default(),
            valid_before: of_seconds(read.valid_before()),
            critical_options: options.collect(),
            authority: read.signature_key().fingerprint(HashAlg::Sha256).to_string(),
            line: wanted,
        })
    }
}

/// None: later than any clock shows; all ones mean for ever.
fn of_seconds(seconds: u64) -> Option<Timestamp> {
    i64::try_from(seconds).ok()?.checked_mul(1000).map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn keygen(arguments: &[&str], folder: &Path) {
        let done = Command::new("ssh-keygen").arg("-q").args(arguments).current_dir(folder).status().unwrap();
        assert!(done.success(), "{arguments:?}");
    }

    fn read(folder: &Path, name: &str) -> String {
        std::fs::read_to_string(folder.join(name)).unwrap()
    }

    /// The second word of `ssh-keygen -l`, and the first.
    fn as_keygen_says(folder: &Path, file: &str) -> (u32, String) {
        let said = Command::new("ssh-keygen").args(["-l", "-f", file]).current_dir(folder).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let mut words = said.split(' ');
        (words.next().unwrap().parse().unwrap(), words.next().unwrap().to_owned())
    }

    #[test]
    fn keys_of_every_kind_have_the_size_and_fingerprint_that_ssh_keygen_says() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind, bits) in [
            ("a", "ed25519", "256"),
            ("b", "ecdsa", "256"),
            ("c", "ecdsa", "384"),
            ("d", "ecdsa", "521"),
            ("e", "rsa", "2048"),
            ("f", "rsa", "1024"),
        ] {
            keygen(&["-t", kind, "-b", bits, "-N", "", "-f", name], dir.path());
            let facts = PublicFacts::of(&read(dir.path(), &format!("{name}.pub"))).unwrap();
            let (bits, fingerprint) = as_keygen_says(dir.path(), name);
            assert_eq!((facts.bits, facts.fingerprint), (Some(bits), fingerprint), "{kind}");
            assert_eq!(facts.weakness.is_some(), name == "f", "{kind}");
        }
        assert_eq!(PublicFacts::of("hello world"), None);
    }

    #[test]
    fn a_made_key_is_one_that_ssh_keygen_reads() {
        let dir = tempfile::tempdir().unwrap();
        for kind in [KeyKind::Ed25519, KeyKind::Ecdsa] {
            let (private, line) = generate(kind, "made here").unwrap();
            let path = dir.path().join(kind.name());
            std::fs::write(&path, private.expose()).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            let said = Command::new("ssh-keygen").args(["-y", "-f"]).arg(&path).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), line, "{}", kind.name());
        }
    }

    #[test]
    fn a_made_rsa_key_has_4096_bits_and_is_one_that_ssh_keygen_reads() {
        let dir = tempfile::tempdir().unwrap();
        let (private, line) = generate(KeyKind::Rsa4096, "made here").unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, private.expose()).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let said = Command::new("ssh-keygen").args(["-y", "-f"]).arg(&path).output().unwrap();
        assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), line);
        assert_eq!(as_keygen_says(dir.path(), "key").0, 4096);
    }

    #[test]
    fn a_certificate_is_read_and_belongs_to_one_key() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ca", "user", "other"] {
            keygen(&["-t", "ed25519", "-N", "", "-f", name], dir.path());
        }
        let validity = "20260101000000Z:20300101000000Z";
        let options = ["-n", "root,deploy", "-z", "7", "-V", validity, "-O", "source-address=10.0.0.0/8"];
        keygen(&[&["-s", "ca", "-I", "anna's laptop"][..], &options, &["user.pub"]].concat(), dir.path());
        let (line, key) = (read(dir.path(), "user-cert.pub"), read(dir.path(), "user.pub"));
        let certificate = UserCertificate::of_key(&line, &key).unwrap();
        assert_eq!((certificate.key_id.as_str(), certificate.serial), ("anna's laptop", 7));
        assert_eq!(certificate.principals, ["root", "deploy"]);
        assert_eq!(certificate.valid_after.to_string(), "2026-01-01T00:00:00.000Z");
        assert_eq!(certificate.valid_before.unwrap().to_string(), "2030-01-01T00:00:00.000Z");
        assert_eq!(certificate.critical_options, ["source-address=10.0.0.0/8"]);
        assert_eq!(certificate.authority, as_keygen_says(dir.path(), "ca.pub").1);
        let other = UserCertificate::of_key(&line, &read(dir.path(), "other.pub"));
        assert!(matches!(other, Err(BadCertificate::OfAnotherKey { .. })), "{other:?}");
        assert_eq!(UserCertificate::of_key(&key, &key), Err(BadCertificate::NotOne));
        keygen(&["-s", "ca", "-I", "h", "-h", "-n", "web", "other.pub"], dir.path());
        let host =
            UserCertificate::of_key(&read(dir.path(), "other-cert.pub"), &read(dir.path(), "other.pub"));
        assert_eq!(host, Err(BadCertificate::OfAHost));
    }

    #[test]
    fn a_certificate_in_a_certificate_in_a_certificate_is_refused_before_it_is_parsed() {
        use base64::Engine as _;
        let nested = crate::ssh::key_cost::nested_certificate(1000);
        let blob = base64::engine::general_purpose::STANDARD.encode(&nested);
        let line = format!("ssh-ed25519-cert-v01@openssh.com {blob}");
        let (_, own) = generate(KeyKind::Ed25519, "own").unwrap();
        assert_eq!(PublicFacts::of(&line), None);
        assert_eq!(UserCertificate::of_key(&line, &own), Err(BadCertificate::NotOne));
    }

    #[test]
    fn a_certificate_without_an_end_is_valid_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ca", "user"] {
            keygen(&["-t", "ed25519", "-N", "", "-f", name], dir.path());
        }
        keygen(&["-s", "ca", "-I", "x", "-n", "root", "user.pub"], dir.path());
        let certificate =
            UserCertificate::of_key(&read(dir.path(), "user-cert.pub"), &read(dir.path(), "user.pub"));
        assert_eq!(certificate.unwrap().valid_before, None);
    }

    #[test]
    fn the_line_to_paste_keeps_what_stands_in_the_file() {
        let key = "ssh-ed25519 AAAA it's mine; rm -rf $HOME";
        for (before, after) in [
            (None, format!("{key}\n")),
            (Some("a"), format!("a\n{key}\n")),
            (Some("a\n"), format!("a\n{key}\n")),
        ] {
            let home = tempfile::tempdir().unwrap();
            let file = home.path().join(".ssh/authorized_keys");
            if let Some(text) = before {
                std::fs::create_dir(home.path().join(".ssh")).unwrap();
                std::fs::write(&file, text).unwrap();
            }
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &paste_command(key)]).env("HOME", home.path());
            assert!(shell.status().unwrap().success());
            assert_eq!(std::fs::read_to_string(&file).unwrap(), after, "{before:?}");
        }
    }

    #[test]
    fn the_comment_of_a_brought_key_cannot_make_a_second_line() {
        let line = clean_public_line("ssh-ed25519 AAAA me\nssh-ed25519 BBBB\u{1b}[31m evil");
        assert_eq!(line, "ssh-ed25519 AAAA me ssh-ed25519 BBBB evil");
    }
}
