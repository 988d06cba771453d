//! Why SSH did not work, as a decision for the caller, a sentence for a person, and what to do about it.
//!
//! No variant holds a secret. Text from a server was cleaned and cut by [`printable`](super::printable) before it came here.

use std::fmt;
use std::path::PathBuf;

use crate::model::{Layer, Port};
use crate::quote::quote;

use super::certificate::{CertificateProblem, Purpose};
use super::exec::Output;
use super::hostkey::HostKey;
use super::way::{Hop, Refusal};

/// `user@host:port`, for sentences and for the commands in an advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub user: String,
    pub host: String,
    pub port: Port,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Endpoint {
    /// The arguments of `ssh` and `ssh-copy-id` that lead here: `-p 2222 root@web-1`.
    fn arguments(&self) -> String {
        let destination = format!("{}@{}", self.user, self.host);
        let destination = quote(&destination).unwrap_or(destination);
        if self.port == Port::SSH { destination } else { format!("-p {} {destination}", self.port) }
    }
}

/// What stood in the way before there was an SSH connection, or what ended it while it was being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    NoSuchName {
        detail: String,
    },
    /// Nothing listens on the port.
    Refused,
    /// No way to the address: network or host unreachable, or blocked by a rule.
    NoRoute {
        detail: String,
    },
    /// Something listens, and it is not SSH 2. `said` is how it began.
    NotSsh {
        said: String,
    },
    /// The other side hung up. `said` is what it gave as the reason, often nothing.
    HungUp {
        said: String,
    },
    /// The two sides have no algorithm of this kind in common. `offered` is the server's list.
    NoCommonAlgorithm {
        kind: String,
        offered: String,
    },
    /// The jump host or the proxy works, and makes no connection to there.
    Relay {
        by: Hop,
        refusal: Refusal,
    },
    Broken {
        detail: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName { detail } => write!(f, "the name was not found ({detail})"),
            Self::Refused => f.write_str("the connection was refused: nothing listens there"),
            Self::NoRoute { detail } => write!(f, "there is no way to it ({detail})"),
            Self::NotSsh { said } => write!(f, "what answers there is not an SSH 2 server; it said '{said}'"),
            Self::HungUp { said } if said.is_empty() => f.write_str("the server closed the connection"),
            Self::HungUp { said } => write!(f, "the server closed the connection and said '{said}'"),
            Self::NoCommonAlgorithm { kind, offered } => {
                write!(f, "no common {kind} algorithm; the server offers only {offered}")
            }
            Self::Relay { by, refusal } => f.write_str(&refusal.told(&by.to_string())),
            Self::Broken { detail } => write!(f, "the exchange failed ({detail})"),
        }
    }
}

