//! Commands and streams over a real connection: exit, output, limits, and that none of them holds up another.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::Duration;

use roundsman::ssh::stream::MAX_BUFFERED_BYTES;
use roundsman::ssh::{Connection, ExecRequest, Output, SshError, connect};
use support::sshd::Sshd;
use support::{eventually, in_time, processes};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

async fn connection_to(sshd: &Sshd) -> Connection {
    in_time("a connection", connect(&sshd.target(), &mut |_| {})).await.unwrap()
}

async fn exec(connection: &Connection, request: ExecRequest) -> Result<Output, SshError> {
    in_time("a command", connection.exec(request)).await
}

async fn run(connection: &Connection, command: &str) -> Output {
    exec(connection, ExecRequest::new(command)).await.unwrap()
}

/// The process id that a command wrote into a file.
async fn pid_in(path: &std::path::Path) -> u32 {
    eventually("the command runs", || std::fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n')))
        .await;
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn exit_status_signal_and_both_outputs_come_apart() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let output = run(&connection, "echo out; echo err >&2; exit 3").await;
    assert_eq!((output.exit_status, output.signal.as_deref()), (Some(3), None));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert!(!output.success() && output.wall > Duration::ZERO);
    let output = run(&connection, "kill -KILL $$").await;
    assert_eq!((output.exit_status, output.signal.as_deref()), (None, Some("KILL")));
    let output = run(&connection, "echo (").await;
    assert!(!output.success() && !output.stderr.is_empty());
}

#[tokio::test]
async fn input_reaches_the_command_and_may_be_left_unread() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let bytes = vec![0xff_u8; 5 * 1024 * 1024];
    let output = exec(&connection, ExecRequest::new("wc -c").stdin(bytes.clone())).await.unwrap();
    assert_eq!(output.stdout_text().trim(), bytes.len().to_string());
    let output = exec(&connection, ExecRequest::new("exec 0<&-; echo done").stdin(bytes)).await.unwrap();
    assert_eq!(output.stdout, b"done\n");
    assert_eq!(run(&connection, "cat").await.stdout, b"");
}

#[tokio::test]
async fn a_login_shell_that_prints_banners_does_not_touch_the_output() {
    let shell =
        "printf 'Welcome!\\n> '; echo 'stty: not a terminal' >&2; set -v; eval \"$SSH_ORIGINAL_COMMAND\"";
    let sshd = Sshd::with_login_shell(shell).await;
    let connection = connection_to(&sshd).await;
    let output = run(&connection, "echo 'it is'; echo oops >&2").await;
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"it is\n"[..], &b"oops\n"[..]));
    let mut stream = connection.open("cat").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    in_time("the echo", stream.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "hello");
}

#[tokio::test]
async fn the_output_of_a_long_series_is_clean_whether_the_login_shell_is_silent_or_not() {
    let noisy = "echo 'Welcome!'; echo 'stty: not a terminal' >&2; eval \"$SSH_ORIGINAL_COMMAND\"";
    for sshd in [Sshd::start().await, Sshd::with_login_shell(noisy).await] {
        let connection = connection_to(&sshd).await;
        for number in 0..8 {
            let output =
                run(&connection, &format!("echo out {number}; echo err {number} >&2; exit {number}")).await;
            assert_eq!(output.exit_status, Some(number));
            assert_eq!(String::from_utf8_lossy(&output.stdout), format!("out {number}\n"));
            assert_eq!(String::from_utf8_lossy(&output.stderr), format!("err {number}\n"));
        }
    }
}

