//! The agent on a server: brought there in steps that are told, found again, and taken away without a trace.
//!
//! The commands are in [`actions`](crate::actions); progress, records and retry are those of every operation. Whatever
//! fails, the readings go on with the shell probe.

mod binaries;
mod found;

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::acting::Lease;
use super::poller::ServedAgent;
use super::registry::Entry;
use super::steps::{Report, Stuck};
use super::ways::{SecretChange, write_secrets};
use super::{Fleet, FleetError, Hand};
use crate::actions::{AGENT_SCRIPT, AgentDeployment, manage_agent};
use crate::auth;
use crate::collect::{AgentProbe, agent};
use crate::model::{
    AgentMode, Caller, InstalledAgent, Port, Role, Secret, SecretKind, Sections, ServerId, Transport,
};
use crate::quote::quote;
use crate::ssh::transfer::Upload;
use crate::ssh::{Connection, ExecRequest, Output, Piece, Sudo, printable};
use crate::store::audit::Entry as AuditEntry;
use crate::store::{StoreError, agents as rows};

pub use binaries::{AgentBinaries, AgentBinary};

/// Looking for a place writes a megabyte in each of five directories at most; a service manager takes its time.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// A first reading of a loaded machine takes seconds.
const READING_LIMIT: Duration = Duration::from_secs(30);
/// A service listens within a moment of its start; a loaded machine takes seconds.
const SERVICE_TRIES: u32 = 20;
const SERVICE_PAUSE: Duration = Duration::from_millis(250);
/// Answers of the script have a dozen lines.
const OUTPUT_BYTES: usize = 16 * 1024;
/// What of a failed command's words goes into the sentence.
const SAID_CHARS: usize = 300;
/// Longest path that the script may name.
const PATH_BYTES: usize = 1024;

/// What can be deployed to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentOffer {
    /// There is an agent for its processor. `is_current`: it is the one that the server has.
    Available { is_current: bool },
    /// There is none; a sentence.
    None(String),
    /// What `uname -m` says there is not known yet.
    Unknown,
}

/// What the script said of the server.
#[derive(Debug, Default, PartialEq, Eq)]
struct Placed {
    architecture: String,
    /// Where the agent goes, or is already.
    path: String,
    is_current: bool,
    passed_over: Vec<String>,
}

impl Fleet {
    /// What can be deployed to a server.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`].
    pub fn agent_offer(&self, caller: &Caller, reference: &str) -> Result<AgentOffer, FleetError> {
        auth::require(caller, Role::Viewer)?;
        let entry = self.find(caller, reference)?;
        let live = entry.live();
        let facts = live.facts.as_ref().and_then(|facts| facts.architecture.clone());
        let architecture = facts.or_else(|| live.agent.as_ref().map(|agent| agent.architecture.clone()));
        let Some(architecture) = architecture else { return Ok(AgentOffer::Unknown) };
        let agents = &self.inner.agents;
        Ok(match agents.of(&architecture) {
            Some(binary) => AgentOffer::Available {
                is_current: live.agent.as_ref().is_some_and(|agent| agent.sha256 == binary.sha256),
            },
            None => AgentOffer::None(no_agent_for(&architecture, agents)),
        })
    }

    /// Deploys the agent to one server, or a newer one in its place. The output tells every step; exit status 0: done,
    /// 1: stderr says which step failed. Doing it again is safe.
    pub async fn deploy_agent(
        &self,
        caller: &Caller,
        server: ServerId,
        deployment: AgentDeployment,
        tap: mpsc::Sender<Piece>,
    ) -> Output {
        let mut report = Report::new(tap);
        let outcome = self.deploy(caller, server, deployment, &mut report).await;
        report.output(outcome)
    }

    /// Takes the agent away from one server: its service, its user, its files. The output tells what was removed.
    pub async fn remove_agent(&self, caller: &Caller, server: ServerId, tap: mpsc::Sender<Piece>) -> Output {
        let mut report = Report::new(tap);
        let outcome = self.take_away(caller, server, &mut report).await;
        report.output(outcome)
    }