/// What the caller has to decide about. Clone is cheap enough for a state that many look at.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SshError {
    /// There is no connection. Trying again later is safe.
    #[error("{at} cannot be reached, {layer}: {cause}.")]
    Unreachable { at: Box<Endpoint>, layer: Layer, cause: Cause },

    /// A step took too long. Trying again later is safe.
    #[error("{at} did not answer in {after_ms} ms ({layer}).")]
    TimedOut { at: Box<Endpoint>, layer: Layer, after_ms: u64 },

    /// No key is pinned. Nothing was sent that is secret; a person approves `seen`, or does not.
    #[error("The host key of {at} is not known yet: {} {}.", seen.algorithm(), seen.fingerprint())]
    HostKeyUnknown { at: Box<Endpoint>, seen: Box<HostKey> },

    /// Another key is pinned. Nothing was sent that is secret; trying again changes nothing.
    #[error(
        "The host key of {at} has changed: expected {} {}, seen {} {}. No credentials were sent.",
        pinned.algorithm(), pinned.fingerprint(), seen.algorithm(), seen.fingerprint()
    )]
    HostKeyChanged { at: Box<Endpoint>, pinned: Box<HostKey>, seen: Box<HostKey> },

    /// The host key, or the authority that vouches for it, is on the list of revoked ones. Nothing was sent that is secret.
    #[error("The host key of {at} is revoked: {} {}. No credentials were sent.", seen.algorithm(), seen.fingerprint())]
    HostKeyRevoked { at: Box<Endpoint>, seen: Box<HostKey> },

    /// An authority that is known signed the host's certificate, and it does not count. Nothing was sent that is secret.
    /// `seen` is the key in the certificate.
    #[error("The host certificate of {at} cannot be trusted: {problem}. No credentials were sent.")]
    HostCertificateRefused { at: Box<Endpoint>, seen: Box<HostKey>, problem: Box<CertificateProblem> },

    /// The server does not accept the identity. Trying again changes nothing, and often locks the address out.
    #[error("{at} refused the login of '{}' with {offered}; it accepts: {}.", at.user, listed(accepts))]
    AuthRefused { at: Box<Endpoint>, offered: String, accepts: Vec<String> },

    /// The private key itself is the trouble; nothing was offered.
    #[error("The private key {path} cannot be used: {cause}.")]
    KeyUnreadable { path: String, cause: String },

    /// The user certificate is the trouble. Trying again changes nothing.
    #[error("The certificate {name} cannot be used: {problem}.")]
    CertificateUnusable { name: String, problem: Box<CertificateProblem> },

    /// The ssh-agent is the trouble; nothing was offered.
    #[error("The ssh-agent at {socket} cannot be used: {problem}.")]
    AgentUnusable { socket: String, problem: AgentProblem },

    /// A jump host or a proxy on the way is the trouble; the server itself was not reached. Trying again later is safe.
    #[error("{}: {error}", hop.at_the_start())]
    OnTheWay { hop: Hop, error: Box<SshError> },

    /// A proxy answers, and makes no connections for us at all. Trying again with another login or kind is safe.
    #[error("{}.", refusal.told(&hop.at_the_start()))]
    HopRefuses { hop: Hop, refusal: Refusal },

    /// The connection was there and is gone. What was running may or may not have run.
    #[error("The SSH connection to {at} ended: {cause}.")]
    Closed { at: Box<Endpoint>, cause: String },

    /// The server opens no further channel. The connection and what runs on it live on.
    #[error("{at} refuses to open another channel ({cause}).")]
    ChannelRefused { at: Box<Endpoint>, cause: String },

    /// Logged in, but no POSIX shell ran the command.
    #[error("Logged in to {at} as '{}', but no shell runs commands there; the server said '{said}'.", at.user)]
    NoShell { at: Box<Endpoint>, said: String },

    /// sudo (or su) did not let the command run; nothing of it ran. `said` is what it printed.
    #[error("{} on {at} for '{}'{}.", if *wrong_password { "The password for sudo was refused" } else { "sudo refused" }, at.user, reason(said))]
    SudoRefused { at: Box<Endpoint>, wrong_password: bool, said: String },

    /// The command ran over its limit and was ended, its process group with it.
    #[error("The command did not end in {after_ms} ms and was stopped.")]
    CommandTimedOut { after_ms: u64, partial: Box<Output> },

    /// More output than anybody reads. The channel is closed, the connection lives.
    #[error("The server sent more than {limit_bytes} bytes that nobody has read yet.")]
    OutputTooLarge { limit_bytes: usize },

    /// The command cannot be written as a shell word.
    #[error("The command cannot be sent: {cause}.")]
    InvalidCommand { cause: String },

    /// A command of Roundsman's own ran and failed.
    #[error("{what} failed on the server (exit status {exit_status}): {said}")]
    RemoteFailed { what: &'static str, exit_status: String, said: String },
}

/// What is wrong with an ssh-agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentProblem {
    /// Nobody answers at the socket, or not to this process.
    NotThere { detail: String },
    /// It holds no key at all; a locked agent says the same.
    Empty,
    /// It holds others. `wanted` is a fingerprint.
    Lacks { wanted: String, held: usize },
    /// It has the key and would not sign: it asked somebody who said no, or the key is for other hosts only.
    RefusedToSign { wanted: String },
    /// What it was to sign with is not a public key line.
    NotAKey,
}

impl fmt::Display for AgentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere { detail } => write!(f, "it does not answer ({detail})"),
            Self::Empty => f.write_str("it is locked or holds no key"),
            Self::Lacks { wanted, held: 1 } => write!(f, "it holds one key, and not {wanted}"),
            Self::Lacks { wanted, held } => write!(f, "it holds {held} keys, and not {wanted}"),
            Self::RefusedToSign { wanted } => write!(f, "it refused to sign with {wanted}"),
            Self::NotAKey => f.write_str("the key that it is to sign with is not a public key line"),
        }
    }
}

