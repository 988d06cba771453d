//! What no well-behaved daemon does: a scripted server in the test's own process.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use roundsman::model::{Layer, Port, Secret};
use roundsman::ssh::{Cause, Connection, ExecRequest, HostKey, Identity, SshError, Target, connect, keys};
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Response, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use support::in_time;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const PASSWORD: &str = "correct horse";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    /// Takes a password, but only by keyboard-interactive.
    Prompts,
    /// Asks for something that is not a password, and shows what is typed.
    AsksForSomethingElse,
    HangsUpAtLogin,
    WantsTwoMethods,
    OpensChannelsToUs,
    RefusesCommands,
    NeverAnswersOpenings,
    EndsWithoutStatus,
}

/// Tells the test what the server saw.
type Seen = mpsc::UnboundedSender<String>;

struct Scripted {
    script: Script,
    seen: Seen,
    /// Dropping one would answer it.
    unanswered: Vec<ChannelOpenHandle>,
}

impl Handler for Scripted {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        match self.script {
            Script::HangsUpAtLogin => Err(russh::Error::Disconnect),
            Script::WantsTwoMethods => {
                let left: &[MethodKind] = &[MethodKind::Password];
                Ok(Auth::Reject { proceed_with_methods: Some(left.into()), partial_success: true })
            }
            _ => Ok(Auth::Accept),
        }
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(answers) = response else {
            let prompt = (Cow::Borrowed("Password: "), self.script == Script::AsksForSomethingElse);
            let (name, instructions) = (Cow::Borrowed(""), Cow::Borrowed(""));
            return Ok(Auth::Partial { name, instructions, prompts: vec![prompt].into() });
        };
        let answers: Vec<_> = answers.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
        self.seen.send(format!("answers {answers:?}")).unwrap();
        Ok(if answers == [PASSWORD] { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        if self.script == Script::OpensChannelsToUs {
            let (handle, seen) = (session.handle(), self.seen.clone());
            tokio::spawn(async move {
                let forwarded = handle.channel_open_forwarded_tcpip("127.0.0.1", 22, "127.0.0.1", 1).await;
                let agent = handle.channel_open_agent().await;
                let _the_test_may_be_over = seen.send(format!("{} {}", forwarded.is_ok(), agent.is_ok()));
            });
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.script == Script::NeverAnswersOpenings {
            self.unanswered.push(reply);
        } else {
            reply.accept().await;
        }
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.script == Script::RefusesCommands {
            return session.channel_failure(channel);
        }
        session.channel_success(channel)?;
        if self.script == Script::EndsWithoutStatus {
            let output = std::process::Command::new("/bin/sh")
                .arg("-c")
                .arg(String::from_utf8_lossy(data).as_ref())
                .output();
            session.data(channel, output.unwrap().stdout)?;
            session.close(channel)?;
        }
        Ok(())
    }
}

struct Fake {
    target: Target,
    seen: mpsc::UnboundedReceiver<String>,
}

async fn fake(script: Script) -> Fake {
    let (host_private, host_line) = keys::generate_ed25519("host").unwrap();
    let methods: &[MethodKind] = match script {
        Script::Prompts | Script::AsksForSomethingElse => &[MethodKind::KeyboardInteractive],
        _ => &[MethodKind::PublicKey],
    };
    let config = Arc::new(russh::server::Config {
        keys: vec![russh::keys::decode_secret_key(host_private.expose(), None).unwrap()],
        methods: MethodSet::from(methods),
        auth_rejection_time: Duration::ZERO,
        ..russh::server::Config::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let scripted = Scripted { script, seen: sender.clone(), unanswered: Vec::new() };
            if let Ok(running) = russh::server::run_stream(Arc::clone(&config), socket, scripted).await {
                tokio::spawn(running);
            }
        }
    });
    let identity = match script {
        Script::Prompts | Script::AsksForSomethingElse => {
            Identity::Password(Secret::new(PASSWORD.to_owned()))
        }
        _ => Identity::Key(keys::generate_ed25519("client").unwrap().0),
    };
    let target = Target {
        pinned: Some(HostKey::parse(&host_line).unwrap()),
        connect_timeout: Duration::from_secs(30),
        ..Target::new("127.0.0.1", Port::of(i64::from(port)).unwrap(), "root", identity)
    };
    Fake { target, seen }
}

async fn dial(fake: &Fake) -> Result<Connection, SshError> {
    in_time("a connection or an error", connect(&fake.target, &mut |_| {})).await
}

#[tokio::test]
async fn a_password_goes_through_keyboard_interactive_where_there_is_nothing_else() {
    let mut fake = fake(Script::Prompts).await;
    dial(&fake).await.unwrap();
    assert_eq!(fake.seen.recv().await.unwrap(), format!("answers [{PASSWORD:?}]"));
}

#[tokio::test]
async fn a_prompt_that_shows_what_is_typed_gets_no_password() {
    let mut fake = fake(Script::AsksForSomethingElse).await;
    let error = dial(&fake).await.unwrap_err();
    assert!(matches!(&error, SshError::AuthRefused { .. }), "{error:?}");
    assert!(fake.seen.try_recv().is_err());
}

#[tokio::test]
async fn a_connection_that_dies_during_login_is_not_a_refusal() {
    let error = dial(&fake(Script::HangsUpAtLogin).await).await.unwrap_err();
    let SshError::Unreachable { layer: Layer::Authentication, cause, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(cause, Cause::HungUp { .. } | Cause::Broken { .. }));
    assert!(!error.needs_a_person());
}

#[tokio::test]
async fn a_server_that_wants_a_second_method_says_which() {
    let error = dial(&fake(Script::WantsTwoMethods).await).await.unwrap_err();
    let SshError::AuthRefused { offered, accepts, .. } = &error else { panic!("{error:?}") };
    assert!(offered.ends_with(" alone"), "{offered}");
    assert_eq!(*accepts, ["password"]);
}

#[tokio::test]
async fn channels_that_a_server_opens_are_refused() {
    let mut fake = fake(Script::OpensChannelsToUs).await;
    let connection = dial(&fake).await.unwrap();
    assert_eq!(in_time("the answers", fake.seen.recv()).await.unwrap(), "false false");
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn a_server_that_refuses_commands_has_no_shell() {
    let connection = dial(&fake(Script::RefusesCommands).await).await.unwrap();
    let error = in_time("an error", connection.exec(ExecRequest::new("true"))).await.unwrap_err();
    assert!(matches!(&error, SshError::NoShell { .. }), "{error:?}");
    let error = in_time("an error", connection.open("cat")).await.unwrap_err();
    assert!(matches!(&error, SshError::NoShell { .. }), "{error:?}");
}

#[tokio::test]
async fn an_opening_that_is_never_answered_ends_in_time() {
    let connection = dial(&fake(Script::NeverAnswersOpenings).await).await.unwrap();
    let error = in_time("an error", connection.exec(ExecRequest::new("true"))).await.unwrap_err();
    assert!(matches!(&error, SshError::TimedOut { layer: Layer::Channel, .. }), "{error:?}");
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn a_command_without_an_exit_status_is_an_output_without_one() {
    let connection = dial(&fake(Script::EndsWithoutStatus).await).await.unwrap();
    let output = in_time("a command", connection.exec(ExecRequest::new("echo hello"))).await.unwrap();
    assert_eq!((output.stdout.as_slice(), output.exit_status), (&b"hello\n"[..], None));
    assert!(!output.success());
}
