//! `cp`: one file to servers or from them, through Roundsman's connections.
//!
//! Files of this machine are read and written by the command itself, as its own user.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::answers::of_several;
use super::client::{Client, segment};
use super::error::CliError;
use super::output::{Output, text};
use super::progress::Progress;
use super::selection::Selection;

/// Bytes read from a file at a time.
const PART_BYTES: usize = 128 * 1024;
/// Copies at the same time; more would only share the same line.
const AT_ONCE: usize = 8;

#[derive(Debug, Args)]
#[command(
    after_help = "One of the two is a file of a server, written as SERVER:PATH; a relative path there starts in \
    the login directory. Several servers are written as a,b:PATH, or as :PATH with --server, --group, --tag, --all and the \
    like; then a file that is fetched becomes TO/SERVER/NAME. A file of this machine whose name has a colon is written with \
    a slash before it: ./a:b. Directories are not copied: pack them with tar first.\n\
    Exit codes: 0 copied, 1 refused or failed; of several servers 0 all, 1 some, 2 none."
)]
pub struct Cp {
    /// The file to copy
    #[arg(value_name = "FROM")]
    from: String,
    /// Where to: a file, or a directory of this machine
    #[arg(value_name = "TO")]
    to: String,
    /// Permissions of the file on the server, in octal [default: those of the file here]
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    #[command(flatten)]
    selection: Selection,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    Here(&'a Path),
    /// Servers with commas between; empty where they are chosen by options.
    There {
        servers: &'a str,
        path: &'a str,
    },
}

/// `SERVER:PATH`, or a path of this machine: one without a colon, or with a slash before the first.
fn end(text: &str, chosen: bool) -> End<'_> {
    match text.split_once(':') {
        Some((servers, path)) if (chosen || !servers.is_empty()) && !servers.contains('/') => {
            End::There { servers, path }
        }
        _ => End::Here(Path::new(text)),
    }
}

/// What is copied.
enum Job {
    Up(Upload),
    Down(Download),
}

impl Cp {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        let chosen = !self.selection.selector().is_empty();
        let (job, servers) = match (end(&self.from, chosen), end(&self.to, chosen)) {
            (End::Here(file), End::There { servers, path }) => {
                (Job::Up(Upload::of(file, path, self.mode.as_deref())?), servers)
            }
            (End::There { servers, path }, End::Here(to)) => {
                (Job::Down(Download { path: path.to_owned(), to: to.to_owned() }), servers)
            }
            _ => {
                return Err(CliError::usage(
                    "one of the two must be a file of a server, written as SERVER:PATH",
                ));
            }
        };
        if !chosen && !servers.contains(',') {
            job.one(client, servers, output).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut selection = self.selection;
        selection.servers.extend(servers.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
        let found = selection.preview(client).await?;
        let names: Vec<&str> = found.iter().map(|server| text(server, "server_name")).collect();
        job.several(client, &names, output).await
    }
}

impl Job {
    async fn one(&self, client: &Client, server: &str, output: &Output) -> Result<(), CliError> {
        let (done, place) = match self {
            Self::Up(upload) => {
                let mut progress = Progress::of_bytes(Some(upload.size_bytes));
                let mut bytes = 0;
                let done = upload
                    .send(client, server, move |count| {
                        bytes += count;
                        progress.at(bytes, String::new());
                    })
                    .await?;
                (done, format!("{server}:{}", upload.path))
            }
            Self::Down(download) => {
                let name = download.path.rsplit('/').next().unwrap_or_default();
                let to = if download.to.is_dir() { download.to.join(name) } else { download.to.clone() };
                let mut progress = Progress::of_bytes(None);
                let mut bytes = 0;
                let mut count = |count| {
                    bytes += count;
                    progress.at(bytes, String::new());
                };
                let size_bytes = download.fetch(client, server, &to, &mut count).await?;
                (json!({ "size_bytes": size_bytes }), to.display().to_string())
            }
        };
        if output.json { output.value(&done) } else { output.line(&told(&done, &place)) }
    }

