//! `push` against a central server that says what a test wants.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use support::{PATIENCE, program};

const ENROL: &str = "enrol-0123456789";
const OWN: &str = "own-0123456789";
const REGISTERED: (u16, &str) = (200, "{\"id\":\"0190aaaa-0000\",\"token\":\"own-0123456789\"}");
const ACCEPTED: (u16, &str) = (200, "{\"accepted\":1,\"interval_ms\":1000}");
/// Closes without an answer, as a server that is being stopped.
const NOTHING: (u16, &str) = (0, "");

/// A request as it came.
struct Got {
    line: String,
    token: String,
    body: String,
}

impl Got {
    /// When each reading was taken; the order of the body.
    fn readings(&self) -> Vec<u64> {
        let times = self.body.split("{\"taken_at_ms\":").skip(1);
        times.map(|rest| rest.split(',').next().unwrap().parse().unwrap()).collect()
    }
}

/// Answers one request after another as `script` says, then accepts whatever comes.
fn central(script: Vec<(u16, &'static str)>) -> (String, Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in script.into_iter().chain(std::iter::repeat(ACCEPTED)) {
            let (stream, _) = listener.accept().unwrap();
            if sender.send(take(stream, answer)).is_err() {
                return;
            }
        }
    });
    (url, receiver)
}

