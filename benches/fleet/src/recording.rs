//! A real answer of the shell probe as a template: its frame word and its moving numbers are filled in each time.
//!
//! Pure. Keeps what the machine said; invents only how the numbers go on.

use std::collections::BTreeSet;
use std::io::Write as _;

use anyhow::{Context as _, bail};

/// Stands for the frame word in the file.
pub const WORD: &str = "NONCE";

/// Output of the probe's script on a Debian 12 machine; see `recording/README.md`.
const DEBIAN: &[u8] = include_bytes!("../recording/debian-12.txt");

/// How one number goes on.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Grows by about this much a second.
    Counter { per_second: f64 },
    /// Swings by this share of its recorded value.
    Gauge { swing: f64 },
    /// Seconds since boot.
    Uptime,
}

#[derive(Debug)]
enum Piece {
    Text(Vec<u8>),
    Number { base: f64, decimals: usize, rule: Rule },
}

/// One part of an answer, frame line included.
#[derive(Debug)]
struct Part {
    name: String,
    pieces: Vec<Piece>,
}

/// Which sections a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letters {
    pub filesystems: bool,
    pub processes: bool,
    pub services: bool,
    pub users: bool,
    pub facts: bool,
}

impl Letters {
    /// Reads `-dpsufckt` or any part of it, in this order. None: it is nothing that the script knows. The machine that was
    /// recorded has no containers, so to `c` it says nothing, and nothing to `k` and `t`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('-')?;
        let mut take = |letter: char| match rest.strip_prefix(letter) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        };
        let letters = Self {
            filesystems: take('d'),
            processes: take('p'),
            services: take('s'),
            users: take('u'),
            facts: take('f'),
        };
        take('c');
        take('k');
        take('t');
        rest.is_empty().then_some(letters)
    }

    fn wants(self, part: &str) -> bool {
        match part {
            "statfs" => self.filesystems,
            "passwd" | "stat" | "status" | "cmdline" => self.processes,
            "systemctl" | "nomanager" => self.services,
            "sessions" | "utmp" => self.users,
            "facts" | "cpuinfo" | "routes" | "markers" | "localtime" => self.facts,
            _ => true,
        }
    }
}

/// What an answer depends on.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    pub server: usize,
    /// Number of the request on its channel.
    pub request: u64,
    pub seconds: f64,
    pub word: &'a str,
}

/// The recording, taken apart.
#[derive(Debug)]
pub struct Recording {
    hello: Vec<Part>,
    reading: Vec<Part>,
    mounts: BTreeSet<String>,
}

impl Recording {
    /// # Errors
    /// When the committed recording is not what the script prints.
    pub fn debian() -> anyhow::Result<Self> {
        Self::parse(DEBIAN).context("the committed recording")
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut parts = split(bytes)?.into_iter();
        let hello: Vec<_> = parts.by_ref().take(2).collect();
        let names: Vec<_> =
            hello.iter().map(|(name, _)| name.split(' ').next().unwrap_or_default()).collect();
        if names != ["hello", "ready"] {
            bail!("it begins with {names:?}");
        }
        let mounts = hello.iter().flat_map(|(_, body)| mount_paths(body)).collect();
        let inner = parts.filter(|(name, _)| !name.starts_with("begin ") && !name.starts_with("end "));
        let reading = inner.map(|(name, body)| Part { pieces: pieces(&name, body), name }).collect();
        let as_it_is =
            |(name, body): (String, &[u8])| Part { pieces: vec![Piece::Text(body.to_vec())], name };
        Ok(Self { hello: hello.into_iter().map(as_it_is).collect(), reading, mounts })
    }

    /// Whether the recorded machine has something mounted there.
    #[must_use]
    pub fn has_mount(&self, path: &str) -> bool {
        self.mounts.contains(path)
    }

    /// The script's first words.
    #[must_use]
    pub fn hello(&self, moment: &Moment<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.hello {
            part.render(moment, &mut out);
        }
        out
    }

    /// One reading, `begin` to `end`.
    #[must_use]
    pub fn answer(&self, moment: &Moment<'_>, letters: Letters, size_hint: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(size_hint);
        frame(moment.word, &format!("begin {}", moment.request), &mut out);
        for part in self.reading.iter().filter(|part| letters.wants(&part.name)) {
            part.render(moment, &mut out);
        }
        frame(moment.word, &format!("end {}", moment.request), &mut out);
        out
    }
}

fn frame(word: &str, name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\n@");
    out.extend_from_slice(word.as_bytes());
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
}

