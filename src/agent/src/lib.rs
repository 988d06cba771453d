//! One reading of one Linux machine: the [`Snapshot`] type and the parsers that fill it.
//!
//! Std only. The central server uses this library for the machine it runs on and for the text
//! that the shell probe brings home; the agent program uses it for the machine it was uploaded to.
//! It never computes a rate: a snapshot holds raw counters, and what is unknown is `None`.

pub mod http;
pub mod json;
pub mod kept;
pub mod limits;
pub mod local;
pub mod proc;
pub mod push;
pub mod reading;
pub mod reply;
pub mod scan;
pub mod send;
pub mod serve;
pub mod sha256;
mod snapshot;
pub mod stream;
pub mod text;

pub use snapshot::*;
