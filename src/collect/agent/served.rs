//! The agent as a service on the server's own loopback, asked over HTTP through the connection that is there already.
//!
//! Each question is a connection of its own, because the service closes after its answer. What comes is as hostile as what an
//! agent on a channel says, and goes through the same checks.

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{
    BASE_LIMIT_BYTES, BASE_TIME_LIMIT, CHUNK_BYTES, FULL_LIMIT_BYTES, FULL_TIME_LIMIT, NAME, SAID_BYTES,
    VERSION, bounded, garbled, series, usable, within,
};
use crate::collect::ProbeError;
use crate::model::{Secret, Sections, Snapshot};
use roundsman_agent::text::clean;

/// `/api/health` has three short members.
const HEALTH_BYTES: usize = 8 * 1024;
/// The head of an answer has six lines.
const HEAD_BYTES: usize = 8 * 1024;

#[derive(Debug, Deserialize)]
struct Health {
    name: String,
    version: String,
}

/// Whether our agent answers on `stream`, and which version.
///
/// # Errors
/// [`ProbeError::NoAgent`] for another program or version; as [`read`].
pub async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Result<String, ProbeError> {
    let body = within(BASE_TIME_LIMIT, get(stream, "/api/health", None, HEALTH_BYTES)).await?;
    let no_agent = |reason: String| ProbeError::NoAgent { reason };
    let health: Health = serde_json::from_slice(&body).map_err(|_| {
        no_agent(format!("what answers on its port is none, it says {:?}", clean(&body, SAID_BYTES)))
    })?;
    let version = clean(health.version.as_bytes(), SAID_BYTES);
    if health.name != NAME || series(&version) != series(VERSION) {
        let name = clean(health.name.as_bytes(), SAID_BYTES);
        return Err(no_agent(format!("the service is {name} {version}, and this Roundsman is {VERSION}")));
    }
    Ok(version)
}

/// One reading, over a connection of its own. Without the token there are no command lines.
///
/// # Errors
/// See [`ProbeError`]; trying again needs another stream.
pub async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    token: Option<&Secret<String>>,
    sections: Sections,
) -> Result<Snapshot, ProbeError> {
    let is_light = sections == Sections { facts: sections.facts, ..Sections::BASE };
    let (path, limit_bytes, time_limit) = if is_light {
        ("/api/system", BASE_LIMIT_BYTES, BASE_TIME_LIMIT)
    } else {
        ("/api/all", FULL_LIMIT_BYTES, FULL_TIME_LIMIT)
    };
    let body = within(time_limit, get(stream, path, token, limit_bytes)).await?;
    bounded(&body)?;
    let snapshot: Snapshot = serde_json::from_slice(&body).map_err(|error| {
        garbled(format!(
            "the agent's answer is no snapshot: {}",
            clean(error.to_string().as_bytes(), SAID_BYTES)
        ))
    })?;
    usable(snapshot, sections)
}

/// The body of an answer with status 200.
async fn get<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    path: &str,
    token: Option<&Secret<String>>,
    limit_bytes: usize,
) -> Result<Vec<u8>, ProbeError> {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
    if let Some(token) = token {
        request.push_str(&format!("Authorization: Bearer {}\r\n", token.expose()));
    }
    request.push_str("Connection: close\r\n\r\n");
    // What cannot be written has ended; reading then says so.
    let _ended = stream.write_all(request.as_bytes()).await;
    let _ended = stream.flush().await;
    let mut bytes = Vec::with_capacity(CHUNK_BYTES);
    loop {
        if bytes.capacity() - bytes.len() < CHUNK_BYTES {
            bytes.reserve(CHUNK_BYTES);
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) => break,
            Ok(_) if bytes.len() > limit_bytes + HEAD_BYTES => {
                return Err(ProbeError::TooMuchOutput { limit_bytes });
            }
            Ok(_) => {}
            Err(_) => return Err(ProbeError::Closed),
        }
    }
    body_of(bytes)
}

fn body_of(mut bytes: Vec<u8>) -> Result<Vec<u8>, ProbeError> {
    if bytes.is_empty() {
        return Err(ProbeError::Closed);
    }
    let end = memchr::memmem::find(&bytes, b"\r\n\r\n").filter(|at| *at <= HEAD_BYTES);
    let Some(end) = end else { return Err(garbled("what answers on its port does not speak HTTP")) };
    let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        let said = if status == "401" { "its token is not the one that is kept here" } else { "see its log" };
        return Err(garbled(format!("the service answers {}: {said}", clean(status.as_bytes(), 20))));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    bytes.drain(..end + 4);
    if length.is_some_and(|length| length != bytes.len()) {
        return Err(ProbeError::Closed);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    /// A service that answers whatever is asked with these bytes.
    fn service(answer: impl Into<Vec<u8>>) -> DuplexStream {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let answer = answer.into();
        tokio::spawn(async move {
            let mut asked = [0; 1024];
            let _count = theirs.read(&mut asked).await;
            let _gone = theirs.write_all(&answer).await;
        });
        ours
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn only_our_agent_of_this_series_is_taken_for_one() {
        let health = |name: &str, version: &str| {
            ok(&format!("{{\"status\":\"ok\",\"name\":\"{name}\",\"version\":\"{version}\"}}"))
        };
        assert_eq!(greet(service(health(NAME, VERSION))).await.unwrap(), VERSION);
        for wrong in [health("other", VERSION), health(NAME, "9.9.9"), ok("<html>"), ok("{}")] {
            assert!(matches!(greet(service(wrong)).await, Err(ProbeError::NoAgent { .. })));
        }
        assert_eq!(greet(service("")).await, Err(ProbeError::Closed));
        assert!(matches!(greet(service("SSH-2.0-x\r\n")).await, Err(ProbeError::Garbled { .. })));
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_checked_and_held_to_what_was_asked() {
        let body = "{\"uptime_ms\":5,\"processes\":[],\"boot_id\":\"a\"}";
        let read_of = async |answer: String, sections| read(service(answer), None, sections).await;
        let snapshot = read_of(ok(body), Sections::BASE).await.unwrap();
        assert_eq!((snapshot.uptime_ms, snapshot.processes), (Some(5), None), "processes were not asked for");
        assert!(read_of(ok(body), Sections::ALL).await.unwrap().processes.is_some());
        let cut = ok(body).replace("Content-Length: ", "Content-Length: 1");
        assert_eq!(read_of(cut, Sections::BASE).await, Err(ProbeError::Closed));
        for wrong in
            [ok("{}"), ok("[1"), "HTTP/1.1 401 Unauthorized\r\n\r\n".to_owned(), ok(&"{".repeat(200_000))]
        {
            assert!(matches!(read_of(wrong, Sections::BASE).await, Err(ProbeError::Garbled { .. })));
        }
        let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(BASE_LIMIT_BYTES + 2 * HEAD_BYTES));
        let given_up = read_of(endless, Sections::BASE).await;
        assert_eq!(given_up, Err(ProbeError::TooMuchOutput { limit_bytes: BASE_LIMIT_BYTES }));
    }
}
