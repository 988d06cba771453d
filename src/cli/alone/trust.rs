//! Host keys for commands without a Roundsman: the user's own known_hosts, read as OpenSSH reads it.
//!
//! Adds a line only where that was asked for, and only for a host of which the files say nothing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::super::error::CliError;
use crate::model::Port;
use crate::ssh::HostKey;
use crate::ssh::known_hosts::{KnownLine, Mark, matches, parse};

/// A file of 100,000 hosts; of a larger one the end, and with it a revocation, would be missed.
const FILE_BYTES: u64 = 32 * 1024 * 1024;

/// What is known of hosts.
#[derive(Debug)]
pub(super) struct Trust {
    lines: Vec<KnownLine>,
    /// Where new keys are written. None: they are refused.
    accepts_into: Option<Mutex<PathBuf>>,
}

/// What is known of one host.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Its own keys, the preferred one first.
    pub(super) keys: Vec<HostKey>,
    pub(super) authorities: Vec<HostKey>,
    pub(super) revoked: Vec<HostKey>,
}

impl Trust {
    /// From `file` alone, or from the usual files of the user and of the system.
    ///
    /// # Errors
    /// [`CliError::Failed`]: a file is there and cannot be read.
    pub(super) fn read(file: Option<&Path>, home: &Path, accept_new: bool) -> Result<Self, CliError> {
        let own = home.join(".ssh/known_hosts");
        let files = match file {
            Some(file) => vec![file.to_owned()],
            None => vec![
                own.clone(),
                home.join(".ssh/known_hosts2"),
                PathBuf::from("/etc/ssh/ssh_known_hosts"),
                PathBuf::from("/etc/ssh/ssh_known_hosts2"),
            ],
        };
        let mut lines = Vec::new();
        for path in &files {
            // A line that nobody understands speaks of no host, as with ssh.
            lines.extend(parse(&text(path)?).into_iter().filter_map(Result::ok));
        }
        let into = file.map_or(own, Path::to_owned);
        Ok(Self { lines, accepts_into: accept_new.then(|| Mutex::new(into)) })
    }

    pub(super) fn of(&self, host: &str, port: Port) -> Known {
        let mut known = Known::default();
        for line in self.lines.iter().filter(|line| matches(&line.hosts, line.mark, host, port)) {
            match line.mark {
                Mark::None => known.keys.push(line.key.clone()),
                Mark::CertAuthority => known.authorities.push(line.key.clone()),
                Mark::Revoked => known.revoked.push(line.key.clone()),
            }
        }
        known.keys.sort_by_key(|key| match key.algorithm() {
            "ssh-ed25519" => 0,
            name if name.starts_with("ecdsa-") => 1,
            _ => 2,
        });
        known
    }

    /// Writes that this is the host's key. False: that was not asked for.
    ///
    /// # Errors
    /// Why the file cannot be written.
    pub(super) fn accept(&self, host: &str, port: Port, key: &HostKey) -> Result<bool, String> {
        let Some(path) = &self.accepts_into else { return Ok(false) };
        // One at a time, so that a missing line end is put right once.
        let path = path.lock().unwrap_or_else(PoisonError::into_inner);
        add(&path, host, port, key)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
        Ok(true)
    }
}

fn text(path: &Path) -> Result<String, CliError> {
    let failed = |cause: String| CliError::failed(format!("cannot read {}: {cause}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed(error.to_string())),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(failed("it is larger than 32 MiB".to_owned()));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn add(path: &Path, host: &str, port: Port, key: &HostKey) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let host = host.to_ascii_lowercase();
    let name = if port == Port::SSH { host } else { format!("[{host}]:{port}") };
    let before = std::fs::read(path).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(error),
    })?;
    let gap = if before.is_empty() || before.ends_with(b"\n") { "" } else { "\n" };
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(format!("{gap}{name} {key}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDXIknrsiZLK41GH+G1jPZ7X5FhOdRVtLlUeyXWbt9JM";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn a_host_has_its_keys_its_authorities_and_what_is_revoked() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let lines = format!("web {KEY}\n@cert-authority *.lab {OTHER}\n@revoked * {OTHER}\nrubbish\n");
        std::fs::write(home.path().join(".ssh/known_hosts"), lines).unwrap();
        let trust = Trust::read(None, home.path(), false).unwrap();
        let known = trust.of("web", Port::SSH);
        assert_eq!((known.keys.len(), known.authorities.len(), known.revoked.len()), (1, 0, 1));
        assert_eq!(trust.of("db.lab", Port::SSH).authorities.len(), 1);
        assert!(trust.of("db", Port::SSH).keys.is_empty());
        assert!(!trust.accept("db", Port::SSH, &HostKey::parse(KEY).unwrap()).unwrap());
    }

    #[test]
    fn an_accepted_key_is_a_line_of_its_own_that_is_found_again() {
        let home = tempfile::tempdir().unwrap();
        let port = Port::of(2222).unwrap();
        let file = home.path().join("deep/known");
        let trust = Trust::read(Some(&file), home.path(), true).unwrap();
        assert!(trust.accept("Web", port, &HostKey::parse(KEY).unwrap()).unwrap());
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap().trim_end()).unwrap();
        assert!(trust.accept("db", Port::SSH, &HostKey::parse(OTHER).unwrap()).unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("[web]:2222 {KEY}\ndb {OTHER}\n"));
        let again = Trust::read(Some(&file), home.path(), false).unwrap();
        assert_eq!(again.of("web", port).keys, [HostKey::parse(KEY).unwrap()]);
    }
}
