//! `roundsman serve` as a process: killed, started twice, started on what it cannot use, and told to end.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use roundsman::clock::{Clock as _, SystemClock};
use roundsman::model::{Role, Timestamp};
use serde_json::Value;
use support::app::TestApp;
use support::program::{Program, client, serve_fails};
use support::sshd::Sshd;
use support::{PATIENCE, in_time};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

const ANY_PORT: &str = "127.0.0.1:0";

/// When the test began, as far as ranges are concerned.
static START: std::sync::OnceLock<i64> = std::sync::OnceLock::new();

fn now_ms() -> i64 {
    SystemClock.now().as_millis()
}

/// The samples of one metric of a server: time in Unix milliseconds and value.
async fn samples(program: &Program, token: &str, server: &str) -> Vec<(i64, f64)> {
    // One range for the whole test: the times of points are those of equal parts of the range.
    let from = START.get_or_init(|| now_ms() - 60_000);
    let range = format!("from={from}&to={}&points=5000", from + 600_000);
    let path = format!("/api/v1/fleet/servers/{server}/metrics?metric=memory_percent&{range}");
    let (status, body) = program.get(&path, token).await;
    assert_eq!(status, 200, "{body}");
    let Some(series) = body["series"].get(0) else { return Vec::new() };
    let points = series["points"].as_array().unwrap();
    points.iter().map(|point| (point[0].as_i64().unwrap(), point[1].as_f64().unwrap())).collect()
}

