//! The shell probe: one POSIX sh loop on one long-lived channel answers requests with framed text.
//!
//! Nothing is installed, and nothing is parsed on the server but the table of TCP sockets, which awk counts. Every line of
//! the frame carries a random word that only this channel knows, so that no file content and no command line of a
//! process can pass for one. The loop ends when its standard input does. Time limits of the channel's life are the caller's.

mod forced;
mod frames;

use std::fmt::Write as _;
use std::time::Duration;

use rand::Rng;
use roundsman_agent::limits;
use roundsman_agent::proc::{containers, facts, init, mounts, packages, services, sockets};
use roundsman_agent::reading::{BASE_FILES, CGROUP_V1_FILES, CGROUP_V2_FILES, FilesystemText};
use roundsman_agent::text::clean;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use forced::forced_command;

use super::ProbeError;
use crate::model::{Sections, Snapshot};
use frames::{Hello, Mounts, Nonce};

/// What the SSH layer executes, on a channel without a tty. The script itself follows over standard input, so
/// that no login shell (bash, dash, ash, zsh, csh, fish) gets to quote or expand any of it.
pub const COMMAND: &str = "exec /bin/sh";

/// Bytes that may come before the script's first word: banners of login shells, and the table of mounts.
const HELLO_LIMIT_BYTES: usize = 4 * 1024 * 1024;
/// A base reading is 10 to 60 KB; the `intr` line and the mounts of the largest machines stay within this.
pub const BASE_LIMIT_BYTES: usize = 8 * 1024 * 1024;
/// With heavy sections: as many processes as the script lists, with command lines of 300 bytes.
pub const FULL_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// Start-up files of a login shell on a loaded machine take seconds.
pub const START_TIME_LIMIT: Duration = Duration::from_secs(15);
/// A base reading takes milliseconds; what takes this long hangs.
pub const BASE_TIME_LIMIT: Duration = Duration::from_secs(10);
/// `systemctl` alone may take 8 s before the script ends it.
pub const FULL_TIME_LIMIT: Duration = Duration::from_secs(30);

/// `stat -f` would cost a reading as much CPU as all the rest of it, and disks fill slowly: it runs in every
/// fourth reading and where mounts changed. In between, the last answer stands.
const FILESYSTEMS_EVERY: u64 = 4;

/// How much of a wrong answer is shown to a person.
const SAID_BYTES: usize = 200;

const SCRIPT: &str = include_str!("shell/probe.sh");

/// A running loop on `stream`, the standard input and output of [`COMMAND`].
#[derive(Debug)]
pub struct ShellProbe<S> {
    stream: S,
    nonce: Nonce,
    hello: Hello,
    /// The filesystems to ask for, as the server was told last.
    told: Option<Mounts>,
    /// The same as the last reading showed them.
    wanted: Mounts,
    /// The last answer of `stat -f` or `df`.
    filesystems: Option<FilesystemText>,
    request: u64,
    /// False while a request is under way; stays so after a failed or cancelled one.
    in_step: bool,
}

