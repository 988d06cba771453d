//! Files to and from a server, over a channel that runs a small shell script.
//!
//! No SFTP and no scp is needed on the other side, only a POSIX shell and `cat` or `head`, so BusyBox and dropbear hosts
//! are served as well. An upload goes to a temporary name in the directory of its destination, is checked by size and
//! (where the server has a tool) by SHA-256, and is renamed only then; whatever breaks it leaves the old file as it was
//! and no temporary one. Paths are sent as they are: relative ones start in the login directory, and `~` is no home.

use std::io;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use crate::quote::quote;

use super::connection::Connection;
use super::error::SshError;
use super::printable;
use super::stream::Stream;

/// Bytes that are read from the source and written to the channel at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// A download comes in chunks that are asked for one by one, because a channel has no brake: what is asked for and not
/// read yet waits in memory and must stay below the stream's bound.
const CHUNK_BYTES: u64 = 512 * 1024;
const CHUNKS_ASKED_FOR: u64 = 3;
/// A transfer in which nothing moves for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// For the last words of a script that ended while it was written to.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Hashing a large file on a slow server takes minutes.
const CHECK_LIMIT: Duration = Duration::from_mins(10);
/// The script's own lines are shorter; a longer one comes from something else.
const LINE_BYTES: usize = 1024;
/// Time between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Why a file was not transferred. The destination is as it was before.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Ssh(#[from] SshError),
    #[error("the path cannot be used: {cause}")]
    Path { cause: String },
    #[error("there is no file '{path}' on the server")]
    Missing { path: String },
    #[error("'{path}' is a directory; name the file")]
    Directory { path: String },
    #[error("the directory of '{path}' does not exist on the server; make it first")]
    NoDirectory { path: String },
    /// Read-only file system, no right, no space: in the server's words.
    #[error("the server cannot store or read the file: {said}")]
    Refused { said: String },
    #[error("'{path}' has {size_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge { path: String, size_bytes: u64, limit_bytes: u64 },
    #[error("only {arrived_bytes} of {size_bytes} bytes arrived; nothing was changed, try again")]
    Truncated { arrived_bytes: u64, size_bytes: u64 },
    #[error("the file arrived changed (its SHA-256 differs); nothing was kept, try again")]
    Altered,
    #[error("nothing moved for {after_s} s; the transfer was given up")]
    Stalled { after_s: u64 },
    /// Our own side: what was to be sent cannot be read, or what comes cannot be kept.
    #[error("the file here: {cause}")]
    Here { cause: String },
    /// The script ended or answered something else.
    #[error("the server broke the transfer off: {said}")]
    BrokenOff { said: String },
}

/// What is to be stored where.
#[derive(Debug, Clone)]
pub struct Upload {
    pub path: String,
    pub size_bytes: u64,
    /// Permission bits, such as 0o644. None: those of the file that is replaced, with its owner, or 0644.
    pub mode: Option<u32>,
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// A finished transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    pub size_bytes: u64,
    /// Hexadecimal, of what went over the wire.
    pub sha256: String,
    /// Whether the server found the same; false: it has no tool for it, only the size was compared.
    pub hash_checked: bool,
}

/// Hears of the progress at most ten times a second, and at the end.
pub type OnProgress<'a> = &'a mut (dyn FnMut(Progress) + Send);

