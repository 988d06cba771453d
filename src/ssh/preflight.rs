//! Preflight: the way to a server, stage by stage, and the exact fix where one fails.
//!
//! Changes nothing on the server. A host key that nobody approved yet ends it with
//! [`Outcome::NeedsApproval`]; approving is the caller's business.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::model::Layer;

use super::algorithms::Algorithms;
use super::connect::{Leg, connect_through};
use super::connection::Connection;
use super::error::SshError;
use super::exec::Output;
use super::hostkey::HostKey;
use super::request::ExecRequest;
use super::target::{Route, Target};
use super::{known_hosts, printable};

/// What is looked at, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The jump host or proxy. Only looked at where there is one.
    Route,
    Name,
    Tcp,
    Banner,
    KeyExchange,
    HostKey,
    Authentication,
    Shell,
    Proc,
    Sudo,
    Docker,
    /// Of a server that is asked over HTTPS.
    Tls,
    /// Of a server that is asked over HTTPS.
    Answer,
}

impl Stage {
    /// Those of the way over SSH.
    pub const ALL: [Self; 11] = [
        Self::Route,
        Self::Name,
        Self::Tcp,
        Self::Banner,
        Self::KeyExchange,
        Self::HostKey,
        Self::Authentication,
        Self::Shell,
        Self::Proc,
        Self::Sudo,
        Self::Docker,
    ];

    /// As a person reads it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Route => "Way",
            Self::Name => "Name",
            Self::Tcp => "TCP",
            Self::Banner => "SSH banner",
            Self::KeyExchange => "Key exchange",
            Self::HostKey => "Host key",
            Self::Authentication => "Authentication",
            Self::Shell => "Shell",
            Self::Proc => "/proc",
            Self::Sudo => "sudo",
            Self::Docker => "Docker",
            Self::Tls => "Certificate",
            Self::Answer => "Answer",
        }
    }

    const fn of(layer: Layer) -> Self {
        match layer {
            Layer::Name => Self::Name,
            Layer::Tcp => Self::Tcp,
            Layer::Banner => Self::Banner,
            Layer::KeyExchange => Self::KeyExchange,
            Layer::HostKey => Self::HostKey,
            Layer::Authentication => Self::Authentication,
            Layer::Channel | Layer::Shell => Self::Shell,
            Layer::Tls => Self::Tls,
            Layer::Http => Self::Answer,
        }
    }

    /// Those that a target has.
    fn of_target(target: &Target) -> impl Iterator<Item = Self> {
        let direct = matches!(target.route, Route::Direct);
        Self::ALL.into_iter().filter(move |stage| !direct || *stage != Self::Route)
    }

    /// What a stage that a connection passed has shown.
    const fn passed(self) -> &'static str {
        match self {
            Self::Route => "It answers.",
            Self::Name => "The name leads to an address.",
            Self::Tcp => "The port accepts connections.",
            Self::Banner => "An SSH 2 server answers.",
            Self::KeyExchange => "Both sides have algorithms in common.",
            Self::HostKey => "The host key is approved, or a known authority vouches for it.",
            Self::Authentication => "The login is accepted.",
            Self::Shell | Self::Proc | Self::Sudo | Self::Docker | Self::Tls | Self::Answer => "It works.",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Passed,
    /// The server cannot be enrolled like this.
    Failed,
    /// It can; something will be missing.
    Warning,
    /// Not looked at, or not there.
    Skipped,
    /// A person has to compare the fingerprint.
    NeedsApproval,
}

/// One stage, looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub stage: Stage,
    pub outcome: Outcome,
    /// One sentence or two for a person, cleaned.
    pub detail: String,
    /// What to do, with the command to run.
    pub fix: Option<String>,
    pub elapsed_ms: u64,
}

/// All stages, in order.
#[derive(Debug)]
pub struct Preflight {
    pub steps: Vec<Step>,
    /// The host key that the server has, as soon as the way led that far.
    pub seen: Option<HostKey>,
    /// Open when the login worked: the first reading can use it.
    pub connection: Option<Connection>,
}

