//! What the text of a private key would cost to open, before anything decodes it.
//!
//! Pure. A key says itself how often its passphrase is hashed, and in how much memory; the libraries believe it. Sources:
//! PROTOCOL.key of OpenSSH, appendix C of the manual of PuTTY, RFC 8018 (PBKDF2), RFC 7914 (scrypt).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::certificate::is_flat;
use super::keys::MAX_KEY_FILE_BYTES;

/// `ssh-keygen -a`; 16 and 24 are usual, 1,024 take a minute.
const MAX_BCRYPT_ROUNDS: u32 = 1024;
/// PuTTY takes 8 MiB, scrypt 16.
const MAX_MEMORY_KIB: u64 = 256 * 1024;
/// All that is written while the passphrase is hashed, in seconds rather than minutes; PuTTY stays below 1 GiB.
const MAX_WRITTEN_KIB: u64 = 8 * 1024 * 1024;
/// OpenSSL takes 2,048, the cautious 600,000.
const MAX_PBKDF2_ROUNDS: u64 = 4_000_000;

const TOO_DEAR: &str = "opening it would take too long or too much memory; give it a passphrase with fewer rounds \
                        (`ssh-keygen -p -a 16 -f KEY`)";
const UNREADABLE: &str = "it is not a private key";

/// `1.2.840.113549.1.5.12` and `1.3.6.1.4.1.11591.4.11` with the head of an object identifier.
const PBKDF2: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c";
const SCRYPT: &[u8] = b"\x06\x09\x2b\x06\x01\x04\x01\xda\x47\x04\x0b";

/// Nothing where the text may be decoded; it need not be a key.
pub(super) fn bearable(text: &str) -> Result<(), &'static str> {
    if u64::try_from(text.len()).map_or(true, |bytes| bytes > MAX_KEY_FILE_BYTES) {
        return Err("it is larger than 64 KiB");
    }
    if text.trim_start().starts_with("PuTTY-User-Key-File-") {
        return putty(text);
    }
    let body = STANDARD.decode(armoured(text)).map_err(|_| UNREADABLE)?;
    if !is_flat(&body) {
        return Err(UNREADABLE);
    }
    match body.strip_prefix(b"openssh-key-v1\0") {
        Some(rest) => openssh(rest),
        None => pkcs8(&body),
    }
}

/// The lines of base64 between the armour, as the library joins them.
fn armoured(text: &str) -> String {
    let begins = |line: &str| {
        let kind = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("PRIVATE KEY-----"));
        kind.is_some_and(|kind| matches!(kind, "" | "OPENSSH " | "RSA " | "EC " | "ENCRYPTED "))
    };
    let inside = text.lines().skip_while(|line| !begins(line)).skip(1);
    let inside = inside.take_while(|line| !line.starts_with("-----END "));
    let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '+' | '=');
    inside.filter(|line| line.chars().all(base64)).collect()
}

fn putty(text: &str) -> Result<(), &'static str> {
    let number = |name: &str, line: &str| line.strip_prefix(name).map(|text| text.trim().parse::<u64>());
    let (mut memory, mut passes, mut lanes) = (0, 0, 0);
    for line in text.lines() {
        for (name, most) in [
            ("Argon2-Memory: ", &mut memory),
            ("Argon2-Passes: ", &mut passes),
            ("Argon2-Parallelism: ", &mut lanes),
        ] {
            match number(name, line) {
                Some(Ok(value)) => *most = value.max(*most),
                Some(Err(_)) => return Err(UNREADABLE),
                None => {}
            }
        }
    }
    if memory > MAX_MEMORY_KIB || memory.saturating_mul(passes) > MAX_WRITTEN_KIB || lanes > 64 {
        return Err(TOO_DEAR);
    }
    // The public part is parsed before the passphrase is looked at.
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(count) = line.strip_prefix("Public-Lines: ") {
            let count = count.parse().map_err(|_| UNREADABLE)?;
            let joined: String = lines.by_ref().take(count).collect();
            if !STANDARD.decode(joined).is_ok_and(|blob| is_flat(&blob)) {
                return Err(UNREADABLE);
            }
        }
    }
    Ok(())
}

fn openssh(body: &[u8]) -> Result<(), &'static str> {
    let rounds = || {
        let (_cipher, rest) = string(body)?;
        let (kdf, rest) = string(rest)?;
        let (options, _) = string(rest)?;
        if kdf != b"bcrypt" {
            return Some(0);
        }
        let (_salt, rest) = string(options)?;
        Some(u32::from_be_bytes(*rest.first_chunk::<4>()?))
    };
    match rounds() {
        None => Err(UNREADABLE),
        Some(rounds) if rounds > MAX_BCRYPT_ROUNDS => Err(TOO_DEAR),
        Some(_) => Ok(()),
    }
}

/// A string of SSH (RFC 4251) and what follows it.
fn string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// Every place that names a way to hash a passphrase, wherever it stands.
fn pkcs8(der: &[u8]) -> Result<(), &'static str> {
    for at in 0..der.len() {
        let Some(here) = der.get(at..) else { break };
        let dear = if let Some(parameters) = here.strip_prefix(PBKDF2) {
            pbkdf2(parameters)
        } else if let Some(parameters) = here.strip_prefix(SCRYPT) {
            scrypt(parameters)
        } else {
            continue;
        };
        match dear {
            Some(false) => {}
            Some(true) => return Err(TOO_DEAR),
            None => return Err(UNREADABLE),
        }
    }
    Ok(())
}

fn pbkdf2(parameters: &[u8]) -> Option<bool> {
    let (fields, _) = der(0x30, parameters)?;
    let (_salt, rest) = der(0x04, fields)?;
    let (rounds, _) = integer(rest)?;
    Some(rounds > MAX_PBKDF2_ROUNDS)
}

