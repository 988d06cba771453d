//! The way for actions: which server is meant, and what runs a command on it.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acting::Lease;
use super::{Fleet, FleetError};
use crate::actions::{Action, ActionError, Plan, Surroundings};
use crate::auth;
use crate::model::{
    Caller, Event, Reachability, Role, Secret, SecretKind, ServerId, ServerName, Status, Transport,
    WatchedService,
};
use crate::ssh::{Connection, ExecRequest, Output, Piece, SshError};

/// Where local commands find programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes read from a local command at a time.
const READ_BYTES: usize = 16 * 1024;
/// After TERM a process group has this long before KILL.
const GRACE: Duration = Duration::from_secs(2);

/// A server as far as an action needs to know it.
#[derive(Debug, Clone)]
pub struct ActionTarget {
    pub id: ServerId,
    pub name: ServerName,
    pub transport: Transport,
    pub surroundings: Surroundings,
    /// Why nothing can be done there, as far as that is known before anything is tried.
    pub impediment: Option<String>,
    /// What is watched there.
    pub watched: Arc<[Arc<WatchedService>]>,
}

impl ActionTarget {
    /// The exact command of an action on this server.
    ///
    /// # Errors
    /// As [`Action::plan`]; [`ActionError::NotHere`] for a watched service that is not watched here, or has no such command.
    pub fn plan(&self, action: &Action) -> Result<Plan, ActionError> {
        let Action::WatchedService { name, verb } = action else { return action.plan(self.surroundings) };
        let watched = self.watched.iter().find(|one| one.name == *name).ok_or_else(|| {
            ActionError::NotHere(format!("no service named {name} is watched on {}", self.name))
        })?;
        let command = watched.command(*verb).ok_or_else(|| {
            ActionError::NotHere(format!("the watched service {name} has no command to {} it", verb.name()))
        })?;
        Action::run_command(&command, watched.sudo, None)?.plan(self.surroundings)
    }
}

const READINGS_ONLY: &str = "its key may take readings and nothing else; give the server an action login";

const NO_SSH_ADDRESS: &str = "this server reports by itself and has no SSH address, so nothing can be run on it; give it an address and a user in its \
     configuration";

/// Runs commands on one server.
#[derive(Debug, Clone)]
pub enum Hand {
    /// With a lease where the connection is that of a second identity, which is closed when nobody holds one.
    Ssh(Connection, Option<Lease>),
    /// This machine.
    Local,
}

impl Hand {
    /// Runs a command to its end. Dropping the future ends the command.
    ///
    /// # Errors
    /// As [`Connection::exec`]; a local command that cannot be started is [`SshError::RemoteFailed`].
    pub async fn exec(&self, request: ExecRequest) -> Result<Output, SshError> {
        match self {
            Self::Ssh(connection, _) => connection.exec(request).await,
            Self::Local => {
                let stop = CancellationToken::new();
                let _stops_when_dropped = stop.clone().drop_guard();
                // A task of its own, so that the process group is ended even if nobody waits any longer.
                tokio::spawn(run_here(request, stop))
                    .await
                    .unwrap_or_else(|error| Err(not_started(&error.to_string())))
            }
        }
    }
}

fn not_started(cause: &str) -> SshError {
    SshError::RemoteFailed {
        what: "Starting the command on this machine",
        exit_status: "none".to_owned(),
        said: cause.to_owned(),
    }
}

