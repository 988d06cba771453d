//! A full disk and a cut of power, on file systems of the test's own: a tmpfs, and ext4 on a loop device that is
//! shut down by ioctl. Where the machine allows neither, a test says so and proves nothing.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use roundsman::clock::{Clock, ManualClock};
use roundsman::history::{History, HistoryError, Level, Retention, Sizes};
use roundsman::model::{Labels, MetricName, Sample, SeriesKey, ServerNumber, Timestamp};

const START_MS: i64 = 650 * 32 * 86_400_000;
const SERVER: ServerNumber = ServerNumber(1);
const SERIES: usize = 200;

fn run(program: &str, arguments: &[&str]) -> Result<Output, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A file system that is mounted for as long as this lives.
struct Mount {
    directory: tempfile::TempDir,
    /// The loop device, where there is one.
    device: Option<String>,
}

impl Mount {
    fn at(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    fn path(&self) -> PathBuf {
        self.at().join("history.db")
    }

    fn tmpfs(size: &str) -> Result<Self, String> {
        let mount = Self { directory: tempfile::tempdir().unwrap(), device: None };
        std::fs::create_dir(mount.at()).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", mount.at().to_str().unwrap()])?;
        Ok(mount)
    }

    fn ext4() -> Result<Self, String> {
        let mut mount = Self { directory: tempfile::tempdir().unwrap(), device: None };
        std::fs::create_dir(mount.at()).unwrap();
        let image = mount.directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", image.to_str().unwrap()])?;
        mount.attach()?;
        mount.mount()?;
        Ok(mount)
    }

    /// A device of its own for each mount: a mount namespace that another test made meanwhile holds the mount before, and with
    /// it the file system without power, which the same device would show again.
    fn attach(&mut self) -> Result<(), String> {
        if let Some(device) = self.device.take() {
            run("losetup", &["--detach", &device])?;
        }
        let image = self.directory.path().join("image");
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()])?;
        self.device = Some(String::from_utf8(device.stdout).unwrap().trim().to_owned());
        Ok(())
    }

    fn mount(&self) -> Result<(), String> {
        let device = self.device.as_deref().unwrap();
        run("mount", &["-t", "ext4", device, self.at().to_str().unwrap()]).map(|_| ())
    }

    fn unmount(&self) -> Result<(), String> {
        run("umount", &[self.at().to_str().unwrap()]).map(|_| ())
    }

    /// As if the power went: nothing that is in the caches reaches the device, the journal of the file system
    /// neither. `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (fs/ext4/ext4.h). Perl is on every Debian.
    fn cut_power(&self) -> Result<(), String> {
        const SHUTDOWN: &str = r#"open(my $f, "<", $ARGV[0]) or die $!; my $how = pack("L", 2); ioctl($f, 0x8004587d, $how) or die $!"#;
        run("perl", &["-e", SHUTDOWN, self.at().to_str().unwrap()]).map(|_| ())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Already unmounted is as good; what else fails here would only hide why the test failed.
        drop(self.unmount());
        if let Some(device) = &self.device {
            drop(run("losetup", &["--detach", device]));
        }
    }
}

fn key(index: usize) -> SeriesKey {
    SeriesKey { metric: MetricName::custom("noise".to_owned()), labels: Labels::of(&index.to_string()) }
}

/// Never the same, so that nothing can be compressed away.
fn value(at: Timestamp, index: usize) -> f64 {
    let mixed = (at.as_millis() as u64 + index as u64 * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 11) as f64
}

fn append(history: &History, at: Timestamp) {
    let samples: Vec<Sample> =
        (0..SERIES).map(|index| Sample { key: key(index), value: value(at, index) }).collect();
    history.append(SERVER, at, &samples);
}

/// Values of one series, second by second; exact or the test fails.
async fn count(history: &History, index: usize, to: Timestamp) -> usize {
    let from = Timestamp::from_millis(START_MS);
    let mut found = 0;
    let mut start = from;
    while start < to {
        // Spans of a second: one reading each.
        let end = start + Duration::from_millis(4_999_999);
        let points = history.range(SERVER, &key(index), start, end, 5_000).await.unwrap();
        for point in points.iter().filter(|point| point.at <= to) {
            assert_eq!((point.count, point.avg), (1, value(point.at, index)));
            found += 1;
        }
        start = end + Duration::from_millis(1);
    }
    found
}

fn open(path: &Path) -> (History, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(START_MS)));
    (History::open(path, clock.clone()).unwrap(), clock)
}