impl AgentProblem {
    fn advice(&self, socket: &str) -> String {
        let socket = quote(socket).unwrap_or_default();
        match self {
            Self::NotThere { .. } => format!(
                "Start it as the user that Roundsman runs as, with this socket: `ssh-agent -a {socket}`, then `SSH_AUTH_SOCK={socket} ssh-add KEY`."
            ),
            Self::Empty => format!(
                "Unlock it (`SSH_AUTH_SOCK={socket} ssh-add -X`), or load the key: `SSH_AUTH_SOCK={socket} ssh-add KEY`."
            ),
            Self::Lacks { .. } => format!(
                "Load the key: `SSH_AUTH_SOCK={socket} ssh-add KEY`; `ssh-add -l` lists what is there."
            ),
            Self::RefusedToSign { .. } => {
                "Confirm the use of the key where the agent asks, or load it without `-c` and `-h`."
                    .to_owned()
            }
            Self::NotAKey => "Give the line of the key's .pub file: `ssh-ed25519 AAAA…`.".to_owned(),
        }
    }
}

fn reason(said: &str) -> String {
    let said = said.trim_end_matches('.');
    if said.is_empty() { String::new() } else { format!(": '{said}'") }
}

fn listed(methods: &[String]) -> String {
    if methods.is_empty() { "nothing".to_owned() } else { methods.join(", ") }
}

impl SshError {
    /// Where on the way it failed; of a jump host or proxy, where on the way to that. None: the way is fine, a command was
    /// the trouble.
    #[must_use]
    pub const fn layer(&self) -> Option<Layer> {
        match self {
            Self::Unreachable { layer, .. } | Self::TimedOut { layer, .. } => Some(*layer),
            Self::HostKeyUnknown { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeyRevoked { .. }
            | Self::HostCertificateRefused { .. } => Some(Layer::HostKey),
            Self::AuthRefused { .. }
            | Self::KeyUnreadable { .. }
            | Self::CertificateUnusable { .. }
            | Self::AgentUnusable { .. } => Some(Layer::Authentication),
            Self::OnTheWay { error, .. } => error.layer(),
            Self::HopRefuses { .. } => Some(Layer::Tcp),
            Self::Closed { .. } | Self::ChannelRefused { .. } => Some(Layer::Channel),
            Self::NoShell { .. } => Some(Layer::Shell),
            Self::SudoRefused { .. }
            | Self::CommandTimedOut { .. }
            | Self::OutputTooLarge { .. }
            | Self::InvalidCommand { .. }
            | Self::RemoteFailed { .. } => None,
        }
    }

    /// Whether only a person can change the outcome, so that trying again soon is of no use or does harm.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::HostKeyUnknown { .. }
                | Self::HostKeyChanged { .. }
                | Self::HostKeyRevoked { .. }
                | Self::HostCertificateRefused { .. }
                | Self::AuthRefused { .. }
                | Self::KeyUnreadable { .. }
                | Self::CertificateUnusable { .. }
                | Self::AgentUnusable { .. }
                | Self::HopRefuses { refusal: Refusal::LoginWanted | Refusal::LoginRefused, .. }
        )
    }

    /// The jump host or proxy that is the trouble, where the server itself is not. Whoever counts unreachable servers
    /// counts one outage for all that stand behind it.
    #[must_use]
    pub const fn hop(&self) -> Option<&Hop> {
        match self {
            Self::OnTheWay { hop, .. } | Self::HopRefuses { hop, .. } => Some(hop),
            _ => None,
        }
    }

    /// Exactly what to do about it, for a person.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Unreachable { at, layer, cause } => unreachable_advice(at, *layer, cause),
            Self::TimedOut { at, layer, .. } => time_out_advice(at, *layer),
            Self::HostKeyUnknown { at, .. } => format!(
                "On the server run `for f in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf \"$f\"; done` and compare; \
                 if the fingerprint of {at} is in the list, approve the key."
            ),
            Self::HostKeyChanged { at, .. } => format!(
                "If {at} was reinstalled or got new keys, compare the new fingerprint on the server \
                 (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`) and let an administrator accept it. \
                 If not, somebody may be between you and the server: do not accept it."
            ),
            Self::HostKeyRevoked { at, .. } => format!(
                "Do not connect: this key is known to be in wrong hands. Give {at} new host keys (`rm /etc/ssh/ssh_host_*; \
                 ssh-keygen -A`), or take the key off the list if it stands there by mistake."
            ),
            Self::HostCertificateRefused { problem, .. } => problem.advice(Purpose::Host),
            Self::CertificateUnusable { problem, .. } => problem.advice(Purpose::User),
            Self::AgentUnusable { socket, problem } => problem.advice(socket),
            Self::OnTheWay { error, .. } => error.advice(),
            Self::HopRefuses { hop, refusal } => refusal.advice(hop, None),
            Self::AuthRefused { at, accepts, .. } => refused_advice(at, accepts),
            Self::KeyUnreadable { .. } => "Check that it is a private key and that Roundsman's user can read it (`ls -l`, \
                `ssh-keygen -yf`), and give its passphrase if it has one."
                .to_owned(),
            Self::Closed { .. } => {
                "Roundsman connects again by itself. If it keeps happening, look at `journalctl -u ssh` on the server.".to_owned()
            }
            Self::ChannelRefused { .. } => {
                "Raise MaxSessions in the server's /etc/ssh/sshd_config (10 is the default), then `systemctl reload ssh`.".to_owned()
            }
            Self::NoShell { at, .. } => format!(
                "Give the user a POSIX shell on the server: `chsh -s /bin/sh {}`, and look for a forced command in its authorized_keys.",
                quote(&at.user).unwrap_or_default()
            ),
            Self::SudoRefused { at, wrong_password: true, .. } => {
                format!("Give the password of '{}' on the server again.", at.user)
            }
            Self::SudoRefused { .. } => {
                "Look at the user's lines in /etc/sudoers.d on the server: `sudo -l`, as that user.".to_owned()
            }
            Self::CommandTimedOut { .. } => "Give the command a longer time limit, or find out what it waits for.".to_owned(),
            Self::OutputTooLarge { .. } => "Let the command print less.".to_owned(),
            Self::InvalidCommand { .. } => "Correct the value that the sentence names.".to_owned(),
            Self::RemoteFailed { .. } => "Read what the server said, and check rights and free space in the user's home.".to_owned(),
        }
    }
}

