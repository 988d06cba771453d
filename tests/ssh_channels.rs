//! Few channels, few logins, and links that go silent: how a connection is shared, and when it is given up.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use roundsman::ssh::{
    Asker, Connection, ExecRequest, Identity, MAX_CHANNELS, Session, SshError, Stream, Target, connect, keys,
};
use support::namespaces::Namespaces;
use support::sshd::Sshd;
use support::{PATIENCE, eventually, in_time, processes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A dead link is noticed within this (SPEC 3.1); the keepalives need 30 s.
const NOTICED_WITHIN: Duration = Duration::from_secs(45);

fn session_to(target: Target) -> Session {
    Session::start(target, Arc::new(Semaphore::new(64)), CancellationToken::new())
}

async fn connection_of(session: &Session) -> Connection {
    in_time("a connection", session.connection()).await.unwrap()
}

async fn connection_to(target: &Target) -> Connection {
    in_time("a connection", connect(target, &mut |_| {})).await.unwrap()
}

async fn run(connection: &Connection, command: &str) -> Result<(), SshError> {
    let output = in_time("a command", connection.exec(ExecRequest::new(command).timeout(PATIENCE))).await?;
    assert!(output.success(), "{output:?}");
    Ok(())
}

async fn reading(stream: &mut Stream) {
    stream.write_all(b"x").await.unwrap();
    assert_eq!(in_time("a reading", stream.read_u8()).await.unwrap(), b'x');
}

/// Reads as a poller does: over one channel, which gives way between two readings.
fn read_on(connection: &Connection, readings: &Arc<AtomicUsize>) -> tokio::task::JoinHandle<()> {
    let (connection, readings) = (connection.clone(), Arc::clone(readings));
    tokio::spawn(async move {
        while let Ok(mut stream) = connection.open_readings("exec cat").await {
            loop {
                reading(&mut stream).await;
                readings.fetch_add(1, Ordering::Relaxed);
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                    () = connection.readings_are_to_give_way() => break,
                    () = connection.closed() => return,
                }
            }
        }
    })
}

#[tokio::test]
async fn where_one_session_is_allowed_commands_take_turns_with_the_readings() {
    let sshd = Sshd::start_with("MaxSessions 1").await;
    let connection = connection_to(&sshd.target()).await;
    let readings = Arc::new(AtomicUsize::new(0));
    let reader = read_on(&connection, &readings);
    eventually("readings come", || readings.load(Ordering::Relaxed) > 0).await;
    for _ in 0..3 {
        let before = readings.load(Ordering::Relaxed);
        let (one, two, three) =
            tokio::join!(run(&connection, "true"), run(&connection, "true"), run(&connection, "true"));
        assert!(one.and(two).and(three).is_ok());
        eventually("readings go on", || readings.load(Ordering::Relaxed) > before + 1).await;
    }
    assert_eq!((connection.channels_allowed(), sshd.logins()), (1, 1));
    reader.abort();
}