#[tokio::test]
async fn the_last_command_of_a_series_gives_its_slot_back_on_the_server() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    for _ in 0..6 {
        run(&connection, "true").await;
    }
    let count = |what: &str| sshd.log().matches(what).count();
    let all_closed = async {
        while count("Close session") < count("Starting session") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("the last session's end", all_closed).await;
    assert_eq!(count("Starting session"), 6, "{}", sshd.log());
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn other_login_shells_run_the_same_commands() {
    for shell in ["exec dash -c", "exec busybox ash -c", "exec bash -c"] {
        let sshd = Sshd::with_login_shell(&format!("{shell} \"$SSH_ORIGINAL_COMMAND\"")).await;
        let connection = connection_to(&sshd).await;
        assert_eq!(
            run(&connection, "echo \"it's $((40+2)) €\"").await.stdout_text(),
            "it's 42 €\n",
            "{shell}"
        );
    }
}

#[tokio::test]
async fn a_login_without_a_shell_says_what_the_server_said() {
    let sshd = Sshd::with_login_shell("echo 'This account is currently \x1b[1mnot available.'; exit 1").await;
    let connection = connection_to(&sshd).await;
    let error = exec(&connection, ExecRequest::new("true")).await.unwrap_err();
    let SshError::NoShell { said, .. } = &error else { panic!("{error:?}") };
    assert_eq!(said, "This account is currently not available.");
    let error = in_time("an error", connection.open("cat")).await.unwrap_err();
    assert!(matches!(&error, SshError::NoShell { .. }), "{error:?}");
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn a_login_shell_that_prints_for_ever_is_cut_off() {
    let sshd = Sshd::with_login_shell("exec yes").await;
    let connection = connection_to(&sshd).await;
    let error = exec(&connection, ExecRequest::new("true")).await.unwrap_err();
    assert!(matches!(&error, SshError::NoShell { .. }), "{error:?}");
    let error = in_time("an error", connection.open("cat")).await.unwrap_err();
    assert!(matches!(&error, SshError::NoShell { .. }), "{error:?}");
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn output_over_the_limit_is_counted_and_not_kept() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let request = ExecRequest::new("head -c 3000000 /dev/zero; head -c 500 /dev/zero >&2").output_limit(1000);
    let output = exec(&connection, request).await.unwrap();
    assert_eq!((output.stdout.len(), output.stdout_dropped_bytes), (1000, 2_999_000));
    assert_eq!((output.stderr.len(), output.stderr_dropped_bytes), (500, 0));
}

#[tokio::test]
async fn an_endless_command_is_stopped_at_its_time_limit_and_its_output_capped() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let error = exec(&connection, ExecRequest::new("yes").timeout(Duration::from_secs(1))).await.unwrap_err();
    let SshError::CommandTimedOut { after_ms: 1000, partial } = &error else { panic!("{error:?}") };
    assert_eq!(partial.stdout.len(), ExecRequest::DEFAULT_OUTPUT_LIMIT);
    assert!(partial.stdout_dropped_bytes > 0);
    assert_eq!(run(&connection, "echo still here").await.stdout, b"still here\n");
}

#[tokio::test]
async fn a_command_over_its_time_limit_is_gone_from_the_server_with_its_children() {
    for sshd in [Sshd::start().await, Sshd::dropbear().await] {
        let connection = connection_to(&sshd).await;
        let (stubborn, child) = (sshd.path("stubborn"), sshd.path("child"));
        let command = format!(
            "trap '' TERM; sleep 1000 & echo $! >{}; echo $$ >{}; echo begun; while :; do sleep 1000; done",
            child.display(),
            stubborn.display()
        );
        let running = exec(&connection, ExecRequest::new(command).timeout(Duration::from_secs(2)));
        let (error, stubborn, child) = tokio::join!(running, pid_in(&stubborn), pid_in(&child));
        let SshError::CommandTimedOut { partial, .. } = error.unwrap_err() else { panic!("another error") };
        assert_eq!(partial.stdout, b"begun\n");
        eventually("both are gone", || !processes::lives(stubborn) && !processes::lives(child)).await;
        assert!(run(&connection, "true").await.success());
    }
}

#[tokio::test]
async fn a_command_that_leaves_a_process_behind_succeeds_and_the_process_lives() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let output = run(&connection, "sleep 1000 & echo $!; exit 4").await;
    let left: u32 = output.stdout_text().trim().parse().unwrap();
    assert_eq!(output.exit_status, Some(4));
    assert!(processes::lives(left));
    processes::signal("KILL", &[left]);
    assert!(run(&connection, "true").await.success());
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_is_ended() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let file = sshd.path("pid");
    let pid = {
        let waiting =
            connection.exec(ExecRequest::new(format!("echo $$ >{}; exec sleep 1000", file.display())));
        tokio::select! {
            result = waiting => panic!("it ended: {result:?}"),
            pid = pid_in(&file) => pid,
        }
    };
    eventually("it is gone", || !processes::lives(pid)).await;
}

#[tokio::test]
async fn a_command_or_stream_given_up_before_it_has_begun_is_ended_too() {
    let sshd = Sshd::with_login_shell("sleep 0.5; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"").await;
    let connection = connection_to(&sshd).await;
    let (first, second) = (sshd.path("first"), sshd.path("second"));
    let command = |file: &std::path::Path| format!("echo $$ >{}; exec sleep 1000", file.display());
    let begun = |count| move |log: &str| log.matches("Starting session").count() >= count;
    for (number, file) in [(1, &first), (2, &second)] {
        let begins = eventually("the login shell runs", || begun(number)(&sshd.log()));
        let command = command(file);
        if number == 1 {
            tokio::select! {
                result = connection.exec(ExecRequest::new(command)) => panic!("it ended: {result:?}"),
                () = begins => {}
            }
        } else {
            tokio::select! {
                result = connection.open(&command) => panic!("it opened: {result:?}"),
                () = begins => {}
            }
        }
    }
    for file in [first, second] {
        let pid = pid_in(&file).await;
        eventually("it is gone", || !processes::lives(pid)).await;
    }
}

#[tokio::test]
async fn a_stream_answers_line_by_line_and_its_command_ends_with_it() {
    for sshd in [Sshd::start().await, Sshd::dropbear().await] {
        let connection = connection_to(&sshd).await;
        let mut stream = BufReader::new(
            connection.open("echo $$; while read -r line; do echo \"<$line>\"; done").await.unwrap(),
        );
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let pid: u32 = line.trim().parse().unwrap();
        for question in ["one", "two", "three"] {
            stream.write_all(format!("{question}\n").as_bytes()).await.unwrap();
            line.clear();
            in_time("an answer", stream.read_line(&mut line)).await.unwrap();
            assert_eq!(line, format!("<{question}>\n"));
        }
        assert!(processes::lives(pid));
        drop(stream);
        eventually("the loop has ended", || !processes::lives(pid)).await;
        assert_eq!(sshd.logins(), 1);
    }
}

#[tokio::test]
async fn a_stream_that_ignores_the_end_of_its_input_is_ended() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let mut stream = BufReader::new(connection.open("echo $$; exec sleep 1000").await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let pid: u32 = line.trim().parse().unwrap();
    drop(stream);
    eventually("it is gone", || !processes::lives(pid)).await;
}

#[tokio::test]
async fn a_stream_whose_command_ends_reads_to_the_end_and_then_refuses_to_write() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let mut stream = connection.open("echo last words; echo why >&2").await.unwrap();
    let mut heard = String::new();
    in_time("the end", stream.read_to_string(&mut heard)).await.unwrap();
    assert_eq!((heard.as_str(), stream.complaint().as_str()), ("last words\n", "why"));
    assert!(stream.write_all(b"hello?").await.is_err());
    assert!(stream.failure().is_none());
}

