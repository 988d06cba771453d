//! The real binary as a child: started, asked, killed and started again on one data directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::{in_time, processes};

const BINARY: &str = env!("CARGO_BIN_EXE_roundsman");

/// A running `roundsman serve`.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    /// The one-time set-up address, while nobody can log in.
    pub(crate) setup: Option<String>,
    child: Child,
    log: JoinHandle<String>,
    data: PathBuf,
    arguments: Vec<String>,
    _dir: Option<TempDir>,
}

impl Program {
    /// On a new data directory and a free port.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("roundsman-data-").tempdir().unwrap();
        let data = dir.path().join("data");
        Self { _dir: Some(dir), ..Self::start_on(&data, arguments).await }
    }

    pub(crate) async fn start_on(data: &Path, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let mut child = serve(data, "127.0.0.1:0", &arguments).kill_on_drop(true).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = tokio::spawn(async move {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).await.unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Both lines that end the greeting carry the address.
        let greeting = in_time("the address on stdout", async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, place)) = line.split_once("http://") {
                    return Some(place.trim().to_owned());
                }
            }
            None
        });
        let Some(place) = greeting.await else { panic!("it ended: {}", log.await.unwrap()) };
        let (address, path) = place.split_once('/').unwrap();
        let setup = path.starts_with("setup/").then(|| format!("/{path}"));
        let (address, data) = (address.parse().unwrap(), data.to_owned());
        Self { address, setup, child, log, data, arguments, _dir: None }
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) async fn kill9(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts again with the same data and arguments, on another port. The process before must have ended.
    pub(crate) async fn restart(mut self) -> Self {
        let (dir, data) = (self._dir.take(), self.data.clone());
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        Self { _dir: dir, ..Self::start_on(&data, &arguments).await }
    }

    /// SIGTERM; how long the end took, its exit code, and the log.
    pub(crate) async fn terminate(&mut self) -> (Duration, Option<i32>, String) {
        let asked = tokio::time::Instant::now();
        processes::signal("TERM", &[self.pid()]);
        let status = in_time("the end", self.child.wait()).await.unwrap();
        let took = asked.elapsed();
        (took, status.code(), (&mut self.log).await.unwrap())
    }

    /// A command of the same binary on the same data directory.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Output {
        cli(&self.data, arguments).await
    }

    /// An access token, as `roundsman token create` prints it.
    pub(crate) async fn token(&self, role: &str) -> String {
        let output = self.cli(&["token", "create", "--role", role]).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A GET of the API: status and JSON.
    pub(crate) async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        let request = client().get(format!("http://{}{path}", self.address)).bearer_auth(token);
        let response = in_time("an answer", request.send()).await.unwrap();
        (response.status().as_u16(), in_time("a body", response.json()).await.unwrap())
    }
}

fn serve(data: &Path, listen: &str, arguments: &[String]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["serve", "--listen", listen, "--data"]).arg(data).args(arguments);
    clean(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What the developer's own environment says of Roundsman must not reach the child.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROUNDSMAN_") {
            command.env_remove(name);
        }
    }
}

/// `roundsman serve` where it is expected to end by itself: exit code, stdout, stderr.
pub(crate) async fn serve_fails(data: &Path, listen: &str) -> (Option<i32>, String, String) {
    let output = in_time("the end", serve(data, listen, &[]).kill_on_drop(true).output()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

pub(crate) async fn cli(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("--data").arg(data).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    clean(&mut command);
    in_time("a command", command.output()).await.unwrap()
}

/// reqwest asks for a TLS provider even where it speaks plain HTTP.
pub(crate) fn client() -> reqwest::Client {
    // A second call in one process finds the provider of the first.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}
