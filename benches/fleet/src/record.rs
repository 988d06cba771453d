//! Makes the recording: runs the probe's real script on this machine and writes down what it prints.
//!
//! Never part of a measurement.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use roundsman::collect::{ShellProbe, shell};
use roundsman::model::Sections;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::recording::WORD;

/// One direction at a time; a reading is smaller.
const PIPE_BYTES: usize = 1 << 20;

/// Writes the hello and one full reading to `file`, the channel's random word replaced by [`WORD`].
///
/// # Errors
/// When there is no shell, the script does not answer or the file cannot be written.
pub async fn record(file: &Path) -> anyhow::Result<()> {
    let mut child = tokio::process::Command::new("/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting /bin/sh")?;
    let mut stdin = child.stdin.take().context("the shell has no standard input")?;
    let mut stdout = child.stdout.take().context("the shell has no standard output")?;
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (mut from_probe, mut to_probe) = tokio::io::split(far);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&heard);
    let outward = tokio::spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = stdout.read(&mut bytes).await {
            let piece = bytes.get(..length).unwrap_or_default();
            listener.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(piece);
            if to_probe.write_all(piece).await.is_err() {
                break;
            }
        }
    });
    let inward = tokio::spawn(async move {
        // Ends when the probe is dropped; the shell then sees the end of its input.
        let _copied = tokio::io::copy(&mut from_probe, &mut stdin).await;
    });
    let mut probe =
        ShellProbe::start(near).await.with_context(|| format!("{} on this machine", shell::COMMAND))?;
    probe.read(Sections::DETAILS).await.context("reading this machine")?;
    drop(probe);
    inward.await?;
    outward.await?;
    let said = heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let at = said.windows(7).position(|window| window.ends_with(b" hello")).unwrap_or(0);
    let word = said.get(at.saturating_sub(31)..=at).context("the script's word is missing")?.to_vec();
    tokio::fs::write(file, replaced(&said, &word))
        .await
        .with_context(|| format!("writing {}", file.display()))
}

fn replaced(bytes: &[u8], word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(word) {
            out.extend_from_slice(WORD.as_bytes());
            rest = behind;
        } else {
            out.push(first);
            rest = after;
        }
    }
    out
}