async fn run_here(request: ExecRequest, stop: CancellationToken) -> Result<Output, SshError> {
    if !request.is_plain() {
        let cause =
            "input, environment, another user and containers are not offered on this machine".to_owned();
        return Err(SshError::InvalidCommand { cause });
    }
    let started = Instant::now();
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        // Roundsman's own files are private; what a command makes has the usual rights.
        .arg(format!("umask 022\n{}", request.command))
        // Roundsman's own environment may hold its master key and passwords.
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .envs(std::env::var_os("HOME").map(|home| ("HOME", home)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| not_started(&error.to_string()))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(not_started("its output cannot be read"));
    };
    let limit = request.output_limit;
    let (kept_out, kept_err) = (Kept::default(), Kept::default());
    let out = tokio::spawn(drain(stdout, limit, Arc::clone(&kept_out), request.tap.clone(), Piece::Stdout));
    let err = tokio::spawn(drain(stderr, limit, Arc::clone(&kept_err), request.tap, Piece::Stderr));
    let ended = tokio::select! {
        status = child.wait() => Some(status),
        () = tokio::time::sleep(request.timeout) => None,
        () = stop.cancelled() => None,
    };
    let mut output = Output::default();
    match &ended {
        Some(Ok(status)) => {
            use std::os::unix::process::ExitStatusExt as _;
            output.exit_status = status.code().and_then(|code| u32::try_from(code).ok());
            output.signal = status.signal().map(|number| number.to_string());
        }
        Some(Err(error)) => return Err(not_started(&error.to_string())),
        None => end_group(&mut child).await,
    }
    // What the command left running may hold its outputs open; that is not waited for.
    let (out_ends, err_ends) = (out.abort_handle(), err.abort_handle());
    if tokio::time::timeout(GRACE, async { tokio::join!(out, err) }).await.is_err() {
        out_ends.abort();
        err_ends.abort();
    }
    (output.stdout, output.stdout_dropped_bytes) = take(&kept_out);
    (output.stderr, output.stderr_dropped_bytes) = take(&kept_err);
    output.wall = started.elapsed();
    if ended.is_some() {
        return Ok(output);
    }
    let after_ms = u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX);
    Err(SshError::CommandTimedOut { after_ms, partial: Box::new(output) })
}

/// Asks the process group with TERM and insists with KILL; std cannot signal a group, the shell can.
async fn end_group(child: &mut Child) {
    let Some(pid) = child.id() else { return };
    // KILL goes out even if the leader has ended: its children may ignore TERM.
    for signal in ["TERM", "KILL"] {
        let sent = Command::new("/bin/sh")
            .arg("-c")
            .arg(format!("kill -{signal} -{pid} 2>/dev/null"))
            .status()
            .await;
        if let Err(error) = sent {
            tracing::warn!(%error, pid, "a local command cannot be ended");
        }
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            tracing::info!(pid, signal, "a local command does not end yet");
        }
    }
}

/// What was kept of an output, and how many bytes were not.
type Kept = Arc<Mutex<(Vec<u8>, u64)>>;

