//! A backup of the running instance: consistent copies, history first, put into one file.
//!
//! Readings and changes go on meanwhile. The copies lie in a directory of their own beside the data until they are
//! sent, and are gone afterwards, whatever happened.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

use super::manifest::{CONTROL, Content, FORMAT, HISTORY, KEY, MANIFEST, Manifest, MasterKey};
use super::sealed_key::SealedKey;
use super::{Export, ExportError};
use crate::auth;
use crate::model::{Caller, OrganizationId, Role, Secret, Timestamp};
use crate::store::audit::{self, Entry};
use crate::store::{StoreError, backup as copies};

/// Beginning of the name of the directory where copies lie; what an earlier run left is removed.
const STAGE: &str = "backup-in-progress-";
/// Parts of the file on their way to the caller, and how large each is: a slow caller holds up nothing else.
const PARTS: usize = 16;
const PART_BYTES: usize = 64 * 1024;
/// A caller who takes nothing for so long is given up: the copies fill the disk, and nobody else can make a backup.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// The whole transfer: 14 GB at a megabyte a second. A caller who takes a part a minute would stay for weeks.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// Copies of each database from before migrations that are kept.
const COPIES_KEPT: usize = 2;
/// Left free on the disk beyond the copies, so that the running instance can go on writing.
const SPARE_BYTES: u64 = 64 << 20;

/// A finished backup that waits to be sent.
#[derive(Debug)]
pub struct Backup {
    pub manifest: Manifest,
    stage: Stage,
    _turn: OwnedSemaphorePermit,
}

/// A directory that goes when this does.
#[derive(Debug)]
struct Stage(PathBuf);

impl Stage {
    fn make(data: &Path, now: Timestamp) -> io::Result<Self> {
        for old in fs::read_dir(data)?.flatten() {
            if old.file_name().to_string_lossy().starts_with(STAGE) {
                fs::remove_dir_all(old.path())?;
            }
        }
        let path = data.join(format!("{STAGE}{}", now.as_millis()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the copies of a backup could not be removed");
        }
    }
}

impl Export {
    /// Makes a backup; `passphrase` is given where it is to bring the master key. Takes as long as writing both
    /// databases once.
    ///
    /// # Errors
    /// [`ExportError::Auth`]; [`ExportError::FirstOrganization`]; [`ExportError::Busy`] while another one is made;
    /// [`ExportError::NoSpace`]; [`ExportError::SealedKey`] for a poor passphrase; else what cannot be read or written.
    pub async fn backup(
        &self,
        caller: &Caller,
        passphrase: Option<Secret<String>>,
        version: &'static str,
    ) -> Result<Backup, ExportError> {
        auth::require(caller, Role::Admin)?;
        if caller.organization != OrganizationId::DEFAULT {
            return Err(ExportError::FirstOrganization);
        }
        let turn = Arc::clone(&self.inner.backups).try_acquire_owned().map_err(|_| ExportError::Busy)?;
        let sources = &self.inner.sources;
        // What is in memory goes to the file first, so that the copy ends now and not a second ago.
        sources.history.sync().await?;
        let servers = sources.fleet.summary(&Caller::roundsman())?.total_servers;
        let data = self.inner.options.data.clone();
        let (now, vault) = (sources.clock.now(), sources.vault.clone());
        let made = tokio::task::spawn_blocking(move || {
            let stage = Stage::make(&data, now)?;
            let sealed =
                passphrase.map(|passphrase| SealedKey::seal(vault.key_text(), &passphrase)).transpose()?;
            let manifest = fill(&data, &stage.0, sealed.as_ref(), (now, version, servers))?;
            Ok::<_, ExportError>((manifest, stage))
        });
        let (manifest, stage) = made.await.map_err(|error| ExportError::Io(io::Error::other(error)))??;
        let bytes: u64 = manifest.files.iter().map(|file| file.size_bytes).sum();
        let with = match manifest.master_key {
            MasterKey::LeftOut => "without the master key",
            MasterKey::UnderPassphrase => "with the master key under a passphrase",
        };
        let entry = Entry::by(caller, "backup.create", "everything").detail(format!("{bytes} bytes, {with}"));
        sources
            .store
            .write(move |tx| audit::append(tx, now, &entry))
            .await
            .map_err(|error: StoreError| error)?;
        tracing::info!(bytes, with, "a backup was made");
        Ok(Backup { manifest, stage, _turn: turn })
    }
}

/// Removes the copies that migrations made, but for the newest of each database.
pub(super) fn forget_old_copies(data: &Path) {
    for name in [CONTROL, HISTORY] {
        let prefix = format!("{name}.before-");
        let Ok(entries) = fs::read_dir(data) else { return };
        let mut copies: Vec<(u32, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let version = entry.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()?;
                Some((version, entry.path()))
            })
            .collect();
        copies.sort();
        let surplus = copies.len().saturating_sub(COPIES_KEPT);
        for (_, path) in copies.into_iter().take(surplus) {
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "an old copy of a database was removed"),
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "an old copy of a database stays");
                }
            }
        }
    }
}

