//! `roundsman exec` without a Roundsman: straight to real daemons, with keys and known_hosts of its user.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::process::{Child, Command, Stdio};

use program::{Done, Program, text};
use support::sshd::Sshd;

/// A user whose key both daemons take, and whose known_hosts has both.
struct User {
    program: Program,
    first: Sshd,
    second: Sshd,
}

impl User {
    async fn known() -> Self {
        let user = Self::unknown().await;
        let lines: String =
            [&user.first, &user.second].map(|sshd| format!("{} {}\n", name(sshd), sshd.host_key())).concat();
        user.program.file("home/.ssh/known_hosts", &lines);
        user
    }

    async fn unknown() -> Self {
        let (first, second) = (Sshd::start().await, Sshd::start().await);
        let program = Program::prepared();
        let key = program.file("key", first.client_key().expose());
        let line = Command::new("ssh-keygen").args(["-y", "-f", text(&key)]).output().unwrap().stdout;
        second.authorize(String::from_utf8(line).unwrap().trim());
        Self { program, first, second }
    }

    fn hosts(&self) -> String {
        [&self.first, &self.second].map(|sshd| format!("root@127.0.0.1:{}", sshd.port())).join(",")
    }

    fn key(&self) -> String {
        self.program.path("key").display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.program.bare(arguments).output().unwrap())
    }
}

/// As known_hosts calls it.
fn name(sshd: &Sshd) -> String {
    format!("[127.0.0.1]:{}", sshd.port())
}

#[tokio::test]
async fn hosts_answer_without_a_roundsman_and_equal_answers_are_one() {
    let user = User::known().await;
    let (hosts, key) = (user.hosts(), user.key());
    let said = user.run(&["exec", "--hosts", &hosts, "-i", &key, "--", "echo same"]).well();
    let expected = format!("── {} (2 servers): exit status 0\nsame\n", hosts.replace(',', ", "));
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), (expected.as_str(), ""));
    let one = hosts.split(',').next().unwrap();
    let words = ["exec", "--hosts", one, "-i", &key, "--", "echo out; echo err >&2; exit 7"];
    let done = user.run(&words);
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (7, "out\n", "err\n"));
    let json = user.run(&["--json", "exec", "--hosts", &hosts, "-i", &key, "--", "exit 3"]);
    assert_eq!(json.code, 2, "none succeeded");
    assert_eq!(json.json().pointer("/results/1/exit_status").unwrap(), 3);
    assert_eq!(json.json().pointer("/cluster_summary").unwrap(), "2 identical");
    assert!(!user.program.data().exists() && !user.program.path("run").exists(), "nothing is kept");
}

#[tokio::test]
async fn an_unknown_host_key_is_refused_and_taken_only_when_that_is_asked_for() {
    let user = User::unknown().await;
    let (hosts, key) = (user.hosts(), user.key());
    let to_all = |more: &[&str]| {
        user.run(&[&["exec", "--hosts", &hosts, "-i", &key], more, &["--", "echo same"]].concat())
    };
    let refused = to_all(&[]);
    assert_eq!(refused.code, 2, "{}", refused.stdout);
    assert!(refused.stdout.contains("--accept-new"), "{}", refused.stdout);
    assert!(refused.stdout.contains(&user.first.host_key().fingerprint()), "{}", refused.stdout);
    assert_eq!(user.first.login_attempts(), 0, "nothing is offered to a host that is not known");
    to_all(&["--accept-new"]).well();
    to_all(&[]).well();
    let kept = std::fs::read_to_string(user.program.path("home/.ssh/known_hosts")).unwrap();
    assert!(kept.contains(&format!("{} {}", name(&user.first), user.first.host_key())), "{kept}");
    let (attempts, swapped) = (user.first.login_attempts(), user.second.host_key());
    let wrong = user.program.file("wrong", &format!("{} {swapped}\n", name(&user.first)));
    let changed = to_all(&["--known-hosts", text(&wrong), "--accept-new"]);
    assert_eq!(changed.code, 1, "the other one is new: {}", changed.stdout);
    assert!(changed.stdout.contains("has changed"), "{}", changed.stdout);
    assert_eq!(user.first.login_attempts(), attempts);
    let revoked = user.program.file("revoked", &format!("@revoked * {}\n", user.first.host_key()));
    let revoked = to_all(&["--known-hosts", text(&revoked), "--accept-new"]).stdout;
    assert!(revoked.contains("revoked"), "{revoked}");
}