    async fn deploy(
        &self,
        caller: &Caller,
        server: ServerId,
        deployment: AgentDeployment,
        report: &mut Report,
    ) -> Result<(), Stuck> {
        auth::require(caller, Role::Admin).map_err(|error| Stuck(error.to_string()))?;
        let entry = self.find(caller, &server.to_string()).map_err(|error| Stuck(error.to_string()))?;
        fits(entry.server().transport, deployment.mode)?;
        let (connection, _lease) = self.connection_for_agent(&entry).await?;
        report.say("Connection: there is one, and its host key is the approved one");
        // What it has to be compared with is chosen by its processor, which the first answer tells.
        let machine = run(&connection, ExecRequest::new("uname -m")).await;
        let machine = machine.map_err(|cause| Stuck::at("Asking for the processor", cause))?;
        let machine = printable::line(machine.as_bytes(), SAID_CHARS);
        let agents = &self.inner.agents;
        let binary = agents.of(&machine).ok_or_else(|| Stuck(no_agent_for(&machine, agents)))?.clone();
        report.say(&format!("Processor: {machine}; there is an agent for it, {} bytes", binary.size_bytes));
        let placed = find_place(&connection, &binary).await?;
        for line in &placed.passed_over {
            report.say(&format!("Passed over {line}"));
        }
        if placed.is_current {
            report.say(&format!("Upload: {} is already current", placed.path));
        } else {
            upload(&connection, &binary, &placed.path, report).await?;
        }
        let finish = manage(&["finish", &placed.path, &binary.sha256])?;
        let said = run(&connection, finish).await.map_err(|cause| Stuck::at("Starting the agent", cause))?;
        let version = said.lines().find_map(|line| line.strip_prefix("runs ")).unwrap_or_default();
        let version = printable::line(version.as_bytes(), SAID_CHARS);
        report.say(&format!("Start: {version}"));
        // `roundsman-agent 0.1.0 BUILD`
        let version = version.split(' ').nth(1).unwrap_or_default().to_owned();
        let taken = read_once(&connection, &placed.path, &binary.sha256).await;
        let taken = taken.map_err(|cause| Stuck::at("Taking a reading with the agent", cause))?;
        report.say(&format!("Verification: a reading arrived in {taken} ms"));
        let service = Service { entry: &entry, connection: &connection, path: &placed.path };
        let token = self.install_service(caller, &service, &deployment, report).await?;
        let agent = InstalledAgent {
            mode: deployment.mode,
            path: placed.path,
            sha256: binary.sha256,
            version,
            architecture: placed.architecture,
            port: deployment.port,
            deployed_at: self.inner.clock.now(),
        };
        self.keep_agent(caller, &entry, Some(agent), token).await?;
        report.say(match deployment.mode {
            AgentMode::Push => "Readings are on their way; the first heartbeat is seen on the server's page",
            AgentMode::Stream | AgentMode::Serve => "Readings come from the agent from now on",
        });
        Ok(())
    }

    /// Makes the service of a mode that has one. Answers what a serve agent is to be asked with.
    async fn install_service(
        &self,
        caller: &Caller,
        service: &Service<'_>,
        deployment: &AgentDeployment,
        report: &mut Report,
    ) -> Result<Option<Secret<String>>, Stuck> {
        let stuck = |cause: String| Stuck::at("Installing the service", cause);
        let Service { entry, connection, path } = *service;
        let hand = match deployment.mode {
            AgentMode::Stream => return Ok(None),
            AgentMode::Serve | AgentMode::Push => self.hand(caller, entry.id).await.map_err(stuck)?,
        };
        match (&deployment.url, deployment.port) {
            (Some(url), _) => {
                let record = AuditEntry::by(caller, "server.renew-token", entry.server().name.as_str());
                let token = self.give_token(entry, caller.actor.to_string(), None, record).await;
                let token = token.map_err(|error| stuck(error.to_string()))?;
                let file = format!("{path}.env");
                let text = format!("ROUNDSMAN_URL={url}\nROUNDSMAN_TOKEN={}\n", token.expose());
                lay(connection, &file, Secret::new(text)).await.map_err(stuck)?;
                let said = self.run_as_root(entry, &hand, &["push", path, &file]).await.map_err(stuck)?;
                report.say(&format!(
                    "Service: reports to {url}, {}",
                    printable::line(said.as_bytes(), SAID_CHARS)
                ));
                Ok(None)
            }
            (None, Some(port)) => {
                let token = fresh_token();
                let file = format!("{path}.word");
                lay(connection, &file, Secret::new(format!("{}\n", token.expose()))).await.map_err(stuck)?;
                let port = port.to_string();
                let said =
                    self.run_as_root(entry, &hand, &["serve", path, &port, &file]).await.map_err(stuck)?;
                report.say(&format!(
                    "Service: 127.0.0.1:{port}, {}",
                    printable::line(said.as_bytes(), SAID_CHARS)
                ));
                report.say(&asked_once(service, deployment.port, &token).await);
                Ok(Some(token))
            }
            (None, None) => Ok(None),
        }
    }

