//! The frame format of the shell probe: what the script printed, cut into parts, files and a snapshot. Pure.
//!
//! A part begins with the line `@WORD name`, where WORD is this channel's random word. Within a part, files
//! stand as `head` prints them: `==> path <==`, then the content. A header counts only where its path is one
//! that was asked for in that part.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use roundsman_agent::limits;
use roundsman_agent::proc::containers::{ContainersText, EngineText, id_of_cgroup};
use roundsman_agent::proc::facts::{FILES as FACT_FILES, FIRST_LINES};
use roundsman_agent::proc::init::InitText;
use roundsman_agent::proc::services::NO_MANAGER;
use roundsman_agent::proc::{mounts, process, sockets};
use roundsman_agent::reading::{
    BASE_FILES, CGROUP_V1_FILES, CGROUP_V2_FILES, FilesystemText, ServicesText, Texts, assemble,
};
use roundsman_agent::text::{clean_some, first_line, lines};

use crate::collect::ProbeError;
use crate::model::{Gap, Process, Sections, ServiceManager, Snapshot};

/// Page size where `getconf` is missing (some BusyBox systems): that of all of them but a few arm64 ones.
const DEFAULT_PAGE_BYTES: u64 = 4096;
/// Parts of one answer; the script prints at most 30.
const PARTS: usize = 48;

/// Processes over which the script lists none: each takes three files, and some hundred bytes of the answer.
pub(super) const CROWD: usize = 40_000;

/// The random word of one channel.
#[derive(Debug, Clone)]
pub(super) struct Nonce(String);

impl Nonce {
    pub(super) const fn new(word: String) -> Self {
        Self(word)
    }

    pub(super) fn word(&self) -> &str {
        &self.0
    }

    /// The frame line with these words, line breaks included.
    pub(super) fn line(&self, words: &str) -> Vec<u8> {
        format!("\n@{} {words}\n", self.0).into_bytes()
    }

    /// Whether a frame that begins with this word came at all.
    pub(super) fn starts(&self, bytes: &[u8], word: &str) -> bool {
        find(bytes, format!("\n@{} {word}", self.0).as_bytes()).is_some()
    }

    fn prefix(&self) -> Vec<u8> {
        format!("\n@{} ", self.0).into_bytes()
    }
}

/// What the script says once, when it starts.
#[derive(Debug, Clone, Default)]
pub(super) struct Hello {
    ticks_per_second: Option<u32>,
    page_bytes: u64,
    architecture: Option<String>,
    mounts: Mounts,
}

impl Hello {
    /// The filesystems to ask for first; they are needed once.
    pub(super) fn take_mounts(&mut self) -> Mounts {
        std::mem::take(&mut self.mounts)
    }
}

/// What was asked for.
pub(super) struct Asked<'a> {
    pub(super) request: u64,
    pub(super) sections: Sections,
    /// What an earlier reading said of filesystems; stands where this one says nothing.
    pub(super) filesystems: Option<FilesystemText>,
    /// As the reading before showed them.
    pub(super) mounts: &'a Mounts,
}

/// A reading and what the next one starts from.
pub(super) struct Reading {
    pub(super) snapshot: Snapshot,
    pub(super) filesystems: Option<FilesystemText>,
    /// None: the mounts are those of the reading before.
    pub(super) mounts: Option<Mounts>,
}

/// The mounts that are asked for, and what they were found in.
#[derive(Debug, Clone, Default)]
pub(super) struct Mounts {
    /// None: there was no table.
    table: Option<u64>,
    pub(super) chosen: Arc<[mounts::Mount]>,
}

impl Mounts {
    /// Whether the same filesystems are asked for.
    pub(super) fn has_paths_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chosen, &other.chosen)
            || self.chosen.iter().map(|mount| &mount.path).eq(other.chosen.iter().map(|mount| &mount.path))
    }

    fn of(mountinfo: &[u8]) -> Self {
        Self {
            table: Some(fingerprint(mountinfo)),
            chosen: mounts::choose(&mounts::mountinfo(mountinfo)).into(),
        }
    }
}

/// Mounts hardly ever change, and taking their table apart costs more than the rest of the reading.
fn fingerprint(mountinfo: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    mountinfo.hash(&mut hasher);
    hasher.finish()
}

/// Position of `needle` in `bytes`.
pub(super) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, needle)
}

pub(super) fn cut_short(bytes: &[u8]) -> String {
    format!("the script ended after {} bytes", bytes.len())
}

