//! The shell probe against servers that answer what no shell answers.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use futures_util::FutureExt;
use proptest::prelude::*;
use roundsman::collect::{ProbeError, ShellProbe, shell};
use roundsman::model::{Sections, Snapshot};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

/// The other end of the channel: reads what the probe sends, says what a test wants.
struct Server {
    stream: BufReader<DuplexStream>,
    nonce: String,
}

impl Server {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line
    }

    /// Reads the script and learns the channel's word from it.
    async fn script(stream: DuplexStream) -> Self {
        let mut server = Self { stream: BufReader::new(stream), nonce: String::new() };
        loop {
            let line = server.line().await;
            if let Some(word) = line.strip_prefix("n=") {
                word.trim().clone_into(&mut server.nonce);
            }
            if line == "main; exit 0\n" {
                return server;
            }
        }
    }

    /// Writing to a probe that has given up is no fault of the test.
    async fn say(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Reads a request up to its last line and gives its number.
    async fn request(&mut self) -> u64 {
        loop {
            let line = self.line().await;
            if let Some(rest) = line.strip_prefix("r ") {
                return rest.split(' ').next().unwrap().parse().unwrap();
            }
        }
    }
}

const READING: &str = "\n@N begin 1\n\n@N files\n==> /proc/stat <==\ncpu  1 2 3 4 5 6 7 8 0 0\n\n\
                       ==> /proc/uptime <==\n100.00 50.00\n\n@N count\n7\n@N end 1\n";

fn hello(nonce: &str) -> Vec<u8> {
    format!("\n@{nonce} hello ticks=100 page=4096 arch=x86_64\n\n@{nonce} ready\n").into_bytes()
}

/// A probe whose server answers each request with `answer` (N stands for the channel's word), then closes.
async fn ask(answer: impl Into<Vec<u8>>) -> Result<Snapshot, ProbeError> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let answer: Vec<u8> = answer.into();
    let server = tokio::spawn(async move {
        let mut server = Server::script(theirs).await;
        let hello = hello(&server.nonce);
        assert!(server.say(&hello).await);
        server.request().await;
        let word = server.nonce.clone();
        let _ = server.say(&replace(&answer, b"@N ", format!("@{word} ").as_bytes())).await;
    });
    let mut probe = ShellProbe::start(ours).await.expect("hello");
    let first = probe.read(Sections::BASE).await;
    server.await.unwrap();
    if first.is_err() {
        assert_eq!(
            probe.read(Sections::BASE).await,
            Err(ProbeError::Closed),
            "a failed channel stays closed"
        );
    }
    first
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        if rest.starts_with(from) {
            out.extend_from_slice(to);
            rest = &rest[from.len()..];
        } else {
            out.push(rest[0]);
            rest = &rest[1..];
        }
    }
    out
}

fn is_garbled(result: &Result<Snapshot, ProbeError>) -> bool {
    matches!(result, Err(ProbeError::Garbled { .. }))
}

#[tokio::test]
async fn the_smallest_honest_answer_is_a_reading() {
    let snapshot = ask(READING).await.unwrap();
    assert_eq!(snapshot.uptime_ms, Some(100_000));
    assert_eq!(snapshot.cpu.unwrap().steal_ticks, 8);
    // /proc/1/comm is missing, so the count is not that of the machine.
    assert_eq!(snapshot.processes_total, None);
}

#[tokio::test(start_paused = true)]
async fn another_channels_word_ends_nothing() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move {
        let mut server = Server::script(theirs).await;
        let hello = hello(&server.nonce);
        server.say(&hello).await;
        server.request().await;
        server.say(READING.replace("@N ", "@00000000000000000000000000000000 ").as_bytes()).await;
        // Stays open until the probe gives up.
        server.line().await
    });
    let mut probe = ShellProbe::start(ours).await.unwrap();
    let after_ms = u64::try_from(shell::BASE_TIME_LIMIT.as_millis()).unwrap();
    assert_eq!(probe.read(Sections::BASE).await, Err(ProbeError::TimedOut { after_ms }));
    drop(probe);
    assert_eq!(server.await.unwrap(), "");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_only_echoes_has_no_first_word() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (mut reader, mut writer) = tokio::io::split(theirs);
    let echo = tokio::spawn(async move { tokio::io::copy(&mut reader, &mut writer).await });
    let after_ms = u64::try_from(shell::START_TIME_LIMIT.as_millis()).unwrap();
    let failed = ShellProbe::start(ours).await;
    assert!(
        matches!(&failed, Err(ProbeError::TimedOut { after_ms: after }) if *after == after_ms),
        "{failed:?}"
    );
    drop(failed);
    assert!(echo.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_a_time_out() {
    let (ours, _theirs) = tokio::io::duplex(64);
    let failed = ShellProbe::start(ours).await;
    assert!(matches!(failed, Err(ProbeError::TimedOut { .. })), "{failed:?}");
}

#[tokio::test]
async fn an_answer_cut_short_is_a_closed_channel() {
    for length in [0, 1, 20, READING.len() / 2, READING.len() - 2] {
        assert_eq!(ask(&READING.as_bytes()[..length]).await, Err(ProbeError::Closed), "{length}");
    }
}

#[tokio::test]
async fn a_script_that_dies_in_its_first_words_is_garbled() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move {
        let mut server = Server::script(theirs).await;
        let hello = format!("\n@{} hello ticks=100\n", server.nonce);
        server.say(hello.as_bytes()).await
    });
    let failed = ShellProbe::start(ours).await;
    assert!(matches!(failed, Err(ProbeError::Garbled { .. })), "{failed:?}");
    assert!(server.await.unwrap());
}

