//! Seals and opens what is stored encrypted: private keys and other secrets that Roundsman must use again.
//!
//! XChaCha20-Poly1305 under the master key; the row's id is authenticated with the text, so a sealed
//! value that was moved to another row does not open.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::Rng;
use zeroize::Zeroizing;

use crate::model::Secret;

/// Name of the master key's file in the data directory.
pub const KEY_FILE: &str = "master.key";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// A key is 45 bytes with its line end; what is longer is something else.
const KEY_FILE_BYTES: u64 = 1024;
/// The next master key while it takes the place of the present one, in the data directory.
const PENDING: &str = "master.key.next";
/// First byte of a sealed value, so that another cipher can follow one day.
const VERSION: u8 = 1;

/// Why a secret cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("cannot use the master key file {path}: {cause}")]
    KeyFile { path: PathBuf, cause: String },
    #[error("the master key file {path} can be read by others: run chmod 600 {path}")]
    KeyFileOpen { path: PathBuf },
    #[error("the master key is not 32 bytes in base64; make one with: head -c 32 /dev/urandom | base64")]
    KeyFormat,
    #[error("a stored secret does not open with this master key; put back the master key that sealed it")]
    WrongKey,
}

/// Holds the master key.
#[derive(Clone)]
pub struct Vault {
    cipher: XChaCha20Poly1305,
    /// The key in base64, for a backup that is to bring it.
    text: Secret<String>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

impl Vault {
    /// Takes the key from `given` (base64), else from `master.key` in `data`, which it makes (mode 0600) at the first start.
    ///
    /// # Errors
    /// [`VaultError`]: the file cannot be read or made, is open to others, or holds no key.
    pub fn open(data: &Path, given: Option<&Secret<String>>) -> Result<Self, VaultError> {
        if let Some(text) = given {
            return Self::from_text(text.expose());
        }
        let path = data.join(KEY_FILE);
        let failed =
            |error: std::io::Error| VaultError::KeyFile { path: path.clone(), cause: error.to_string() };
        match fs::metadata(&path) {
            Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
                Err(VaultError::KeyFileOpen { path: path.clone() })
            }
            Ok(_) => Self::from_text(&Zeroizing::new(fs::read_to_string(&path).map_err(failed)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
                rand::rng().fill_bytes(key.as_mut_slice());
                let text = Zeroizing::new(STANDARD.encode(key.as_slice()));
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)
                    .map_err(failed)?;
                file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
                file.sync_all().map_err(failed)?;
                Self::from_text(&text)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Reads a master key from a file of its own, which nobody else may read.
    ///
    /// # Errors
    /// [`VaultError`]: the file cannot be read, is open to others, or holds no key.
    pub fn from_file(path: &Path) -> Result<(Self, Secret<String>), VaultError> {
        let failed =
            |error: std::io::Error| VaultError::KeyFile { path: path.to_owned(), cause: error.to_string() };
        let file = fs::File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(VaultError::KeyFileOpen { path: path.to_owned() });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(KEY_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
        Ok((Self::from_text(&text)?, Secret::new(text.trim().to_owned())))
    }

    /// The next master key of a change that was begun and not settled. None: there is none.
    ///
    /// # Errors
    /// [`VaultError`] when it is there and cannot be read.
    pub fn pending(data: &Path) -> Result<Option<Self>, VaultError> {
        let path = data.join(PENDING);
        if path.exists() { Self::from_file(&path).map(|(vault, _)| Some(vault)) } else { Ok(None) }
    }

    /// Lays the next master key ready, on disk before anything is sealed with it.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`].
    pub fn lay_ready(data: &Path, text: &Secret<String>) -> Result<(), VaultError> {
        let path = data.join(PENDING);
        let failed =
            |error: std::io::Error| VaultError::KeyFile { path: path.clone(), cause: error.to_string() };
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        file.write_all(text.expose().as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
        file.sync_all().and_then(|()| sync(data)).map_err(failed)
    }

    /// The next master key becomes the master key.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`].
    pub fn adopt_pending(data: &Path) -> Result<(), VaultError> {
        let path = data.join(KEY_FILE);
        fs::rename(data.join(PENDING), &path)
            .and_then(|()| sync(data))
            .map_err(|error| VaultError::KeyFile { path, cause: error.to_string() })
    }

    /// The change did not happen: the next master key is forgotten.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`].
    pub fn drop_pending(data: &Path) -> Result<(), VaultError> {
        let path = data.join(PENDING);
        fs::remove_file(&path)
            .and_then(|()| sync(data))
            .map_err(|error| VaultError::KeyFile { path, cause: error.to_string() })
    }

    /// As [`Vault::open`], but makes nothing. None: there is no key.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub fn existing(data: &Path, given: Option<&Secret<String>>) -> Result<Option<Self>, VaultError> {
        if given.is_none() && !data.join(KEY_FILE).exists() {
            return Ok(None);
        }
        Self::open(data, given).map(Some)
    }

    /// The master key in base64. It leaves this process only sealed under a passphrase.
    #[must_use]
    pub const fn key_text(&self) -> &Secret<String> {
        &self.text
    }

    fn from_text(text: &str) -> Result<Self, VaultError> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| VaultError::KeyFormat)?);
        let cipher =
            XChaCha20Poly1305::new_from_slice(bytes.as_slice()).map_err(|_| VaultError::KeyFormat)?;
        Ok(Self { cipher, text: Secret::new(text.trim().to_owned()) })
    }

    /// Encrypts `text` for the row `row`.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`] when the cipher refuses (texts over 256 GiB).
    pub fn seal(&self, row: &str, text: &Secret<String>) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0_u8; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: text.expose().as_bytes(), aad: row.as_bytes() };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| VaultError::WrongKey)?;
        let mut out = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
        out.push(VERSION);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Decrypts what [`Vault::seal`] made for the same row.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`]: another master key, another row, or a damaged value.
    pub fn open_sealed(&self, row: &str, sealed: &[u8]) -> Result<Secret<String>, VaultError> {
        let (version, rest) = sealed.split_first().ok_or(VaultError::WrongKey)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(VaultError::WrongKey)?;
        if *version != VERSION {
            return Err(VaultError::WrongKey);
        }
        let payload = Payload { msg: text, aad: row.as_bytes() };
        let bytes = self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| VaultError::WrongKey)?;
        String::from_utf8(bytes).map(Secret::new).map_err(|_| VaultError::WrongKey)
    }
}

/// A rename is on disk when its directory is.
fn sync(directory: &Path) -> std::io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_only_with_its_key_and_its_row() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path(), None).unwrap();
        let secret = Secret::new("private key".to_owned());
        let sealed = vault.seal("row-1", &secret).unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"private"));
        let again = Vault::open(dir.path(), None).unwrap();
        assert_eq!(again.open_sealed("row-1", &sealed).unwrap(), secret);
        assert_eq!(again.open_sealed("row-2", &sealed).unwrap_err(), VaultError::WrongKey);
        let other = Vault::open(tempfile::tempdir().unwrap().path(), None).unwrap();
        assert_eq!(other.open_sealed("row-1", &sealed).unwrap_err(), VaultError::WrongKey);
    }

    #[test]
    fn the_master_key_file_is_private_and_refused_when_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        Vault::open(dir.path(), None).unwrap();
        let path = dir.path().join("master.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Vault::open(dir.path(), None).unwrap_err(), VaultError::KeyFileOpen { .. }));
    }
}
