//! The agent as a probe: one request line out, one line of JSON back, over one long-lived channel.
//!
//! What comes is hostile until [`checked`](self) has been through it: a line has a limit, what it may hold is counted
//! before it is parsed, lists are capped, text is cleaned, and sections that nobody asked for are dropped. Whoever uses
//! this falls back to the [`ShellProbe`](super::ShellProbe) on any error.

mod checked;
pub mod served;

use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::ProbeError;
use super::shell::{BASE_TIME_LIMIT, FULL_TIME_LIMIT};
use crate::model::{Gap, Sections, Snapshot};
use crate::quote::{CannotQuote, quote};
use roundsman_agent::text::clean;

/// What the agent calls itself in its greeting.
const NAME: &str = "roundsman-agent";
/// A section that the first agents did not know.
const SOCKETS: &str = "sockets";
/// Versions with the same first two numbers write the same snapshot.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Hashing a megabyte on a loaded machine, and starting it.
const START_TIME_LIMIT: Duration = Duration::from_secs(15);
/// The greeting has eight short values.
const GREETING_LIMIT_BYTES: usize = 8 * 1024;
/// A base reading in JSON is 5 to 20 KB; thousands of disks, interfaces and mounts stay within this.
pub const BASE_LIMIT_BYTES: usize = 2 * 1024 * 1024;
/// With heavy sections: as many processes as the agent lists, with command lines of 100 bytes.
pub const FULL_LIMIT_BYTES: usize = 32 * 1024 * 1024;
/// Objects of one reading: every process, service, container and interface is one. An empty object takes three bytes
/// of a line and a hundred times as many in memory, so they are counted first.
const OBJECTS: usize = 120_000;
/// Quotation marks of one reading, for the same reason: two a string, thirty strings a process.
const QUOTES: usize = 5_000_000;
/// How much of a wrong answer is shown to a person.
const SAID_BYTES: usize = 200;
/// One read; an SSH packet carries at most 32 KiB.
const CHUNK_BYTES: usize = 32 * 1024;

/// Exit statuses of [`command`] are not seen on a stream, so the script says with a word why it does not start the agent.
const MISSING: &str = "!missing";
const ALTERED: &str = "!altered";

/// What the SSH layer executes. The agent at `path` (absolute) is only started when it is the one with this SHA-256, as
/// far as the server can tell; without a tool for that its version has to do.
///
/// # Errors
/// [`CannotQuote`] for a path that no shell takes.
pub fn command(path: &str, sha256: &str) -> Result<String, CannotQuote> {
    Ok(format!(
        "p={path}; [ -x \"$p\" ] || {{ echo '{MISSING}'; exit 0; }}\n\
         h=$({{ sha256sum || busybox sha256sum || openssl dgst -sha256 -r; }} <\"$p\" 2>/dev/null); h=${{h%% *}}\n\
         case $h in ''|{sha}) exec \"$p\" stream ;; *) echo '{ALTERED}' ;; esac",
        path = quote(path)?,
        sha = quote(sha256)?,
    ))
}

/// The agent's first line. It says more; what is not used here is not read.
#[derive(Debug, Deserialize)]
struct Greeting {
    name: String,
    version: String,
    /// SHA-256 of its own file, as it sees it.
    #[serde(default)]
    build: Option<String>,
    /// The sections that it knows beside the base.
    #[serde(default)]
    capabilities: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    request: u64,
    #[serde(default)]
    snapshot: Option<Snapshot>,
    #[serde(default)]
    error: Option<String>,
}

/// A running agent on `stream`, the standard input and output of [`command`].
#[derive(Debug)]
pub struct AgentProbe<S> {
    stream: S,
    version: String,
    /// An agent refuses a request for a section that it does not know.
    knows_sockets: bool,
    request: u64,
    /// False while a request is under way; stays so after a failed or cancelled one.
    in_step: bool,
}