#[tokio::test]
async fn answers_out_of_order_are_garbled() {
    for wrong in [
        READING.replace("begin 1", "begin 2"),
        READING.replace("\n@N begin 1\n", ""),
        format!("noise{READING}"),
        format!("{READING}more"),
        format!("{READING}{READING}"),
        READING.replace("@N count", "@N files"),
        READING.replace("@N files", "@N film"),
        READING.replace("/proc/", "/prox/"),
        format!("{}\n@N end 1\n", "\n@N x\n".repeat(100)),
    ] {
        let result = ask(wrong.clone()).await;
        assert!(is_garbled(&result), "{wrong}: {result:?}");
    }
}

#[tokio::test]
async fn binary_and_html_in_place_of_proc_are_garbled() {
    for wrong in ["<html><body>502 Bad Gateway</body></html>", "\0\u{1}\u{2}==> <==\n==> /proc/stat <==", ""]
    {
        let result = ask(format!("\n@N begin 1\n\n@N files\n{wrong}\n@N end 1\n")).await;
        assert!(is_garbled(&result), "{result:?}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_at_the_limit() {
    for unit in ["x", "==> /proc/stat <==\n", "\n@N begin 1\n"] {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let mut server = Server::script(theirs).await;
            let hello = hello(&server.nonce);
            server.say(&hello).await;
            server.request().await;
            let block = unit.replace("@N ", &format!("@{} ", server.nonce)).repeat(4096);
            while server.say(block.as_bytes()).await {}
        });
        let mut probe = ShellProbe::start(ours).await.unwrap();
        let limit_bytes = shell::BASE_LIMIT_BYTES;
        assert_eq!(probe.read(Sections::BASE).await, Err(ProbeError::TooMuchOutput { limit_bytes }));
        drop(probe);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_talks_without_listening_is_refused_too() {
    // The script does not fit into what the server leaves unread.
    let (ours, mut theirs) = tokio::io::duplex(512);
    let server = tokio::spawn(async move { while theirs.write_all(&[b'x'; 512]).await.is_ok() {} });
    let failed = ShellProbe::start(ours).await;
    assert!(matches!(failed, Err(ProbeError::TooMuchOutput { .. })), "{failed:?}");
    drop(failed);
    server.await.unwrap();
}

#[tokio::test]
async fn a_reading_given_up_halfway_leaves_no_channel_out_of_step() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move {
        let mut server = Server::script(theirs).await;
        let hello = hello(&server.nonce);
        server.say(&hello).await;
        server.request().await;
        let late = READING.replace("@N ", &format!("@{} ", server.nonce));
        server.say(late.as_bytes()).await;
        server.line().await
    });
    let mut probe = ShellProbe::start(ours).await.unwrap();
    assert!(probe.read(Sections::BASE).now_or_never().is_none());
    assert_eq!(probe.read(Sections::BASE).await, Err(ProbeError::Closed));
    drop(probe);
    server.await.unwrap();
}

#[tokio::test]
async fn paths_of_mounts_reach_the_server_as_lines_of_their_own() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move {
        let mut server = Server::script(theirs).await;
        let word = server.nonce.clone();
        let table = "1 1 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /a\\040$(b)\\012c rw - ext4 /dev/b rw\n\
                     3 1 8:3 / /it's\\040`x` rw - ext4 /dev/c rw\n";
        let hello = format!("\n@{word} hello x\n==> /proc/self/mountinfo <==\n{table}\n@{word} ready\n");
        server.say(hello.as_bytes()).await;
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.starts_with("r ")) {
            lines.push(server.line().await);
        }
        lines
    });
    let mut probe = ShellProbe::start(ours).await.unwrap();
    assert!(probe.read(Sections::BASE).await.is_err());
    assert_eq!(server.await.unwrap(), ["m\n", "+/\n", "+/it's `x`\n", "r 1 -d\n"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever stands between `begin` and `end`, there is a snapshot within its limits or an error.
    #[test]
    fn no_answer_makes_the_probe_panic(pieces in proptest::collection::vec(piece(), 0..40)) {
        let body: Vec<u8> = pieces.concat();
        let mut answer = b"\n@N begin 1\n\n@N files\n".to_vec();
        answer.extend_from_slice(&body);
        answer.extend_from_slice(b"\n@N end 1\n");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        match runtime.block_on(ask(answer)) {
            Ok(snapshot) => prop_assert!(snapshot.filesystems.len() <= roundsman_agent::limits::FILESYSTEMS),
            Err(ProbeError::Garbled { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "\n",
        "\n@N stat\n",
        "\n@N statfs\n",
        "\n@N count\n",
        "\n@N ",
        "@N end 1",
        "==> ",
        " <==\n",
        "==> /proc/stat <==\n",
        "==> /proc/self/mountinfo <==\n",
        "==> /proc/net/dev <==\n",
        "==> /sys/class/net/a/device/uevent <==\n",
        "==> /sys/class/hwmon/hwmon0/temp1_input <==\n",
        "cpu 1 2 3 4\n",
        "btime 18446744073709551615\n",
        "1 1 8:1 / / rw - ext4 /dev/a rw\n",
        "4096 18446744073709551615 1 1 1 1 /\n",
        "\0",
        "99 ",
        "eth0: ",
    ]);
    prop_oneof![
        words.prop_map(|word| word.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..60),
    ]
}
