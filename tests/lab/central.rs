//! The real `roundsman` as a process: own data directory, own port, spoken to by command line and API.

use std::fs::File;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{Host, PATIENCE, key_file};

/// For tests only; the program hashes it and forgets it.
const PASSWORD: &str = "only for the lab";

/// A central program that ends with the test.
pub(crate) struct Central {
    dir: TempDir,
    // Killed when it is dropped.
    _serving: Child,
    url: String,
    token: String,
    http: reqwest::Client,
}

impl Central {
    /// Serves on a free port with an administrator and a token.
    pub(crate) async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut serving = program(&dir)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("ROUNDSMAN_ADMIN_PASSWORD", PASSWORD)
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(serving.stdout.take().unwrap()).lines();
        let url = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(url) = line.strip_prefix("Log in at ") {
                    return url.trim_end_matches('/').to_owned();
                }
            }
            panic!("it ended: {}", std::fs::read_to_string(dir.path().join("log")).unwrap())
        });
        let url = url.await.expect("the program serves");
        // Only fails where it is done already, by another test of this process.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
        let mut central = Self { dir, _serving: serving, url, token: String::new(), http };
        central.token = central.cli(&["token", "create", "--role", "admin"]).await.trim().to_owned();
        central
    }

    /// Runs a command of the command line and answers its stdout; anything but exit 0 fails the test.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> String {
        let output = program(&self.dir).args(arguments).stdin(Stdio::null()).output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "roundsman {arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Enrols a host with the lab's own key; readings every `interval`.
    pub(crate) async fn enrol(&self, host: &Host, interval: &str) {
        let key = key_file();
        let add = ["add", &host.address, "--name", &host.name, "--tag", "lab", "--accept-new"];
        let with = ["--interval", interval, "--identity", key.to_str().unwrap()];
        self.cli(&[&add[..], &with[..]].concat()).await;
    }

    /// What the API answers at `path`, which must be a success.
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.try_get(path).await.unwrap_or_else(|answer| panic!("GET {path}: {answer}"))
    }

    /// As [`Central::get`]; the problem where the API refuses, for tables that were not read yet.
    pub(crate) async fn try_get(&self, path: &str) -> Result<Value, String> {
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body = answer.text().await.unwrap();
        if status.is_success() {
            Ok(serde_json::from_str(&body).unwrap())
        } else {
            Err(format!("{status} {body}"))
        }
    }

    /// The server of a host, as the API shows it.
    pub(crate) async fn server(&self, host: &Host) -> Value {
        self.get(&format!("/api/v1/fleet/servers/{}", host.name)).await
    }
}

impl Drop for Central {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("log of the central program:\n{log}");
        }
    }
}

/// The program with this data directory, and with nothing else of the developer's surroundings.
fn program(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roundsman"));
    for name in
        ["ROUNDSMAN_URL", "ROUNDSMAN_TOKEN", "ROUNDSMAN_TOKEN_FILE", "ROUNDSMAN_LISTEN", "ROUNDSMAN_INTERVAL"]
    {
        command.env_remove(name);
    }
    // Its home has no known_hosts, so that no key is approved but by --accept-new.
    command.env("HOME", dir.path()).env("ROUNDSMAN_DATA", dir.path().join("data"));
    command
}
