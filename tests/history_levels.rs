//! Roll-ups, retention, what comes late, clocks that jump, damage: on a real file, with a clock that the test sets.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use roundsman::clock::{Clock, ManualClock};
use roundsman::history::{Aggregate, History, HistoryError, Level, Point, Retention};
use roundsman::model::{Labels, MetricName, Sample, SeriesKey, ServerNumber, Timestamp};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// The start of a row of every level.
const START_MS: i64 = 650 * 32 * DAY_MS;
const WEB: ServerNumber = ServerNumber(1);
const DB: ServerNumber = ServerNumber(2);

fn cpu() -> SeriesKey {
    SeriesKey::plain("cpu_percent")
}

fn custom(name: &str) -> SeriesKey {
    SeriesKey { metric: MetricName::custom(name.to_owned()), labels: Labels::NONE }
}

fn ms(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

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
        self.clock.advance(Duration::from_millis(millis.try_into().unwrap()));
    }

    fn append(&self, server: ServerNumber, key: &SeriesKey, value: f64) {
        self.history.append(server, self.clock.now(), &[Sample { key: key.clone(), value }]);
    }

    /// Readings every `step_ms` for `span_ms`; the writer has a round every five minutes and at the end.
    async fn readings(&self, span_ms: i64, step_ms: i64, value: impl Fn(i64) -> f64) {
        let start = self.clock.now().as_millis();
        let mut synced = start;
        while self.clock.now().as_millis() < start + span_ms {
            let at = self.clock.now().as_millis();
            self.append(WEB, &cpu(), value(at));
            self.advance(step_ms);
            if at - synced >= 5 * MINUTE_MS {
                synced = at;
                self.history.sync().await.unwrap();
            }
        }
        self.history.sync().await.unwrap();
    }

    /// Until all that can be rolled up is.
    async fn settle(&self) {
        for _ in 0..10 {
            self.advance(HOUR_MS);
            for _ in 0..5 {
                self.history.sync().await.unwrap();
            }
        }
    }

    async fn reopen(self) -> Self {
        self.history.close().await.unwrap();
        let history = History::open(&self.path(), self.clock.clone()).unwrap();
        Self { history, ..self }
    }

    fn sql(&self, statements: &str) {
        let db = rusqlite::Connection::open(self.path()).unwrap();
        db.busy_timeout(Duration::from_secs(30)).unwrap();
        db.execute_batch(statements).unwrap();
    }

    fn rows(&self, table: &str) -> i64 {
        let db = rusqlite::Connection::open(self.path()).unwrap();
        db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    async fn range(&self, from: i64, to: i64, points: usize) -> (Level, Vec<Point>) {
        let answer = self.history.ranges(&[(WEB, cpu())], ms(from), ms(to), points).await.unwrap();
        (answer.level, answer.series.into_iter().next().unwrap().points)
    }

    async fn count(&self) -> u32 {
        let points = self.history.range(WEB, &cpu(), ms(0), self.clock.now(), 1).await.unwrap();
        points.iter().map(|point| point.count).sum()
    }
}

/// A value that follows from its time, so that any answer can be checked.
fn wave(at_ms: i64) -> f64 {
    (at_ms / 1000 * 7919 % 10_000) as f64 / 100.0
}