    /// What the agent is brought over: it has to run as that login. The lease keeps a connection that is not of the readings.
    async fn connection_for_agent(&self, entry: &Arc<Entry>) -> Result<(Connection, Option<Lease>), Stuck> {
        if entry.server().transport == Transport::Ssh {
            return Ok((readings_of(entry).await?, None));
        }
        let (session, lease) = self.acting_session(entry).await.map_err(|error| Stuck(error.to_string()))?;
        let connection = session.connection().await;
        Ok((connection.map_err(|error| Stuck(format!("{error} {}", error.advice())))?, Some(lease)))
    }

    async fn take_away(&self, caller: &Caller, server: ServerId, report: &mut Report) -> Result<(), Stuck> {
        auth::require(caller, Role::Admin).map_err(|error| Stuck(error.to_string()))?;
        let entry = self.find(caller, &server.to_string()).map_err(|error| Stuck(error.to_string()))?;
        let (connection, _lease) = self.connection_for_agent(&entry).await?;
        let before = entry.live().agent.clone();
        if before.as_ref().is_some_and(|agent| agent.path.is_empty()) {
            self.keep_agent(caller, &entry, None, None).await?;
            report.say("Readings come from the shell probe from now on; the service there is not Roundsman's and is left alone");
            return Ok(());
        }
        // First the readings change to the shell probe, so that none of them fails.
        self.keep_agent(caller, &entry, None, None).await?;
        report.say(if entry.server().transport == Transport::Ssh {
            "Readings come from the shell probe from now on"
        } else {
            "The server reports no more from now on"
        });
        let is_service = before.is_some_and(|agent| agent.mode != AgentMode::Stream);
        if is_service {
            let hand =
                self.hand(caller, server).await.map_err(|cause| Stuck::at("Removing the service", cause))?;
            let said = self.run_as_root(&entry, &hand, &["remove"]).await;
            report.say(&said.map_err(|cause| Stuck::at("Removing the service", cause))?);
        }
        let said = run(&connection, manage(&["remove"])?).await;
        let said = said.map_err(|cause| Stuck::at("Removing the agent", cause))?;
        report.say(printable::text(said.as_bytes(), OUTPUT_BYTES).trim_end());
        Ok(())
    }

    /// Writes what a server has, with what its service asks for, and tells its poller.
    async fn keep_agent(
        &self,
        caller: &Caller,
        entry: &Arc<Entry>,
        agent: Option<InstalledAgent>,
        token: Option<Secret<String>>,
    ) -> Result<(), Stuck> {
        let stuck = |error: FleetError| Stuck::at("Writing down what was done", error);
        let (server, stored) = (entry.id, agent.clone());
        let change = token.clone().map_or(SecretChange::Remove, SecretChange::Set);
        let sealed = self.seal_secrets(server, &[(SecretKind::AgentToken, change)]).map_err(stuck)?;
        let written = self.inner.store.write(move |tx| {
            write_secrets(tx, server, &sealed)?;
            match &stored {
                Some(agent) => rows::set(tx, server, agent),
                None => rows::remove(tx, server),
            }
        });
        written.await.map_err(|error: StoreError| stuck(error.into()))?;
        {
            let mut live = entry.live();
            let way = Arc::make_mut(&mut live.way);
            way.secrets.retain(|kind| *kind != SecretKind::AgentToken);
            if token.is_some() {
                way.secrets.push(SecretKind::AgentToken);
                way.secrets.sort();
            }
            live.agent_token = token;
            live.agent = agent.map(Arc::new);
        }
        entry.wake.notify_one();
        self.server_changed(caller, server);
        Ok(())
    }

