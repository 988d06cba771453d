//! `sessions`: what an open SSH session costs in memory, and what one dead address among many costs the others.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use roundsman::collect::ShellProbe;
use roundsman::collect::shell;
use roundsman::model::{Port, Secret, Sections};
use roundsman::ssh::transfer::Upload;
use roundsman::ssh::{HostKey, Identity, Session, Target, connect, keys};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fanout::farm::{self, Farm};
use crate::fleet::{Running, Window};
use crate::generator::Generator;
use crate::ledger::Ledger;
use crate::product::own_usage;
use crate::report::{Goal, Report, progress};

/// Dials at the same time, as the program has them.
const DIALS: usize = 64;
/// The file that is moved.
const FILE_BYTES: usize = 100_000_000;
/// Readings at the same time; more would measure the buffers of answers that are on their way at once.
const READINGS_AT_ONCE: usize = 16;
/// Goal for a session, KiB.
const SESSION_KIB: f64 = 110.0;
/// Interval of the fleet with a dead address.
const INTERVAL: Duration = Duration::from_secs(5);
/// A reading that is later than this was held up by somebody else.
const LATE_LIMIT_MS: f64 = 1000.0;

/// What is measured.
#[derive(Debug, Args)]
pub struct Options {
    #[arg(long, default_value_t = 1000)]
    servers: usize,
    /// Readings over each session before its memory is looked at.
    #[arg(long, default_value_t = 100)]
    readings: usize,
    /// Length of the measurement with a dead address.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// The process that holds the sessions.
#[derive(Debug, Args)]
pub struct HolderOptions {
    plan: PathBuf,
}

/// Where the sessions go.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    addresses: Vec<std::net::SocketAddr>,
    host_key: String,
    key: String,
    readings: usize,
}

/// What the holder found.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    kib_per_session: f64,
    cpu_us_per_reading: f64,
}

/// # Errors
/// When a server is not reached.
pub async fn run(program: &Path, options: &Options) -> anyhow::Result<()> {
    let held = hold(options).await?;
    let speeds = transfer().await?;
    let (lateness, missed) = dead_address(program, options).await?;
    let mut report = Report::default();
    report.count("sessions", "sessions", options.servers as u64);
    report.figure("kib_per_session", "memory a session, KiB", held.kib_per_session, Goal::Under(SESSION_KIB));
    report.figure("cpu_us_per_reading", "client CPU a reading, µs", held.cpu_us_per_reading, Goal::None);
    report.figure("upload_mib_s", "upload of 100 MB, MiB/s", speeds.upload, Goal::None);
    report.figure("scp_mib_s", "the same by scp, MiB/s", speeds.scp, Goal::None);
    report.figure("upload_ratio_to_scp", "upload to scp", speeds.upload / speeds.scp, Goal::AtLeast(0.5));
    report.figure("download_mib_s", "the file back, MiB/s", speeds.download, Goal::None);
    report.figure(
        "lateness_max_ms_with_dead_address",
        "late by, worst, with a dead address among them, ms",
        lateness,
        Goal::Under(LATE_LIMIT_MS),
    );
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    report.figure(
        "missed_with_dead_address",
        "missed readings of the others",
        missed as f64,
        Goal::Under(1.0),
    );
    report.print()?;
    Ok(())
}

/// Opens the sessions in a process of its own, so that the memory of the servers is not counted.
async fn hold(options: &Options) -> anyhow::Result<Held> {
    let (private, public) = keys::generate_ed25519("bench")?;
    let ledger = Arc::new(Ledger::new(options.servers, INTERVAL));
    let generator = Generator::start(Arc::clone(&ledger), options.servers, &public).await?;
    let directory = tempfile::Builder::new().prefix("roundsman-sessions-").tempdir()?;
    let path = directory.path().join("plan.json");
    let plan = Plan {
        addresses: generator.addresses.clone(),
        host_key: generator.host_key.clone(),
        key: private.expose().clone(),
        readings: options.readings,
    };
    std::fs::write(&path, serde_json::to_vec(&plan)?)?;
    progress(&format!("{} sessions, {} readings each", options.servers, options.readings));
    let mut holder = tokio::process::Command::new(std::env::current_exe()?)
        .arg("sessions-holder")
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut line = String::new();
    let printed = holder.stdout.take().context("no output of the holder")?;
    BufReader::new(printed).read_line(&mut line).await?;
    // The servers are asked while it still holds the connections; that they end is nothing to complain about.
    let complaints = ledger.finish(Instant::now(), Instant::now()).complaints;
    ensure!(complaints.is_empty(), "a server complains: {:?}", complaints.first());
    drop(holder.stdin.take());
    ensure!(holder.wait().await?.success(), "the sessions were not held");
    serde_json::from_str(&line).context("what the holder printed")
}