#[tokio::test]
async fn every_level_has_count_average_and_both_extremes_of_its_samples() {
    let fixture = Fixture::new();
    // A peak of one reading in two days, and a gap of an hour.
    let peak = START_MS + 26 * HOUR_MS + 20_000;
    fixture.readings(30 * HOUR_MS, 20_000, |at| if at == peak { 100.0 } else { wave(at) / 2.0 }).await;
    fixture.advance(HOUR_MS);
    fixture.readings(17 * HOUR_MS, 20_000, |at| wave(at) / 2.0).await;
    fixture.settle().await;
    assert_eq!(fixture.rows("r1m"), 8);
    assert_eq!(fixture.rows("r5m"), 2);
    let cases = [
        (Level::Raw, 2 * HOUR_MS, 360),
        (Level::Minute, 12 * HOUR_MS, 720),
        (Level::FiveMinutes, 48 * HOUR_MS, 576),
        (Level::QuarterHour, 48 * HOUR_MS, 192),
        (Level::Hour, 48 * HOUR_MS, 48),
        (Level::Day, 48 * HOUR_MS, 2),
    ];
    for (level, span, points) in cases {
        // The peak is in the range, the gap too.
        let from = START_MS + if span < DAY_MS { 25 * HOUR_MS } else { 0 };
        let (found, points) = fixture.range(from, from + span - 1, points).await;
        assert_eq!(found, level);
        let peaks: Vec<&Point> = points.iter().filter(|point| point.max == 100.0).collect();
        assert_eq!(peaks.len(), 1, "{level:?}");
        let at = peaks[0].at.as_millis();
        assert!(at <= peak && peak < at + level.step_ms().max(20_000), "{level:?}");
        let gap = START_MS + 30 * HOUR_MS..START_MS + 31 * HOUR_MS;
        if level < Level::Day {
            assert!(points.iter().all(|point| !gap.contains(&point.at.as_millis())), "{level:?}");
        }
        for point in points.iter().filter(|point| point.max < 100.0) {
            let step = level.step_ms().max(20_000);
            let times = (0..step / 20_000).map(|tick| point.at.as_millis() + tick * 20_000);
            let values: Vec<f64> = times.filter(|at| !gap.contains(at)).map(|at| wave(at) / 2.0).collect();
            let rounded = |value: f64| (value * 100.0).round() / 100.0;
            assert_eq!(point.count as usize, values.len(), "{level:?}");
            assert_eq!(point.min, rounded(values.iter().copied().fold(f64::INFINITY, f64::min)));
            assert_eq!(point.max, rounded(values.iter().copied().fold(0.0, f64::max)));
            let average = values.iter().map(|value| rounded(*value)).sum::<f64>() / values.len() as f64;
            assert!((point.avg - average).abs() < 0.03, "{level:?} {} {average}", point.avg);
        }
    }
}

#[tokio::test]
async fn roll_ups_go_on_after_a_restart_at_any_moment() {
    let mut fixture = Fixture::new();
    for _ in 0..30 {
        fixture.readings(100 * MINUTE_MS, 30_000, wave).await;
        fixture = fixture.reopen().await;
    }
    fixture.settle().await;
    assert_eq!((fixture.rows("r1m"), fixture.rows("r5m")), (9, 2));
    assert_eq!(fixture.count().await, 6000);
    let (level, points) = fixture.range(START_MS, START_MS + 50 * HOUR_MS - 1, 50).await;
    assert_eq!(level, Level::Hour);
    assert!(points.iter().all(|point| point.count == 120));
    assert_eq!(points.len(), 50);
}

#[tokio::test]
async fn six_hours_of_chunks_become_one_and_nothing_is_lost() {
    let fixture = Fixture::new();
    fixture.readings(14 * HOUR_MS, 10_000, wave).await;
    assert_eq!(fixture.rows("long"), 2);
    assert!(fixture.rows("raw") <= 13, "{}", fixture.rows("raw"));
    let (level, points) = fixture.range(START_MS, START_MS + 12 * HOUR_MS - 1, 4320).await;
    assert_eq!((level, points.len()), (Level::Raw, 4320));
    let rounded = |value: f64| (value * 100.0).round() / 100.0;
    assert!(points.iter().all(|point| point.avg == rounded(wave(point.at.as_millis()))));
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.count().await, 5040);
}