#[tokio::test]
async fn where_one_session_is_allowed_and_held_the_error_says_so() {
    let sshd = Sshd::start_with("MaxSessions 1").await;
    let connection = connection_to(&sshd.target()).await;
    let mut held = connection.open("exec cat").await.unwrap();
    reading(&mut held).await;
    let error = run(&connection, "true").await.unwrap_err();
    assert!(matches!(&error, SshError::ChannelRefused { .. }), "{error:?}");
    assert!(error.to_string().contains("MaxSessions is 1"), "{error}");
    reading(&mut held).await;
    drop(held);
    run(&connection, "true").await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_ended_beside_the_only_channel_is_ended_over_the_next_connection() {
    let sshd = Sshd::start_with("MaxSessions 1").await;
    let session = session_to(sshd.target());
    let connection = connection_of(&session).await;
    let file = sshd.path("pid");
    let command = format!("echo $$ >{}; exec sleep 1000", file.display());
    let request = ExecRequest::new(command).timeout(Duration::from_secs(1));
    let error = in_time("the limit", connection.exec(request)).await.unwrap_err();
    assert!(matches!(&error, SshError::CommandTimedOut { .. }), "{error:?}");
    let pid: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    eventually("the command is gone", || !processes::lives(pid)).await;
    run(&connection_of(&session).await, "true").await.unwrap();
    assert_eq!(session.logins(), 2);
}

#[tokio::test]
async fn a_learned_limit_is_kept_for_the_next_connection() {
    let sshd = Sshd::start_with("MaxSessions 2").await;
    let session = session_to(sshd.target());
    let connection = connection_of(&session).await;
    let fill = async |connection: &Connection| {
        let readings = Arc::new(AtomicUsize::new(0));
        let reader = read_on(connection, &readings);
        eventually("readings come", || readings.load(Ordering::Relaxed) > 0).await;
        let commands: Vec<_> = (0..4)
            .map(|_| {
                let connection = connection.clone();
                tokio::spawn(async move { run(&connection, "sleep 0.3").await })
            })
            .collect();
        for command in commands {
            in_time("a command", command).await.unwrap().unwrap();
        }
        reader.abort();
    };
    fill(&connection).await;
    assert_eq!(connection.channels_allowed(), 2);
    connection.kill();
    let next = connection_of(&session).await;
    assert_eq!(next.channels_allowed(), 2);
    assert_eq!(session.logins(), 2);
    fill(&next).await;
    assert_eq!(next.channels_allowed(), 2);
}

#[tokio::test]
async fn the_usual_limit_of_ten_is_never_met() {
    let sshd = Sshd::start_with("MaxSessions 10").await;
    let connection = connection_to(&sshd.target()).await;
    let readings = Arc::new(AtomicUsize::new(0));
    let reader = read_on(&connection, &readings);
    let commands: Vec<_> = (0..60)
        .map(|number| {
            let connection = connection.clone();
            tokio::spawn(async move {
                let request = ExecRequest::new("sleep 0.05").timeout(PATIENCE).asker(Asker(number % 3));
                connection.exec(request).await
            })
        })
        .collect();
    for command in commands {
        assert!(in_time("a command", command).await.unwrap().unwrap().success());
    }
    assert_eq!(connection.channels_allowed(), MAX_CHANNELS);
    assert!(readings.load(Ordering::Relaxed) > 0);
    reader.abort();
}

#[tokio::test]
async fn one_caller_with_a_hundred_commands_does_not_hold_up_the_single_command_of_another() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd.target()).await;
    let done = Arc::new(AtomicUsize::new(0));
    let greedy: Vec<_> = (0..100)
        .map(|_| {
            let (connection, done) = (connection.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let output = connection.exec(ExecRequest::new("sleep 0.1").asker(Asker(1))).await;
                done.fetch_add(1, Ordering::Relaxed);
                output
            })
        })
        .collect();
    eventually("some have run", || done.load(Ordering::Relaxed) >= 6).await;
    let before = done.load(Ordering::Relaxed);
    in_time("the other's", connection.exec(ExecRequest::new("true").asker(Asker(2)))).await.unwrap();
    let meanwhile = done.load(Ordering::Relaxed) - before;
    assert!(meanwhile <= 24, "{meanwhile} commands of the greedy caller came first");
    drop(greedy);
}

#[tokio::test]
async fn a_server_that_takes_one_login_at_a_time_gets_all_of_them_in_the_end() {
    let sshd = Sshd::start_with("MaxStartups 1").await;
    let sessions: Vec<_> = (0..5).map(|_| session_to(sshd.target())).collect();
    for session in &sessions {
        let ready = async {
            let mut state = session.state();
            while session.connection().await.is_err() {
                state.changed().await.unwrap();
            }
        };
        in_time("a login", ready).await;
    }
    assert_eq!(sshd.logins(), 5);
    assert!(sessions.iter().all(|session| session.logins() == 1));
}

#[tokio::test]
async fn a_connection_is_never_shared_between_two_identities() {
    let sshd = Sshd::start().await;
    let (private, line) = keys::generate_ed25519("another").unwrap();
    sshd.authorize(&line);
    let first = session_to(sshd.target());
    let second = session_to(Target { identity: Identity::Key(private), ..sshd.target() });
    for session in [&first, &second] {
        run(&connection_of(session).await, "true").await.unwrap();
    }
    let log = sshd.log();
    let fingerprint = |line: &str| line.rsplit(' ').next().unwrap().to_owned();
    let accepted = log.lines().filter(|line| line.starts_with("Accepted publickey for "));
    let mut used: Vec<_> = accepted.map(fingerprint).collect();
    used.sort();
    used.dedup();
    assert_eq!(used.len(), 2, "{log}");
}

