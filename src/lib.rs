//! Roundsman: one program that looks after a fleet of Linux servers over SSH.
//!
//! The map of the code, in reading order. A module uses only modules above it.

pub mod model;

pub mod clock;

/// The one place that quotes for a remote shell.
pub mod quote;

pub mod history;

/// One authenticated connection a server, and what runs over it.
pub mod ssh;

pub mod fleet;
