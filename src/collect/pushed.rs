//! What a server says of itself in a heartbeat: hostile JSON in, a [`Snapshot`] or samples out. Pure.
//!
//! Every number, list and text has its limit, and whatever is outside is refused with the path of the member, so that
//! the writer of a script finds it. Nothing is guessed: `null` and what is missing are unknown.

use roundsman_agent::limits;
use roundsman_agent::text::clean;
use serde_json::{Map, Value};

use crate::history::metric::{self, Metric, Unit};
use crate::model::{Facts, Labels, MetricName, Sample, SeriesKey, Snapshot, shown};

/// Readings of one heartbeat: an hour of the usual interval of 5 s, after an outage.
pub const READINGS: usize = 720;
/// Figures of one heartbeat, custom ones among them.
pub const FIGURES: usize = 200;
/// Pods or containers of one report.
pub const PODS: usize = 1_000;
/// Longest name of a custom metric.
const NAME_CHARS: usize = 64;
/// Largest figure: over it a float has no whole numbers any more.
const LARGEST: f64 = 9.0e15;
/// Members of a snapshot that may be negative.
const SIGNED: [&str; 2] = ["millidegrees_celsius", "exit_code"];
/// Largest magnitude of those.
const SIGNED_LARGEST: u64 = 10_000_000;
/// Deepest nesting; a snapshot has four levels.
const DEPTH: usize = 8;
/// Members of an object; the largest has some forty.
const MEMBERS: usize = 200;
/// Entries of lists that have no limit of their own.
const ENTRIES: usize = 1_000;
/// Bytes of a text in the refusal.
const SHOWN_CHARS: usize = 120;

/// Names that older scripts use for figures of the catalogue.
const OTHER_NAMES: [(&str, &str); 15] = [
    ("cpu", "cpu_percent"),
    ("cpu_usage", "cpu_percent"),
    ("cpu_usage_percent", "cpu_percent"),
    ("memory", "memory_percent"),
    ("memory_usage", "memory_percent"),
    ("memory_usage_percent", "memory_percent"),
    ("ram_percent", "memory_percent"),
    ("disk", "disk_percent"),
    ("ram_usage_percent", "memory_percent"),
    ("disk_usage", "disk_percent"),
    ("disk_usage_percent", "disk_percent"),
    ("load_1", "load1"),
    ("load_5", "load5"),
    ("load_15", "load15"),
    ("uptime", "uptime_seconds"),
];

/// Members of a heartbeat that are no figures; older scripts send them.
const WORDS: [&str; 12] = [
    "id",
    "server_id",
    "name",
    "hostname",
    "host",
    "ip",
    "status",
    "version",
    "agent_version",
    "timestamp",
    "tags",
    "services",
];

/// A member that cannot be what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct BadField {
    /// `readings[3].memory.total_bytes`
    pub field: String,
    pub message: String,
}

impl BadField {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: shown(&field.into(), SHOWN_CHARS), message: message.into() }
    }
}

/// The readings of a heartbeat, oldest first, as the agent sends them.
///
/// # Errors
/// [`BadField`] names the first member that is out of range.
pub fn readings(value: Value) -> Result<Vec<Snapshot>, BadField> {
    let Value::Array(items) = value else {
        return Err(BadField::new("readings", "must be a list of readings"));
    };
    if items.len() > READINGS {
        return Err(BadField::new("readings", format!("at most {READINGS} readings fit into one heartbeat")));
    }
    items.into_iter().enumerate().map(|(at, item)| part(item, &format!("readings[{at}]"))).collect()
}

/// What a server says of itself at its registration.
///
/// # Errors
/// As [`readings`].
pub fn facts(value: Value) -> Result<Facts, BadField> {
    part(value, "facts")
}

fn part<T: serde::de::DeserializeOwned>(mut value: Value, path: &str) -> Result<T, BadField> {
    if !value.is_object() {
        return Err(BadField::new(path, "must be an object"));
    }
    inspect(&mut value, path, "", DEPTH)?;
    // Cheaper than a path of every member for the readings that are right, which are nearly all.
    serde_json::from_value(value.clone()).map_err(|error| {
        let member = value.as_object().and_then(|members| {
            members.iter().find(|(name, value)| {
                let alone = Value::Object(Map::from_iter([((*name).clone(), (*value).clone())]));
                serde_json::from_value::<T>(alone).is_err()
            })
        });
        let field = member.map_or_else(|| path.to_owned(), |(name, _)| format!("{path}.{name}"));
        BadField::new(field, shown(&error.to_string(), SHOWN_CHARS))
    })
}

