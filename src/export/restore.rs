//! A backup becomes a data directory again. Everything is checked before anything that exists is touched, and the
//! change is one rename.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::manifest::{
    CONTROL, FORMAT, HISTORY, KEY, MANIFEST, MANIFEST_LIMIT_BYTES, Manifest, MasterKey, copy_hashed,
};
use super::sealed_key::{SealedKey, SealedKeyError};
use crate::history::History;
use crate::model::{Caller, Secret, Timestamp};
use crate::store::audit::Entry;
use crate::store::{StoreError, backup as copies};
use crate::vault::{KEY_FILE, Vault, VaultError};

/// What a directory may hold and still count as empty.
const NOTHING: [&str; 2] = [KEY_FILE, LOCK];
const LOCK: &str = "lock";

/// Names that are tried for what was there before: more restores than this within a second nobody makes.
const KEPT_NAMES: usize = 100;

/// Why a backup was not restored. The data directory is as it was, but for [`RestoreError::Unfinished`].
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("cannot read {path}: {cause}")]
    Unreadable { path: PathBuf, cause: String },
    #[error("{0} is damaged or is no backup of Roundsman: {1}")]
    Damaged(PathBuf, String),
    #[error("the backup was made by a newer Roundsman ({made_by}); restore it with that version")]
    Newer { made_by: String },
    #[error("a Roundsman runs on {0}; stop it first")]
    Running(PathBuf),
    #[error("{0} is not empty; say --force to put the backup in its place (what is there is kept beside it)")]
    NotEmpty(PathBuf),
    #[error(
        "the stored secrets of the backup do not open with the master key of {0}; put the key that sealed them there, \
         name it in ROUNDSMAN_MASTER_KEY, or use a backup that was made with --include-master-key"
    )]
    WrongKey(PathBuf),
    #[error(
        "the backup does not bring the master key, and there is none in {0}; put the master.key of the old instance \
         there (mode 600) or name it in ROUNDSMAN_MASTER_KEY"
    )]
    NoKey(PathBuf),
    #[error(
        "the backup brings its master key under a passphrase; name the file that holds it with --passphrase-file"
    )]
    NoPassphrase,
    #[error(transparent)]
    SealedKey(#[from] SealedKeyError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write {path}: {cause}")]
    Write { path: PathBuf, cause: String },
    #[error(
        "cannot put the restored directory in the place of {path}: {cause}; restore into another one with --data"
    )]
    Swap { path: PathBuf, cause: String },
    /// The only one after which the data directory is another; nothing was deleted.
    #[error(
        "the backup is in {path} now, but the end of it failed: {cause}; what was in {path} before lies in {old}, \
         move it from there yourself"
    )]
    Unfinished { path: PathBuf, old: PathBuf, cause: String },
}

/// What is to be restored, and how.
#[derive(Debug)]
pub struct Restore {
    pub file: PathBuf,
    pub data: PathBuf,
    /// Take the place of a directory that is not empty.
    pub force: bool,
    pub passphrase: Option<Secret<String>>,
    /// `ROUNDSMAN_MASTER_KEY`.
    pub master_key: Option<Secret<String>>,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    pub manifest: Manifest,
    /// Where what was there before is now. None: nothing was.
    pub kept: Option<PathBuf>,
}

/// Reads a whole backup and checks every size and hash.
///
/// # Errors
/// [`RestoreError::Unreadable`], [`RestoreError::Damaged`] or [`RestoreError::Newer`].
pub fn check(file: &Path) -> Result<Manifest, RestoreError> {
    unpack(file, None)
}

impl Restore {
    /// Blocks for as long as reading and writing the file takes.
    ///
    /// # Errors
    /// [`RestoreError`]; the data directory is then as it was, but for [`RestoreError::Unfinished`].
    pub fn run(&self, now: Timestamp) -> Result<Restored, RestoreError> {
        let data = std::path::absolute(&self.data).map_err(|error| self.write_failed(&self.data, &error))?;
        let _lock = self.require_free(&data)?;
        // All of it once before a byte is written: a damaged file is found out cheaply.
        check(&self.file)?;
        let parent = data.parent().unwrap_or(Path::new("/"));
        let name = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stage = Stage(parent.join(format!(".{name}.restore-{}", std::process::id())));
        fs::create_dir_all(parent)
            .and_then(|()| DirBuilder::new().mode(0o700).create(&stage.0))
            .map_err(|error| self.write_failed(&stage.0, &error))?;
        let manifest = unpack(&self.file, Some(&stage.0))?;
        self.bring_key(&data, &stage.0, &manifest)?;
        self.look_inside(&stage.0, &manifest)?;
        let subject = format!("backup of {}", manifest.created_at);
        let entry = Entry::by(&Caller::roundsman(), "backup.restore", &subject);
        copies::note(&stage.0.join(CONTROL), now, &entry)?;
        self.settle(&data, &stage.0)?;
        let kept = swap(&data, stage, now)?;
        Ok(Restored { manifest, kept })
    }