    async fn run_as_root(&self, entry: &Entry, hand: &Hand, words: &[&str]) -> Result<String, String> {
        let (is_root, asks) = {
            let live = entry.live();
            let user = live.way.action.as_ref().map(|action| action.username.clone());
            let user = user.or_else(|| live.server.username.clone());
            (user.is_none_or(|user| user == "root"), live.way.keeps(SecretKind::SudoPassword))
        };
        let mut request = manage(words).map_err(|Stuck(cause)| cause)?;
        if !is_root {
            let password = if asks {
                self.sudo_password(entry.id).await.map_err(|error| error.to_string())?
            } else {
                None
            };
            request = request.sudo(password.map_or(Sudo::NonInteractive, Sudo::Password));
        }
        judged(hand.exec(request).await)
    }
}

/// What a service is made of.
#[derive(Clone, Copy)]
struct Service<'a> {
    entry: &'a Arc<Entry>,
    /// The agent was brought over it.
    connection: &'a Connection,
    path: &'a str,
}

/// Waits until the service answers through SSH. A sentence either way: without it the same file is started over SSH.
async fn asked_once(service: &Service<'_>, port: Option<u16>, token: &Secret<String>) -> String {
    let Some(port) = port.and_then(|port| Port::of(i64::from(port)).ok()) else { return String::new() };
    let name = service.entry.server().name.to_string();
    let mut tries = 0;
    loop {
        // With a reading: only that needs the token, which a service that was there before does not take.
        let read = async {
            let served = ServedAgent::find(service.connection, &name, port, Some(token.clone())).await?;
            served.read(Sections::BASE).await
        };
        tries += 1;
        match read.await {
            Ok(_) => return "Verification: the service answers through SSH".to_owned(),
            Err(reason) if tries >= SERVICE_TRIES => {
                return format!(
                    "The service is not asked, the agent is started over SSH in its place: {reason}"
                );
            }
            Err(_) => tokio::time::sleep(SERVICE_PAUSE).await,
        }
    }
}

/// Whether a mode makes sense for a server that is read like this.
fn fits(transport: Transport, mode: AgentMode) -> Result<(), Stuck> {
    let refused = |reason: &str| Err(Stuck(reason.to_owned()));
    match (transport, mode) {
        (Transport::Ssh, AgentMode::Stream | AgentMode::Serve) | (Transport::Push, AgentMode::Push) => Ok(()),
        (Transport::Ssh, AgentMode::Push) => refused(
            "Roundsman reads this server itself; a push agent belongs to a server that was added as one that reports",
        ),
        (Transport::Push, _) => refused("this server reports by itself; deploy the agent to it in push mode"),
        (Transport::Http, _) => refused("this server's API is asked over HTTPS, so no agent would be read"),
        (Transport::Local, _) => refused("this machine is read without an agent"),
    }
}

/// Writes a file of the login's own with a secret in it, which goes over standard input.
async fn lay(connection: &Connection, path: &str, content: Secret<String>) -> Result<(), String> {
    let place = quote(path).map_err(|error| error.to_string())?;
    let request =
        ExecRequest::new(format!("umask 077; cat >{place}")).stdin(content.expose().clone().into_bytes());
    run(connection, request.timeout(COMMAND_LIMIT)).await.map(drop)
}