fn take(kept: &Kept) -> (Vec<u8>, u64) {
    std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn drain(
    mut source: impl AsyncRead + Unpin,
    limit: usize,
    kept: Kept,
    tap: Option<mpsc::Sender<Piece>>,
    piece: fn(Vec<u8>) -> Piece,
) {
    let mut buffer = vec![0; READ_BYTES];
    // A pipe that fails has ended, as far as its reader is concerned.
    while let Ok(count @ 1..) = source.read(&mut buffer).await {
        let data = buffer.get(..count).unwrap_or_default();
        let head = {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            let room = limit.saturating_sub(kept.0.len()).min(count);
            let (head, tail) = data.split_at(room);
            kept.0.extend_from_slice(head);
            kept.1 = kept.1.saturating_add(u64::try_from(tail.len()).unwrap_or(u64::MAX));
            head
        };
        if let Some(tap) = &tap
            && !head.is_empty()
        {
            drop(tap.try_send(piece(head.to_vec())));
        }
    }
}

impl Fleet {
    /// The server that an action means.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`].
    pub fn action_target(&self, caller: &Caller, reference: &str) -> Result<ActionTarget, FleetError> {
        auth::require(caller, Role::Operator)?;
        let entry = self.find(caller, reference)?;
        let live = entry.live();
        let is_root = match live.server.transport {
            Transport::Local => crate::config::is_root(),
            _ => match &live.way.action {
                Some(action) => action.username == "root",
                None => live.server.username.as_deref() == Some("root"),
            },
        };
        let service_manager = live.facts.as_ref().map(|facts| facts.service_manager).unwrap_or_default();
        Ok(ActionTarget {
            id: live.server.id,
            name: live.server.name.clone(),
            transport: live.server.transport,
            surroundings: Surroundings {
                service_manager,
                is_root,
                sudo_password: live.way.keeps(SecretKind::SudoPassword),
            },
            watched: live.watched.definitions(),
            impediment: match live.server.transport {
                Transport::Http | Transport::Push if live.server.ssh_host().is_none() => {
                    Some(NO_SSH_ADDRESS.to_owned())
                }
                Transport::Local => None,
                _ => (live.way.action.is_none() && live.findings.readings_only)
                    .then(|| READINGS_ONLY.to_owned()),
            },
        })
    }

    /// What runs commands on a server: its one connection, shared with the readings, or that of the second identity.
    ///
    /// # Errors
    /// Why there is none now, a sentence for a person.
    pub async fn hand(&self, caller: &Caller, server: ServerId) -> Result<Hand, String> {
        let entry = self.find(caller, &server.to_string()).map_err(|error| error.to_string())?;
        let (acts_apart, has_second) = {
            let live = entry.live();
            if live.server.status == Status::Inactive {
                return Err("the server is inactive; set its status to active first".to_owned());
            }
            if live.server.transport == Transport::Local {
                return Ok(Hand::Local);
            }
            if live.way.action.is_none() && live.findings.readings_only {
                return Err(READINGS_ONLY.to_owned());
            }
            let reads_itself = live.server.transport == Transport::Ssh;
            if !reads_itself && live.server.ssh_host().is_none() {
                return Err(NO_SSH_ADDRESS.to_owned());
            }
            (live.way.action.is_some() || !reads_itself, live.way.action.is_some())
        };
        let (session, lease) = if acts_apart {
            let (session, lease) = self.acting_session(&entry).await.map_err(|error| error.to_string())?;
            (session, Some(lease))
        } else {
            let session = entry.session().ok_or_else(|| match &entry.live().reachability {
                Reachability::Unreachable { reason, .. } => reason.clone(),
                _ => "there is no connection to this server".to_owned(),
            })?;
            (session, None)
        };
        match session.connection().await {
            Ok(connection) => Ok(Hand::Ssh(connection, lease)),
            Err(error) if lease.is_some() => {
                // The next action is to try anew, not to hear the last error; nobody else needs this session.
                entry.acting.close();
                if let SshError::HostKeyUnknown { seen, .. } | SshError::HostKeyChanged { seen, .. } = &error
                    && !has_second
                {
                    entry.live().offered_host_key = Some((**seen).clone());
                }
                let whose = if has_second { "the action login: " } else { "" };
                Err(format!("{whose}{error} {}", error.advice()))
            }
            Err(error) => Err(format!("{error} {}", error.advice())),
        }
    }

    /// What sudo asks the user of the actions for. None: nothing is kept.
    ///
    /// # Errors
    /// What is stored cannot be read or does not open.
    pub async fn sudo_password(&self, server: ServerId) -> Result<Option<Secret<String>>, FleetError> {
        self.kept_secret(server, SecretKind::SudoPassword).await
    }

    /// Tells open pages and other listeners what happened.
    pub fn publish(&self, event: Event) {
        // No receiver means no open page; then there is nobody to tell.
        drop(self.inner.events.send(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: &str) -> ExecRequest {
        ExecRequest::new(command).timeout(Duration::from_secs(20))
    }

    #[tokio::test]
    async fn a_local_command_answers_with_its_output_and_status() {
        let output = Hand::Local.exec(request("echo out; echo err >&2; exit 3")).await.unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(output.exit_status, Some(3));
    }

    #[tokio::test]
    async fn a_local_command_that_never_ends_is_ended_with_its_children() {
        let command = "sleep 600 & echo $!; wait";
        let late = Hand::Local.exec(ExecRequest::new(command).timeout(Duration::from_secs(1))).await;
        let Err(SshError::CommandTimedOut { partial, .. }) = late else { panic!("{late:?}") };
        let child: u32 = String::from_utf8_lossy(&partial.stdout).trim().parse().unwrap();
        let gone = async {
            // A signal takes its time on a loaded machine; an orphan that init has not reaped yet is gone too.
            while std::fs::read_to_string(format!("/proc/{child}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_local_command_printed_stays_when_it_leaves_a_child_behind() {
        let output = Hand::Local.exec(request("echo important; (sleep 5 &)")).await.unwrap();
        assert_eq!((output.stdout.as_slice(), output.exit_status), (&b"important\n"[..], Some(0)));
    }

    #[tokio::test]
    async fn a_local_command_does_not_see_the_environment_of_roundsman() {
        let output = Hand::Local.exec(request("env; umask")).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("PATH=/usr/local/sbin") && !text.contains("CARGO"), "{text}");
        assert!(text.ends_with("0022\n"), "{text}");
    }

    #[tokio::test]
    async fn endless_local_output_is_kept_to_the_limit() {
        let output = Hand::Local.exec(request("head -c 300000 /dev/zero").output_limit(1000)).await.unwrap();
        assert_eq!((output.stdout.len(), output.stdout_dropped_bytes), (1000, 299_000));
    }
}
