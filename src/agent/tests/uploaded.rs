//! The agent as `scripts/build-agents.sh` makes it for this machine: its size, what it needs, what it costs. Builds a release
//! and needs root (a root directory and a PID namespace of its own), so only `scripts/test.sh --all` runs it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

/// What memory and CPU are promised for: see docs/agent.md.
const RSS_LIMIT_KIB: u64 = 1536;
const CPU_LIMIT_US: u64 = 1000;
/// Words after the first two of a command line.
const USUAL: usize = 14;

/// Builds it once, where something changed; the script itself fails on a program that is too large.
static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let architecture = std::env::consts::ARCH;
    let status = Command::new(root.join("scripts/build-agents.sh")).arg(architecture).status().unwrap();
    assert!(status.success());
    root.join("dist/agents").join(format!("roundsman-agent-{architecture}"))
});

#[test]
fn the_agent_is_small_and_static_and_needs_nothing_but_a_kernel() {
    let file = &*BUILT;
    let content = fs::read(file).unwrap();
    assert!(content.len() < 1_572_864, "{}", content.len());
    // Program headers of 56 bytes from 64 on, their number at 56; type 3 asks for a loader: elf(5).
    let word = |at: usize| u16::from_le_bytes(content.get(at..at + 2).unwrap().try_into().unwrap());
    let kinds: Vec<u16> = (0..usize::from(word(56))).map(|number| word(64 + 56 * number)).collect();
    assert!(kinds.contains(&1) && !kinds.contains(&3), "{kinds:?}");
    // A root directory with nothing in it but the program: no libraries, no shell, no /proc.
    let empty = std::env::temp_dir().join(format!("roundsman-empty-{}", std::process::id()));
    fs::create_dir_all(&empty).unwrap();
    fs::copy(file, empty.join("agent")).unwrap();
    let output = Command::new("chroot").arg(&empty).args(["/agent", "snapshot"]).output().unwrap();
    fs::remove_dir_all(&empty).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("\"cpu\":null"), "{text}");
    assert!(text.contains("/proc/stat cannot be read"), "{text}");
}

/// The agent among so many processes, in a PID namespace of its own; all of them end with it.
struct Among {
    unshare: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Among {
    /// `more` makes the command lines longer: usual ones have some forty bytes.
    fn processes(count: usize, more: usize) -> Self {
        let more = " 0".repeat(more);
        let script = format!(
            "i=1; while [ $i -lt {count} ]; do sleep 100000{more} & i=$((i+1)); done; exec \"$0\" stream"
        );
        let mut unshare = Command::new("unshare")
            .args(["--fork", "--pid", "--mount-proc", "--kill-child", "sh", "-c", &script])
            .arg(&*BUILT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = unshare.stdin.take().unwrap();
        let output = BufReader::new(unshare.stdout.take().unwrap());
        let mut among = Self { unshare, input, output };
        assert!(among.line().starts_with("{\"name\":\"roundsman-agent\""));
        among
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// A reading of everything that every server has; containers are asked for by programs of their engine.
    fn read(&mut self) -> String {
        self.input.write_all(b"r 1 -psu\n").unwrap();
        self.line()
    }

    fn file(&self, name: &str) -> String {
        let pid = self.unshare.id();
        let child = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        fs::read_to_string(format!("/proc/{}/{name}", child.trim())).unwrap()
    }

    fn rss_kib(&self) -> u64 {
        let status = self.file("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }

    /// Of itself and what it has started, at 100 ticks a second.
    fn cpu_us(&self) -> u64 {
        let stat = self.file("stat");
        let fields = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(4);
        fields.map(|field| field.parse::<u64>().unwrap()).sum::<u64>() * 10_000
    }
}

impl Drop for Among {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

#[test]
fn a_reading_of_a_hundred_processes_costs_under_a_millisecond() {
    const BATCH: u64 = 100;
    let mut agent = Among::processes(100, USUAL);
    let first = agent.read();
    assert_eq!(first.matches("\"pid\":").count(), 100, "{first}");
    // The least of some: what else runs on the machine takes its caches, and 10 ms is the unit of the figure.
    let batches = (0..8).map(|_| {
        let before = agent.cpu_us();
        for _ in 0..BATCH {
            agent.read();
        }
        (agent.cpu_us() - before) / BATCH
    });
    let least = batches.min().unwrap();
    assert!(least < CPU_LIMIT_US, "{least} µs a reading");
    assert!(agent.rss_kib() < RSS_LIMIT_KIB, "{} KiB", agent.rss_kib());
}

#[test]
fn two_thousand_processes_leave_its_memory_small() {
    // Usual command lines, the longest that are kept, and long ones.
    for words in [USUAL, 40, 400] {
        two_thousand(words);
    }
}

fn two_thousand(words: usize) {
    let mut agent = Among::processes(2_000, words);
    for _ in 0..10 {
        let answer = agent.read();
        assert_eq!(answer.matches("\"pid\":").count(), 2_000);
    }
    assert!(agent.rss_kib() < RSS_LIMIT_KIB, "{} KiB with {words} words", agent.rss_kib());
}
