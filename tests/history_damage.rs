//! Pages of the file that make no sense any more: what they hold is lost, and nothing else.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use roundsman::clock::{Clock, ManualClock};
use roundsman::history::{History, Level, Retention};
use roundsman::model::{Sample, SeriesKey, ServerNumber, Timestamp};

/// The start of a row of every level.
const START_MS: i64 = 650 * 32 * 24 * 3_600_000;
const SERVERS: u32 = 200;
const TICKS: u32 = 30;
const PAGE: u64 = 4096;

fn cpu() -> SeriesKey {
    SeriesKey::plain("cpu_percent")
}

fn servers() -> impl Iterator<Item = ServerNumber> {
    (1..=SERVERS).map(ServerNumber)
}

fn append(history: &History, at: Timestamp) {
    for server in servers() {
        history.append(server, at, &[Sample { key: cpu(), value: f64::from(server.0) / 10.0 }]);
    }
}

fn rows(path: &Path, table: &str) -> u32 {
    let db = rusqlite::Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// A closed file with three buckets of many servers, and the clock behind them.
async fn sealed() -> (tempfile::TempDir, PathBuf, Timestamp) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.db");
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(START_MS)));
    let history = History::open(&path, clock.clone()).unwrap();
    for _ in 0..TICKS {
        append(&history, clock.now());
        clock.advance(Duration::from_secs(60));
        history.sync().await.unwrap();
    }
    clock.advance(Duration::from_secs(600));
    for _ in 0..10 {
        history.sync().await.unwrap();
    }
    history.close().await.unwrap();
    assert_eq!(rows(&path, "raw"), 3 * SERVERS);
    (directory, path, clock.now())
}

/// Leaves of a table's tree, from the first key to the last.
fn leaves(path: &Path, table: &str) -> Vec<u64> {
    let db = rusqlite::Connection::open(path).unwrap();
    let mut statement =
        db.prepare("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path").unwrap();
    let pages = statement.query_map([table], |row| row.get::<_, i64>(0)).unwrap();
    pages.map(|page| page.unwrap().unsigned_abs()).collect()
}

fn damage(path: &Path, page: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0xa5; PAGE as usize], (page - 1) * PAGE).unwrap();
}

async fn samples(history: &History, to: Timestamp) -> u32 {
    let mut found = 0;
    for server in servers() {
        let points = history.range(server, &cpu(), Timestamp::from_millis(START_MS), to, 1).await.unwrap();
        for point in points {
            assert_eq!((point.min, point.max), (f64::from(server.0) / 10.0, f64::from(server.0) / 10.0));
            found += point.count;
        }
    }
    found
}

#[tokio::test]
async fn a_damaged_page_of_raw_costs_its_rows_and_neither_the_start_nor_the_removal() {
    let (directory, path, ended) = sealed().await;
    let leaves = leaves(&path, "raw");
    assert!(leaves.len() >= 5, "{leaves:?}");
    let all = SERVERS * TICKS;
    for place in [0, leaves.len() / 2, leaves.len() - 1] {
        let copy = directory.path().join(format!("copy-{place}.db"));
        std::fs::copy(&path, &copy).unwrap();
        damage(&copy, leaves[place]);
        let clock = Arc::new(ManualClock::at(ended));
        let history = History::open(&copy, clock.clone()).unwrap();
        assert!(history.health().damaged_rows > 0, "leaf {place}");
        let found = samples(&history, ended).await;
        // The newest rows may be in the journal still, which brings them once more.
        let is_last = place == leaves.len() - 1;
        assert!((found < all || is_last) && found >= all / 2, "leaf {place}: {found} of {all}");
        assert!(!history.check_integrity().await.unwrap().is_ok());

        append(&history, clock.now());
        assert_eq!(samples(&history, clock.now()).await, found + SERVERS, "leaf {place}: readings go on");
        if is_last {
            // Nothing can be sealed behind it, which the health tells; readings are in the journal.
            drop(history.sync().await);
            drop(history.close().await);
            continue;
        }
        // Roll-ups are made of what is left, and the rest goes when its time has come.
        let short = Retention { raw_days: 2, minute_days: 2, ..Retention::default() };
        history.set_retention(short, None).await.unwrap();
        clock.advance(Duration::from_secs(12 * 86_400));
        for _ in 0..60 {
            clock.advance(Duration::from_secs(60));
            drop(history.sync().await);
        }
        let removal = history.remove_expired().await.unwrap();
        let raw = removal.removed.iter().find(|removed| removed.level == Level::Raw);
        assert!(raw.is_some_and(|raw| raw.rows > 0), "leaf {place}: {removal:?}");
        history.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_roll_up_that_cannot_be_written_does_not_keep_expired_values_for_ever() {
    let (_directory, path, ended) = sealed().await;
    let clock = Arc::new(ManualClock::at(ended));
    let history = History::open(&path, clock.clone()).unwrap();
    clock.advance(Duration::from_secs(8 * 3600));
    for _ in 0..60 {
        history.sync().await.unwrap();
    }
    assert_eq!(rows(&path, "r1m"), SERVERS);
    // Six hours later each has a second row, behind the first ones.
    append(&history, clock.now());
    clock.advance(Duration::from_secs(1200));
    for _ in 0..10 {
        history.sync().await.unwrap();
    }
    history.close().await.unwrap();
    let last = *leaves(&path, "r1m").last().unwrap();
    damage(&path, last);

    let history = History::open(&path, clock.clone()).unwrap();
    let short = Retention { raw_days: 2, minute_days: 2, ..Retention::default() };
    history.set_retention(short, None).await.unwrap();
    clock.advance(Duration::from_secs(8 * 3600));
    for _ in 0..60 {
        clock.advance(Duration::from_secs(60));
        drop(history.sync().await);
    }
    assert!(history.health().damaged_rows > 0);
    assert!(rows(&path, "raw") >= SERVERS, "what could not be rolled up waits while it is kept");
    clock.advance(Duration::from_secs(3 * 86_400));
    let removal = history.remove_expired().await.unwrap();
    assert!(removal.removed.iter().any(|removed| removed.level == Level::Raw), "{removal:?}");
    assert_eq!(rows(&path, "raw"), 0);
    history.close().await.unwrap();
}

#[tokio::test]
async fn a_check_of_a_damaged_file_names_the_table_and_reads_the_rest() {
    let (directory, path, _) = sealed().await;
    let whole = roundsman::history::verify(&path).unwrap();
    assert_eq!((whole.damaged, whole.unreadable), (0, 0));
    let leaves = leaves(&path, "raw");
    for place in [0, leaves.len() / 2, leaves.len() - 1] {
        let copy = directory.path().join(format!("checked-{place}.db"));
        std::fs::copy(&path, &copy).unwrap();
        damage(&copy, leaves[place]);
        let found = roundsman::history::verify(&copy).unwrap();
        assert_eq!((found.damaged, found.unreadable), (0, 1), "leaf {place}: {found:?}");
        assert!(found.rows < whole.rows && found.rows >= whole.rows / 2, "leaf {place}: {found:?}");
        assert!(found.named.iter().any(|named| named.starts_with("raw:")), "leaf {place}: {found:?}");
    }
}
