//! Reads `known_hosts` text, to answer "does this file know that key?".
//!
//! Pure; never decides to trust and never writes. Source: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::model::Port;

use super::hostkey::HostKey;

/// A key that the file lists for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    pub key: HostKey,
    /// The line is marked `@revoked`: the key must never be accepted.
    pub revoked: bool,
}

/// More lines than this are not read: a file of a fleet has one or two a host, and hashed names cost an HMAC each.
const MAX_LINES: usize = 100_000;

/// Every key that the lines of `text` give for this host and port, hashed names included.
/// `@cert-authority` lines are left out: they say who signs, not which key. Lines that do not parse are skipped.
#[must_use]
pub fn lookup(text: &str, host: &str, port: Port) -> Vec<KnownKey> {
    let name = name_in_file(host, port);
    text.lines().take(MAX_LINES).filter_map(|line| known_key(line, &name)).collect()
}

fn name_in_file(host: &str, port: Port) -> String {
    let host = host.to_ascii_lowercase();
    if port == Port::SSH { host } else { format!("[{host}]:{port}") }
}

fn known_key(line: &str, name: &str) -> Option<KnownKey> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (revoked, line) = match line.split_once(char::is_whitespace) {
        Some(("@revoked", rest)) => (true, rest.trim_start()),
        Some((marker, _)) if marker.starts_with('@') => return None,
        _ => (false, line),
    };
    let (patterns, key) = line.split_once(char::is_whitespace)?;
    if !names(patterns, name) {
        return None;
    }
    Some(KnownKey { key: HostKey::parse(key).ok()?, revoked })
}

fn names(patterns: &str, name: &str) -> bool {
    if let Some(hashed) = patterns.strip_prefix("|1|") {
        return hashed_name_is(hashed, name).unwrap_or(false);
    }
    let mut found = false;
    for pattern in patterns.split(',') {
        let pattern = pattern.to_ascii_lowercase();
        match pattern.strip_prefix('!') {
            Some(pattern) if glob(pattern.as_bytes(), name.as_bytes()) => return false,
            Some(_) => {}
            None => found |= glob(pattern.as_bytes(), name.as_bytes()),
        }
    }
    found
}

/// `salt|hash`, both base64; the hash is HMAC-SHA1 of the name under the salt.
fn hashed_name_is(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let salt = STANDARD.decode(salt).ok()?;
    let hash = STANDARD.decode(hash).ok()?;
    let mut mac = Hmac::<Sha1>::new_from_slice(&salt).ok()?;
    mac.update(name.as_bytes());
    Some(mac.verify_slice(&hash).is_ok())
}

/// `*` and `?` as in a host pattern. Linear memory, and no worse than pattern × text steps: one star is remembered at a time.
pub(crate) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == b'?' || Some(&c) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    p = after;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|&c| c == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDXIknrsiZLK41GH+G1jPZ7X5FhOdRVtLlUeyXWbt9JM";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn found(text: &str, host: &str, port: i64) -> Vec<String> {
        lookup(text, host, Port::of(port).unwrap())
            .into_iter()
            .map(|known| format!("{}{}", if known.revoked { "revoked " } else { "" }, known.key))
            .collect()
    }

    #[test]
    fn plain_names_ports_patterns_and_negations_are_matched() {
        let file = format!(
            "# a comment\n\nweb.example.com,10.0.0.5 {KEY} somebody\n[web.example.com]:2222 {OTHER}\n*.lab,!bad.lab {KEY}\nbroken line\n"
        );
        assert_eq!(found(&file, "web.example.com", 22), [KEY]);
        assert_eq!(found(&file, "WEB.example.com", 22), [KEY]);
        assert_eq!(found(&file, "10.0.0.5", 22), [KEY]);
        assert_eq!(found(&file, "web.example.com", 2222), [OTHER]);
        assert_eq!(found(&file, "a.lab", 22), [KEY]);
        assert!(found(&file, "bad.lab", 22).is_empty());
        assert!(found(&file, "other.example.com", 22).is_empty());
    }

    #[test]
    fn hashed_names_are_matched() {
        // `ssh-keygen -H` on "hashed.example.com" and "[hashed.example.com]:2222".
        let file = include_str!("../../tests/fixtures/known_hosts/hashed");
        assert_eq!(found(file, "hashed.example.com", 22), [KEY]);
        assert_eq!(found(file, "hashed.example.com", 2222), [KEY]);
        assert!(found(file, "hashed.example.com", 2223).is_empty());
    }

    #[test]
    fn revoked_keys_are_told_apart_and_authorities_left_out() {
        let file =
            format!("@revoked * {OTHER}\n@cert-authority *.example.com {KEY}\nweb.example.com {KEY}\n");
        assert_eq!(found(&file, "web.example.com", 22), [format!("revoked {OTHER}"), KEY.to_owned()]);
    }

    #[test]
    fn a_hostile_pattern_ends_in_reasonable_time() {
        assert!(!glob("*a".repeat(200).as_bytes(), "a".repeat(150).as_bytes()));
        assert!(glob(b"*", b""));
        assert!(glob(b"a*c?", b"abbbcd"));
    }
}
