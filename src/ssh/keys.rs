//! Private and public keys: making them, reading them, and the command that installs one on a server.
//!
//! Keeps no key; where one lives is for the caller to decide.

use std::path::Path;

use russh::keys::ssh_key::{LineEnding, PublicKey};
use russh::keys::{Algorithm, PrivateKey, decode_secret_key};

use crate::model::Secret;
use crate::quote::quote;

use super::certificate::has_sane_blob;
use super::error::{SshError, path_text};
use super::key_cost;

/// A private key file is a few kilobytes; what is larger is something else.
pub(super) const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;

/// A name for a key that came as text and not from a file.
const KEPT_KEY: &str = "that Roundsman keeps";

/// A new ed25519 key: the private key as OpenSSH text, and the public key line with `comment`.
///
/// # Errors
/// [`SshError::KeyUnreadable`]: the key could not be written as text, which only a broken `comment` can cause.
pub fn generate_ed25519(comment: &str) -> Result<(Secret<String>, String), SshError> {
    let comment = super::printable::line(comment.as_bytes(), 100);
    let mut key =
        PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(|e| unreadable(KEPT_KEY, e))?;
    key.set_comment(comment);
    let text = key.to_openssh(LineEnding::LF).map_err(|e| unreadable(KEPT_KEY, e))?;
    let line = key.public_key().to_openssh().map_err(|e| unreadable(KEPT_KEY, e))?;
    Ok((Secret::new(text.to_string()), line))
}

/// The public key line (`ssh-ed25519 AAAA… comment`) of a private key.
///
/// # Errors
/// [`SshError::KeyUnreadable`]: not a private key, or protected by another passphrase than the given.
pub fn public_line(
    private: &Secret<String>,
    passphrase: Option<&Secret<String>>,
) -> Result<String, SshError> {
    let key = decode(KEPT_KEY, private, passphrase)?;
    key.public_key().to_openssh().map_err(|e| unreadable(KEPT_KEY, e))
}

/// A private key without its passphrase, as OpenSSH text, and its public key line: for whoever keeps it sealed.
///
/// # Errors
/// [`SshError::KeyUnreadable`]: not a private key, or protected by another passphrase than the given.
pub fn unlock(
    private: &Secret<String>,
    passphrase: Option<&Secret<String>>,
) -> Result<(Secret<String>, String), SshError> {
    let key = decode("that was given", private, passphrase)?;
    let text = key.to_openssh(LineEnding::LF).map_err(|e| unreadable(KEPT_KEY, e))?;
    let line = key.public_key().to_openssh().map_err(|e| unreadable(KEPT_KEY, e))?;
    Ok((Secret::new(text.to_string()), line))
}

/// The text of a private key file, for whoever wants to keep it. It is not decoded.
///
/// # Errors
/// [`SshError::KeyUnreadable`]: missing, not readable for this process, too large or not text.
pub async fn load_file(path: &Path) -> Result<Secret<String>, SshError> {
    let name = path_text(path);
    let size = tokio::fs::metadata(path).await.map_err(|e| unreadable(&name, e))?;
    if !size.is_file() || size.len() > MAX_KEY_FILE_BYTES {
        return Err(unreadable(&name, "it is not a file of at most 64 KiB"));
    }
    tokio::fs::read_to_string(path).await.map(Secret::new).map_err(|e| unreadable(&name, e))
}

/// Decodes a private key, off the runtime's threads: a passphrase is slow to check on purpose.
pub(super) async fn decode_slowly(
    name: String,
    text: Secret<String>,
    passphrase: Option<Secret<String>>,
) -> Result<PrivateKey, SshError> {
    let decoded = tokio::task::spawn_blocking({
        let name = name.clone();
        move || decode(&name, &text, passphrase.as_ref())
    });
    decoded.await.map_err(|e| unreadable(&name, e))?
}

fn decode(
    name: &str,
    text: &Secret<String>,
    passphrase: Option<&Secret<String>>,
) -> Result<PrivateKey, SshError> {
    key_cost::bearable(text.expose()).map_err(|cause| unreadable(name, cause))?;
    let given = passphrase.map(|phrase| phrase.expose().as_str());
    let key = decode_secret_key(text.expose(), given).map_err(|error| match (error, given) {
        (russh::keys::Error::KeyIsEncrypted, _) => unreadable(name, "it is protected by a passphrase"),
        _ if has_old_encryption(text.expose()) => unreadable(
            name,
            "the passphrase is wrong, or its encryption is of a kind that OpenSSH gave up (convert it: `ssh-keygen -p -f KEY`)",
        ),
        (_, Some(_)) => unreadable(name, "it is not a private key, or the passphrase is wrong"),
        (error, None) => unreadable(name, error),
    })?;
    if key.is_encrypted() { Err(unreadable(name, "it is protected by a passphrase")) } else { Ok(key) }
}

/// The encryption of PEM files before PKCS#8 (RFC 1421): only AES-128-CBC over an RSA key is read here.
fn has_old_encryption(text: &str) -> bool {
    text.lines().take(4).any(|line| line.starts_with("DEK-Info:"))
}

fn unreadable(name: &str, cause: impl std::fmt::Display) -> SshError {
    SshError::KeyUnreadable {
        path: name.to_owned(),
        cause: super::printable::line(cause.to_string().as_bytes(), 200),
    }
}