impl Part {
    fn render(&self, moment: &Moment<'_>, out: &mut Vec<u8>) {
        frame(moment.word, &self.name, out);
        for (slot, piece) in self.pieces.iter().enumerate() {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Number { base, decimals, rule } => {
                    let value = value(*base, *rule, slot, moment);
                    // Writing to a Vec cannot fail.
                    let _ = write!(out, "{value:.decimals$}");
                }
            }
        }
    }
}

/// Every server and every number has a pace and a phase of its own; a counter never runs backwards, because the
/// swing of its pace is slower than its growth.
fn value(base: f64, rule: Rule, slot: usize, moment: &Moment<'_>) -> f64 {
    let pace = share(moment.server, slot);
    let swing = (moment.seconds / 7.0 + pace * std::f64::consts::TAU).sin();
    match rule {
        Rule::Counter { per_second } => {
            (base + per_second * (0.5 + pace) * (moment.seconds + 3.0 * (swing + 1.0))).floor()
        }
        Rule::Gauge { swing: share } => base * share.mul_add(swing * (0.5 + 0.5 * pace), 1.0),
        Rule::Uptime => base + moment.seconds,
    }
}

/// A number in 0..1 that always is the same for the same two (the finaliser of SplitMix64).
#[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
fn share(server: usize, slot: usize) -> f64 {
    let mut bits = (server as u64) << 20 ^ slot as u64;
    bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (bits >> 40) as f64 / 16_777_216.0
}

/// Name and body of each part, in order.
fn split(bytes: &[u8]) -> anyhow::Result<Vec<(String, &[u8])>> {
    let prefix = format!("\n@{WORD} ").into_bytes();
    let mut starts: Vec<usize> =
        bytes.windows(prefix.len()).enumerate().filter(|(_, at)| *at == prefix).map(|(at, _)| at).collect();
    starts.push(bytes.len());
    let mut parts = Vec::new();
    for pair in starts.windows(2) {
        let &[from, to] = pair else { continue };
        let whole = bytes.get(from + prefix.len()..to).unwrap_or_default();
        let end = whole.iter().position(|&byte| byte == b'\n').context("a frame line is cut off")?;
        let (name, body) = whole.split_at(end);
        parts.push((String::from_utf8(name.to_vec())?, body.get(1..).unwrap_or_default()));
    }
    Ok(parts)
}

fn mount_paths(mountinfo: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(mountinfo);
    text.lines().filter_map(|line| line.split(' ').nth(4).map(str::to_owned)).collect()
}

/// Takes a part apart, line by line.
fn pieces(part: &str, body: &[u8]) -> Vec<Piece> {
    let mut out = Pieces::default();
    let mut path = String::new();
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        if let Some(header) = line.strip_prefix(b"==> ") {
            path = String::from_utf8_lossy(header).trim_end().trim_end_matches(" <==").to_owned();
            out.text(line);
        } else {
            out.line(line, |whole, column| rule(part, &path, whole, column));
        }
    }
    out.0
}

#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn text(&mut self, bytes: &[u8]) {
        if let Some(Piece::Text(text)) = self.0.last_mut() {
            text.extend_from_slice(bytes);
        } else {
            self.0.push(Piece::Text(bytes.to_vec()));
        }
    }

    /// Columns are counted from 0, split at blanks; `rule` sees the whole line and the column.
    fn line(&mut self, line: &[u8], rule: impl Fn(&str, usize) -> Option<Rule>) {
        let whole = String::from_utf8_lossy(line).into_owned();
        let mut column = 0;
        for word in line.split_inclusive(|byte| b" \t\n".contains(byte)) {
            let end = word.iter().position(|byte| b" \t\n".contains(byte)).unwrap_or(word.len());
            let (token, blank) = word.split_at(end);
            if token.is_empty() {
                self.text(blank);
                continue;
            }
            let (before, number) = match token.iter().position(|&byte| byte == b'=') {
                Some(at) => token.split_at(at + 1),
                None => token.split_at(0),
            };
            let text = std::str::from_utf8(number).unwrap_or_default();
            let parsed = text.parse::<f64>().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()));
            match parsed.zip(rule(&whole, column)) {
                Some((base, rule)) => {
                    let decimals = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
                    self.text(before);
                    self.0.push(Piece::Number { base, decimals, rule });
                }
                None => self.text(token),
            }
            self.text(blank);
            column += 1;
        }
    }
}

