//! Reads `known_hosts` text: "does this file know that key?", and every line of it for an import.
//!
//! Pure; never decides to trust and never writes. Source: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::model::Port;

use super::hostkey::HostKey;

/// What a line says of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// It is a host's own.
    None,
    /// It signs host certificates.
    CertAuthority,
    /// It must never be accepted, neither as a host's own nor as who signs.
    Revoked,
}

impl Mark {
    /// As a line begins with it, without the `@`; empty for a host's own key.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::CertAuthority => "cert-authority",
            Self::Revoked => "revoked",
        }
    }

    /// The reverse of [`Mark::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::None, Self::CertAuthority, Self::Revoked].into_iter().find(|mark| mark.name() == name)
    }
}

/// One line that holds a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLine {
    /// From 1.
    pub line: usize,
    pub mark: Mark,
    /// The patterns, or the one hashed name, as [`matches()`] takes them.
    pub hosts: String,
    pub key: HostKey,
}

/// A line that is neither a key nor empty nor a comment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct LineError {
    /// From 1.
    pub line: usize,
    pub cause: &'static str,
}

/// A key that the file lists for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    pub key: HostKey,
    /// The line is marked `@revoked`: the key must never be accepted.
    pub revoked: bool,
}

/// More lines than this are not read: a file of a fleet has one or two a host, and hashed names cost an HMAC each.
pub const MAX_LINES: usize = 100_000;
/// A line may name many hosts; one with more text than this is not of this format.
const MAX_LINE_BYTES: usize = 128 * 1024;

/// Every line of a file, for an import; empty lines and comments are left out. Lines after [`MAX_LINES`] are one error.
#[must_use]
pub fn parse(text: &str) -> Vec<Result<KnownLine, LineError>> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if at >= MAX_LINES {
            found.push(Err(LineError { line: at + 1, cause: "no more than 100,000 lines are read" }));
            break;
        }
        if let Some(parsed) = parse_line(line) {
            found.push(match parsed {
                Ok((mark, hosts, key)) => Ok(KnownLine { line: at + 1, mark, hosts: hosts.to_owned(), key }),
                Err(cause) => Err(LineError { line: at + 1, cause }),
            });
        }
    }
    found
}

/// None: nothing stands there.
fn parse_line(line: &str) -> Option<Result<(Mark, &str, HostKey), &'static str>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    Some(parse_words(line))
}

fn parse_words(line: &str) -> Result<(Mark, &str, HostKey), &'static str> {
    if line.len() > MAX_LINE_BYTES {
        return Err("the line is too long");
    }
    let (mark, line) = match line.strip_prefix('@') {
        None => (Mark::None, line),
        Some(rest) => {
            let (mark, rest) = rest.split_once(char::is_whitespace).ok_or("only a marker stands here")?;
            let mark = match mark {
                "cert-authority" => Mark::CertAuthority,
                "revoked" => Mark::Revoked,
                _ => return Err("the marker is neither @cert-authority nor @revoked"),
            };
            (mark, rest.trim_start())
        }
    };
    let (hosts, key) = line.split_once(char::is_whitespace).ok_or("the key is missing")?;
    if hosts.starts_with('|') && !is_hashed_name(hosts) {
        return Err("the hashed name is damaged");
    }
    let key = key.trim_start();
    if key.split(' ').nth(1).is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("keys of SSH 1 are no longer of use");
    }
    let key = HostKey::parse(key).map_err(|_| "the key is damaged or of an unknown kind")?;
    Ok((mark, hosts, key))
}

/// Every key that the lines of `text` give for this host and port, hashed names included.
/// `@cert-authority` lines are left out: they say who signs, not which key. Lines that do not parse are skipped.
#[must_use]
pub fn lookup(text: &str, host: &str, port: Port) -> Vec<KnownKey> {
    let known = |line| match parse_line(line)? {
        Ok((mark, hosts, key)) if mark != Mark::CertAuthority && matches(hosts, mark, host, port) => {
            Some(KnownKey { key, revoked: mark == Mark::Revoked })
        }
        _ => None,
    };
    text.lines().take(MAX_LINES).filter_map(known).collect()
}

/// The lines of `text` about this host and port, as they stand; authorities and revocations among them.
#[must_use]
pub fn lines_about(text: &str, host: &str, port: Port) -> String {
    let is_about = |line: &&str| matches!(parse_line(line), Some(Ok((mark, hosts, _))) if matches(hosts, mark, host, port));
    text.lines().take(MAX_LINES).filter(is_about).flat_map(|line| [line, "\n"]).collect()
}