fn garbled(reason: &str) -> ProbeError {
    ProbeError::Garbled { reason: reason.to_owned() }
}

/// Reads the script's first words, whatever came before them.
pub(super) fn hello(nonce: &Nonce, bytes: &[u8]) -> Result<Hello, ProbeError> {
    let (_, parts) = parts(nonce, bytes)?;
    let words = parts.iter().find_map(|(name, _)| name.strip_prefix("hello "));
    let words = words.ok_or_else(|| garbled("the script's first word is missing"))?;
    let value = |key: &str| {
        words
            .split(' ')
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            .filter(|value| !value.is_empty())
    };
    let files = parts.iter().find(|(name, _)| name.starts_with("hello ")).map_or(&[][..], |(_, body)| *body);
    let mountinfo = files_of(files, |path| path == "/proc/self/mountinfo").into_iter().next();
    Ok(Hello {
        ticks_per_second: value("ticks").and_then(|ticks| ticks.parse().ok()).filter(|&ticks| ticks > 0),
        page_bytes: value("page")
            .and_then(|bytes| bytes.parse().ok())
            .filter(|&bytes: &u64| bytes.is_power_of_two())
            .unwrap_or(DEFAULT_PAGE_BYTES),
        architecture: value("arch").and_then(|word| clean_some(word.as_bytes(), limits::TEXT_BYTES)),
        mounts: mountinfo.map(|(_, content)| Mounts::of(content)).unwrap_or_default(),
    })
}

/// Reads one answer, `begin` to `end`.
pub(super) fn reading(
    nonce: &Nonce,
    bytes: &[u8],
    hello: &Hello,
    asked: Asked<'_>,
) -> Result<Reading, ProbeError> {
    let Asked { request, sections, filesystems: earlier, mounts: known } = asked;
    let (before, parts) = parts(nonce, bytes)?;
    let expected = format!("begin {request}");
    if !before.is_empty() || parts.first().is_none_or(|(name, _)| *name != expected) {
        return Err(garbled("the reading does not begin where it should"));
    }
    let mut bodies: HashMap<&str, &[u8]> = HashMap::new();
    for (name, body) in &parts {
        if bodies.insert(name, body).is_some() {
            return Err(garbled("a part of the reading came twice"));
        }
    }
    let body = |name: &str| bodies.get(name).copied();
    let files = body("files").ok_or_else(|| garbled("the reading has no files"))?;
    let mut texts = Texts {
        process_count: body("count").and_then(|count| first_line(count)?.parse().ok()),
        filesystems: filesystems(&bodies).or(earlier),
        ticks_per_second: hello.ticks_per_second,
        architecture: hello.architecture.clone(),
        ..Texts::default()
    };
    for (path, content) in files_of(files, is_base_file) {
        if let Some(card) = path.strip_prefix("/sys/class/net/").and_then(|rest| rest.split('/').next()) {
            if texts.cards.len() < limits::INTERFACES {
                texts.cards.push(card.to_owned());
            }
        } else if texts.files.len() < BASE_FILES.len() + limits::SENSORS * 3 {
            texts.files.entry(path.to_owned()).or_insert_with(|| content.to_vec());
        }
    }
    let is_crowd = sections.processes && bodies.contains_key("crowd");
    if sections.processes && !is_crowd {
        texts.processes = Some(processes(&bodies, hello.page_bytes));
    }
    if sections.services {
        texts.services = Some(services(&bodies, hello.page_bytes, texts.files.contains_key("/proc/1/comm")));
    }
    if sections.users {
        let accept = |path: &str| path.starts_with("/run/systemd/sessions/");
        texts.sessions = body("sessions").map(|part| {
            files_of(part, accept)
                .into_iter()
                .take(limits::USERS)
                .map(|(_, content)| content.to_vec())
                .collect()
        });
        texts.utmp = body("utmp").map(<[u8]>::to_vec);
        texts.clock_ms = body("clock").and_then(clock_ms);
    }
    if sections.containers {
        texts.containers = Some(containers(&bodies));
    }
    if sections.packages {
        texts.packages = body("packages").map(<[u8]>::to_vec);
    }
    if sections.sockets {
        texts.sockets = Some(sockets::counted(body("sockets").unwrap_or_default()));
    }
    if sections.facts {
        add_facts(&mut texts, &bodies);
    }
    let table = texts.files.get("/proc/self/mountinfo").map(Vec::as_slice).unwrap_or_default();
    let mounts = (Some(fingerprint(table)) != known.table).then(|| Mounts::of(table));
    texts.mounts = Some(Arc::clone(&mounts.as_ref().unwrap_or(known).chosen));
    let filesystems = texts.filesystems.clone();
    let mut snapshot = assemble(texts, sections);
    if is_crowd {
        let reason =
            format!("more than {CROWD} processes are not listed without the agent; deploy it to see them");
        snapshot.gaps.push(Gap { section: "processes".to_owned(), reason });
    }
    if snapshot.cpu.is_none() && snapshot.memory.is_none() && snapshot.uptime_ms.is_none() {
        return Err(garbled("/proc says nothing: is this Linux, and is /proc mounted?"));
    }
    Ok(Reading { snapshot, filesystems, mounts })
}

