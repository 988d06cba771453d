//! What history keeps, and what it says when it cannot: on a real file, with a clock that the test sets.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use roundsman::clock::{Clock, ManualClock};
use roundsman::history::{History, HistoryError, Point};
use roundsman::model::{Labels, MetricName, Sample, SeriesKey, ServerNumber, Timestamp};

const BUCKET_MS: i64 = 10 * 60 * 1000;
/// The start of a bucket, and of a row of every level.
const START_MS: i64 = 650 * 32 * 24 * 3_600_000;
const WEB: ServerNumber = ServerNumber(1);
const DB: ServerNumber = ServerNumber(2);

fn cpu() -> SeriesKey {
    SeriesKey::plain("cpu_percent")
}

fn core(index: &str) -> SeriesKey {
    SeriesKey { metric: MetricName::known("core_percent"), labels: Labels::of(index) }
}

fn sample(key: SeriesKey, value: f64) -> Sample {
    Sample { key, value }
}

fn ms(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// A history in a directory of its own and the clock that it looks at.
struct Fixture {
    directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
    history: History,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(ms(START_MS)));
        let history = History::open(&directory.path().join("history.db"), clock.clone()).unwrap();
        Self { directory, clock, history }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("history.db")
    }

    fn advance(&self, millis: i64) {
        self.clock.advance(Duration::from_millis(millis as u64));
    }

    /// A reading every 5 s from now on; the clock goes along.
    fn readings(&self, server: ServerNumber, count: usize, value: impl Fn(usize) -> f64) {
        for tick in 0..count {
            self.history.append(server, self.clock.now(), &[sample(cpu(), value(tick))]);
            self.advance(5_000);
        }
    }

    /// Until every bucket that is over is sealed.
    async fn seal(&self) {
        self.advance(BUCKET_MS / 2);
        self.history.sync().await.unwrap();
    }

    async fn reopen(self) -> Self {
        self.history.close().await.unwrap();
        let history = History::open(&self.path(), self.clock.clone()).unwrap();
        Self { history, ..self }
    }

    fn rows(&self, table: &str) -> i64 {
        let db = rusqlite::Connection::open(self.path()).unwrap();
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    fn sql(&self, statements: &str) {
        let db = rusqlite::Connection::open(self.path()).unwrap();
        db.busy_timeout(Duration::from_secs(30)).unwrap();
        db.execute_batch(statements).unwrap();
    }

    async fn all(&self, server: ServerNumber) -> Vec<Point> {
        let end = ms(self.clock.now().as_millis() + 1);
        self.history.range(server, &cpu(), ms(0), end, 1).await.unwrap()
    }
}