/// What waits on a connection is answered, and the session is dialled again, in time.
async fn is_noticed(session: &Session, silence: impl AsyncFnOnce()) {
    let connection = connection_of(session).await;
    let mut stream = connection.open_readings("exec cat").await.unwrap();
    reading(&mut stream).await;
    let (tap, mut said) = tokio::sync::mpsc::channel(1);
    let waiting = {
        let connection = connection.clone();
        let request = ExecRequest::new("echo begun; exec sleep 1000").timeout(PATIENCE * 2).tap(tap);
        tokio::spawn(async move { connection.exec(request).await })
    };
    in_time("the command begins", said.recv()).await.unwrap();
    silence().await;
    let silent = Instant::now();
    let error = in_time("the command", waiting).await.unwrap().unwrap_err();
    assert!(matches!(&error, SshError::Closed { .. }), "{error:?}");
    assert!(in_time("the stream", stream.read_u8()).await.is_err());
    assert!(connection.is_closed());
    let after = silent.elapsed();
    assert!(after <= NOTICED_WITHIN, "noticed after {after:?}");
}

#[tokio::test]
async fn a_stopped_server_process_is_noticed_and_what_waited_is_answered() {
    let sshd = Sshd::start().await;
    let session = session_to(sshd.target());
    is_noticed(&session, async || sshd.freeze_sessions()).await;
    run(&connection_of(&session).await, "true").await.unwrap();
    assert_eq!(session.logins(), 2);
    sshd.thaw();
}

#[tokio::test]
async fn a_link_that_drops_everything_is_noticed_and_what_waited_is_answered() {
    let link = Namespaces::in_a_row(1);
    let sshd = Sshd::in_namespace(link.name(0), &link.address(0)).await;
    let target = Target { host: link.address(0), ..sshd.target() };
    let session = session_to(target);
    is_noticed(&session, async || {
        let name = link.name(0);
        support::namespaces::ip(&format!("-n {name} link set {name}b down"));
    })
    .await;
    let name = link.name(0);
    support::namespaces::ip(&format!("-n {name} link set {name}b up"));
    let again = async {
        let mut state = session.state();
        loop {
            match session.connection().await {
                Ok(connection) => return connection,
                Err(_) => state.changed().await.unwrap(),
            }
        }
    };
    run(&in_time("it comes back", again).await, "true").await.unwrap();
    assert_eq!(session.logins(), 2);
}

#[tokio::test]
async fn a_series_of_commands_finds_each_next_channel_open_and_leaves_none_behind() {
    let sshd = Sshd::start_with("LogLevel DEBUG1").await;
    let connection = connection_to(&sshd.target()).await;
    for _ in 0..10 {
        run(&connection, "true").await.unwrap();
    }
    let said = |what: &str| sshd.log().matches(what).count();
    let opened = said("session_open: session ");
    assert_eq!(opened, 11, "one more than the commands, for the one that did not come");
    eventually("the one that nobody took is closed", || said("free: server-session") == opened).await;
    run(&connection, "true").await.unwrap();
    assert_eq!(said("session_open: session "), opened + 1, "one command is no series");
}

#[tokio::test]
async fn a_series_of_commands_is_no_harm_where_one_session_is_allowed() {
    let sshd = Sshd::start_with("MaxSessions 1").await;
    let connection = connection_to(&sshd.target()).await;
    for _ in 0..10 {
        run(&connection, "true").await.unwrap();
    }
    assert_eq!(sshd.logins(), 1);
}

#[tokio::test]
async fn a_channel_opened_ahead_serves_whatever_comes_first() {
    let sshd = Sshd::start_with("MaxSessions 2").await;
    let connection = connection_to(&sshd.target()).await;
    for _ in 0..3 {
        run(&connection, "true").await.unwrap();
    }
    let mut stream = connection.open_readings("exec cat").await.unwrap();
    reading(&mut stream).await;
    run(&connection, "true").await.unwrap();
    reading(&mut stream).await;
    assert_eq!((connection.channels_allowed(), sshd.logins()), (MAX_CHANNELS, 1));
}