fn is_base_file(path: &str) -> bool {
    BASE_FILES.contains(&path)
        || CGROUP_V1_FILES.contains(&path)
        || CGROUP_V2_FILES.contains(&path)
        || path.starts_with("/sys/class/hwmon/")
        || path.starts_with("/sys/class/thermal/")
        || (path.starts_with("/sys/class/net/") && path.ends_with("/device/uevent"))
}

fn filesystems(bodies: &HashMap<&str, &[u8]>) -> Option<FilesystemText> {
    let text = bodies.get("statfs").map(|output| FilesystemText::Statfs(output.to_vec()));
    text.or_else(|| bodies.get("df").map(|output| FilesystemText::Df(output.to_vec())))
}

/// `date +%s.%N`; a date that knows no nanoseconds leaves the second, of which the middle is as good as any.
fn clock_ms(said: &[u8]) -> Option<u64> {
    let line = first_line(said)?;
    let (seconds, fraction) = line.split_once('.').unwrap_or((line.as_str(), ""));
    let ms = fraction.get(..3).and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(500);
    seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(ms)
}

/// What the script found of OpenRC or SysV init.
fn init(bodies: &HashMap<&str, &[u8]>, manager: ServiceManager, page_bytes: u64, sees_all: bool) -> InitText {
    let body = |name: &str| bodies.get(name).copied().unwrap_or_default();
    let paths = body(if manager == ServiceManager::OpenRc { "openrc" } else { "sysv" });
    let pair = |line: Cow<'_, str>, separator: char| {
        let (left, right) = line.split_once(separator)?;
        Some((left.to_owned(), right.to_owned()))
    };
    let numbered = |part: &str| lines(body(part)).filter_map(|line| pair(line, ' ')).collect::<Vec<_>>();
    let is_value = |path: &str| path.starts_with("/run/openrc/");
    let stats = by_pid(body("init-stat"), "/stat");
    let processes = stats.into_iter().filter_map(|(pid, stat)| {
        let files = process::ProcessFiles { stat: stat?, status: None, command_line: None };
        Some((pid, process::process(&files, page_bytes, &HashMap::new()).filter(|found| found.pid == pid)?))
    });
    InitText {
        manager,
        paths: lines(paths)
            .filter(|line| line.starts_with('/'))
            .map(Cow::into_owned)
            .take(limits::INIT_LINES)
            .collect(),
        lines: lines(body("init-lines"))
            .filter_map(|line| pair(line, ':'))
            .take(limits::INIT_LINES)
            .collect(),
        dates: numbered("init-dates")
            .into_iter()
            .filter_map(|(seconds, path)| Some((path, seconds.parse().ok()?)))
            .take(limits::INIT_LINES)
            .collect(),
        values: files_of(body("init-values"), is_value)
            .into_iter()
            .map(|(path, content)| (path.to_owned(), content.to_vec()))
            .take(limits::INIT_LINES)
            .collect(),
        pids: numbered("init-pids")
            .into_iter()
            .filter_map(|(pid, path)| Some((path, pid.parse().ok()?)))
            .take(limits::PID_FILES)
            .collect(),
        processes: processes.take(limits::PID_FILES).collect(),
        sees_all,
    }
}

fn services(bodies: &HashMap<&str, &[u8]>, page_bytes: u64, sees_all: bool) -> ServicesText {
    let unknown = |reason: &str| ServicesText::Unknown(reason.to_owned());
    match bodies.get("systemctl") {
        Some(output) if output.iter().any(|byte| !byte.is_ascii_whitespace()) => {
            ServicesText::Systemctl(output.to_vec())
        }
        Some(_) => unknown("systemctl does not answer"),
        None if bodies.contains_key("openrc") => {
            ServicesText::Init(Box::new(init(bodies, ServiceManager::OpenRc, page_bytes, sees_all)))
        }
        None if bodies.contains_key("sysv") => {
            ServicesText::Init(Box::new(init(bodies, ServiceManager::SysV, page_bytes, sees_all)))
        }
        None if bodies.contains_key("nomanager") => unknown(NO_MANAGER),
        None => unknown("the script said nothing of services"),
    }
}