#[tokio::test]
async fn retention_takes_what_has_expired_level_by_level_and_says_so() {
    let fixture = Fixture::new();
    let short = Retention {
        raw_days: 2,
        minute_days: 2,
        five_minutes_days: 8,
        quarter_hour_days: 32,
        hour_days: 64,
        day_days: 400,
    };
    fixture.history.set_retention(short, None).await.unwrap();
    fixture.readings(6 * DAY_MS, 2 * MINUTE_MS, wave).await;
    fixture.settle().await;
    let before = fixture.history.sizes().await.unwrap();
    let removal = fixture.history.remove_expired().await.unwrap();
    let levels: Vec<Level> = removal.removed.iter().map(|removed| removed.level).collect();
    assert_eq!(levels, [Level::Raw, Level::Minute]);
    assert!(removal.removed.iter().all(|removed| removed.rows > 0 && removed.bytes > 0));
    assert_eq!(fixture.history.last_removal(), Some(removal.clone()));
    let after = fixture.history.sizes().await.unwrap();
    for (size, old) in after.levels.iter().zip(&before.levels) {
        let removed = removal.removed.iter().find(|removed| removed.level == size.level);
        let (rows, bytes) = removed.map_or((0, 0), |removed| (removed.rows, removed.bytes));
        assert_eq!((size.rows + rows, size.bytes + bytes), (old.rows, old.bytes), "{:?}", size.level);
        assert_eq!(size.retention_days, short.days(size.level));
        if size.level < Level::Hour {
            assert!(size.rows > 0 && size.bytes_a_day > 0.0 && size.oldest < size.newest);
        }
    }
    // The oldest hour is there as five minutes, and no longer as raw values.
    let (level, points) = fixture.range(START_MS, START_MS + HOUR_MS - 1, 60).await;
    assert_eq!((level, points.len()), (Level::FiveMinutes, 12));
    assert_eq!(fixture.count().await, 6 * 720);
    // Nothing more has expired.
    assert_eq!(fixture.history.remove_expired().await.unwrap().removed, []);
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.history.retention(), short);
}

#[tokio::test]
async fn a_retention_that_cannot_be_is_refused_and_changes_nothing() {
    let fixture = Fixture::new();
    let refused = fixture
        .history
        .set_retention(Retention { raw_days: 0, ..Retention::default() }, None)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("raw history cannot be kept for 0 days"), "{refused}");
    assert_eq!(fixture.history.retention(), Retention::default());
}

#[tokio::test]
async fn nothing_expires_before_it_is_rolled_up_and_archived() {
    let fixture = Fixture::new();
    let archive = fixture.directory.path().join("archive");
    let short = Retention { raw_days: 2, minute_days: 2, ..Retention::default() };
    fixture.history.set_retention(short, Some(archive.clone())).await.unwrap();
    fixture.readings(8 * HOUR_MS, 10_000, wave).await;
    // Long after, without a round in between: nothing is rolled up yet.
    fixture.advance(30 * DAY_MS);
    let removal = fixture.history.remove_expired().await.unwrap();
    assert!(removal.removed.iter().all(|removed| removed.before <= ms(START_MS + 6 * HOUR_MS)));
    // The writer may join them at any moment.
    assert!(fixture.rows("raw") + fixture.rows("long") > 0);
    assert_eq!(fixture.count().await, 2880);
    for _ in 0..50 {
        fixture.history.sync().await.unwrap();
    }
    let removal = fixture.history.remove_expired().await.unwrap();
    assert!(removal.removed.iter().any(|removed| removed.level == Level::Raw));
    assert_eq!(fixture.rows("raw") + fixture.rows("long") + fixture.rows("r1m"), 0);
    assert_eq!(fixture.count().await, 2880);

    let day = |level: &str| {
        let at = jiff::Timestamp::from_millisecond(START_MS).unwrap().strftime("%Y-%m-%d").to_string();
        let file = std::fs::File::open(archive.join(format!("{level}-{at}.csv.gz"))).unwrap();
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
        text
    };
    let raw = day("raw");
    assert_eq!(raw.lines().count(), 2881);
    assert_eq!(raw.lines().next(), Some("time,server,metric,label,value"));
    let rounded = (wave(START_MS) * 100.0).round() / 100.0;
    assert_eq!(raw.lines().nth(1).unwrap(), format!("{START_MS},1,cpu_percent,,{rounded}"));
    let minutes = day("1m");
    assert!(minutes.starts_with("time,server,metric,label,count,avg,min,max\n"), "{minutes}");
    assert_eq!(minutes.lines().count(), 481);
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_keeps_what_has_expired() {
    let fixture = Fixture::new();
    let file = fixture.directory.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let short = Retention { raw_days: 2, minute_days: 2, ..Retention::default() };
    fixture.history.set_retention(short, Some(file.join("archive"))).await.unwrap();
    fixture.readings(8 * HOUR_MS, 60_000, wave).await;
    fixture.advance(10 * DAY_MS);
    for _ in 0..20 {
        fixture.history.sync().await.unwrap();
    }
    let before = fixture.rows("raw") + fixture.rows("long");
    let refused = fixture.history.remove_expired().await.unwrap_err();
    assert!(refused.to_string().contains("cannot be archived"), "{refused}");
    assert_eq!(fixture.rows("raw") + fixture.rows("long"), before);
    assert!(fixture.history.health().removal_error.unwrap().contains("cannot be archived"));
    // Readings go on.
    fixture.append(WEB, &cpu(), 1.0);
    fixture.history.sync().await.unwrap();
    assert!(fixture.rows("j0") + fixture.rows("j1") > 0);
}

#[tokio::test]
async fn a_late_batch_joins_what_is_sealed_and_its_roll_ups() {
    let fixture = Fixture::new();
    fixture.readings(7 * HOUR_MS, 60_000, |_| 1.0).await;
    // The agent of this server was cut off for two hours and reports now, in order, a peak among it.
    let missing: Vec<i64> = (0..120).map(|minute| START_MS + HOUR_MS + minute * MINUTE_MS + 30_000).collect();
    for at in &missing {
        let value = if *at == missing[60] { 90.0 } else { 2.0 };
        fixture.history.append(WEB, ms(*at), &[Sample { key: cpu(), value }]);
    }
    assert_eq!(fixture.count().await, 420 + 120);
    assert_eq!(fixture.history.health().late, 120);
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.count().await, 420 + 120);
    fixture.settle().await;
    assert_eq!(fixture.history.health().dropped, roundsman::history::Dropped::default());
    assert_eq!(fixture.count().await, 420 + 120);
    // By the minute: both readings of each minute, and the peak at its place.
    let (level, points) = fixture.range(START_MS + HOUR_MS, START_MS + 3 * HOUR_MS - 1, 120).await;
    assert_eq!((level, points.len()), (Level::Minute, 120));
    assert!(points.iter().all(|point| point.count == 2 && point.min == 1.0));
    assert_eq!(points[60].max, 90.0);
    // The same batch again changes nothing.
    for at in &missing {
        fixture.history.append(WEB, ms(*at), &[Sample { key: cpu(), value: 50.0 }]);
    }
    fixture.settle().await;
    let (_, points) = fixture.range(START_MS + HOUR_MS, START_MS + 3 * HOUR_MS - 1, 120).await;
    assert!(points.iter().all(|point| point.count == 2 && point.max < 91.0 && point.max != 50.0));
}