/// Copies everything into the stage and describes it.
fn fill(
    data: &Path,
    stage: &Path,
    sealed: Option<&SealedKey>,
    (now, version, servers): (Timestamp, &'static str, u32),
) -> Result<Manifest, ExportError> {
    require_space(data)?;
    // History first: a server that is added in between is in the control data then, and merely has no samples.
    copies::copy(&data.join(HISTORY), &stage.join(HISTORY))?;
    copies::copy(&data.join(CONTROL), &stage.join(CONTROL))?;
    let mut files = vec![Content::of(stage, CONTROL)?, Content::of(stage, HISTORY)?];
    if let Some(sealed) = sealed {
        let text = serde_json::to_vec_pretty(sealed).map_err(io::Error::other)?;
        fs::write(stage.join(KEY), text)?;
        files.push(Content::of(stage, KEY)?);
    }
    Ok(Manifest {
        format: FORMAT,
        version: version.to_owned(),
        created_at: now,
        control_schema: copies::schema(&stage.join(CONTROL))?,
        history_schema: copies::schema(&stage.join(HISTORY))?,
        servers,
        master_key: if sealed.is_some() { MasterKey::UnderPassphrase } else { MasterKey::LeftOut },
        files,
    })
}

/// A copy that fills the disk would stop the instance that it is to protect.
fn require_space(data: &Path) -> Result<(), ExportError> {
    let size = |name: &str| fs::metadata(data.join(name)).map_or(0, |meta| meta.len());
    let files = [CONTROL, HISTORY].map(|name| size(name) + size(&format!("{name}-wal")));
    let needed_bytes = files.iter().sum::<u64>() + SPARE_BYTES;
    let disk = rustix::fs::statvfs(data).map_err(io::Error::from)?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free_bytes < needed_bytes {
        return Err(ExportError::NoSpace { needed_bytes, free_bytes });
    }
    Ok(())
}

impl Backup {
    /// Bytes of the whole file, about.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.size_bytes).sum()
    }

    /// The file in parts. An error in the last part means that what came before is not whole. Whoever takes the parts
    /// too slowly gets such an error in the end, and the copies are gone long before that.
    #[must_use]
    pub fn send(self) -> mpsc::Receiver<io::Result<Bytes>> {
        self.send_within(STALLED_AFTER, LONGEST)
    }

    fn send_within(self, stalled_after: Duration, longest: Duration) -> mpsc::Receiver<io::Result<Bytes>> {
        let (parts, receiver) = mpsc::channel(PARTS);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let to = Parts {
                to: parts.clone(),
                runtime: runtime.clone(),
                stalled_after,
                ends_at: Instant::now() + longest,
            };
            let mut out = io::BufWriter::with_capacity(PART_BYTES, to);
            let written = self.write(&mut out).and_then(|()| out.flush());
            // What could not be sent is not tried once more.
            drop(out.into_parts());
            // The copies go, and the next backup may begin, before the caller hears of it.
            drop(self);
            if let Err(error) = written {
                tracing::warn!(%error, "a backup was not sent to its end");
                // The caller may be gone, which is why it was not; one that stalls has its connection to lose.
                runtime.spawn(async move { drop(parts.send(Err(error)).await) });
            }
        });
        receiver
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        let manifest = serde_json::to_vec_pretty(&self.manifest).map_err(io::Error::other)?;
        let header = |size: u64| {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_mode(0o600);
            let seconds = self.manifest.created_at.as_millis().div_euclid(1000);
            header.set_mtime(u64::try_from(seconds).unwrap_or(0));
            header
        };
        tar.append_data(&mut header(manifest.len() as u64), MANIFEST, manifest.as_slice())?;
        for content in &self.manifest.files {
            let file = File::open(self.stage.0.join(&content.name))?;
            tar.append_data(&mut header(content.size_bytes), &content.name, file)?;
        }
        tar.finish()
    }
}

