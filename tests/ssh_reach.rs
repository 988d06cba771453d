//! Reach: jump hosts, proxies, IPv6; each hop is named when it is the trouble, and none holds up another.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use roundsman::ssh::{Connection, ExecRequest, JumpHost, Route, SshError, Target, connect};
use support::sshd::Sshd;
use support::{eventually, in_time};

async fn dial(target: &Target) -> Result<Connection, SshError> {
    in_time("a connection or an error", Box::pin(connect(target, &mut |_| {}))).await
}

async fn echo(connection: &Connection) -> String {
    let output = in_time("a command", connection.exec(ExecRequest::new("echo $SSH_CONNECTION"))).await;
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// A jump host that is dialled for each connection through it.
#[derive(Debug)]
struct Bastion {
    name: &'static str,
    target: Target,
}

impl JumpHost for Bastion {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn connection(&self) -> Pin<Box<dyn Future<Output = Result<Connection, SshError>> + Send + '_>> {
        Box::pin(async { connect(&self.target, &mut |_| {}).await })
    }
}

fn through(name: &'static str, jump: Target, target: Target) -> Target {
    Target { route: Route::Jump(Arc::new(Bastion { name, target: jump })), ..target }
}

#[tokio::test]
async fn a_server_is_reached_over_a_chain_of_jump_hosts() {
    let (first, second, last) = (Sshd::start().await, Sshd::dropbear().await, Sshd::start().await);
    let chain = through("second", through("first", first.target(), second.target()), last.target());
    let connection = dial(&chain).await.unwrap();
    assert!(echo(&connection).await.contains("127.0.0.1"));
    let big = in_time("a megabyte", connection.exec(ExecRequest::new("head -c 1000000 /dev/zero"))).await;
    assert_eq!(big.unwrap().stdout.len(), 1_000_000);
    assert_eq!([first.logins(), second.logins(), last.logins()], [1, 1, 1]);
    drop(connection);
    eventually("every session is gone", || {
        first.session_processes() + second.session_processes() + last.session_processes() == 0
    })
    .await;
}