#[tokio::test]
async fn a_clock_that_ran_ahead_and_was_set_back_loses_nothing_before_or_after() {
    for ahead_ms in [10 * MINUTE_MS, 3 * HOUR_MS, 400 * DAY_MS] {
        let fixture = Fixture::new();
        fixture.readings(30 * MINUTE_MS, 5_000, |_| 1.0).await;
        let real = fixture.clock.now();
        fixture.advance(ahead_ms);
        fixture.readings(5 * MINUTE_MS, 5_000, |_| 2.0).await;
        fixture.clock.set(real);
        fixture.readings(40 * MINUTE_MS, 5_000, |_| 3.0).await;
        let now = fixture.clock.now();
        assert_eq!(fixture.history.latest(WEB), [(cpu(), ms(now.as_millis() - 5_000), 3.0)]);
        let fixture = fixture.reopen().await;
        let (_, points) = fixture.range(START_MS, START_MS + 70 * MINUTE_MS - 1, 840).await;
        let count = |value: f64| points.iter().filter(|point| point.avg == value).count();
        // What the clock said twice is kept once.
        let twice = if ahead_ms < 40 * MINUTE_MS { 60 } else { 0 };
        assert_eq!((count(1.0), count(3.0)), (360, 480 - twice), "{ahead_ms}");
        assert_eq!(fixture.history.health().dropped.lost, 0);
        assert!(fixture.history.check_integrity().await.unwrap().is_ok());
        // And the journal is emptied again, whatever stands in the future.
        fixture.settle().await;
        assert_eq!(fixture.rows("j0").min(fixture.rows("j1")), 0);
    }
}

