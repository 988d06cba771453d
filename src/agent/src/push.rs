//! `push`: registers this machine with a central server and sends its readings there, buffering through outages.
//!
//! One thread reads on time whatever the network does; another sends, oldest first. A reading is given up only when
//! the buffer is full (the oldest goes, and is counted) or the central server refuses it by itself.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::local::{Memory, Reader};
use crate::reply::Reply;
use crate::send::{Post, Sender, Token};
use crate::snapshot::Sections;
use crate::{http, json};

/// Variables that hold a secret; no program that this one starts gets them.
pub const SECRET_VARIABLES: [&str; 2] = ["ROUNDSMAN_TOKEN", "SERVER_API_KEY"];

/// Between two readings when nobody says otherwise.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

/// What a central server may ask for: from a second to an hour.
const INTERVALS_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;

/// Readings kept: an hour at the default interval.
const KEPT_READINGS: usize = 720;

/// And their bytes: an hour of base readings of a machine with some disks and interfaces, and some full ones.
const KEPT_BYTES: usize = 8 * 1024 * 1024;

/// Readings in one heartbeat, and their bytes; one reading is sent however large it is.
const BATCH_READINGS: usize = 60;
const BATCH_BYTES: usize = 512 * 1024;

/// Processes, services and the like are read this often, and not at all while readings wait to be sent.
/// The central server may say otherwise.
const HEAVY_INTERVAL_MS: u64 = 30_000;
/// Facts and pending updates.
const SLOW_EVERY: Duration = Duration::from_secs(3600);

/// Between two tries after failures: doubled from the first to the last, of which a random half is waited at least.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// What `push` was told.
#[derive(Debug)]
pub struct Options {
    pub sender: Sender,
    /// The enrol token, or the server's own. `None`: the state file has one.
    pub token: Option<Token>,
    pub name: Option<String>,
    pub interval: Duration,
    pub state_file: PathBuf,
}

/// What a central server gave this machine at its registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub url: String,
    pub id: String,
    token: Token,
}

impl State {
    /// Reads a state file. `None`: there is none, or it is not ours.
    #[must_use]
    pub fn load(path: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
        };
        let state = Self { url: field("url")?, id: field("id")?, token: Token::parse(&field("token")?)? };
        is_id(&state.id).then_some(state)
    }

    /// Replaces the state file; readable by its owner only.
    ///
    /// # Errors
    /// Those of the filesystem; the file is then as it was.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        write!(file, "url {}\nid {}\ntoken {}\n", self.url, self.id, self.token.reveal())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    }
}

/// An id goes into a path, so it is made of nothing that means something there.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Readings that wait to be sent, oldest first.
#[derive(Debug, Default)]
pub struct Ring {
    readings: VecDeque<String>,
    bytes: usize,
    dropped: u64,
    /// Of the oldest that are left, those that are under way.
    sending: usize,
}

impl Ring {
    /// Adds the newest reading; drops the oldest ones where there are too many.
    pub fn push(&mut self, reading: String) {
        self.bytes += reading.len();
        self.readings.push_back(reading);
        while self.readings.len() > 1 && (self.readings.len() > KEPT_READINGS || self.bytes > KEPT_BYTES) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        self.take_oldest();
        self.dropped += 1;
    }

    fn take_oldest(&mut self) {
        self.bytes -= self.readings.pop_front().map_or(0, |reading| reading.len());
        self.sending = self.sending.saturating_sub(1);
    }

    /// The body of a heartbeat with at most so many of the oldest readings; they stay until [`Ring::sent`].
    pub fn batch(&mut self, most: usize) -> String {
        let mut body = "{\"readings\":[".to_owned();
        self.sending = 0;
        for reading in self.readings.iter().take(most.clamp(1, BATCH_READINGS)) {
            if self.sending > 0 {
                if body.len() + reading.len() > BATCH_BYTES {
                    break;
                }
                body.push(',');
            }
            body.push_str(reading);
            self.sending += 1;
        }
        body.push_str("]}");
        body
    }

    /// The last batch has arrived: those of it that were not dropped meanwhile go.
    pub fn sent(&mut self) {
        for _ in 0..self.sending {
            self.take_oldest();
        }
    }

