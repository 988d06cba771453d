//! Answers of container engines and the files of their cgroups to [`Container`]s.
//!
//! Engines: Docker and Podman, which answer the same over their sockets (Docker Engine API, `GET /containers/json`)
//! and in much the same words by their programs. Figures come from the kernel, never from `stats`, which takes
//! two seconds: cgroup version 2 (Linux, admin-guide/cgroup-v2.rst) or 1, and `/proc/PID/net/dev` of one process of
//! the container.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::json_text::{Json, documents};
use crate::limits;
use crate::snapshot::{Container, Gap};
use crate::text::clean;

/// One line of JSON for each container, as [`list`] reads it: names of the fields as in the Engine API, for
/// `docker inspect --format` and `podman inspect --format`. No environment and no arguments: they hold secrets.
pub const INSPECT_FORMAT: &str = "{\"Id\":{{json .ID}},\"Names\":[{{json .Name}}],\"Image\":{{json .Config.Image}},\
    \"State\":{{json .State}},\"RestartCount\":{{json .RestartCount}},\"Ports\":{{json .NetworkSettings.Ports}},\
    \"Labels\":{{json .Config.Labels}},\"Created\":{{json .Created}},\
    \"HostConfig\":{\"NetworkMode\":{{json .HostConfig.NetworkMode}}}}";

/// Limits of memory from here on are none: version 1 says 2^63 - 4096 for it.
const NO_LIMIT: u64 = 1 << 62;

/// What one engine said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineText {
    Answered {
        /// A list of the Engine API, or lines of [`INSPECT_FORMAT`].
        list: Vec<u8>,
        /// What the list of the Engine API does not have, as [`details`] finds it; may be empty.
        more: Vec<u8>,
    },
    /// It is there, and this user may not ask it.
    Denied { user: String },
    /// It is there and does not answer in time.
    Silent,
}

/// Everything that was read of containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainersText {
    /// `podman`, `docker`: where both show one container, the first has it.
    pub engines: Vec<(&'static str, EngineText)>,
    /// Path under `/sys/fs/cgroup` to content.
    pub cgroups: BTreeMap<String, Vec<u8>>,
    /// Path of a container's cgroup to a process in it.
    pub pids: BTreeMap<String, u32>,
    /// `/proc/PID/net/dev` of these.
    pub networks: HashMap<u32, Vec<u8>>,
}

/// The containers of all engines by name. None: no engine answered; what a person should know of that is in the gaps.
#[must_use]
pub fn containers(text: &ContainersText) -> (Option<Vec<Container>>, Vec<Gap>) {
    let mut gaps = Vec::new();
    let mut found: Option<Vec<Container>> = None;
    let mut seen = BTreeSet::new();
    let mut figures = figures(text);
    for (engine, said) in &text.engines {
        let (list_text, more) = match said {
            EngineText::Answered { list, more } => (list, more),
            EngineText::Denied { user } => {
                gaps.push(gap(&denied(engine, user)));
                continue;
            }
            EngineText::Silent => {
                gaps.push(gap(&format!("{} does not answer", title(engine))));
                continue;
            }
        };
        let (mut of_engine, whole) = list(engine, list_text);
        if !whole {
            gaps.push(gap(&format!("partial: not all of what {} says can be read", title(engine))));
        }
        let details = details(more);
        of_engine.retain(|(container, _)| seen.insert(container.id.clone()));
        let all = found.get_or_insert_default();
        for (mut container, host_network) in of_engine {
            add_details(&mut container, &details);
            if let Some(figures) = figures.remove(container.id.as_str()) {
                figures.fill(&mut container, host_network);
            }
            if all.len() < limits::CONTAINERS {
                all.push(container);
            }
        }
    }
    if let Some(all) = &mut found {
        if all.len() >= limits::CONTAINERS {
            gaps.push(gap("partial: more containers than one reading takes"));
        }
        all.sort_by(|left, right| left.name.cmp(&right.name).then_with(|| left.id.cmp(&right.id)));
    }
    (found, gaps)
}

fn gap(reason: &str) -> Gap {
    Gap { section: "containers".to_owned(), reason: reason.to_owned() }
}

fn title(engine: &str) -> &'static str {
    if engine == "podman" { "Podman" } else { "Docker" }
}

