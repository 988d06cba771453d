//! `roundsman exec` and `op` against real daemons.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use program::{Program, text};
use support::sshd::Sshd;

fn enrol(program: &Program, sshd: &Sshd, name: &str) {
    let key = program.file(&format!("key-{name}"), sshd.client_key().expose());
    let address = format!("root@127.0.0.1:{}", sshd.port());
    program.run(&["add", &address, "--name", name, "--identity", text(&key), "--accept-new"]).well();
}

#[tokio::test]
async fn one_server_answers_as_ssh_does_and_over_the_same_login() {
    let sshd = Sshd::start().await;
    let program = Program::served();
    enrol(&program, &sshd, "web-1");
    let done = program.run(&["exec", "web-1", "--", "echo out; echo err >&2; exit 7"]);
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (7, "out\n", "err\n"));
    assert_eq!(sshd.logins(), 1);
    let listed = program.run(&["op", "list", "--json"]).well().json();
    let id = listed.pointer("/0/id").unwrap().as_str().unwrap();
    let shown = program.run(&["op", "show", id]).well().stdout;
    assert!(shown.contains("web-1") && shown.contains("exit status 7"), "{shown}");
    program.run(&["exec", "nobody", "--", "true"]).refused(1, &["nobody"]);
}

#[tokio::test]
async fn equal_outputs_of_several_servers_are_shown_once() {
    let (first, second) = (Sshd::start().await, Sshd::start().await);
    let program = Program::served();
    enrol(&program, &first, "web-1");
    enrol(&program, &second, "web-2");
    let done = program.run(&["exec", "web-1", "web-2", "--", "echo same"]).well();
    assert_eq!(done.stdout.matches("same").count(), 1, "{}", done.stdout);
    assert!(done.stdout.contains("(2 servers)"), "{}", done.stdout);
    // Only the first listens on this port.
    let only_first = format!("echo \"${{SSH_CONNECTION##* }}\" | grep -q '^{}$'", first.port());
    let mixed = program.run(&["exec", "web-1", "web-2", "--", &only_first]);
    assert_eq!(mixed.code, 1, "one did and one did not: {}", mixed.stdout);
}
