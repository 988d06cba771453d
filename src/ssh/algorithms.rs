//! What two sides agreed on in their key exchange, and which of it is weak by the measure of today.
//!
//! Pure; refuses nothing: a report names it and a person decides.

use russh::keys::Algorithm;
use russh::keys::ssh_key::public::KeyData;
use russh::{Names, cipher, kex, mac};

use super::hostkey::HostKey;

/// Names as SSH writes them. "in" is from the server to here. Empty: it was not recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Algorithms {
    pub kex: String,
    /// How the host signed: `ssh-ed25519`, `rsa-sha2-512`, `ssh-ed25519-cert-v01@openssh.com`, …
    pub host_key: String,
    pub cipher_in: String,
    pub cipher_out: String,
    /// `implicit` where the cipher authenticates by itself.
    pub mac_in: String,
    pub mac_out: String,
}

/// The library's own names: a few words a connection, where strings would be half a kilobyte.
#[derive(Debug)]
pub(super) struct Negotiated {
    kex: kex::Name,
    host_key: Algorithm,
    certified: bool,
    cipher: cipher::Name,
    mac_in: mac::Name,
    mac_out: mac::Name,
}

impl Negotiated {
    pub(super) fn of(names: &Names, certified: bool) -> Self {
        Self {
            kex: names.kex,
            host_key: names.key.clone(),
            certified,
            cipher: names.cipher,
            mac_in: names.server_mac,
            mac_out: names.client_mac,
        }
    }

    pub(super) fn names(&self) -> Algorithms {
        let cipher = self.cipher.as_ref().to_owned();
        let alone = authenticates(&cipher);
        let host_key = self.host_key.to_string();
        let mac = |name: &mac::Name| if alone { "implicit" } else { name.as_ref() }.to_owned();
        Algorithms {
            kex: self.kex.as_ref().to_owned(),
            host_key: if self.certified { format!("{host_key}-cert-v01@openssh.com") } else { host_key },
            cipher_in: cipher.clone(),
            cipher_out: cipher,
            mac_in: mac(&self.mac_in),
            mac_out: mac(&self.mac_out),
        }
    }
}

fn authenticates(cipher: &str) -> bool {
    cipher.contains("gcm") || cipher.contains("poly1305")
}

/// RSA keys below this are no longer recommended (NIST SP 800-131A, BSI TR-02102: 3072 bits).
const RSA_BITS: u32 = 3072;
/// RSA keys below this are within reach of who has the means; OpenSSH's RequiredRSASize is 1024, most policies say 2048.
const RSA_BITS_BROKEN: u32 = 2048;

impl HostKey {
    /// What is weak about the key, a sentence each, the worst first. Empty: nothing is known to be.
    #[must_use]
    pub fn weaknesses(&self) -> Vec<String> {
        match self.key_data() {
            KeyData::Dsa(_) => {
                vec!["DSA keys have 1024 bits and are broken; OpenSSH no longer takes them.".to_owned()]
            }
            KeyData::Rsa(key) if key.key_size() < RSA_BITS_BROKEN => {
                vec![format!("The RSA key has only {} bits and can be broken.", key.key_size())]
            }
            KeyData::Rsa(key) if key.key_size() < RSA_BITS => {
                vec![format!("The RSA key has {} bits; {RSA_BITS} are recommended.", key.key_size())]
            }
            _ => Vec::new(),
        }
    }
}

impl Algorithms {
    /// What is weak about them, a sentence each.
    #[must_use]
    pub fn weaknesses(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.kex.ends_with("-sha1") {
            let group = if self.kex.contains("group1-") { " and a group of 1024 bits" } else { "" };
            found.push(format!("The key exchange {} uses SHA-1{group}.", self.kex));
        }
        match self.host_key.as_str() {
            "ssh-rsa" | "ssh-rsa-cert-v01@openssh.com" => {
                found.push("The host signs with ssh-rsa, which is SHA-1.".to_owned());
            }
            "ssh-dss" | "ssh-dss-cert-v01@openssh.com" => {
                found.push("The host signs with DSA, which is SHA-1 and 1024 bits.".to_owned());
            }
            _ => {}
        }
        let mut ciphers = vec![&self.cipher_in, &self.cipher_out];
        ciphers.dedup();
        found.extend(ciphers.into_iter().filter_map(|name| weak_cipher(name)));
        let mut macs = vec![&self.mac_in, &self.mac_out];
        macs.dedup();
        found.extend(macs.into_iter().filter_map(|name| weak_mac(name)));
        found
    }
}

