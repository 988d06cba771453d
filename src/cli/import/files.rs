//! The files that a list refers to, read as the user who runs the command.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::machine::small_file;
use crate::fleet::import::{Files, Format, Local, TEXT_BYTES};

/// Files of one Include; a pattern like `~/*` would read a home directory.
const INCLUDED_FILES: usize = 1000;

/// This machine and who runs the command on it.
pub(in crate::cli) struct Machine {
    local: Local,
    /// Where the inventory lies; its variables lie beside it.
    folder: Option<PathBuf>,
}

impl Machine {
    pub(in crate::cli) fn new(list: Option<&Path>) -> Self {
        let uid = rustix::process::getuid();
        let local = Local {
            user: user_name(),
            home: std::env::var("HOME").unwrap_or_default(),
            hostname: std::fs::read_to_string("/proc/sys/kernel/hostname")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            uid: uid.as_raw(),
        };
        let folder = list.map(|path| path.parent().unwrap_or(Path::new("")).to_owned());
        Self { local, folder }
    }

    pub(in crate::cli) fn user(&self) -> &str {
        &self.local.user
    }

    pub(in crate::cli) fn home(&self) -> &str {
        &self.local.home
    }

    /// `~/x` below the home of the user.
    fn path(&self, text: &str) -> PathBuf {
        match text.strip_prefix("~/") {
            Some(rest) => Path::new(&self.local.home).join(rest),
            None => PathBuf::from(text),
        }
    }

    /// The list itself; None is standard input.
    pub(in crate::cli) fn text(&self, path: Option<&Path>) -> Result<String, String> {
        match path {
            None => bounded(Box::new(std::io::stdin()), "the standard input"),
            Some(path) => self.file(&self.path(&path.to_string_lossy())),
        }
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        let shown = path.display().to_string();
        let file = File::open(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
        bounded(Box::new(file), &shown)
    }

    /// What a path of IdentityFile leads to, if it is there.
    pub(in crate::cli) fn key(&self, text: &str) -> Option<KeyFile> {
        let path = std::fs::canonicalize(self.path(text)).ok().filter(|path| path.is_file())?;
        if path.extension().is_some_and(|ending| ending == "pub") {
            let line = small_file(&path).ok()?.expose().trim().to_owned();
            return Some(KeyFile::Public(line));
        }
        Some(KeyFile::Private(path.display().to_string()))
    }

    /// The certificate that ssh finds by itself beside a key.
    pub(in crate::cli) fn certificate_beside(&self, key: &str) -> Option<String> {
        let path = format!("{key}-cert.pub");
        Path::new(&path).is_file().then_some(path)
    }
}

/// A key on this machine.
pub(in crate::cli) enum KeyFile {
    /// The full path of a private key.
    Private(String),
    /// The line of a public key, whose private half an ssh-agent has.
    Public(String),
}

impl Files for Machine {
    fn local(&self) -> &Local {
        &self.local
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    /// As ssh_config(5) says: relative names lie below `~/.ssh`, what a pattern does not find is no error.
    fn include(&self, pattern: &str) -> Result<Vec<(String, String)>, String> {
        let path = self.path(pattern);
        let path =
            if path.is_absolute() { path } else { Path::new(&self.local.home).join(".ssh").join(path) };
        let found = glob::glob(&path.to_string_lossy())
            .map_err(|error| format!("Include {}: {}", path.display(), error.msg))?;
        let mut files = Vec::new();
        for path in found {
            let path = path.map_err(|error| error.to_string())?;
            if !path.is_file() {
                continue;
            }
            if files.len() >= INCLUDED_FILES {
                return Err(format!("Include {pattern} names more than {INCLUDED_FILES} files"));
            }
            let text = self.file(&path)?;
            files.push((path.display().to_string(), text));
        }
        Ok(files)
    }

    fn variables(&self, folder: &str, name: &str) -> Result<Vec<(String, String)>, String> {
        // A name is one step of a path, or it names nothing.
        let Some(base) = self.folder.as_ref().filter(|_| !name.contains('/') && !name.starts_with('.'))
        else {
            return Ok(Vec::new());
        };
        let mut paths = Vec::new();
        for ending in ["", ".yml", ".yaml", ".json"] {
            let path = base.join(folder).join(format!("{name}{ending}"));
            if path.is_file() {
                paths.push(path);
            } else if path.is_dir() {
                paths.extend(inside(&path)?);
            }
        }
        paths
            .into_iter()
            .map(|path| {
                let text = self.file(&path)?;
                Ok((path.display().to_string(), text))
            })
            .collect()
    }
}

/// The files of a folder by name, without hidden ones and copies of editors.
fn inside(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && !name.starts_with('.') && !name.ends_with('~') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn bounded(source: Box<dyn Read>, shown: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot read {shown}: {error}");
    let mut text = String::new();
    let most = TEXT_BYTES as u64;
    source.take(most + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() > TEXT_BYTES {
        return Err(format!("{shown} is larger than 1 MiB; import it in parts"));
    }
    Ok(text)
}

/// What `id` says; the environment may be somebody else's after su.
fn user_name() -> String {
    let said = Command::new("id").arg("-un").output().ok().filter(|output| output.status.success());
    let name = said.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { std::env::var("USER").unwrap_or_default() } else { name.to_owned() }
}

/// What the ending of a file's name gives away.
pub(in crate::cli) fn format_by_name(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" | "tsv" => Some(Format::Csv),
        "json" => Some(Format::Json),
        "yml" | "yaml" => Some(Format::AnsibleYaml),
        "ini" => Some(Format::AnsibleIni),
        _ => None,
    }
}
