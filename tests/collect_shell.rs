//! The shell probe against real shells as child processes.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::process::Stdio;
use std::time::Duration;

use roundsman::collect::{LocalProbe, ProbeError, ShellProbe, shell};
use roundsman::model::{Sections, Service, Snapshot};
use rstest::rstest;
use tokio::io::Join;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

type Pipes = Join<ChildStdout, ChildStdin>;

/// Far over what a loaded machine needs; a test that reaches it has hung.
const OUTER_LIMIT: Duration = Duration::from_secs(60);

fn spawn(program: &str, arguments: &[&str]) -> (Child, Pipes) {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pipes = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
    (child, pipes)
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(OUTER_LIMIT, work).await.expect("hung")
}

fn near(a: Option<u64>, b: Option<u64>, tolerance: u64) -> bool {
    a.zip(b).is_some_and(|(a, b)| a.abs_diff(b) <= tolerance)
}

#[rstest]
#[case::bash("bash", &[])]
#[case::dash("dash", &[])]
#[case::busybox("busybox", &["sh"])]
#[tokio::test]
async fn every_shell_gives_a_whole_reading(#[case] program: &str, #[case] arguments: &[&str]) {
    let (mut child, pipes) = spawn(program, arguments);
    let mut probe = soon(ShellProbe::start(pipes)).await.unwrap();
    let base = soon(probe.read(Sections::BASE)).await.unwrap();
    assert!(base.processes.is_none() && base.users.is_none() && base.facts.is_none());
    let all = soon(probe.read(Sections::DETAILS)).await.unwrap();
    assert!(all.uptime_ms >= base.uptime_ms);
    let again = soon(probe.read(Sections::BASE)).await.unwrap();
    assert!(again.uptime_ms >= all.uptime_ms);
    assert_eq!(base.boot_id, again.boot_id);
    assert!(!again.filesystems.is_empty(), "{:?}", again.gaps);
    let own = std::process::id();
    let processes = all.processes.unwrap();
    let me = processes.iter().find(|process| process.pid == own).unwrap();
    assert!(me.command_line.as_deref().unwrap().contains("collect_shell"));
    drop(probe);
    assert!(soon(child.wait()).await.unwrap().success());
}

#[rstest]
#[case::bash("bash", &[])]
#[case::dash("dash", &[])]
#[case::busybox("busybox", &["sh"])]
#[tokio::test]
async fn shell_and_local_probe_agree(#[case] program: &str, #[case] arguments: &[&str]) {
    let (_child, pipes) = spawn(program, arguments);
    let mut probe = soon(ShellProbe::start(pipes)).await.unwrap();
    let shell = soon(probe.read(Sections::DETAILS)).await.unwrap();
    let local = soon(LocalProbe::new().read(Sections::DETAILS)).await.unwrap();
    agree(&shell, &local);
}

/// What does not change is equal; what does lies within what a busy machine does in a few seconds.
fn agree(shell: &Snapshot, local: &Snapshot) {
    const SECONDS: u64 = 20;
    assert_eq!(shell.boot_id, local.boot_id);
    assert!(shell.boot_id.is_some());
    assert!(near(shell.taken_at_ms, local.taken_at_ms, SECONDS * 1000 + 1000));
    assert!(near(shell.uptime_ms, local.uptime_ms, SECONDS * 1000));
    assert_eq!(shell.ticks_per_second, local.ticks_per_second);
    assert_eq!(shell.cores.len(), local.cores.len());
    let user = |snapshot: &Snapshot| snapshot.cpu.as_ref().map(|cpu| cpu.user_ticks);
    let cores = u64::try_from(local.cores.len()).unwrap();
    assert!(near(user(shell), user(local), SECONDS * 100 * cores));
    let memory = |snapshot: &Snapshot| snapshot.memory.clone().unwrap();
    assert_eq!(memory(shell).total_bytes, memory(local).total_bytes);
    assert_eq!(memory(shell).limit_bytes, memory(local).limit_bytes);
    let available = |snapshot: &Snapshot| memory(snapshot).available_bytes;
    assert!(near(available(shell), available(local), memory(local).total_bytes / 2));
    assert_eq!(shell.pressure.is_some(), local.pressure.is_some());
    let fixed = |snapshot: &Snapshot| -> Vec<_> {
        let each = snapshot.filesystems.iter();
        each.map(|fs| {
            (fs.mount.clone(), fs.device.clone(), fs.fs_type.clone(), fs.size_bytes, fs.inodes_total)
        })
        .collect()
    };
    assert_eq!(fixed(shell), fixed(local));
    let disks =
        |snapshot: &Snapshot| -> Vec<_> { snapshot.disks.iter().map(|disk| disk.name.clone()).collect() };
    assert_eq!(disks(shell), disks(local));
    let interfaces = |snapshot: &Snapshot| -> Vec<_> {
        snapshot.interfaces.iter().map(|one| (one.name.clone(), one.counted_elsewhere)).collect()
    };
    assert_eq!(interfaces(shell), interfaces(local));
    assert_eq!(shell.tcp.is_some(), local.tcp.is_some());
    assert_eq!(shell.temperatures.len(), local.temperatures.len());
    assert!(near(shell.processes_total, local.processes_total, 200));
    assert_eq!(shell.file_handles_max, local.file_handles_max);
    assert_eq!(shell.services.is_some(), local.services.is_some());
    agree_on_counters(shell, local);
    agree_on_services(shell, local);
    assert_eq!(shell.users, local.users);
    assert_eq!(shell.facts, local.facts);
    assert_eq!(shell.gaps, local.gaps);
    // Processes that both saw are the same but for their counters.
    let still = |snapshot: &Snapshot| -> Vec<_> {
        let each = snapshot.processes.iter().flatten().filter(|process| process.pid == std::process::id());
        each.map(|one| (one.pid, one.parent_pid, one.user.clone(), one.command_line.clone(), one.start_ticks))
            .collect()
    };
    assert_eq!(still(shell), still(local));
    assert_eq!(still(shell).len(), 1);
}

