//! What a backup is: a tar file whose first entry, `manifest.json`, names the others with their hashes.
//!
//! | entry | what |
//! |---|---|
//! | `manifest.json` | [`Manifest`] |
//! | `roundsman.db` | control data, a SQLite database |
//! | `history.db` | samples, a SQLite database |
//! | `master.key.sealed` | only where it was asked for: [`super::sealed_key::SealedKey`] as JSON |

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::Timestamp;

/// Layout of the file.
pub const FORMAT: u32 = 1;
pub const MANIFEST: &str = "manifest.json";
pub const CONTROL: &str = "roundsman.db";
pub const HISTORY: &str = "history.db";
pub const KEY: &str = "master.key.sealed";
/// A manifest has four files at most; what is larger is something else.
pub const MANIFEST_LIMIT_BYTES: u64 = 64 * 1024;
const BLOCK_BYTES: usize = 256 * 1024;

/// Whether the backup brings the master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MasterKey {
    /// Keep it elsewhere: without it nothing that is sealed opens.
    LeftOut,
    UnderPassphrase,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    pub name: String,
    pub size_bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

/// The first entry of a backup. Unknown members are left to later versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Version of the program that made it.
    pub version: String,
    pub created_at: Timestamp,
    /// Migrations that each database has seen.
    pub control_schema: i64,
    pub history_schema: i64,
    pub servers: u32,
    pub master_key: MasterKey,
    pub files: Vec<Content>,
}

/// Copies what `from` gives, at most `limit` bytes, and answers size and SHA-256 in hexadecimal.
///
/// # Errors
/// Of reading or writing, and when there is more than `limit`.
pub fn copy_hashed(from: &mut impl Read, to: &mut impl Write, limit: u64) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut size = 0;
    loop {
        let count = from.read(&mut block)?;
        let Some(part) = block.get(..count).filter(|part| !part.is_empty()) else { break };
        size += part.len() as u64;
        if size > limit {
            return Err(io::Error::other("it is larger than its manifest says"));
        }
        hash.update(part);
        to.write_all(part)?;
    }
    let text = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((size, text))
}

impl Content {
    /// # Errors
    /// When the file cannot be read.
    pub fn of(directory: &Path, name: &str) -> io::Result<Self> {
        let mut file = File::open(directory.join(name))?;
        let (size_bytes, sha256) = copy_hashed(&mut file, &mut io::sink(), u64::MAX)?;
        Ok(Self { name: name.to_owned(), size_bytes, sha256 })
    }
}
