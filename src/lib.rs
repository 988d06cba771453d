//! Roundsman: one program that looks after a fleet of Linux servers over SSH.
//!
//! The map of the code, in reading order. A module uses only modules above it.

pub mod model;

pub mod clock;

pub mod history;

pub mod fleet;

pub mod web;