    fn write_failed(&self, path: &Path, error: &io::Error) -> RestoreError {
        RestoreError::Write { path: path.to_owned(), cause: error.to_string() }
    }

    /// Nobody uses the directory, and nothing is in it unless that was said to be right. The file keeps it so.
    fn require_free(&self, data: &Path) -> Result<Option<File>, RestoreError> {
        let failed =
            |error: io::Error| RestoreError::Unreadable { path: data.to_owned(), cause: error.to_string() };
        let entries = match fs::read_dir(data) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(data.join(LOCK))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RestoreError::Running(data.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let something = entries
            .flatten()
            .any(|entry| !NOTHING.iter().any(|name| entry.file_name().to_str() == Some(*name)));
        if something && !self.force {
            return Err(RestoreError::NotEmpty(data.to_owned()));
        }
        Ok(Some(lock))
    }

    /// Puts the master key that will be used into the stage, unless the environment gives it.
    fn bring_key(&self, data: &Path, stage: &Path, manifest: &Manifest) -> Result<(), RestoreError> {
        let text = match (&self.passphrase, manifest.master_key) {
            (Some(passphrase), MasterKey::UnderPassphrase) => {
                let text = fs::read(stage.join(KEY)).map_err(|error| self.write_failed(stage, &error))?;
                let sealed: SealedKey = serde_json::from_slice(&text)
                    .map_err(|error| SealedKeyError::Unreadable(error.to_string()))?;
                Some(sealed.open(passphrase)?)
            }
            _ if self.master_key.is_some() => None,
            _ => match Vault::existing(data, None)? {
                Some(vault) => Some(vault.key_text().clone()),
                None if manifest.master_key == MasterKey::UnderPassphrase => {
                    return Err(RestoreError::NoPassphrase);
                }
                None => return Err(RestoreError::NoKey(data.to_owned())),
            },
        };
        let path = stage.join(KEY_FILE);
        if let Some(text) = text {
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(|error| self.write_failed(&path, &error))?;
            file.write_all(text.expose().as_bytes())
                .and_then(|()| file.write_all(b"\n"))
                .map_err(|error| self.write_failed(&path, &error))?;
        }
        // What opened it stays in the backup.
        match fs::remove_file(stage.join(KEY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.write_failed(stage, &error)),
            _ => Ok(()),
        }
    }

    /// Both databases are whole, this program knows their schema, and what is sealed opens.
    fn look_inside(&self, stage: &Path, manifest: &Manifest) -> Result<(), RestoreError> {
        let known = [(CONTROL, copies::known_schema()), (HISTORY, History::known_schema())];
        for (name, known) in known {
            let path = stage.join(name);
            if copies::schema(&path)? > i64::try_from(known).unwrap_or(i64::MAX) {
                return Err(RestoreError::Newer { made_by: manifest.version.clone() });
            }
            if let Some(finding) = copies::integrity(&path)?.first() {
                return Err(RestoreError::Damaged(self.file.clone(), format!("{name}: {finding}")));
            }
        }
        // With the key of the environment, or the one that was put here.
        let given = self.master_key.as_ref().filter(|_| !stage.join(KEY_FILE).exists());
        let vault = Vault::open(stage, given)?;
        for value in copies::sealed_values(&stage.join(CONTROL))? {
            if vault.open_sealed(&value.row, &value.sealed).is_err() {
                return Err(RestoreError::WrongKey(self.data.clone()));
            }
        }
        Ok(())
    }

    /// On disk for good, and belonging to whom the directory belonged.
    fn settle(&self, data: &Path, stage: &Path) -> Result<(), RestoreError> {
        let owner = fs::metadata(data).ok().map(|meta| (meta.uid(), meta.gid()));
        let each = |path: &Path| -> io::Result<()> {
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
            }
            File::open(path)?.sync_all()
        };
        File::create(stage.join(LOCK)).map_err(|error| self.write_failed(stage, &error))?;
        let settled = fs::read_dir(stage).and_then(|entries| {
            for entry in entries {
                each(&entry?.path())?;
            }
            each(stage)
        });
        settled.map_err(|error| self.write_failed(stage, &error))
    }
}

