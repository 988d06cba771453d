//! Roundsman: one program that looks after a fleet of Linux servers over SSH.
//!
//! The map of the code, in reading order. A module uses only modules of a lower rank; `tests/tidy.rs` checks it.
//!
//! | rank | module | what it owns |
//! |---|---|---|
//! | 0 | [`model`] | the vocabulary: servers, snapshots, samples, callers, events |
//! | 0 | [`clock`] | wall time and new ids |
//! | 0 | [`quote`] | the one place that quotes for a remote shell |
//! | 1 | [`config`] | flags, environment, file: one validated configuration |
//! | 1 | [`vault`] | seals and opens stored secrets |
//! | 1 | [`store`] | control data in SQLite: servers, people, keys, audit |
//! | 1 | [`history`] | samples: journal, head in memory, sealed chunks, ranges |
//! | 1 | [`ssh`] | one authenticated connection a server and what runs over it |
//! | 2 | [`collect`] | one reading, over SSH or of this machine; two readings become samples |
//! | 2 | [`actions`] | what may be done to a server, and the exact command that does it |
//! | 2 | [`auth`] | who may come in, and as whom |
//! | 3 | [`fleet`] | enrolment, live state, one poller a server, health |
//! | 4 | [`operations`] | one action on one or many servers, tracked target by target |
//! | 5 | [`export`] | what leaves the house: tables, Prometheus, remote-write, backups; what is kept how long |
//! | 5 | [`tasks`] | operations on a schedule: when they run, what became of each run |
//! | 6 | [`services`] | the handles that pages, API and command line receive |
//! | 7 | [`web`] | pages, REST API, live updates, the accept loop |
//! | 7 | [`cli`] | the command line |
//! | 8 | [`app`] | wires everything; the order of start and stop |

pub mod actions;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod config;
pub mod export;
pub mod fleet;
pub mod history;
pub mod model;
pub mod operations;
pub mod quote;
pub mod services;
pub mod ssh;
pub mod store;
pub mod tasks;
pub mod vault;
pub mod web;