/// How the number in this column of this line moves. None: it stays.
fn rule(part: &str, path: &str, line: &str, column: usize) -> Option<Rule> {
    let counter = |per_second: f64| Some(Rule::Counter { per_second });
    let gauge = |swing: f64| Some(Rule::Gauge { swing });
    let key = line.split_whitespace().next().unwrap_or_default();
    match (part, path) {
        ("files", "/proc/stat") => match (key, column) {
            ("cpu", 1..=7) => counter(cpu_ticks(column) * 2.0),
            (_, 1..=7) if key.starts_with("cpu") => counter(cpu_ticks(column)),
            ("ctxt", 1) => counter(2500.0),
            ("processes", 1) => counter(3.0),
            _ => None,
        },
        ("files", "/proc/uptime") if column == 0 => Some(Rule::Uptime),
        ("files", "/proc/loadavg") if column < 3 => gauge(0.4),
        ("files", "/proc/meminfo") => match key {
            "MemFree:" | "MemAvailable:" | "Buffers:" | "Cached:" => gauge(0.05),
            _ => None,
        },
        ("files", "/proc/sys/fs/file-nr") if column == 0 => gauge(0.1),
        ("files", "/proc/pressure/cpu" | "/proc/pressure/memory" | "/proc/pressure/io") if column == 4 => {
            counter(900.0)
        }
        ("files", "/proc/net/dev") if line.contains(':') => match column {
            1 => counter(120_000.0),
            2 => counter(150.0),
            9 => counter(80_000.0),
            10 => counter(120.0),
            _ => None,
        },
        // A device that never did anything goes on so.
        ("files", "/proc/diskstats") if line.split_whitespace().nth(3) != Some("0") => match column {
            3 => counter(12.0),
            5 => counter(800.0),
            7 => counter(20.0),
            9 => counter(1600.0),
            12 | 13 => counter(30.0),
            _ => None,
        },
        // Processor time of a process (proc(5)); names without blanks keep the columns in place.
        ("stat", _) if column == 13 => counter(0.8),
        ("statfs", _) if column == 2 || column == 3 => gauge(0.01),
        _ => None,
    }
}

/// Ticks a second in a column of /proc/stat, for one core.
const fn cpu_ticks(column: usize) -> f64 {
    match column {
        1 => 18.0,
        3 => 6.0,
        4 => 70.0,
        5 => 1.0,
        7 => 0.5,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use roundsman::collect::ShellProbe;
    use roundsman::collect::rates;
    use roundsman::model::Sections;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn moment(word: &str, request: u64) -> Moment<'_> {
        let seconds = 5.0 * f64::from(u32::try_from(request).unwrap());
        Moment { server: 7, request, seconds, word }
    }

    #[test]
    fn only_letters_that_the_script_knows_are_a_request() {
        assert!(Letters::parse("-").is_some_and(|letters| !letters.filesystems));
        assert!(Letters::parse("-dpsufckt").is_some_and(|letters| letters.facts));
        for bad in ["", "d", "-x", "-fd", "-dd"] {
            assert_eq!(Letters::parse(bad), None, "{bad}");
        }
    }

    /// The product's own probe reads the recording: about 40 series, and most of them move.
    #[tokio::test]
    async fn the_probe_understands_the_recording_and_its_values_move() {
        let recording = Recording::debian().unwrap();
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let answering = tokio::spawn(async move {
            let mut script = Vec::new();
            while !script.ends_with(b"main; exit 0\n") {
                far.read_buf(&mut script).await.unwrap();
            }
            let text = String::from_utf8(script).unwrap();
            let word = text.lines().find_map(|line| line.strip_prefix("n=")).unwrap().to_owned();
            far.write_all(&recording.hello(&moment(&word, 0))).await.unwrap();
            let mut received = Vec::new();
            while far.read_buf(&mut received).await.unwrap() > 0 {
                let text = String::from_utf8(received.clone()).unwrap();
                let Some(line) = text.lines().rfind(|line| line.starts_with("r ")) else { continue };
                let mut words = line.split(' ').skip(1);
                let request = words.next().unwrap().parse().unwrap();
                let letters = Letters::parse(words.next().unwrap()).unwrap();
                far.write_all(&recording.answer(&moment(&word, request), letters, 0)).await.unwrap();
                received.clear();
            }
        });
        let mut probe = ShellProbe::start(near).await.unwrap();
        let first = probe.read(Sections::DETAILS).await.unwrap();
        let second = probe.read(Sections::DETAILS).await.unwrap();
        let third = probe.read(Sections::BASE).await.unwrap();
        let before = rates::samples(Some(&first), &second);
        let after = rates::samples(Some(&second), &third);
        assert!((35..=60).contains(&after.len()), "{} series", after.len());
        let moved = after
            .iter()
            .filter(|sample| {
                before.iter().any(|old| old.key == sample.key && (old.value - sample.value).abs() > 1e-9)
            })
            .count();
        assert!(moved >= 20, "{moved} of {} moved", after.len());
        assert!(first.processes.unwrap().len() >= 60);
        assert!(first.services.unwrap().len() >= 50);
        assert!(third.filesystems.iter().any(|filesystem| filesystem.size_bytes > 0));
        drop(probe);
        answering.await.unwrap();
    }
}
