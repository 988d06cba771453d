//! What history costs: bytes a sample, memory, time to open. Prints the figures (`--no-capture`).
//!
//! The recording is made up and calmer than many a real server: its bytes a sample guard against a codec
//! that grew worse and are no claim about a real fleet.
//! `ROUNDSMAN_TEST_SERVERS` and `ROUNDSMAN_TEST_HOURS` make the recording larger than a test needs it.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roundsman::clock::{Clock, ManualClock};
use roundsman::history::History;
use roundsman::model::{Labels, MetricName, Sample, SeriesKey, ServerNumber, Timestamp};

const START_MS: i64 = 1_750_000_000_000 / 1_800_000 * 1_800_000;
const INTERVAL_MS: i64 = 5_000;

/// xorshift64*: the same recording each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    /// Around 0, about a bell.
    fn bell(&mut self) -> f64 {
        (0..4).map(|_| self.unit() - 0.5).sum()
    }
}

/// A server of a small firm: a little work all the time, jobs now and then, memory and disks that drift.
struct Machine {
    chance: Chance,
    tick: u64,
    busy: f64,
    load: [f64; 3],
    used_pages: f64,
    cached_pages: f64,
    disk_pages: [f64; 2],
    sockets: f64,
    processes: f64,
    heat: f64,
}

const PAGE: f64 = 4096.0;
const MEMORY_PAGES: f64 = 4_000_000.0;

impl Machine {
    fn new(seed: u32) -> Self {
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ (u64::from(seed) << 17));
        let used_pages = MEMORY_PAGES * (0.2 + 0.5 * chance.unit());
        Self {
            chance,
            tick: 0,
            busy: 4.0,
            load: [0.3; 3],
            used_pages,
            cached_pages: 900_000.0,
            disk_pages: [5_000_000.0, 900_000.0],
            sockets: 40.0,
            processes: 180.0,
            heat: 44.0,
        }
    }

    /// 40 values.
    fn reading(&mut self) -> Vec<Sample> {
        self.step();
        let chance = &mut self.chance;
        let user = self.busy * 0.7;
        let system = self.busy * 0.25;
        let iowait = if chance.one_in(6) { chance.unit() * 2.0 } else { 0.0 };
        let mut samples = Vec::with_capacity(40);
        let mut push = |metric: &'static str, label: &str, value: f64| {
            let key = SeriesKey { metric: MetricName::known(metric), labels: Labels::of(label) };
            samples.push(Sample { key, value });
        };
        push("cpu_percent", "", self.busy);
        push("cpu_user_percent", "", user);
        push("cpu_system_percent", "", system);
        push("cpu_nice_percent", "", 0.0);
        push("cpu_iowait_percent", "", iowait);
        push("cpu_irq_percent", "", if chance.one_in(3) { 0.05 } else { 0.0 });
        push("cpu_steal_percent", "", 0.0);
        for core in ["0", "1", "2", "3"] {
            // A core counts in ticks of 10 ms: 500 steps in 5 s.
            push(
                "core_percent",
                core,
                ((self.busy + chance.bell() * 4.0).clamp(0.0, 100.0) * 5.0).round() / 5.0,
            );
        }
        push("load1", "", self.load[0]);
        push("load5", "", self.load[1]);
        push("load15", "", self.load[2]);
        let (used, cached) = (self.used_pages.round() * PAGE, self.cached_pages.round() * PAGE);
        push("memory_percent", "", used / (MEMORY_PAGES * PAGE) * 100.0);
        push("memory_used_bytes", "", used);
        push("memory_available_bytes", "", MEMORY_PAGES * PAGE - used);
        push("memory_total_bytes", "", MEMORY_PAGES * PAGE);
        push("memory_cached_bytes", "", cached);
        push("swap_percent", "", 0.0);
        push("swap_used_bytes", "", 0.0);
        push("swap_total_bytes", "", 2_147_483_648.0);
        push("pressure_cpu_percent", "", if chance.one_in(4) { chance.unit() * 0.5 } else { 0.0 });
        push("disk_percent", "", self.disk_pages[0] / 10_000_000.0 * 100.0);
        for (mount, pages, size) in
            [("/", self.disk_pages[0], 10_000_000.0), ("/var", self.disk_pages[1], 4_000_000.0)]
        {
            push("filesystem_percent", mount, pages / size * 100.0);
            push("filesystem_used_bytes", mount, pages.round() * PAGE);
        }
        push(
            "disk_read_bytes",
            "",
            if chance.one_in(12) { (chance.unit() * 400.0).round() * PAGE / 5.0 } else { 0.0 },
        );
        push("disk_written_bytes", "", (chance.unit() * chance.unit() * 60.0).round() * PAGE / 5.0);
        let traffic = (self.busy * (1.0 + chance.bell().abs()) * 900.0).round();
        push("network_rx_bytes", "", traffic);
        push("network_tx_bytes", "", (traffic * (0.4 + 0.2 * chance.unit())).round());
        push("tcp_established", "", self.sockets.round());
        push("tcp_time_wait", "", (chance.unit() * 5.0).round());
        push("temperature_celsius", "cpu", self.heat.round());
        push("uptime_seconds", "", self.tick as f64 * 5.0);
        push("processes", "", self.processes.round());
        push("processes_running", "", 1.0 + if chance.one_in(5) { 1.0 } else { 0.0 });
        push("context_switches", "", (1_500.0 + self.busy * 200.0 + chance.bell() * 150.0).round());
        push("active_users", "", 1.0);
        samples
    }

    fn step(&mut self) {
        let chance = &mut self.chance;
        self.tick += 1;
        if chance.one_in(200) {
            self.busy = 20.0 + 60.0 * chance.unit();
        }
        self.busy = (self.busy + (4.0 - self.busy) * 0.1 + chance.bell()).clamp(0.2, 100.0);
        for (load, span) in self.load.iter_mut().zip([12.0, 60.0, 180.0]) {
            *load += (self.busy / 25.0 - *load) / span;
        }
        if chance.one_in(2) {
            self.used_pages += chance.bell() * 60.0;
        }
        if chance.one_in(3) {
            self.cached_pages += 4.0 * chance.unit();
        }
        if chance.one_in(4) {
            self.disk_pages[0] += (chance.unit() * 3.0).round();
        }
        if chance.one_in(15) {
            self.disk_pages[1] += (chance.unit() * 12.0).round();
        }
        if chance.one_in(4) {
            self.sockets = (self.sockets + chance.bell() * 2.0).clamp(5.0, 400.0);
        }
        if chance.one_in(6) {
            self.processes = (self.processes + chance.bell() * 3.0).clamp(120.0, 300.0);
        }
        if chance.one_in(10) {
            self.heat = (self.heat + chance.bell()).clamp(35.0, 80.0);
        }
    }
}

