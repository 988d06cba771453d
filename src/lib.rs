//! Roundsman: one program that looks after a fleet of Linux servers over SSH.
//!
//! The map of the code, in reading order. A module uses only modules above it.

pub mod model;

pub mod clock;

pub mod history;

/// One reading of one server: shell probe, this machine, and what two readings say together.
pub mod collect;

pub mod fleet;