fn weak_cipher(name: &str) -> Option<String> {
    let why = match name {
        "none" | "clear" => "encrypts nothing",
        _ if name.starts_with("3des") || name.starts_with("blowfish") || name.starts_with("cast128") => {
            "has blocks of 64 bits (Sweet32)"
        }
        _ if name.starts_with("arcfour") => "is RC4, which is broken",
        _ if name.ends_with("-cbc") || name.contains("-cbc@") => {
            "works in CBC mode, which leaks plain text to who can alter it"
        }
        _ => return None,
    };
    Some(format!("The cipher {name} {why}."))
}

fn weak_mac(name: &str) -> Option<String> {
    let why = match name {
        "none" => "protects nothing",
        _ if name.contains("md5") => "is MD5",
        _ if name.contains("sha1-96") => "is SHA-1 cut to 96 bits",
        _ if name.contains("sha1") => "is SHA-1",
        _ if name.contains("umac-64") => "has only 64 bits",
        _ => return None,
    };
    Some(format!("The message authentication {name} {why}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::process::Command;

    fn host_key(words: &[&str]) -> HostKey {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("ssh-keygen")
            .current_dir(dir.path())
            .args(["-q", "-N", "", "-f", "key"])
            .args(words)
            .status();
        assert!(made.unwrap().success());
        HostKey::parse(&std::fs::read_to_string(dir.path().join("key.pub")).unwrap()).unwrap()
    }

    #[test]
    fn short_rsa_keys_and_dsa_are_weak() {
        let weak = |words: &[&str]| host_key(words).weaknesses().concat();
        assert_eq!(weak(&["-t", "ed25519"]), "");
        assert_eq!(weak(&["-t", "ecdsa"]), "");
        assert_eq!(weak(&["-t", "rsa", "-b", "3072"]), "");
        assert_eq!(weak(&["-t", "rsa", "-b", "2048"]), "The RSA key has 2048 bits; 3072 are recommended.");
        assert_eq!(weak(&["-t", "rsa", "-b", "1024"]), "The RSA key has only 1024 bits and can be broken.");
        assert!(weak(&["-t", "dsa"]).contains("broken"));
    }

    #[test]
    fn old_algorithms_are_weak_and_todays_are_not() {
        let good = Algorithms {
            kex: "curve25519-sha256".to_owned(),
            host_key: "ssh-ed25519".to_owned(),
            cipher_in: "aes128-gcm@openssh.com".to_owned(),
            cipher_out: "aes128-gcm@openssh.com".to_owned(),
            mac_in: "implicit".to_owned(),
            mac_out: "implicit".to_owned(),
        };
        assert!(good.weaknesses().is_empty());
        let old = |change: fn(&mut Algorithms)| {
            let mut old = good.clone();
            change(&mut old);
            old.weaknesses().concat()
        };
        for (found, words) in [
            (old(|a| a.kex = "diffie-hellman-group1-sha1".to_owned()), "1024 bits"),
            (old(|a| a.kex = "diffie-hellman-group14-sha1".to_owned()), "uses SHA-1."),
            (old(|a| a.host_key = "ssh-rsa".to_owned()), "which is SHA-1"),
            (old(|a| a.host_key = "ssh-dss".to_owned()), "DSA"),
            (old(|a| a.cipher_out = "aes128-cbc".to_owned()), "CBC"),
            (old(|a| a.cipher_in = "3des-cbc".to_owned()), "64 bits"),
            (old(|a| a.cipher_in = "arcfour256".to_owned()), "RC4"),
            (old(|a| a.mac_in = "hmac-md5".to_owned()), "MD5"),
            (old(|a| a.mac_in = "hmac-sha1-96".to_owned()), "96 bits"),
            (old(|a| a.mac_out = "hmac-sha1-etm@openssh.com".to_owned()), "is SHA-1"),
        ] {
            assert!(found.contains(words), "{found}");
        }
    }
}