    /// Each server by itself; what fails on one is no reason to leave out another.
    async fn several(&self, client: &Client, names: &[&str], output: &Output) -> Result<ExitCode, CliError> {
        if let Self::Down(download) = self {
            download.check_for_several(names)?;
        }
        let mut progress = Progress::of_servers(names.len());
        let copies = names.iter().enumerate().map(|(at, name)| async move {
            let copied = match self {
                Self::Up(upload) => {
                    upload.send(client, name, |_| {}).await.map(|done| (done, upload.path.clone()))
                }
                Self::Down(download) => download.to_folder(client, name).await,
            };
            (at, copied)
        });
        let mut copies = std::pin::pin!(stream::iter(copies).buffer_unordered(AT_ONCE));
        let mut done = Vec::new();
        while let Some(one) = copies.next().await {
            done.push(one);
            progress.at(u64::try_from(done.len()).unwrap_or(u64::MAX), String::new());
        }
        drop(progress);
        done.sort_by_key(|(at, _)| *at);
        let mut results = Vec::new();
        for ((_, copied), name) in done.iter().zip(names) {
            let mut result = match copied {
                Ok((done, _)) => done.clone(),
                Err(error) => json!({ "error": error.to_string() }),
            };
            if let Some(members) = result.as_object_mut() {
                members.insert("server_name".to_owned(), json!(name));
            }
            results.push(result);
            match copied {
                _ if output.json => {}
                Ok((done, place)) => output.line(&told(done, &format!("{name}: {place}")))?,
                Err(error) => output.remark(&format!("{name}: {error}"))?,
            }
        }
        if output.json {
            output.value(&json!({ "results": results }))?;
        }
        Ok(of_several(done.iter().map(|(_, copied)| copied.is_ok())))
    }
}

/// A file of this machine on its way to servers.
struct Upload {
    file: PathBuf,
    path: String,
    mode: String,
    size_bytes: u64,
}

impl Upload {
    /// # Errors
    /// [`CliError::Failed`] for what is no file, or cannot be looked at.
    fn of(file: &Path, path: &str, mode: Option<&str>) -> Result<Self, CliError> {
        let shown = file.display();
        let metadata =
            std::fs::metadata(file).map_err(|error| CliError::failed(format!("{shown}: {error}")))?;
        if metadata.is_dir() {
            let message = format!("{shown} is a directory; cp copies one file, so pack it with tar first");
            return Err(CliError::failed(message));
        }
        if !metadata.is_file() {
            return Err(CliError::failed(format!("{shown} is no regular file")));
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let path =
            if path.is_empty() || path.ends_with('/') { format!("{path}{name}") } else { path.to_owned() };
        let mode = match mode {
            Some(mode) => mode.to_owned(),
            None => format!("{:o}", metadata.permissions().mode() & 0o777),
        };
        Ok(Self { file: file.to_owned(), path, mode, size_bytes: metadata.len() })
    }

    async fn send(
        &self,
        client: &Client,
        server: &str,
        mut count: impl FnMut(u64) + Send + 'static,
    ) -> Result<Value, CliError> {
        let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", self.file.display()));
        let source = tokio::fs::File::open(&self.file).await.map_err(failed)?;
        let parts = stream::try_unfold(source, |mut source| async move {
            let mut part = vec![0; PART_BYTES];
            let count = source.read(&mut part).await?;
            part.truncate(count);
            Ok((count > 0).then(|| (Bytes::from(part), source)))
        })
        .inspect(move |part: &std::io::Result<Bytes>| {
            count(part.as_ref().map_or(0, |part| part.len() as u64));
        });
        let address = format!("{}&mode={}", address(server, &self.path)?, segment(&self.mode)?);
        client.upload(&address, self.size_bytes, parts).await
    }
}

fn address(server: &str, path: &str) -> Result<String, CliError> {
    Ok(format!("/api/v1/fleet/servers/{}/file?path={}", segment(server)?, segment(path)?))
}

/// A file of servers on its way to this machine.
struct Download {
    path: String,
    to: PathBuf,
}

impl Download {
    /// What comes from several servers needs a folder for each.
    fn check_for_several(&self, names: &[&str]) -> Result<(), CliError> {
        let to = self.to.display();
        if self.to.exists() && !self.to.is_dir() {
            return Err(CliError::usage(format!(
                "{to} is no directory; from several servers a file becomes TO/SERVER/NAME"
            )));
        }
        if self.path.is_empty() || self.path.ends_with('/') {
            return Err(CliError::usage("cp copies one file of each server; name it"));
        }
        match names.iter().find(|name| matches!(**name, "" | "." | "..")) {
            Some(name) => Err(CliError::usage(format!("a server named '{name}' cannot have a directory"))),
            None => Ok(()),
        }
    }

    async fn to_folder(&self, client: &Client, server: &str) -> Result<(Value, String), CliError> {
        let folder = self.to.join(server);
        std::fs::create_dir_all(&folder)
            .map_err(|error| CliError::failed(format!("{}: {error}", folder.display())))?;
        let to = folder.join(self.path.rsplit('/').next().unwrap_or_default());
        let size_bytes = self.fetch(client, server, &to, &mut |_| {}).await?;
        let place = to.display().to_string();
        Ok((json!({ "size_bytes": size_bytes, "file": place }), place))
    }

    /// Answers the bytes of the file.
    async fn fetch(
        &self,
        client: &Client,
        server: &str,
        file: &Path,
        count: &mut dyn FnMut(u64),
    ) -> Result<u64, CliError> {
        // Beside its destination, so that what breaks off never passes for the file.
        let part = PathBuf::from(format!("{}.roundsman-{}", file.display(), std::process::id()));
        let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", file.display()));
        let sink = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(failed)?;
        let mut sink = Counting { file: sink, count, bytes: 0 };
        let fetched = client.download(&address(server, &self.path)?, None, &mut sink).await;
        let size_bytes = sink.bytes;
        let kept = match fetched {
            Ok(()) => sink.file.sync_all().and_then(|()| std::fs::rename(&part, file)).map_err(failed),
            Err(error) => Err(error),
        };
        drop(sink);
        if kept.is_err() {
            std::fs::remove_file(&part).map_err(failed)?;
        }
        kept.map(|()| size_bytes)
    }
}

fn told(done: &Value, place: &str) -> String {
    let size = done.get("size_bytes").and_then(Value::as_u64).unwrap_or(0);
    let unchecked = done.get("hash_checked").and_then(Value::as_bool) == Some(false);
    let remark = if unchecked { ", compared by size only: the server has no tool for SHA-256" } else { "" };
    format!("{place}: {size} bytes{remark}")
}

/// A file that counts what is written to it.
struct Counting<'a> {
    file: File,
    count: &'a mut dyn FnMut(u64),
    bytes: u64,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        let more = u64::try_from(written).unwrap_or(0);
        self.bytes += more;
        (self.count)(more);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_with_a_colon_is_on_the_server_unless_a_slash_comes_first() {
        assert_eq!(end("web-1:/etc/hosts", false), End::There { servers: "web-1", path: "/etc/hosts" });
        assert_eq!(end("web-1:", false), End::There { servers: "web-1", path: "" });
        for here in ["file", "./a:b", "/tmp/a:b", ":x"] {
            assert_eq!(end(here, false), End::Here(Path::new(here)));
        }
        assert_eq!(end(":x", true), End::There { servers: "", path: "x" });
    }
}
