//! One reading of one server, whatever the way to it: always a [`Snapshot`](crate::model::Snapshot).
//!
//! Knows no server, no schedule and no store; whoever calls decides when to read and what to keep.

pub mod agent;
pub mod custom;
pub mod http;
pub mod local;
pub mod pushed;
pub mod rates;
pub mod shell;

pub use agent::AgentProbe;
pub use local::LocalProbe;
pub use shell::ShellProbe;

/// Why there is no reading. After any of them but from [`LocalProbe`] the channel is of no more use: what
/// still comes over it would belong to the failed reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The other end closed the channel, or an earlier reading on it failed. Open a new channel.
    #[error("the server closed the channel of the readings")]
    Closed,
    /// The server said too little in time. Open a new channel; if that happens again, a new connection.
    #[error("the server did not answer within {after_ms} ms")]
    TimedOut { after_ms: u64 },
    /// More than a server can sensibly say. Open a new channel; trying again at once would only waste traffic.
    #[error("the server sent more than {limit_bytes} bytes; that is no reading")]
    TooMuchOutput { limit_bytes: usize },
    /// What came is not what the script prints. A new channel may help; a person should know.
    #[error("the server's answer makes no sense: {reason}")]
    Garbled { reason: String },
    /// The login ran no POSIX shell: a forced command, a menu, `nologin`. Only a person can change that.
    /// `said` is the beginning of what came instead, cleaned; it may be empty.
    #[error("the login has no POSIX shell; it answered: {said:?}")]
    NoShell { said: String },
    /// There is no agent that this version understands; the shell probe reads in its place until one is deployed.
    #[error("the agent cannot be used: {reason}")]
    NoAgent { reason: String },
}
