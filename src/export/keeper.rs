//! Removes rows that are older than their retention, once an hour, in short transactions, and says what went.
//!
//! Control data only: history removes its own, by the days that are set here for its levels.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::MissedTickBehavior;

use super::{Export, ExportError};
use crate::auth;
use crate::history::{self, HistoryError, Level};
use crate::model::{Caller, InvalidRetention, OrganizationId, Retention, Role, Timestamp};
use crate::store::audit::{self, Entry};
use crate::store::retention::{self, Expiring, TableSize};
use crate::store::{StoreError, settings};

/// Time between two rounds.
const EVERY: Duration = Duration::from_secs(3600);
/// The first round waits until the start is over.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// Rows of one transaction: some milliseconds, so that nobody waits for the writer.
const BATCH: u32 = 500;
/// Records with output hold up to 2 MiB each; this many at once stay in memory.
const RECORD_BATCH: u32 = 32;
/// Audit entries go a day's worth at a time, because each removal leaves an entry itself.
const AUDIT_SLACK: Duration = Duration::from_secs(24 * 3600);
/// A round by the clock goes at most so far beyond the oldest row of a table, as history does: an hourly round needs an
/// hour, and a clock that jumps a year ahead must not take everything at once.
const LONGEST_STEP: Duration = Duration::from_secs(2 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What one round removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Removed {
    pub command_records: usize,
    pub operations: usize,
    pub audit_entries: usize,
}

impl Export {
    /// How long rows are kept, for all organizations.
    ///
    /// # Errors
    /// [`ExportError::Auth`]: viewers may see it.
    pub async fn retention(&self, caller: &Caller) -> Result<Retention, ExportError> {
        auth::require(caller, Role::Viewer)?;
        self.kept_for().await
    }

    async fn kept_for(&self) -> Result<Retention, ExportError> {
        let stored = self
            .inner
            .sources
            .store
            .read(|c| settings::get::<Retention>(c, OrganizationId::DEFAULT, settings::RETENTION))
            .await?;
        // What history obeys stands in its own file.
        let history = &self.inner.sources.history;
        Ok(with_levels(
            stored.or_else(|| self.inner.options.retention.clone()).unwrap_or_default(),
            &history.retention(),
            history.archive(),
        ))
    }

    /// Changes how long rows are kept; the next round obeys it. What was stored before.
    ///
    /// # Errors
    /// [`ExportError::Auth`], [`ExportError::FirstOrganization`]; [`ExportError::Retention`] names the field;
    /// [`ExportError::Invalid`] when the archive is no directory that can be written.
    pub async fn set_retention(&self, caller: &Caller, wanted: Retention) -> Result<Retention, ExportError> {
        auth::require(caller, Role::Admin)?;
        if caller.organization != OrganizationId::DEFAULT {
            return Err(ExportError::FirstOrganization);
        }
        let wanted = wanted.validated()?;
        if let Some(archive) = wanted.archive.clone() {
            let tried = tokio::task::spawn_blocking(move || try_archive(&archive)).await;
            tried.map_err(|error| ExportError::Io(std::io::Error::other(error)))??;
        }
        let before = self.retention(caller).await?;
        // First, because it may still refuse: it knows how much of a level the next one is made from.
        let history = &self.inner.sources.history;
        history.set_retention(levels(&wanted), wanted.archive.clone()).await.map_err(of_level)?;
        let now = self.inner.sources.clock.now();
        let entry = Entry::by(caller, "retention.set", "retention").detail(changes(&before, &wanted));
        let by = caller.actor.to_string();
        let stored = wanted.clone();
        self.inner
            .sources
            .store
            .write(move |tx| {
                settings::set(tx, OrganizationId::DEFAULT, settings::RETENTION, &stored, (now, &by))?;
                audit::append(tx, now, &entry)
            })
            .await?;
        Ok(before)
    }

    /// Size and growth of every table of the control data.
    ///
    /// # Errors
    /// [`ExportError::Auth`], [`ExportError::FirstOrganization`].
    pub async fn sizes(&self, caller: &Caller) -> Result<Vec<TableSize>, ExportError> {
        auth::require(caller, Role::Admin)?;
        if caller.organization != OrganizationId::DEFAULT {
            return Err(ExportError::FirstOrganization);
        }
        let day_ago = self.inner.sources.clock.now() - DAY;
        Ok(self.inner.sources.store.read(move |c| retention::sizes(c, day_ago)).await?)
    }

    /// Removes what has expired, now, however much that is.
    ///
    /// # Errors
    /// The database or the archive cannot be written; what was not archived is still there.
    pub async fn remove_expired(&self) -> Result<Removed, ExportError> {
        self.remove(None).await
    }

    /// One hourly round: as [`Self::remove_expired`], but no more than two days beyond the oldest row of each table.
    ///
    /// # Errors
    /// As [`Self::remove_expired`].
    pub async fn remove_expired_by_clock(&self) -> Result<Removed, ExportError> {
        self.remove(Some(LONGEST_STEP)).await
    }

    async fn remove(&self, step: Option<Duration>) -> Result<Removed, ExportError> {
        let kept = self.kept_for().await?;
        let now = self.inner.sources.clock.now();
        let store = &self.inner.sources.store;
        let (records, operations, audited) = store
            .read(|c| {
                let records = retention::oldest(c, Expiring::CommandRecords)?;
                Ok::<_, StoreError>((records, retention::oldest(c, Expiring::Operations)?, audit::oldest(c)?))
            })
            .await?;
        let cutoff = |days: u32, oldest: Option<Timestamp>| {
            let expired = now - DAY * days;
            match (step, oldest) {
                (Some(step), Some(oldest)) => expired.min(oldest + step),
                _ => expired,
            }
        };
        let archive = kept.archive.as_deref();
        let (records, operations) =
            (cutoff(kept.command_records_days, records), cutoff(kept.operations_days, operations));
        let removed = Removed {
            command_records: self.remove_rows(Expiring::CommandRecords, records, archive).await?,
            operations: self.remove_rows(Expiring::Operations, operations, archive).await?,
            audit_entries: self.remove_audit(cutoff(kept.audit_days, audited), archive).await?,
        };
        if removed != Removed::default() {
            tracing::info!(
                command_records = removed.command_records,
                operations = removed.operations,
                audit_entries = removed.audit_entries,
                archive = ?kept.archive,
                "expired rows were removed"
            );
        }
        Ok(removed)
    }

    async fn remove_rows(
        &self,
        kind: Expiring,
        cutoff: Timestamp,
        archive: Option<&Path>,
    ) -> Result<usize, ExportError> {
        let store = &self.inner.sources.store;
        let limit = if kind == Expiring::CommandRecords { RECORD_BATCH } else { BATCH };
        let mut removed = 0;
        loop {
            let rows = store.read(move |c| retention::expired(c, kind, cutoff, limit)).await?;
            if rows.is_empty() {
                return Ok(removed);
            }
            let (ids, rows): (Vec<String>, Vec<Value>) = rows.into_iter().unzip();
            self.archive(archive, kind.table(), rows).await?;
            let gone = store.write(move |tx| retention::remove(tx, kind, &ids)).await?;
            removed += gone;
            if gone == 0 {
                // Somebody else removed the same rows, or the database keeps what it was told to remove.
                return Ok(removed);
            }
        }
    }

    async fn remove_audit(&self, cutoff: Timestamp, archive: Option<&Path>) -> Result<usize, ExportError> {
        let store = &self.inner.sources.store;
        let mut removed = 0;
        // Only when the oldest is a day over its time.
        if store.read(move |c| audit::last_before(c, cutoff - AUDIT_SLACK, 1)).await?.is_none() {
            return Ok(removed);
        }
        while let Some(last) = store.read(move |c| audit::last_before(c, cutoff, BATCH)).await? {
            let rows = store.read(move |c| retention::audit_up_to(c, last)).await?;
            self.archive(archive, "audit", rows).await?;
            let now = self.inner.sources.clock.now();
            removed += store.write(move |tx| audit::remove_up_to(tx, now, last)).await?;
        }
        Ok(removed)
    }

    /// Appends rows to the archive of their table and day. A crash before they are removed archives them twice.
    async fn archive(
        &self,
        directory: Option<&Path>,
        table: &'static str,
        rows: Vec<Value>,
    ) -> Result<(), ExportError> {
        let Some(directory) = directory else { return Ok(()) };
        let day: String = self.inner.sources.clock.now().to_string().chars().take(10).collect();
        let path = directory.join(format!("roundsman-{table}-{day}.jsonl"));
        let written = tokio::task::spawn_blocking(move || append(&path, &rows)).await;
        written.map_err(|error| ExportError::Io(std::io::Error::other(error)))?
    }

    /// One round an hour, for as long as the program runs.
    pub(super) async fn keep(self) {
        let mut rounds = tokio::time::interval_at(tokio::time::Instant::now() + FIRST_AFTER, EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                _ = rounds.tick() => {}
            }
            if let Err(error) = self.remove_expired_by_clock().await {
                tracing::error!(%error, "expired rows could not be removed; the next round tries again");
            }
        }
    }
}

