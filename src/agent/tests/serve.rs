//! `serve`, as a person, a tunnel or a hostile page talks to it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use support::{PATIENCE, program};

struct Serving {
    child: Child,
    port: u16,
}

impl Serving {
    fn start(more: &[&str]) -> Self {
        let mut command = program();
        command.args(["serve", "--port", "0"]).args(more);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit_once("listening on 127.0.0.1:").unwrap().1.parse().unwrap();
        Self { child, port }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn send(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str, more: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost:{}\r\n{more}\r\n", self.port))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is(answer: &str, status: &str) -> bool {
    answer.starts_with(&format!("HTTP/1.1 {status} "))
}

#[test]
fn readings_are_served_whole_and_in_parts() {
    let serving = Serving::start(&[]);
    let health = serving.get("/api/health", "");
    assert!(is(&health, "200") && health.contains("\"status\":\"ok\""), "{health}");
    let all = serving.get("/api/all", "");
    assert!(is(&all, "200") && all.contains("\r\n\r\n{\"taken_at_ms\":") && all.contains("\"facts\":{"));
    assert!(serving.get("/api/system?x=1", "").contains("\"processes\":null"));
    assert!(serving.get("/api/processes", "").contains("\r\n\r\n{\"processes\":[{\"pid\":1,"));
    let head = serving.send("HEAD /api/health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
    assert!(is(&head, "200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn it_listens_on_loopback_only() {
    let serving = Serving::start(&[]);
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", serving.port);
    let listening: Vec<&str> =
        table.lines().filter(|line| line.contains(&port) && line.contains(" 0A ")).collect();
    assert!(listening.iter().all(|line| line.contains("0100007F:")), "{listening:?}");
    assert_eq!(listening.len(), 1);
}

#[test]
fn a_foreign_host_header_is_refused() {
    let serving = Serving::start(&[]);
    for host in ["evil.example", "evil.example:8083", "127.0.0.1.nip.io", "localhost.evil.example"] {
        let answer = serving.send(&format!("GET /api/all HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert!(is(&answer, "403") && !answer.contains("taken_at_ms"), "{host}: {answer}");
    }
    assert!(is(&serving.send("GET /api/all HTTP/1.1\r\n\r\n"), "400"));
}

#[test]
fn command_lines_need_the_token_of_a_token_file() {
    let file = std::env::temp_dir().join(format!("roundsman-agent-token-{}", std::process::id()));
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let serving = Serving::start(&["--token-file", file.to_str().unwrap()]);
    let shown = |answer: &str| answer.contains("\"command_line\":\"");
    let open = serving.get("/api/all", "");
    assert!(is(&open, "200") && !shown(&open) && !shown(&serving.get("/api/processes", "")));
    let token = "Authorization: Bearer 0123456789abcdef\r\n";
    assert!(shown(&serving.get("/api/all", token)) && shown(&serving.get("/api/processes", token)));
    assert!(is(&serving.get("/api/all", "Authorization: Bearer 0123456789abcdeF\r\n"), "401"));
    assert!(is(&Serving::start(&[]).get("/api/all", token), "401"));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let refused = program().args(["serve", "--token-file", file.to_str().unwrap()]).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("others may read it"));
}

#[test]
fn wrong_requests_are_answered_and_harm_nobody() {
    let serving = Serving::start(&[]);
    assert!(is(&serving.get("/api/none", ""), "404"));
    assert!(is(&serving.get("/", ""), "404"));
    let post = serving.send("POST /api/all HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert!(is(&post, "405") && post.contains("\r\nAllow: GET, HEAD\r\n"));
    assert!(is(&serving.send("\0\u{1}\u{2} nonsense\r\n\r\n"), "400"));
    let mut endless = serving.connect();
    // The answer comes in the middle of it, and then the connection is closed.
    for _ in 0..64 {
        if endless.write_all(&[b'x'; 1024]).is_err() {
            break;
        }
    }
    assert!(is(&serving.get("/api/health", ""), "200"));
}

#[test]
fn half_a_request_holds_up_nobody_and_is_closed() {
    let serving = Serving::start(&[]);
    let mut slow = serving.connect();
    slow.write_all(b"GET /api/all HTTP/1.1\r\nHost: local").unwrap();
    assert!(is(&serving.get("/api/health", ""), "200"));
    let mut rest = Vec::new();
    // Ended by the server, after its own time limit.
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn connections_over_the_limit_are_closed_at_once_and_room_returns() {
    let serving = Serving::start(&[]);
    let held: Vec<TcpStream> = (0..8).map(|_| serving.connect()).collect();
    let mut over = serving.connect();
    // The server may have counted the held ones only after this one was accepted by the kernel, so it reads to the end.
    let mut nothing = Vec::new();
    let _ = over.read_to_end(&mut nothing);
    assert!(nothing.is_empty());
    drop(held);
    let begun = std::time::Instant::now();
    loop {
        let mut stream = serving.connect();
        let mut answer = Vec::new();
        let asked = stream.write_all(b"GET /api/health HTTP/1.0\r\nHost: localhost\r\n\r\n");
        if asked.is_ok() && stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200 ") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
    }
}