fn copy_database(from: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        if name(from).exists() {
            std::fs::copy(name(from), name(to)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_value_can_be_read_as_soon_as_it_was_appended() {
    let fixture = Fixture::new();
    let at = fixture.clock.now();
    fixture.history.append(WEB, at, &[sample(cpu(), 12.34), sample(core("0"), 50.0)]);
    let points = fixture.history.range(WEB, &cpu(), at, at, 10).await.unwrap();
    assert_eq!(points, [Point { at, avg: 12.34, min: 12.34, max: 12.34, count: 1 }]);
    assert_eq!(fixture.history.latest(WEB), [(cpu(), at, 12.34), (core("0"), at, 50.0)]);
    assert_eq!(fixture.history.series(WEB), [core("0"), cpu()]);
    assert!(fixture.history.latest(DB).is_empty());
}

#[tokio::test]
async fn everything_appended_before_close_is_there_after_it() {
    let fixture = Fixture::new();
    fixture.readings(WEB, 100, |tick| tick as f64 / 100.0);
    let fixture = fixture.reopen().await;
    let points = fixture.all(WEB).await;
    assert_eq!((points[0].count, points[0].min, points[0].max), (100, 0.0, 0.99));
    let last = ms(START_MS + 99 * 5_000);
    assert_eq!(fixture.history.latest(WEB), [(cpu(), last, 0.99)]);
}

#[tokio::test]
async fn a_bucket_is_sealed_in_the_next_one_and_its_journal_is_emptied() {
    let fixture = Fixture::new();
    // One and a half buckets: the first is sealed, the second is not.
    fixture.readings(WEB, 180, |tick| (tick % 7) as f64);
    fixture.history.sync().await.unwrap();
    assert_eq!(fixture.rows("raw"), 1);
    let points = fixture.all(WEB).await;
    assert_eq!((points[0].count, points[0].max), (180, 6.0));

    // What comes now goes to the other journal table; the first is emptied when all in it is sealed.
    fixture.readings(WEB, 120, |_| 1.0);
    fixture.seal().await;
    fixture.seal().await;
    assert!(fixture.rows("j0") == 0 || fixture.rows("j1") == 0);
    assert_eq!(fixture.all(WEB).await[0].count, 300);
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.all(WEB).await[0].count, 300);
}

#[tokio::test]
async fn the_bucket_of_a_server_that_vanished_closes_by_time() {
    let fixture = Fixture::new();
    fixture.readings(WEB, 10, |_| 1.0);
    fixture.history.sync().await.unwrap();
    assert_eq!(fixture.rows("raw"), 0);
    fixture.advance(2 * BUCKET_MS);
    fixture.history.sync().await.unwrap();
    assert_eq!(fixture.rows("raw"), 1);
    assert_eq!(fixture.all(WEB).await[0].count, 10);
    assert_eq!(fixture.history.latest(WEB).len(), 1);
}

#[tokio::test]
async fn values_that_come_after_their_bucket_was_sealed_join_it() {
    let fixture = Fixture::new();
    fixture.readings(WEB, 10, |_| 1.0);
    fixture.advance(2 * BUCKET_MS);
    fixture.history.sync().await.unwrap();
    let late = ms(START_MS + 100_000);
    fixture.history.append(WEB, late, &[sample(cpu(), 9.0), sample(core("0"), 3.0)]);
    assert_eq!(fixture.all(WEB).await[0].count, 11);
    fixture.advance(BUCKET_MS);
    fixture.history.sync().await.unwrap();
    assert_eq!(fixture.rows("raw"), 1);
    let points = fixture.all(WEB).await;
    assert_eq!((points[0].count, points[0].max), (11, 9.0));
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.all(WEB).await[0].count, 11);
    assert_eq!(fixture.history.range(WEB, &core("0"), late, late, 1).await.unwrap()[0].avg, 3.0);
}

#[tokio::test]
async fn a_server_read_once_an_hour_is_kept_too() {
    let fixture = Fixture::new();
    for hour in 0..24 {
        fixture.history.append(WEB, fixture.clock.now(), &[sample(cpu(), f64::from(hour))]);
        fixture.history.sync().await.unwrap();
        fixture.advance(3_600_000);
    }
    fixture.history.sync().await.unwrap();
    assert_eq!(fixture.all(WEB).await[0].count, 24);
    let recent: Vec<f64> = fixture.history.recent(WEB, &cpu(), 60).into_iter().flatten().collect();
    assert_eq!(recent, (0..24).map(f64::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn sparklines_have_a_past_after_sealing_and_after_a_restart() {
    let fixture = Fixture::new();
    fixture.readings(WEB, 119, |tick| tick as f64);
    fixture.seal().await;
    assert_eq!(fixture.rows("raw"), 1);
    let wanted: Vec<Option<f64>> = (59..119).map(|tick| Some(f64::from(tick))).collect();
    assert_eq!(fixture.history.recent(WEB, &cpu(), 60), wanted);
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.history.recent(WEB, &cpu(), 60), wanted);
    assert_eq!(fixture.history.recent(WEB, &cpu(), 2), [Some(117.0), Some(118.0)]);
}

#[tokio::test]
async fn a_sparkline_breaks_where_readings_or_the_series_are_missing() {
    let fixture = Fixture::new();
    fixture.readings(WEB, 3, |_| 1.0);
    fixture.history.append(WEB, fixture.clock.now(), &[sample(core("0"), 5.0)]);
    fixture.advance(300_000);
    fixture.readings(WEB, 2, |_| 2.0);
    let one = Some(1.0);
    let two = Some(2.0);
    assert_eq!(fixture.history.recent(WEB, &cpu(), 60), [one, one, one, None, None, two, two]);
}

#[tokio::test]
async fn a_gap_stays_a_gap_and_a_peak_stays_a_peak() {
    let fixture = Fixture::new();
    fixture.readings(WEB, 60, |tick| if tick == 30 { 99.0 } else { 1.0 });
    fixture.advance(300_000);
    fixture.readings(WEB, 60, |_| 1.0);
    let points =
        fixture.history.range(WEB, &cpu(), ms(START_MS), ms(START_MS + 900_000 - 1), 15).await.unwrap();
    let minutes: Vec<i64> = points.iter().map(|point| (point.at.as_millis() - START_MS) / 60_000).collect();
    assert_eq!(minutes, [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
    assert_eq!((points[2].min, points[2].max, points[2].count), (1.0, 99.0, 12));
}

#[tokio::test]
async fn cores_come_all_at_once_in_their_order() {
    let fixture = Fixture::new();
    for index in [10, 2, 0] {
        let at = fixture.clock.now();
        fixture.history.append(WEB, at, &[sample(core(&index.to_string()), f64::from(index))]);
        fixture.advance(1_000);
    }
    let metric = MetricName::known("core_percent");
    let all = fixture.history.range_all(WEB, &metric, ms(0), fixture.clock.now(), 10).await.unwrap().series;
    let labels: Vec<&str> = all.iter().map(|series| series.key.labels.as_str()).collect();
    assert_eq!(labels, ["0", "2", "10"]);
    assert_eq!(all[2].points[0].avg, 10.0);
}

#[tokio::test]
async fn custom_metrics_keep_every_bit() {
    let fixture = Fixture::new();
    let key = SeriesKey { metric: MetricName::custom("llm_cost_usd".to_owned()), labels: Labels::NONE };
    let values = [0.1 + 0.2, -0.0, f64::MIN_POSITIVE, f64::MAX, 1e-300];
    for value in values {
        fixture.history.append(WEB, fixture.clock.now(), &[sample(key.clone(), value)]);
        fixture.advance(1);
    }
    fixture.seal().await;
    fixture.seal().await;
    fixture.seal().await;
    assert_eq!(fixture.rows("raw"), 1);
    let fixture = fixture.reopen().await;
    let points = fixture.history.range(WEB, &key, ms(START_MS), ms(START_MS + 4), 5).await.unwrap();
    let bits: Vec<u64> = points.iter().map(|point| point.avg.to_bits()).collect();
    assert_eq!(bits, values.map(f64::to_bits));
}

#[tokio::test]
async fn what_cannot_be_kept_is_dropped_and_counted() {
    let fixture = Fixture::new();
    let now = fixture.clock.now();
    fixture.history.append(WEB, now, &[sample(cpu(), f64::NAN), sample(core("0"), f64::INFINITY)]);
    fixture.history.append(WEB, now, &[sample(cpu(), 1.0), sample(cpu(), 2.0)]);
    fixture.history.append(WEB, now, &[sample(cpu(), 3.0)]);
    fixture.history.append(WEB, ms(START_MS - 24 * 3_600_000 - 1), &[sample(cpu(), 3.0)]);
    fixture.history.append(WEB, ms(START_MS + 3_600_000), &[sample(cpu(), 4.0)]);
    fixture.history.append(WEB, ms(-1), &[sample(cpu(), 4.0)]);
    fixture.history.append(ServerNumber(1 << 20), now, &[sample(cpu(), 4.0)]);
    let dropped = fixture.history.health().dropped;
    assert_eq!((dropped.not_storable, dropped.out_of_order, dropped.bad_time), (2, 2, 2));
    assert_eq!((dropped.over_limit, dropped.too_late, dropped.lost), (1, 1, 0));
    assert_eq!(fixture.all(WEB).await[0].max, 1.0);
}

#[tokio::test]
async fn a_server_that_makes_up_series_stops_at_the_limit_and_harms_nobody() {
    let fixture = Fixture::new();
    for round in 0..10 {
        let samples: Vec<Sample> =
            (0..5_000).map(|index| sample(core(&format!("{round}-{index}")), 1.0)).collect();
        fixture.history.append(WEB, fixture.clock.now(), &samples);
        fixture.advance(1_000);
    }
    fixture.history.append(DB, fixture.clock.now(), &[sample(core("new"), 1.0)]);
    assert_eq!(fixture.history.series(WEB).len(), roundsman::history::MAX_SERIES_PER_SERVER);
    assert_eq!(fixture.history.series(DB).len(), 1);
    assert!(fixture.history.health().dropped.over_limit >= 45_000);
}

#[tokio::test]
async fn a_removed_server_is_gone_for_good_and_the_others_stay() {
    let fixture = Fixture::new();
    for server in [WEB, DB] {
        fixture.history.append(server, fixture.clock.now(), &[sample(cpu(), 1.0)]);
    }
    fixture.advance(2 * BUCKET_MS);
    fixture.history.sync().await.unwrap();
    for server in [WEB, DB] {
        fixture.history.append(server, fixture.clock.now(), &[sample(cpu(), 2.0)]);
    }
    fixture.history.forget(WEB).await.unwrap();
    fixture.history.append(WEB, fixture.clock.now(), &[sample(cpu(), 3.0)]);
    assert!(fixture.all(WEB).await.is_empty());
    let fixture = fixture.reopen().await;
    assert!(fixture.all(WEB).await.is_empty());
    assert!(fixture.history.latest(WEB).is_empty());
    assert_eq!(fixture.all(DB).await[0].count, 2);
    assert_eq!(fixture.rows("raw"), 1);
}

#[tokio::test]
async fn a_removal_that_was_cut_short_is_finished_at_the_next_start() {
    let fixture = Fixture::new();
    fixture.readings(WEB, 10, |_| 1.0);
    fixture.advance(2 * BUCKET_MS);
    fixture.history.sync().await.unwrap();
    fixture.history.close().await.unwrap();
    fixture.sql("INSERT INTO forgotten (server, in_j0, in_j1) VALUES (1, 1, 1)");
    let history = History::open(&fixture.path(), fixture.clock.clone()).unwrap();
    assert!(history.latest(WEB).is_empty());
    assert!(history.range(WEB, &cpu(), ms(0), fixture.clock.now(), 1).await.unwrap().is_empty());
    assert_eq!(fixture.rows("raw"), 0);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_loses_nothing_and_is_caught_up() {
    let fixture = Fixture::new();
    fixture.readings(WEB, 10, |_| 1.0);
    fixture.history.sync().await.unwrap();
    for table in ["j0", "j1"] {
        fixture.sql(&format!(
            "CREATE TRIGGER full_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
        ));
    }
    fixture.readings(WEB, 20, |_| 2.0);
    let error = fixture.history.sync().await.unwrap_err();
    assert!(error.to_string().contains("disk is full"), "{error}");
    let health = fixture.history.health();
    assert!(health.last_error.unwrap().contains("disk is full"));
    assert!(health.behind_s >= 100, "{}", health.behind_s);
    // Readings go on, and are on the page.
    assert_eq!(fixture.all(WEB).await[0].count, 30);
    fixture.sql("DROP TRIGGER full_j0; DROP TRIGGER full_j1");
    fixture.history.sync().await.unwrap();
    let health = fixture.history.health();
    assert_eq!((health.last_error, health.behind_s), (None, 0));
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.all(WEB).await[0].count, 30);
}

#[tokio::test]
async fn a_damaged_chunk_is_counted_and_skipped_and_the_rest_lives() {
    let fixture = Fixture::new();
    for _ in 0..3 {
        fixture.readings(WEB, 10, |_| 1.0);
        fixture.advance(BUCKET_MS);
    }
    fixture.advance(BUCKET_MS);
    fixture.history.sync().await.unwrap();
    assert_eq!(fixture.rows("raw"), 3);
    fixture.sql(
        "UPDATE raw SET b = CAST(substr(b, 1, 20) || x'ff' || substr(b, 22) AS BLOB) WHERE k = (SELECT min(k) FROM raw)",
    );
    assert_eq!(fixture.all(WEB).await[0].count, 20);
    assert_eq!(fixture.history.health().damaged_rows, 1);
}

#[tokio::test]
async fn a_damaged_journal_row_is_counted_and_the_rest_lives() {
    let fixture = Fixture::new();
    for _ in 0..3 {
        fixture.readings(WEB, 1, |_| 1.0);
        fixture.history.sync().await.unwrap();
    }
    fixture.history.close().await.unwrap();
    for table in ["j0", "j1"] {
        fixture.sql(&format!(
            "UPDATE {table} SET b = CAST(substr(b, 1, 10) || x'ff' || substr(b, 12) AS BLOB) WHERE k = 2"
        ));
    }
    let history = History::open(&fixture.path(), fixture.clock.clone()).unwrap();
    let points = history.range(WEB, &cpu(), ms(0), fixture.clock.now(), 1).await.unwrap();
    assert_eq!(points[0].count, 2);
    assert_eq!(history.health().damaged_rows, 1);
}

#[tokio::test]
async fn a_file_of_a_newer_version_or_no_database_is_refused_and_left_alone() {
    let fixture = Fixture::new();
    fixture.history.close().await.unwrap();
    fixture.sql("PRAGMA user_version = 99");
    let refused = History::open(&fixture.path(), fixture.clock.clone()).unwrap_err();
    assert!(matches!(refused, HistoryError::NewerVersion { found: 99, .. }), "{refused}");

    let text = fixture.directory.path().join("text.db");
    std::fs::write(&text, "this is a letter, not a database; ".repeat(200)).unwrap();
    let before = std::fs::read(&text).unwrap();
    let refused = History::open(&text, fixture.clock.clone()).unwrap_err();
    assert!(matches!(refused, HistoryError::Damaged { .. }), "{refused}");
    assert_eq!(std::fs::read(&text).unwrap(), before);
}

#[tokio::test]
async fn a_range_that_makes_no_sense_is_refused() {
    let fixture = Fixture::new();
    for points in [0, 5_001] {
        let refused = fixture.history.range(WEB, &cpu(), ms(0), ms(1), points).await.unwrap_err();
        assert!(matches!(refused, HistoryError::BadPoints { .. }), "{refused}");
    }
    let refused = fixture.history.range(WEB, &cpu(), ms(2), ms(1), 10).await.unwrap_err();
    assert!(matches!(refused, HistoryError::BadRange), "{refused}");
    let everything = fixture.history.range(WEB, &cpu(), ms(0), ms(i64::MAX), 10).await.unwrap();
    assert!(everything.is_empty());
}

#[tokio::test]
async fn a_copy_taken_at_any_moment_opens_with_what_was_synced() {
    let fixture = Fixture::new();
    for round in 1..=20_usize {
        fixture.readings(WEB, 15, |tick| tick as f64);
        fixture.readings(DB, 1, |_| 1.0);
        fixture.history.sync().await.unwrap();
        let copy = fixture.directory.path().join(format!("copy{round}.db"));
        copy_database(&fixture.path(), &copy);
        let history = History::open(&copy, fixture.clock.clone()).unwrap();
        let points = history.range(WEB, &cpu(), ms(0), fixture.clock.now(), 1).await.unwrap();
        assert_eq!(points[0].count as usize, 15 * round);
        history.close().await.unwrap();
    }
    assert!(fixture.rows("raw") >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_read_while_buckets_are_sealed_misses_nothing_and_counts_nothing_twice() {
    let fixture = Fixture::new();
    for _ in 0..100 {
        for server in 1..=30 {
            fixture.history.append(ServerNumber(server), fixture.clock.now(), &[sample(cpu(), 1.0)]);
        }
        fixture.advance(6_000);
    }
    let now = fixture.clock.now();
    let history = fixture.history.clone();
    let sealed = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&sealed);
    let reader = tokio::spawn(async move {
        for server in (1..=30).cycle() {
            let points = history.range(ServerNumber(server), &cpu(), ms(0), now, 1).await.unwrap();
            assert_eq!(points.iter().map(|point| point.count).collect::<Vec<_>>(), [100]);
            if until.load(Ordering::Relaxed) {
                return;
            }
        }
    });
    // A quarter of a bucket, in steps: a few servers are due at each.
    for _ in 0..40 {
        fixture.advance(5_000);
        fixture.history.sync().await.unwrap();
    }
    sealed.store(true, Ordering::Relaxed);
    reader.await.unwrap();
    assert_eq!(fixture.rows("raw"), 30);
}

/// The straightforward way to fold values into spans.
fn naive(values: &[(i64, f64)], from: i64, to: i64, width: i64) -> Vec<Point> {
    (0..=(to - from) / width)
        .filter_map(|span| {
            let start = from + span * width;
            let inside: Vec<f64> = values
                .iter()
                .filter(|(at, _)| *at >= start && *at < start + width && *at <= to)
                .map(|(_, value)| *value)
                .collect();
            let (min, max) = (
                inside.iter().copied().fold(f64::INFINITY, f64::min),
                inside.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            );
            (!inside.is_empty()).then(|| Point {
                at: ms(start),
                avg: inside.iter().sum::<f64>() / inside.len() as f64,
                min,
                max,
                count: inside.len() as u32,
            })
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_range_equals_the_naive_reference_whatever_is_sealed_or_rolled_up(
        steps in proptest::collection::vec((prop_oneof![9 => 1_000_i64..40_000, 1 => 0..60 * BUCKET_MS], prop_oneof![
            3 => (0_u32..10_000).prop_map(|value| Some(f64::from(value) / 100.0)), 1 => Just(None)]), 1..600),
        ranges in proptest::collection::vec((0_i64..30 * BUCKET_MS, 0_i64..800 * BUCKET_MS, 1_i64..400), 4),
        restart: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut fixture = Fixture::new();
            let mut values = Vec::new();
            for (count, (step, value)) in steps.iter().enumerate() {
                fixture.advance(step + 1);
                let at = fixture.clock.now();
                let mut samples = vec![sample(core("0"), 1.0)];
                if let Some(value) = value {
                    samples.push(sample(cpu(), *value));
                    values.push((at.as_millis(), *value));
                }
                fixture.history.append(WEB, at, &samples);
                // A jump ends a bucket; the writer must see each, as it does once a second.
                if count % 15 == 14 || *step > 40_000 {
                    fixture.history.sync().await.unwrap();
                }
            }
            if restart {
                fixture = fixture.reopen().await;
            }
            for (start, length, points) in ranges {
                let (from, to) = (START_MS + start, START_MS + start + length);
                let wanted = [(WEB, cpu())];
                let answer = fixture.history.ranges(&wanted, ms(from), ms(to), points as usize).await.unwrap();
                let step = answer.level.step_ms();
                let to = if step > 1 && to > from { to - 1 } else { to };
                let (from, to) = (from / step * step, to / step * step + step - 1);
                let spans = (to - from) / answer.width_ms + 1;
                assert!(spans <= points && answer.width_ms % step == 0 && answer.from == ms(from));
                let found = &answer.series[0].points;
                let wanted = naive(&values, from, to, answer.width_ms);
                assert_eq!(found.len(), wanted.len());
                for (found, wanted) in found.iter().zip(&wanted) {
                    assert_eq!((found.at, found.min, found.max, found.count), (wanted.at, wanted.min, wanted.max, wanted.count));
                    // Each of five levels rounds averages to a hundredth of a percent.
                    assert!((found.avg - wanted.avg).abs() < 0.026, "{} {}", found.avg, wanted.avg);
                }
            }
        });
    }
}