/// Counters go forward: the second reading is never behind the first, and what is a size or a count is near.
fn agree_on_counters(shell: &Snapshot, local: &Snapshot) {
    assert_eq!(shell.cpu_limit_x1000, local.cpu_limit_x1000);
    assert_eq!(shell.cgroup_cpu_us.is_some(), local.cgroup_cpu_us.is_some());
    assert!(shell.cgroup_cpu_us <= local.cgroup_cpu_us);
    assert!(shell.context_switches <= local.context_switches && shell.context_switches.is_some());
    assert!(shell.forks <= local.forks && shell.forks.is_some());
    for (one, other) in shell.disks.iter().zip(&local.disks) {
        assert!(
            one.read_bytes <= other.read_bytes && one.written_bytes <= other.written_bytes,
            "{}",
            one.name
        );
    }
    for (one, other) in shell.interfaces.iter().zip(&local.interfaces) {
        assert!(one.rx_bytes <= other.rx_bytes && one.tx_bytes <= other.tx_bytes, "{}", one.name);
    }
    for (one, other) in shell.filesystems.iter().zip(&local.filesystems) {
        assert!(one.used_bytes.abs_diff(other.used_bytes) <= one.size_bytes / 4, "{}", one.mount);
    }
    let pressure = |snapshot: &Snapshot| snapshot.pressure.as_ref().and_then(|pressure| pressure.cpu_some_us);
    assert!(pressure(shell) <= pressure(local));
    let swap = |snapshot: &Snapshot| snapshot.memory.as_ref().and_then(|memory| memory.swap_free_bytes);
    let swap_total = local.memory.as_ref().and_then(|memory| memory.swap_total_bytes).unwrap_or(0);
    assert!(near(swap(shell), swap(local), swap_total / 4) || swap(local).is_none());
    let sockets = |snapshot: &Snapshot| snapshot.tcp.as_ref().and_then(|tcp| tcp.in_use);
    assert!(near(sockets(shell), sockets(local), 500) || sockets(local).is_none());
    let load = |snapshot: &Snapshot| snapshot.load.as_ref().map(|load| load.one_x100);
    assert!(near(load(shell), load(local), 6_400));
    assert!(near(shell.threads_total, local.threads_total, 1000));
    // Both looked at the same clock, one after the other; `date` of a small system knows no fractions.
    assert!(near(shell.clock_ms, local.clock_ms, 21_000));
}

/// What a service is stays; its memory moves, and since is told to the second.
fn agree_on_services(shell: &Snapshot, local: &Snapshot) {
    let fixed = |service: &Service| Service {
        memory_bytes: None,
        since_ms: None,
        state: String::new(),
        sub_state: String::new(),
        main_pid: None,
        restarts: None,
        ..service.clone()
    };
    let (shell, local) = (shell.services.as_deref(), local.services.as_deref());
    for (one, other) in shell.unwrap_or_default().iter().zip(local.unwrap_or_default()) {
        assert_eq!(fixed(one), fixed(other));
        // One that changed in between says so by its time.
        if near(one.since_ms, other.since_ms, 2000) {
            assert_eq!((&one.state, one.main_pid), (&other.state, other.main_pid), "{}", one.name);
            if let (Some(one_bytes), Some(other_bytes)) = (one.memory_bytes, other.memory_bytes) {
                let most = one_bytes.max(other_bytes);
                assert!(one_bytes.abs_diff(other_bytes) <= most / 2 + (64 << 20), "{}", one.name);
            }
        }
    }
}