#[tokio::test]
async fn names_of_an_ssh_config_are_hosts_with_their_keys_and_jump_hosts() {
    let user = User::known().await;
    let host = |name: &str, sshd: &Sshd| {
        format!("Host {name}\n  HostName 127.0.0.1\n  Port {}\n  User root\n", sshd.port())
    };
    let config = format!(
        "{}  IdentityFile {}\n{}  IdentityFile {1}\n  ProxyJump gate\nHost odd\n  ProxyCommand ./own\n",
        host("gate", &user.first),
        user.key(),
        host("inner-1 inner-2", &user.second),
    );
    let config = user.program.file("config", &config);
    let run = |words: &[&str]| user.run(&[&["exec", "--ssh-config", text(&config)], words].concat());
    let said = run(&["inner-?", "--", "echo \"${SSH_CONNECTION##* }\""]).well().stdout;
    assert_eq!(said, format!("── inner-1, inner-2 (2 servers): exit status 0\n{}\n", user.second.port()));
    assert_eq!(user.first.logins(), 1, "both go over one connection with the jump host");
    let planned = run(&["--all", "--dry-run", "--", "id"]).well().stdout;
    let by = format!("root@127.0.0.1:{} by root@127.0.0.1:{}", user.second.port(), user.first.port());
    assert!(planned.contains("gate") && planned.contains(&by) && !planned.contains("odd"), "{planned}");
    run(&["odd", "--", "id"]).refused(2, &["odd", "ProxyCommand"]);
    run(&["nobody-*", "--", "id"]).refused(2, &["nobody-*"]);
    run(&["--", "id"]).refused(2, &["--hosts", "--all"]);
    let missing = user.run(&["exec", "--ssh-config", "inner-1", "--", "id"]);
    missing.refused(1, &["inner-1", "--hosts"]);
}

/// An ssh-agent with a socket of its own, gone with the test.
struct Agent {
    child: Child,
    socket: String,
}