    /// The last batch is too large. Answers how many to try next; a single reading is dropped.
    pub fn too_large(&mut self) -> usize {
        if self.sending > 1 {
            return self.sending / 2;
        }
        if self.sending == 1 {
            self.drop_oldest();
        }
        1
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.readings.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.readings.len()
    }

    /// How many readings were given up so far.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// What the two threads share.
struct Shared {
    ring: Mutex<Ring>,
    filled: Condvar,
    interval_ms: AtomicU64,
    heavy_interval_ms: AtomicU64,
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.load(Ordering::Relaxed))
    }

    fn heavy_interval(&self) -> Duration {
        Duration::from_millis(self.heavy_interval_ms.load(Ordering::Relaxed))
    }

    /// Takes up the intervals that a central server asks for.
    fn obey(&self, reply: &Reply) {
        if let Some(interval_ms) = reply.number("interval_ms").filter(|ms| INTERVALS_MS.contains(ms)) {
            self.interval_ms.store(interval_ms, Ordering::Relaxed);
        }
        if let Some(heavy_ms) = reply.number("heavy_interval_ms").filter(|ms| INTERVALS_MS.contains(ms)) {
            self.heavy_interval_ms.store(heavy_ms, Ordering::Relaxed);
        }
    }
}

/// Pushes for ever. `log` is given a sentence for whoever reads the service's log.
///
/// # Errors
/// Where there is neither a token nor a state file for this address.
pub fn run(reader: &Reader, options: Options, log: fn(&str)) -> io::Result<()> {
    let url = options.sender.url.to_string();
    let state = State::load(&options.state_file).filter(|state| state.url == url);
    if state.is_none() && options.token.is_none() {
        return Err(io::Error::other(
            "a token is needed to register: set ROUNDSMAN_TOKEN or ROUNDSMAN_TOKEN_FILE",
        ));
    }
    let interval_ms = u64::try_from(options.interval.as_millis()).unwrap_or(*INTERVALS_MS.end());
    let shared = Arc::new(Shared {
        ring: Mutex::default(),
        filled: Condvar::new(),
        interval_ms: AtomicU64::new(interval_ms.clamp(*INTERVALS_MS.start(), *INTERVALS_MS.end())),
        heavy_interval_ms: AtomicU64::new(HEAVY_INTERVAL_MS),
    });
    let facts = reader.read(Sections { facts: true, ..Sections::BASE }).facts.unwrap_or_default();
    let mut courier = Courier {
        shared: Arc::clone(&shared),
        hostname: facts.hostname.clone().unwrap_or_default(),
        facts: json::facts(&facts),
        options,
        url,
        state,
        log,
        failures: 0,
        most: BATCH_READINGS,
        told_dropped: 0,
    };
    std::thread::Builder::new().spawn(move || courier.run())?;
    read_for_ever(reader, &shared)
}

