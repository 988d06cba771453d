//! Host keys: what a server proves that it is, and the verdict on it.
//!
//! Pure: no files, no network, no policy of its own. An unknown or a changed key is a person's decision.

use std::fmt;

use russh::keys::ssh_key::{HashAlg, PublicKey};
use russh::keys::{Algorithm, EcdsaCurve};

/// A host's public key: the algorithm's name and the blob of RFC 4253, section 6.6.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostKey {
    algorithm: String,
    key: PublicKey,
}

/// Not an OpenSSH public key line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a public key line; it should look like 'ssh-ed25519 AAAA…'")]
pub struct InvalidHostKey;

impl HostKey {
    /// Reads `ssh-ed25519 AAAA… [comment]`; the comment is dropped.
    ///
    /// # Errors
    /// [`InvalidHostKey`]: another form, an unknown algorithm, or a name that is not the blob's.
    pub fn parse(line: &str) -> Result<Self, InvalidHostKey> {
        let mut fields = line.split_ascii_whitespace();
        let (Some(algorithm), Some(blob)) = (fields.next(), fields.next()) else {
            return Err(InvalidHostKey);
        };
        let key = PublicKey::from_openssh(&format!("{algorithm} {blob}")).map_err(|_| InvalidHostKey)?;
        Ok(Self::of(&key))
    }

    pub(super) fn of(key: &PublicKey) -> Self {
        let key = PublicKey::new(key.key_data().clone(), "");
        Self { algorithm: key.algorithm().as_str().to_owned(), key }
    }

    /// `ssh-ed25519`, `ssh-rsa`, `ecdsa-sha2-nistp256`, …
    #[must_use]
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// `SHA256:…` as `ssh-keygen -l` prints it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// The host key algorithms to ask for: those of this key first, so that a server with several keys shows the one
    /// that is pinned; the others stay, so that a server that lost it is seen as changed and not as incompatible.
    pub(super) fn algorithms_first(pinned: Option<&Self>, known: &[Algorithm]) -> Vec<Algorithm> {
        let mut ordered = known.to_vec();
        if let Some(pinned) = pinned {
            ordered.sort_by_key(|algorithm| !pinned.signs_with(algorithm));
        }
        ordered
    }

    fn signs_with(&self, algorithm: &Algorithm) -> bool {
        match (self.key.algorithm(), algorithm) {
            (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
            (own, other) => own == *other,
        }
    }
}

/// The line that goes into the store: `ssh-ed25519 AAAA…`.
impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.to_openssh() {
            Ok(line) => f.write_str(line.trim()),
            Err(_) => Err(fmt::Error),
        }
    }
}

impl std::str::FromStr for HostKey {
    type Err = InvalidHostKey;
    fn from_str(line: &str) -> Result<Self, InvalidHostKey> {
        Self::parse(line)
    }
}

/// Host key algorithms that Roundsman takes, best first. SHA-1 signatures come last: OpenSSH 6.6 with an RSA key
/// has nothing else, and the signature only has to hold while it is being made.
pub(super) const KNOWN_ALGORITHMS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    Algorithm::Rsa { hash: None },
];

/// What to do about an offered host key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the pinned one.
    Trusted,
    /// None is pinned: a person has to approve it.
    Unknown,
    /// Another one is pinned: stop, and let a person compare both.
    Changed,
}

/// The verdict on `offered`. Only an equal key is trusted: same algorithm, same blob.
#[must_use]
pub fn judge_host_key(pinned: Option<&HostKey>, offered: &HostKey) -> Verdict {
    match pinned {
        None => Verdict::Unknown,
        Some(pinned) if pinned == offered => Verdict::Trusted,
        Some(_) => Verdict::Changed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by ssh-keygen; the fingerprints are what `ssh-keygen -l` prints for them.
    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDXIknrsiZLK41GH+G1jPZ7X5FhOdRVtLlUeyXWbt9JM";
    const ED25519_FINGERPRINT: &str = "SHA256:M3rVMO1EbXiZ2DOtYPxoMAmmiYXzpps0fKj7EBFCfRs";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn a_host_key_line_reads_prints_and_has_the_fingerprint_of_ssh_keygen() {
        let key = HostKey::parse(&format!("{ED25519} root@host")).unwrap();
        assert_eq!(key.to_string(), ED25519);
        assert_eq!(key.algorithm(), "ssh-ed25519");
        assert_eq!(key.fingerprint(), ED25519_FINGERPRINT);
    }

    #[test]
    fn what_is_not_a_key_line_is_refused() {
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIDXIknrsiZLK41GH",
            "<script>",
        ] {
            assert_eq!(HostKey::parse(bad), Err(InvalidHostKey), "{bad}");
        }
    }

    #[test]
    fn only_the_pinned_key_is_trusted() {
        let (pinned, other) = (HostKey::parse(ED25519).unwrap(), HostKey::parse(OTHER).unwrap());
        assert_eq!(judge_host_key(Some(&pinned), &pinned), Verdict::Trusted);
        assert_eq!(judge_host_key(Some(&pinned), &other), Verdict::Changed);
        assert_eq!(judge_host_key(None, &other), Verdict::Unknown);
    }

    #[test]
    fn the_pinned_algorithm_is_asked_for_first_and_the_others_stay() {
        let pinned = HostKey::parse(ED25519).unwrap();
        let reversed: Vec<_> = KNOWN_ALGORITHMS.iter().rev().cloned().collect();
        let ordered = HostKey::algorithms_first(Some(&pinned), &reversed);
        assert_eq!(ordered.first(), Some(&Algorithm::Ed25519));
        assert_eq!(ordered.len(), KNOWN_ALGORITHMS.len());
        assert_eq!(HostKey::algorithms_first(None, KNOWN_ALGORITHMS), KNOWN_ALGORITHMS);
    }
}