impl Connection {
    /// Stores `upload.size_bytes` of `source` on the server. Dropping the future breaks the upload off.
    ///
    /// # Errors
    /// See [`TransferError`]; in every case the destination is unchanged.
    pub async fn upload(
        &self,
        source: &mut (dyn AsyncRead + Send + Unpin),
        upload: &Upload,
        progress: OnProgress<'_>,
    ) -> Result<Transferred, TransferError> {
        let stream = self.open(&upload_script(upload)?).await?;
        let mut wire = Wire::new(stream, &upload.path);
        let verdict = match wire.line(STALL_LIMIT).await?.as_str() {
            "ready head" => Verdict::Asked,
            "ready cat" => Verdict::Taken,
            other => return Err(wire.refusal(other)),
        };
        let total_bytes = upload.size_bytes;
        let mut report = Report::new(progress, total_bytes);
        let mut hash = Sha256::new();
        let mut piece = vec![0; PIECE_BYTES];
        while report.done_bytes < total_bytes {
            let room =
                usize::try_from(total_bytes - report.done_bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let part = piece.get_mut(..room).unwrap_or_default();
            let count = in_time(source.read(part)).await?;
            if count == 0 {
                return Err(TransferError::Truncated {
                    arrived_bytes: report.done_bytes,
                    size_bytes: total_bytes,
                });
            }
            let part = piece.get(..count).unwrap_or_default();
            hash.update(part);
            wire.send(part).await?;
            report.add(count);
        }
        if in_time(source.read(&mut [0; 1])).await? > 0 {
            return Err(TransferError::Here { cause: "it is longer than was said".to_owned() });
        }
        if verdict == Verdict::Taken {
            wire.shutdown().await;
        }
        let sha256 = hex(&hash.finalize());
        let hash_checked = wire.stored(total_bytes, &sha256).await?;
        if verdict == Verdict::Asked {
            wire.send(b"keep\n").await?;
        }
        match wire.line(STALL_LIMIT).await?.as_str() {
            "done" => {
                report.end();
                Ok(Transferred { size_bytes: total_bytes, sha256, hash_checked })
            }
            other => Err(wire.refusal(other)),
        }
    }

    /// Brings a file of at most `limit_bytes` into `sink`. A file that grows meanwhile is brought as long as it was at
    /// the start.
    ///
    /// # Errors
    /// See [`TransferError`]; what is in `sink` by then is incomplete.
    pub async fn download(
        &self,
        path: &str,
        limit_bytes: u64,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
        progress: OnProgress<'_>,
    ) -> Result<Transferred, TransferError> {
        let stream = self.open(&download_script(path)?).await?;
        let mut wire = Wire::new(stream, path);
        let line = wire.line(STALL_LIMIT).await?;
        let Some(total_bytes) = line.strip_prefix("size ").and_then(|size| size.parse::<u64>().ok()) else {
            return Err(wire.refusal(&line));
        };
        if total_bytes > limit_bytes {
            let path = shown(path);
            return Err(TransferError::TooLarge { path, size_bytes: total_bytes, limit_bytes });
        }
        let mut report = Report::new(progress, total_bytes);
        let mut hash = Sha256::new();
        let mut asked_bytes = 0;
        while report.done_bytes < total_bytes {
            while asked_bytes < total_bytes
                && asked_bytes < report.done_bytes + CHUNK_BYTES * CHUNKS_ASKED_FOR
            {
                wire.send(b"next\n").await?;
                asked_bytes += CHUNK_BYTES;
            }
            let left = total_bytes - report.done_bytes;
            let piece = wire.piece(left).await?;
            if piece.is_empty() {
                return Err(TransferError::Truncated {
                    arrived_bytes: report.done_bytes,
                    size_bytes: total_bytes,
                });
            }
            hash.update(&piece);
            in_time(sink.write_all(&piece)).await?;
            report.add(piece.len());
        }
        in_time(sink.flush()).await?;
        let sha256 = hex(&hash.finalize());
        wire.send(b"end\n").await?;
        let hash_checked = wire.stored(total_bytes, &sha256).await?;
        report.end();
        Ok(Transferred { size_bytes: total_bytes, sha256, hash_checked })
    }
}

/// Who says whether the uploaded file is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The script asks, because its input is still open.
    Asked,
    /// `cat` reads to the end of the input; afterwards the size alone decides.
    Taken,
}

/// Our own side may stand still too: the other end of it is a browser, and a transfer holds a channel of the server.
async fn in_time<T>(moving: impl Future<Output = io::Result<T>>) -> Result<T, TransferError> {
    match timeout(STALL_LIMIT, moving).await {
        Ok(moved) => moved.map_err(here),
        Err(_) => Err(TransferError::Stalled { after_s: STALL_LIMIT.as_secs() }),
    }
}

fn here(error: io::Error) -> TransferError {
    TransferError::Here { cause: error.to_string() }
}

fn shown(path: &str) -> String {
    printable::line(path.as_bytes(), 200)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |text, byte| format!("{text}{byte:02x}"))
}

/// Quoted for the shell. A leading dash would be an option.
fn path_word(path: &str) -> Result<String, TransferError> {
    if path.is_empty() || path.ends_with('/') {
        return Err(TransferError::Path { cause: "it names no file".to_owned() });
    }
    let path = if path.starts_with('-') { format!("./{path}") } else { path.to_owned() };
    quote(&path).map_err(|error| TransferError::Path { cause: error.to_string() })
}

/// Prints the SHA-256 of standard input with whatever tool there is, or `none`. openssl comes first: it uses the processor's
/// own instructions, which makes it several times as fast as the others.
const HASH: &str = "hash() { for c in 'openssl dgst -sha256 -r' sha256sum 'busybox sha256sum' 'shasum -a 256'; do \
     if command -v ${c%% *} >/dev/null 2>&1; then h=$($c 2>/dev/null) && { echo ${h%% *}; return; }; echo none; return; fi; \
     done; echo none; }";

/// A first argument that is not the last: says whether this `head` counts bytes.
const HAS_HEAD: &str = "head -c 1 </dev/null >/dev/null 2>&1";

