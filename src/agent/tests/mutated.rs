//! Every parser of the agent against its fixtures, mutated: none may panic, hang, or answer more than its limits.
//!
//! A deterministic fuzzer instead of cargo-fuzz, which needs a nightly toolchain: the same seed gives the same inputs, so
//! a failure here is a failure everywhere. The corpus is `tests/fixtures/proc` and the texts below.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use roundsman_agent::proc::{cpu, disks, kernel, memory, mounts, network, process, sensors, services, users};
use roundsman_agent::reading::{FilesystemText, ServicesText, Texts, assemble};
use roundsman_agent::{Sections, http, json, limits, reply::Reply, stream, text};

/// Long enough for some ten thousand inputs on a loaded machine.
const TIME: Duration = Duration::from_secs(5);

/// A small generator (xorshift64*), so that nothing is needed for it.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % end.max(1)
    }

    fn mutate(&mut self, input: &[u8]) -> Vec<u8> {
        const WORDS: [&[u8]; 14] = [
            b"18446744073709551615",
            b"18446744073709551616",
            b"-1",
            b"NaN",
            b"1e999",
            b"\n",
            b"\0",
            b"\xff\xfe",
            b") R 1 ",
            b" - ",
            b"\\777",
            b"\x1b]0;",
            b"\r\n\r\n",
            b"{\"a\":[",
        ];
        let mut out = input.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(out.len() + 1);
            let end = (at + self.below(40)).min(out.len());
            match self.below(5) {
                0 => drop(out.drain(at..end)),
                1 => drop(out.splice(at..at, WORDS.get(self.below(WORDS.len())).unwrap().iter().copied())),
                2 => {
                    let copy = out.get(at..end).unwrap().to_vec();
                    drop(out.splice(at..at, copy));
                }
                3 => out.truncate(at),
                _ => {
                    if let Some(byte) = out.get_mut(at) {
                        *byte = u8::try_from(self.below(256)).unwrap();
                    }
                }
            }
        }
        out
    }
}

fn corpus(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path: PathBuf = entry.path();
        if path.is_dir() {
            corpus(&path, found);
        } else {
            found.push((path.to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()));
        }
    }
}

fn parsers(bytes: &[u8]) {
    let stat = cpu::stat(bytes);
    assert!(stat.cores.len() <= limits::CORES);
    assert!(disks::diskstats(bytes).len() <= limits::DISKS);
    let (_, _, _) = (kernel::loadavg(bytes), kernel::uptime_ms(bytes), kernel::file_handles(bytes));
    let _ = kernel::pressure(Some(bytes), Some(bytes), Some(bytes));
    let some = Some(bytes);
    let files = memory::MemoryFiles { meminfo: some, arcstats: some, limit: some, usage: some, stat: some };
    let _ = memory::memory(&files);
    let chosen = mounts::choose(&mounts::mountinfo(bytes));
    assert!(chosen.len() <= limits::FILESYSTEMS);
    let _ = (mounts::statfs(bytes, &chosen), mounts::df(bytes, &chosen));
    assert!(network::dev(bytes).len() <= limits::INTERFACES);
    let _ = network::tcp(some, some, some);
    let one = process::ProcessFiles { stat: bytes, status: some, command_line: some };
    if let Some(process) = process::process(&one, 4096, &HashMap::new()) {
        assert!(process.name.len() <= limits::TEXT_BYTES);
    }
    let _ = process::passwd(bytes);
    assert!(services::systemctl_show(bytes, Some(1)).len() <= limits::SERVICES);
    let _ = (users::session(bytes), users::utmp(bytes));
    let _ = (stream::request(bytes), http::request(bytes), http::answer(bytes), Reply::parse(bytes));
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (http::Url::parse(text), http::is_loopback_name(text), text::decimal(text, 3));
    }
    assert!(text::clean(bytes, 100).len() <= 100);
}

/// A whole reading of mutated files becomes JSON that is one line and, by the agent's own reader, an object.
fn reading(files: BTreeMap<String, Vec<u8>>, other: Vec<u8>) {
    let _ = sensors::temperatures(&files);
    let texts = Texts {
        files,
        filesystems: Some(FilesystemText::Statfs(other.clone())),
        services: Some(ServicesText::Systemctl(other.clone())),
        sessions: Some(vec![other.clone()]),
        utmp: Some(other),
        ..Texts::default()
    };
    let line = json::to_json(&assemble(texts, Sections::ALL));
    assert!(!line.bytes().any(|byte| byte < b' '));
    assert!(Reply::parse(line.as_bytes()).is_some(), "{line}");
}

#[test]
fn mutated_input_panics_nowhere_and_stays_within_limits() {
    let mut corpus_files = Vec::new();
    corpus(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/proc"), &mut corpus_files);
    for seed in [
        "r 17 -psufck",
        "GET /api/all?x HTTP/1.1\r\nHost: localhost:8083\r\nAuthorization: Bearer x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "{\"id\":\"0190\",\"token\":\"\\u0041\",\"interval_ms\":5000,\"x\":[1,{\"y\":null}]}",
        "https://[::1]:9083/base/",
    ] {
        corpus_files.push((seed.to_owned(), seed.as_bytes().to_vec()));
    }
    corpus_files.sort();
    let mut random = Random(0x5eed_0123_4567_89ab);
    let begun = Instant::now();
    let mut inputs = 0_u32;
    while begun.elapsed() < TIME {
        let mut files = BTreeMap::new();
        let mut last = Vec::new();
        for _ in 0..20 {
            let (path, content) = corpus_files.get(random.below(corpus_files.len())).unwrap();
            last = random.mutate(content);
            parsers(&last);
            if let Some(at) = path.find("/proc/").and_then(|_| path.rfind("/proc/")) {
                files.insert(path.get(at..).unwrap().to_owned(), last.clone());
            }
            inputs += 1;
        }
        reading(files, last);
    }
    assert!(inputs >= 100, "{inputs}");
}

/// As on a container host that went wrong: 5,000 mounts, of which a request may name only so many.
#[test]
fn five_thousand_mounts_are_cut_to_the_limit_and_read_fast() {
    let mut table = String::from("1 0 254:0 / / rw - ext4 /dev/vda rw\n");
    for number in 0..5_000 {
        table.push_str(&format!(
            "{number} 1 8:{number} / /mnt/a\\040{number} rw shared:1 - ext4 /dev/sd{number} rw\n"
        ));
    }
    let begun = Instant::now();
    let chosen = mounts::choose(&mounts::mountinfo(table.as_bytes()));
    assert_eq!(chosen.len(), limits::FILESYSTEMS);
    assert_eq!(chosen.first().map(|mount| mount.path.as_str()), Some("/"));
    assert!(begun.elapsed() < Duration::from_secs(5));
}
