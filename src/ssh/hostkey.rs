//! Host keys: what a server proves that it is, and the verdict on it.
//!
//! Pure: no files, no network, no policy of its own. An unknown or a changed key is a person's decision.

use std::fmt;

use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{HashAlg, PublicKey};
use russh::keys::{Algorithm, EcdsaCurve};

use crate::model::Timestamp;

use super::certificate::{Certificate, CertificateProblem, Purpose, has_sane_blob};

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
    /// [`InvalidHostKey`]: another form, an unknown algorithm, a name that is not the blob's, or a certificate.
    pub fn parse(line: &str) -> Result<Self, InvalidHostKey> {
        if !has_sane_blob(line) {
            return Err(InvalidHostKey);
        }
        let mut fields = line.split_ascii_whitespace();
        let (Some(algorithm), Some(blob)) = (fields.next(), fields.next()) else {
            return Err(InvalidHostKey);
        };
        let key = PublicKey::from_openssh(&format!("{algorithm} {blob}")).map_err(|_| InvalidHostKey)?;
        match key.key_data() {
            // The library takes a certificate's blob under the name of its key.
            KeyData::Certificate(_) => Err(InvalidHostKey),
            _ => Ok(Self::of(&key)),
        }
    }

    pub(super) fn of(key: &PublicKey) -> Self {
        let key = PublicKey::new(key.key_data().clone(), "");
        Self { algorithm: key.algorithm().as_str().to_owned(), key }
    }

    pub(super) fn key_data(&self) -> &KeyData {
        self.key.key_data()
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

/// What a host proved to have, by signing the key exchange with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    Key(HostKey),
    /// The key inside is the one that signed.
    Certificate(Box<Certificate>),
}

impl Offered {
    /// The key that signed the key exchange.
    #[must_use]
    pub fn key(&self) -> HostKey {
        match self {
            Self::Key(key) => key.clone(),
            Self::Certificate(certificate) => certificate.key(),
        }
    }
}

/// What is known of a host before it is asked.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// The key that a person approved.
    pub pinned: Option<&'a HostKey>,
    /// Keys that may sign host certificates for this host.
    pub authorities: &'a [HostKey],
    /// Keys that are refused whatever else is known, also as the signer of a certificate.
    pub revoked: &'a [HostKey],
    /// The name or address that was asked for, which a certificate must name.
    pub host: &'a str,
    pub now: Timestamp,
}

/// What to do about an offered host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the pinned one, or an authority vouches for it.
    Trusted,
    /// None is pinned and nobody known vouches for it: a person has to approve it.
    Unknown,
    /// Another one is pinned: stop, and let a person compare both.
    Changed,
    /// It, or who vouches for it, is known to be in wrong hands.
    Revoked,
    /// A known authority signed it, and yet it does not count.
    CertificateRefused(CertificateProblem),
}