/// Checks numbers and lengths, and cleans texts, in place.
fn inspect(value: &mut Value, path: &str, name: &str, depth: usize) -> Result<(), BadField> {
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) => {
            let fits = if SIGNED.contains(&name) {
                number.as_i64().is_some_and(|number| number.unsigned_abs() <= SIGNED_LARGEST)
            } else {
                // Sums of two stay inside 64 bits, whatever is counted; the kernel's own word for no limit is 2^63 - 1.
                number.as_u64().is_some_and(|number| number <= u64::MAX / 2)
            };
            let message = "must be a whole number of 0 or more that fits into 63 bits";
            if fits { Ok(()) } else { Err(BadField::new(path, message)) }
        }
        Value::String(text) => {
            let limit = match name {
                "command_line" => limits::COMMAND_LINE_BYTES,
                "mount" | "device" => limits::PATH_BYTES,
                _ => limits::TEXT_BYTES,
            };
            *text = clean(text.as_bytes(), limit);
            Ok(())
        }
        Value::Array(_) | Value::Object(_) if depth == 0 => Err(BadField::new(path, "is nested too deeply")),
        Value::Array(items) => {
            let most = most(name);
            if items.len() > most {
                return Err(BadField::new(path, format!("may have at most {most} entries")));
            }
            items
                .iter_mut()
                .enumerate()
                .try_for_each(|(at, item)| inspect(item, &format!("{path}[{at}]"), name, depth - 1))
        }
        Value::Object(members) => {
            if members.len() > MEMBERS {
                return Err(BadField::new(path, format!("may have at most {MEMBERS} members")));
            }
            members
                .iter_mut()
                .try_for_each(|(name, member)| inspect(member, &format!("{path}.{name}"), name, depth - 1))
        }
    }
}

fn most(list: &str) -> usize {
    match list {
        "cores" => limits::CORES,
        "processes" => limits::PROCESSES,
        "services" => limits::SERVICES,
        "filesystems" => limits::FILESYSTEMS,
        "disks" => limits::DISKS,
        "interfaces" => limits::INTERFACES,
        "temperatures" => limits::SENSORS,
        "addresses" => limits::ADDRESSES,
        "gaps" => limits::GAPS,
        _ => ENTRIES,
    }
}

/// Whether a member of this name is no figure even where it holds a number.
#[must_use]
pub fn is_word(name: &str) -> bool {
    WORDS.contains(&name)
}

/// The plain figures of a heartbeat: those that servers over SSH have under their own names, every other one as a
/// custom metric. Figures may also stand in a member `metrics`.
///
/// # Errors
/// [`BadField`] names the first that is no number or out of range.
pub fn figures(members: &Map<String, Value>) -> Result<Vec<Sample>, BadField> {
    let mut samples = Vec::new();
    add_figures(&mut samples, members, "")?;
    if let Some(Value::Object(inner)) = members.get("metrics") {
        add_figures(&mut samples, inner, "metrics.")?;
    }
    Ok(samples)
}

fn add_figures(samples: &mut Vec<Sample>, members: &Map<String, Value>, path: &str) -> Result<(), BadField> {
    for (name, value) in members {
        let field = format!("{path}{name}");
        let number = match value {
            Value::Null => continue,
            _ if is_word(name) => continue,
            Value::Object(_) if matches!(name.as_str(), "metrics" | "metadata") && path.is_empty() => {
                continue;
            }
            Value::Number(number) => number.as_f64(),
            _ => None,
        };
        let number = number.ok_or_else(|| BadField::new(&field, "must be a number, or null for unknown"))?;
        if samples.len() >= FIGURES {
            return Err(BadField::new(&field, format!("at most {FIGURES} figures fit into one heartbeat")));
        }
        let sample = figure(name, &field, number)?;
        if samples.iter().any(|known| known.key == sample.key) {
            return Err(BadField::new(field, format!("says {} a second time", sample.key.metric)));
        }
        samples.push(sample);
    }
    Ok(())
}

/// One figure under its name in the catalogue, or as a custom metric.
///
/// # Errors
/// [`BadField`]: it is out of its range, or the name is none.
pub fn figure(name: &str, field: &str, value: f64) -> Result<Sample, BadField> {
    let known = OTHER_NAMES.iter().find(|(other, _)| *other == name).map_or(name, |(_, known)| known);
    let metric = match metric::find(known) {
        Some(Metric { label: Some(label), .. }) => {
            return Err(BadField::new(
                field,
                format!("{known} is told apart by {label}; send it in readings"),
            ));
        }
        Some(metric) => {
            in_range(metric.unit, field, value)?;
            MetricName::known(metric.name)
        }
        None => {
            custom_name(known, field)?;
            in_range(Unit::Number, field, value)?;
            MetricName::custom(known.to_owned())
        }
    };
    Ok(Sample { key: SeriesKey { metric, labels: Labels::NONE }, value })
}

/// # Errors
/// [`BadField`]: outside what the unit can be.
pub fn in_range(unit: Unit, field: &str, value: f64) -> Result<(), BadField> {
    let (range, words) = match unit {
        Unit::Percent => (0.0..=100.0, "from 0 to 100"),
        Unit::Celsius => (-273.15..=10_000.0, "from -273.15 to 10000"),
        Unit::Number => (-LARGEST..=LARGEST, "with at most 15 digits"),
        Unit::Bytes
        | Unit::BytesPerSecond
        | Unit::PerSecond
        | Unit::Count
        | Unit::Seconds
        | Unit::Milliseconds => (0.0..=LARGEST, "of 0 or more with at most 15 digits"),
    };
    if range.contains(&value) {
        Ok(())
    } else {
        Err(BadField::new(field, format!("must be a number {words}")))
    }
}

