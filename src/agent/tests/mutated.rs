//! Every parser of the agent against its fixtures, mutated: none may panic, hang, or answer more than its limits.
//!
//! A deterministic fuzzer instead of cargo-fuzz, which needs a nightly toolchain: the same seed gives the same inputs, so
//! a failure here is a failure everywhere. The corpus is `tests/fixtures/proc` and the texts below.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../tests/mutator/mod.rs"]
mod mutator;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutator::Random;
use roundsman_agent::proc::{
    cpu, disks, kernel, memory, mounts, network, process, sensors, services, sockets, users,
};
use roundsman_agent::reading::{FilesystemText, ServicesText, Texts, assemble};
use roundsman_agent::{Sections, http, json, limits, reply::Reply, stream, text};

/// Long enough for some ten thousand inputs on a loaded machine.
const TIME: Duration = Duration::from_secs(5);

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
    let _ = (network::tcp(some, some, some), sockets::expected(some, some), sockets::counted(bytes).states());
    let mut counter = sockets::Counter::default();
    let _ = (counter.feed(bytes), counter.walk().states());
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
    let mut random = Random::seeded(0x5eed_0123_4567_89ab);
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

/// Whoever looks up a path below a mount whose server is gone waits with it, whatever is mounted there.
#[test]
fn what_is_mounted_below_a_remote_filesystem_is_not_asked_for() {
    let table = "1 0 254:0 / / rw - ext4 /dev/vda rw\n2 1 0:50 / /net rw - nfs4 files:/ rw\n\
                 3 2 8:1 / /net/disk rw - ext4 /dev/sda rw\n4 1 0:51 / /home/a/ssh rw - fuse.sshfs a: rw\n\
                 5 4 8:2 / /home/a/ssh/deep/disk rw - xfs /dev/sdb rw\n6 1 8:3 / /network rw - ext4 /dev/sdc rw\n";
    let paths = |table: &str| -> Vec<String> {
        mounts::choose(&mounts::mountinfo(table.as_bytes())).into_iter().map(|mount| mount.path).collect()
    };
    assert_eq!(paths(table), ["/", "/network"]);
    // Of a machine without a disk all is below its root.
    assert_eq!(
        paths("1 0 0:50 / / rw - nfs4 files:/ rw\n2 1 8:1 / /data rw - ext4 /dev/sda rw\n"),
        ["/data"]
    );
}