#[tokio::test]
async fn two_restarts_lose_nothing_of_a_bucket_that_ended_while_the_program_was_down() {
    let fixture = Fixture::new();
    fixture.readings(10 * MINUTE_MS, MINUTE_MS, |_| 1.0).await;
    fixture.history.close().await.unwrap();
    fixture.advance(6 * MINUTE_MS);
    let history = History::open(&fixture.path(), fixture.clock.clone()).unwrap();
    let fixture = Fixture { history, ..fixture };
    // The time of the bucket that was brought back is later than that of the one behind it.
    fixture.readings(4 * MINUTE_MS, MINUTE_MS, |_| 2.0).await;
    fixture.advance(45_000);
    fixture.history.sync().await.unwrap();
    assert_eq!(fixture.rows("raw"), 2);
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.count().await, 14);
    fixture.settle().await;
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.count().await, 14);
}

#[tokio::test]
async fn a_restart_after_the_clock_was_set_back_loses_nothing() {
    let fixture = Fixture::new();
    fixture.readings(5 * MINUTE_MS, MINUTE_MS, |_| 1.0).await;
    let real = fixture.clock.now();
    fixture.advance(3 * HOUR_MS);
    fixture.append(WEB, &cpu(), 2.0);
    fixture.clock.set(real);
    fixture.append(WEB, &cpu(), 3.0);
    fixture.history.sync().await.unwrap();
    assert_eq!(fixture.rows("raw"), 2);
    let fixture = fixture.reopen().await;
    // Five, the one ahead, and the one after it was set back.
    assert_eq!(fixture.count().await, 7);
}

#[tokio::test]
async fn a_step_of_the_clock_is_counted() {
    let fixture = Fixture::new();
    fixture.history.sync().await.unwrap();
    assert_eq!(fixture.history.health().clock_steps, 0);
    fixture.advance(HOUR_MS);
    fixture.history.sync().await.unwrap();
    assert_eq!(fixture.history.health().clock_steps, 1);
}

#[tokio::test]
async fn the_hourly_removal_does_not_believe_a_clock_that_jumps_a_year() {
    let fixture = Fixture::new();
    fixture.readings(8 * HOUR_MS, 60_000, wave).await;
    fixture.settle().await;
    let before = fixture.rows("raw") + fixture.rows("long");
    fixture.advance(400 * DAY_MS);
    // A person may remove it all; the writer's own rounds have not.
    for _ in 0..5 {
        fixture.history.sync().await.unwrap();
    }
    assert_eq!(fixture.rows("raw") + fixture.rows("long"), before);
}

#[tokio::test]
async fn damage_in_a_roll_up_is_reported_and_skipped_and_the_rest_lives() {
    let fixture = Fixture::new();
    fixture.readings(24 * HOUR_MS + 30 * MINUTE_MS, 60_000, |_| 1.0).await;
    assert!(fixture.history.check_integrity().await.unwrap().is_ok());
    fixture.sql(
        "UPDATE r1m SET b = CAST(substr(b, 1, 20) || x'ff' || substr(b, 22) AS BLOB) WHERE k = (SELECT min(k) FROM r1m);
         UPDATE long SET b = CAST(substr(b, 1, 9) AS BLOB) WHERE k = (SELECT max(k) FROM long)",
    );
    let (level, points) = fixture.range(START_MS, START_MS + 24 * HOUR_MS - 1, 1440).await;
    assert_eq!((level, points.len()), (Level::Minute, 1080));
    let report = fixture.history.check_integrity().await.unwrap();
    assert_eq!((report.problem_count, report.is_ok()), (2, false));
    assert!(report.problems.iter().any(|problem| problem.starts_with("r1m of server 1 from ")));
    assert_eq!(fixture.history.health().damaged_rows, 2);
    // The level above is made from what can be read, and the start is not held up.
    fixture.settle().await;
    let fixture = fixture.reopen().await;
    let (level, points) = fixture.range(START_MS, START_MS + 24 * HOUR_MS - 1, 288).await;
    assert_eq!((level, points.len()), (Level::FiveMinutes, 216));
}