/// Puts the stage in the place of the data directory; where what was there before is now.
///
/// # Errors
/// [`RestoreError::Swap`]: nothing changed. [`RestoreError::Unfinished`]: it did, and nothing was deleted.
fn swap(data: &Path, stage: Stage, now: Timestamp) -> Result<Option<PathBuf>, RestoreError> {
    let refused = |error: io::Error| RestoreError::Swap { path: data.to_owned(), cause: error.to_string() };
    if !data.exists() {
        fs::rename(&stage.0, data).map_err(refused)?;
        return sync_parent(data).map(|()| None).map_err(refused);
    }
    // One step: whoever looks finds the old directory or the new one, never neither.
    renameat_with(CWD, &stage.0, CWD, data, RenameFlags::EXCHANGE).map_err(|error| refused(error.into()))?;
    // From here on the path holds what was there before, which nothing may remove by itself.
    let old = stage.disarm();
    put_aside(data, &old, now).map_err(|error| RestoreError::Unfinished {
        path: data.to_owned(),
        old: old.clone(),
        cause: error.to_string(),
    })
}

/// Gives what was there before its name, or removes it where nothing in it would be missed.
fn put_aside(data: &Path, old: &Path, now: Timestamp) -> io::Result<Option<PathBuf>> {
    if is_dispensable(old, data)? {
        fs::remove_dir_all(old)?;
        return sync_parent(data).map(|()| None);
    }
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for attempt in 1..=KEPT_NAMES {
        let mut kept = data.as_os_str().to_owned();
        kept.push(format!(".before-{}", now.as_millis() / 1000));
        if attempt > 1 {
            kept.push(format!("-{attempt}"));
        }
        let kept = PathBuf::from(kept);
        match renameat_with(CWD, old, CWD, &kept, RenameFlags::NOREPLACE) {
            Ok(()) => return sync_parent(data).map(|()| Some(kept)),
            Err(error) => last = error.into(),
        }
        if last.kind() != io::ErrorKind::AlreadyExists {
            break;
        }
    }
    Err(last)
}

