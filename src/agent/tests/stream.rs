//! `stream`, as a central server or a hostile one talks to it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use support::{PATIENCE, program};

/// `roundsman-agent stream`, killed when the test ends however it ends.
struct Stream {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    greeting: String,
}

impl Stream {
    fn start() -> Self {
        let mut child = program().arg("stream").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        let mut stream = Self { child, input, output, greeting: String::new() };
        stream.greeting = stream.line();
        stream
    }

    fn send(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().unwrap();
        input.write_all(bytes).unwrap();
        input.flush().unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    fn ask(&mut self, request: &str) -> String {
        self.send(format!("{request}\n").as_bytes());
        self.line()
    }

    fn close_input(&mut self) {
        self.input = None;
    }

    fn close_output(&mut self) {
        self.output = None;
    }

    /// Waits for the program's end; the exit code.
    fn ended(&mut self) -> Option<i32> {
        ended(&mut self.child)
    }

    /// A line of `/proc/PID/status`, as a number of its unit.
    fn status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_ascii_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ended(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(begun.elapsed() < PATIENCE, "the program goes on");
        std::thread::yield_now();
    }
}

#[test]
fn the_greeting_says_who_answers() {
    let stream = Stream::start();
    let build = program().arg("version").output().unwrap().stdout;
    let build = String::from_utf8(build).unwrap().split_ascii_whitespace().last().unwrap().to_owned();
    assert_eq!(build.len(), 64);
    let start = format!(
        "{{\"name\":\"roundsman-agent\",\"version\":\"{}\",\"protocol\":1,\"build\":\"{build}\",\"arch\":\"",
        env!("CARGO_PKG_VERSION")
    );
    assert!(stream.greeting.starts_with(&start), "{}", stream.greeting);
    assert!(stream.greeting.contains("\"ticks\":100,\"page_size\":"));
    assert!(stream.greeting.ends_with(
        "\"capabilities\":[\"processes\",\"services\",\"users\",\"facts\",\"containers\",\"packages\",\"sockets\"]}\n"
    ));
}

#[test]
fn each_request_is_answered_by_one_line_with_its_number() {
    let mut stream = Stream::start();
    for (number, letters) in [(1, ""), (2, "-"), (7, "-pf"), (7, "-d"), (u64::MAX, "u")] {
        let answer = stream.ask(&format!("r {number} {letters}"));
        assert!(answer.starts_with(&format!("{{\"request\":{number},\"snapshot\":{{\"taken_at_ms\":")));
        assert!(answer.ends_with("]}}\n"), "{answer}");
        assert_eq!(answer.contains("\"processes\":[{\"pid\":"), letters.contains('p'));
        assert_eq!(answer.contains("\"facts\":{"), letters.contains('f'));
    }
}

#[test]
fn the_end_of_standard_input_is_the_end_and_nothing_is_left_running() {
    // A process group of its own, so that whatever the agent started can be found.
    let mut child =
        program().arg("stream").stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn().unwrap();
    let group = child.id();
    child.stdin.as_mut().unwrap().write_all(b"r 1 -psufck\n").unwrap();
    drop(child.stdin.take());
    assert_eq!(ended(&mut child), Some(0));
    let is_left = || {
        let asked =
            Command::new("kill").args(["-0", "--", &format!("-{group}")]).stderr(Stdio::null()).status();
        asked.unwrap().success()
    };
    // A command that ended with the agent is there until somebody has taken note of its end.
    let begun = Instant::now();
    while is_left() {
        assert!(begun.elapsed() < PATIENCE, "something of the group {group} goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_line_cut_off_by_the_end_is_not_answered() {
    let mut stream = Stream::start();
    stream.send(b"r 1");
    stream.close_input();
    assert_eq!(stream.line(), "");
    assert_eq!(stream.ended(), Some(0));
}

#[test]
fn what_is_no_request_is_answered_by_an_error_and_the_next_one_works() {
    let mut stream = Stream::start();
    for wrong in ["", "r", "rm -rf /", "r 1 -x", "r 1 -p more", "r 99999999999999999999"] {
        let answer = stream.ask(wrong);
        assert!(answer.starts_with("{\"request\":null,\"error\":\""), "{wrong}: {answer}");
    }
    stream.send(b"r \xff\x00\n");
    assert!(stream.line().contains("a request is text"));
    assert!(stream.ask("r 2").starts_with("{\"request\":2,"));
}

#[test]
fn an_endless_request_line_takes_no_memory() {
    let mut stream = Stream::start();
    stream.ask("r 1");
    let before = stream.status("VmRSS:");
    let chunk = vec![b'x'; 1024 * 1024];
    for _ in 0..32 {
        stream.send(&chunk);
    }
    stream.send(b"\n");
    assert!(stream.line().contains("a request has at most 256 bytes"));
    assert!(stream.status("VmRSS:") < before + 512);
    assert!(stream.ask("r 2").starts_with("{\"request\":2,"));
}

#[test]
fn a_closed_standard_output_ends_it_with_a_failure() {
    let mut stream = Stream::start();
    stream.close_output();
    stream.send(b"r 1\n");
    assert_eq!(stream.ended(), Some(1));
}

#[test]
fn it_runs_at_a_lower_priority() {
    let stream = Stream::start();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", stream.child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // proc_pid_stat(5): nice is field 19, the state, first here, is field 3.
    assert_eq!(fields[16], "10");
}

#[test]
fn a_hostile_process_name_stays_inside_its_string() {
    // A process is named after its file, of whose name 15 bytes count.
    let folder = std::env::temp_dir().join(format!("roundsman-agent-name-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("\");DROP <b>\n)");
    std::fs::copy("/bin/sleep", &file).unwrap();
    let name = "\"); DROP <script>\n)";
    let mut sleeper = Command::new(&file).arg0(name).arg("600").stdin(Stdio::null()).spawn().unwrap();
    let answer = Stream::start().ask("r 1 -p");
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(answer.matches('\n').count(), 1);
    let own = answer.split(&format!("{{\"pid\":{},", sleeper.id())).nth(1).unwrap();
    assert!(own.contains("\"name\":\"\\\");DROP <b> )\""), "{}", &own[..200]);
    assert!(own.contains("\"command_line\":\"\\\"); DROP <script> ) 600\""), "{}", &own[..300]);
}

/// It is not kept, but read again for every answer.
#[test]
fn a_long_command_line_is_told_whole_every_time() {
    let mut stream = Stream::start();
    let name = format!("begin-{}-end", "x".repeat(300));
    let mut sleeper = Command::new("sleep").arg0(&name).arg("600").stdin(Stdio::null()).spawn().unwrap();
    let me = format!("{{\"pid\":{},", sleeper.id());
    let line = format!("\"command_line\":\"{name} 600\"");
    for number in 1..=12 {
        let answer = stream.ask(&format!("r {number} -p"));
        let own = answer.split(&me).nth(1).unwrap();
        assert!(own.split(",\"user_ticks\"").next().unwrap().ends_with(&line), "{number}: {}", &own[..200]);
    }
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    assert!(!stream.ask("r 13 -p").contains(&me));
}

#[test]
fn a_process_that_starts_ends_and_works_is_seen_at_once() {
    let mut stream = Stream::start();
    stream.ask("r 1 -p");
    let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    let me = format!("{{\"pid\":{},", busy.id());
    let ticks = |answer: &str| -> u64 {
        let own = answer.split(&me).nth(1).unwrap();
        let ticks = own.split("\"user_ticks\":").nth(1).unwrap();
        ticks.split(',').next().unwrap().parse().unwrap()
    };
    let first = ticks(&stream.ask("r 2 -p"));
    let begun = Instant::now();
    while ticks(&stream.ask("r 3 -p")) <= first {
        assert!(begun.elapsed() < PATIENCE);
    }
    let _ = busy.kill();
    let _ = busy.wait();
    assert!(!stream.ask("r 4 -p").contains(&me));
}

/// A base reading counts without a list, where it can; both come to the same.
#[test]
fn processes_are_counted_alike_with_and_without_a_list() {
    let mut stream = Stream::start();
    let total = |line: &str| -> i64 {
        let (_, rest) = line.split_once("\"processes_total\":").unwrap();
        rest.split(',').next().unwrap().parse().unwrap()
    };
    // Other tests start and end processes meanwhile: some pair of readings is undisturbed.
    let near = (0..50).any(|number| {
        let listed = total(&stream.ask(&format!("r {number} -p")));
        let counted = total(&stream.ask(&format!("r {number}")));
        listed > 1 && (listed - counted).abs() <= 2
    });
    assert!(near);
}
