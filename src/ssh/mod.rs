//! SSH: one authenticated connection a server, and what runs over it.
//!
//! [`target`] says where to and as whom; [`connect`](crate::ssh::connect()) makes a
//! [`Connection`] (jump host or proxy, name, TCP, banner, key exchange, host key, authentication, each with a time
//! limit); [`exec`] runs a command, [`stream`] keeps one running;
//! [`session`] keeps a server's connection alive; [`preflight`] tells a person
//! what works and what to do; [`keys`], [`keyring`], [`hostkey`],
//! [`known_hosts`] and [`enrol`] look after keys.
//!
//! Nothing here knows the store: a target carries the pinned host key, and the errors carry the key that was seen.
//! All that a server sends is bounded, and cleaned by [`printable`] before a person reads it.

mod agent;
mod agent_keys;
pub mod algorithms;
mod auth;
pub mod authorized;
mod banner;
mod budget;
pub mod certificate;
mod channel;
mod connect;
mod connection;
pub mod enrol;
mod error;
pub mod exec;
mod handler;
pub mod hostkey;
mod jump;
mod key_cost;
pub mod keyring;
pub mod keys;
pub mod known_hosts;
mod offer;
pub mod preflight;
pub mod printable;
mod proxy;
mod remote;
pub mod request;
pub mod session;
mod spare;
pub mod stream;
pub mod target;
pub mod transfer;
mod way;
mod wire;

pub use agent_keys::{AgentKey, agent_keys};
pub use algorithms::Algorithms;
pub use budget::{Asker, MAX_CHANNELS};
pub use certificate::{Certificate, CertificateProblem, Purpose};
pub use connect::connect;
pub use connection::Connection;
pub use enrol::enrol_with_password;
pub use error::{AgentProblem, Cause, Endpoint, SshError};
pub use exec::{Output, Piece};
pub use hostkey::{HostKey, Offered, Trust, Verdict, judge_host_key};
pub use request::{ContainerExec, Engine, ExecRequest, Sudo};
pub use session::{Session, SessionState};
pub use stream::Stream;
pub use target::{Identity, JumpHost, Proxy, ProxyKind, Route, Target};
pub use way::{Hop, Refusal};