/// The POSIX shell command that puts a public key into the user's `authorized_keys`, to run on the server.
///
/// Can be run again: a key that is there stays once. Keeps what the file holds, writes with umask 077, restores the
/// SELinux context where there is one, and uses OpenWrt's own place for root's keys under dropbear.
///
/// # Errors
/// [`SshError::KeyUnreadable`]: `public_line` is not one line with a public key.
pub fn authorized_keys_install_command(public_line: &str) -> Result<String, SshError> {
    let line = public_line.trim();
    if !has_sane_blob(line) {
        return Err(unreadable("(public)", "it is not one line with a public key"));
    }
    let key = PublicKey::from_openssh(line).map_err(|e| unreadable("(public)", e))?;
    let blob = line.split_ascii_whitespace().nth(1).unwrap_or_default();
    if line.chars().any(char::is_control) || blob.is_empty() || key.algorithm().as_str().is_empty() {
        return Err(unreadable("(public)", "it must be one line"));
    }
    let word = |text: &str| quote(text).map_err(|e| unreadable("(public)", e));
    let (line, blob) = (word(line)?, word(blob)?);
    Ok(format!(
        "umask 077; cd || exit 1; d=.ssh
if [ -f /etc/openwrt_release ] && [ \"$(id -u)\" = 0 ]; then d=/etc/dropbear; fi
f=$d/authorized_keys
[ -d \"$d\" ] || mkdir \"$d\" || exit 1
if ! grep -F -e {blob} \"$f\" 2>/dev/null | grep -qv '^[[:space:]]*#'; then
if [ -s \"$f\" ] && [ -n \"$(tail -c 1 \"$f\")\" ]; then echo >>\"$f\" || exit 1; fi
printf '%s\\n' {line} >>\"$f\" || exit 1
fi
chmod 700 \"$d\" && chmod 600 \"$f\" || exit 1
if command -v restorecon >/dev/null 2>&1; then restorecon -RF \"$d\" 2>/dev/null || :; fi"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_generated_key_is_read_back_and_gives_its_public_line() {
        let (private, line) = generate_ed25519("roundsman@test").unwrap();
        assert!(line.starts_with("ssh-ed25519 AAAA") && line.ends_with(" roundsman@test"), "{line}");
        assert_eq!(public_line(&private, None).unwrap(), line);
    }

    #[test]
    fn what_is_not_a_private_key_is_told() {
        let error = public_line(&Secret::new("hello".to_owned()), None).unwrap_err();
        assert!(
            error.to_string().starts_with("The private key that Roundsman keeps cannot be used"),
            "{error}"
        );
    }

    #[test]
    fn a_passphrase_is_asked_for_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut make = Command::new("ssh-keygen");
        assert!(
            make.args(["-q", "-t", "ed25519", "-N", "open sesame", "-f"])
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let text = Secret::new(std::fs::read_to_string(&path).unwrap());
        let right = Secret::new("open sesame".to_owned());
        assert!(public_line(&text, Some(&right)).is_ok());
        let wrong = Secret::new("open barley".to_owned());
        assert!(public_line(&text, Some(&wrong)).unwrap_err().to_string().contains("passphrase is wrong"));
        assert!(public_line(&text, None).unwrap_err().to_string().contains("protected by a passphrase"));
    }

    #[test]
    fn an_encryption_that_nobody_reads_any_more_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut make = Command::new("ssh-keygen");
        make.args(["-q", "-t", "ecdsa", "-m", "PEM", "-N", "open sesame", "-f"]).arg(&path);
        assert!(make.status().unwrap().success());
        let text = Secret::new(std::fs::read_to_string(&path).unwrap());
        for passphrase in [None, Some(Secret::new("open sesame".to_owned()))] {
            let error = public_line(&text, passphrase.as_ref()).unwrap_err().to_string();
            assert!(
                error.contains("protected by a passphrase") || error.contains("ssh-keygen -p -f KEY"),
                "{error}"
            );
        }
    }

    #[test]
    fn installing_a_key_twice_leaves_it_once_and_keeps_the_others() {
        for shell in [&["bash"][..], &["dash"], &["busybox", "ash"]] {
            let home = tempfile::tempdir().unwrap();
            let file = home.path().join(".ssh/authorized_keys");
            std::fs::create_dir(home.path().join(".ssh")).unwrap();
            let (_, line) = generate_ed25519("new key's name").unwrap();
            let disabled = format!("# {line}\nssh-ed25519 AAAAold without line end");
            std::fs::write(&file, &disabled).unwrap();
            let command = authorized_keys_install_command(&line).unwrap();
            for _ in 0..2 {
                let mut run = Command::new(shell[0]);
                assert!(
                    run.args(&shell[1..])
                        .arg("-c")
                        .arg(&command)
                        .env("HOME", home.path())
                        .status()
                        .unwrap()
                        .success()
                );
            }
            assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{disabled}\n{line}\n"), "{shell:?}");
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn only_one_public_key_line_can_be_installed() {
        let (_, line) = generate_ed25519("x").unwrap();
        assert!(authorized_keys_install_command(&format!("{line}\nssh-ed25519 AAAAevil")).is_err());
        assert!(authorized_keys_install_command("$(reboot)").is_err());
    }
}