fn read_for_ever(reader: &Reader, shared: &Shared) -> ! {
    let mut memory = Memory::default();
    let (mut heavy_at, mut slow_at): (Option<Instant>, Option<Instant>) = (None, None);
    let mut next = Instant::now();
    loop {
        let due = |last: Option<Instant>, every| last.is_none_or(|last| last.elapsed() >= every);
        let idle = shared.ring().is_empty();
        let heavy = idle && due(heavy_at, shared.heavy_interval());
        let slow = idle && due(slow_at, SLOW_EVERY);
        heavy_at = if heavy { Some(Instant::now()) } else { heavy_at };
        slow_at = if slow { Some(Instant::now()) } else { slow_at };
        let sections = Sections {
            processes: heavy,
            services: heavy,
            users: heavy,
            containers: heavy,
            facts: slow,
            packages: slow,
            sockets: heavy,
        };
        let mut reading = String::new();
        // Nothing is handed on: a reading waits as a whole until it is sent.
        let Ok(()) = reader.write_again(sections, &mut memory, &mut reading, |_| Ok::<(), Infallible>(()));
        shared.ring().push(reading);
        shared.filled.notify_one();
        // Readings that were missed (the machine slept) are not made up for.
        next = (next + shared.interval()).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Who sends.
struct Courier {
    shared: Arc<Shared>,
    options: Options,
    url: String,
    hostname: String,
    facts: String,
    state: Option<State>,
    log: fn(&str),
    /// In a row.
    failures: u32,
    /// Readings that the next batch may have.
    most: usize,
    told_dropped: u64,
}

/// What an answer means for the next step.
enum Next {
    GoOn,
    Wait(String),
}

impl Courier {
    fn run(&mut self) {
        loop {
            let next = match self.state.clone() {
                None => self.register(),
                Some(state) => self.heartbeat(&state),
            };
            match next {
                Next::GoOn => {
                    if self.failures > 0 {
                        (self.log)("the central server answers again");
                    }
                    self.failures = 0;
                }
                Next::Wait(reason) => {
                    // The first failure of a row, then each time the pause has doubled.
                    if self.failures.is_power_of_two() || self.failures == 0 {
                        (self.log)(&format!("{reason}; {} readings wait", self.shared.ring().len()));
                    }
                    self.failures = self.failures.saturating_add(1);
                    std::thread::sleep(pause(self.failures, random()));
                }
            }
            let dropped = self.shared.ring().dropped();
            if dropped > self.told_dropped {
                (self.log)(&format!("{} readings were given up", dropped - self.told_dropped));
                self.told_dropped = dropped;
            }
        }
    }

    fn register(&mut self) -> Next {
        let Some(token) = self.options.token.clone() else {
            return Next::Wait(
                "the central server does not know this machine, and no enrol token is set".to_owned(),
            );
        };
        let name = self.options.name.as_deref().unwrap_or(&self.hostname);
        let body = format!(
            "{{\"name\":{},\"hostname\":{},\"agent_version\":\"{}\",\"interval_ms\":{},\"facts\":{}}}",
            json::string(Some(name)),
            json::string(Some(&self.hostname)),
            env!("CARGO_PKG_VERSION"),
            self.shared.interval_ms.load(Ordering::Relaxed),
            self.facts,
        );
        let post = Post { path: "/api/v1/fleet/register", token: &token, body: &body };
        let answer = match self.options.sender.post(&post) {
            Ok(answer) => answer,
            Err(error) => return Next::Wait(format!("cannot register: {error}")),
        };
        if !(200..300).contains(&answer.status) {
            return Next::Wait(refused("registration", &answer));
        }
        let reply = Reply::parse(&answer.body).unwrap_or_default();
        let id = reply.text("id").filter(|id| is_id(id));
        let (Some(id), Some(token)) = (id, reply.text("token").and_then(Token::parse)) else {
            return Next::Wait("the answer to the registration names no valid id and token".to_owned());
        };
        let state = State { url: self.url.clone(), id: id.to_owned(), token };
        if let Err(error) = state.save(&self.options.state_file) {
            // The next start registers again, which answers the same id.
            (self.log)(&format!("cannot write {}: {error}", self.options.state_file.display()));
        }
        self.shared.obey(&reply);
        (self.log)(&format!("registered as {id}"));
        self.state = Some(state);
        Next::GoOn
    }

    fn heartbeat(&mut self, state: &State) -> Next {
        let body = {
            let mut ring = self.shared.ring();
            while ring.is_empty() {
                ring = self.shared.filled.wait(ring).unwrap_or_else(PoisonError::into_inner);
            }
            ring.batch(self.most)
        };
        let path = format!("/api/v1/fleet/servers/{}/heartbeat", state.id);
        let answer = match self.options.sender.post(&Post { path: &path, token: &state.token, body: &body }) {
            Ok(answer) => answer,
            Err(error) => return Next::Wait(format!("cannot send: {error}")),
        };
        match answer.status {
            200..300 => {
                self.shared.ring().sent();
                self.shared.obey(&Reply::parse(&answer.body).unwrap_or_default());
                self.most = (self.most * 2).min(BATCH_READINGS);
                Next::GoOn
            }
            413 => {
                self.most = self.shared.ring().too_large();
                Next::GoOn
            }
            // One that cannot be taken must not hold up those behind it for ever.
            422 => {
                let mut ring = self.shared.ring();
                let alone = ring.sending <= 1;
                self.most = ring.too_large();
                drop(ring);
                if alone { Next::Wait(refused("heartbeat", &answer)) } else { Next::GoOn }
            }
            // The token was taken back, or the server removed: an enrol token may bring both back.
            401 | 404 => {
                self.state = None;
                Next::Wait(refused("heartbeat", &answer))
            }
            _ => Next::Wait(refused("heartbeat", &answer)),
        }
    }
}

/// The central server's own sentence, where it gave one (RFC 9457).
fn refused(what: &str, answer: &http::Answer) -> String {
    let reply = Reply::parse(&answer.body).unwrap_or_default();
    let detail = reply.text("detail").or_else(|| reply.text("title")).unwrap_or("no reason given");
    let detail = crate::text::clean(detail.as_bytes(), crate::limits::TEXT_BYTES);
    format!("the central server refuses the {what} with {}: {detail}", answer.status)
}

/// How long to wait after so many failures in a row; `random` spreads the agents of a fleet over the second half.
fn pause(failures: u32, random: u64) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_PAUSE);
    let whole_ms = u64::try_from(whole.as_millis()).unwrap_or(0);
    Duration::from_millis(whole_ms / 2 + random % (whole_ms / 2).max(1))
}