fn denied(engine: &str, user: &str) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let user = if !user.is_empty() && user.chars().all(is_name) { user } else { "USER" };
    if engine == "podman" {
        return format!(
            "{user} does not see the containers that root runs under Podman; read the server as root to see them"
        );
    }
    format!(
        "{user} may not ask Docker; as root: usermod -aG docker {user} (whoever is in that group is as good as root), \
         then let Roundsman connect again"
    )
}

/// The containers of a list, each with whether it uses the network of its host. False: the text breaks off.
fn list(engine: &str, text: &[u8]) -> (Vec<(Container, bool)>, bool) {
    let (values, whole) = documents(text);
    let mut found = Vec::new();
    for value in &values {
        match value {
            Json::List(items) => found.extend(items.iter().filter_map(|item| container(engine, item))),
            value => found.extend(container(engine, value)),
        }
        if found.len() > limits::CONTAINERS {
            break;
        }
    }
    // An engine that refuses answers with one object {"message": …}.
    let refused = found.is_empty() && values.iter().any(|value| value.get("message").is_some());
    found.truncate(limits::CONTAINERS);
    (found, whole && !refused)
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn container(engine: &str, value: &Json) -> Option<(Container, bool)> {
    let id = value.get("Id")?.text().filter(|id| is_id(id))?;
    let word = |text: &str| clean(text.as_bytes(), limits::TEXT_BYTES);
    let name = value.get("Names").and_then(|names| names.items().next());
    let name = name.or_else(|| value.get("Name")).and_then(Json::text).unwrap_or_default();
    let name = Some(word(name.trim_start_matches('/'))).filter(|name| !name.is_empty());
    let state = value.get("State");
    let status =
        state.and_then(|state| state.text().or_else(|| state.get("Status")?.text())).unwrap_or_default();
    let said = Said::of(value.get("Status").and_then(Json::text).unwrap_or_default());
    let health =
        state.and_then(|state| state.get("Health").or_else(|| state.get("Healthcheck"))?.get("Status"));
    let health = health.and_then(Json::text).map(str::to_owned).or(said.health);
    let of_state = |name: &str| state.and_then(|state| state.get(name));
    let not_negative = |value: Option<&Json>| u64::try_from(value?.number()?).ok();
    let host_network =
        value.get("HostConfig").and_then(|config| config.get("NetworkMode")?.text()) == Some("host");
    let found = Container {
        engine: engine.to_owned(),
        id: id.to_owned(),
        name: name.unwrap_or_else(|| id.chars().take(12).collect()),
        image: word(value.get("Image").and_then(Json::text).unwrap_or_default()),
        state: word(status).to_lowercase(),
        health: health.map(|health| word(&health)).filter(|health| !health.is_empty() && health != "none"),
        restarts: not_negative(value.get("RestartCount")),
        ports: value.get("Ports").map(ports).unwrap_or_default(),
        labels: value.get("Labels").map(labels).unwrap_or_default(),
        size_bytes: not_negative(value.get("SizeRw")),
        created_ms: value.get("Created").and_then(moment),
        started_ms: of_state("StartedAt").and_then(moment),
        exit_code: of_state("ExitCode").and_then(Json::number).or(said.exit_code),
        ..Container::default()
    };
    Some((found, host_network))
}

/// What the sentence of the list says: `Up 2 hours (healthy)`, `Exited (137) 3 days ago`.
struct Said {
    health: Option<String>,
    exit_code: Option<i64>,
}

impl Said {
    fn of(status: &str) -> Self {
        let inner = status.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(inner, _)| inner);
        let health = match inner {
            Some(word @ ("healthy" | "unhealthy")) => Some(word.to_owned()),
            Some("health: starting" | "starting") => Some("starting".to_owned()),
            _ => None,
        };
        let exit_code = inner.filter(|_| status.starts_with("Exited")).and_then(|code| code.parse().ok());
        Self { health, exit_code }
    }
}