/// Whether all that a directory holds is the lock and the master key that the restored directory has too.
fn is_dispensable(old: &Path, restored: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(old)? {
        let name = entry?.file_name();
        if !NOTHING.iter().any(|nothing| name.to_str() == Some(*nothing)) {
            return Ok(false);
        }
    }
    let key = |directory: &Path| match fs::read(directory.join(KEY_FILE)) {
        Ok(bytes) => Ok(Some(bytes.trim_ascii().to_vec())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let before = key(old)?;
    Ok(before.is_none() || before == key(restored)?)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// A directory that goes unless it was renamed or is wanted.
struct Stage(PathBuf);

impl Stage {
    /// Its path; what lies there stays.
    fn disarm(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty()
            && self.0.exists()
            && let Err(error) = fs::remove_dir_all(&self.0)
        {
            tracing::warn!(%error, path = %self.0.display(), "what was unpacked could not be removed");
        }
    }
}

/// Reads the file from one end to the other, checks it against its manifest, and writes its files into `to`.
fn unpack(path: &Path, to: Option<&Path>) -> Result<Manifest, RestoreError> {
    let unreadable =
        |error: io::Error| RestoreError::Unreadable { path: path.to_owned(), cause: error.to_string() };
    let damaged = |what: &str| RestoreError::Damaged(path.to_owned(), what.to_owned());
    let broken = |error: io::Error| RestoreError::Damaged(path.to_owned(), error.to_string());
    let mut archive = tar::Archive::new(io::BufReader::new(File::open(path).map_err(unreadable)?));
    let mut manifest: Option<Manifest> = None;
    let mut seen = Vec::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        let Some(known) = &manifest else {
            manifest = Some(first_entry(&name, &mut entry).map_err(|what| damaged(&what))?);
            continue;
        };
        let content = known.files.iter().find(|content| content.name == name);
        let content = content.filter(|_| [CONTROL, HISTORY, KEY].contains(&name.as_str()));
        let Some(content) = content.filter(|_| !seen.contains(&name)) else {
            return Err(damaged(&format!(
                "it holds {:?}, which does not belong there",
                crate::model::shown(&name, 80)
            )));
        };
        let (size, sha256) = match to {
            None => copy_hashed(&mut entry, &mut io::sink(), content.size_bytes),
            Some(stage) => private_file(&stage.join(&content.name))
                .and_then(|mut file| copy_hashed(&mut entry, &mut file, content.size_bytes)),
        }
        .map_err(broken)?;
        if size != content.size_bytes || sha256 != content.sha256 {
            return Err(damaged(&format!("{name} is not what its manifest says")));
        }
        seen.push(name);
    }
    let manifest = manifest.ok_or_else(|| damaged("it is empty"))?;
    if manifest.format != FORMAT {
        return Err(RestoreError::Newer { made_by: manifest.version });
    }
    let needs_key = manifest.master_key == MasterKey::UnderPassphrase;
    for needed in [Some(CONTROL), Some(HISTORY), needs_key.then_some(KEY)].into_iter().flatten() {
        if !seen.iter().any(|name| name == needed) {
            return Err(damaged(&format!("{needed} is missing")));
        }
    }
    Ok(manifest)
}

fn private_file(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

fn first_entry(name: &str, entry: &mut impl io::Read) -> Result<Manifest, String> {
    if name != MANIFEST {
        return Err(format!("its first entry is not {MANIFEST}"));
    }
    let mut text = Vec::new();
    copy_hashed(entry, &mut text, MANIFEST_LIMIT_BYTES).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    /// A data directory of this name with these files, and a stage that takes its place.
    fn prepared(parent: &Path, name: &str, files: &[(&str, &str)]) -> (PathBuf, Stage) {
        let (data, stage) = (parent.join(name), parent.join(".stage"));
        fs::create_dir(&data).unwrap();
        fs::create_dir(&stage).unwrap();
        for (name, text) in files {
            fs::write(data.join(name), text).unwrap();
        }
        fs::write(stage.join(CONTROL), "restored").unwrap();
        fs::write(stage.join(KEY_FILE), "the key\n").unwrap();
        (data, Stage(stage))
    }

    fn read(directory: &Path, name: &str) -> String {
        fs::read_to_string(directory.join(name)).unwrap()
    }

    #[test]
    fn what_was_there_before_takes_no_name_that_is_in_use() {
        let parent = tempfile::tempdir().unwrap();
        let (data, stage) = prepared(parent.path(), "data", &[(CONTROL, "old")]);
        let taken = parent.path().join("data.before-1700000000");
        fs::create_dir(&taken).unwrap();
        let kept = swap(&data, stage, NOW).unwrap().unwrap();
        assert_eq!(kept, parent.path().join("data.before-1700000000-2"));
        assert_eq!((read(&kept, CONTROL), read(&data, CONTROL)), ("old".into(), "restored".into()));
        assert!(taken.exists());
    }

    #[test]
    fn what_was_there_before_stays_where_it_is_when_it_cannot_get_its_name() {
        let parent = tempfile::tempdir().unwrap();
        // With what is appended it is longer than a name may be.
        let (data, stage) = prepared(parent.path(), &"d".repeat(250), &[(CONTROL, "old")]);
        let error = swap(&data, stage, NOW).unwrap_err();
        let RestoreError::Unfinished { old, .. } = &error else { panic!("{error}") };
        assert_eq!((read(old, CONTROL), read(&data, CONTROL)), ("old".into(), "restored".into()));
        assert!(error.to_string().contains(old.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_master_key_that_is_not_the_restored_one_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let (data, stage) = prepared(parent.path(), "other", &[(KEY_FILE, "another key\n"), (LOCK, "")]);
        let kept = swap(&data, stage, NOW).unwrap().unwrap();
        assert_eq!(
            (read(&kept, KEY_FILE), read(&data, KEY_FILE)),
            ("another key\n".into(), "the key\n".into())
        );
        let (data, stage) = prepared(parent.path(), "same", &[(KEY_FILE, "the key"), (LOCK, "")]);
        assert_eq!(swap(&data, stage, NOW).unwrap(), None);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 3);
    }
}
