//! The agents that can be deployed: files of one directory, with the SHA-256 that they had at the start.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// What the name of each file begins with; the architecture follows, as `uname -m` says it.
const PREFIX: &str = "roundsman-agent-";
/// The agent has about a megabyte; what is larger is something else.
const SIZE_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
/// Architectures of Linux that anybody builds for.
const ARCHITECTURES: usize = 64;

/// An agent for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentBinary {
    pub path: PathBuf,
    pub size_bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

/// The agents by architecture.
#[derive(Debug, Clone, Default)]
pub struct AgentBinaries {
    directory: PathBuf,
    by_architecture: BTreeMap<String, AgentBinary>,
}

impl AgentBinaries {
    /// Reads the directory. One that is missing has no agents; a file that cannot be read is told in the log and left out.
    pub async fn load(directory: PathBuf) -> Self {
        let looked_at = directory.clone();
        let found = tokio::task::spawn_blocking(move || scan(&looked_at)).await.unwrap_or_default();
        Self { directory, by_architecture: found }
    }

    /// The agent for what `uname -m` says. A 64-bit kernel with another name for itself is known by both.
    #[must_use]
    pub fn of(&self, architecture: &str) -> Option<&AgentBinary> {
        let other = match architecture {
            "arm64" => "aarch64",
            "amd64" => "x86_64",
            "i386" | "i486" | "i586" => "i686",
            same => same,
        };
        self.by_architecture.get(architecture).or_else(|| self.by_architecture.get(other))
    }

    /// What there is, for a person who asked for something else.
    #[must_use]
    pub fn described(&self) -> String {
        let names: Vec<&str> = self.by_architecture.keys().map(String::as_str).collect();
        let directory = self.directory.display();
        if names.is_empty() {
            format!("{directory} holds no agents; scripts/build-agents.sh makes them")
        } else {
            format!("{directory} holds agents for {}", names.join(", "))
        }
    }
}

impl AgentBinary {
    /// The file as it was at the start.
    ///
    /// # Errors
    /// A sentence: it cannot be read any more, or it is another one by now.
    pub fn content(&self) -> Result<Vec<u8>, String> {
        let path = self.path.display();
        let bytes = fs::read(&self.path).map_err(|error| format!("{path} cannot be read: {error}"))?;
        if hex(&Sha256::digest(&bytes)) == self.sha256 {
            Ok(bytes)
        } else {
            Err(format!("{path} is another file than when Roundsman started; restart it to deploy that one"))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |text, byte| format!("{text}{byte:02x}"))
}

fn scan(directory: &Path) -> BTreeMap<String, AgentBinary> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let architecture = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let is_word = |word: &&str| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        };
        let Some(architecture) = architecture.filter(is_word).filter(|_| found.len() < ARCHITECTURES) else {
            continue;
        };
        match binary(entry.path()) {
            Ok(binary) => drop(found.insert(architecture.to_owned(), binary)),
            Err(cause) => {
                tracing::warn!(agent = %entry.path().display(), cause, "an agent cannot be deployed");
            }
        }
    }
    found
}

fn binary(path: PathBuf) -> Result<AgentBinary, String> {
    let file = File::open(&path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if size_bytes == 0 || size_bytes > SIZE_LIMIT_BYTES {
        return Err("it is empty or too large for an agent".to_owned());
    }
    Ok(AgentBinary { path, size_bytes, sha256: hex(&Sha256::digest(&bytes)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn agents_are_chosen_by_what_uname_says_and_a_changed_file_is_not_sent() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("roundsman-agent-aarch64", "a"), ("roundsman-agent-", "b"), ("other", "c")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let agents = AgentBinaries::load(dir.path().to_owned()).await;
        let agent = agents.of("arm64").unwrap();
        assert_eq!(agents.of("aarch64"), Some(agent));
        assert_eq!(agents.of("x86_64"), None);
        assert!(agents.described().contains("for aarch64"), "{}", agents.described());
        assert_eq!(agent.content(), Ok(b"a".to_vec()));
        fs::write(&agent.path, "z").unwrap();
        assert!(agent.content().unwrap_err().contains("restart"));
        let none = AgentBinaries::load(dir.path().join("nowhere")).await;
        assert!(none.described().contains("build-agents.sh"));
    }
}
