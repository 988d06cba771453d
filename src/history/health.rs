//! How history does: what could not be written, read or kept, for whoever looks after the program.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use tokio::sync::watch;

use super::database::{self, Table};
use super::memory::{self, Dropped};
use super::retention::Removal;
use super::{History, Shared, series};
use crate::model::{ServerNumber, Timestamp};

/// Damaged chunks that are remembered so that each is logged once.
const MAX_DAMAGED_KNOWN: usize = 1024;

const WRITER_ENDED: &str = "the thread that writes history has ended; restart the program";

/// How history does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HistoryHealth {
    /// Why the file took nothing the last time. None: it took everything.
    pub last_error: Option<String>,
    /// Why the last run of the removal failed, for example an archive that cannot be written; expired values stay.
    pub removal_error: Option<String>,
    /// Seconds of values that are in memory only. 0 or 1 when all is well.
    pub behind_s: u64,
    /// Rows of the file that could not be read since the start; each was skipped.
    pub damaged_rows: u64,
    pub dropped: Dropped,
    /// Samples that came after a later one of their server and were kept.
    pub late: u64,
    /// How often this machine's clock was set by more than 5 seconds since the start.
    pub clock_steps: u64,
    /// Servers that send more names of metrics and labels than are kept, at most 16 of them.
    pub limited: Vec<Limited>,
    /// Series that are known by name, and how many can be.
    pub series: usize,
    pub max_series: usize,
    /// Memory that the unsealed values take.
    pub head_bytes: u64,
}

/// A server that brought more names than are kept. New names wait until old ones were unseen for two days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limited {
    pub server: ServerNumber,
    /// Samples that this cost since the start.
    pub dropped: u64,
    /// The first few names that were refused. A server's word: to be cleaned before it is shown.
    pub names: Vec<String>,
}

impl Limited {
    fn of(server: ServerNumber, refused: &memory::Refused) -> Self {
        Self {
            server,
            dropped: refused.samples,
            names: refused.names.iter().map(ToString::to_string).collect(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct HealthState {
    pub(super) last_error: Option<String>,
    pub(super) written_until: Timestamp,
    pub(super) damaged_rows: u64,
    pub(super) damaged_known: HashSet<(Table, i64)>,
    pub(super) clock_steps: u64,
    pub(super) removal_error: Option<String>,
    pub(super) last_removal: Option<Removal>,
}

impl Shared {
    /// Counts and logs a damaged row, the first time that it is met.
    pub(super) fn damaged(&self, table: Table, row: i64, server: u32, error: impl fmt::Display) {
        let mut health = self.health();
        let known = &mut health.damaged_known;
        if known.len() < MAX_DAMAGED_KNOWN && known.insert((table, database::chunk_key(row, server))) {
            health.damaged_rows += 1;
            let level = table.level().name();
            tracing::error!(server, level, row, %error, "history: a row is damaged and is skipped");
        }
    }
}

impl History {
    /// What a server lost by bringing more names than are kept. None: nothing.
    #[must_use]
    pub fn limited(&self, server: ServerNumber) -> Option<Limited> {
        self.shared.memory().limited.get(&server.0).map(|refused| Limited::of(server, refused))
    }

    /// Why the file takes no values; changes only when it begins to take none, and when it takes them again (None).
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.shared.trouble.subscribe()
    }

    #[must_use]
    pub fn health(&self) -> HistoryHealth {
        let now = self.shared.clock.now();
        let (mut found, waiting, closed) = {
            let memory = self.shared.memory();
            let limited = memory.limited.iter();
            let mut limited: Vec<Limited> =
                limited.map(|(server, refused)| Limited::of(ServerNumber(*server), refused)).collect();
            limited.sort_by_key(|limited| limited.server.0);
            let found = HistoryHealth {
                dropped: memory.dropped,
                late: memory.late,
                limited,
                series: memory.dictionary.len(),
                max_series: series::MAX_SERIES,
                head_bytes: memory.memory_bytes() as u64,
                ..HistoryHealth::default()
            };
            (found, memory.has_pending(), memory.is_closed())
        };
        let health = self.shared.health();
        let waiting = waiting || health.last_error.is_some();
        let ended = self.requests.is_closed() && !closed;
        found.last_error = if ended { Some(WRITER_ENDED.to_owned()) } else { health.last_error.clone() };
        found.behind_s = if waiting { now.since(health.written_until).as_secs() } else { 0 };
        found.removal_error.clone_from(&health.removal_error);
        found.damaged_rows = health.damaged_rows;
        found.clock_steps = health.clock_steps;
        found
    }
}