#[tokio::test]
async fn a_truncated_file_is_refused_with_a_sentence_and_left_alone() {
    let fixture = Fixture::new();
    fixture.readings(3 * HOUR_MS, 5_000, wave).await;
    fixture.history.close().await.unwrap();
    let whole = std::fs::read(fixture.path()).unwrap();
    for length in [whole.len() / 2 / 4096 * 4096, 5000, 100] {
        let path = fixture.directory.path().join(format!("cut-{length}.db"));
        std::fs::write(&path, &whole[..length]).unwrap();
        match History::open(&path, fixture.clock.clone()) {
            Err(error) => assert!(matches!(error, HistoryError::Damaged { .. }), "{error}"),
            // Enough of it is there to go on; what is missing is found.
            Ok(history) => {
                let report = history.check_integrity().await;
                assert!(report.is_err() || !report.unwrap().is_ok(), "{length}");
                history.close().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_metric_that_changes_its_kind_or_unit_keeps_what_it_was() {
    let fixture = Fixture::new();
    fixture.append(WEB, &cpu(), 12.34);
    fixture.append(WEB, &custom("queue"), 3.5);
    fixture.history.close().await.unwrap();
    // An older program kept both as whole numbers.
    fixture.sql("DELETE FROM j0; DELETE FROM j1; UPDATE series SET scale = 1, kind = 0");
    let history = History::open(&fixture.path(), fixture.clock.clone()).unwrap();
    fixture.advance(1_000);
    let samples = [Sample { key: cpu(), value: 12.34 }, Sample { key: custom("queue"), value: 3.5 }];
    history.append(WEB, fixture.clock.now(), &samples);
    let mut latest: Vec<f64> = history.latest(WEB).into_iter().map(|(_, _, value)| value).collect();
    latest.sort_by(f64::total_cmp);
    assert_eq!(latest, [4.0, 12.0]);
    history.close().await.unwrap();
}

#[tokio::test]
async fn ten_thousand_container_names_in_a_day_stop_at_a_limit_that_is_told() {
    let fixture = Fixture::new();
    let name = |index: usize| SeriesKey {
        metric: MetricName::custom("container_cpu_percent".to_owned()),
        labels: Labels::of(&format!("job-{index}")),
    };
    for index in 0..10_000 {
        let samples = [Sample { key: cpu(), value: 1.0 }, Sample { key: name(index), value: 1.0 }];
        fixture.history.append(WEB, fixture.clock.now(), &samples);
        fixture.advance(8_000);
        if index % 200 == 199 {
            fixture.history.sync().await.unwrap();
        }
    }
    fixture.append(DB, &name(20_000), 1.0);
    let health = fixture.history.health();
    assert!(health.series < 8_200 && health.series < health.max_series, "{}", health.series);
    assert_eq!(health.limited.len(), 1);
    assert_eq!(health.limited[0].server, WEB);
    assert!(health.limited[0].dropped > 1_700);
    assert!((1..=5).contains(&health.limited[0].names.len()), "{:?}", health.limited[0].names);
    assert_eq!(fixture.history.limited(WEB).as_ref(), Some(&health.limited[0]));
    assert_eq!(fixture.history.latest(DB).len(), 1);
    // What is known goes on, and two days later there is room again.
    assert_eq!(fixture.count().await, 10_000);
    fixture.advance(3 * DAY_MS);
    fixture.append(WEB, &name(30_000), 1.0);
    assert_eq!(fixture.history.latest_of(&[WEB], &name(30_000)).len(), 1);
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.history.latest_of(&[WEB], &name(30_000)).len(), 1);
    assert_eq!(fixture.count().await, 10_000);
}

#[tokio::test]
async fn ten_years_no_points_and_an_unknown_metric_have_clear_answers() {
    let fixture = Fixture::new();
    fixture.readings(3 * DAY_MS, 10 * MINUTE_MS, wave).await;
    let now = fixture.clock.now().as_millis();
    let (level, points) = fixture.range(now - 3650 * DAY_MS, now, 1000).await;
    assert_eq!(level, Level::Day);
    assert_eq!(points.iter().map(|point| point.count).sum::<u32>(), 432);
    let refused = fixture.history.range(WEB, &cpu(), ms(0), ms(now), 0).await.unwrap_err();
    assert_eq!(refused.to_string(), "0 points were asked for; ask for 1 to 5000");
    let unknown = custom("no_such_metric");
    let refused = fixture.history.range(WEB, &unknown, ms(0), ms(now), 10).await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no history of a metric named 'no_such_metric'");
    let refused = fixture
        .history
        .aggregate(&[WEB], &cpu(), Aggregate::Percentile(101.0), ms(0), ms(now), 10)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("from 0 to 100"), "{refused}");
}

#[tokio::test]
async fn several_servers_and_series_come_in_the_order_they_were_asked_for() {
    let fixture = Fixture::new();
    for tick in 0..10 {
        fixture.append(WEB, &cpu(), f64::from(tick));
        fixture.append(DB, &cpu(), f64::from(tick) * 10.0);
        fixture.append(DB, &custom("queue"), 1.0);
        fixture.advance(1_000);
    }
    let wanted = [(DB, cpu()), (WEB, custom("queue")), (WEB, cpu()), (DB, custom("queue"))];
    let now = fixture.clock.now();
    let answer = fixture.history.ranges(&wanted, ms(START_MS), now, 1).await.unwrap();
    let found: Vec<(ServerNumber, usize)> =
        answer.series.iter().map(|series| (series.server, series.points.len())).collect();
    // A second append of one time is refused: the queue of DB came after its CPU.
    assert_eq!(found, [(DB, 1), (WEB, 0), (WEB, 1), (DB, 0)]);
    assert_eq!(answer.series[0].points[0].max, 90.0);
    assert_eq!(answer.level, Level::Raw);
}

#[tokio::test]
async fn a_fleet_has_average_sum_extremes_percentile_and_a_top_list() {
    let fixture = Fixture::new();
    let servers: Vec<ServerNumber> = (1..=20).map(ServerNumber).collect();
    for tick in 0..30 {
        for server in &servers {
            let value = f64::from(server.0) + if tick == 7 { 0.5 } else { 0.0 };
            fixture.append(*server, &cpu(), value);
        }
        fixture.advance(2_000);
    }
    let (from, to) = (ms(START_MS), ms(START_MS + 59_999));
    let ask = async |how| fixture.history.aggregate(&servers, &cpu(), how, from, to, 1).await.unwrap();
    let one = async |how| {
        let answer = ask(how).await;
        assert_eq!(answer.points.len(), 1);
        assert_eq!(answer.points[0].servers, 20);
        (answer.points[0].value * 1000.0).round() / 1000.0
    };
    let bump = 0.5 / 30.0;
    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    assert_eq!(one(Aggregate::Avg).await, rounded(10.5 + bump));
    assert_eq!(one(Aggregate::Sum).await, rounded(210.0 + 20.0 * bump));
    assert_eq!(one(Aggregate::Min).await, 1.0);
    assert_eq!(one(Aggregate::Max).await, 20.5);
    assert_eq!(one(Aggregate::Percentile(50.0)).await, rounded(10.5 + bump));
    let top = ask(Aggregate::TopN(3)).await.top;
    let names: Vec<u32> = top.iter().map(|(_, series)| series.server.0).collect();
    assert_eq!(names, [20, 19, 18]);
    assert_eq!(fixture.history.latest_of(&servers, &cpu()).len(), 20);
}

#[tokio::test]
async fn a_file_of_the_first_version_is_taken_over_with_its_samples() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.db");
    std::fs::copy("tests/fixtures/history/version-1.db", &path).unwrap();
    // Three hours of readings every 10 s, the last bucket in the journal.
    let clock = Arc::new(ManualClock::at(ms(START_MS + 3 * HOUR_MS)));
    let history = History::open(&path, clock.clone()).unwrap();
    let points =
        history.range(WEB, &cpu(), ms(START_MS), ms(START_MS + 3 * HOUR_MS - 1), 1080).await.unwrap();
    assert_eq!(points.len(), 1080);
    let rounded = |value: f64| (value * 100.0).round() / 100.0;
    assert!(points.iter().all(|point| point.avg == rounded(wave(point.at.as_millis()))));
    clock.advance(Duration::from_secs(12 * 3600));
    for _ in 0..10 {
        history.sync().await.unwrap();
    }
    let answer = history.ranges(&[(WEB, cpu())], ms(START_MS), clock.now(), 900).await.unwrap();
    assert_eq!(answer.level, Level::Minute);
    assert_eq!(answer.series[0].points.len(), 180);
    assert!(history.check_integrity().await.unwrap().is_ok());
    history.close().await.unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    let rows: i64 = db.query_row("SELECT count(*) FROM r1m", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}