impl Preflight {
    /// Nothing failed and nothing waits for approval.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.steps.iter().all(|step| !matches!(step.outcome, Outcome::Failed | Outcome::NeedsApproval))
    }

    #[must_use]
    pub fn step(&self, stage: Stage) -> Option<&Step> {
        self.steps.iter().find(|step| step.stage == stage)
    }
}

/// [`preflight_with`] without reports on the way.
pub async fn preflight(target: &Target, known: Option<&str>) -> Preflight {
    preflight_with(target, known, &mut |_| {}).await
}

/// Looks at every stage. `known` is the text of the user's `known_hosts`, if there is one; `report` hears of each step
/// as it ends.
pub async fn preflight_with(
    target: &Target,
    known: Option<&str>,
    report: &mut (dyn FnMut(&Step) + Send),
) -> Preflight {
    let mut record = Record { steps: Vec::new(), report, since: Instant::now(), target };
    let mut current = None;
    let connected = connect_through(None, target, &mut |leg| {
        let stage = match leg {
            Leg::Route => Stage::Route,
            Leg::Layer(layer) => Stage::of(layer),
        };
        if let Some(passed) = current.replace(stage) {
            record.pass(passed);
        }
    })
    .await;
    match connected {
        Ok(connection) => {
            record.add(Stage::Authentication, Finding::passed(greeting(&connection, &target.user)));
            let shell = look_at_shell(&connection).await;
            let works = shell.outcome != Outcome::Failed;
            record.add(Stage::Shell, shell);
            if works {
                record.add(Stage::Proc, look_at_proc(&connection).await);
                record.add(Stage::Sudo, look_at_sudo(&connection, &target.user).await);
                record.add(Stage::Docker, look_at_docker(&connection, &target.user).await);
            }
            record.skip_the_rest();
            let seen = connection.host_key().cloned();
            Preflight { steps: record.steps, seen, connection: Some(connection) }
        }
        Err(error) => {
            let failed = match error.hop() {
                Some(_) => Stage::Route,
                None => error.layer().map_or(Stage::Name, Stage::of),
            };
            for stage in Stage::of_target(target).filter(|stage| Some(*stage) >= current && *stage < failed) {
                record.pass(stage);
            }
            let seen = seen_in(&error, failed, target);
            record.add(failed, judge(&error, target, known));
            record.skip_the_rest();
            Preflight { steps: record.steps, seen, connection: None }
        }
    }
}

/// What a login has shown: the daemon, what was agreed on with it, and what of that is weak.
fn greeting(connection: &Connection, user: &str) -> String {
    let (server, algorithms) = (connection.server_id(), connection.algorithms());
    let Algorithms { kex, host_key, cipher_in, .. } = &algorithms;
    let mut weak = connection.host_key().map(HostKey::weaknesses).unwrap_or_default();
    weak.extend(algorithms.weaknesses());
    let weak = weak.iter().fold(String::new(), |all, sentence| format!("{all} {sentence}"));
    format!("'{user}' is logged in to {server} ({kex}, {host_key}, {cipher_in}).{weak}")
}

/// The host key that the server showed, as far as the failure tells.
fn seen_in(error: &SshError, failed: Stage, target: &Target) -> Option<HostKey> {
    match error {
        SshError::HostKeyUnknown { seen, .. }
        | SshError::HostKeyChanged { seen, .. }
        | SshError::HostKeyRevoked { seen, .. }
        | SshError::HostCertificateRefused { seen, .. } => Some((**seen).clone()),
        // The login came after the host key was found to be the pinned one; where an authority may have vouched for
        // another, nobody knows.
        _ if failed > Stage::HostKey && target.authorities.is_empty() => target.pinned.clone(),
        _ => None,
    }
}

struct Record<'a> {
    steps: Vec<Step>,
    report: &'a mut (dyn FnMut(&Step) + Send),
    since: Instant,
    target: &'a Target,
}