#[tokio::test]
async fn an_undrained_stream_does_not_block_the_connection_and_fails_by_itself() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let mut flood = connection.open("exec yes").await.unwrap();
    for _ in 0..20 {
        assert!(run(&connection, "true").await.success());
    }
    eventually("the stream is over its bound", || flood.failure().is_some()).await;
    let mut heard = Vec::new();
    let error = in_time("an error", flood.read_to_end(&mut heard)).await.unwrap_err();
    assert!(
        matches!(flood.failure(), Some(SshError::OutputTooLarge { limit_bytes: MAX_BUFFERED_BYTES })),
        "{error}"
    );
    assert!(heard.len() <= MAX_BUFFERED_BYTES);
    assert!(run(&connection, "true").await.success());
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn the_kill_switch_fails_waiting_reads_and_writes_at_once() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let stream = connection.open("sleep 1000").await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = tokio::spawn(async move { reader.read_u8().await });
    let writing = tokio::spawn(async move {
        loop {
            // Nobody reads there: this waits for the window, then for the end.
            if let Err(error) = writer.write_all(&[0; 65536]).await {
                return error;
            }
        }
    });
    let waiting = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.exec(ExecRequest::new("sleep 1000")).await })
    };
    sshd.freeze();
    connection.kill();
    assert!(in_time("the reader", reading).await.unwrap().is_err());
    in_time("the writer", writing).await.unwrap();
    let error = in_time("the command", waiting).await.unwrap().unwrap_err();
    assert!(matches!(&error, SshError::Closed { .. }), "{error:?}");
    in_time("the end", connection.closed()).await;
    sshd.thaw();
}

#[tokio::test]
async fn a_connection_that_the_server_ends_fails_what_runs_on_it() {
    let mut sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let mut stream = connection.open("cat").await.unwrap();
    sshd.stop();
    in_time("the end", connection.closed()).await;
    assert!(in_time("a read", stream.read_u8()).await.is_err());
    assert!(matches!(stream.failure(), Some(SshError::Closed { .. })));
    let error = exec(&connection, ExecRequest::new("true")).await.unwrap_err();
    assert!(matches!(&error, SshError::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn more_commands_than_channels_wait_their_turn_and_streams_still_open() {
    let sshd = Sshd::start().await;
    let connection = connection_to(&sshd).await;
    let gate = sshd.path("gate");
    let command = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let (connection, command) = (connection.clone(), command.clone());
            tokio::spawn(async move {
                connection.exec(ExecRequest::new(command).timeout(support::PATIENCE)).await
            })
        })
        .collect();
    eventually("the commands fill their share", || sshd.log().matches("Starting session").count() >= 6).await;
    let mut stream = in_time("a stream beside them", connection.open("cat")).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(in_time("an answer", stream.read_u8()).await.unwrap(), b'x');
    std::fs::write(&gate, "").unwrap();
    for command in waiting {
        assert!(in_time("a command", command).await.unwrap().unwrap().success());
    }
    assert_eq!(sshd.logins(), 1);
}

#[tokio::test]
async fn a_server_with_few_sessions_is_asked_again_until_one_is_free() {
    let sshd = Sshd::start_with("MaxSessions 2").await;
    let connection = connection_to(&sshd).await;
    let commands: Vec<_> = (0..6)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.exec(ExecRequest::new("sleep 0.1")).await })
        })
        .collect();
    for command in commands {
        assert!(in_time("a command", command).await.unwrap().unwrap().success());
    }
}

#[tokio::test]
async fn a_server_that_never_opens_a_channel_is_told_apart() {
    let sshd = Sshd::start_with("MaxSessions 0").await;
    let connection = connection_to(&sshd).await;
    let error = exec(&connection, ExecRequest::new("true")).await.unwrap_err();
    assert!(matches!(&error, SshError::ChannelRefused { .. }), "{error:?}");
    assert!(error.advice().contains("MaxSessions"));
}
