//! Wires everything together, once: what is opened in which order, and how it ends.

use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ENVIRONMENT, runtime_pointer};
use crate::export::{Export, Options, Sources};
use crate::fleet::{Fleet, FleetSettings, Polling};
use crate::history::History;
use crate::model::{Caller, OrganizationId};
use crate::operations::Operations;
use crate::services::Services;
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::{Store, sealed};
use crate::tasks::Tasks;
use crate::vault::Vault;
use crate::web;

/// What an earlier version may have left readable for others.
const PRIVATE_FILES: [&str; 7] = [
    "lock",
    "roundsman.db",
    "roundsman.db-wal",
    "roundsman.db-shm",
    "history.db",
    "history.db-wal",
    "history.db-shm",
];

/// Name of the socket in the data directory through which the command line talks to a running server.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Open files beside one connection a server: databases, pages, the command line, dials that are under way.
const OTHER_FILES: u64 = 512;

/// Why Roundsman cannot start; each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("another Roundsman uses {data} already; stop it first, or choose another directory with --data")]
    Locked { data: PathBuf },
    #[error(
        "cannot use the data directory {data}: {cause}; create it and give it to this user, or choose another with --data"
    )]
    Data { data: PathBuf, cause: String },
    #[error("cannot listen on {address}: {cause}{hint}", hint = port_hint(*in_use, *address))]
    Listen { address: SocketAddr, cause: String, in_use: bool },
    #[error("cannot make the control socket {path}: {cause}")]
    Control { path: PathBuf, cause: String },
    #[error(transparent)]
    Open(#[from] anyhow::Error),
}

fn port_hint(in_use: bool, address: SocketAddr) -> String {
    if in_use {
        format!(
            "; another program has the port: find it with 'ss -ltnp sport = :{}', or choose another with --listen",
            address.port()
        )
    } else {
        String::new()
    }
}

/// The data directory, ours alone while this lives.
#[derive(Debug)]
struct DataLock {
    _file: File,
}