/// As `docker ps` shows them. The Engine API lists them; inspect has a map from `80/tcp` to where it is published.
fn ports(value: &Json) -> Vec<String> {
    let mut found = BTreeSet::new();
    for port in value.items() {
        let number =
            |name: &str| port.get(name).and_then(Json::number).filter(|port| (1..=65_535).contains(port));
        let Some(inside) = number("PrivatePort") else { continue };
        let kind = port.get("Type").and_then(Json::text).unwrap_or("tcp");
        let address = port.get("IP").and_then(Json::text).unwrap_or_default();
        found.insert(published(address, number("PublicPort"), &format!("{inside}/{kind}")));
    }
    for (inside, places) in value.members() {
        let mut is_published = false;
        for place in places.items() {
            let outside = place.get("HostPort").and_then(Json::text).and_then(|port| port.parse().ok());
            let address = place.get("HostIp").and_then(Json::text).unwrap_or_default();
            found.insert(published(address, outside, inside));
            is_published = true;
        }
        if !is_published {
            found.insert(published("", None, inside));
        }
    }
    found.into_iter().take(limits::CONTAINER_PORTS).collect()
}

fn published(address: &str, outside: Option<i64>, inside: &str) -> String {
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let text = match outside {
        Some(outside) if address.is_empty() => format!("{outside}->{inside}"),
        Some(outside) => format!("{address}:{outside}->{inside}"),
        None => inside.to_owned(),
    };
    clean(text.as_bytes(), limits::TEXT_BYTES)
}

fn labels(value: &Json) -> Vec<String> {
    let label = |(name, value): (&str, &Json)| {
        let text = format!("{name}={}", value.text().unwrap_or_default());
        clean(text.as_bytes(), limits::TEXT_BYTES)
    };
    let mut found: Vec<String> = value.members().take(limits::CONTAINER_LABELS).map(label).collect();
    found.sort();
    found
}

/// Unix seconds, or a time as in RFC 3339, to milliseconds. The year 1, which engines write for never, is None.
fn moment(value: &Json) -> Option<u64> {
    match value {
        Json::Number(Some(seconds)) => u64::try_from(*seconds).ok()?.checked_mul(1000).filter(|ms| *ms > 0),
        Json::Text(text) => rfc3339(text),
        _ => None,
    }
}

fn rfc3339(text: &str) -> Option<u64> {
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let is_date = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_time = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second);
    if !is_date || !is_time {
        return None;
    }
    let rest = text.get(19..)?;
    let fraction = rest.strip_prefix('.').unwrap_or_default();
    let digits: String = fraction.chars().take_while(char::is_ascii_digit).collect();
    let ms: i64 = format!("{digits:0<3}").get(..3)?.parse().ok()?;
    let zone = if rest.starts_with('.') { fraction.get(digits.len()..)? } else { rest };
    let offset_minutes = match zone.as_bytes().first() {
        Some(sign @ (b'+' | b'-')) => {
            let hours: i64 = zone.get(1..3)?.parse().ok()?;
            let minutes: i64 = zone.get(4..6)?.parse().ok()?;
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => 0,
    };
    // Days since 1970 of a date of the Gregorian calendar (Hinnant, days_from_civil).
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted / 400;
    let of_era = shifted - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute - offset_minutes) * 60 + second;
    u64::try_from(seconds * 1000 + ms).ok()
}

/// What inspect says of one container beside the list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Detail {
    started_ms: Option<u64>,
    restarts: Option<u64>,
    exit_code: Option<i64>,
    size_bytes: Option<u64>,
}

/// Bytes of the layer of its own of each container, by id: from a list with sizes, or what `grep -o` left of it.
#[must_use]
pub fn sizes(text: &[u8]) -> HashMap<String, u64> {
    details(text).into_iter().filter_map(|(id, detail)| Some((id, detail.size_bytes?))).collect()
}