/// Whether the first field of a line (patterns, or one hashed name) is about this host and port.
///
/// A host's own key on another port than 22 is looked up as `[host]:port` only. Authorities and revocations are looked up
/// under the bare name too, as ssh does when it finds nothing else: `*.example.com` means every port.
#[must_use]
pub fn matches(hosts: &str, mark: Mark, host: &str, port: Port) -> bool {
    let bare = host.to_ascii_lowercase();
    if names(hosts, &name_in_file(&bare, port)) {
        return true;
    }
    mark != Mark::None && port != Port::SSH && names(hosts, &bare)
}

fn name_in_file(host: &str, port: Port) -> String {
    if port == Port::SSH { host.to_owned() } else { format!("[{host}]:{port}") }
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

fn is_hashed_name(hosts: &str) -> bool {
    let parts = hosts.strip_prefix("|1|").and_then(|hashed| hashed.split_once('|'));
    parts.is_some_and(|(salt, hash)| {
        STANDARD.decode(salt).is_ok_and(|salt| !salt.is_empty())
            && STANDARD.decode(hash).is_ok_and(|hash| hash.len() == SHA1_BYTES)
    })
}

const SHA1_BYTES: usize = 20;

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
    fn an_import_has_every_line_with_its_number_and_its_fault() {
        let file = format!(
            "# comment\n\nweb,10.0.0.5 {KEY} somebody\n@cert-authority *.example.com {OTHER}\n  @revoked * {KEY}\n\
             @vouched web {KEY}\nweb\nweb ssh-ed25519 AAAA\n|1|x|y {KEY}\nold 1024 35 1234567\n@revoked\n{}\r\n",
            "web, ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB"
        );
        let shown: Vec<_> = parse(&file)
            .into_iter()
            .map(|line| match line {
                Ok(KnownLine { line, mark, hosts, key }) => {
                    format!(
                        "{line} {} {hosts} {}",
                        mark.name(),
                        if key.to_string() == KEY { "KEY" } else { "OTHER" }
                    )
                }
                Err(error) => error.to_string(),
            })
            .collect();
        assert_eq!(
            shown,
            [
                "3  web,10.0.0.5 KEY",
                "4 cert-authority *.example.com OTHER",
                "5 revoked * KEY",
                "line 6: the marker is neither @cert-authority nor @revoked",
                "line 7: the key is missing",
                "line 8: the key is damaged or of an unknown kind",
                "line 9: the hashed name is damaged",
                "line 10: keys of SSH 1 are no longer of use",
                "line 11: only a marker stands here",
                "line 12: the key is damaged or of an unknown kind",
            ]
        );
        for mark in [Mark::None, Mark::CertAuthority, Mark::Revoked] {
            assert_eq!(Mark::parse(mark.name()), Some(mark));
        }
    }

    #[test]
    fn several_keys_of_one_host_are_all_found() {
        let file = format!("web {KEY}\nweb {OTHER}\n");
        assert_eq!(found(&file, "web", 22), [KEY, OTHER]);
    }

    #[test]
    fn authorities_and_revocations_are_for_every_port_and_keys_for_their_own() {
        let port = Port::of(2222).unwrap();
        for (mark, expected) in [(Mark::None, false), (Mark::CertAuthority, true), (Mark::Revoked, true)] {
            assert_eq!(matches("*.example.com,!bad.example.com", mark, "web.example.com", port), expected);
            assert!(!matches("*.example.com,!bad.example.com", mark, "bad.example.com", port));
            assert!(matches("[*.example.com]:2222", mark, "WEB.example.com", port));
            assert!(!matches("[*.example.com]:2223", mark, "web.example.com", port));
        }
        assert_eq!(found(&format!("@revoked web {KEY}"), "web", 2222), [format!("revoked {KEY}")]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_line_by_line(text in "(@[a-z-]{0,14} )?[|!*?a-z0-9,.:\\[\\]/+= \\n]{0,200}", host in ".{0,20}") {
            let lines = parse(&text).len();
            proptest::prop_assert!(lines <= text.lines().count());
            for mark in [Mark::None, Mark::Revoked] {
                let _either_way = matches(&text, mark, &host, Port::SSH);
            }
        }
    }

    #[test]
    fn an_endless_file_is_read_to_its_limit() {
        let many = "x\n".repeat(MAX_LINES + 50);
        assert_eq!(parse(&many).len(), MAX_LINES + 1);
        let long = format!("{} {KEY}", "a,".repeat(MAX_LINE_BYTES));
        assert_eq!(parse(&long), [Err(LineError { line: 1, cause: "the line is too long" })]);
    }

    #[test]
    fn a_hostile_pattern_ends_in_reasonable_time() {
        assert!(!glob("*a".repeat(200).as_bytes(), "a".repeat(150).as_bytes()));
        assert!(glob(b"*", b""));
        assert!(glob(b"a*c?", b"abbbcd"));
    }
}
