//! Every parser of the central server that reads what a server says, fed with mutated input: none may panic, hang, or answer
//! more than its limits. Those of the agent's library are in src/agent/tests/mutated.rs.
//!
//! The corpus: the machines of tests/fixtures/proc as the shell probe and the agent would tell them, tests/fixtures/containers,
//! and the texts in tests/fixtures/hostile. Each target runs for a fixed time.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod mutator;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutator::Random;
use roundsman::collect::{AgentProbe, ProbeError, ShellProbe, custom, pushed};
use roundsman::model::{Sections, Snapshot};
use roundsman_agent::local::Reader;
use roundsman_agent::proc::containers::{ContainersText, EngineText, containers, sizes};
use roundsman_agent::{json, limits};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// Each target; some hundred to ten thousand inputs on a loaded machine.
const TIME: Duration = Duration::from_secs(4);
/// One input, on a machine that does much else: what takes longer has no bound.
const INPUT_TIME_LIMIT: Duration = Duration::from_secs(10);
const SHA: &str = "5ha";
/// Bytes that a pipe holds: more than any answer of the corpus.
const ROOM: usize = 4 * 1024 * 1024;

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder)
}

fn texts(folder: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(fixtures(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{folder}");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn machines() -> Vec<PathBuf> {
    let all = fs::read_dir(fixtures("proc")).unwrap().map(|one| one.unwrap().path());
    let mut found: Vec<PathBuf> = all.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// Runs `target` on mutations of the corpus until its time is over.
fn fuzz(seed: u64, corpus: &[Vec<u8>], mut target: impl FnMut(&[u8])) {
    let mut random = Random::seeded(seed);
    let begun = Instant::now();
    let mut inputs = 0;
    // The corpus itself first, as it is.
    for input in corpus {
        target(input);
    }
    while begun.elapsed() < TIME {
        let chosen = random.below(corpus.len());
        let input = random.mutate(&corpus[chosen]);
        let started = Instant::now();
        target(&input);
        let took = started.elapsed();
        assert!(took < INPUT_TIME_LIMIT, "{took:?} for {:?}", String::from_utf8_lossy(&input));
        inputs += 1;
    }
    assert!(inputs >= 20, "{inputs}");
}

/// What the shell script would print of a machine; `@N ` stands for the word of the channel.
fn framed(machine: &Path) -> Vec<u8> {
    let mut files = Vec::new();
    walk(machine, &mut files);
    let of_process = |path: &str| path.split('/').nth(2).is_some_and(|word| word.parse::<u32>().is_ok());
    let mut out = b"\n@N begin 1\n".to_vec();
    let mut part = |name: &str, chosen: &dyn Fn(&str) -> bool| {
        out.extend_from_slice(format!("\n@N {name}\n").as_bytes());
        for path in files.iter().filter(|path| chosen(path)) {
            out.extend_from_slice(format!("==> {path} <==\n").as_bytes());
            out.extend_from_slice(&fs::read(machine.join(path.trim_start_matches('/'))).unwrap_or_default());
            out.push(b'\n');
        }
    };
    part("files", &|path| !of_process(path) || path == "/proc/1/comm");
    part("stat", &|path| of_process(path) && path.ends_with("/stat"));
    part("status", &|path| of_process(path) && path.ends_with("/status"));
    part("cmdline", &|path| of_process(path) && path.ends_with("/cmdline"));
    part("passwd", &|path| path == "/etc/passwd");
    part("facts", &|path| path.starts_with("/etc/") || path.starts_with("/proc/sys/"));
    part("sessions", &|path| path.starts_with("/run/systemd/sessions/"));
    out.extend_from_slice(b"\n@N count\n77\n@N statfs\n4096 1000 500 400 100 50 /\n\n@N end 1\n");
    out
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    fn below(root: &Path, folder: &Path, found: &mut Vec<String>) {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                below(root, &path, found);
            } else {
                found.push(format!("/{}", path.strip_prefix(root).unwrap().display()));
            }
        }
    }
    below(folder, folder, found);
}

fn within_limits(snapshot: &Snapshot) {
    assert!(snapshot.cores.len() <= limits::CORES);
    assert!(snapshot.filesystems.len() <= limits::FILESYSTEMS);
    assert!(snapshot.disks.len() <= limits::DISKS);
    assert!(snapshot.interfaces.len() <= limits::INTERFACES);
    assert!(snapshot.temperatures.len() <= limits::SENSORS);
    assert!(snapshot.gaps.len() <= limits::GAPS + 1);
    let texts = snapshot.processes.iter().flatten().map(|process| &process.name);
    let texts = texts.chain(snapshot.interfaces.iter().map(|interface| &interface.name));
    let texts = texts.chain(snapshot.services.iter().flatten().map(|service| &service.name));
    for text in texts {
        assert!(text.len() <= limits::TEXT_BYTES && !text.contains(char::is_control), "{text:?}");
    }
    for line in snapshot.processes.iter().flatten().filter_map(|process| process.command_line.as_ref()) {
        assert!(line.len() <= limits::COMMAND_LINE_BYTES && !line.contains(char::is_control), "{line:?}");
    }
}

fn replaced(bytes: &[u8], word: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(3).position(|three| three == b"@N ") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(format!("@{word} ").as_bytes());
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out
}

/// Reads the script from the probe, greets, and answers the first request with these bytes.
async fn shell(mut stream: DuplexStream, answer: &[u8]) {
    let mut said = Vec::new();
    while !said.ends_with(b"main; exit 0\n") {
        assert!(stream.read_buf(&mut said).await.unwrap() > 0);
    }
    let text = String::from_utf8(said).unwrap();
    let word = text.lines().find_map(|line| line.strip_prefix("n=")).unwrap().to_owned();
    let hello = format!("\n@{word} hello ticks=100 page=4096 arch=x86_64\n\n@{word} ready\n");
    stream.write_all(hello.as_bytes()).await.unwrap();
    let mut request = [0; 4096];
    assert!(stream.read(&mut request).await.unwrap() > 0);
    stream.write_all(&replaced(answer, &word)).await.unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn judge(read: Result<Snapshot, ProbeError>) {
    match read {
        Ok(snapshot) => within_limits(&snapshot),
        Err(ProbeError::Garbled { reason }) => {
            assert!(reason.len() < 1000 && !reason.contains(char::is_control), "{reason:?}");
        }
        Err(ProbeError::Closed) => {}
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn mutated_frames_of_the_shell_probe_are_a_reading_or_an_error() {
    let corpus: Vec<Vec<u8>> = machines().iter().map(|machine| framed(machine)).collect();
    let runtime = runtime();
    let mut readings = 0;
    fuzz(0x0f2a_3e55_1234_9876, &corpus, |input| {
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(ROOM);
            let (read, ()) = tokio::join!(
                async { ShellProbe::start(ours).await.unwrap().read(Sections::ALL).await },
                shell(theirs, input)
            );
            readings += u32::from(read.is_ok());
            judge(read);
        });
    });
    assert!(readings > 3, "the corpus itself is read");
}

#[test]
fn a_hundred_thousand_processes_of_an_agent_are_a_reading() {
    let one = |pid: u32| {
        format!(
            "{{\"pid\":{pid},\"name\":\"worker\",\"state\":\"S\",\"command_line\":\"/usr/bin/worker --number {pid}\"}}"
        )
    };
    let list: Vec<String> = (1..=100_000).map(one).collect();
    let answer =
        format!("{{\"request\":1,\"snapshot\":{{\"uptime_ms\":5,\"processes\":[{}]}}}}\n", list.join(","));
    let snapshot = runtime().block_on(read_by_agent(answer.as_bytes())).unwrap();
    assert_eq!(snapshot.processes.map(|all| all.len()), Some(100_000));
}

fn greeting() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{{\"name\":\"roundsman-agent\",\"version\":\"{version}\",\"build\":\"{SHA}\"}}\n")
}

/// What an agent's answer to the first request is taken for.
async fn read_by_agent(answer: &[u8]) -> Result<Snapshot, ProbeError> {
    let (ours, mut theirs) = tokio::io::duplex(ROOM);
    theirs.write_all(greeting().as_bytes()).await.unwrap();
    let mut probe = AgentProbe::start(ours, SHA).await.unwrap();
    let said = async move {
        // A reader that has heard enough hangs up.
        drop(theirs.write_all(answer).await);
        drop(theirs);
    };
    tokio::join!(probe.read(Sections::ALL), said).0
}

#[test]
fn mutated_answers_of_the_agent_are_a_reading_or_an_error() {
    let corpus: Vec<Vec<u8>> = machines()
        .iter()
        .map(|machine| {
            let snapshot = Reader::new(machine).read(Sections::ALL);
            format!("{{\"request\":1,\"snapshot\":{}}}\n", json::to_json(&snapshot)).into_bytes()
        })
        .chain(texts("hostile/agent"))
        .collect();
    let runtime = runtime();
    let mut readings = 0;
    fuzz(0x0a6e_4711_0000_0001, &corpus, |input| {
        let read = runtime.block_on(read_by_agent(input));
        readings += u32::from(read.is_ok());
        judge(read);
    });
    assert!(readings > 3, "the corpus itself is read");
}

#[test]
fn mutated_output_of_custom_metrics_is_finite_values_with_valid_names() {
    fuzz(0x0c05_7001, &texts("hostile/custom"), |input| {
        let parsed = custom::parse(input, "own");
        for value in parsed.values.iter().map(custom::Reading::sample) {
            assert!(value.value.is_finite(), "{value:?}");
            let name = value.key.metric.as_str();
            assert!(!name.is_empty() && name.len() <= 200 && !name.contains(char::is_control), "{name:?}");
        }
        for notice in &parsed.notices {
            assert!(!notice.contains(char::is_control), "{notice:?}");
        }
    });
}

#[test]
fn mutated_words_of_container_engines_are_containers_or_gaps() {
    fuzz(0x0d0c_4e12, &texts("containers"), |input| {
        let mut text = ContainersText::default();
        let both = EngineText::Answered { list: input.to_vec(), more: input.to_vec() };
        text.engines.push(("docker", both.clone()));
        text.engines.push(("podman", both));
        text.cgroups.insert("/sys/fs/cgroup/docker/0123456789ab/memory.stat".to_owned(), input.to_vec());
        let (found, gaps) = containers(&text);
        assert!(found.iter().flatten().count() <= limits::CONTAINERS && gaps.len() <= limits::GAPS);
        for container in found.iter().flatten() {
            assert!(container.name.len() <= limits::TEXT_BYTES && !container.name.contains(char::is_control));
            assert!(container.labels.len() <= limits::CONTAINER_LABELS);
        }
        assert!(sizes(input).len() <= limits::CONTAINERS);
    });
}

#[test]
fn mutated_bodies_of_pushing_servers_are_readings_or_name_the_bad_field() {
    let mut corpus = texts("hostile/push");
    for machine in machines() {
        let snapshot = Reader::new(&machine).read(Sections::ALL);
        corpus.push(format!("{{\"readings\":[{}]}}", json::to_json(&snapshot)).into_bytes());
    }
    fuzz(0x0b0d_1e50, &corpus, |input| {
        // What is no JSON is refused before it comes here.
        let Ok(Value::Object(members)) = serde_json::from_slice(input) else { return };
        if let Some(readings) = members.get("readings") {
            match pushed::readings(readings.clone()) {
                Ok(snapshots) => snapshots.iter().for_each(within_limits),
                Err(bad) => assert!(!bad.to_string().contains(char::is_control), "{bad}"),
            }
        }
        if let Ok(samples) = pushed::figures(&members) {
            assert!(samples.iter().all(|sample| sample.value.is_finite()));
        }
        if let Some(facts) = members.get("facts") {
            drop(pushed::facts(facts.clone()));
        }
    });
}