/// 32 bytes by chance, in hexadecimal.
fn fresh_token() -> Secret<String> {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    Secret::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn no_agent_for(architecture: &str, agents: &AgentBinaries) -> String {
    let architecture = printable::line(architecture.as_bytes(), 40);
    format!("there is no agent for {architecture}, so the shell probe goes on ({})", agents.described())
}

/// The connection that readings come over: the agent has to run as that login.
async fn readings_of(entry: &Entry) -> Result<Connection, Stuck> {
    if entry.live().findings.readings_only {
        return Err(Stuck(
            "its key may take readings by the shell probe and nothing else, so no agent can be started with it".to_owned(),
        ));
    }
    let session =
        entry.session().ok_or_else(|| Stuck("there is no connection to this server now".to_owned()))?;
    session.connection().await.map_err(|error| Stuck(format!("{error} {}", error.advice())))
}

fn manage(words: &[&str]) -> Result<ExecRequest, Stuck> {
    let command = manage_agent(words).map_err(|error| Stuck(error.to_string()))?;
    Ok(ExecRequest::new(command)
        .stdin(AGENT_SCRIPT.as_bytes().to_vec())
        .timeout(COMMAND_LIMIT)
        .output_limit(OUTPUT_BYTES))
}

fn judged(outcome: Result<Output, crate::ssh::SshError>) -> Result<String, String> {
    let output = outcome.map_err(|error| format!("{error} {}", error.advice()))?;
    if output.success() {
        return Ok(output.stdout_text());
    }
    let mut said = printable::line(&output.stderr, SAID_CHARS);
    // What was tried stands before the reason.
    for line in output.stdout_text().lines().filter(|line| line.starts_with("passed over ")) {
        said.push_str("; ");
        said.push_str(&printable::line(line.as_bytes(), SAID_CHARS));
    }
    if said.is_empty() {
        said = output
            .exit_status
            .map_or_else(|| "it was ended".to_owned(), |status| format!("exit status {status}"));
    }
    Err(said)
}

async fn run(connection: &Connection, request: ExecRequest) -> Result<String, String> {
    judged(connection.exec(request).await)
}

async fn find_place(connection: &Connection, binary: &AgentBinary) -> Result<Placed, Stuck> {
    let request = manage(&["place", &binary.sha256, &binary.size_bytes.to_string()])?;
    let said = run(connection, request).await.map_err(|cause| Stuck::at("Finding a place", cause))?;
    placed(&said).ok_or_else(|| Stuck::at("Finding a place", "the server's answer makes no sense"))
}

/// What the script's `place` printed. None: it names no absolute path.
fn placed(said: &str) -> Option<Placed> {
    let mut found = Placed::default();
    for line in said.lines() {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "arch" => found.architecture = printable::line(rest.as_bytes(), 40),
            "current" => (found.path, found.is_current) = (rest.to_owned(), true),
            "place" => rest.clone_into(&mut found.path),
            "passed" => {
                found
                    .passed_over
                    .push(printable::line(rest.trim_start_matches("over ").as_bytes(), SAID_CHARS));
            }
            _ => {}
        }
    }
    let is_path = found.path.starts_with('/')
        && found.path.len() <= PATH_BYTES
        && !found.path.contains(char::is_control);
    is_path.then_some(found)
}

async fn upload(
    connection: &Connection,
    binary: &AgentBinary,
    path: &str,
    report: &mut Report,
) -> Result<(), Stuck> {
    let stuck = |cause: String| Stuck::at("Uploading the agent", cause);
    let file = binary.clone();
    let read = tokio::task::spawn_blocking(move || file.content()).await;
    let content = read.map_err(|error| stuck(error.to_string()))?.map_err(stuck)?;
    let wanted = Upload { path: path.to_owned(), size_bytes: binary.size_bytes, mode: Some(0o700) };
    let mut source = content.as_slice();
    let done = Box::pin(connection.upload(&mut source, &wanted, &mut |_| {})).await;
    let done = done.map_err(|error| stuck(error.to_string()))?;
    let how =
        if done.hash_checked { "its SHA-256 is right" } else { "its size is right; no tool for SHA-256" };
    report.say(&format!("Upload: {path}, {} bytes, {how}", done.size_bytes));
    Ok(())
}

/// One reading with the agent over a channel of its own, in ms.
async fn read_once(connection: &Connection, path: &str, sha256: &str) -> Result<u128, String> {
    let command = agent::command(path, sha256).map_err(|error| error.to_string())?;
    let reading = async {
        let stream =
            connection.open(&command).await.map_err(|error| format!("{error} {}", error.advice()))?;
        let mut probe = AgentProbe::start(stream, sha256).await.map_err(|error| error.to_string())?;
        let started = Instant::now();
        probe.read(Sections::BASE).await.map_err(|error| error.to_string())?;
        Ok(started.elapsed().as_millis())
    };
    let late = |_| Err(format!("it did not answer within {} s", READING_LIMIT.as_secs()));
    tokio::time::timeout(READING_LIMIT, reading).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_of_a_place_is_taken_only_as_a_path() {
        let said = "arch x86_64\npassed over /root/.cache/roundsman: it is noexec\nplace /tmp/roundsman-0/roundsman-agent-1\n";
        let found = placed(said).unwrap();
        assert_eq!((found.architecture.as_str(), found.is_current), ("x86_64", false));
        assert_eq!(found.passed_over, ["/root/.cache/roundsman: it is noexec"]);
        assert!(placed("arch x86_64\ncurrent /a/b\n").unwrap().is_current);
        for wrong in ["", "nothing", "place relative/path\n", "place /a\u{1b}[2J\n", "arch x86_64\n"] {
            assert_eq!(placed(wrong), None, "{wrong:?}");
        }
    }
}
