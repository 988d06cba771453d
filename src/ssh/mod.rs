//! SSH: one authenticated connection a server, and what runs over it.
//!
//! [`target`] says where to and as whom; [`connect`](crate::ssh::connect()) makes a
//! [`Connection`] (name, TCP, banner, key exchange, host key, authentication, each with a time
//! limit); [`exec`] runs a command, [`stream`] keeps one running;
//! [`session`] keeps a server's connection alive; [`preflight`] tells a person
//! what works and what to do; [`keys`], [`hostkey`],
//! [`known_hosts`] and [`enrol`] look after keys.
//!
//! Nothing here knows the store: a target carries the pinned host key, and the errors carry the key that was seen.
//! All that a server sends is bounded, and cleaned by [`printable`] before a person reads it.

mod auth;
mod budget;
mod channel;
mod connect;
mod connection;
pub mod enrol;
mod error;
pub mod exec;
mod handler;
pub mod hostkey;
pub mod keys;
pub mod known_hosts;
pub mod preflight;
pub mod printable;
mod remote;
pub mod request;
pub mod session;
pub mod stream;
pub mod target;
mod wire;

pub use budget::{Asker, MAX_CHANNELS};
pub use connect::connect;
pub use connection::Connection;
pub use enrol::enrol_with_password;
pub use error::{Cause, Endpoint, SshError};
pub use exec::{Output, Piece};
pub use hostkey::{HostKey, Verdict, judge_host_key};
pub use request::{ContainerExec, Engine, ExecRequest, Sudo};
pub use session::{Session, SessionState};
pub use stream::Stream;
pub use target::{Identity, JumpHost, Proxy, ProxyKind, Route, Target};