fn wanted(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap())
}

/// CPU time of this process so far. Source: getrusage(2) by way of /proc/self/stat, in ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Resident memory of this process in KiB. Source: proc(5), `/proc/self/status`.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

struct Recording {
    directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
    history: History,
    samples: u64,
}

impl Recording {
    fn path(&self) -> PathBuf {
        self.directory.path().join("history.db")
    }

    /// Appends `ticks` readings of `servers` machines, with some jitter of the network.
    async fn new(servers: u32, ticks: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(START_MS)));
        let history = History::open(&directory.path().join("history.db"), clock.clone()).unwrap();
        let mut machines: Vec<Machine> = (0..servers).map(Machine::new).collect();
        let mut samples = 0;
        for tick in 0..ticks {
            for (server, machine) in (1..).zip(&mut machines) {
                let reading = machine.reading();
                samples += reading.len() as u64;
                let jitter = (machine.chance.unit() * 6.0) as u64;
                let at = clock.now() + Duration::from_millis(jitter);
                history.append(ServerNumber(server), at, &reading);
            }
            clock.advance(Duration::from_millis(INTERVAL_MS.unsigned_abs()));
            // In life a round follows each second; here each minute of the test's clock.
            if tick % 12 == 11 {
                history.sync().await.unwrap();
            }
        }
        history.sync().await.unwrap();
        Self { directory, clock, history, samples }
    }

    fn ask(&self, sql: &str) -> i64 {
        let db = rusqlite::Connection::open(self.path()).unwrap();
        db.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

#[tokio::test]
async fn a_sample_of_a_made_up_fleet_takes_less_than_a_byte_sealed() {
    let servers = wanted("ROUNDSMAN_TEST_SERVERS", 3);
    let ticks = wanted("ROUNDSMAN_TEST_HOURS", 6) * 720;
    let before = cpu();
    let mut machines: Vec<Machine> = (0..servers).map(Machine::new).collect();
    for _ in 0..ticks {
        for machine in &mut machines {
            std::hint::black_box(machine.reading());
        }
    }
    let making = cpu() - before;
    let before = cpu();
    let recording = Recording::new(servers, ticks).await;
    let spent = (cpu() - before).saturating_sub(making);
    // Until all is sealed and what is over is joined.
    for _ in 0..150 {
        recording.clock.advance(Duration::from_secs(60));
        recording.history.sync().await.unwrap();
    }
    let bytes = |name: &str| recording.ask(&format!("SELECT bytes FROM totals WHERE name = '{name}'"));
    let chunks = bytes("raw") + bytes("long");
    let rolled: i64 = ["r1m", "r5m", "r15m", "r1h", "r1d"].map(bytes).into_iter().sum();
    println!("roll-ups: {:.3} bytes a raw sample", rolled as f64 / recording.samples as f64);
    let a_sample = chunks as f64 / recording.samples as f64;
    println!(
        "{} samples: {a_sample:.3} bytes a sample in chunks, {:.3} µs of CPU a sample",
        recording.samples,
        spent.as_secs_f64() * 1e6 / recording.samples as f64
    );
    recording.history.close().await.unwrap();
    let (pages, free) = (recording.ask("PRAGMA page_count"), recording.ask("PRAGMA freelist_count"));
    println!(
        "file: {:.3} bytes a sample with the journal, {:.3} without its free pages",
        pages as f64 * 4096.0 / recording.samples as f64,
        (pages - free) as f64 * 4096.0 / recording.samples as f64
    );
    assert!(a_sample < 1.0, "{a_sample}");

    let history = History::open(&recording.path(), recording.clock.clone()).unwrap();
    let key = SeriesKey::plain("network_rx_bytes");
    let from = Timestamp::from_millis(START_MS);
    let started = Instant::now();
    let points = history.range(ServerNumber(1), &key, from, recording.clock.now(), 1_000).await.unwrap();
    println!("range over {ticks} ticks: {:?}", started.elapsed());
    // The level is that of a minute, and ends where the last whole one does.
    assert!(points.iter().map(|point| point.count).sum::<u32>() >= ticks);
    let started = Instant::now();
    let again = history.range(ServerNumber(1), &key, from, recording.clock.now(), 1_000).await.unwrap();
    println!("again, warm: {:?}", started.elapsed());
    assert_eq!(points, again);
    history.close().await.unwrap();
}

#[tokio::test]
async fn a_full_journal_of_many_servers_is_back_soon_after_a_restart() {
    let servers = wanted("ROUNDSMAN_TEST_SERVERS", 40);
    let before = resident_kib();
    // 35 minutes: buckets were sealed, and the open one is nearly full.
    let recording = Recording::new(servers, 418).await;
    println!("resident: {} KiB more than before", resident_kib().saturating_sub(before));
    let health = recording.history.health();
    println!(
        "{} samples in memory: {:.1} MiB, {:.2} bytes a sample",
        recording.samples,
        health.head_bytes as f64 / f64::from(1 << 20),
        health.head_bytes as f64 / recording.samples as f64
    );
    // 40 MB for 1,000 servers: what is in memory does not grow with the time that the program runs.
    let a_series = health.head_bytes as f64 / f64::from(servers) / 40.0;
    println!("{a_series:.0} bytes of memory a series");
    assert!(a_series < 1000.0, "{a_series}");
    let started = Instant::now();
    for server in 1..=servers {
        for metric in ["cpu_percent", "memory_percent"] {
            let recent = recording.history.recent(ServerNumber(server), &SeriesKey::plain(metric), 60);
            assert_eq!(recent.len(), 60);
        }
    }
    println!("two sparklines of each of {servers} servers: {:?}", started.elapsed());
    let before = recording.history.latest(ServerNumber(1));
    recording.history.close().await.unwrap();
    let journal = recording.ask(
        "SELECT (SELECT coalesce(sum(length(b)), 0) FROM j0) + (SELECT coalesce(sum(length(b)), 0) FROM j1)",
    );
    let started = Instant::now();
    let history = History::open(&recording.path(), recording.clock.clone()).unwrap();
    let elapsed = started.elapsed();
    println!(
        "journal of {:.1} MiB, {:.2} bytes a sample, read back in {elapsed:?}",
        journal as f64 / f64::from(1 << 20),
        journal as f64 / recording.samples as f64
    );
    assert_eq!(history.latest(ServerNumber(1)), before);
    assert_eq!(before.len(), 40);
    // Unoptimised and on a busy machine, still: a start is not to be held up by this.
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    history.close().await.unwrap();
}
