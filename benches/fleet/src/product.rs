//! The real program as a separate process: starts it, speaks its API over the control socket, reads what it costs.
//!
//! Ends only the process that it started.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::generator::Generator;

/// Ticks a second in /proc/PID/stat; Linux shows user space this many on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;
/// How long the program may take until it answers at all.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often it is asked whether it answers.
const START_POLL: Duration = Duration::from_millis(2);
/// Saying goodbye to thousands of servers takes a while.
const STOP_LIMIT: Duration = Duration::from_secs(90);
/// Enrolments at the same time.
const ENROL_AT_ONCE: usize = 8;

/// A data directory and perhaps a program that runs on it.
#[derive(Debug)]
pub struct Product {
    program: PathBuf,
    data: TempDir,
    child: Option<Child>,
    http: reqwest::Client,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub rss_mib: f64,
    pub peak_rss_mib: f64,
    pub written_bytes: u64,
    pub threads: u64,
}

impl Product {
    /// # Errors
    /// When there is no directory for the data.
    pub fn new(program: &Path) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new().prefix("roundsman-bench-").tempdir()?;
        let http = reqwest::Client::builder()
            .unix_socket(data.path().join("control.sock"))
            .tls_certs_only([])
            .no_proxy()
            .build()?;
        Ok(Self { program: program.to_owned(), data, child: None, http })
    }

    /// Starts the program; how long it took until it answered that it is alive.
    ///
    /// # Errors
    /// When it cannot be started or says nothing in time; its own words are in the message.
    pub async fn start(&mut self) -> anyhow::Result<Duration> {
        let log = std::fs::File::create(self.log())?;
        let started = Instant::now();
        let child = Command::new(&self.program)
            .arg("serve")
            .arg("--data")
            .arg(self.data.path())
            .args(["--listen", "127.0.0.1:0"])
            .env("ROUNDSMAN_LOG", "warn")
            // The pointer of a Roundsman that runs on this machine is not ours to replace.
            .env("ROUNDSMAN_RUNTIME_DIR", self.data.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        self.child = Some(child);
        loop {
            if self.get("/api/health").await.is_ok() {
                return Ok(started.elapsed());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().transpose());
            if ended.is_some() || started.elapsed() > START_LIMIT {
                let said = std::fs::read_to_string(self.log()).unwrap_or_default();
                bail!("the program does not answer; it said:\n{said}");
            }
            tokio::time::sleep(START_POLL).await;
        }
    }

    fn log(&self) -> PathBuf {
        self.data.path().join("log.txt")
    }

    /// Lines that it logged as a warning or worse, the first few of them.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let bad =
            |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked");
        log.lines().filter(bad).take(5).map(str::to_owned).collect()
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id() {
            Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        }
        match tokio::time::timeout(STOP_LIMIT, child.wait()).await {
            Ok(status) => {
                status?;
                Ok(())
            }
            Err(_) => {
                child.kill().await?;
                bail!("the program did not end within {} s", STOP_LIMIT.as_secs())
            }
        }
    }

    /// # Errors
    /// When it does not answer, or with an error.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.http.get(format!("http://localhost{path}")).send().await?.error_for_status()?;
        Ok(response.json().await?)
    }

    /// Sends a body and answers the body that comes back.
    ///
    /// # Errors
    /// When it does not answer, or refuses; its own words are in the message.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let sent = self.http.post(format!("http://localhost{path}")).json(body).send().await?;
        let (status, text) = (sent.status(), sent.text().await?);
        if status.is_success() { Ok(serde_json::from_str(&text)?) } else { bail!("{path}: {status} {text}") }
    }

    /// A page as a browser gets it.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub async fn page(&self, path: &str) -> anyhow::Result<String> {
        let response = self.http.get(format!("http://localhost{path}")).send().await?.error_for_status()?;
        Ok(response.text().await?)
    }

    /// The public key with which it logs in.
    ///
    /// # Errors
    /// When the API names none.
    pub async fn public_key(&self) -> anyhow::Result<String> {
        let keys = self.get("/api/v1/keys").await?;
        let line = keys.pointer("/items/0/public_key").and_then(Value::as_str);
        line.map(str::to_owned).with_context(|| format!("no key in {keys}"))
    }

    /// Enrols every server of the generator, each read every `interval`.
    ///
    /// # Errors
    /// What the API says of the first that it refuses.
    pub async fn enrol(&self, generator: &Generator, interval: Duration) -> anyhow::Result<()> {
        let requests = generator.addresses.iter().enumerate().map(|(number, address)| async move {
            let body = json!({
                "name": format!("s{number:05}"),
                "hostname": address.ip().to_string(),
                "port": address.port(),
                "username": "bench",
                "host_key": generator.host_key,
                "unchecked": true,
                "environment": "bench",
                "interval_ms": u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            });
            self.add(&body).await
        });
        let mut answers = futures_util::stream::iter(requests).buffer_unordered(ENROL_AT_ONCE);
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    }

    /// Enrols one server.
    ///
    /// # Errors
    /// What the API says when it refuses.
    pub async fn add(&self, body: &Value) -> anyhow::Result<()> {
        let sent = self.http.post("http://localhost/api/v1/fleet/servers").json(body).send().await?;
        if sent.status().is_success() {
            return Ok(());
        }
        bail!("enrolling {}: {} {}", body["name"], sent.status(), sent.text().await.unwrap_or_default())
    }

    /// What the running program has used.
    ///
    /// # Errors
    /// When it does not run.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.child.as_ref().and_then(Child::id).context("the program does not run")?;
        usage(&format!("/proc/{pid}"))
    }

    /// Process id of the running program, for whoever profiles it.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Size of the history on disk, its log included.
    #[must_use]
    pub fn history_bytes(&self) -> u64 {
        let size = |name| std::fs::metadata(self.data.path().join(name)).map_or(0, |file| file.len());
        size("history.db") + size("history.db-wal")
    }

    /// Series that history keeps of one server.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn series_of(&self, name: &str) -> anyhow::Result<usize> {
        let path = format!("/api/v1/fleet/servers/{name}/metrics");
        let known = self.get(&path).await?;
        let mut count = 0;
        for metric in known.get("metrics").and_then(Value::as_array).into_iter().flatten() {
            let metric = metric.as_str().context("a metric without a name")?;
            let found = self.get(&format!("{path}?metric={metric}&points=1")).await?;
            count += found.get("series").and_then(Value::as_array).map_or(0, Vec::len);
        }
        Ok(count)
    }
}