/// CPU time of a process and of its children that have ended, in ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_ascii_whitespace().skip(11).take(4).map(|field| field.parse::<u64>().unwrap()).sum()
}

#[rstest]
#[case::bash("bash", &[])]
#[case::dash("dash", &[])]
#[case::busybox("busybox", &["sh"])]
#[tokio::test]
async fn a_base_reading_costs_little_cpu(#[case] program: &str, #[case] arguments: &[&str]) {
    const READINGS: u64 = 200;
    let (child, pipes) = spawn(program, arguments);
    let pid = child.id().unwrap();
    let mut probe = soon(ShellProbe::start(pipes)).await.unwrap();
    soon(probe.read(Sections::BASE)).await.unwrap();
    let before = cpu_ticks(pid);
    for _ in 0..READINGS {
        soon(probe.read(Sections::BASE)).await.unwrap();
    }
    let spent_us = (cpu_ticks(pid) - before) * 10_000 / READINGS;
    println!("{program}: {spent_us} us of CPU a base reading");
    let before = cpu_ticks(pid);
    let mut processes = 0;
    for _ in 0..READINGS / 4 {
        let snapshot = soon(probe.read(Sections { processes: true, ..Sections::BASE })).await.unwrap();
        processes = snapshot.processes.unwrap().len();
    }
    let with_processes_us = (cpu_ticks(pid) - before) * 10_000 / (READINGS / 4);
    println!("{program}: {with_processes_us} us with {processes} processes");
    // Under 2 ms on an idle machine; other tests on the same cores make every fork dearer.
    assert!(spent_us < 10_000, "{spent_us} us");
}

/// A login shell of the given kind runs COMMAND, as sshd has it done.
#[rstest]
#[case::bash("bash", &["-c", shell::COMMAND])]
#[case::dash("dash", &["-c", shell::COMMAND])]
#[case::busybox("busybox", &["sh", "-c", shell::COMMAND])]
#[case::talkative("bash", &["-c", "echo Welcome; printf '\\033[31mno newline'; cat /proc/cpuinfo; exec /bin/sh"])]
#[tokio::test]
async fn login_shells_and_their_banners_are_no_obstacle(#[case] program: &str, #[case] arguments: &[&str]) {
    let (_child, pipes) = spawn(program, arguments);
    let mut probe = soon(ShellProbe::start(pipes)).await.unwrap();
    assert!(soon(probe.read(Sections::BASE)).await.unwrap().cpu.is_some());
}

#[rstest]
#[case::nologin("/usr/sbin/nologin", &[], "not available")]
#[case::forced_command("echo", &["<h1>Hello</h1>\u{1b}[2J"], "<h1>Hello</h1>")]
#[case::silent("true", &[], "")]
#[tokio::test]
async fn a_login_without_a_shell_is_told_with_its_words(
    #[case] program: &str,
    #[case] arguments: &[&str],
    #[case] said: &str,
) {
    let (_child, pipes) = spawn(program, arguments);
    match soon(ShellProbe::start(pipes)).await {
        Err(ProbeError::NoShell { said: heard }) => {
            assert!(heard.contains(said), "{heard}");
            assert!(!heard.contains('\u{1b}'));
        }
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::lines("yes")]
#[case::one_line("cat /dev/zero")]
#[tokio::test]
async fn endless_output_before_the_first_word_is_refused(#[case] command: &str) {
    let (_child, pipes) = spawn("sh", &["-c", command]);
    let refused = soon(ShellProbe::start(pipes)).await;
    assert!(matches!(refused, Err(ProbeError::TooMuchOutput { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_command_line_cannot_speak_for_another_process() {
    let name = "x\n==> /proc/1/cmdline <==\nspoofed\n\n@0123456789abcdef end 1\n";
    let script = "exec -a \"$1\" sleep 600";
    let mut sleeper =
        Command::new("bash").args(["-c", script, "bash", name]).kill_on_drop(true).spawn().unwrap();
    let pid = sleeper.id().unwrap();
    let named =
        || std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"x\n==>"));
    soon(async {
        while !named() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (_child, pipes) = spawn("dash", &[]);
    let mut probe = soon(ShellProbe::start(pipes)).await.unwrap();
    let snapshot = soon(probe.read(Sections { processes: true, ..Sections::BASE })).await.unwrap();
    sleeper.kill().await.unwrap();
    let processes = snapshot.processes.unwrap();
    let line = |pid: u32| processes.iter().find(|process| process.pid == pid).unwrap().command_line.clone();
    assert!(!line(1).unwrap_or_default().contains("spoofed"));
    assert!(line(pid).unwrap().starts_with('x'));
}
