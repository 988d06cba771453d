//! A server's session: one login while nothing breaks, and back by itself when something did.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use roundsman::model::Layer;
use roundsman::ssh::{
    Connection, ExecRequest, HostKey, Identity, Session, SessionState, SshError, Target, keys,
};
use support::sshd::Sshd;
use support::{eventually, in_time};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

fn session_to(target: Target) -> Session {
    Session::start(target, Arc::new(Semaphore::new(64)), CancellationToken::new())
}

async fn connection_of(session: &Session) -> Connection {
    in_time("a connection", session.connection()).await.unwrap()
}

async fn until(session: &Session, what: &str, wanted: impl FnMut(&SessionState) -> bool) -> SessionState {
    let mut state = session.state();
    in_time(what, state.wait_for(wanted)).await.unwrap().clone()
}

async fn works(connection: &Connection) -> bool {
    matches!(in_time("a command", connection.exec(ExecRequest::new("true"))).await, Ok(output) if output.success())
}

#[tokio::test]
async fn many_commands_are_one_login() {
    let sshd = Sshd::start().await;
    let session = session_to(sshd.target());
    for _ in 0..30 {
        assert!(works(&connection_of(&session).await).await);
    }
    assert!(matches!(&*session.state().borrow(), SessionState::Ready { .. }));
    assert_eq!((session.logins(), sshd.logins()), (1, 1));
}

#[tokio::test]
async fn a_server_that_stops_is_noticed_and_found_again_without_a_touch() {
    let mut sshd = Sshd::start().await;
    let session = session_to(sshd.target());
    let connection = connection_of(&session).await;
    sshd.stop();
    in_time("the end", connection.closed()).await;
    let state = until(&session, "backoff", |state| matches!(state, SessionState::Backoff { .. })).await;
    let SessionState::Backoff { error, .. } = state else { unreachable!() };
    assert_eq!(error.layer(), Some(Layer::Tcp), "{error}");
    // During the wait the last error comes at once; an attempt that runs takes a moment on loopback.
    let asked = Instant::now();
    session.connection().await.unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(5));
    sshd.restart().await;
    until(&session, "ready again", |state| matches!(state, SessionState::Ready { .. })).await;
    assert!(works(&connection_of(&session).await).await);
    assert_eq!((session.logins(), sshd.logins()), (2, 2));
}

#[tokio::test]
async fn killed_sessions_are_opened_again_at_once() {
    let sshd = Sshd::start().await;
    let session = session_to(sshd.target());
    let connection = connection_of(&session).await;
    let lost = Instant::now();
    sshd.kill_sessions();
    in_time("the end", connection.closed()).await;
    assert!(works(&connection_of(&session).await).await);
    assert!(lost.elapsed() < Duration::from_secs(10));
    assert_eq!(session.logins(), 2);
}

#[tokio::test]
async fn a_frozen_connection_is_left_by_a_restart() {
    let sshd = Sshd::start().await;
    let session = session_to(sshd.target());
    let connection = connection_of(&session).await;
    sshd.freeze_sessions();
    let hanging = connection.exec(ExecRequest::new("true"));
    let restart = async {
        session.restart("two readings were missed").await;
        until(&session, "another login", |_| session.logins() == 2).await
    };
    let (hung, _) = in_time("the restart", async { tokio::join!(hanging, restart) }).await;
    assert!(matches!(hung, Err(SshError::Closed { .. })), "{hung:?}");
    assert!(connection.is_closed());
    assert!(works(&connection_of(&session).await).await);
}

#[tokio::test]
async fn a_frozen_server_is_noticed_without_anybody_asking() {
    let sshd = Sshd::start().await;
    let session = session_to(sshd.target());
    let connection = connection_of(&session).await;
    sshd.freeze();
    // Keepalives every 10 s, two of which may stay unanswered.
    in_time("the end", connection.closed()).await;
    sshd.thaw();
    until(&session, "ready again", |state| matches!(state, SessionState::Ready { .. })).await;
    assert!(works(&connection_of(&session).await).await);
}

