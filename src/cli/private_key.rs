//! The private key file that `add --identity` brings: read as the user who runs the command.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::CliError;
use super::machine::{hidden_answer, password_file, small_file};
use super::output::Output;
use crate::model::Secret;

/// A private key as it goes to the server.
#[derive(Debug)]
pub(super) struct PrivateKey {
    pub text: Secret<String>,
    pub passphrase: Option<Secret<String>>,
    pub source_path: String,
}

/// # Errors
/// [`CliError::Failed`] says what the file is instead, or that its passphrase is missing.
pub(super) fn read(path: &Path, passphrase: Option<&Path>, output: &Output) -> Result<PrivateKey, CliError> {
    let text = small_file(path)?;
    let shown = path.display();
    if looks_public(text.expose()) {
        return Err(CliError::failed(format!(
            "{shown} is a public key; --identity wants the private one, usually the file without .pub"
        )));
    }
    let passphrase = match passphrase {
        Some(file) => Some(password_file(file)?),
        None if !is_encrypted(text.expose()) => None,
        None if output.interactive => Some(hidden_answer(&format!("Passphrase of {shown}: "))?),
        None => {
            return Err(CliError::failed(format!(
                "{shown} is protected by a passphrase; put it into a file and name that with --passphrase-file"
            )));
        }
    };
    let source_path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    Ok(PrivateKey { text, passphrase, source_path })
}

fn looks_public(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    first.starts_with("ssh-") || first.starts_with("ecdsa-sha2-") || first.starts_with("sk-")
}

/// Whether a private key needs a passphrase.
/// Source: PROTOCOL.key of OpenSSH (cipher name after the magic), RFC 1421 and PKCS#8 headers for the older forms.
pub(super) fn is_encrypted(text: &str) -> bool {
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return true;
    }
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let Ok(bytes) = STANDARD.decode(body) else { return false };
    let Some(rest) = bytes.strip_prefix(b"openssh-key-v1\0") else { return false };
    let Some((length, rest)) = rest.split_first_chunk::<4>() else { return false };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    rest.get(..length).is_some_and(|cipher| cipher != b"none")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cipher: &[u8]) -> String {
        let mut bytes = b"openssh-key-v1\0".to_vec();
        bytes.extend(u32::try_from(cipher.len()).unwrap().to_be_bytes());
        bytes.extend(cipher);
        bytes.extend([0; 60]);
        let body = STANDARD.encode(bytes);
        let lines: Vec<&str> =
            body.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
            lines.join("\n")
        )
    }

    #[test]
    fn a_key_with_a_passphrase_is_recognised_before_it_is_sent() {
        assert!(is_encrypted(&key(b"aes256-ctr")));
        assert!(!is_encrypted(&key(b"none")));
        assert!(is_encrypted("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n"));
        assert!(!is_encrypted("not a key"));
    }

    #[test]
    fn a_public_key_is_told_from_a_private_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id.pub");
        std::fs::write(&path, "ssh-ed25519 AAAAC3 me@here\n").unwrap();
        let refused = read(&path, None, &Output::of_process(true)).unwrap_err();
        assert!(refused.to_string().contains("public key"), "{refused}");
    }
}