fn unreachable_advice(at: &Endpoint, layer: Layer, cause: &Cause) -> String {
    let Endpoint { host, port, .. } = at;
    match cause {
        Cause::NoSuchName { .. } => format!("Check the spelling of '{host}', or use its IP address."),
        Cause::Refused => format!(
            "On the server run `systemctl start ssh` (sshd on some systems) and check that it listens on port {port}: `ss -ltn`."
        ),
        Cause::NoRoute { .. } => format!(
            "Check that the server is on and that no firewall stands between: open TCP port {port} \
             (`ufw allow {port}/tcp`, or `firewall-cmd --add-port={port}/tcp --permanent`)."
        ),
        Cause::NotSsh { .. } => {
            format!("Port {port} belongs to another program; find sshd's own port with `sshd -T | grep ^port` on the server.")
        }
        Cause::HungUp { .. } if layer <= Layer::KeyExchange => {
            "The server may be full (MaxStartups in sshd_config), or block this address (fail2ban, hosts.deny, a firewall): \
             look at `journalctl -u ssh` there."
                .to_owned()
        }
        Cause::NoCommonAlgorithm { .. } => {
            "Update the server's SSH daemon, or remove the restriction (KexAlgorithms, Ciphers, MACs, HostKeyAlgorithms) from its sshd_config."
                .to_owned()
        }
        Cause::Relay { by, refusal } => refusal.advice(by, Some(at)),
        Cause::HungUp { .. } | Cause::Broken { .. } => {
            "Look at `journalctl -u ssh` on the server for the reason.".to_owned()
        }
    }
}

fn time_out_advice(at: &Endpoint, layer: Layer) -> String {
    let Endpoint { host, port, .. } = at;
    match layer {
        Layer::Name => format!(
            "The name server does not answer; check /etc/resolv.conf here, or use the IP address of '{host}'."
        ),
        Layer::Tcp => format!(
            "Check that the server is on, that '{host}' is its address, and that a firewall lets TCP port {port} through."
        ),
        Layer::Banner => format!(
            "Something accepts connections on port {port} and stays silent: check that it is sshd, and that the server is not overloaded."
        ),
        _ => "The server is overloaded or hangs: look at its load and at `journalctl -u ssh`.".to_owned(),
    }
}

fn refused_advice(at: &Endpoint, accepts: &[String]) -> String {
    let copy = format!("ssh-copy-id -f -i KEY.pub {}", at.arguments());
    if accepts.iter().any(|method| method == "publickey") {
        format!(
            "Install the public key: `{copy}` (KEY.pub is the public key that Roundsman shows), or give the password once. \
             If it is installed, check the user name, and the rights of ~/.ssh (0700) and authorized_keys (0600) on the server."
        )
    } else {
        format!(
            "The server's sshd_config allows no keys for '{}': set `PubkeyAuthentication yes`, reload sshd, then `{copy}`.",
            at.user
        )
    }
}

/// The name of an identity for sentences; never its content.
pub(super) fn path_text(path: &std::path::Path) -> String {
    super::printable::line(PathBuf::from(path).to_string_lossy().as_bytes(), 300)
}
