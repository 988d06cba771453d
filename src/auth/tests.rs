//! The doors, tried from outside: set-up, login, sessions, tokens.

use super::*;
use crate::clock::ManualClock;

struct Bench {
    _dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    auth: Auth,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let store = Store::open(&dir.path().join("roundsman.db")).unwrap();
    let auth = Auth::new(store, Arc::clone(&clock) as Arc<dyn Clock>);
    Bench { _dir: dir, clock, auth }
}

fn origin() -> Origin {
    Origin { address: Some([127, 0, 0, 1].into()), user_agent: "test".to_owned() }
}

fn password(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

#[tokio::test]
async fn the_setup_address_works_once() {
    let bench = bench();
    let secret = bench.auth.begin_setup().await.unwrap().unwrap();
    let done =
        bench.auth.complete_setup(secret.expose(), "admin", password("correct horse"), &origin()).await;
    let cookie = done.unwrap().cookie;
    let recognised = bench.auth.session(cookie.expose(), None).await.unwrap().unwrap();
    assert_eq!(recognised.caller.role, Role::Admin);
    let again =
        bench.auth.complete_setup(secret.expose(), "other", password("correct horse"), &origin()).await;
    assert!(matches!(again, Err(AuthError::SetupGone)));
    assert!(bench.auth.begin_setup().await.unwrap().is_none());
}

#[tokio::test]
async fn the_setup_address_ends_after_an_hour() {
    let bench = bench();
    let secret = bench.auth.begin_setup().await.unwrap().unwrap();
    bench.clock.advance(SETUP_VALID);
    let late = bench.auth.check_setup(secret.expose()).await;
    assert!(matches!(late, Err(AuthError::SetupExpired)));
}

#[tokio::test]
async fn a_poor_password_is_refused_and_the_setup_address_stays() {
    let bench = bench();
    let secret = bench.auth.begin_setup().await.unwrap().unwrap();
    let poor = bench.auth.complete_setup(secret.expose(), "admin", password("short"), &origin()).await;
    assert!(matches!(poor, Err(AuthError::Invalid(_))));
    assert!(bench.auth.check_setup(secret.expose()).await.is_ok());
}

#[tokio::test]
async fn guessing_is_throttled_and_recorded() {
    let bench = bench();
    assert!(bench.auth.create_first_admin(password("correct horse")).await.unwrap());
    for _ in 0..5 {
        let wrong = bench.auth.login("admin", password("wrong"), &origin()).await;
        assert!(matches!(wrong, Err(AuthError::WrongPassword)));
    }
    let shut = bench.auth.login("admin", password("correct horse"), &origin()).await;
    assert!(matches!(shut, Err(AuthError::Throttled { .. })));
    bench.clock.advance(Duration::from_secs(2));
    assert!(bench.auth.login("admin", password("correct horse"), &origin()).await.is_ok());
    let entries = bench.auth.audit(&Caller::roundsman(), 50, 0).await.unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.result == "refused").count(), 5);
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions() {
    let bench = bench();
    bench.auth.create_first_admin(password("correct horse")).await.unwrap();
    let first = bench.auth.login("admin", password("correct horse"), &origin()).await.unwrap();
    let second = bench.auth.login("admin", password("correct horse"), &origin()).await.unwrap();
    bench
        .auth
        .change_password(&first.caller, password("correct horse"), password("battery staple"))
        .await
        .unwrap();
    assert!(bench.auth.session(first.cookie.expose(), None).await.unwrap().is_some());
    assert!(bench.auth.session(second.cookie.expose(), None).await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_ends_when_it_is_not_used() {
    let bench = bench();
    bench.auth.create_first_admin(password("correct horse")).await.unwrap();
    let login = bench.auth.login("admin", password("correct horse"), &origin()).await.unwrap();
    bench.clock.advance(SESSION_IDLE + Duration::from_secs(1));
    assert!(bench.auth.session(login.cookie.expose(), None).await.unwrap().is_none());
}

#[tokio::test]
async fn a_token_opens_with_its_role_until_it_expires_or_is_revoked() {
    let bench = bench();
    let admin = Caller::roundsman();
    let expires = bench.clock.now() + Duration::from_secs(60);
    let (_, text) = bench.auth.create_token(&admin, "ci", Role::Operator, Some(expires)).await.unwrap();
    let Bearer::Caller(caller) = bench.auth.bearer(text.expose(), None).await.unwrap() else {
        panic!("a role makes a caller")
    };
    assert_eq!(caller.role, Role::Operator);
    bench.clock.advance(Duration::from_secs(60));
    assert!(matches!(bench.auth.bearer(text.expose(), None).await, Err(AuthError::Unauthenticated)));

    let (token, text) = bench.auth.create_token(&admin, "ci", Role::Viewer, None).await.unwrap();
    bench.auth.revoke_token(&admin, token.id).await.unwrap();
    assert!(matches!(bench.auth.bearer(text.expose(), None).await, Err(AuthError::Unauthenticated)));
    let forged = format!("{}x", text.expose());
    assert!(matches!(bench.auth.bearer(&forged, None).await, Err(AuthError::Unauthenticated)));
}

#[tokio::test]
async fn only_an_admin_makes_tokens() {
    let bench = bench();
    let operator = Caller { role: Role::Operator, ..Caller::roundsman() };
    let refused = bench.auth.create_token(&operator, "x", Role::Viewer, None).await;
    assert!(matches!(refused, Err(AuthError::Forbidden { needed: Role::Admin, .. })));
}
