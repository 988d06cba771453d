//! `serve`: the same readings over HTTP, to this machine only.
//!
//! Listens on 127.0.0.1, whatever else is wanted: whoever is elsewhere comes through SSH. Reads and changes nothing.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::local::{Memory, Reader};
use crate::send::Token;
use crate::snapshot::{Sections, Snapshot};
use crate::{http, json};

/// Where it is looked for when nobody says otherwise.
pub const DEFAULT_PORT: u16 = 8083;

/// Open connections; those over it are closed at once. A person and a central server need two.
const CONNECTIONS: usize = 8;

/// From the first byte of a connection to the end of the request's head.
const HEAD_TIME_LIMIT: Duration = Duration::from_secs(5);

/// For an answer to be taken, each time the socket is full.
const WRITE_TIME_LIMIT: Duration = Duration::from_secs(5);

/// A reading this young answers again, so that a loop of requests costs the machine little.
const FRESH: Duration = Duration::from_millis(500);

/// After a failed accept (out of descriptors) the next one waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What is shown, and to whom.
#[derive(Debug)]
pub struct Server {
    reader: Reader,
    /// Whoever sends this sees command lines, which may hold secrets. `None`: nobody does.
    token: Option<Token>,
    last: Mutex<Last>,
    connections: AtomicUsize,
}

#[derive(Debug, Default)]
struct Last {
    memory: Memory,
    reading: Option<(Instant, Sections, Snapshot)>,
}

/// One answer: status line, body.
struct Answer {
    status: &'static str,
    body: String,
}

impl Server {
    #[must_use]
    pub fn new(reader: Reader, token: Option<Token>) -> Self {
        Self { reader, token, last: Mutex::default(), connections: AtomicUsize::new(0) }
    }

    /// Answers for ever. `ready` is called with the port that was got; port 0 is any.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn run(self, port: u16, ready: impl FnOnce(u16)) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        ready(listener.local_addr()?.port());
        let server = Arc::new(self);
        loop {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if server.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                server.connections.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let served = Arc::clone(&server);
            let spawned = std::thread::Builder::new().spawn(move || {
                // Whoever asked is gone, or too slow; there is nobody to tell.
                let _ = served.connection(stream);
                served.connections.fetch_sub(1, Ordering::Relaxed);
            });
            if spawned.is_err() {
                server.connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_write_timeout(Some(WRITE_TIME_LIMIT))?;
        let (answer, is_head) = match read_head(&mut stream)? {
            Some(head) => match http::request(&head) {
                Some(request) => (self.answer(&request), request.method == "HEAD"),
                None => (problem("400 Bad Request", "this is no request of HTTP/1 with one Host"), false),
            },
            None => (problem("431 Request Header Fields Too Large", "the request's head is too long"), false),
        };
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n{}\r\n",
            answer.status,
            answer.body.len(),
            if answer.status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" },
        );
        stream.write_all(head.as_bytes())?;
        if !is_head {
            stream.write_all(answer.body.as_bytes())?;
        }
        stream.flush()?;
        stream.shutdown(std::net::Shutdown::Write)
    }

    fn answer(&self, request: &http::Request<'_>) -> Answer {
        if !http::is_loopback_name(request.host) {
            return problem("403 Forbidden", "this answers to localhost only");
        }
        if !matches!(request.method, "GET" | "HEAD") {
            return problem("405 Method Not Allowed", "only GET and HEAD are answered");
        }
        let with_command_lines = match (&self.token, request.bearer) {
            (_, None) => false,
            (Some(token), Some(sent)) if same(token.reveal(), sent) => true,
            _ => return problem("401 Unauthorized", "this token is not the one of the token file"),
        };
        let path = request.target.split('?').next().unwrap_or("");
        let body = match path {
            "/api/health" => health(),
            "/api/all" => json::to_json(&self.reading(Sections::DETAILS, with_command_lines)),
            "/api/system" => json::to_json(&self.reading(Sections { facts: true, ..Sections::BASE }, false)),
            "/api/processes" => {
                let wanted = Sections { processes: true, ..Sections::BASE };
                let processes = self.reading(wanted, with_command_lines).processes.unwrap_or_default();
                format!("{{\"processes\":{}}}", json::processes(&processes))
            }
            _ => {
                return problem(
                    "404 Not Found",
                    "there are /api/health, /api/all, /api/system, /api/processes",
                );
            }
        };
        Answer { status: "200 OK", body }
    }

    /// A reading with at least these sections. One at a time; whoever comes meanwhile waits for it and shares it.
    fn reading(&self, sections: Sections, with_command_lines: bool) -> Snapshot {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = last.reading.as_ref().filter(|(at, read, _)| at.elapsed() < FRESH && *read == sections);
        let mut snapshot = if let Some((_, _, snapshot)) = fresh {
            snapshot.clone()
        } else {
            let snapshot = self.reader.read_again(sections, &mut last.memory);
            last.reading = Some((Instant::now(), sections, snapshot.clone()));
            snapshot
        };
        drop(last);
        if !with_command_lines {
            for process in snapshot.processes.iter_mut().flatten() {
                process.command_line = None;
            }
        }
        snapshot
    }
}

fn health() -> String {
    format!(
        "{{\"status\":\"ok\",\"name\":\"roundsman-agent\",\"version\":\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    )
}

fn problem(status: &'static str, reason: &str) -> Answer {
    Answer { status, body: format!("{{\"error\":{}}}", json::string(Some(reason))) }
}

/// Compares without telling by the time taken how much of it was right.
fn same(token: &str, sent: &str) -> bool {
    let difference = token.bytes().zip(sent.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    token.len() == sent.len() && std::hint::black_box(difference) == 0
}

/// Everything up to the empty line; `None`: longer than a head may be.
fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + HEAD_TIME_LIMIT;
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            head.truncate(end + 4);
            return Ok(Some(head));
        }
        if head.len() > http::REQUEST_HEAD_BYTES {
            return Ok(None);
        }
    }
}
