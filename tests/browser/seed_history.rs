//! Writes thirty days of history for the browser tests, through the product's own `History::append` and a clock that
//! runs ahead of nobody: `seed_history DATA NAME…`. The program that uses DATA must not run.
//!
//! Each server has a daily rhythm of its own, half an hour without readings that ended with a restart 4.5 hours ago,
//! and for a minute, two hours ago, a CPU at 98 %.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool of the tests that fails loudly")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use roundsman::clock::{Clock, ManualClock, SystemClock};
use roundsman::history::History;
use roundsman::model::{Labels, MetricName, Sample, SeriesKey, ServerNumber, Timestamp};
use roundsman::store::{Store, servers};

const HOUR_MS: i64 = 3_600_000;
const DAYS: i64 = 30;
/// The last hours are read as often as a server is by default; before that fewer readings do.
const FINE_HOURS: i64 = 2;
const MIDDLE_HOURS: i64 = 26;
const FINE_STEP_MS: i64 = 5_000;
const MIDDLE_STEP_MS: i64 = 15_000;
const COARSE_STEP_MS: i64 = 120_000;
const OUTAGE_MS: (i64, i64) = (5 * HOUR_MS, 9 * HOUR_MS / 2);
const SPIKE_MS: (i64, i64) = (2 * HOUR_MS, 2 * HOUR_MS - 60_000);
/// History seals a bucket of half an hour; asked more often it would do nothing.
const SYNC_EVERY_MS: i64 = HOUR_MS / 4;

/// The same noise at every run.
struct Noise(u64);

impl Noise {
    /// From -1 to 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 33).unwrap()) / f64::from(1_u32 << 30) - 1.0
    }
}

fn reading(age_ms: i64, at_ms: i64, server: usize, noise: &mut Noise) -> Vec<Sample> {
    let shift = server as f64;
    let day = (at_ms as f64 / (24.0 * HOUR_MS as f64) + shift * 0.2) * std::f64::consts::TAU;
    let load = 30.0 + 8.0 * shift + 20.0 * day.sin() + 4.0 * noise.next();
    let spike = age_ms <= SPIKE_MS.0 && age_ms > SPIKE_MS.1;
    let cpu = if spike { 98.0 } else { load.clamp(1.0, 90.0) };
    let memory = 62.0 + 6.0 * shift + 3.0 * (day * 0.5).cos() + 0.3 * noise.next();
    let traffic = (load * 40_000.0).max(0.0);
    let uptime_ms =
        if age_ms > OUTAGE_MS.1 { 40 * 24 * HOUR_MS - age_ms } else { OUTAGE_MS.1 - age_ms + 30_000 };
    let age_days = age_ms as f64 / (24.0 * HOUR_MS as f64);
    let mut samples = Vec::new();
    let mut plain = |metric: &'static str, value: f64| {
        samples.push(Sample { key: SeriesKey::plain(metric), value });
    };
    plain("cpu_percent", cpu);
    plain("cpu_user_percent", cpu * 0.7);
    plain("cpu_system_percent", cpu * 0.2);
    plain("cpu_iowait_percent", cpu * 0.1);
    plain("cpu_steal_percent", 0.0);
    plain("load1", cpu / 25.0);
    plain("load5", load.max(1.0) / 25.0);
    plain("load15", load.max(1.0) / 26.0);
    plain("memory_percent", memory);
    plain("swap_percent", 4.0);
    plain("memory_used_bytes", memory / 100.0 * 16e9);
    plain("disk_percent", 88.0 - age_days * 0.5);
    plain("network_rx_bytes", traffic);
    plain("network_tx_bytes", traffic / 3.0);
    plain("disk_read_bytes", traffic / 5.0);
    plain("disk_written_bytes", traffic / 2.0);
    plain("processes", 180.0 + load.round());
    plain("threads", 400.0 + load.round());
    plain("tcp_established", 40.0 + load.round());
    plain("context_switches", 900.0 + 30.0 * load.round());
    plain("response_time_ms", 12.0 + 3.0 * noise.next());
    plain("uptime_seconds", (uptime_ms / 1000) as f64);
    let mut labelled = |metric: &'static str, label: &str, value: f64| {
        let key = SeriesKey { metric: MetricName::known(metric), labels: Labels::of(label) };
        samples.push(Sample { key, value });
    };
    labelled("filesystem_percent", "/", 88.0 - age_days * 0.5);
    labelled("filesystem_percent", "/var", 41.0 + 0.2 * shift);
    for (core, label) in ["0", "1", "2", "3"].iter().enumerate() {
        labelled("core_percent", label, (cpu + 3.0 * core as f64).min(100.0));
    }
    labelled("interface_rx_bytes", "eth0", traffic);
    labelled("interface_tx_bytes", "eth0", traffic / 3.0);
    samples
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut words = std::env::args().skip(1);
    let data = PathBuf::from(words.next().unwrap());
    let names: Vec<String> = words.collect();
    let store = Store::open(&data.join("roundsman.db")).unwrap();
    let known = store.read(servers::all).await.unwrap();
    let numbers: Vec<ServerNumber> = names
        .iter()
        .map(|name| known.iter().find(|stored| stored.server.name.as_str() == name).unwrap().server.number)
        .collect();
    for file in ["history.db", "history.db-wal", "history.db-shm"] {
        // What was read before is later than what is written here, and history takes nothing out of order.
        drop(std::fs::remove_file(data.join(file)));
    }
    let now_ms = SystemClock.now().as_millis();
    let start_ms = now_ms - DAYS * 24 * HOUR_MS;
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(start_ms)));
    let history = History::open(&data.join("history.db"), Arc::<ManualClock>::clone(&clock)).unwrap();
    let mut noise = Noise(7);
    let (mut at_ms, mut synced_ms, mut readings) = (start_ms, start_ms, 0_u32);
    while at_ms < now_ms {
        let age_ms = now_ms - at_ms;
        let silent = age_ms <= OUTAGE_MS.0 && age_ms > OUTAGE_MS.1;
        for (index, number) in numbers.iter().enumerate().filter(|_| !silent) {
            let samples = reading(age_ms, at_ms, index, &mut noise);
            history.append(*number, Timestamp::from_millis(at_ms), &samples);
            readings += 1;
        }
        if at_ms - synced_ms >= SYNC_EVERY_MS {
            history.sync().await.unwrap();
            synced_ms = at_ms;
        }
        let step_ms = match age_ms / HOUR_MS {
            hours if hours >= MIDDLE_HOURS => COARSE_STEP_MS,
            hours if hours >= FINE_HOURS => MIDDLE_STEP_MS,
            _ => FINE_STEP_MS,
        };
        clock.advance(Duration::from_millis(step_ms.unsigned_abs()));
        at_ms += step_ms;
    }
    history.close().await.unwrap();
    println!("{readings} readings of {}", names.join(", "));
}