impl<S> ShellProbe<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// Sends the script and waits for its first word; what comes before (banners) is skipped.
    ///
    /// # Errors
    /// [`ProbeError::NoShell`] where the other end closes without running the script, `TooMuchOutput`,
    /// `TimedOut` after [`START_TIME_LIMIT`], `Garbled`.
    pub async fn start(stream: S) -> Result<Self, ProbeError> {
        let nonce = Nonce::new(random_word());
        let script = script(&nonce);
        Self::run(stream, nonce, &script).await
    }

    async fn run(mut stream: S, nonce: Nonce, script: &str) -> Result<Self, ProbeError> {
        let until = Until { marker: nonce.line("ready"), limit_bytes: HELLO_LIMIT_BYTES };
        let answer = within(START_TIME_LIMIT, exchange(&mut stream, script.as_bytes(), &until)).await?;
        let bytes = match answer {
            Answer::Whole(bytes) => bytes,
            Answer::Ended(bytes) if nonce.starts(&bytes, "hello") => {
                return Err(ProbeError::Garbled { reason: frames::cut_short(&bytes) });
            }
            Answer::Ended(bytes) => return Err(ProbeError::NoShell { said: clean(&bytes, SAID_BYTES) }),
        };
        let mut hello = frames::hello(&nonce, &bytes)?;
        let wanted = hello.take_mounts();
        Ok(Self { stream, nonce, hello, told: None, wanted, filesystems: None, request: 0, in_step: true })
    }

    /// One reading in one round trip. A filesystem that was mounted since the reading before is asked for from
    /// the next one on.
    ///
    /// # Errors
    /// See [`ProbeError`]. After an error, or when this future was dropped before its end, every further call
    /// answers `Closed`.
    pub async fn read(&mut self, sections: Sections) -> Result<Snapshot, ProbeError> {
        if !std::mem::replace(&mut self.in_step, false) {
            return Err(ProbeError::Closed);
        }
        self.request += 1;
        let changed = !self.told.as_ref().is_some_and(|told| told.has_paths_of(&self.wanted));
        let request = self.request_lines(sections, changed);
        let heavy = sections != Sections::BASE;
        let limit_bytes = if heavy { FULL_LIMIT_BYTES } else { BASE_LIMIT_BYTES };
        let time_limit = if heavy { FULL_TIME_LIMIT } else { BASE_TIME_LIMIT };
        let until = Until { marker: self.nonce.line(&format!("end {}", self.request)), limit_bytes };
        let answer = within(time_limit, exchange(&mut self.stream, request.as_bytes(), &until)).await?;
        let Answer::Whole(bytes) = answer else { return Err(ProbeError::Closed) };
        let asked = frames::Asked {
            request: self.request,
            sections,
            filesystems: self.filesystems.take(),
            mounts: &self.wanted,
        };
        let reading = frames::reading(&self.nonce, &bytes, &self.hello, asked)?;
        self.filesystems = reading.filesystems;
        // What was asked for is known on the server from now on; new mounts are asked for the next time.
        match reading.mounts {
            Some(mounts) => self.told = Some(std::mem::replace(&mut self.wanted, mounts)),
            None if changed => self.told = Some(self.wanted.clone()),
            None => {}
        }
        self.in_step = true;
        Ok(reading.snapshot)
    }

    /// The mounts, where they changed, and the request. Short, as dash reads its input byte by byte.
    fn request_lines(&self, sections: Sections, changed: bool) -> String {
        let mut lines = String::new();
        if changed {
            lines.push_str("m\n");
            for mount in &*self.wanted.chosen {
                lines.push('+');
                lines.push_str(&mount.path);
                lines.push('\n');
            }
        }
        let letters = [
            (changed || self.request.is_multiple_of(FILESYSTEMS_EVERY), 'd'),
            (sections.processes, 'p'),
            (sections.services, 's'),
            (sections.users, 'u'),
            (sections.facts, 'f'),
            (sections.containers, 'c'),
            (sections.packages, 'k'),
            (sections.sockets, 't'),
        ];
        let wanted: String = letters.iter().filter(|(wanted, _)| *wanted).map(|(_, letter)| letter).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "r {} -{wanted}", self.request);
        lines
    }
}

fn script(nonce: &Nonce) -> String {
    filled(&SCRIPT.replace("NONCE", nonce.word()))
}

/// The script with what it reads filled in.
fn filled(script: &str) -> String {
    let folders: Vec<String> =
        init::FOLDERS.iter().map(|(folder, prefix)| format!("{folder}/{prefix}*")).collect();
    let dated: Vec<String> = init::DATED.iter().map(|folder| format!("{folder}/*")).collect();
    let options: Vec<String> =
        init::OPTIONS.iter().map(|option| format!("/run/openrc/options/*/{option}")).collect();
    script
        .replace("PACKAGES_SCRIPT\n", packages::SCRIPT)
        .replace("INIT_FOLDERS", &folders.join(" "))
        .replace("INIT_DATED", &dated.join(" "))
        .replace("INIT_OPTIONS", &options.join(" "))
        .replace("TELLING", init::TELLING)
        .replace("BASE_FILES", &BASE_FILES.join(" "))
        .replace("FACT_FILES", &facts::FILES.join(" "))
        .replace("SUMMARY_FILES", &sockets::SUMMARIES.join(" "))
        .replace("SOCKET_FILES", &sockets::FILES.join(" "))
        .replace("SOCKET_LIMIT", &limits::SOCKETS.to_string())
        .replace("CROWD", &frames::CROWD.to_string())
        .replace("MARKERS", &facts::MARKERS.join(" "))
        .replace("PROPERTIES", services::PROPERTIES)
        .replace("INSPECT_FORMAT", containers::INSPECT_FORMAT)
        .replace("STATFS_FORMAT", mounts::STATFS_FORMAT)
        .replace("CGROUP_V1_FILES", &CGROUP_V1_FILES.join(" "))
        .replace("CGROUP_V2_FILES", &CGROUP_V2_FILES.join(" "))
}

