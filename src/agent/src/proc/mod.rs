//! Text of a file under /proc or /sys (or of one command) to values. Pure: no parser opens anything.
//!
//! A parser takes bytes as they came and never fails as a whole: what it cannot make sense of is left
//! out or `None`. One file, one parser; the local reader and the shell probe share them.

pub mod containers;
pub mod cpu;
pub mod disks;
pub mod facts;
pub mod init;
pub mod json_text;
pub mod kernel;
pub mod memory;
pub mod mounts;
pub mod network;
pub mod packages;
pub mod process;
pub mod sensors;
pub mod services;
pub mod sockets;
pub mod users;