/// What the configuration file says of history's levels holds until an administrator sets them.
///
/// # Errors
/// [`ExportError::Retention`] names the field.
pub(super) fn obey_configuration(
    history: &history::History,
    configured: Option<&Retention>,
) -> Result<(), ExportError> {
    let Some(configured) = configured else { return Ok(()) };
    history.set_default_retention(levels(configured), configured.archive.clone()).map_err(of_level)
}

/// The days of history's levels.
const fn levels(kept: &Retention) -> history::Retention {
    history::Retention {
        raw_days: kept.raw_days,
        minute_days: kept.m1_days,
        five_minutes_days: kept.m5_days,
        quarter_hour_days: kept.m15_days,
        hour_days: kept.h1_days,
        day_days: kept.d1_days,
    }
}

/// What is kept in truth: history knows its own days.
fn with_levels(kept: Retention, levels: &history::Retention, archive: Option<PathBuf>) -> Retention {
    Retention {
        raw_days: levels.raw_days,
        m1_days: levels.minute_days,
        m5_days: levels.five_minutes_days,
        m15_days: levels.quarter_hour_days,
        h1_days: levels.hour_days,
        d1_days: levels.day_days,
        archive: kept.archive.or(archive),
        ..kept
    }
}

/// A level that history cannot keep so short, as the field that says so.
fn of_level(error: HistoryError) -> ExportError {
    let HistoryError::BadRetention { level, given, why } = error else { return error.into() };
    let field = match level {
        Level::Raw => "raw_days",
        Level::Minute => "m1_days",
        Level::FiveMinutes => "m5_days",
        Level::QuarterHour => "m15_days",
        Level::Hour => "h1_days",
        Level::Day => "d1_days",
    };
    InvalidRetention { field, message: format!("{given} days are not possible: {why}") }.into()
}