/// Makes the directory (0700) if it is missing and locks it.
fn lock(data: &Path) -> Result<DataLock, AppError> {
    let failed = |error: std::io::Error| AppError::Data { data: data.to_owned(), cause: error.to_string() };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(failed)?;
    let file =
        File::options().create(true).truncate(false).write(true).open(data.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(DataLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(AppError::Locked { data: data.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Everything that is open.
struct Open {
    services: Services,
    history: History,
    _lock: DataLock,
}

async fn open(config: &Config, lock: DataLock, polling: Polling) -> Result<Open, AppError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // Made first where there is none: a database without its key would be the worse half.
    let vault = Vault::open(&config.data, config.master_key.as_ref()).map_err(anyhow::Error::from)?;
    let database = config.data.join("roundsman.db");
    let store = Store::open(&database).map_err(anyhow::Error::from)?;
    let vault = settled(config, &store, vault).await?;
    let history =
        History::open(&config.data.join("history.db"), Arc::clone(&clock)).map_err(anyhow::Error::from)?;
    for name in PRIVATE_FILES {
        let path = config.data.join(name);
        if !path.exists() {
            continue;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .map_err(|error| AppError::Data { data: path, cause: error.to_string() })?;
    }
    let auth = Auth::new(store.clone(), Arc::clone(&clock));
    let settings = FleetSettings {
        default_interval: config.interval,
        polling,
        ssh_agent: config.ssh_agent.clone(),
        agents: config.agents.clone(),
        allow_local_actions: config.allow_local_actions,
    };
    let fleet = Fleet::start(store.clone(), vault.clone(), history.clone(), Arc::clone(&clock), settings)
        .await
        .map_err(anyhow::Error::from)?;
    let sources = Sources {
        store: store.clone(),
        vault,
        history: history.clone(),
        fleet: fleet.clone(),
        clock: Arc::clone(&clock),
    };
    let options = Options {
        data: config.data.clone(),
        metrics_without_login: config.metrics_without_login,
        remote_write: config.remote_write.clone(),
        retention: config.retention.clone(),
    };
    let export = Export::new(sources, options).map_err(anyhow::Error::from)?;
    let operations =
        Operations::start(store.clone(), fleet.clone(), Arc::clone(&clock), config.allow_local_actions)
            .await
            .map_err(anyhow::Error::from)?;
    let tasks = Tasks::start(store, fleet.clone(), operations.clone(), Arc::clone(&clock), polling)
        .await
        .map_err(anyhow::Error::from)?;
    let started_at = clock.now();
    if polling == Polling::On {
        export.start();
    }
    let services = Services { auth, fleet, operations, tasks, export, clock, started_at };
    Ok(Open { services, history, _lock: lock })
}

/// The master key under which the secrets are: a change of it that was cut off is brought to its end, or undone.
async fn settled(config: &Config, store: &Store, vault: Vault) -> Result<Vault, anyhow::Error> {
    if config.master_key.is_some() {
        return Ok(vault);
    }
    let Some(next) = Vault::pending(&config.data)? else { return Ok(vault) };
    match store.read(sealed::sample).await? {
        Some((row, value)) if next.open_sealed(&row, &value).is_ok() => {
            tracing::info!("the master key is replaced");
            Vault::adopt_pending(&config.data)?;
            Ok(next)
        }
        _ => {
            tracing::warn!("a change of the master key was not completed; the old key stays");
            Vault::drop_pending(&config.data)?;
            Ok(vault)
        }
    }
}

/// Seals every stored secret with the master key in `key_file`, which takes the place of the present one. Answers how many
/// there were. Either all of them are under the new key afterwards or all under the old one.
///
/// # Errors
/// [`AppError::Locked`] while a server runs; else why nothing was changed.
pub async fn reseal(config: &Config, key_file: &Path) -> Result<usize, AppError> {
    let _lock = lock(&config.data)?;
    let failed = anyhow::Error::from;
    let (next, text) = Vault::from_file(key_file).map_err(failed)?;
    let present = Vault::open(&config.data, config.master_key.as_ref()).map_err(failed)?;
    let store = Store::open(&config.data.join("roundsman.db")).map_err(anyhow::Error::from)?;
    let present = settled(config, &store, present).await?;
    let in_file = config.master_key.is_none();
    if in_file {
        Vault::lay_ready(&config.data, &text).map_err(failed)?;
    }
    let now = SystemClock.now();
    let record = AuditEntry::by(&Caller::roundsman(), "master-key.replace", "master key");
    let before = present.clone();
    let done = store.write(move |tx| {
        let count = sealed::replace_all(tx, |row, value| {
            let secret = present.open_sealed(row, value)?;
            Ok::<_, anyhow::Error>(next.seal(row, &secret)?)
        })?;
        audit::append(tx, now, &record.detail(format!("{count} secrets sealed anew")))?;
        Ok::<_, anyhow::Error>(count)
    });
    let done = done.await;
    // By what stands in the database, not by what was answered: a failure may be of the answer only.
    settled(config, &store, before).await?;
    let count = done?;
    // What was sealed with the old key must not be found in the free pages of the file.
    store.compact().await.map_err(anyhow::Error::from)?;
    Ok(count)
}

impl Open {
    /// Tasks first, so that nothing new begins; then actions, while there are connections to end them over; then pollers, so that nothing is appended afterwards; then what they appended goes to disk.
    async fn close(self) {
        self.services.tasks.stop().await;
        self.services.operations.stop().await;
        self.services.export.stop().await;
        self.services.fleet.stop().await;
        if let Err(error) = self.history.close().await {
            tracing::error!(%error, "the last readings could not be written");
        }
    }
}

async fn listen(config: &Config) -> Result<Vec<TcpListener>, AppError> {
    let mut listeners = Vec::with_capacity(config.listen.len());
    for address in &config.listen {
        let listener = TcpListener::bind(address).await.map_err(|error| AppError::Listen {
            address: *address,
            in_use: error.kind() == std::io::ErrorKind::AddrInUse,
            cause: error.to_string(),
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listen_control(data: &Path) -> Result<tokio::net::UnixListener, AppError> {
    let path = data.join(CONTROL_SOCKET);
    web::listen_control(&path).map_err(|error| AppError::Control { path, cause: error.to_string() })
}

/// Serves until the process is told to end.
///
/// # Errors
/// [`AppError`] when something cannot be opened; nothing is left behind.
pub async fn serve(config: Config) -> Result<(), AppError> {
    // Whoever sends a signal after our first line must not meet the default action, which writes nothing.
    let end = EndOfProcess::watch().context("watching for signals")?;
    // The lock comes before the port: two servers on one data directory are the worse mistake. Servers are contacted
    // only when both are ours.
    let lock = lock(&config.data)?;
    let open_files = raise_open_files();
    let tcp = listen(&config).await?;
    let open = open(&config, lock, Polling::On).await?;
    let control = listen_control(&config.data)?;
    let addresses: Vec<SocketAddr> = tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    prepare(&config, &open.services).await?;
    let servers =
        open.services.fleet.summary(&Caller::roundsman()).context("counting the servers")?.total_servers;
    if let Some(warning) = too_few_files(open_files, servers) {
        tracing::warn!(open_files, servers, "{warning}");
    }
    greet(&open.services, &addresses).await?;
    let pointer = point_to(&config.data);
    let stop = CancellationToken::new();
    let ending = stop.clone();
    tokio::spawn(async move {
        end.asked_for().await;
        tracing::info!("ending");
        ending.cancel();
    });
    tracing::info!(data = %config.data.display(), listen = ?addresses, "serving");
    web::serve(web::site(&open.services), tcp, control, stop).await;
    open.close().await;
    remove(&config.data.join(CONTROL_SOCKET));
    if let Some(pointer) = pointer.filter(|pointer| points_to(pointer, &config.data)) {
        remove(&pointer);
    }
    Ok(())
}

/// Lets this process open as many files as the system permits it; how many that are. None: without limit.
/// The usual soft limit of 1,024 is there for old programs that use select(2); see `DefaultLimitNOFILE` in
/// systemd-system.conf(5).
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            limit.current
        }
    }
}

/// What to tell a person when not every server can have its connection.
fn too_few_files(open_files: Option<u64>, servers: u32) -> Option<String> {
    let needed = u64::from(servers) + OTHER_FILES;
    let limit = open_files.filter(|&limit| limit < needed)?;
    Some(format!(
        "{servers} servers need about {needed} open files, but this process may open only {limit}: some servers will \
         stay unreachable. Raise the hard limit (LimitNOFILE= of the systemd unit, or ulimit -Hn) and start again."
    ))
}

/// First administrator and local machine, where they are missing.
async fn prepare(config: &Config, services: &Services) -> Result<(), AppError> {
    if let Some(password) = config.admin_password.clone() {
        let made = services
            .auth
            .create_first_admin(password)
            .await
            .context("the configured administrator password")?;
        if made {
            tracing::info!("the administrator 'admin' was made with the configured password");
        }
    }
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    services.fleet.ensure_local(hostname.trim()).await.context("enrolling this machine")?;
    Ok(())
}

/// Tells the person at the terminal how to go on.
#[expect(
    clippy::print_stdout,
    reason = "the set-up address goes to the person who starts the program, not to the log"
)]
async fn greet(services: &Services, addresses: &[SocketAddr]) -> Result<(), AppError> {
    let key =
        services.fleet.default_public_key(OrganizationId::DEFAULT).await.context("reading the SSH key")?;
    println!("Roundsman's public key, for ~/.ssh/authorized_keys of your servers:\n\n  {key}\n");
    let place = addresses.first().map_or_else(String::new, |address| format!("http://{address}"));
    match services.auth.begin_setup().await.context("preparing the set-up address")? {
        Some(secret) => println!(
            "Open this address within an hour and choose the administrator's password:\n\n  {place}/setup/{}\n",
            secret.expose()
        ),
        None => println!("Log in at {place}/\n"),
    }
    Ok(())
}

/// SIGTERM and SIGINT, from now on.
struct EndOfProcess {
    terminate: Signal,
    interrupt: Signal,
}

impl EndOfProcess {
    fn watch() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked_for(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Leaves word where the socket is, so that the command line finds this server without being told.
fn point_to(data: &Path) -> Option<PathBuf> {
    let pointer = runtime_pointer(ENVIRONMENT)?;
    let socket = data.canonicalize().ok()?.join(CONTROL_SOCKET);
    let written = pointer
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&pointer, socket.to_string_lossy().as_bytes()));
    match written {
        Ok(()) => Some(pointer),
        Err(error) => {
            tracing::info!(%error, pointer = %pointer.display(), "the command line will need --data to find this server");
            None
        }
    }
}

/// False when another server, on data of its own, has left word since.
fn points_to(pointer: &Path, data: &Path) -> bool {
    let socket = data.canonicalize().map(|data| data.join(CONTROL_SOCKET)).ok();
    fs::read_to_string(pointer).ok().map(PathBuf::from) == socket
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "a file of this run could not be removed");
    }
}

/// The data directory opened by the command line while no server runs: the control socket answers, nothing is polled.
#[derive(Debug)]
pub struct Offline {
    open: Option<Box<Open>>,
    serving: JoinHandle<()>,
    stop: CancellationToken,
    socket: PathBuf,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open")
    }
}

/// Opens the data directory without polling and without TCP; the control socket answers as in a running server.
///
/// # Errors
/// [`AppError::Locked`] when a server runs; else why something cannot be opened.
pub async fn offline(config: &Config) -> Result<Offline, AppError> {
    let open = open(config, lock(&config.data)?, Polling::Off).await?;
    let control = listen_control(&config.data)?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(web::serve(web::site(&open.services), Vec::new(), control, stop.clone()));
    let socket = config.data.join(CONTROL_SOCKET);
    Ok(Offline { open: Some(Box::new(open)), serving, stop, socket })
}

impl Offline {
    /// Where to connect.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Writes everything and gives the directory free.
    pub async fn close(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(Duration::from_secs(5), &mut self.serving).await.is_err() {
            self.serving.abort();
        }
        if let Some(open) = self.open.take() {
            open.close().await;
        }
        remove(&self.socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_open_files_below_the_number_of_servers_is_said_with_its_remedy() {
        assert_eq!(too_few_files(None, 5000), None);
        assert_eq!(too_few_files(Some(20_000), 5000), None);
        let warning = too_few_files(Some(1024), 1000).unwrap();
        assert!(warning.contains("LimitNOFILE") && warning.contains("1024"), "{warning}");
    }
}