impl<S> AgentProbe<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// Waits for the greeting of the agent with this SHA-256.
    ///
    /// # Errors
    /// [`ProbeError::NoAgent`] where there is none, or another one than was deployed; `TooMuchOutput`, `TimedOut`,
    /// `Closed`, `Garbled`.
    pub async fn start(mut stream: S, sha256: &str) -> Result<Self, ProbeError> {
        let line = within(START_TIME_LIMIT, line(&mut stream, GREETING_LIMIT_BYTES)).await?;
        let no_agent = |reason: String| ProbeError::NoAgent { reason };
        match line.as_slice() {
            said if said == MISSING.as_bytes() => {
                return Err(no_agent("it is not where it was deployed".to_owned()));
            }
            said if said == ALTERED.as_bytes() => {
                return Err(no_agent(
                    "its file is not the one that was deployed (another SHA-256)".to_owned(),
                ));
            }
            _ => {}
        }
        let greeting: Greeting = serde_json::from_slice(&line).map_err(|_| {
            no_agent(format!("it does not greet as one, but with {:?}", clean(&line, SAID_BYTES)))
        })?;
        let version = clean(greeting.version.as_bytes(), SAID_BYTES);
        if greeting.name != NAME || series(&version) != series(VERSION) {
            let name = clean(greeting.name.as_bytes(), SAID_BYTES);
            return Err(no_agent(format!("it is {name} {version}, and this Roundsman is {VERSION}")));
        }
        if greeting.build.is_some_and(|build| build != sha256) {
            return Err(no_agent("it says that it is another build than was deployed".to_owned()));
        }
        let knows_sockets = greeting.capabilities.iter().any(|name| name == SOCKETS);
        Ok(Self { stream, version, knows_sockets, request: 0, in_step: true })
    }

    /// As the agent says it, cleaned.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// One reading in one round trip.
    ///
    /// # Errors
    /// See [`ProbeError`]. After an error, or when this future was dropped before its end, every further call
    /// answers `Closed`.
    pub async fn read(&mut self, sections: Sections) -> Result<Snapshot, ProbeError> {
        if !std::mem::replace(&mut self.in_step, false) {
            return Err(ProbeError::Closed);
        }
        self.request += 1;
        let heavy = sections != Sections::BASE;
        let limit_bytes = if heavy { FULL_LIMIT_BYTES } else { BASE_LIMIT_BYTES };
        let time_limit = if heavy { FULL_TIME_LIMIT } else { BASE_TIME_LIMIT };
        let known = Sections { sockets: sections.sockets && self.knows_sockets, ..sections };
        let request = format!("r {} -{}\n", self.request, letters(known));
        let exchange = async {
            // What cannot be written has ended; reading then says so.
            let _ended = self.stream.write_all(request.as_bytes()).await;
            let _ended = self.stream.flush().await;
            line(&mut self.stream, limit_bytes).await
        };
        let line = within(time_limit, exchange).await?;
        let snapshot = answer(&line, self.request, sections)?;
        self.in_step = true;
        Ok(snapshot)
    }
}

/// The first two numbers of a version.
fn series(version: &str) -> Option<(&str, &str)> {
    let mut numbers = version.split('.');
    Some((numbers.next()?, numbers.next()?))
}

/// What is asked for beside the base, as the shell probe's requests say it.
fn letters(sections: Sections) -> String {
    let all = [
        (sections.processes, 'p'),
        (sections.services, 's'),
        (sections.users, 'u'),
        (sections.facts, 'f'),
        (sections.containers, 'c'),
        (sections.packages, 'k'),
        (sections.sockets, 't'),
    ];
    all.iter().filter(|(wanted, _)| *wanted).map(|(_, letter)| letter).collect()
}

fn garbled(reason: impl Into<String>) -> ProbeError {
    ProbeError::Garbled { reason: reason.into() }
}

/// Refuses what would take far more memory than bytes, before it is parsed.
fn bounded(line: &[u8]) -> Result<(), ProbeError> {
    if memchr::memchr_iter(b'{', line).count() > OBJECTS || memchr::memchr_iter(b'"', line).count() > QUOTES {
        return Err(garbled("the agent's answer holds more than a machine can have"));
    }
    Ok(())
}

/// Takes one answer apart.
fn answer(line: &[u8], request: u64, sections: Sections) -> Result<Snapshot, ProbeError> {
    bounded(line)?;
    let answer: Answer = serde_json::from_slice(line).map_err(|error| {
        garbled(format!(
            "the agent's answer is no snapshot: {}",
            clean(error.to_string().as_bytes(), SAID_BYTES)
        ))
    })?;
    if answer.request != request {
        return Err(garbled("the agent answered another request"));
    }
    if let Some(error) = answer.error {
        return Err(garbled(format!("the agent says: {}", clean(error.as_bytes(), SAID_BYTES))));
    }
    usable(answer.snapshot.ok_or_else(|| garbled("the agent's answer has no snapshot"))?, sections)
}