fn random_word() -> String {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().fold(String::with_capacity(32), |mut word, byte| {
        let _ = write!(word, "{byte:02x}");
        word
    })
}

/// What ends an answer.
struct Until {
    marker: Vec<u8>,
    limit_bytes: usize,
}

/// What came.
enum Answer {
    /// Everything up to and with the marker.
    Whole(Vec<u8>),
    /// The other end closed before the marker came.
    Ended(Vec<u8>),
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ProbeError>>,
) -> Result<T, ProbeError> {
    let after_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    tokio::time::timeout(limit, work).await.unwrap_or(Err(ProbeError::TimedOut { after_ms }))
}

/// Writes the request and reads the answer at the same time: a server that talks without listening would
/// otherwise block the request for ever.
async fn exchange<S>(stream: &mut S, request: &[u8], until: &Until) -> Result<Answer, ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        writer.write_all(request).await?;
        writer.flush().await
    };
    let read = collect(&mut reader, until);
    tokio::pin!(write, read);
    let mut writing = true;
    loop {
        tokio::select! {
            // A request that cannot be written is no end yet: what the other end said before it closed
            // tells a person why. If nothing more comes, the reading ends as closed or timed out.
            _ = &mut write, if writing => writing = false,
            answer = &mut read => return answer,
        }
    }
}

/// Reads up to the marker, the end, or the limit.
async fn collect<R: AsyncRead + Unpin>(reader: &mut R, until: &Until) -> Result<Answer, ProbeError> {
    /// One read; an SSH packet carries at most 32 KiB.
    const CHUNK_BYTES: usize = 32 * 1024;
    let mut bytes = Vec::with_capacity(CHUNK_BYTES);
    loop {
        let searched = bytes.len().saturating_sub(until.marker.len());
        if bytes.capacity() - bytes.len() < CHUNK_BYTES {
            bytes.reserve(CHUNK_BYTES);
        }
        match reader.read_buf(&mut bytes).await {
            // A broken channel and a closed one call for the same: a new one.
            Ok(0) | Err(_) => return Ok(Answer::Ended(bytes)),
            Ok(_) => {}
        }
        if let Some(at) = frames::find(bytes.get(searched..).unwrap_or_default(), &until.marker) {
            let end = searched + at + until.marker.len();
            if bytes.len() > end {
                return Err(ProbeError::Garbled { reason: "output after the end of a reading".to_owned() });
            }
            return Ok(Answer::Whole(bytes));
        }
        if bytes.len() > until.limit_bytes {
            return Err(ProbeError::TooMuchOutput { limit_bytes: until.limit_bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn the_script_is_filled_in_and_does_not_hold_its_own_frame_line() {
        let nonce = Nonce::new(random_word());
        let script = script(&nonce);
        for left in [
            "NONCE",
            "_FILES",
            "MARKERS",
            "CROWD",
            "PROPERTIES",
            "_FORMAT",
            "INIT_",
            "TELLING",
            "_SCRIPT",
            "_LIMIT",
        ] {
            assert!(!script.contains(left), "{left}");
        }
        assert!(!nonce.starts(script.as_bytes(), ""));
        assert_ne!(random_word(), random_word());
    }

    #[tokio::test]
    async fn many_processes_are_read_in_portions() {
        let mut child = tokio::process::Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pipes = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let nonce = Nonce::new(random_word());
        let portions = script(&nonce).replace("-le 20000", "-le 2");
        let mut probe = ShellProbe::run(pipes, nonce, &portions).await.unwrap();
        let snapshot = probe.read(Sections { processes: true, ..Sections::BASE }).await.unwrap();
        let processes = snapshot.processes.unwrap();
        let own = processes.iter().find(|process| process.pid == std::process::id()).unwrap();
        assert!(own.uid.is_some() && own.command_line.is_some());
        assert!(processes.iter().any(|process| process.pid == 1));
        drop(probe);
        assert!(child.wait().await.unwrap().success());
    }
}
