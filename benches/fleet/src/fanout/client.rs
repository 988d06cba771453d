//! Our own side of the fan-out, in a process of its own so that its CPU time is its alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;
use roundsman::model::{Port, Secret};
use roundsman::ssh::{ExecRequest, HostKey, Identity, Session, Target};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Dials at the same time, as the program has them.
const DIALS: usize = 64;
/// A machine that is busy with 128 logins is slow for a moment.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// What is to be done; the peers read the same file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    pub hosts: Vec<Host>,
    pub user: String,
    pub key: PathBuf,
    pub known_hosts: PathBuf,
    pub host_key: String,
    pub command: String,
    /// What the command prints, without the line's end.
    pub answer: String,
    /// 0: connect, run once, leave. Else: this many timed rounds over connections that are kept.
    pub rounds: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    pub host: String,
    pub port: u16,
}

/// What a client prints at its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    pub commands: usize,
    /// None: the whole process is what is measured.
    #[serde(default)]
    pub wall_s: Option<f64>,
    #[serde(default)]
    pub cpu_s: Option<f64>,
}

/// # Errors
/// When a server cannot be reached or answers something else.
pub async fn run(plan: &Path) -> anyhow::Result<Done> {
    let plan: Plan = serde_json::from_slice(&std::fs::read(plan)?)?;
    let key = Secret::new(std::fs::read_to_string(&plan.key)?);
    let host_key = HostKey::parse(&plan.host_key)?;
    let gate = Arc::new(Semaphore::new(DIALS));
    let token = CancellationToken::new();
    let mut sessions = Vec::with_capacity(plan.hosts.len());
    for host in &plan.hosts {
        let port = Port::of(i64::from(host.port))?;
        let identity = Identity::Key(key.clone());
        let target = Target {
            pinned: Some(host_key.clone()),
            connect_timeout: CONNECT_LIMIT,
            ..Target::new(&host.host, port, &plan.user, identity)
        };
        sessions.push(Session::start(target, Arc::clone(&gate), token.clone()));
    }
    let (commands, rounds) = (sessions.len(), plan.rounds);
    // As the program does it: in a task. What waits outside of one is woken by a write to the kernel each time.
    let (sessions, plan) = (Arc::new(sessions), Arc::new(plan));
    let rounds_of = |times: usize| {
        let (sessions, plan) = (Arc::clone(&sessions), Arc::clone(&plan));
        tokio::spawn(async move {
            for _ in 0..times {
                round(&sessions, &plan).await?;
            }
            anyhow::Ok(())
        })
    };
    rounds_of(1).await??;
    if rounds == 0 {
        return Ok(Done { commands, wall_s: None, cpu_s: None });
    }
    let (begun, before) = (Instant::now(), cpu_s());
    rounds_of(rounds).await??;
    let wall_s = begun.elapsed().as_secs_f64();
    let cpu_s = cpu_s() - before;
    Ok(Done { commands: commands * rounds, wall_s: Some(wall_s), cpu_s: Some(cpu_s) })
}

/// User and system time of this process so far, seconds; /proc counts in hundredths only.
fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "seconds of a process")]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    seconds
}

async fn round(sessions: &[Session], plan: &Plan) -> anyhow::Result<()> {
    let results = join_all(sessions.iter().map(|session| async move {
        let connection = session.connection().await?;
        connection.exec(ExecRequest::new(&plan.command).timeout(CONNECT_LIMIT)).await
    }))
    .await;
    for result in results {
        let output = result.context("a server did not answer")?;
        let text = output.stdout_text();
        ensure!(output.success() && text.trim() == plan.answer, "wrong answer: {output:?}");
    }
    Ok(())
}
