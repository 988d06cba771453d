//! Commands as another user, with secrets and in containers: what they get, and what nobody else sees.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use roundsman::model::Secret;
use roundsman::ssh::{
    Connection, ContainerExec, Engine, ExecRequest, Output, SshError, Sudo, Target, connect,
};
use support::sshd::{PASSWORD, Sshd};
use support::{eventually, in_time, processes};

/// As 'deploy', with a password.
async fn log_in(sshd: &Sshd) -> Connection {
    let target = Target { user: "deploy".to_owned(), ..sshd.password_target(PASSWORD) };
    in_time("a connection", connect(&target, &mut |_| {})).await.unwrap()
}

async fn log_in_as_root(sshd: &Sshd) -> Connection {
    in_time("a connection", connect(&sshd.target(), &mut |_| {})).await.unwrap()
}

fn sudo() -> Sudo {
    Sudo::Password(Secret::new(PASSWORD.to_owned()))
}

async fn exec(connection: &Connection, request: ExecRequest) -> Result<Output, SshError> {
    in_time("a command", connection.exec(request.timeout(Duration::from_secs(50)))).await
}

/// Whether the text stands in one of these files of /proc of any process of a daemon.
fn is_seen(sshd: &Sshd, text: &str, files: &[&str]) -> bool {
    let pids = sshd.session_pids();
    assert!(!pids.is_empty());
    pids.iter().any(|pid| {
        files.iter().any(|file| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            memchr::memmem::find(&bytes, text.as_bytes()).is_some()
        })
    })
}

fn waits_for(gate: &Path) -> String {
    format!("echo begun >{0}.begun; until [ -e {0} ]; do sleep 0.05; done", gate.display())
}

#[tokio::test]
async fn a_password_for_sudo_is_in_no_process_list_and_the_commands_input_follows_it() {
    let sshd = Sshd::with_sudo("ALL=(ALL) ALL").await;
    let connection = log_in(&sshd).await;
    let gate = sshd.path("gate");
    let command = format!("id -un; {}; cat", waits_for(&gate));
    let request = ExecRequest::new(command).sudo(sudo()).stdin("for the command\n");
    let looking = async {
        eventually("it runs", || gate.with_extension("begun").exists()).await;
        let seen = is_seen(&sshd, PASSWORD, &["cmdline", "environ"]);
        fs::write(&gate, "").unwrap();
        seen
    };
    let (output, seen) = tokio::join!(exec(&connection, request), looking);
    let output = output.unwrap();
    assert_eq!(output.stdout_text(), "root\nfor the command\n", "{output:?}");
    assert_eq!((output.exit_status, output.stderr_text().as_str()), (Some(0), ""));
    assert!(!seen, "the password was in a process list");
}

#[tokio::test]
async fn a_wrong_password_for_sudo_is_told_and_nothing_runs() {
    let sshd = Sshd::with_sudo("ALL=(ALL) ALL").await;
    let connection = log_in(&sshd).await;
    let wrong = Sudo::Password(Secret::new("not the password".to_owned()));
    let error = exec(&connection, ExecRequest::new("echo ran").sudo(wrong)).await.unwrap_err();
    assert!(matches!(&error, SshError::SudoRefused { wrong_password: true, .. }), "{error:?}");
    assert!(!format!("{error} {error:?} {}", error.advice()).contains("not the password"));
    let error = exec(&connection, ExecRequest::new("true").sudo(Sudo::NonInteractive)).await.unwrap_err();
    let SshError::SudoRefused { wrong_password: false, said, .. } = &error else { panic!("{error:?}") };
    assert!(said.contains("password is required"), "{said}");
    assert!(exec(&connection, ExecRequest::new("true")).await.unwrap().success());
}

#[tokio::test]
async fn a_password_that_sudo_does_not_ask_for_never_reaches_the_command() {
    let sshd = Sshd::with_sudo("ALL=(ALL) NOPASSWD: ALL").await;
    let connection = log_in(&sshd).await;
    for sudo in [sudo(), Sudo::NonInteractive] {
        let request = ExecRequest::new("id -un; cat; exit 3").sudo(sudo).stdin("only this");
        let output = exec(&connection, request).await.unwrap();
        assert_eq!((output.stdout_text().as_str(), output.exit_status), ("root\nonly this", Some(3)));
    }
    let output = exec(&connection, ExecRequest::new("cat; id -un").sudo(sudo())).await.unwrap();
    assert_eq!(output.stdout_text(), "root\n");
}

#[tokio::test]
async fn a_command_under_sudo_that_ignores_term_is_gone_at_its_time_limit() {
    for (rule, sudo) in [
        ("ALL=(ALL) ALL", sudo()),
        ("ALL=(ALL) NOPASSWD: ALL", sudo()),
        ("ALL=(ALL) NOPASSWD: ALL", Sudo::NonInteractive),
    ] {
        let sshd = Sshd::with_sudo(rule).await;
        let connection = log_in(&sshd).await;
        let file = sshd.path("pid");
        let command = format!("trap '' TERM; echo $$ >{}; while :; do sleep 1000; done", file.display());
        let request = ExecRequest::new(command).sudo(sudo).timeout(Duration::from_secs(6));
        let error = in_time("the limit", connection.exec(request)).await.unwrap_err();
        assert!(matches!(&error, SshError::CommandTimedOut { .. }), "{error:?}");
        let pid: u32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        eventually("it is gone", || !processes::lives(pid)).await;
    }
}