/// Good enough to spread waiting: std seeds its hashers from the system's random numbers.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_drops_its_oldest_and_counts_them() {
        let mut ring = Ring::default();
        for number in 0..KEPT_READINGS + 3 {
            ring.push(number.to_string());
        }
        assert_eq!((ring.len(), ring.dropped()), (KEPT_READINGS, 3));
        assert_eq!(ring.batch(2), "{\"readings\":[3,4]}");
        for _ in 0..3 {
            ring.push("x".repeat(KEPT_BYTES / 2));
        }
        assert!(ring.bytes <= KEPT_BYTES && ring.len() == 2);
        ring.push("y".repeat(KEPT_BYTES * 2));
        assert_eq!(ring.len(), 1);
    }

    #[test]
    fn what_was_sent_goes_and_what_came_meanwhile_stays() {
        let mut ring = Ring::default();
        ring.push("1".to_owned());
        ring.push("2".to_owned());
        assert_eq!(ring.batch(BATCH_READINGS), "{\"readings\":[1,2]}");
        ring.push("3".to_owned());
        ring.sent();
        assert_eq!(ring.batch(BATCH_READINGS), "{\"readings\":[3]}");
        // Dropped while they were under way: the rest of the batch goes, and nothing else.
        ring.drop_oldest();
        ring.push("4".to_owned());
        ring.sent();
        assert_eq!((ring.len(), ring.dropped()), (1, 1));
    }

    #[test]
    fn a_batch_that_is_too_large_is_halved_and_a_single_reading_given_up() {
        let mut ring = Ring::default();
        for number in 0..5 {
            ring.push(number.to_string());
        }
        ring.batch(BATCH_READINGS);
        assert_eq!(ring.too_large(), 2);
        ring.batch(2);
        assert_eq!(ring.too_large(), 1);
        ring.batch(1);
        assert_eq!((ring.too_large(), ring.len(), ring.dropped()), (1, 4, 1));
    }

    #[test]
    fn pauses_grow_to_a_minute_and_are_spread() {
        assert!(pause(1, u64::MAX) < Duration::from_secs(1));
        assert!(pause(1, 0) >= Duration::from_millis(500));
        assert!(pause(u32::MAX, u64::MAX) <= Duration::from_secs(60));
        assert!(pause(7, 0) >= Duration::from_secs(30));
    }

    #[test]
    fn a_state_file_of_another_kind_is_none() {
        let good = "url https://a:443\nid 0190-ab\ntoken 0123456789\n";
        assert_eq!(State::parse(good).unwrap().id, "0190-ab");
        for wrong in ["", "id x", &good.replace("0190-ab", "../../x"), &good.replace("0123456789", "a\"b")] {
            assert_eq!(State::parse(wrong), None, "{wrong}");
        }
    }
}