/// The verdict on what a host offered. Of plain keys only an equal one is trusted: same algorithm, same blob.
///
/// A certificate counts by its authority. One that nobody known signed is looked at as the plain key inside it, as OpenSSH
/// does; so is one that has problems, when the key inside is the pinned one.
#[must_use]
pub fn judge_host_key(trust: &Trust<'_>, offered: &Offered) -> Verdict {
    let key = offered.key();
    if trust.revoked.contains(&key) {
        return Verdict::Revoked;
    }
    if let Offered::Certificate(certificate) = offered {
        let authority = certificate.authority();
        if trust.revoked.contains(&authority) {
            return Verdict::Revoked;
        }
        if trust.pinned != Some(&key) && trust.authorities.contains(&authority) {
            let holds = certificate
                .check(Purpose::Host, trust.now)
                .and_then(|()| certificate.is_for(Purpose::Host, trust.host));
            return holds.map_or_else(Verdict::CertificateRefused, |()| Verdict::Trusted);
        }
    }
    match trust.pinned {
        None => Verdict::Unknown,
        Some(pinned) if *pinned == key => Verdict::Trusted,
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

    const NOWHERE: Trust<'_> =
        Trust { pinned: None, authorities: &[], revoked: &[], host: "web", now: Timestamp::from_millis(0) };

    #[test]
    fn only_the_pinned_key_is_trusted() {
        let (pinned, other) = (HostKey::parse(ED25519).unwrap(), HostKey::parse(OTHER).unwrap());
        let trust = Trust { pinned: Some(&pinned), ..NOWHERE };
        assert_eq!(judge_host_key(&trust, &Offered::Key(pinned.clone())), Verdict::Trusted);
        assert_eq!(judge_host_key(&trust, &Offered::Key(other.clone())), Verdict::Changed);
        assert_eq!(judge_host_key(&NOWHERE, &Offered::Key(other)), Verdict::Unknown);
    }

    #[test]
    fn a_revoked_key_is_refused_even_when_it_is_pinned() {
        let pinned = HostKey::parse(ED25519).unwrap();
        let revoked = [pinned.clone()];
        let trust = Trust { pinned: Some(&pinned), revoked: &revoked, ..NOWHERE };
        assert_eq!(judge_host_key(&trust, &Offered::Key(pinned.clone())), Verdict::Revoked);
    }

    /// Signed by [`ca`] for "web", until 2024-02-01: `ssh-keygen -h -n web -V 20240101000000Z:20240201000000Z`.
    fn certified(words: &[&str]) -> (HostKey, Certificate) {
        let dir = tempfile::tempdir().unwrap();
        let keygen = |words: &[&str]| {
            let mut keygen = std::process::Command::new("ssh-keygen");
            assert!(keygen.current_dir(dir.path()).arg("-q").args(words).status().unwrap().success());
        };
        keygen(&["-t", "ed25519", "-N", "", "-f", "ca"]);
        keygen(&["-t", "ed25519", "-N", "", "-f", "key"]);
        keygen(
            &[&["-s", "ca", "-I", "id"], words, &["-V", "20240101000000Z:20240201000000Z", "key.pub"]]
                .concat(),
        );
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        (HostKey::parse(&text("ca.pub")).unwrap(), Certificate::parse(&text("key-cert.pub")).unwrap())
    }

    const DURING: Timestamp = Timestamp::from_millis(1_705_000_000_000);

    #[test]
    fn an_authority_vouches_for_a_host_in_time_and_by_name() {
        let (ca, certificate) = certified(&["-h", "-n", "web"]);
        let offered = Offered::Certificate(Box::new(certificate));
        let authorities = [ca];
        let trust = Trust { authorities: &authorities, now: DURING, ..NOWHERE };
        assert_eq!(judge_host_key(&trust, &offered), Verdict::Trusted);
        let other = HostKey::parse(OTHER).unwrap();
        assert_eq!(judge_host_key(&Trust { pinned: Some(&other), ..trust }, &offered), Verdict::Trusted);
        let refused = |trust: &Trust<'_>| match judge_host_key(trust, &offered) {
            Verdict::CertificateRefused(problem) => problem,
            other => panic!("{other:?}"),
        };
        let late = Trust { now: Timestamp::from_millis(1_710_000_000_000), ..trust };
        assert!(matches!(refused(&late), CertificateProblem::Expired { .. }));
        let early = Trust { now: Timestamp::from_millis(1_700_000_000_000), ..trust };
        assert!(matches!(refused(&early), CertificateProblem::NotYetValid { .. }));
        let elsewhere = Trust { host: "db", ..trust };
        assert!(matches!(refused(&elsewhere), CertificateProblem::OtherPrincipals { .. }));
    }

    #[test]
    fn a_certificate_that_nobody_known_signed_is_its_plain_key() {
        let (_, certificate) = certified(&["-h", "-n", "web"]);
        let key = certificate.key();
        let offered = Offered::Certificate(Box::new(certificate));
        let authorities = [HostKey::parse(OTHER).unwrap()];
        let trust = Trust { authorities: &authorities, now: DURING, ..NOWHERE };
        assert_eq!(judge_host_key(&trust, &offered), Verdict::Unknown);
        assert_eq!(judge_host_key(&Trust { pinned: Some(&key), ..trust }, &offered), Verdict::Trusted);
        let other = HostKey::parse(ED25519).unwrap();
        assert_eq!(judge_host_key(&Trust { pinned: Some(&other), ..trust }, &offered), Verdict::Changed);
    }

    #[test]
    fn a_user_certificate_proves_no_host() {
        let (ca, certificate) = certified(&["-n", "web"]);
        let authorities = [ca];
        let trust = Trust { authorities: &authorities, now: DURING, ..NOWHERE };
        let verdict = judge_host_key(&trust, &Offered::Certificate(Box::new(certificate)));
        let problem = CertificateProblem::OtherPurpose { wanted: Purpose::Host };
        assert_eq!(verdict, Verdict::CertificateRefused(problem));
    }

    #[test]
    fn a_pinned_key_counts_even_in_an_expired_certificate() {
        let (ca, certificate) = certified(&["-h", "-n", "web"]);
        let key = certificate.key();
        let authorities = [ca];
        let now = Timestamp::from_millis(1_710_000_000_000);
        let trust = Trust { pinned: Some(&key), authorities: &authorities, now, ..NOWHERE };
        let verdict = judge_host_key(&trust, &Offered::Certificate(Box::new(certificate)));
        assert_eq!(verdict, Verdict::Trusted);
    }

    #[test]
    fn a_revoked_authority_or_key_makes_a_certificate_worthless() {
        let (ca, certificate) = certified(&["-h", "-n", "web"]);
        let key = certificate.key();
        let offered = Offered::Certificate(Box::new(certificate));
        let authorities = [ca.clone()];
        for revoked in [[ca], [key.clone()]] {
            let trust = Trust {
                pinned: Some(&key),
                authorities: &authorities,
                revoked: &revoked,
                now: DURING,
                ..NOWHERE
            };
            assert_eq!(judge_host_key(&trust, &offered), Verdict::Revoked);
        }
    }

    #[test]
    fn a_certificate_is_no_host_key_line() {
        let (_, certificate) = certified(&["-h", "-n", "web"]);
        let line = certificate.inner().to_openssh().unwrap();
        assert_eq!(HostKey::parse(&line), Err(InvalidHostKey));
        let disguised = line.replacen("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519", 1);
        assert_eq!(HostKey::parse(&disguised), Err(InvalidHostKey));
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