fn containers(bodies: &HashMap<&str, &[u8]>) -> ContainersText {
    let body = |name: &str| bodies.get(name).copied();
    let mut text = ContainersText::default();
    for (engine, [list, more, denied, silent]) in [
        ("podman", ["podman-list", "podman-more", "podman-denied", "podman-silent"]),
        ("docker", ["docker-list", "docker-more", "docker-denied", "docker-silent"]),
    ] {
        let said = if let Some(list) = body(list) {
            EngineText::Answered { list: list.to_vec(), more: body(more).unwrap_or_default().to_vec() }
        } else if let Some(user) = body(denied) {
            EngineText::Denied { user: clean_some(user, limits::TEXT_BYTES).unwrap_or_default() }
        } else if body(silent).is_some() {
            EngineText::Silent
        } else {
            continue;
        };
        text.engines.push((engine, said));
    }
    let is_group = |path: &str| path.starts_with("/sys/fs/cgroup/") && id_of_cgroup(path).is_some();
    for (path, content) in files_of(body("container-files").unwrap_or_default(), is_group) {
        text.cgroups.insert(path.to_owned(), content.to_vec());
    }
    for line in lines(body("container-pids").unwrap_or_default()).take(limits::CONTAINERS) {
        if let Some((pid, path)) = line.split_once(' ')
            && let Ok(pid) = pid.parse()
            && id_of_cgroup(path).is_some()
        {
            text.pids.insert(path.to_owned(), pid);
        }
    }
    let networks = by_pid(body("container-nets").unwrap_or_default(), "/net/dev");
    text.networks =
        networks.into_iter().filter_map(|(pid, content)| Some((pid, content?.to_vec()))).collect();
    text
}

fn add_facts(texts: &mut Texts, bodies: &HashMap<&str, &[u8]>) {
    let body = |name: &str| bodies.get(name).copied().unwrap_or_default();
    let first = FIRST_LINES.iter().map(|(path, _)| *path);
    for (part, accept) in
        [("facts", FACT_FILES.to_vec()), ("cpuinfo", first.clone().collect()), ("routes", first.collect())]
    {
        for (path, content) in files_of(body(part), |path| accept.contains(&path)) {
            texts.files.entry(path.to_owned()).or_insert_with(|| content.to_vec());
        }
    }
    texts.markers.extend(lines(body("markers")).map(|line| line.into_owned()).take(PARTS));
    texts.localtime = first_line(body("localtime"));
}

/// The processes of the parts `stat`, `status` and `cmdline`. A process may put a file header into its own
/// command line: whatever then seems to come twice is dropped, so that none can speak for another.
fn processes<'a>(bodies: &HashMap<&str, &'a [u8]>, page_bytes: u64) -> Vec<Process> {
    let body = |name: &str| bodies.get(name).copied().unwrap_or_default();
    let passwd = files_of(body("passwd"), |path| path == "/etc/passwd").into_iter().next();
    let users = passwd.map(|(_, content)| process::passwd(content)).unwrap_or_default();
    let stats = by_pid(body("stat"), "/stat");
    let statuses = by_pid(body("status"), "/status");
    let command_lines = by_pid(body("cmdline"), "/cmdline");
    let of = |files: &BTreeMap<u32, Option<&'a [u8]>>, pid: u32| files.get(&pid).copied().flatten();
    stats
        .iter()
        .filter_map(|(&pid, &stat)| {
            let (status, command_line) = (of(&statuses, pid), of(&command_lines, pid));
            let files = process::ProcessFiles {
                stat: stat?,
                status,
                // `head` puts a line break between two files.
                command_line: command_line.map(|line| line.strip_suffix(b"\n").unwrap_or(line)),
            };
            process::process(&files, page_bytes, &users).filter(|process| process.pid == pid)
        })
        .take(limits::PROCESSES)
        .collect()
}

fn by_pid<'a>(part: &'a [u8], name: &str) -> BTreeMap<u32, Option<&'a [u8]>> {
    let pid = |path: &str| path.strip_prefix("/proc/")?.strip_suffix(name)?.parse::<u32>().ok();
    let mut found = BTreeMap::new();
    for (path, content) in files_of(part, |path| pid(path).is_some()) {
        if let Some(pid) = pid(path) {
            found.entry(pid).and_modify(|twice| *twice = None).or_insert(Some(content));
        }
    }
    found
}