/// Finds `"Id"`, `"StartedAt"`, `"RestartCount"`, `"ExitCode"` and `"SizeRw"` in inspect's answers, one after another, or in what
/// `grep -o` left of them. A string of a hostile container cannot pass for them: quotation marks within a string stand
/// behind a backslash. The first of each counts, as later ones belong to health checks and labels.
fn details(text: &[u8]) -> HashMap<String, Detail> {
    let text = String::from_utf8_lossy(text);
    let mut found: HashMap<String, Detail> = HashMap::new();
    let mut current: Option<String> = None;
    for (at, _) in text.match_indices('"') {
        let Some(rest) = text.get(at + 1..) else { break };
        let quoted = |rest: &str| rest.split('"').next().unwrap_or_default().to_owned();
        let digits = |rest: &str| {
            let end = rest.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(rest.len());
            rest.get(..end).and_then(|digits| digits.parse::<i64>().ok())
        };
        if let Some(rest) = rest.strip_prefix("Id\":\"") {
            let id = quoted(rest);
            // A label named Id may bring another container's: what stands there already stays as it is.
            if is_id(&id) && (found.contains_key(&id) || found.len() < limits::CONTAINERS) {
                found.entry(id.clone()).or_default();
                current = Some(id);
            }
            continue;
        }
        let Some(detail) = current.as_ref().and_then(|id| found.get_mut(id)) else { continue };
        if let Some(rest) = rest.strip_prefix("StartedAt\":\"") {
            detail.started_ms = detail.started_ms.or_else(|| rfc3339(&quoted(rest)));
        } else if let Some(rest) = rest.strip_prefix("RestartCount\":") {
            detail.restarts =
                detail.restarts.or_else(|| digits(rest).and_then(|count| u64::try_from(count).ok()));
        } else if let Some(rest) = rest.strip_prefix("SizeRw\":") {
            detail.size_bytes =
                detail.size_bytes.or_else(|| digits(rest).and_then(|bytes| u64::try_from(bytes).ok()));
        } else if let Some(rest) = rest.strip_prefix("ExitCode\":") {
            detail.exit_code = detail.exit_code.or_else(|| digits(rest));
        }
    }
    found
}

fn add_details(container: &mut Container, details: &HashMap<String, Detail>) {
    if let Some(detail) = details.get(&container.id) {
        container.started_ms = container.started_ms.or(detail.started_ms);
        container.restarts = container.restarts.or(detail.restarts);
        container.exit_code = container.exit_code.or(detail.exit_code);
    }
    // The code of a container that runs is that of nothing.
    if matches!(container.state.as_str(), "running" | "paused" | "created") {
        container.exit_code = None;
    }
}

/// What the kernel counts of one container.
#[derive(Debug, Default)]
struct Figures<'a> {
    cpu_us: Option<u64>,
    memory_used_bytes: Option<u64>,
    memory_cache_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    io_bytes: Option<(u64, u64)>,
    network: Option<&'a [u8]>,
}

impl Figures<'_> {
    fn fill(self, container: &mut Container, host_network: bool) {
        container.cpu_us = self.cpu_us;
        container.memory_bytes =
            self.memory_used_bytes.map(|used| used.saturating_sub(self.memory_cache_bytes.unwrap_or(0)));
        container.memory_limit_bytes = self.memory_limit_bytes;
        (container.block_read_bytes, container.block_written_bytes) = self.io_bytes.unzip();
        // The host's traffic is not the container's.
        let network = self.network.filter(|_| !host_network).and_then(traffic);
        (container.rx_bytes, container.tx_bytes) = network.unzip();
    }
}

/// The id in the path of a cgroup: `docker-ID.scope`, `libpod-ID.scope`, `ID`.
#[must_use]
pub fn id_of_cgroup(path: &str) -> Option<&str> {
    path.split('/').find_map(|part| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let part = part.strip_prefix("docker-").or_else(|| part.strip_prefix("libpod-")).unwrap_or(part);
        is_id(part).then_some(part)
    })
}

fn figures(text: &ContainersText) -> HashMap<&str, Figures<'_>> {
    let mut found: HashMap<&str, Figures<'_>> = HashMap::new();
    for (path, content) in &text.cgroups {
        let Some(id) = id_of_cgroup(path) else { continue };
        let figures = found.entry(id).or_default();
        let content = String::from_utf8_lossy(content);
        let number = || content.trim().parse::<u64>().ok();
        let named = |name: &str| {
            content
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        };
        match path.rsplit('/').next().unwrap_or_default() {
            "cpu.stat" => figures.cpu_us = figures.cpu_us.or_else(|| named("usage_usec")),
            "cpuacct.usage" => figures.cpu_us = number().map(|ns| ns / 1000),
            "memory.current" | "memory.usage_in_bytes" => figures.memory_used_bytes = number(),
            "memory.stat" => {
                figures.memory_cache_bytes = named("total_inactive_file").or_else(|| named("inactive_file"));
            }
            "memory.max" | "memory.limit_in_bytes" => {
                figures.memory_limit_bytes = number().filter(|limit| *limit < NO_LIMIT);
            }
            "io.stat" => figures.io_bytes = Some(io_stat(&content)),
            "blkio.throttle.io_service_bytes" => figures.io_bytes = Some(io_service(&content)),
            _ => {}
        }
    }
    for (path, pid) in &text.pids {
        if let Some(figures) = id_of_cgroup(path).and_then(|id| found.get_mut(id)) {
            figures.network = text.networks.get(pid).map(Vec::as_slice);
        }
    }
    found
}