/// # Errors
/// When a session or a reading fails.
pub async fn run_holder(options: &HolderOptions) -> anyhow::Result<()> {
    let plan: Plan = serde_json::from_slice(&std::fs::read(&options.plan)?)?;
    let key = Secret::new(plan.key);
    let host_key = HostKey::parse(&plan.host_key)?;
    let gate = Arc::new(Semaphore::new(DIALS));
    let token = CancellationToken::new();
    let turns = Arc::new(Semaphore::new(READINGS_AT_ONCE));
    let before = own_usage()?;
    let mut holders = JoinSet::new();
    for address in &plan.addresses {
        let identity = Identity::Key(key.clone());
        let port = Port::of(i64::from(address.port()))?;
        let target = Target {
            pinned: Some(host_key.clone()),
            connect_timeout: Duration::from_secs(60),
            ..Target::new(address.ip().to_string(), port, "bench", identity)
        };
        let session = Session::start(target, Arc::clone(&gate), token.clone());
        let turns = Arc::clone(&turns);
        holders.spawn(async move {
            let connection = session.connection().await?;
            let mut probe = ShellProbe::start(connection.open(shell::COMMAND).await?).await?;
            for _ in 0..plan.readings {
                // The program reads its servers one after the other, spread over the interval.
                let _turn = turns.acquire().await?;
                probe.read(Sections::BASE).await?;
            }
            anyhow::Ok((session, probe))
        });
    }
    let mut held = Vec::with_capacity(plan.addresses.len());
    while let Some(holder) = holders.join_next().await {
        held.push(holder??);
    }
    let after = own_usage()?;
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let sessions = held.len() as f64;
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let readings = plan.readings as f64;
    let result = Held {
        kib_per_session: (after.rss_mib - before.rss_mib) * 1024.0 / sessions,
        cpu_us_per_reading: 1e6 * (after.cpu_seconds - before.cpu_seconds) / (sessions * readings),
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&result)?)?;
    // Until the other side has seen enough.
    tokio::task::block_in_place(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))?;
    Ok(())
}

/// What a file was moved with.
struct Speeds {
    upload: f64,
    scp: f64,
    download: f64,
}

/// A file to a real sshd and back, and the same by scp; medians of three, in turns.
async fn transfer() -> anyhow::Result<Speeds> {
    let farm = Farm::start(1)?;
    let address = farm.addresses.first().context("no server")?;
    let place = farm.directory.path().join("home");
    let file = farm.directory.path().join("file");
    let mut bytes = vec![0_u8; FILE_BYTES];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut bytes);
    std::fs::write(&file, &bytes)?;
    let identity = Identity::Key(Secret::new(std::fs::read_to_string(&farm.key)?));
    let target = Target {
        pinned: Some(HostKey::parse(&farm.host_key)?),
        ..Target::new(address.ip().to_string(), Port::of(i64::from(address.port()))?, &farm.user, identity)
    };
    let (mut up, mut scp, mut down) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        // Both pay for the login.
        let begun = Instant::now();
        let connection = connect(&target, &mut |_| {}).await?;
        let path = place.join("ours").display().to_string();
        let upload = Upload { path: path.clone(), size_bytes: FILE_BYTES as u64, mode: None };
        let mut source = tokio::fs::File::open(&file).await?;
        Box::pin(connection.upload(&mut source, &upload, &mut |_| {})).await?;
        up.push(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let mut sink = tokio::io::sink();
        let limit = FILE_BYTES as u64;
        Box::pin(connection.download(&path, limit, &mut sink, &mut |_| {})).await?;
        down.push(begun.elapsed().as_secs_f64());
        connection.close().await;
        let begun = Instant::now();
        farm::run(
            std::process::Command::new("scp")
                .args(["-q", "-F", "none", "-i"])
                .arg(&farm.key)
                .args(["-P", &address.port().to_string(), "-o", "StrictHostKeyChecking=yes", "-o"])
                .arg(format!("UserKnownHostsFile={}", farm.known_hosts.display()))
                .arg(&file)
                .arg(format!("{}@{}:{}", farm.user, address.ip(), place.join("theirs").display())),
        )?;
        scp.push(begun.elapsed().as_secs_f64());
    }
    #[expect(clippy::cast_precision_loss, reason = "100 million")]
    let speed = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        FILE_BYTES as f64 / (1024.0 * 1024.0) / seconds.get(1).copied().unwrap_or(f64::NAN)
    };
    Ok(Speeds { upload: speed(up), scp: speed(scp), download: speed(down) })
}

/// The program with its fleet and one more address that takes connections and never says a word: how late the worst
/// reading of the others is, ms, and how many are missed.
async fn dead_address(program: &Path, options: &Options) -> anyhow::Result<(f64, u64)> {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut running = Running::start(program, options.servers, INTERVAL).await?;
    running
        .product
        .add(&json!({
            "name": "dead",
            "hostname": "127.0.0.1",
            "port": silent.local_addr()?.port(),
            "username": "bench",
            "unchecked": true,
            "interval_ms": 1000,
        }))
        .await?;
    tokio::time::sleep(INTERVAL).await;
    progress(&format!("measuring for {} s with a dead address", options.seconds));
    running.ledger.begin();
    let begun = Instant::now();
    Window::measure(&running.product, Duration::from_secs(options.seconds)).await?;
    let outcome = running.ledger.finish(begun, Instant::now());
    let state = running.product.get("/api/v1/fleet/servers/dead").await?;
    running.product.stop().await?;
    let reachable =
        state.pointer("/reachability/state").and_then(serde_json::Value::as_str) == Some("reachable");
    ensure!(!reachable, "the dead address was read: {state}");
    Ok((outcome.late_ms(1.0), outcome.missed))
}