fn scrypt(parameters: &[u8]) -> Option<bool> {
    let (fields, _) = der(0x30, parameters)?;
    let (_salt, rest) = der(0x04, fields)?;
    let (cost, rest) = integer(rest)?;
    let (block, rest) = integer(rest)?;
    let (lanes, _) = integer(rest)?;
    // 128 bytes each (RFC 7914, section 5).
    let memory = cost.max(lanes).saturating_mul(block) / 8;
    Some(memory > MAX_MEMORY_KIB || memory.saturating_mul(lanes) > MAX_WRITTEN_KIB)
}

/// The content of a DER element with this tag, and what follows it.
fn der(tag: u8, data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = data.strip_prefix(&[tag])?.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |sum, &byte| (sum << 8) | usize::from(byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// Larger than 64 bits is as large as can be.
fn integer(data: &[u8]) -> Option<(u64, &[u8])> {
    let (bytes, rest) = der(0x02, data)?;
    let value = bytes.iter().try_fold(0_u64, |sum, &byte| Some(sum.checked_mul(256)? | u64::from(byte)));
    Some((value.unwrap_or(u64::MAX), rest))
}

/// A certificate whose authority is a certificate whose authority …, as deep as asked.
#[cfg(test)]
pub(super) fn nested_certificate(depth: usize) -> Vec<u8> {
    let string = |out: &mut Vec<u8>, text: &[u8]| {
        out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        out.extend_from_slice(text);
    };
    let mut blob = Vec::new();
    for _ in 0..depth {
        let mut outer = Vec::new();
        string(&mut outer, b"ssh-ed25519-cert-v01@openssh.com");
        string(&mut outer, b"");
        string(&mut outer, &[0; 32]);
        outer.extend([0; 8]);
        outer.extend(1_u32.to_be_bytes());
        (0..2).for_each(|_| string(&mut outer, b""));
        outer.extend([0; 16]);
        (0..3).for_each(|_| string(&mut outer, b""));
        string(&mut outer, &blob);
        string(&mut outer, b"");
        blob = outer;
    }
    blob
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn made(program: &str, arguments: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let done = Command::new(program).args(arguments).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read_to_string(dir.path().join("key")).unwrap()
    }

    fn armour(kind: &str, body: &[u8]) -> String {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(body))
    }

    #[test]
    fn a_key_that_would_be_hashed_for_hours_is_refused_unopened() {
        let text = made("ssh-keygen", &["-q", "-t", "ed25519", "-N", "secret", "-a", "2", "-f", "key"]);
        assert_eq!(bearable(&text), Ok(()));
        let mut body = STANDARD.decode(armoured(&text)).unwrap();
        let bcrypt = body.windows(6).position(|word| word == b"bcrypt").unwrap();
        let rounds = bcrypt + 6 + 4 + 4 + 16;
        assert_eq!(body[rounds..rounds + 4], 2_u32.to_be_bytes());
        body[rounds..rounds + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(bearable(&armour("OPENSSH PRIVATE KEY", &body)), Err(TOO_DEAR));
    }

    #[test]
    fn the_rounds_of_pkcs8_are_bounded() {
        let key = ["genpkey", "-algorithm", "ed25519", "-aes-256-cbc", "-pass", "pass:secret", "-out", "key"];
        let text = made("openssl", &key);
        assert_eq!(bearable(&text), Ok(()));
        let salted = |oid: &[u8], numbers: &[u8]| {
            let fields = [&[0x04, 1, 0][..], numbers].concat();
            let length = u8::try_from(fields.len()).unwrap();
            armour("ENCRYPTED PRIVATE KEY", &[oid, &[0x30, length], &fields].concat())
        };
        assert_eq!(bearable(&salted(PBKDF2, &[2, 4, 0x7f, 0, 0, 0])), Err(TOO_DEAR));
        assert_eq!(bearable(&salted(PBKDF2, &[2, 2, 0x08, 0])), Ok(()));
        assert_eq!(bearable(&salted(SCRYPT, &[2, 2, 0x40, 0, 2, 1, 8, 2, 1, 1])), Ok(()));
        assert_eq!(bearable(&salted(SCRYPT, &[2, 4, 0x40, 0, 0, 0, 2, 1, 8, 2, 1, 1])), Err(TOO_DEAR));
        assert_eq!(bearable(&salted(SCRYPT, &[2])), Err(UNREADABLE));
    }

    #[test]
    fn the_memory_and_passes_of_putty_are_bounded() {
        let key = |memory: u64, passes: u64| {
            format!("PuTTY-User-Key-File-3: ssh-ed25519\nArgon2-Memory: {memory}\nArgon2-Passes: {passes}\n")
        };
        assert_eq!(bearable(&key(8192, 34)), Ok(()));
        assert_eq!(bearable(&key(4_000_000, 1)), Err(TOO_DEAR));
        assert_eq!(bearable(&key(8192, 4_000_000_000)), Err(TOO_DEAR));
    }

    #[test]
    fn a_nest_of_certificates_reaches_no_parser() {
        let nested = nested_certificate(200);
        let blob = STANDARD.encode(&nested);
        let putty = format!("PuTTY-User-Key-File-3: ssh-ed25519\nPublic-Lines: 1\n{blob}\n");
        let container = [b"openssh-key-v1\0".as_slice(), &nested].concat();
        let armoured = armour("OPENSSH PRIVATE KEY", &container);
        let behind_another = format!("{}{armoured}", armour("PUBLIC KEY", b"x"));
        for text in [putty, armoured, behind_another, "x".repeat(70_000)] {
            assert!(bearable(&text).is_err());
            assert!(super::super::keys::public_line(&crate::model::Secret::new(text), None).is_err());
        }
    }
}