impl Record<'_> {
    /// A stage that a connection passed, and the name, which with a jump host or proxy is looked up there.
    fn pass(&mut self, stage: Stage) {
        match &self.target.route {
            Route::Direct => {}
            Route::Proxy(proxy) if stage == Stage::Route => {
                self.add(stage, Finding::passed(format!("The proxy {} answers.", proxy.address())));
                return;
            }
            Route::Jump(host) if stage == Stage::Route => {
                let name = printable::line(host.name().as_bytes(), 100);
                self.add(stage, Finding::passed(format!("The jump host {name} is logged in to.")));
                return;
            }
            _ if stage == Stage::Name => {
                let detail = "The jump host or the proxy looks the name up.";
                self.add(stage, Finding::of(Outcome::Skipped, detail));
                return;
            }
            _ => {}
        }
        self.add(stage, Finding::passed(stage.passed()));
    }

    fn add(&mut self, stage: Stage, finding: Finding) {
        let now = Instant::now();
        let elapsed_ms = u64::try_from(now.duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        self.since = now;
        let Finding { outcome, detail, fix } = finding;
        let step = Step { stage, outcome, detail, fix, elapsed_ms };
        (self.report)(&step);
        self.steps.push(step);
    }

    fn skip_the_rest(&mut self) {
        let last = self.steps.last().map(|step| step.stage);
        for stage in Stage::of_target(self.target).filter(|stage| Some(*stage) > last) {
            self.add(stage, Finding::of(Outcome::Skipped, "Not looked at: an earlier step did not pass."));
        }
    }
}

struct Finding {
    outcome: Outcome,
    detail: String,
    fix: Option<String>,
}

impl Finding {
    fn of(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { outcome, detail: detail.into(), fix: None }
    }

    fn passed(detail: impl Into<String>) -> Self {
        Self::of(Outcome::Passed, detail)
    }

