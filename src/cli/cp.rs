//! `cp`: one file to a server or from one, through Roundsman's connection.
//!
//! Files of this machine are read and written by the command itself, as its own user.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use super::client::{Client, segment};
use super::error::CliError;
use super::output::Output;

/// Bytes read from a file at a time.
const PART_BYTES: usize = 128 * 1024;
/// How often the line of progress is written again.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(
    after_help = "One of the two is a file of a server, written as SERVER:PATH; a relative path there starts in \
    the login directory. A file of this machine whose name has a colon is written with a slash before it: ./a:b"
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
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    Here(&'a Path),
    There { server: &'a str, path: &'a str },
}

/// `SERVER:PATH`, or a path of this machine: one without a colon, or with a slash before the first.
fn end(text: &str) -> End<'_> {
    match text.split_once(':') {
        Some((server, path)) if !server.is_empty() && !server.contains('/') => End::There { server, path },
        _ => End::Here(Path::new(text)),
    }
}

impl Cp {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        match (end(&self.from), end(&self.to)) {
            (End::Here(file), End::There { server, path }) => {
                self.up(client, output, file, server, path).await
            }
            (End::There { server, path }, End::Here(file)) => down(client, output, server, path, file).await,
            _ => Err(CliError::usage("one of the two must be a file of a server, written as SERVER:PATH")),
        }
    }

    async fn up(
        &self,
        client: &Client,
        output: &Output,
        file: &Path,
        server: &str,
        path: &str,
    ) -> Result<(), CliError> {
        let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", file.display()));
        let source = tokio::fs::File::open(file).await.map_err(failed)?;
        let metadata = source.metadata().await.map_err(failed)?;
        if !metadata.is_file() {
            return Err(CliError::failed(format!("{} is no regular file", file.display())));
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let path =
            if path.is_empty() || path.ends_with('/') { format!("{path}{name}") } else { path.to_owned() };
        let mode = match &self.mode {
            Some(mode) => mode.clone(),
            None => format!("{:o}", metadata.permissions().mode() & 0o777),
        };
        let total_bytes = metadata.len();
        let mut progress = Bar::new(total_bytes);
        let parts = stream::try_unfold(source, |mut source| async move {
            let mut part = vec![0; PART_BYTES];
            let count = source.read(&mut part).await?;
            part.truncate(count);
            Ok((count > 0).then(|| (Bytes::from(part), source)))
        })
        .inspect(move |part: &std::io::Result<Bytes>| progress.add(part.as_ref().map_or(0, Bytes::len)));
        let address = format!("{}&mode={}", address(server, &path)?, segment(&mode)?);
        let done = client.upload(&address, total_bytes, parts).await?;
        tell(output, &done, &format!("{server}:{path}"))
    }
}

fn address(server: &str, path: &str) -> Result<String, CliError> {
    Ok(format!("/api/v1/fleet/servers/{}/file?path={}", segment(server)?, segment(path)?))
}

async fn down(
    client: &Client,
    output: &Output,
    server: &str,
    path: &str,
    file: &Path,
) -> Result<(), CliError> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let file = if file.is_dir() { file.join(name) } else { file.to_owned() };
    // Beside its destination, so that what breaks off never passes for the file.
    let part = PathBuf::from(format!("{}.roundsman-{}", file.display(), std::process::id()));
    let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", file.display()));
    let sink = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(failed)?;
    let mut sink = Counting { file: sink, bar: Bar::new(0), bytes: 0 };
    let fetched = client.download(&address(server, path)?, None, &mut sink).await;
    let size_bytes = sink.bytes;
    let kept = match fetched {
        Ok(()) => sink.file.sync_all().and_then(|()| std::fs::rename(&part, &file)).map_err(failed),
        Err(error) => Err(error),
    };
    drop(sink);
    if kept.is_err() {
        std::fs::remove_file(&part).map_err(failed)?;
    }
    kept?;
    tell(output, &serde_json::json!({ "size_bytes": size_bytes }), &file.display().to_string())
}

fn tell(output: &Output, done: &Value, place: &str) -> Result<(), CliError> {
    if output.json {
        return output.value(done);
    }
    let size = done.get("size_bytes").and_then(Value::as_u64).unwrap_or(0);
    let unchecked = done.get("hash_checked").and_then(Value::as_bool) == Some(false);
    let remark = if unchecked { ", compared by size only: the server has no tool for SHA-256" } else { "" };
    output.line(&format!("{place}: {size} bytes{remark}"))
}

/// A file that counts what is written to it.
struct Counting {
    file: File,
    bar: Bar,
    bytes: u64,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.bytes += u64::try_from(count).unwrap_or(0);
        self.bar.add(count);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// One line on a terminal that says how far it is; nothing elsewhere.
struct Bar {
    done_bytes: u64,
    /// 0: not known.
    total_bytes: u64,
    told: Option<Instant>,
    shown: bool,
}

impl Bar {
    fn new(total_bytes: u64) -> Self {
        Self { done_bytes: 0, total_bytes, told: None, shown: std::io::stderr().is_terminal() }
    }

    fn add(&mut self, count: usize) {
        self.done_bytes += u64::try_from(count).unwrap_or(0);
        if !self.shown || self.told.is_some_and(|told| told.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        let share = match self.total_bytes {
            0 => String::new(),
            total => format!(" {:3} %", self.done_bytes.saturating_mul(100) / total),
        };
        // A terminal that is gone needs no progress.
        let _ = write!(std::io::stderr(), "\r{:10} KiB{share}", self.done_bytes / 1024);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown && self.told.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_with_a_colon_is_on_the_server_unless_a_slash_comes_first() {
        assert_eq!(end("web-1:/etc/hosts"), End::There { server: "web-1", path: "/etc/hosts" });
        assert_eq!(end("web-1:"), End::There { server: "web-1", path: "" });
        for here in ["file", "./a:b", "/tmp/a:b", ":x"] {
            assert_eq!(end(here), End::Here(Path::new(here)));
        }
    }
}