impl Agent {
    async fn with(program: &Program, keys: &[&str]) -> Self {
        let socket = program.path("agent").display().to_string();
        let mut agent = Command::new("ssh-agent");
        agent.args(["-D", "-a", &socket]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = agent.spawn().unwrap();
        support::eventually("the agent", || std::path::Path::new(&socket).exists()).await;
        for key in keys {
            let mut add = Command::new("ssh-add");
            add.args(["-q", *key]).env("SSH_AUTH_SOCK", &socket).stderr(Stdio::null());
            assert!(add.status().unwrap().success(), "{key}");
        }
        Self { child, socket }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn keys_of_the_agent_are_offered_until_one_fits_and_named_keys_alone() {
    let user = User::known().await;
    let other = user.program.path("other");
    let mut make = Command::new("ssh-keygen");
    assert!(make.args(["-q", "-t", "ed25519", "-N", "", "-f", text(&other)]).status().unwrap().success());
    let agent = Agent::with(&user.program, &[text(&other), &user.key()]).await;
    let hosts = user.hosts();
    let run = |words: &[&str]| {
        let mut command = user.program.bare(&[&["exec", "--hosts", &hosts], words, &["--", "true"]].concat());
        Done::of(command.env("SSH_AUTH_SOCK", &agent.socket).output().unwrap())
    };
    run(&[]).well();
    let refused = run(&["-i", text(&other)]);
    assert_eq!(refused.code, 2, "{}", refused.stdout);
    assert!(refused.stdout.contains("refused the login"), "{}", refused.stdout);
    let without = user.run(&["exec", "--hosts", &hosts, "--", "true"]);
    assert_eq!(without.code, 2);
    assert!(without.stdout.contains("there is no key to offer"), "{}", without.stdout);
}

#[tokio::test]
async fn a_key_with_a_passphrase_and_a_key_that_ssh_finds_by_itself_are_used() {
    let user = User::known().await;
    let secret = user.program.file("home/.ssh/id_ed25519", user.first.client_key().expose());
    let hosts = user.hosts();
    user.run(&["exec", "--hosts", &hosts, "--", "true"]).well();
    let mut lock = Command::new("ssh-keygen");
    lock.args(["-q", "-p", "-N", "open sesame", "-f", text(&secret)]).stdout(Stdio::null());
    assert!(lock.status().unwrap().success());
    let locked = user.run(&["exec", "--hosts", &hosts, "--", "true"]);
    assert!(locked.stdout.contains("--passphrase-file"), "{}", locked.stdout);
    let passphrase = user.program.file("passphrase", "open sesame\n");
    user.run(&["exec", "--hosts", &hosts, "--passphrase-file", text(&passphrase), "--", "true"]).well();
}

#[tokio::test]
async fn batches_stop_where_too_many_failed_and_dead_hosts_are_told_apart() {
    let user = User::known().await;
    let (hosts, key) = (user.hosts(), user.key());
    let all = format!("root@127.0.0.1:{},{hosts}", support::sshd::free_port());
    let words = ["exec", "--hosts", &all, "-i", &key, "--batch", "1", "--max-failures", "1"];
    let done = user.run(&[&words[..], &["--no-fold", "--", "echo ran"]].concat());
    assert_eq!(done.code, 2, "{}", done.stdout);
    assert!(done.stdout.contains("unreachable:") && !done.stdout.contains("ran\n"), "{}", done.stdout);
    assert!(done.stderr.contains("Nothing more was sent"), "{}", done.stderr);
    assert_eq!(user.first.login_attempts(), 0);
    let done = user.run(&["exec", "--hosts", &all, "-i", &key, "--", "echo ran"]);
    assert_eq!(done.code, 1, "{}", done.stdout);
    assert!(done.stderr.contains("2 identical, 1 unreachable"), "{}", done.stderr);
}

#[tokio::test]
async fn environment_input_and_limits_work_without_a_roundsman() {
    let user = User::known().await;
    let (hosts, key) = (user.hosts(), user.key());
    let one = hosts.split(',').next().unwrap();
    let words =
        ["exec", "--hosts", one, "-i", &key, "--env", "A=a b", "--secret-env", "TOKEN", "--stdin", "--"];
    let mut command = user.program.bare(&[&words[..], &["echo \"$A $TOKEN\"; cat"]].concat());
    let mut child = command.env("TOKEN", "hush").stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"input\n").unwrap();
    assert_eq!(Done::of(child.wait_with_output().unwrap()).well().stdout, "a b hush\ninput\n");
    let late =
        user.run(&["exec", "--hosts", one, "-i", &key, "--timeout", "1s", "--", "echo begun; sleep 60"]);
    assert_eq!((late.code, late.stdout.as_str()), (255, "begun\n"));
    assert!(late.stderr.contains("did not end within 1 s"), "{}", late.stderr);
    let hostile = user.run(&["exec", "--hosts", one, "-i", &key, "--", r"printf 'a\033[2Jb\n\033]0;x'"]);
    assert_eq!(hostile.stdout, "ab\n");
    let endless = user.run(&["exec", "--hosts", &hosts, "-i", &key, "--", "yes | head -c 3000000"]).well();
    assert!(endless.stdout.len() < 1_100_000, "{}", endless.stdout.len());
    assert!(endless.stdout.ends_with("(1951424 more bytes of stdout were not kept)\n"));
}

#[tokio::test]
async fn what_needs_a_roundsman_is_refused_without_one() {
    let user = User::known().await;
    for words in [&["--detach"][..], &["--tag", "web"], &["--queue"], &["--health-gate", "1m"]] {
        let all = [&["exec", "--hosts", "web-1"], words, &["--", "true"]].concat();
        user.run(&all).refused(2, &["--hosts"]);
    }
    user.run(&["exec", "--hosts", "web-1:0", "--", "true"]).refused(2, &["port"]);
    user.run(&["exec", "web-1", "--accept-new", "--", "true"]).refused(2, &["--hosts"]);
}

#[tokio::test]
async fn a_terminal_shows_how_far_it_is_and_nothing_else_does() {
    let user = User::known().await;
    let (hosts, key) = (user.hosts(), user.key());
    // One ends at once, the other after the moment in which a short command needs no line.
    let sleeps = format!("[ \"${{SSH_CONNECTION##* }}\" = {} ] || sleep 3", user.first.port());
    let words = ["exec", "--hosts", &hosts, "-i", &key, "--", &sleeps];
    let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    let line = format!("{} {}", env!("CARGO_BIN_EXE_roundsman"), quoted.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.env("HOME", user.program.path("home")).env("TERM", "xterm").env_remove("SSH_AUTH_SOCK");
    let mut shown = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Kept open until the end: script hangs up the terminal when its own input ends.
    let keyboard = shown.stdin.take().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut shown.stdout.take().unwrap(), &mut said).unwrap();
    drop(keyboard);
    shown.wait().unwrap();
    assert!(said.contains("1 of 2 servers"), "{said}");
    assert!(said.contains("(2 servers): exit status 0"), "{said}");
    let quiet = user.run(&words).well();
    assert!(!quiet.stdout.contains("of 2 servers") && quiet.stderr.is_empty(), "{}", quiet.stderr);
}