fn custom_name(name: &str, field: &str) -> Result<(), BadField> {
    let mut chars = name.chars();
    let begins = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if begins && name.len() <= NAME_CHARS && chars.all(|c| c.is_ascii_alphanumeric() || "_.:".contains(c)) {
        return Ok(());
    }
    let rule = "a metric's name has 1 to 64 letters, digits, _ . or : and begins with a letter";
    Err(BadField::new(field, rule))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(reading: Value) -> String {
        readings(json!([{}, reading])).unwrap_err().field
    }

    #[test]
    fn a_bad_member_of_a_reading_is_named() {
        let memory = |total: Value| json!({ "memory": { "total_bytes": total } });
        for total in [json!(-1), json!(1.5), json!(1e300), json!(u64::MAX), json!("many")] {
            let field = refused(memory(total.clone()));
            assert!(field.starts_with("readings[1].memory"), "{total}: {field}");
        }
        assert_eq!(refused(memory(json!(-1))), "readings[1].memory.total_bytes");
        assert_eq!(refused(json!({ "processes": [{ "pid": 5_000_000_000_u64 }] })), "readings[1].processes");
        assert_eq!(refused(json!({ "cores": vec![json!({}); 5000] })), "readings[1].cores");
        assert_eq!(refused(json!([])), "readings[1]");
        let cold = refused(json!({ "temperatures": [{ "millidegrees_celsius": -99_999_999 }] }));
        assert_eq!(cold, "readings[1].temperatures[0].millidegrees_celsius");
        let mut deep = json!({});
        for _ in 0..40 {
            deep = json!({ "memory": deep });
        }
        assert!(refused(deep).starts_with("readings[1].memory.memory"));
        // What fs.file-max is on a kernel of today.
        assert!(readings(json!([{ "file_handles_max": i64::MAX }])).is_ok());
        assert_eq!(readings(json!({})).unwrap_err().field, "readings");
        assert_eq!(readings(Value::Array(vec![json!({}); READINGS + 1])).unwrap_err().field, "readings");
    }

    #[test]
    fn texts_are_cleaned_and_cut_and_what_is_missing_is_unknown() {
        let name = format!("\u{1b}[31m<script>\n{}", "x".repeat(10_000));
        let read = readings(json!([{
            "processes": [{ "pid": 1, "name": name, "state": "S" }],
            "temperatures": [{ "sensor": "cpu", "millidegrees_celsius": -5000 }],
            "something_newer": 5,
            "memory": null,
        }]));
        let snapshot = read.unwrap().remove(0);
        let process = snapshot.processes.unwrap().remove(0);
        assert!(process.name.starts_with("<script> x") && process.name.len() <= limits::TEXT_BYTES);
        assert_eq!((snapshot.memory, snapshot.cpu, snapshot.uptime_ms), (None, None, None));
        assert_eq!(snapshot.temperatures[0].millidegrees_celsius, -5000);
    }

    fn figures_of(body: Value) -> Result<Vec<(String, f64)>, BadField> {
        let Value::Object(members) = body else { panic!("an object") };
        let samples = figures(&members)?;
        Ok(samples.into_iter().map(|sample| (sample.key.to_string(), sample.value)).collect())
    }

    #[test]
    fn plain_figures_get_the_names_that_every_server_has() {
        let read = figures_of(json!({
            "cpu_usage": 12.5, "memory_percent": 40, "disk": null, "network_rx_bytes": 1000, "status": "online",
            "metrics": { "llm_requests": 7, "llm_cost_usd": -0.25, "uptime": 86400 },
        }));
        let mut read = read.unwrap();
        read.sort_by(|left, right| left.0.cmp(&right.0));
        let expected = [
            ("cpu_percent", 12.5),
            ("llm_cost_usd", -0.25),
            ("llm_requests", 7.0),
            ("memory_percent", 40.0),
            ("network_rx_bytes", 1000.0),
            ("uptime_seconds", 86400.0),
        ];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn figures_out_of_range_are_refused_by_name() {
        for (body, field) in [
            (json!({ "cpu_percent": 100.1 }), "cpu_percent"),
            (json!({ "cpu_percent": -0.1 }), "cpu_percent"),
            (json!({ "memory_percent": "40" }), "memory_percent"),
            (json!({ "network_rx_bytes": -1 }), "network_rx_bytes"),
            (json!({ "requests": 1e300 }), "requests"),
            (json!({ "requests": [1] }), "requests"),
            (json!({ "metrics": { "a b": 1 } }), "metrics.a b"),
            (json!({ "core_percent": 1 }), "core_percent"),
            (json!({ "cpu": 1, "cpu_percent": 1 }), "cpu_percent"),
        ] {
            assert_eq!(figures_of(body.clone()).unwrap_err().field, field, "{body}");
        }
        let many = (0..=FIGURES).map(|number| (format!("metric_{number}"), json!(1))).collect();
        assert!(figures_of(Value::Object(many)).is_err());
    }
}
