//! `[remote_write]` of the configuration file: where readings are passed on to, and how.
//!
//! Files that it names are read here, once; secrets stand in files, never in the configuration itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;

use super::{ConfigError, parse_interval, value};
use crate::model::Secret;

/// A reading of each server in so long, unless the file says otherwise.
const DEFAULT_EVERY: Duration = Duration::from_secs(30);
/// Samples that wait while the store takes none: about 20 bytes each in memory, so 10 MiB.
const DEFAULT_QUEUE_SAMPLES: usize = 500_000;
/// A queue below this holds no reading of a large server; one above it fills the memory of a small machine.
const QUEUE_RANGE: (usize, usize) = (1_000, 50_000_000);

/// How Roundsman logs in at the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteAuth {
    Bearer(Secret<String>),
    Basic { username: String, password: Secret<String> },
}

/// A long-term store that takes Prometheus' remote-write.
#[derive(Debug, Clone)]
pub struct RemoteWrite {
    /// http or https, without user and password.
    pub url: Url,
    pub auth: Option<RemoteAuth>,
    /// Certificate authorities (PEM) that are trusted in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Least time between two readings of one server that are passed on.
    pub every: Duration,
    pub queue_samples: usize,
    /// Also call link-local and metadata addresses.
    pub allow_link_local: bool,
}

/// The table as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    url: String,
    token_file: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    send_every: Option<String>,
    queue_samples: Option<usize>,
    #[serde(default)]
    allow_link_local: bool,
    /// Send credentials over plain http to another machine.
    #[serde(default)]
    insecure_http: bool,
}

impl Table {
    pub(super) fn validated(self) -> Result<RemoteWrite, ConfigError> {
        let url = parse_url(&self.url)?;
        let auth = match (&self.token_file, &self.username, &self.password_file) {
            (None, None, None) => None,
            (Some(path), None, None) => Some(RemoteAuth::Bearer(secret_of("remote_write.token_file", path)?)),
            (None, Some(username), Some(path)) => Some(RemoteAuth::Basic {
                username: username.clone(),
                password: secret_of("remote_write.password_file", path)?,
            }),
            _ => {
                return Err(value(
                    "remote_write",
                    "give token_file alone, or username together with password_file",
                ));
            }
        };
        if auth.is_some() && url.scheme() == "http" && !is_loopback(&url) && !self.insecure_http {
            return Err(value(
                "remote_write.url",
                "over http the credentials could be read on their way: use https, or set insecure_http = true if the network is yours",
            ));
        }
        let every = match &self.send_every {
            None => DEFAULT_EVERY,
            Some(text) => {
                parse_interval(text).map_err(|message| value("remote_write.send_every", message))?
            }
        };
        let queue_samples = self.queue_samples.unwrap_or(DEFAULT_QUEUE_SAMPLES);
        if !(QUEUE_RANGE.0..=QUEUE_RANGE.1).contains(&queue_samples) {
            return Err(value(
                "remote_write.queue_samples",
                format!("must be a number from {} to {}", QUEUE_RANGE.0, QUEUE_RANGE.1),
            ));
        }
        Ok(RemoteWrite {
            url,
            auth,
            ca_file: self.ca_file,
            every,
            queue_samples,
            allow_link_local: self.allow_link_local,
        })
    }
}

fn parse_url(text: &str) -> Result<Url, ConfigError> {
    let wrong = |what: &str| {
        value(
            "remote_write.url",
            format!("{what}; use for example https://prometheus.example.com/api/v1/write"),
        )
    };
    let url = Url::parse(text).map_err(|_| wrong("it is not an address"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("it must begin with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("user and password belong into username and password_file"));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn secret_of(origin: &str, path: &Path) -> Result<Secret<String>, ConfigError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| value(origin, format!("cannot read {shown}: {error}")))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line.to_owned())),
        _ => Err(value(origin, format!("the first line of {shown} is empty"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<RemoteWrite, ConfigError> {
        toml::from_str::<Table>(text).unwrap().validated()
    }

    #[test]
    fn an_address_alone_is_enough() {
        let found = parsed("url = \"https://store/api/v1/write\"").unwrap();
        assert_eq!((found.every, found.queue_samples), (DEFAULT_EVERY, DEFAULT_QUEUE_SAMPLES));
        assert!(found.auth.is_none() && !found.allow_link_local);
    }

    #[test]
    fn credentials_come_from_files_and_never_go_in_clear_to_another_machine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "abc\n").unwrap();
        let token = format!("token_file = \"{}\"", path.display());
        let found = parsed(&format!("url = \"https://store/w\"\n{token}")).unwrap();
        assert_eq!(found.auth, Some(RemoteAuth::Bearer(Secret::new("abc".to_owned()))));
        assert!(parsed(&format!("url = \"http://127.0.0.1:9090/w\"\n{token}")).is_ok());
        let refused = parsed(&format!("url = \"http://store/w\"\n{token}")).unwrap_err().to_string();
        assert!(refused.contains("insecure_http"), "{refused}");
        assert!(parsed("url = \"https://me:secret@store/w\"").is_err());
        assert!(parsed("url = \"https://store/w\"\nusername = \"me\"").is_err());
        assert!(parsed("url = \"file:///etc/passwd\"").is_err());
        assert!(parsed("url = \"https://store/w\"\nqueue_samples = 5").is_err());
    }
}
