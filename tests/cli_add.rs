//! `roundsman add` against real daemons: what a person approves, brings and is told.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use program::{Program, text};
use support::sshd::{PASSWORD, Sshd};

fn address(sshd: &Sshd) -> String {
    format!("root@127.0.0.1:{}", sshd.port())
}

fn names(program: &Program) -> Vec<String> {
    let servers = program.run(&["list", "--json"]).well().json();
    let servers = servers.as_array().unwrap().iter();
    let ssh = servers.filter(|server| server.get("transport").unwrap() == "ssh");
    ssh.map(|server| server.get("name").unwrap().as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_server_is_added_with_a_key_file_and_one_login() {
    let sshd = Sshd::start().await;
    let program = Program::served();
    let key = program.file("home/.ssh/id_test", sshd.client_key().expose());
    let added = program
        .run(&[
            "add",
            &address(&sshd),
            "--name",
            "web-1",
            "--identity",
            text(&key),
            "--accept-new",
            "--tag",
            "web",
            "--tag",
            "eu",
            "--region",
            "home",
            "--environment",
            "staging",
            "--interval",
            "1s",
        ])
        .well();
    assert!(added.stdout.contains(&sshd.host_key().fingerprint()), "{}", added.stdout);
    assert_eq!(sshd.logins(), 1);
    let shown = program.run(&["show", "web-1", "--json"]).well().json();
    assert_eq!(shown.get("tags").unwrap(), &serde_json::json!(["eu", "web"]));
    assert_eq!(shown.get("interval_ms").unwrap(), 1000);
    let tagged = program.run(&["list", "--tag", "web", "--json"]).well().json();
    assert_eq!(tagged.as_array().unwrap().len(), 1);
    assert_eq!(program.run(&["list", "--tag", "db", "--json"]).well().json(), serde_json::json!([]));
    program.run(&["add", &address(&sshd), "--name", "web-1"]).refused(1, &["named 'web-1' already"]);
}

#[tokio::test]
async fn an_unknown_host_key_needs_approval_and_nothing_is_sent_before() {
    let sshd = Sshd::start().await;
    let program = Program::served();
    let key = program.file("id", sshd.client_key().expose());
    let arguments = ["add", &address(&sshd), "--name", "web-1", "--identity", text(&key)];
    program.run(&arguments).refused(1, &[&sshd.host_key().fingerprint(), "--accept-new"]);
    assert_eq!(sshd.login_attempts(), 0);
    assert_eq!(names(&program), [""; 0]);
    let said = program.at_terminal(&arguments, "no\n");
    assert!(said.contains("nothing was added"), "{said}");
    assert_eq!(names(&program), [""; 0]);
    let said = program.at_terminal(&arguments, "yes\n");
    assert!(said.contains(&sshd.host_key().fingerprint()) && said.contains("Added web-1"), "{said}");
    assert_eq!(names(&program), ["web-1"]);
    assert_eq!(sshd.logins(), 1);
}

#[tokio::test]
async fn a_password_is_used_once_to_install_the_key() {
    let sshd = Sshd::with_password("").await;
    let program = Program::served();
    let file = program.file("password", &format!("{PASSWORD}\n"));
    let wrong = program.file("wrong", "not it\n");
    program
        .run(&["add", &address(&sshd), "--password-file", text(&wrong), "--accept-new"])
        .refused(1, &["password"]);
    assert_eq!(names(&program), [""; 0]);
    program
        .run(&["add", &address(&sshd), "--name", "db", "--password-file", text(&file), "--accept-new"])
        .well();
    let keys = std::fs::read_to_string(sshd.home().join(".ssh/authorized_keys")).unwrap();
    assert!(keys.contains("roundsman"), "{keys}");
    let stored = std::fs::read(program.data().join("roundsman.db")).unwrap();
    assert!(!stored.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes()));
}

#[tokio::test]
async fn a_server_behind_another_with_a_kept_password_and_another_user_for_actions() {
    let (outer, inner) = (Sshd::start().await, Sshd::with_password("").await);
    let program = Program::served();
    let key = program.file("id", outer.client_key().expose());
    program
        .run(&["add", &address(&outer), "--name", "bastion", "--identity", text(&key), "--accept-new"])
        .well();
    let file = program.file("password", &format!("{PASSWORD}\n"));
    inner.authorize(&roundsman::ssh::keys::public_line(outer.client_key(), None).unwrap());
    let (at, kept) = (address(&inner), program.run(&["show", "bastion", "--json"]).well().json());
    let kept = kept.get("identity").unwrap().as_str().unwrap().to_owned();
    let mut arguments = vec!["add", at.as_str(), "--name", "inner", "--accept-new", "--jump", "bastion"];
    arguments.extend(["--password-file", text(&file), "--keep-password", "--connect-timeout", "20s"]);
    arguments.extend(["--action-user", "root", "--action-key", kept.as_str()]);
    program.run(&arguments).well();
    let shown = program.run(&["show", "inner"]).well().stdout;
    for line in
        ["Jump host      bastion", "Logs in with   a kept password", "Acts as        root, the kept key"]
    {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let json = program.run(&["show", "inner", "--json"]).well().stdout;
    assert!(json.contains("\"connect_timeout_ms\": 20000") && !json.contains(PASSWORD), "{json}");
    assert!(
        !std::fs::read_to_string(inner.home().join(".ssh/authorized_keys")).unwrap().contains("roundsman")
    );
    program.run(&["remove", "bastion", "--yes"]).refused(1, &["jump host of inner"]);

    let visible = ["add", at.as_str(), "--proxy", "socks5://me:hunter2@127.0.0.1:1080"];
    let refused = program.run(&visible).refused(2, &["--ask-proxy-password"]);
    assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
    program.run(&["add", &at, "--jump", "nobody"]).refused(1, &["enrol the jump host first"]);
    program.run(&["add", &at, "--keep-password"]).refused(2, &["--ask-password"]);
}

#[tokio::test]
async fn a_protected_key_needs_its_passphrase() {
    let sshd = Sshd::start().await;
    let program = Program::served();
    let key = program.file("id", sshd.client_key().expose());
    let changed = std::process::Command::new("ssh-keygen")
        .args(["-q", "-p", "-P", "", "-N", "open sesame", "-f", text(&key)])
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(changed.success());
    let passphrase = program.file("passphrase", "open sesame\n");
    let wrong = program.file("wrong", "open barley\n");
    let add = |more: &[&str]| {
        let mut arguments = vec!["add", "--name", "web-1", "--identity", text(&key), "--accept-new"];
        let address = address(&sshd);
        arguments.push(&address);
        arguments.extend(more);
        program.run(&arguments)
    };
    add(&[]).refused(1, &["passphrase", "--passphrase-file"]);
    add(&["--passphrase-file", text(&wrong)]).refused(1, &["passphrase"]);
    add(&["--passphrase-file", text(&passphrase)]).well();
}

#[tokio::test]
async fn what_goes_wrong_is_said_with_the_stage_and_the_fix() {
    let sshd = Sshd::start().await;
    let program = Program::served();
    let other = Sshd::start().await;
    let wrong_key = program.file("id", other.client_key().expose());
    let done = program
        .run(&["add", &address(&sshd), "--identity", text(&wrong_key), "--accept-new"])
        .refused(1, &["authorized_keys"]);
    assert!(
        done.stderr.contains("✓ host key") && done.stderr.contains("✗ authentication"),
        "{}",
        done.stderr
    );
    let free = support::sshd::free_port();
    program.run(&["add", &format!("root@127.0.0.1:{free}")]).refused(1, &["✗ tcp", "refused"]);
    program.run(&["add", "root@no-such-host.invalid"]).refused(1, &["✗ name"]);
    program.run(&["add", "root@"]).refused(2, &["user@host"]);
    program.run(&["add", &address(&sshd), "--identity", "/nowhere/id"]).refused(1, &["/nowhere/id"]);
    assert_eq!(names(&program), [""; 0]);
}

#[tokio::test]
async fn a_stopped_server_is_unreachable_in_list_and_doctor() {
    let mut sshd = Sshd::start().await;
    let program = Program::served();
    let key = program.file("id", sshd.client_key().expose());
    program
        .run(&[
            "add",
            &address(&sshd),
            "--name",
            "web-1",
            "--identity",
            text(&key),
            "--accept-new",
            "--interval",
            "1s",
        ])
        .well();
    sshd.stop();
    let unreachable =
        || program.run(&["list", "--health", "unreachable", "--json"]).well().stdout.contains("web-1");
    support::eventually("web-1 is unreachable", unreachable).await;
    let done = program.run(&["doctor"]).refused(1, &["problem"]);
    assert!(done.stdout.contains("web-1 is unreachable"), "{}", done.stdout);
}
