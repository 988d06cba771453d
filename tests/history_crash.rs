//! kill -9 under load: nothing older than two seconds is missing, and what is there is exact.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use roundsman::clock::{Clock, SystemClock};
use roundsman::history::History;
use roundsman::model::{Labels, MetricName, Sample, SeriesKey, ServerNumber, Timestamp};

/// Names the file to the child; without it the child's test does nothing.
const FILE: &str = "ROUNDSMAN_TEST_HISTORY_FILE";
/// Real time at which the fast clock began, in ms.
const BEGAN: &str = "ROUNDSMAN_TEST_HISTORY_BEGAN";

const ROUNDS: usize = 4;
const TICKS_A_ROUND: usize = 160;
const SERVERS: u32 = 20;
const SERIES: usize = 10;
const MAY_BE_LOST_MS: i64 = 2_000;

/// Runs 300 times as fast as the machine's, so that a few seconds see buckets end and being sealed.
#[derive(Debug)]
struct FastClock {
    began: Timestamp,
}

impl FastClock {
    const SPEED: i64 = 300;

    fn at(&self, real: Timestamp) -> Timestamp {
        let elapsed = real.as_millis() - self.began.as_millis();
        Timestamp::from_millis(self.began.as_millis() + elapsed * Self::SPEED)
    }
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        self.at(SystemClock.now())
    }
}

fn key(index: usize) -> SeriesKey {
    match index {
        0 => SeriesKey::plain("cpu_percent"),
        1 => SeriesKey { metric: MetricName::custom("requests".to_owned()), labels: Labels::NONE },
        _ => SeriesKey { metric: MetricName::known("core_percent"), labels: Labels::of(&index.to_string()) },
    }
}

/// Every value follows from who, what and when.
fn value(server: u32, index: usize, at: Timestamp) -> f64 {
    let mixed = at.as_millis().wrapping_mul(2_654_435_761) + i64::from(server) * 131 + index as i64 * 17;
    mixed.rem_euclid(10_000) as f64 / 100.0
}

/// The child: appends until it is killed and says each time (real, and of the fast clock) once it is in.
#[test]
fn child_appends_until_it_is_killed() {
    let (Ok(file), Ok(began)) = (std::env::var(FILE), std::env::var(BEGAN)) else { return };
    let clock = Arc::new(FastClock { began: Timestamp::from_millis(began.parse().unwrap()) });
    let history = History::open(Path::new(&file), clock.clone()).unwrap();
    let mut out = std::io::stdout();
    loop {
        let real = SystemClock.now();
        let at = clock.at(real);
        for server in 1..=SERVERS {
            let samples: Vec<Sample> = (0..SERIES)
                .map(|index| Sample { key: key(index), value: value(server, index, at) })
                .collect();
            history.append(ServerNumber(server), at, &samples);
        }
        writeln!(out, "\ntick {} {}", real.as_millis(), at.as_millis()).unwrap();
        out.flush().unwrap();
        // The pace of the load; nothing is awaited here.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start_child(file: &Path, began: Timestamp) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_appends_until_it_is_killed", "--nocapture"])
        .env(FILE, file)
        .env(BEGAN, began.as_millis().to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Real time and time on the fast clock.
fn parse_tick(line: &str) -> Option<(Timestamp, Timestamp)> {
    let mut words =
        line.strip_prefix("tick ")?.split(' ').map(|word| word.parse().map(Timestamp::from_millis));
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// Runs a child until it said enough, kills it, and answers what it had in and when it was killed.
fn run_and_kill(file: &Path, began: Timestamp, ticks: usize) -> (Vec<(Timestamp, Timestamp)>, Timestamp) {
    let mut child = start_child(file, began);
    let mut seen = Vec::new();
    let mut killed_at = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // The last line may be cut off by the kill.
        let Some(tick) = line.ok().as_deref().and_then(parse_tick) else { continue };
        seen.push(tick);
        if seen.len() == ticks {
            killed_at = Some(SystemClock.now());
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    (seen, killed_at.expect("the child ended by itself"))
}

async fn values_of(
    history: &History,
    server: u32,
    index: usize,
    ticks: &[Timestamp],
) -> Vec<(Timestamp, f64)> {
    let mut found = Vec::new();
    let (Some(first), Some(last)) = (ticks.first(), ticks.last()) else { return found };
    let mut from = *first;
    while from <= *last {
        // One point a second; ticks are 6 s of the fast clock apart.
        let to = from + Duration::from_millis(4_999_999);
        for point in history.range(ServerNumber(server), &key(index), from, to, 5_000).await.unwrap() {
            assert_eq!(point.count, 1);
            found.push((point.at, point.avg));
        }
        from = to + Duration::from_millis(1);
    }
    found
}

#[tokio::test]
async fn a_kill_loses_at_most_two_seconds_and_what_is_there_is_exact() {
    let directory = tempfile::tempdir().unwrap();
    let file: PathBuf = directory.path().join("history.db");
    let began = SystemClock.now();
    let mut kept: Vec<Timestamp> = Vec::new();
    for round in 0..ROUNDS {
        let (ticks, killed_at) = run_and_kill(&file, began, TICKS_A_ROUND + round * 13);
        let safe =
            ticks.iter().filter(|(real, _)| real.as_millis() <= killed_at.as_millis() - MAY_BE_LOST_MS);
        let safe: Vec<Timestamp> = safe.map(|(_, at)| *at).collect();
        assert!(!safe.is_empty(), "the round was too short to prove anything");
        kept.extend(&safe);

        let db = rusqlite::Connection::open(&file).unwrap();
        let verdict: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok");
        drop(db);

        let history = History::open(&file, Arc::new(FastClock { began })).unwrap();
        assert_eq!(history.health().damaged_rows, 0);
        for server in [1, SERVERS / 2, SERVERS] {
            for index in 0..3 {
                let found = values_of(&history, server, index, &kept).await;
                // A point carries the start of its second, a tick its very time.
                let missing: Vec<&Timestamp> = kept
                    .iter()
                    .filter(|at| {
                        let wanted = value(server, index, **at);
                        !found.iter().any(|(second, value)| {
                            *at >= second && at.since(*second).as_millis() < 1_000 && *value == wanted
                        })
                    })
                    .collect();
                assert!(missing.is_empty(), "round {round}, server {server}, series {index}: {missing:?}");
            }
        }
        history.close().await.unwrap();
    }
    let db = rusqlite::Connection::open(&file).unwrap();
    let chunks: i64 = db.query_row("SELECT count(*) FROM raw", [], |row| row.get(0)).unwrap();
    assert!(chunks > 0, "no bucket was sealed meanwhile");
}