fn upload_script(upload: &Upload) -> Result<String, TransferError> {
    let path = path_word(&upload.path)?;
    let size = upload.size_bytes;
    let mut random = [0_u8; 8];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut random);
    let mode = upload.mode.map_or_else(String::new, |mode| format!("{:o}", mode & 0o7777));
    Ok(format!(
        r#"LC_ALL=C; export LC_ALL; umask 077; {HASH}
p={path}; mode={mode}; owner=
[ ! -L "$p" ] || p=$(readlink -f -- "$p") || p={path}
case $p in /*/*|[!/]*/*) d=${{p%/*}} ;; /*) d=/ ;; *) d=. ;; esac
[ ! -d "$p" ] || {{ echo error directory; exit; }}
[ -d "$d" ] || {{ echo error no-directory; exit; }}
t=$d/.roundsman-{random}
trap 'rm -f -- "$t"' 0
trap 'exit 1' 1 2 13 15
e=$( (set -C; : >"$t") 2>&1 ) || {{ echo "error refused ${{e##*: }}"; trap - 0; exit; }}
if {HAS_HEAD}; then way=head; else way=cat; fi
echo "ready $way"
if [ $way = head ]; then e=$( {{ head -c {size} >"$t"; }} 2>&1 ); else e=$( {{ cat >"$t"; }} 2>&1 ); fi
s=$(wc -c <"$t"); s=$((s))
[ $s = {size} ] || {{ if [ -n "$e" ]; then echo "error refused ${{e##*: }}"; else echo "error short $s"; fi; exit; }}
echo "stored $s $(hash <"$t")"
[ $way = cat ] || {{ read -r v && [ "$v" = keep ]; }} || exit
if [ -z "$mode" ] && [ -f "$p" ]; then mode=$(stat -c %a -- "$p" 2>/dev/null); owner=$(stat -c %u:%g -- "$p" 2>/dev/null); fi
[ -z "$owner" ] || chown "$owner" "$t" 2>/dev/null
e=$( {{ chmod "${{mode:-644}}" "$t" && mv -f -- "$t" "$p"; }} 2>&1 </dev/null ) || {{ echo "error refused ${{e##*: }}"; exit; }}
trap - 0
echo done"#,
        random = hex(&random),
    ))
}

fn download_script(path: &str) -> Result<String, TransferError> {
    let path = path_word(path)?;
    Ok(format!(
        r#"LC_ALL=C; export LC_ALL; {HASH}
p={path}
[ ! -d "$p" ] || {{ echo error directory; exit; }}
[ -e "$p" ] || {{ echo error missing; exit; }}
e=$( {{ : <"$p"; }} 2>&1 ) || {{ echo "error refused ${{e##*: }}"; exit; }}
[ -f "$p" ] || {{ echo "error refused It is no regular file"; exit; }}
s=$(wc -c <"$p"); s=$((s))
exec 3<"$p"
echo "size $s"
while read -r v; do
  [ "$v" = next ] || break
  dd bs=65536 count=8 <&3 2>/dev/null || exit
done
if {HAS_HEAD}; then echo "stored $s $(head -c $s <"$p" | hash)"; else echo "stored $s none"; fi"#
    ))
}

/// The two directions of the script's channel.
struct Wire {
    from: ReadHalf<Stream>,
    to: WriteHalf<Stream>,
    held: Vec<u8>,
    path: String,
}

impl Wire {
    fn new(stream: Stream, path: &str) -> Self {
        let (from, to) = tokio::io::split(stream);
        Self { from, to, held: Vec::new(), path: shown(path) }
    }

    /// One line of the script, cleaned, without its end.
    async fn line(&mut self, limit: Duration) -> Result<String, TransferError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(end) = self.held.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return Ok(printable::line(&line, LINE_BYTES));
            }
            if self.held.len() > LINE_BYTES {
                return Err(self.broken_off());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.fill(left).await? {
                return Err(self.broken_off());
            }
        }
    }

    /// Reads what there is. False: the script has ended.
    async fn fill(&mut self, limit: Duration) -> Result<bool, TransferError> {
        match timeout(limit, self.from.read_buf(&mut self.held)).await {
            Err(_) => Err(stalled(limit)),
            Ok(Err(error)) => Err(lost(error)),
            Ok(Ok(count)) => Ok(count > 0),
        }
    }

    /// At most `most` bytes of the file. Empty: the script has ended.
    async fn piece(&mut self, most: u64) -> Result<Vec<u8>, TransferError> {
        let most = usize::try_from(most).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        if !self.held.is_empty() {
            let count = self.held.len().min(most);
            return Ok(self.held.drain(..count).collect());
        }
        let mut piece = vec![0; most];
        match timeout(STALL_LIMIT, self.from.read(&mut piece)).await {
            Err(_) => Err(stalled(STALL_LIMIT)),
            Ok(Err(error)) => Err(lost(error)),
            Ok(Ok(count)) => {
                piece.truncate(count);
                Ok(piece)
            }
        }
    }

    /// Sends all of it; a script that says something meanwhile has given up.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let Self { from, to, held, .. } = self;
        let sent = async {
            to.write_all(bytes).await?;
            to.flush().await
        };
        match timeout(STALL_LIMIT, sent).await {
            Ok(Ok(())) => Ok(()),
            Err(_) => Err(stalled(STALL_LIMIT)),
            Ok(Err(error)) => {
                // The script's last words say why.
                let mut said = Vec::new();
                let mut last = from.take(LINE_BYTES as u64);
                drop(timeout(LAST_WORDS, last.read_to_end(&mut said)).await);
                held.extend(said);
                let line = held.split(|&byte| byte == b'\n').next().unwrap_or_default();
                let line = printable::line(line, LINE_BYTES);
                if line.starts_with("error ") { Err(self.refusal(&line)) } else { Err(lost(error)) }
            }
        }
    }

    /// Says that no more input comes.
    async fn shutdown(&mut self) {
        // A channel that is gone is seen by the next read.
        drop(timeout(STALL_LIMIT, self.to.shutdown()).await);
    }

    /// Compares what the server has with what was sent or received; whether it could compare the hash.
    async fn stored(&mut self, size_bytes: u64, sha256: &str) -> Result<bool, TransferError> {
        let line = self.line(CHECK_LIMIT).await?;
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["stored", size, _] if size.parse() != Ok(size_bytes) => {
                let arrived_bytes = size.parse().unwrap_or(0);
                Err(TransferError::Truncated { arrived_bytes, size_bytes })
            }
            ["stored", _, "none"] => Ok(false),
            ["stored", _, hash] if *hash == sha256 => Ok(true),
            ["stored", ..] => Err(TransferError::Altered),
            _ => Err(self.refusal(&line)),
        }
    }

    /// What an `error` line of the script means.
    fn refusal(&self, line: &str) -> TransferError {
        let path = self.path.clone();
        let rest = line.strip_prefix("error ").unwrap_or_default();
        match rest.split_once(' ').unwrap_or((rest, "")) {
            ("directory", _) => TransferError::Directory { path },
            ("no-directory", _) => TransferError::NoDirectory { path },
            ("missing", _) => TransferError::Missing { path },
            ("short", size) => {
                TransferError::Truncated { arrived_bytes: size.parse().unwrap_or(0), size_bytes: 0 }
            }
            ("refused", said) => TransferError::Refused { said: format!("{path}: {said}") },
            _ => TransferError::BrokenOff { said: shown(line) },
        }
    }

    fn broken_off(&self) -> TransferError {
        TransferError::BrokenOff { said: format!("'{}'", printable::line(&self.held, 200)) }
    }
}

fn stalled(limit: Duration) -> TransferError {
    TransferError::Stalled { after_s: limit.as_secs() }
}

/// The stream's own words where it has some.
fn lost(error: io::Error) -> TransferError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<SshError>()) {
        Some(inner) => TransferError::Ssh(inner.clone()),
        None => TransferError::BrokenOff { said: error.to_string() },
    }
}

/// Counts, and tells the listener now and then.
struct Report<'a> {
    listener: OnProgress<'a>,
    done_bytes: u64,
    total_bytes: u64,
    told: Option<Instant>,
}

impl<'a> Report<'a> {
    fn new(listener: OnProgress<'a>, total_bytes: u64) -> Self {
        Self { listener, done_bytes: 0, total_bytes, told: None }
    }

    fn add(&mut self, count: usize) {
        self.done_bytes += u64::try_from(count).unwrap_or(0);
        if self.told.is_none_or(|told| told.elapsed() >= PROGRESS_EVERY) {
            self.told = Some(Instant::now());
            self.end();
        }
    }

    fn end(&mut self) {
        (self.listener)(Progress { done_bytes: self.done_bytes, total_bytes: self.total_bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_name_no_file_are_refused_and_dashes_are_no_options() {
        for bad in ["", "/", "/tmp/", "a\0b"] {
            assert!(matches!(path_word(bad), Err(TransferError::Path { .. })), "{bad:?}");
        }
        assert_eq!(path_word("-rf").unwrap(), "./-rf");
        assert_eq!(path_word("a b").unwrap(), "'a b'");
    }

    #[test]
    fn progress_is_told_ten_times_a_second_and_at_the_end() {
        let mut heard = Vec::new();
        let mut listener = |progress| heard.push(progress);
        let mut report = Report::new(&mut listener, 3000);
        for _ in 0..3000 {
            report.add(1);
        }
        report.end();
        assert_eq!(heard.last(), Some(&Progress { done_bytes: 3000, total_bytes: 3000 }));
        assert!(heard.len() < 100, "{}", heard.len());
    }
}