type Parts<'a> = Vec<(&'a str, &'a [u8])>;

/// Cuts an answer at its frame lines: what came before the first, then name and body of each part.
fn parts<'a>(nonce: &Nonce, bytes: &'a [u8]) -> Result<(&'a [u8], Parts<'a>), ProbeError> {
    let prefix = nonce.prefix();
    let finder = memchr::memmem::Finder::new(&prefix);
    let mut found = Vec::new();
    let Some(first) = finder.find(bytes) else { return Err(garbled("no part of the reading came")) };
    let (before, mut rest) = bytes.split_at(first);
    while let Some(after) = rest.strip_prefix(prefix.as_slice()) {
        let end =
            after.iter().position(|&byte| byte == b'\n').ok_or_else(|| garbled("a frame line is cut off"))?;
        let (name, body) = after.split_at(end);
        let name = std::str::from_utf8(name).map_err(|_| garbled("a frame line is not text"))?;
        // The line break that ends this frame line may also be the one that begins the next.
        let next = finder.find(body).unwrap_or(body.len());
        let (body, following) = body.split_at(next);
        found.push((name, body.strip_prefix(b"\n").unwrap_or(body)));
        rest = following;
        if found.len() > PARTS {
            return Err(garbled("the reading has too many parts"));
        }
    }
    Ok((before, found))
}

/// Cuts a part at the headers that `head` prints before each file, in order. Only accepted paths begin a file.
fn files_of<'a>(part: &'a [u8], accept: impl Fn(&str) -> bool) -> Vec<(&'a str, &'a [u8])> {
    const HEADER: &[u8] = b"==> ";
    let mut found: Vec<(&str, usize, usize)> = Vec::new();
    for at in memchr::memmem::find_iter(part, HEADER) {
        let begins_a_line = at == 0 || part.get(at - 1) == Some(&b'\n');
        let Some(line) = part.get(at..).filter(|_| begins_a_line) else { continue };
        let line = memchr::memchr(b'\n', line).and_then(|end| line.get(..end)).unwrap_or(line);
        let path = line.strip_prefix(HEADER).and_then(|rest| rest.strip_suffix(b" <=="));
        if let Some(path) = path.and_then(|path| std::str::from_utf8(path).ok()).filter(|path| accept(path)) {
            if let Some((_, _, end)) = found.last_mut() {
                // Without the line break that `head` puts before the header.
                *end = at.saturating_sub(1);
            }
            found.push((path, (at + line.len() + 1).min(part.len()), part.len()));
        }
    }
    let cut =
        |(path, from, to): (&'a str, usize, usize)| (path, part.get(from..to.max(from)).unwrap_or_default());
    found.into_iter().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_table_of_mounts_is_noticed_at_once_and_the_same_one_is_not_taken_apart_again() {
        let (nonce, hello) = (Nonce::new("w".to_owned()), Hello::default());
        let read = |known: &Mounts, table: &str| {
            let full = "4096 1000 500 400 100 50";
            let answer = format!(
                "\n@w begin 1\n\n@w files\n==> /proc/stat <==\ncpu  1 2 3 4 5 6 7 8 0 0\n\n==> /proc/self/mountinfo <==\n\
                 {table}\n\n@w statfs\n{full} /\n{full} /data\n\n@w end 1\n"
            );
            let asked = Asked { request: 1, sections: Sections::BASE, filesystems: None, mounts: known };
            let reading = reading(&nonce, answer.as_bytes(), &hello, asked).unwrap();
            let filled = reading.snapshot.filesystems.into_iter().map(|filesystem| filesystem.mount);
            (filled.collect::<Vec<_>>(), reading.mounts)
        };
        let root = "25 1 8:1 / / rw - ext4 /dev/sda1 rw";
        let both = format!("{root}\n26 25 8:17 / /data rw - ext4 /dev/sdb1 rw");
        let (filled, mounts) = read(&Mounts::default(), root);
        assert_eq!(filled, ["/"]);
        let known = mounts.unwrap();
        let (filled, mounts) = read(&known, root);
        assert!(filled == ["/"] && mounts.is_none());
        let (filled, mounts) = read(&known, &both);
        assert_eq!(filled, ["/", "/data"]);
        let known = mounts.unwrap();
        assert_eq!(read(&known, root).0, ["/"], "what is unmounted is gone with the same reading");
    }
}