#[tokio::test]
async fn a_full_disk_is_told_and_caught_up_and_nothing_is_lost() {
    let mount = match Mount::tmpfs("6m") {
        Ok(mount) => mount,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let (history, clock) = open(&mount.path());
    let mut trouble = history.trouble();
    assert!(trouble.borrow_and_update().is_none());
    let mut ticks = 0_usize;
    let mut tick = || {
        append(&history, clock.now());
        clock.advance(Duration::from_secs(1));
        ticks += 1;
        ticks
    };
    // 200 values that cannot be compressed are 2 KB: about 3,000 ticks fill it.
    let error = loop {
        let ticks = tick();
        if ticks % 50 == 0
            && let Err(error) = history.sync().await
        {
            break error;
        }
        assert!(ticks < 20_000, "the disk never became full");
    };
    assert!(matches!(error, HistoryError::Database(_)), "{error}");
    assert!(history.health().last_error.unwrap().contains("full"));
    // Told once, however often it is tried.
    assert!(trouble.has_changed().unwrap());
    assert!(trouble.borrow_and_update().as_ref().unwrap().contains("full"));
    assert!(history.sync().await.is_err());
    assert!(!trouble.has_changed().unwrap());
    // Readings go on for ten minutes, and are on the page.
    let mut total = 0;
    for _ in 0..600 {
        total = tick();
    }
    assert!(history.sync().await.is_err());
    assert!(history.health().behind_s >= 600);
    assert_eq!(count(&history, 0, clock.now()).await, total);
    assert_eq!(history.health().dropped.lost, 0);

    run("mount", &["-o", "remount,size=200m", mount.at().to_str().unwrap()]).unwrap();
    history.sync().await.unwrap();
    let health = history.health();
    assert_eq!((health.last_error, health.behind_s), (None, 0));
    assert!(trouble.has_changed().unwrap() && trouble.borrow_and_update().is_none());
    let report = history.check_integrity().await.unwrap();
    assert!(report.is_ok(), "{:?}", report.problems);
    history.close().await.unwrap();
    let history = History::open(&mount.path(), clock.clone()).unwrap();
    for index in [0, SERIES - 1] {
        assert_eq!(count(&history, index, clock.now()).await, total);
    }
    history.close().await.unwrap();
}

#[tokio::test]
async fn an_archive_on_a_full_disk_keeps_what_has_expired_and_is_whole_when_there_is_room_again() {
    let mount = match Mount::tmpfs("64k") {
        Ok(mount) => mount,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let data = tempfile::tempdir().unwrap();
    let (history, clock) = open(&data.path().join("history.db"));
    let archive = mount.at().join("archive");
    let short = Retention { raw_days: 2, minute_days: 2, ..Retention::default() };
    history.set_retention(short, Some(archive.clone())).await.unwrap();
    for tick in 0..8 * 60 {
        append(&history, clock.now());
        clock.advance(Duration::from_secs(60));
        if tick % 5 == 0 {
            history.sync().await.unwrap();
        }
    }
    clock.advance(Duration::from_secs(10 * 86_400));
    for _ in 0..20 {
        history.sync().await.unwrap();
    }
    let raw = |sizes: &Sizes| sizes.levels.iter().find(|level| level.level == Level::Raw).unwrap().rows;
    let before = raw(&history.sizes().await.unwrap());
    let refused = history.remove_expired().await.unwrap_err();
    assert!(refused.to_string().contains("cannot be archived"), "{refused}");
    assert!(history.health().removal_error.is_some() && history.health().last_error.is_none());
    assert_eq!(raw(&history.sizes().await.unwrap()), before);

    run("mount", &["-o", "remount,size=200m", mount.at().to_str().unwrap()]).unwrap();
    history.remove_expired().await.unwrap();
    assert_eq!(history.health().removal_error, None);
    let mut text = String::new();
    for entry in std::fs::read_dir(&archive).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.extension().unwrap() == "gz", "{}: a note stayed", path.display());
        if path.file_name().unwrap().to_str().unwrap().starts_with("raw-") {
            // Reads every member, or fails.
            flate2::read::MultiGzDecoder::new(std::fs::File::open(path).unwrap())
                .read_to_string(&mut text)
                .unwrap();
        }
    }
    let lines = text.lines().filter(|line| !line.starts_with("time")).count();
    assert!(lines >= 7 * 60 * SERIES, "{lines}");
    history.close().await.unwrap();
}

#[tokio::test]
async fn a_cut_of_power_loses_nothing_that_was_acknowledged() {
    let mut mount = match Mount::ext4() {
        Ok(mount) => mount,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let (mut history, clock) = open(&mount.path());
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        for step in 0..400 + round * 37 {
            acknowledged.push(clock.now());
            append(&history, clock.now());
            clock.advance(Duration::from_secs(1));
            if step % 20 == 0 {
                history.sync().await.unwrap();
            }
        }
        history.sync().await.unwrap();
        let safe = clock.now();
        // What is not acknowledged may be there or not.
        for _ in 0..5 {
            append(&history, clock.now());
            clock.advance(Duration::from_secs(1));
        }
        if let Err(why) = mount.cut_power() {
            history.close().await.unwrap();
            return eprintln!("skipped: the file system cannot be shut down: {why}");
        }
        assert!(history.sync().await.is_err(), "the power was not cut");
        drop(history.close().await);
        drop(history);
        unmount_when_free(&mount).await;
        mount.attach().unwrap();
        mount.mount().unwrap();
        history = History::open(&mount.path(), clock.clone()).unwrap();
        let report = history.check_integrity().await.unwrap();
        assert!(report.is_ok(), "round {round}: {:?}", report.problems);
        for index in [0, SERIES - 1] {
            let last = Timestamp::from_millis(safe.as_millis() - 1);
            assert!(count(&history, index, last).await >= acknowledged.len(), "round {round}");
        }
    }
    history.close().await.unwrap();
}

/// The writer's thread closes its file a moment after it has answered.
async fn unmount_when_free(mount: &Mount) {
    let mut tries = 0;
    while let Err(why) = mount.unmount() {
        tries += 1;
        assert!(tries < 200, "{why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