    fn fixed_by(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn error(outcome: Outcome, error: &SshError) -> Self {
        Self::of(outcome, error.to_string()).fixed_by(error.advice())
    }
}

fn judge(error: &SshError, target: &Target, known: Option<&str>) -> Finding {
    match error {
        SshError::HostKeyUnknown { seen, .. } => approval(error, seen, target, known),
        SshError::AuthRefused { .. } if matches!(target.route, Route::Jump(_)) => {
            let fix = format!("{} From here add `-o ProxyJump=USER@JUMPHOST`.", error.advice());
            Finding::of(Outcome::Failed, error.to_string()).fixed_by(fix)
        }
        _ => Finding::error(Outcome::Failed, error),
    }
}

/// What to tell the person who is to approve `seen`.
fn approval(error: &SshError, seen: &HostKey, target: &Target, known: Option<&str>) -> Finding {
    let fingerprint = format!("{} {}", seen.algorithm(), seen.fingerprint());
    let Some(text) = known else {
        let detail = format!("The server shows the host key {fingerprint}. Nobody has approved it yet.");
        return Finding::of(Outcome::NeedsApproval, detail).fixed_by(error.advice());
    };
    let listed = known_hosts::lookup(text, target.bare_host(), target.port);
    if listed.iter().any(|known| known.revoked && known.key == *seen) {
        let detail =
            format!("The server shows the host key {fingerprint}, which known_hosts marks as revoked.");
        let fix = "Do not connect: this key is known to be in wrong hands. Give the server a new host key.";
        return Finding::of(Outcome::Failed, detail).fixed_by(fix);
    }
    let listed: Vec<_> = listed.into_iter().filter(|known| !known.revoked).map(|known| known.key).collect();
    let remark = if listed.contains(seen) {
        "known_hosts has the same key for this server.".to_owned()
    } else if let Some(other) = listed.iter().find(|key| key.algorithm() == seen.algorithm()) {
        format!(
            "known_hosts has another key for this server, {}: find out why before you approve.",
            other.fingerprint()
        )
    } else {
        "known_hosts does not have this key.".to_owned()
    };
    let detail = format!("The server shows the host key {fingerprint}. {remark}");
    Finding::of(Outcome::NeedsApproval, detail).fixed_by(error.advice())
}

/// A look that takes longer than this would make every reading late.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// Enough for a version and an error message.
const LOOK_OUTPUT_BYTES: usize = 4 * 1024;

async fn look(connection: &Connection, command: &str) -> Result<Output, SshError> {
    connection.exec(ExecRequest::new(command).timeout(LOOK_LIMIT).output_limit(LOOK_OUTPUT_BYTES)).await
}

fn said(output: &Output) -> String {
    printable::line(&output.stdout, 120)
}

async fn look_at_shell(connection: &Connection) -> Finding {
    match look(connection, "echo $((6*7)); uname -sr").await {
        Err(error) => Finding::error(Outcome::Failed, &error),
        Ok(output) => match said(&output).split_once(' ') {
            Some(("42", system)) if system.starts_with("Linux") => {
                Finding::passed(format!("A POSIX shell runs commands on {system}."))
            }
            Some(("42", system)) => Finding::of(Outcome::Failed, format!("The server runs {system}."))
                .fixed_by("Roundsman reads Linux servers only."),
            _ => Finding::of(Outcome::Failed, "What runs the commands is not a POSIX shell.")
                .fixed_by("Install a POSIX /bin/sh on the server (dash, bash or BusyBox)."),
        },
    }
}

async fn look_at_proc(connection: &Connection) -> Finding {
    let command = "cat /proc/stat /proc/meminfo >/dev/null && if cat /proc/1/stat >/dev/null 2>&1; then echo all; else echo own; fi";
    match look(connection, command).await {
        Err(error) => Finding::error(Outcome::Failed, &error),
        Ok(output) => match said(&output).as_str() {
            "all" => Finding::passed("/proc can be read, with every process."),
            "own" => Finding::of(
                Outcome::Warning,
                "/proc can be read, but it hides the processes of other users (hidepid).",
            )
            .fixed_by(
                "To see every process: `mount -o remount,hidepid=0 /proc`, and the same in /etc/fstab.",
            ),
            _ => Finding::of(
                Outcome::Failed,
                format!("/proc cannot be read: {}", printable::line(&output.stderr, 200)),
            )
            .fixed_by("Mount it: `mount -t proc proc /proc`."),
        },
    }
}

async fn look_at_sudo(connection: &Connection, user: &str) -> Finding {
    let command = "if [ \"$(id -u)\" = 0 ]; then echo root; elif ! command -v sudo >/dev/null 2>&1; then echo none; \
                   elif sudo -n true >/dev/null 2>&1; then echo yes; else echo no; fi";
    let user = printable::line(user.as_bytes(), 64);
    let line = format!("{user} ALL=(ALL) NOPASSWD: ALL");
    let fix = format!(
        "Readings work without it. For actions, run as root on the server: \
         `echo '{line}' >/etc/sudoers.d/roundsman && chmod 440 /etc/sudoers.d/roundsman && visudo -c`."
    );
    match look(connection, command).await {
        Err(error) => Finding::error(Outcome::Warning, &error),
        Ok(output) => match said(&output).as_str() {
            "root" => Finding::passed("The user is root; sudo is not needed."),
            "yes" => Finding::passed("sudo works without a password."),
            "none" => {
                Finding::of(Outcome::Warning, format!("'{user}' is not root, and sudo is not installed."))
                    .fixed_by(format!("Install sudo, then: {fix}"))
            }
            _ => Finding::of(Outcome::Warning, format!("sudo asks '{user}' for a password, or refuses."))
                .fixed_by(fix),
        },
    }
}

async fn look_at_docker(connection: &Connection, user: &str) -> Finding {
    let command = "command -v docker >/dev/null 2>&1 || { echo none; exit 0; }; \
                   docker version --format '{{.Server.Version}}' 2>&1";
    match look(connection, command).await {
        Err(error) => Finding::error(Outcome::Warning, &error),
        Ok(output) if said(&output) == "none" => Finding::of(Outcome::Skipped, "Docker is not installed."),
        Ok(output) if output.success() => Finding::passed(format!("Docker {} answers.", said(&output))),
        Ok(output) => {
            let said = said(&output);
            let fix = docker_fix(&said, user);
            Finding::of(Outcome::Warning, format!("Docker is installed and does not answer: {said}"))
                .fixed_by(fix)
        }
    }
}

/// The line that makes Docker answer: a refused user is not in its group, any other silence is a daemon that is down.
fn docker_fix(said: &str, user: &str) -> String {
    match crate::quote::quote(user) {
        Ok(user) if said.to_ascii_lowercase().contains("permission denied") => {
            format!("usermod -aG docker {user}")
        }
        _ => "systemctl start docker".to_owned(),
    }
}
