//! Roundsman: one program that looks after a fleet of Linux servers over SSH.
//!
//! The map of the code, in reading order. A module uses only modules above it.

pub mod model;

pub mod clock;

pub mod config;

pub mod vault;

pub mod store;

pub mod history;

pub mod auth;

pub mod fleet;

pub mod services;

pub mod web;
