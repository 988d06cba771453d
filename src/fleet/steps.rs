//! Actions in several steps: each is told as it happens, and the whole ends as one command's output would.

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::ssh::{Output, Piece};

/// What was done, told as it happens.
pub(super) struct Report {
    tap: mpsc::Sender<Piece>,
    text: String,
    started: Instant,
}

impl Report {
    pub(super) fn new(tap: mpsc::Sender<Piece>) -> Self {
        Self { tap, text: String::new(), started: Instant::now() }
    }

    pub(super) fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        // A slow page misses a line; the record has them all.
        drop(self.tap.try_send(Piece::Stdout(line.clone().into_bytes())));
        self.text.push_str(&line);
    }

    /// Exit status 0, or 1 with the reason on stderr.
    pub(super) fn output(self, outcome: Result<(), Stuck>) -> Output {
        let (status, stderr) = match outcome {
            Ok(()) => (0, Vec::new()),
            Err(Stuck(reason)) => (1, format!("{}\n", reason.trim_end()).into_bytes()),
        };
        self.ended(status, stderr)
    }

    pub(super) fn ended(self, status: u32, stderr: Vec<u8>) -> Output {
        Output {
            exit_status: Some(status),
            stdout: self.text.into_bytes(),
            stderr,
            wall: self.started.elapsed(),
            ..Output::default()
        }
    }
}

/// Why it went no further, a sentence.
pub(super) struct Stuck(pub(super) String);

impl Stuck {
    pub(super) fn at(step: &str, cause: impl std::fmt::Display) -> Self {
        Self(format!("{step}: {cause}"))
    }
}