/// Hands what is written to the task that sends it. Written to from a thread that may block.
struct Parts {
    to: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
    stalled_after: Duration,
    ends_at: Instant,
}

impl Write for Parts {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let left = self.ends_at.saturating_duration_since(Instant::now());
        let limit = self.stalled_after.min(left);
        let sending = self.to.send(Ok(Bytes::copy_from_slice(part)));
        match self.runtime.block_on(async { timeout(limit, sending).await }) {
            Ok(Ok(())) => Ok(part.len()),
            Ok(Err(_gone)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the receiver is gone")),
            Err(_elapsed) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the receiver took the backup too slowly; it was given up so that others can make one",
            )),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    /// A backup larger than what may wait on its way, with the turn that it holds and where its copies are.
    fn backup() -> (Backup, Arc<Semaphore>, tempfile::TempDir) {
        let data = tempfile::tempdir().unwrap();
        let stage = Stage::make(data.path(), Timestamp::from_millis(0)).unwrap();
        fs::write(stage.0.join(CONTROL), vec![7; 4 * PARTS * PART_BYTES]).unwrap();
        let turns = Arc::new(Semaphore::new(1));
        let manifest = Manifest {
            format: FORMAT,
            version: "1".to_owned(),
            created_at: Timestamp::from_millis(0),
            control_schema: 1,
            history_schema: 1,
            servers: 0,
            master_key: MasterKey::LeftOut,
            files: vec![Content::of(&stage.0, CONTROL).unwrap()],
        };
        let turn = Arc::clone(&turns).try_acquire_owned().unwrap();
        (Backup { manifest, stage, _turn: turn }, turns, data)
    }

    async fn is_free(turns: &Semaphore) {
        drop(timeout(Duration::from_secs(60), turns.acquire()).await.unwrap().unwrap());
    }

    async fn end_of(mut parts: mpsc::Receiver<io::Result<Bytes>>) -> io::Result<usize> {
        let mut bytes = 0;
        while let Some(part) = parts.recv().await {
            bytes += part?.len();
        }
        Ok(bytes)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_download_that_nobody_reads_frees_the_turn_and_the_copies_and_ends_with_an_error() {
        let (backup, turns, data) = backup();
        let parts = backup.send_within(Duration::from_millis(50), Duration::from_secs(3600));
        is_free(&turns).await;
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
        assert_eq!(end_of(parts).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_download_ends_in_time_however_small_its_steps() {
        let (backup, turns, _data) = backup();
        let parts = backup.send_within(Duration::from_secs(3600), Duration::ZERO);
        is_free(&turns).await;
        assert_eq!(end_of(parts).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_download_that_is_read_arrives_whole() {
        let (backup, turns, _data) = backup();
        let parts = backup.send();
        assert!(end_of(parts).await.unwrap() > 4 * PARTS * PART_BYTES);
        is_free(&turns).await;
    }
}