/// `8:0 rbytes=1 wbytes=2 rios=…`, a line a device; a container that did none has no line.
fn io_stat(content: &str) -> (u64, u64) {
    let sum = |name: &str| {
        let words = content.split_whitespace().filter_map(|word| word.strip_prefix(name));
        words.filter_map(|value| value.parse::<u64>().ok()).fold(0, u64::saturating_add)
    };
    (sum("rbytes="), sum("wbytes="))
}

/// `8:0 Read 1`, a line a device and kind; `Total` comes last.
fn io_service(content: &str) -> (u64, u64) {
    let sum = |kind: &str| {
        let of = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            (words.next() == Some(kind)).then(|| words.next()?.parse::<u64>().ok()).flatten()
        };
        content.lines().filter_map(of).fold(0, u64::saturating_add)
    };
    (sum("Read"), sum("Write"))
}

/// Bytes received and sent over all interfaces but the loopback. None: not a table of interfaces.
fn traffic(content: &[u8]) -> Option<(u64, u64)> {
    let mut sum: Option<(u64, u64)> = None;
    for interface in super::network::dev(content) {
        let (rx, tx) = sum.unwrap_or_default();
        sum = Some((rx.saturating_add(interface.rx_bytes), tx.saturating_add(interface.tx_bytes)));
    }
    // Without a network of its own there is only the loopback: nothing went anywhere.
    sum.or_else(|| String::from_utf8_lossy(content).contains("lo:").then_some((0, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn times_of_engines_become_milliseconds() {
        assert_eq!(rfc3339("2026-03-01T12:00:00.123456789Z"), Some(1_772_366_400_123));
        assert_eq!(rfc3339("2026-03-01T14:00:00+02:00"), Some(1_772_366_400_000));
        assert_eq!(rfc3339("1970-01-01T00:00:01.5Z"), Some(1500));
        for never in ["0001-01-01T00:00:00Z", "", "2026-13-01T00:00:00Z", "2026-03-01", "\u{e4}\u{e4}"] {
            assert_eq!(rfc3339(never), None, "{never}");
        }
    }

    #[test]
    fn a_cgroup_tells_its_container_and_that_of_a_monitor_does_not() {
        for path in [
            format!("/sys/fs/cgroup/system.slice/docker-{A}.scope/cpu.stat"),
            format!("/sys/fs/cgroup/docker/{A}/cpu.stat"),
            format!("/sys/fs/cgroup/memory/machine.slice/libpod-{A}.scope/memory.stat"),
        ] {
            assert_eq!(id_of_cgroup(&path), Some(A), "{path}");
        }
        assert_eq!(
            id_of_cgroup(&format!("/sys/fs/cgroup/machine.slice/libpod-conmon-{A}.scope/cpu.stat")),
            None
        );
    }

    #[test]
    fn a_hostile_label_speaks_for_no_other_container() {
        let text = format!(
            "\"Id\":\"{A}\"\n\"RestartCount\":3\n\"Id\":\"{B}\"\n\"ExitCode\":0\n\"ExitCode\":9\n\
             \"StartedAt\":\"1970-01-01T00:00:01Z\"\n\"RestartCount\":1\n\"Id\":\"{A}\"\n\"RestartCount\":77\n"
        );
        let found = details(text.as_bytes());
        assert_eq!(found[A].restarts, Some(3));
        assert_eq!(
            found[B],
            Detail { started_ms: Some(1000), restarts: Some(1), exit_code: Some(0), size_bytes: None }
        );
        assert!(details(br#""Id":"x","RestartCount":5"#).is_empty());
    }

    #[test]
    fn sums_of_block_devices_are_read_in_both_versions() {
        assert_eq!(
            io_stat("8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=1 wbytes=2 rios=0 wios=0\n"),
            (11, 22)
        );
        assert_eq!(io_service("8:0 Read 5\n8:0 Write 6\n8:0 Total 11\n8:16 Read 1\nTotal 12\n"), (6, 6));
    }
}
