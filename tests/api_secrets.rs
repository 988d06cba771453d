//! Secrets go where they are needed and nowhere else: not to disk in the clear, not to a log, not into an answer.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use roundsman::model::{OrganizationId, Role};
use serde_json::{Value, json};
use support::app::{TestApp, USER_PASSWORD, Who};
use support::sshd::{PASSWORD, Sshd};

/// What every private key in OpenSSH's format begins with, below its header line.
const OPENSSH_KEY: &str = "b3BlbnNzaC1rZXktdjE";
const SERVERS: &str = "/api/v1/fleet/servers";

/// Every log line of every crate, as a person would see it at the most talkative level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The subscriber is the process's own, so each test of this file needs a process of its own: one test.
    fn begin() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// The files below `dir` that hold `needle`, in the clear or in base64 or hex.
fn files_with(dir: &Path, needle: &str) -> Vec<String> {
    use base64::Engine as _;
    let hex: String = needle.bytes().map(|byte| format!("{byte:02x}")).collect();
    // Two characters fewer: the end of the base64 text depends on what follows.
    let mut base64 = base64::engine::general_purpose::STANDARD_NO_PAD.encode(needle);
    base64.truncate(base64.len() - 2);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
            continue;
        }
        // A socket cannot be read and holds nothing.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        for form in [needle, &base64, &hex] {
            if bytes.windows(form.len()).any(|window| window == form.as_bytes()) {
                found.push(format!("{} holds {form}", path.display()));
            }
        }
    }
    found
}

/// The middle of a private key: no header, no line break.
fn heart(private_key: &str) -> String {
    let body: String = private_key.lines().filter(|line| !line.starts_with("-----")).collect();
    body[body.len() / 2..].chars().take(40).collect()
}

struct Answers(Vec<String>);

impl Answers {
    async fn post(&mut self, app: &TestApp, who: &Who, path: &str, body: &Value, status: u16) -> Value {
        let answer = app.post(path).by(who).json(body).send().await;
        self.0.push(answer.text());
        answer.expect(status)
    }

    async fn get(&mut self, app: &TestApp, who: &Who, path: &str) {
        self.0.push(app.get(path).by(who).send().await.text());
    }
}

#[tokio::test]
async fn passwords_and_private_keys_reach_neither_disk_nor_log_nor_answer() {
    let log = Log::begin();
    let (app, sshd) = (TestApp::start().await, Sshd::with_password("").await);
    let (admin, person) = (app.token(Role::Admin).await, app.login(Role::Admin).await);
    let mut answers = Answers(Vec::new());

    let by_password = json!({
        "name": "by-password", "hostname": "127.0.0.1", "port": sshd.port(), "password": PASSWORD, "accept_new": true,
    });
    answers.post(&app, &admin, SERVERS, &by_password, 201).await;
    app.until("by-password", "read", |state| state.last_seen_at.is_some()).await;
    let default_key = app.services.fleet.default_public_key(OrganizationId::DEFAULT).await.unwrap();
    let authorized = std::fs::read_to_string(sshd.path("home/.ssh/authorized_keys")).unwrap();
    let key = default_key.split_whitespace().nth(1).unwrap();
    assert!(authorized.contains(key), "{authorized}");
    let accepted = |way: &str| sshd.log().matches(&format!("Accepted {way} for root")).count();
    assert_eq!((accepted("password"), accepted("publickey")), (1, 1), "{}", sshd.log());

    let path = sshd.path("imported");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "open sesame street", "-f"])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    let private = std::fs::read_to_string(&path).unwrap();
    sshd.authorize(std::fs::read_to_string(path.with_extension("pub")).unwrap().trim());
    let by_key = json!({
        "name": "by-key", "hostname": "127.0.0.1", "port": sshd.port(), "accept_new": true,
        "private_key": private, "passphrase": "wrong passphrase here", "source_path": "/home/ada/.ssh/id_ed25519",
    });
    let refused = answers.post(&app, &admin, SERVERS, &by_key, 422).await;
    assert!(!refused["detail"].as_str().unwrap().is_empty());
    let mut right = by_key.clone();
    right["passphrase"] = "open sesame street".into();
    answers.post(&app, &admin, SERVERS, &right, 201).await;
    app.until("by-key", "read", |state| state.last_seen_at.is_some()).await;
    // The path that it came from names the kept key from then on; the file is never read.
    let again = json!({
        "name": "again", "hostname": "127.0.0.1", "port": sshd.port(), "accept_new": true,
        "identity": "/home/ada/.ssh/id_ed25519",
    });
    answers.post(&app, &admin, SERVERS, &again, 201).await;

    for path in [SERVERS, "/api/v1/keys", "/api/v1/tokens", "/api/v1/audit?limit=1000", "/api/openapi.json"] {
        answers.get(&app, &admin, path).await;
    }
    for path in ["/", "/settings", "/servers/by-password", "/servers/by-key/configuration", "/servers/new"] {
        answers.get(&app, &person, path).await;
    }
    let Who::Token(token) = &admin else { unreachable!() };
    let (log, answers) = (log.text(), answers.0.join("\n"));
    assert!(log.len() > 1000, "the log was captured");
    for secret in [
        PASSWORD,
        "open sesame street",
        "wrong passphrase here",
        USER_PASSWORD,
        token.splitn(3, '_').last().unwrap(),
        &heart(&private),
        &heart(sshd.client_key().expose()),
        OPENSSH_KEY,
    ] {
        assert_eq!(files_with(app.data(), secret), Vec::<String>::new());
        assert!(!log.contains(secret), "the log holds {secret}");
        assert!(!answers.contains(secret), "an answer holds {secret}");
    }
    // The search itself finds what is there.
    assert_ne!(files_with(app.data(), "by-password"), Vec::<String>::new());
}