fn take(stream: TcpStream, (status, body): (u16, &str)) -> Got {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let (mut token, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        match header.trim().split_once(": ") {
            Some(("Authorization", value)) => token = value.to_owned(),
            Some(("Content-Length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut sent = vec![0; length];
    reader.read_exact(&mut sent).unwrap();
    if status > 0 {
        let length = body.len();
        // In one piece: an agent that has read it all may close before a second one is written.
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
        reader.get_mut().write_all(answer.as_bytes()).unwrap();
    }
    Got { line: line.trim().to_owned(), token, body: String::from_utf8(sent).unwrap() }
}

/// A folder for the state, and the program.
struct Pushing {
    child: Option<Child>,
    folder: PathBuf,
}

impl Pushing {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("roundsman-agent-push-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        Self { child: None, folder }
    }

    fn state(&self) -> PathBuf {
        self.folder.join("push.state")
    }

    fn command(&self, url: &str) -> Command {
        let mut command = program();
        command.args(["push", "--interval", "1", "--state-file", self.state().to_str().unwrap()]);
        command.env("ROUNDSMAN_URL", url).env("ROUNDSMAN_TOKEN", ENROL).stdin(Stdio::null());
        command
    }

    fn start(mut self, url: &str) -> Self {
        self.child = Some(self.command(url).spawn().unwrap());
        self
    }
}

impl Drop for Pushing {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn next(got: &Receiver<Got>) -> Got {
    got.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn it_registers_with_the_enrol_token_and_reports_with_its_own() {
    let (url, got) = central(vec![REGISTERED]);
    let pushing = Pushing::new("registers").start(&url);
    let register = next(&got);
    assert_eq!(register.line, "POST /api/v1/fleet/register HTTP/1.0");
    assert_eq!(register.token, format!("Bearer {ENROL}"));
    assert!(register.body.starts_with("{\"name\":\""));
    assert!(register.body.contains("\"interval_ms\":1000,\"facts\":{\"hostname\":\""), "{}", register.body);
    let heartbeat = next(&got);
    assert_eq!(heartbeat.line, "POST /api/v1/fleet/servers/0190aaaa-0000/heartbeat HTTP/1.0");
    assert_eq!(heartbeat.token, format!("Bearer {OWN}"));
    assert!(heartbeat.body.contains("\"processes\":[{\"pid\":"));
    assert!(!next(&got).readings().is_empty());
    let mode = fs::metadata(pushing.state()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_restart_reports_under_the_same_id_without_registering() {
    let (url, got) = central(Vec::new());
    let pushing = Pushing::new("restart");
    let canonical = url.trim_end_matches('/');
    fs::write(pushing.state(), format!("url {canonical}\nid 0190bbbb\ntoken {OWN}\n")).unwrap();
    let _pushing = pushing.start(&url);
    assert_eq!(next(&got).line, "POST /api/v1/fleet/servers/0190bbbb/heartbeat HTTP/1.0");
}

#[test]
fn no_reading_is_lost_while_the_central_server_is_away() {
    let refused = (503, "{\"title\":\"not now\"}");
    let (url, got) = central(vec![REGISTERED, ACCEPTED, NOTHING, refused, (429, "{}")]);
    let _pushing = Pushing::new("outage").start(&url);
    next(&got);
    let mut seen = next(&got).readings();
    let failed: Vec<u64> = (0..3).flat_map(|_| next(&got).readings()).collect();
    let caught_up = next(&got).readings();
    assert!(caught_up.len() > 1, "{caught_up:?}");
    assert!(failed.iter().all(|time| caught_up.contains(time)));
    seen.extend(caught_up);
    seen.extend(next(&got).readings());
    assert!(seen.windows(2).all(|pair| pair.first() < pair.last()), "oldest first, each once: {seen:?}");
    // None was left out: as many as seconds went by, but for what a loaded machine is late.
    let span_ms = seen.last().unwrap() - seen.first().unwrap();
    assert!(u64::try_from(seen.len()).unwrap() * 2000 >= span_ms, "{seen:?}");
}

#[test]
fn a_heartbeat_that_is_too_large_is_halved() {
    let (url, got) = central(vec![REGISTERED, NOTHING, NOTHING, (413, "{}")]);
    let _pushing = Pushing::new("large").start(&url);
    for _ in 0..3 {
        next(&got);
    }
    let large = next(&got).readings();
    let half = next(&got).readings();
    assert_eq!(half.len(), (large.len() / 2).max(1));
    assert!(large.len() == 1 || half.first() == large.first());
}

#[test]
fn a_reading_that_is_refused_holds_up_none_behind_it() {
    let (url, got) =
        central(vec![REGISTERED, NOTHING, NOTHING, (422, "{}"), (422, "{}"), (422, "{}"), (422, "{}")]);
    let _pushing = Pushing::new("refused").start(&url);
    for _ in 0..3 {
        next(&got);
    }
    let mut batches: Vec<Vec<u64>> = (0..4).map(|_| next(&got).readings()).collect();
    let first = batches[0][0];
    while batches.last().unwrap().contains(&first) {
        assert!(batches.len() < 20, "{batches:?}");
        batches.push(next(&got).readings());
    }
    let alone = batches.iter().rposition(|batch| batch.contains(&first)).unwrap();
    assert_eq!(batches[alone].len(), 1, "it was tried alone before it was given up: {batches:?}");
}

#[test]
fn a_refused_token_means_registering_again() {
    let (url, got) = central(vec![REGISTERED, (401, "{}"), REGISTERED]);
    let _pushing = Pushing::new("again").start(&url);
    let lines: Vec<String> = (0..4).map(|_| next(&got).line).collect();
    let registers: Vec<bool> = lines.iter().map(|line| line.contains("/register ")).collect();
    assert_eq!(registers, [true, false, true, false], "{lines:?}");
}

#[test]
fn older_names_of_the_variables_are_accepted() {
    let (url, got) = central(Vec::new());
    let mut pushing = Pushing::new("older");
    let mut command = pushing.command("");
    command.env_remove("ROUNDSMAN_URL").env_remove("ROUNDSMAN_TOKEN");
    pushing.child =
        Some(command.env("MAIN_APP_URL", &url).env("SERVER_API_KEY", "older-0123456789").spawn().unwrap());
    assert_eq!(next(&got).token, "Bearer older-0123456789");
}

/// A `curl` that writes down what it was given, and answers as the real one would.
fn fake_curl(folder: &Path) {
    let script = "#!/bin/sh\nfolder=${0%/*}\necho \"$@\" >>\"$folder/arguments\"\nenv >>\"$folder/environment\"\n\
                  config=$(cat)\nprintf '%s\\n' \"$config\" >>\"$folder/configuration\"\n\
                  body=$(printf '%s\\n' \"$config\" | sed -n 's/^data-binary = \"@\\(.*\\)\"$/\\1/p')\n\
                  stat -c %a \"$body\" >>\"$folder/mode\"\n\
                  case $config in\n*/register*) printf '{\"id\":\"0190cc\",\"token\":\"own-0123456789\"}\\n200' ;;\n\
                  *) printf '{}\\n200'; echo done >\"$folder/heartbeat\" ;;\nesac\n";
    fs::write(folder.join("curl"), script).unwrap();
    fs::set_permissions(folder.join("curl"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn https_goes_through_curl_with_the_token_on_its_standard_input_only() {
    let mut pushing = Pushing::new("curl");
    fake_curl(&pushing.folder);
    let path = format!("{}:{}", pushing.folder.display(), std::env::var("PATH").unwrap());
    pushing.child = Some(pushing.command("https://rounds.example/base").env("PATH", path).spawn().unwrap());
    let begun = std::time::Instant::now();
    while !pushing.folder.join("heartbeat").exists() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    let text = |name: &str| fs::read_to_string(pushing.folder.join(name)).unwrap();
    assert!(text("arguments").lines().all(|line| line == "-q -K -"));
    assert!(!text("environment").contains("0123456789"));
    assert!(text("mode").lines().all(|mode| mode == "600"));
    let configuration = text("configuration");
    assert!(configuration.contains("url = \"https://rounds.example:443/base/api/v1/fleet/register\"\n"));
    assert!(configuration.contains("header = \"Authorization: Bearer enrol-0123456789\"\n"));
    assert!(configuration.contains("header = \"Authorization: Bearer own-0123456789\"\n"));
    assert!(configuration.contains("proto = \"=https\"\n"));
}

#[test]
fn wrong_use_is_told_before_anything_is_sent() {
    let pushing = Pushing::new("wrong");
    for (url, token, reason) in [
        ("http://rounds.example", ENROL, "shows the token to everybody"),
        ("rounds.example", ENROL, "the address is no"),
        ("https://rounds.example", "bad \"token\"", "the token in the environment is none"),
    ] {
        let output = pushing.command(url).env("ROUNDSMAN_TOKEN", token).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(said.contains(reason), "{said}");
        assert!(!said.contains("token\""), "{said}");
    }
    let output = pushing.command("https://rounds.example").env_remove("ROUNDSMAN_TOKEN").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("a token is needed to register"));
}