async fn until_samples(program: &Program, token: &str, server: &str, count: usize) -> Vec<(i64, f64)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = samples(program, token, server).await;
        if found.len() >= count {
            return found;
        }
        assert!(Instant::now() < deadline, "{server} has {} samples", found.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn names(program: &Program, token: &str) -> Vec<String> {
    let (status, list) = program.get("/api/v1/fleet/servers", token).await;
    assert_eq!(status, 200, "{list}");
    list["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

/// The audit chain as the program's own check sees it.
async fn audit_is_intact(data: &Path) {
    let store = roundsman::store::Store::open(&data.join("roundsman.db")).unwrap();
    assert_eq!(store.read(roundsman::store::audit::verify).await.unwrap().broken_at, None);
}

#[tokio::test]
async fn kill_9_loses_at_most_two_seconds_and_no_server() {
    let sshd = Sshd::start().await;
    let key = sshd.path("client_key");
    fs::write(&key, sshd.client_key().expose()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let mut program = Program::start(&["--interval", "1s"]).await;
    let address = format!("root@127.0.0.1:{}", sshd.port());
    let added = program
        .cli(&[
            "add",
            &address,
            "--name",
            "web-1",
            "--identity",
            key.to_str().unwrap(),
            "--accept-new",
            "--tag",
            "crash",
        ])
        .await;
    assert!(added.status.success(), "{added:?}");
    let token = program.token("viewer").await;
    let local = names(&program, &token).await.into_iter().find(|name| name != "web-1").unwrap();
    for round in 1..=3 {
        for server in ["web-1", &local] {
            until_samples(&program, &token, server, round * 3).await;
        }
        let before = [samples(&program, &token, "web-1").await, samples(&program, &token, &local).await];
        program.kill9().await;
        let killed_at = now_ms();
        audit_is_intact(program.data()).await;
        program = program.restart().await;
        let mut expected = vec![local.clone(), "web-1".to_owned()];
        expected.sort();
        assert_eq!(names(&program, &token).await, expected);
        for (server, before) in ["web-1", &local].iter().zip(before) {
            let after = samples(&program, &token, server).await;
            for sample in before {
                let found = after.contains(&sample);
                assert!(
                    found || sample.0 > killed_at - 2000,
                    "round {round}: {server} lost {sample:?} of {killed_at}"
                );
            }
        }
        let (_, server) = program.get("/api/v1/fleet/servers/web-1", &token).await;
        assert_eq!(server["tags"], serde_json::json!(["crash"]));
    }
    let (status, audit) = program.get("/api/v1/audit", &program.token("admin").await).await;
    assert_eq!(status, 200);
    assert!(
        audit["items"].as_array().unwrap().iter().any(|entry| entry["action"] == "server.add"),
        "{audit}"
    );
    until_samples(&program, &token, "web-1", 12).await;
    let (code, log) = end(&mut program).await;
    assert_eq!(code, Some(0), "{log}");
    audit_is_intact(program.data()).await;
}

async fn end(program: &mut Program) -> (Option<i32>, String) {
    let (took, code, log) = program.terminate().await;
    assert!(took < Duration::from_secs(5), "{took:?}: {log}");
    (code, log)
}

#[tokio::test]
async fn sigterm_ends_within_five_seconds_with_browsers_connected_and_keeps_every_sample() {
    let mut program = Program::start(&["--interval", "1s"]).await;
    let token = program.token("viewer").await;
    let local = names(&program, &token).await.remove(0);
    until_samples(&program, &token, &local, 2).await;
    let mut idle = TcpStream::connect(program.address).await.unwrap();
    idle.write_all(b"GET /login HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let identity = format!("Authorization: Bearer {token}\r\n");
    let mut live = support::socket::Socket::open(program.address, "/api/v1/events", &identity).await;
    in_time("an event", live.text()).await.unwrap();
    let before = samples(&program, &token, &local).await;
    let (code, log) = end(&mut program).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!program.data().join("control.sock").exists());
    let program = program.restart().await;
    let after = samples(&program, &token, &local).await;
    assert!(before.iter().all(|sample| after.contains(sample)), "{before:?} {after:?}");
}

#[tokio::test]
async fn the_set_up_address_of_a_new_installation_works_and_is_printed_once() {
    let mut program = Program::start(&[]).await;
    let path = program.setup.clone().unwrap();
    let password = "a long enough passphrase";
    let form = [("username", "ada"), ("password", password), ("password_again", password)];
    let url = format!("http://{}{path}", program.address);
    let body = serde_urlencoded::to_string(form).unwrap();
    let request = client().post(&url).header("content-type", "application/x-www-form-urlencoded").body(body);
    let entered = in_time("set-up", request.send()).await.unwrap();
    assert_eq!(entered.status(), 303);
    let (_, _, log) = program.terminate().await;
    assert!(!log.contains(path.trim_start_matches("/setup/")) && !log.contains(password), "{log}");
    let program = program.restart().await;
    assert_eq!(program.setup, None);
    for name in ["roundsman.db", "history.db", "master.key"] {
        let mode = fs::metadata(program.data().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} is open to others: {mode:o}");
    }
    assert_eq!(fs::metadata(program.data()).unwrap().permissions().mode() & 0o077, 0);
}

#[tokio::test]
async fn a_port_in_use_is_said_with_the_way_to_find_who_has_it() {
    let taken = tokio::net::TcpListener::bind(ANY_PORT).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let address = taken.local_addr().unwrap();
    let (code, stdout, stderr) = serve_fails(&dir.path().join("data"), &address.to_string()).await;
    assert_eq!(code, Some(1), "{stderr}");
    for words in [&address.to_string(), &format!("ss -ltnp sport = :{}", address.port()), "--listen"] {
        assert!(stderr.contains(words), "{stderr}");
    }
    assert!(!stdout.contains("/setup/"), "{stdout}");
    // Nothing stands in the way of the next start.
    drop(taken);
    Program::start_on(&dir.path().join("data"), &[]).await;
}

#[tokio::test]
async fn a_second_serve_on_the_same_data_is_refused_and_the_first_goes_on() {
    let program = Program::start(&["--interval", "1s"]).await;
    let (code, _, stderr) = serve_fails(program.data(), ANY_PORT).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("another Roundsman uses") && stderr.contains("--data"), "{stderr}");
    let token = program.token("viewer").await;
    let (status, summary) = program.get("/api/v1/fleet/summary", &token).await;
    assert_eq!((status, &summary["total_servers"]), (200, &Value::from(1)));
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    for data in [file.clone(), file.join("below"), Path::new("/proc/roundsman").to_owned()] {
        let (code, _, stderr) = serve_fails(&data, ANY_PORT).await;
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(data.to_str().unwrap()) && stderr.contains("--data"), "{stderr}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

/// A data directory that a run has left behind.
async fn used_data() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut program = Program::start_on(&data, &[]).await;
    let (code, log) = end(&mut program).await;
    assert_eq!(code, Some(0), "{log}");
    for name in ["roundsman.db", "history.db"] {
        // What stands in the write-ahead log alone would mend a damaged file, and be written back by any look at it.
        let database = rusqlite::Connection::open(data.join(name)).unwrap();
        database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    (dir, data)
}

/// `serve` ends with 1 and these words, and every file of the data directory is as it was; what `SQLite` shares between
/// processes is no content.
async fn refused_unharmed(data: &Path, words: &[&str]) {
    let content = || {
        let mut files: Vec<_> = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| !path.to_string_lossy().ends_with("-shm"));
        files.sort();
        files.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
    };
    let before = content();
    let (code, _, stderr) = serve_fails(data, ANY_PORT).await;
    assert_eq!(code, Some(1), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "'{word}' is not in: {stderr}");
    }
    for (bytes, path) in before {
        assert!(fs::read(&path).unwrap() == bytes, "{} was changed", path.display());
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    for name in ["roundsman.db", "history.db"] {
        let (_dir, data) = used_data().await;
        let database = rusqlite::Connection::open(data.join(name)).unwrap();
        database.pragma_update(None, "user_version", 999).unwrap();
        drop(database);
        refused_unharmed(&data, &["newer", "999", "backup"]).await;
    }
}

#[tokio::test]
async fn a_damaged_database_is_named_and_left_alone() {
    for name in ["history.db", "roundsman.db"] {
        let (_dir, data) = used_data().await;
        let path = data.join(name);
        fs::write(&path, b"this was a database once".repeat(500)).unwrap();
        refused_unharmed(&data, &[name, "backup"]).await;
    }
}

#[tokio::test]
async fn a_master_key_that_others_can_read_is_refused_with_the_command_that_helps() {
    let (_dir, data) = used_data().await;
    let key = data.join("master.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused_unharmed(&data, &[&format!("chmod 600 {}", key.display())]).await;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "not a key\n").unwrap();
    refused_unharmed(&data, &["master key"]).await;
    // Another key than the one that sealed what is stored must not be taken for granted either.
    fs::write(&key, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n").unwrap();
    refused_unharmed(&data, &["master key that sealed it"]).await;
}

#[tokio::test]
async fn a_half_sent_header_and_silence_are_closed_after_ten_seconds() {
    let app = TestApp::start().await;
    let address = app.listen().await;
    let openings: [&[u8]; 4] =
        [b"", b"GET /login HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"PRI * HTTP/2.0\r\n", b"\x16\x03\x01"];
    let mut waiting = tokio::task::JoinSet::new();
    for opening in openings {
        waiting.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(opening).await.unwrap();
            let since = Instant::now();
            // A reset is an end as well.
            drop(stream.read_to_end(&mut Vec::new()).await);
            since.elapsed()
        });
    }
    while let Some(took) = in_time("the end of each", waiting.join_next()).await {
        let took = took.unwrap();
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
}

#[tokio::test]
async fn more_silent_connections_than_there_is_room_for_lock_nobody_out() {
    let app = TestApp::start().await;
    let token = app.token(Role::Viewer).await;
    let address = app.listen().await;
    let mut silent = Vec::new();
    for _ in 0..1100 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HT").await.unwrap();
        silent.push(stream);
    }
    // The control socket has places of its own: whoever is on the machine can still act.
    let control = tokio::net::UnixStream::connect(app.data().join("control.sock"));
    let mut control = in_time("the control socket", control).await.unwrap();
    control.write_all(b"GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let asked = Instant::now();
    in_time("an answer over the control socket", control.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    // Browsers come in as soon as the silent have had their time.
    let url = format!("http://{address}/login");
    let page = in_time("the login page", client().get(url).send()).await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    drop((silent, token));
}

#[tokio::test]
async fn the_time_of_a_sample_is_the_time_of_its_reading() {
    let program = Program::start(&["--interval", "1s"]).await;
    let token = program.token("viewer").await;
    let local = names(&program, &token).await.remove(0);
    let found = until_samples(&program, &token, &local, 3).await;
    let (_, server) = program.get(&format!("/api/v1/fleet/servers/{local}"), &token).await;
    let seen = Timestamp::parse(server["last_seen_at"].as_str().unwrap()).unwrap().as_millis();
    let newest = found.last().unwrap().0;
    assert!((seen - newest).abs() < 10_000, "{newest} {seen}");
}