#[tokio::test]
async fn root_runs_as_another_user_without_sudo_and_others_with_it() {
    let sshd = Sshd::with_sudo("ALL=(ALL) NOPASSWD: ALL").await;
    let as_root = log_in_as_root(&sshd).await;
    let request = ExecRequest::new("id -un; cat").run_as("deploy").stdin("it's");
    assert_eq!(exec(&as_root, request).await.unwrap().stdout_text(), "deploy\nit's");
    let as_user = log_in(&sshd).await;
    let output = exec(&as_user, ExecRequest::new("id -un").run_as("nobody")).await.unwrap();
    assert_eq!(output.stdout_text(), "nobody\n");
    let error = exec(&as_root, ExecRequest::new("id").run_as("no-such-user")).await.unwrap_err();
    assert!(matches!(&error, SshError::SudoRefused { .. }), "{error:?}");
    for user in ["-s", "a b", "", "x;id"] {
        let error = exec(&as_root, ExecRequest::new("id").run_as(user)).await.unwrap_err();
        assert!(matches!(&error, SshError::InvalidCommand { .. }), "{user}: {error:?}");
    }
}

#[tokio::test]
async fn environment_reaches_the_command_and_its_secrets_no_process_list() {
    for sshd in [Sshd::start().await, Sshd::dropbear().await] {
        let connection = log_in_as_root(&sshd).await;
        let gate = sshd.path("gate");
        let token = "tok\\en 'with' \"quotes\" $HOME\nsecond line\\n\n";
        let request = ExecRequest::new(format!(
            "{}; printf '<%s><%s><%s>' \"$PLAIN\" \"$TOKEN\" \"$OTHER\"; cat",
            waits_for(&gate)
        ))
        .env("PLAIN", "it's $(id)\n")
        .secret_env("TOKEN", Secret::new(token.to_owned()))
        .secret_env("OTHER", Secret::new("ü€ other".to_owned()))
        .stdin("input");
        let looking = async {
            eventually("it runs", || gate.with_extension("begun").exists()).await;
            let seen =
                is_seen(&sshd, "with' \"quotes", &["cmdline"]) || is_seen(&sshd, "€ other", &["cmdline"]);
            fs::write(&gate, "").unwrap();
            seen
        };
        let (output, seen) = tokio::join!(exec(&connection, request), looking);
        let expected = format!("<it's $(id)\n><{token}><ü€ other>input");
        assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), expected);
        assert!(!seen, "a secret was in a process list");
        for name in ["", "1A", "A-B", "A=B", "A;id"] {
            let error = exec(&connection, ExecRequest::new("true").env(name, "x")).await.unwrap_err();
            assert!(matches!(&error, SshError::InvalidCommand { .. }), "{name}");
        }
    }
}

#[tokio::test]
async fn a_command_in_a_container_gets_its_input_and_environment_and_is_ended_there() {
    let programs = tempfile::tempdir().unwrap();
    // Stands for an engine: what it runs is in a session of its own and survives the engine's client.
    let script = "#!/bin/sh\nif [ \"$3\" = -e ]; then export \"$4\"; shift 4; set -- exec -i \"$@\"; fi\n\
                  [ \"$1 $2 $3\" = 'exec -i web-1' ] || { echo \"no such container: $3\" >&2; exit 1; }\n\
                  shift 3\nexec 3<&0\nsetsid \"$@\" <&3 &\nwait\n";
    let engine = programs.path().join("docker");
    fs::write(&engine, script).unwrap();
    fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.path().display());
    let sshd = Sshd::start_with(&format!("SetEnv PATH={path}")).await;
    let connection = log_in_as_root(&sshd).await;
    let web_1 = ContainerExec { engine: Engine::Docker, container: "web-1".to_owned() };
    let inside = |command: &str| ExecRequest::new(command).container(web_1.clone());
    assert_eq!(inside("a 'b'").recorded_command().unwrap(), "docker exec -i web-1 /bin/sh -c \"a 'b'\"");
    let request = inside("printf '%s ' \"$A\" \"$B\"; cat").env("A", "a b").stdin("in");
    let request = request.secret_env("B", Secret::new("hidden".to_owned()));
    assert_eq!(exec(&connection, request).await.unwrap().stdout_text(), "a b hidden in");
    let file = sshd.path("pid");
    let command = format!("trap '' TERM; echo $$ >{}; while :; do sleep 1000; done", file.display());
    let error = in_time("the limit", connection.exec(inside(&command).timeout(Duration::from_secs(3)))).await;
    assert!(matches!(&error, Err(SshError::CommandTimedOut { .. })), "{error:?}");
    let pid: u32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    eventually("it is gone", || !processes::lives(pid)).await;
    let bad = ContainerExec { engine: Engine::Podman, container: "--privileged".to_owned() };
    let error = exec(&connection, ExecRequest::new("id").container(bad)).await.unwrap_err();
    assert!(matches!(&error, SshError::InvalidCommand { .. }), "{error:?}");
}

#[tokio::test]
async fn children_that_left_the_process_group_are_ended_at_the_time_limit() {
    for sshd in [Sshd::start().await, Sshd::dropbear().await] {
        let connection = log_in_as_root(&sshd).await;
        let file = sshd.path("daemon");
        let command = format!(
            "setsid sh -c 'trap \"\" TERM HUP; echo $$ >{}; while :; do sleep 1000; done' >/dev/null 2>&1 & sleep 1000",
            file.display()
        );
        let request = ExecRequest::new(command).timeout(Duration::from_secs(3));
        let error = in_time("the limit", connection.exec(request)).await.unwrap_err();
        assert!(matches!(&error, SshError::CommandTimedOut { .. }), "{error:?}");
        let pid: u32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        eventually("it is gone", || !processes::lives(pid)).await;
    }
}
