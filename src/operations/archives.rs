//! Diagnostics that were collected: archives in the data directory, a file each, for some days and up to a size.
//!
//! A file is named after its operation and its server, so the rows of the operation say whose it is. What is in an archive
//! is the server's word and is never opened here.

use std::collections::{HashMap, hash_map};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{OperationError, Operations};
use crate::actions::ARCHIVE_LIMIT_BYTES;
use crate::auth;
use crate::fleet::Hand;
use crate::model::{Caller, OperationId, Role, ServerId, Timestamp};
use crate::ssh::{ExecRequest, Output, SshError};
use crate::store::StoreError;
use crate::store::audit::{self, Entry};
use crate::store::operations::{self as rows, Operation, Target};

/// All archives together; the oldest go first.
const KEPT_BYTES: u64 = 1024 * 1024 * 1024;
/// Longer than a trouble is looked into.
const KEPT_DAYS: u32 = 14;
/// Archives on their way at the same time: each is held in memory until it is written.
const AT_ONCE: usize = 8;
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
const ENDING: &str = ".tar.gz";
/// The kind of operations that bring archives.
const COLLECTS: &str = "collect_diagnostics";
/// Of a file that is being written.
const UNFINISHED: &str = ".part";
/// RFC 1952, 2.3.1: how gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where archives lie.
#[derive(Debug, Clone)]
pub(super) struct Archives {
    directory: PathBuf,
    places: Arc<Semaphore>,
}

/// One archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveView {
    pub operation: OperationId,
    pub server: ServerId,
    pub server_name: String,
    pub size_bytes: u64,
    /// When its operation was begun.
    pub collected_at: Timestamp,
}

/// A file of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    operation: OperationId,
    server: ServerId,
    size_bytes: u64,
}

impl Kept {
    /// The id of the operation was made by the clock, and says when.
    fn made_at(&self) -> Timestamp {
        let seconds = self.operation.uuid().get_timestamp().map_or((0, 0), |made| made.to_unix());
        let millis = seconds.0.saturating_mul(1000).saturating_add(u64::from(seconds.1) / 1_000_000);
        Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

/// Those that have to go: too old, or the oldest beyond the size that all may have.
fn surplus(mut kept: Vec<Kept>, now: Timestamp) -> Vec<Kept> {
    let expired = now - Duration::from_secs(u64::from(KEPT_DAYS) * 24 * 3600);
    kept.sort_by_key(|one| std::cmp::Reverse(one.made_at()));
    let mut total = 0_u64;
    kept.retain(|one| {
        total = total.saturating_add(one.size_bytes);
        total > KEPT_BYTES || one.made_at() < expired
    });
    kept
}

impl Archives {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    fn path(&self, operation: OperationId, server: ServerId) -> PathBuf {
        self.directory.join(format!("{operation}_{server}{ENDING}"))
    }

    /// Runs the command that prints an archive, and keeps what it printed. The answer is that of a command that says so.
    pub(super) async fn collect(
        &self,
        hand: &Hand,
        request: ExecRequest,
        (operation, server): (OperationId, ServerId),
        now: Timestamp,
    ) -> Result<Output, SshError> {
        // Never closed; without a place it would only be one more.
        let _place = self.places.acquire().await;
        let mut output = match hand.exec(request.output_limit(ARCHIVE_LIMIT_BYTES)).await {
            Ok(output) => output,
            Err(SshError::CommandTimedOut { after_ms, mut partial }) => {
                partial.stdout.clear();
                return Err(SshError::CommandTimedOut { after_ms, partial });
            }
            Err(error) => return Err(error),
        };
        let archive = std::mem::take(&mut output.stdout);
        let too_large = std::mem::take(&mut output.stdout_dropped_bytes) > 0;
        if !output.success() {
            return Ok(output);
        }
        let stored = if too_large {
            Err(format!("the archive is larger than {ARCHIVE_LIMIT_BYTES} bytes"))
        } else if !archive.starts_with(&GZIP) {
            Err("what the server sent is no archive".to_owned())
        } else {
            self.keep(operation, server, archive, now).await.map_err(|error| {
                tracing::error!(%operation, %server, %error, "an archive cannot be written");
                format!("the archive arrived and could not be written: {error}")
            })
        };
        match stored {
            Ok(()) => {
                output.stdout = format!("The archive is kept for {KEPT_DAYS} days.\n").into_bytes();
            }
            Err(reason) => {
                output.exit_status = Some(1);
                output.stderr = format!("{reason}\n").into_bytes();
            }
        }
        Ok(output)
    }

    async fn keep(
        &self,
        operation: OperationId,
        server: ServerId,
        archive: Vec<u8>,
        now: Timestamp,
    ) -> io::Result<()> {
        let (this, path) = (self.clone(), self.path(operation, server));
        let written = tokio::task::spawn_blocking(move || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&this.directory)?;
            let mut part = path.clone().into_os_string();
            part.push(UNFINISHED);
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            let done = file.write_all(&archive).and_then(|()| file.sync_all());
            if let Err(error) = done.and_then(|()| fs::rename(&part, &path)) {
                // What is left of it has no name that anybody reads; a start removes it.
                drop(fs::remove_file(&part));
                return Err(error);
            }
            this.sweep(now)
        });
        written.await.map_err(io::Error::other)?
    }

