//! The master key under a passphrase, for a backup that brings it: argon2id and XChaCha20-Poly1305.
//!
//! The parameters stand in the file, so that later versions can ask for more work and still open old backups.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::Rng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::model::Secret;

/// A guess costs this much memory and about a tenth of a second, for us and for whoever found the file.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// What a file may ask of us at most, so that a hostile one does not take all memory.
const MOST: (u32, u32, u32) = (1024 * 1024, 32, 16);
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
/// Bound to what the text is, so that another sealed text does not pass for a key.
const PURPOSE: &[u8] = b"roundsman master key 1";
/// The file may be tried for years, without a limit on guesses.
pub const PASSPHRASE_MIN_CHARS: usize = 12;

/// Why the master key was not sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealedKeyError {
    #[error("the passphrase is too short; use at least {PASSPHRASE_MIN_CHARS} characters")]
    TooShort,
    #[error("the master key in the backup does not open with this passphrase")]
    Wrong,
    #[error("the sealed master key of the backup cannot be read: {0}")]
    Unreadable(String),
}

/// The file `master.key.sealed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedKey {
    /// `argon2id`
    kdf: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    /// Base64.
    salt: String,
    nonce: String,
    sealed: String,
}

impl SealedKey {
    /// # Errors
    /// [`SealedKeyError::TooShort`].
    pub fn seal(key: &Secret<String>, passphrase: &Secret<String>) -> Result<Self, SealedKeyError> {
        if passphrase.expose().chars().count() < PASSPHRASE_MIN_CHARS {
            return Err(SealedKeyError::TooShort);
        }
        let (mut salt, mut nonce) = ([0_u8; SALT_BYTES], [0_u8; NONCE_BYTES]);
        rand::rng().fill_bytes(&mut salt);
        rand::rng().fill_bytes(&mut nonce);
        let cipher = cipher(passphrase, &salt, (MEMORY_KIB, PASSES, LANES))?;
        let payload = Payload { msg: key.expose().as_bytes(), aad: PURPOSE };
        let sealed = cipher.encrypt(&XNonce::from(nonce), payload).map_err(|error| unreadable(&error))?;
        Ok(Self {
            kdf: "argon2id".to_owned(),
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: LANES,
            salt: STANDARD.encode(salt),
            nonce: STANDARD.encode(nonce),
            sealed: STANDARD.encode(sealed),
        })
    }

    /// # Errors
    /// [`SealedKeyError::Wrong`] or [`SealedKeyError::Unreadable`].
    pub fn open(&self, passphrase: &Secret<String>) -> Result<Secret<String>, SealedKeyError> {
        let (memory, passes, lanes) = MOST;
        if self.kdf != "argon2id" || self.memory_kib > memory || self.passes > passes || self.lanes > lanes {
            return Err(SealedKeyError::Unreadable(
                "it was made in a way that this version does not know".to_owned(),
            ));
        }
        let decoded = |text: &str| STANDARD.decode(text).map_err(|error| unreadable(&error));
        let nonce: [u8; NONCE_BYTES] = decoded(&self.nonce)?
            .try_into()
            .map_err(|_| SealedKeyError::Unreadable("its nonce has another length".to_owned()))?;
        let cipher = cipher(passphrase, &decoded(&self.salt)?, (self.memory_kib, self.passes, self.lanes))?;
        let sealed = decoded(&self.sealed)?;
        let payload = Payload { msg: sealed.as_slice(), aad: PURPOSE };
        let key = cipher.decrypt(&XNonce::from(nonce), payload).map_err(|_| SealedKeyError::Wrong)?;
        String::from_utf8(key).map(Secret::new).map_err(|_| SealedKeyError::Wrong)
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> SealedKeyError {
    SealedKeyError::Unreadable(error.to_string())
}

fn cipher(
    passphrase: &Secret<String>,
    salt: &[u8],
    (memory_kib, passes, lanes): (u32, u32, u32),
) -> Result<XChaCha20Poly1305, SealedKeyError> {
    let mut key = Zeroizing::new([0_u8; 32]);
    let params =
        Params::new(memory_kib, passes, lanes, Some(key.len())).map_err(|error| unreadable(&error))?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.expose().as_bytes(), salt, key.as_mut_slice())
        .map_err(|error| unreadable(&error))?;
    XChaCha20Poly1305::new_from_slice(key.as_slice()).map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn the_master_key_opens_with_its_passphrase_only() {
        let sealed = SealedKey::seal(&secret("the key"), &secret("correct horse battery")).unwrap();
        let text = serde_json::to_string(&sealed).unwrap();
        assert!(!text.contains("the key"));
        let read: SealedKey = serde_json::from_str(&text).unwrap();
        assert_eq!(read.open(&secret("correct horse battery")).unwrap(), secret("the key"));
        assert_eq!(read.open(&secret("correct horse batter!")), Err(SealedKeyError::Wrong));
        assert_eq!(SealedKey::seal(&secret("k"), &secret("short")), Err(SealedKeyError::TooShort));
    }

    #[test]
    fn a_hostile_file_cannot_ask_for_all_memory() {
        let sealed = SealedKey::seal(&secret("k"), &secret("correct horse battery")).unwrap();
        let greedy = SealedKey { memory_kib: u32::MAX, ..sealed };
        let refused = greedy.open(&secret("correct horse battery"));
        assert!(matches!(refused, Err(SealedKeyError::Unreadable(_))), "{refused:?}");
    }
}