fn changes(before: &Retention, after: &Retention) -> String {
    let days = before.days().into_iter().zip(after.days()).filter(|(old, new)| old != new);
    let mut parts: Vec<String> =
        days.map(|((name, old), (_, new))| format!("{name} {old} to {new}")).collect();
    if before.archive != after.archive {
        let shown = |path: &Option<PathBuf>| {
            path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
        };
        parts.push(format!("archive {} to {}", shown(&before.archive), shown(&after.archive)));
    }
    if parts.is_empty() { "nothing changed".to_owned() } else { parts.join(", ") }
}

/// # Errors
/// [`ExportError::Invalid`] says what to do.
fn try_archive(directory: &Path) -> Result<(), ExportError> {
    let shown = directory.display();
    let probe = directory.join(format!(".roundsman-archive-test-{}", std::process::id()));
    let tried = fs::metadata(directory)
        .and_then(|meta| if meta.is_dir() { Ok(()) } else { Err(std::io::ErrorKind::NotADirectory.into()) })
        // Never what somebody else put there: a link would be followed and its target emptied.
        .and_then(|()| File::create_new(&probe))
        .and_then(|_| fs::remove_file(&probe));
    tried.map_err(|error| {
        ExportError::Invalid(format!(
            "archive: {shown} cannot be written: {error}; make the directory and give it to Roundsman's user"
        ))
    })
}

fn append(path: &Path, rows: &[Value]) -> Result<(), ExportError> {
    // Never through a link that somebody else put there.
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut file =
        File::options().create(true).append(true).mode(0o600).custom_flags(no_follow).open(path)?;
    let mut text = String::new();
    for row in rows {
        text.push_str(&row.to_string());
        text.push('\n');
    }
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_not_written_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) =
            (directory.path().join("target"), directory.path().join("roundsman-audit-1.jsonl"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(append(&link, &[Value::from(1)]), Err(ExportError::Io(_))));
        assert!(!target.exists());
        fs::remove_file(&link).unwrap();
        append(&link, &[Value::from(1)]).unwrap();
        append(&link, &[Value::from(2)]).unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "1\n2\n");
    }

    #[test]
    fn the_fewest_days_of_the_form_are_those_of_history() {
        let fields = ["raw_days", "m1_days", "m5_days", "m15_days", "h1_days", "d1_days"];
        for (level, field) in Level::ALL.into_iter().zip(fields) {
            assert_eq!(history::Retention::fewest_days(level), Retention::fewest_days(field), "{field}");
        }
    }
}