/// What this very process has used.
///
/// # Errors
/// When /proc cannot be read.
pub fn own_usage() -> anyhow::Result<Usage> {
    usage("/proc/self")
}

/// Source: proc(5).
fn usage(directory: &str) -> anyhow::Result<Usage> {
    let read = |name: &str| {
        std::fs::read_to_string(format!("{directory}/{name}"))
            .with_context(|| format!("reading {directory}/{name}"))
    };
    let stat = read("stat")?;
    let after = stat.rsplit_once(')').map(|(_, rest)| rest).context("no name in stat")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let status = read("status")?;
    let number = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let mib = |key| {
        number(&status, key)
            .and_then(|kib| u32::try_from(kib).ok())
            .map_or(0.0, |kib| f64::from(kib) / 1024.0)
    };
    Ok(Usage {
        cpu_seconds: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
        rss_mib: mib("VmRSS:"),
        peak_rss_mib: mib("VmHWM:"),
        written_bytes: number(&read("io")?, "write_bytes:").unwrap_or(0),
        threads: number(&status, "Threads:").unwrap_or(0),
    })
}

/// Seconds that all cores together were busy and existed, since boot.
///
/// # Errors
/// When /proc/stat cannot be read.
pub fn machine_seconds() -> anyhow::Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let all: f64 = ticks.iter().sum();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    Ok(((all - idle) / TICKS_PER_SECOND, all / TICKS_PER_SECOND))
}