    fn all(&self) -> io::Result<Vec<Kept>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let named = name.to_str().and_then(|name| name.strip_suffix(ENDING)?.split_once('_'));
            let Some((operation, server)) = named else { continue };
            if let (Ok(operation), Ok(server)) = (operation.parse(), server.parse()) {
                match entry.metadata() {
                    Ok(meta) => all.push(Kept { operation, server, size_bytes: meta.len() }),
                    // Removed since the directory was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(all)
    }

    fn sweep(&self, now: Timestamp) -> io::Result<()> {
        for kept in surplus(self.all()?, now) {
            let path = self.path(kept.operation, kept.server);
            tracing::info!(operation = %kept.operation, server = %kept.server, "expired diagnostics are removed");
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// What a stop left half-written.
    fn tidy(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == UNFINISHED.trim_start_matches('.')) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Removes what has expired, at the start and once an hour.
pub(super) async fn sweep_on(operations: Operations) {
    let mut first = true;
    loop {
        let (archives, now) = (operations.inner.archives.clone(), operations.inner.clock.now());
        let is_first = std::mem::take(&mut first);
        let swept = tokio::task::spawn_blocking(move || {
            if is_first {
                archives.tidy()?;
            }
            archives.sweep(now)
        });
        if let Err(error) = swept.await.map_err(io::Error::other).and_then(|swept| swept) {
            tracing::error!(%error, "expired diagnostics cannot be removed; the next round tries again");
        }
        tokio::select! {
            () = operations.inner.stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}

impl Operations {
    /// Servers whose archives of this operation are there now.
    pub(super) async fn archived(&self, operation: &Operation) -> Result<Vec<ServerId>, OperationError> {
        if operation.kind != COLLECTS {
            return Ok(Vec::new());
        }
        let (archives, id) = (self.inner.archives.clone(), operation.id);
        let all = blocking(move || archives.all()).await?;
        Ok(all.into_iter().filter(|kept| kept.operation == id).map(|kept| kept.server).collect())
    }

    /// The archives of the caller's organization, newest first.
    ///
    /// # Errors
    /// [`OperationError::Store`], [`OperationError::Archive`].
    pub async fn archives(&self, caller: &Caller) -> Result<Vec<ArchiveView>, OperationError> {
        auth::require(caller, Role::Operator)?;
        let archives = self.inner.archives.clone();
        let mut all = blocking(move || archives.all()).await?;
        all.sort_by_key(|one| std::cmp::Reverse((one.operation, one.server)));
        let organization = caller.organization;
        let read = self.inner.store.read(move |c| {
            let mut views: Vec<ArchiveView> = Vec::with_capacity(all.len());
            let mut of: HashMap<OperationId, Option<(Timestamp, Vec<Target>)>> = HashMap::new();
            for kept in all {
                if let hash_map::Entry::Vacant(place) = of.entry(kept.operation) {
                    let found = rows::by_id(c, organization, kept.operation)?;
                    let created_at = found.map(|operation| operation.created_at);
                    let targets = rows::targets(c, kept.operation)?;
                    place.insert(created_at.map(|created_at| (created_at, targets)));
                }
                // None: another organization's, or its operation has expired.
                let Some(Some((collected_at, targets))) = of.get(&kept.operation) else { continue };
                if let Some(target) = targets.iter().find(|target| target.server == kept.server) {
                    views.push(ArchiveView {
                        operation: kept.operation,
                        server: kept.server,
                        server_name: target.server_name.clone(),
                        size_bytes: kept.size_bytes,
                        collected_at: *collected_at,
                    });
                }
            }
            Ok::<_, StoreError>(views)
        });
        Ok(read.await?)
    }

    /// One archive whole: the name for its file, and its bytes.
    ///
    /// # Errors
    /// [`OperationError::NoSuchArchive`]: it was removed, has expired, or never was.
    pub async fn archive(
        &self,
        caller: &Caller,
        operation: &str,
        server: &str,
    ) -> Result<(String, Vec<u8>), OperationError> {
        let target = self.archived_target(caller, operation, server).await?;
        let path = self.inner.archives.path(target.0, target.1.server);
        let content = blocking(move || match fs::read(path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        });
        let content = content.await?.ok_or(OperationError::NoSuchArchive)?;
        self.audit_archive(caller, "diagnostics.download", &target).await?;
        let day: String = target.2.to_string().chars().take(10).collect();
        Ok((format!("diagnostics-{}-{day}{ENDING}", target.1.server_name), content))
    }

    /// Removes one archive.
    ///
    /// # Errors
    /// As [`Self::archive`].
    pub async fn remove_archive(
        &self,
        caller: &Caller,
        operation: &str,
        server: &str,
    ) -> Result<(), OperationError> {
        let target = self.archived_target(caller, operation, server).await?;
        let path = self.inner.archives.path(target.0, target.1.server);
        let removed = blocking(move || match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        });
        if !removed.await? {
            return Err(OperationError::NoSuchArchive);
        }
        self.audit_archive(caller, "diagnostics.remove", &target).await
    }

    /// The target by the id or the name of its server, in an operation of the caller's organization.
    async fn archived_target(
        &self,
        caller: &Caller,
        operation: &str,
        server: &str,
    ) -> Result<(OperationId, Target, Timestamp), OperationError> {
        auth::require(caller, Role::Operator)?;
        let id: OperationId = operation.parse().map_err(|_| OperationError::NoSuchArchive)?;
        let (organization, server) = (caller.organization, server.to_owned());
        let read = self.inner.store.read(move |c| {
            let Some(operation) = rows::by_id(c, organization, id)? else { return Ok(None) };
            let targets = rows::targets(c, id)?;
            let named = |one: &Target| one.server_name == server || one.server.to_string() == server;
            let target = targets.into_iter().find(named);
            Ok::<_, StoreError>(target.map(|target| (id, target, operation.created_at)))
        });
        read.await?.ok_or(OperationError::NoSuchArchive)
    }

    async fn audit_archive(
        &self,
        caller: &Caller,
        what: &str,
        (operation, target, _): &(OperationId, Target, Timestamp),
    ) -> Result<(), OperationError> {
        let entry = Entry::by(caller, what, &target.server_name).detail(format!("of operation {operation}"));
        let now = self.inner.clock.now();
        Ok(self.inner.store.write(move |tx| audit::append(tx, now, &entry)).await?)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, OperationError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    done.and_then(|done| done).map_err(OperationError::Archive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, ManualClock};

    fn kept(clock: &ManualClock, size_bytes: u64) -> Kept {
        Kept {
            operation: OperationId::new(clock.new_uuid()),
            server: ServerId::new(clock.new_uuid()),
            size_bytes,
        }
    }

    #[test]
    fn old_archives_go_and_of_too_many_the_oldest() {
        let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
        let expired = kept(&clock, 10);
        clock.advance(Duration::from_secs(10 * 24 * 3600));
        let large = kept(&clock, KEPT_BYTES - 100);
        clock.advance(Duration::from_secs(3600));
        let (fits, fresh) = (kept(&clock, 50), kept(&clock, 50));
        let all = vec![expired, fits, large, fresh];
        assert_eq!(surplus(all.clone(), clock.now()), [expired], "exactly as much as may be");
        clock.advance(Duration::from_secs(5 * 24 * 3600));
        assert_eq!(surplus(all, clock.now()), [expired]);
        let newest = kept(&clock, 1);
        assert_eq!(surplus(vec![fits, large, fresh, newest], clock.now()), [large]);
        clock.advance(Duration::from_secs(30 * 24 * 3600));
        assert_eq!(surplus(vec![fits, newest], clock.now()).len(), 2);
    }

    #[tokio::test]
    async fn an_archive_is_private_and_a_half_written_one_is_swept() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = tempfile::tempdir().unwrap();
        let archives = Archives::new(place.path().join("diagnostics"));
        let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
        let one = kept(&clock, 4);
        archives.keep(one.operation, one.server, vec![0x1f, 0x8b, 1, 2], clock.now()).await.unwrap();
        assert_eq!(archives.all().unwrap(), [one]);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(archives.path(one.operation, one.server)), 0o600);
        assert_eq!(mode(archives.directory.clone()), 0o700);
        fs::write(archives.directory.join("x.tar.gz.part"), "half").unwrap();
        archives.tidy().unwrap();
        assert_eq!(fs::read_dir(&archives.directory).unwrap().count(), 1);
    }
}