#[tokio::test]
async fn a_connection_that_never_lasts_is_not_dialled_in_a_loop() {
    let sshd = Sshd::start().await;
    let session = session_to(sshd.target());
    for logins in 1..=2 {
        let connection = connection_of(&session).await;
        assert_eq!(session.logins(), logins);
        sshd.kill_sessions();
        in_time("the end", connection.closed()).await;
    }
    let state = until(&session, "backoff", |state| matches!(state, SessionState::Backoff { .. })).await;
    let SessionState::Backoff { error, .. } = state else { unreachable!() };
    assert!(matches!(&*error, SshError::Closed { .. }), "{error:?}");
    assert!(
        works(
            &in_time("it comes back", async {
                loop {
                    if let Ok(connection) = session.connection().await {
                        return connection;
                    }
                    until(&session, "the next attempt", |state| {
                        !matches!(state, SessionState::Backoff { .. })
                    })
                    .await;
                }
            })
            .await
        )
        .await
    );
}

#[tokio::test]
async fn a_changed_host_key_waits_for_a_person_and_retargeting_dials_at_once() {
    let sshd = Sshd::start().await;
    let other = HostKey::parse(&keys::generate_ed25519("other").unwrap().1).unwrap();
    let session = session_to(Target { pinned: Some(other), ..sshd.target() });
    let error = in_time("an error", session.connection()).await.unwrap_err();
    assert!(matches!(&error, SshError::HostKeyChanged { .. }), "{error:?}");
    let state = until(&session, "refused", |state| matches!(state, SessionState::Refused { .. })).await;
    let SessionState::Refused { retry_in, .. } = state else { unreachable!() };
    assert!(retry_in >= Duration::from_mins(4));
    assert_eq!(sshd.login_attempts(), 0);
    session.retarget(sshd.target()).await;
    until(&session, "ready", |state| matches!(state, SessionState::Ready { .. })).await;
    assert!(works(&connection_of(&session).await).await);
}

#[tokio::test]
async fn a_refused_login_is_not_repeated() {
    let sshd = Sshd::start().await;
    let (wrong, _) = keys::generate_ed25519("wrong").unwrap();
    let session = session_to(Target { identity: Identity::Key(wrong), ..sshd.target() });
    for _ in 0..5 {
        let error = in_time("an error", session.connection()).await.unwrap_err();
        assert!(matches!(&error, SshError::AuthRefused { .. }), "{error:?}");
    }
    assert_eq!(sshd.log().matches("Connection from").count(), 1, "{}", sshd.log());
    assert_eq!(session.logins(), 0);
}

#[tokio::test]
async fn the_gate_limits_who_logs_in_and_not_who_knocks() {
    let sshd = Sshd::start().await;
    let gate = Arc::new(Semaphore::new(1));
    let held = Arc::clone(&gate).acquire_owned().await.unwrap();
    let sessions: Vec<_> =
        (0..5).map(|_| Session::start(sshd.target(), Arc::clone(&gate), CancellationToken::new())).collect();
    eventually("all are at the door", || sshd.log().matches("Connection from").count() == 5).await;
    for session in &sessions {
        until(session, "the banner", |state| {
            matches!(state, SessionState::Connecting { layer: Layer::Banner })
        })
        .await;
    }
    assert_eq!(sshd.login_attempts(), 0);
    drop(held);
    for session in &sessions {
        connection_of(session).await;
    }
    assert_eq!(sshd.logins(), 5);
}

#[tokio::test]
async fn cancelling_the_token_says_goodbye_to_the_server() {
    let sshd = Sshd::start().await;
    let token = CancellationToken::new();
    let session = Session::start(sshd.target(), Arc::new(Semaphore::new(1)), token.clone());
    let connection = connection_of(&session).await;
    assert!(works(&connection).await);
    token.cancel();
    in_time("the end", session.ended()).await;
    assert!(connection.is_closed());
    assert!(matches!(&*session.state().borrow(), SessionState::Ended));
    assert!(in_time("an error", session.connection()).await.is_err());
    sshd.wait_for_log("Received disconnect from").await;
}

#[tokio::test]
async fn a_session_without_handles_closes_its_connection() {
    let sshd = Sshd::start().await;
    let session = session_to(sshd.target());
    connection_of(&session).await;
    drop(session);
    eventually("the session is gone", || sshd.session_processes() == 0).await;
}