/// The snapshot with what was asked for and can be borne.
fn usable(snapshot: Snapshot, sections: Sections) -> Result<Snapshot, ProbeError> {
    let mut snapshot = checked::checked(snapshot, sections);
    let is_told = snapshot.tcp_states.is_some() || snapshot.gaps.iter().any(|gap| gap.section == SOCKETS);
    if sections.sockets && !is_told {
        let reason = "the agent there is an older one that does not count TCP sockets by state; deploy it again to upgrade it";
        snapshot.gaps.push(Gap { section: SOCKETS.to_owned(), reason: reason.to_owned() });
    }
    if snapshot.cpu.is_none() && snapshot.memory.is_none() && snapshot.uptime_ms.is_none() {
        return Err(garbled("/proc says nothing: is this Linux, and is /proc mounted?"));
    }
    Ok(snapshot)
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ProbeError>>,
) -> Result<T, ProbeError> {
    let after_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    tokio::time::timeout(limit, work).await.unwrap_or(Err(ProbeError::TimedOut { after_ms }))
}

/// One line without its end. The agent says nothing that it was not asked for, so more than the line is an error.
async fn line<R: AsyncRead + Unpin>(reader: &mut R, limit_bytes: usize) -> Result<Vec<u8>, ProbeError> {
    let mut bytes = Vec::with_capacity(CHUNK_BYTES);
    loop {
        let searched = bytes.len();
        if bytes.capacity() - bytes.len() < CHUNK_BYTES {
            bytes.reserve(CHUNK_BYTES);
        }
        match reader.read_buf(&mut bytes).await {
            // A broken channel and a closed one call for the same: a new one.
            Ok(0) | Err(_) => return Err(ProbeError::Closed),
            Ok(_) => {}
        }
        if let Some(at) = memchr::memchr(b'\n', bytes.get(searched..).unwrap_or_default()) {
            let end = searched + at;
            if bytes.len() > end + 1 {
                return Err(garbled("output after the end of a reading"));
            }
            bytes.truncate(end);
            return Ok(bytes);
        }
        if bytes.len() > limit_bytes {
            return Err(ProbeError::TooMuchOutput { limit_bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    const SHA: &str = "5ha";
    const GREETING: &str = concat!(
        r#"{"name":"roundsman-agent","version":""#,
        env!("CARGO_PKG_VERSION"),
        r#"","build":"5ha","arch":"x86_64"}"#
    );

    /// An agent that greets and then answers the first request with these bytes.
    fn agent(greeting: impl Into<Vec<u8>>, answer: impl Into<Vec<u8>>) -> DuplexStream {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let (mut greeting, answer) = (greeting.into(), answer.into());
        greeting.push(b'\n');
        tokio::spawn(async move {
            if theirs.write_all(&greeting).await.is_ok() {
                let mut request = [0; 64];
                if theirs.read(&mut request).await.is_ok_and(|count| count > 0) {
                    // The reader gives up in the middle of some of these.
                    drop(theirs.write_all(&answer).await);
                }
            }
        });
        ours
    }

    async fn read(answer: impl Into<Vec<u8>>) -> Result<Snapshot, ProbeError> {
        AgentProbe::start(agent(GREETING, answer), SHA).await.unwrap().read(Sections::BASE).await
    }

    #[tokio::test]
    async fn a_snapshot_of_the_agents_own_json_arrives_as_it_was() {
        let snapshot = Snapshot {
            uptime_ms: Some(5),
            facts: Some(crate::model::Facts { hostname: Some("web".to_owned()), ..Default::default() }),
            ..Snapshot::default()
        };
        let line = format!("{{\"request\":1,\"snapshot\":{}}}\n", roundsman_agent::json::to_json(&snapshot));
        let mut probe = AgentProbe::start(agent(GREETING, line.clone()), SHA).await.unwrap();
        let asked = Sections { facts: true, ..Sections::BASE };
        assert_eq!(probe.read(asked).await, Ok(snapshot));
        assert_eq!(read(line).await.map(|snapshot| snapshot.facts), Ok(None), "nobody asked for facts");
    }

    #[tokio::test]
    async fn an_older_agent_is_not_asked_for_sockets_and_the_page_is_told() {
        let asked = Sections { sockets: true, ..Sections::BASE };
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let older = tokio::spawn(async move {
            theirs.write_all(format!("{GREETING}\n").as_bytes()).await.unwrap();
            let mut request = [0; 64];
            let count = theirs.read(&mut request).await.unwrap();
            theirs.write_all(b"{\"request\":1,\"snapshot\":{\"uptime_ms\":5}}\n").await.unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let snapshot = AgentProbe::start(ours, SHA).await.unwrap().read(asked).await.unwrap();
        assert_eq!(older.await.unwrap(), "r 1 -\n");
        assert!(snapshot.gaps.iter().any(|gap| gap.reason.contains("older one")), "{:?}", snapshot.gaps);
    }

    #[tokio::test]
    async fn wrong_json_wrong_numbers_and_a_wrong_request_are_no_reading() {
        for wrong in [
            "\n",
            "\u{0}\u{1}\n",
            "[]\n",
            r#"{"request":2,"snapshot":{"uptime_ms":5}}"#,
            r#"{"request":1,"snapshot":{"uptime_ms":-5}}"#,
            r#"{"request":1,"snapshot":{"uptime_ms":NaN}}"#,
            r#"{"request":1,"snapshot":{"uptime_ms":1e400}}"#,
            r#"{"request":1,"snapshot":{"uptime_ms":18446744073709551616}}"#,
            r#"{"request":1,"snapshot":{"uptime_ms":"5"}}"#,
            r#"{"request":1,"snapshot":{}}"#,
            r#"{"request":1}"#,
            r#"{"request":1,"error":"it hurts"}"#,
            "{\"request\":1,\"snapshot\":{\"uptime_ms\":5}}\nmore\n",
        ] {
            let answer = read(format!("{}\n", wrong.strip_suffix('\n').unwrap_or(wrong))).await;
            assert!(matches!(answer, Err(ProbeError::Garbled { .. })), "{wrong}: {answer:?}");
        }
        assert_eq!(read("{\"request\":1,\"snap").await, Err(ProbeError::Closed), "it died in the middle");
    }

    #[tokio::test]
    async fn an_endless_line_and_a_line_of_empty_objects_are_given_up() {
        let endless = vec![b'x'; BASE_LIMIT_BYTES + CHUNK_BYTES * 2];
        assert_eq!(read(endless).await, Err(ProbeError::TooMuchOutput { limit_bytes: BASE_LIMIT_BYTES }));
        let many = "{},".repeat(OBJECTS + 1);
        let many = read(format!("{{\"request\":1,\"snapshot\":{{\"disks\":[{many}{{}}]}}}}\n")).await;
        assert!(
            matches!(&many, Err(ProbeError::Garbled { reason }) if reason.contains("more than")),
            "{many:?}"
        );
    }

    #[tokio::test]
    async fn another_program_version_or_file_is_no_agent() {
        for greeting in [
            r#"{"name":"roundsman-agent","version":"99.0.0"}"#,
            r#"{"name":"other","version":"0.1.0"}"#,
            concat!(
                r#"{"name":"roundsman-agent","version":""#,
                env!("CARGO_PKG_VERSION"),
                r#"","build":"other"}"#
            ),
            "Welcome to web-1!",
            "",
            MISSING,
            ALTERED,
        ] {
            let started = AgentProbe::start(agent(greeting, ""), SHA).await;
            assert!(matches!(started, Err(ProbeError::NoAgent { .. })), "{greeting}: {started:?}");
        }
        let endless = AgentProbe::start(agent("x".repeat(GREETING_LIMIT_BYTES * 8), ""), SHA).await;
        assert!(matches!(endless, Err(ProbeError::TooMuchOutput { .. })), "{endless:?}");
    }

    #[tokio::test]
    async fn after_a_failed_reading_the_channel_is_of_no_more_use() {
        let mut probe = AgentProbe::start(agent(GREETING, "{}\n"), SHA).await.unwrap();
        assert!(probe.read(Sections::BASE).await.is_err());
        assert_eq!(probe.read(Sections::BASE).await, Err(ProbeError::Closed));
    }
}
