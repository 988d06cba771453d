//! What the two answers of an http server mean, by the rules that docs/http-servers.md writes down. Pure.
//!
//! The API was made for somebody else, so what is not understood is left out instead of refused, and a figure that cannot be
//! what it says is named. Nothing is guessed: what is missing is unknown.

use roundsman_agent::text::{clean, clean_some};
use serde_json::{Map, Value};

use crate::collect::pushed::{FIGURES, figure, is_word};
use crate::model::{ApiHealth, Component, Health, Labels, MetricName, Sample, SeriesKey};

/// Members whose own name is no part of the names inside.
const WRAPPERS: [&str; 8] = ["metrics", "current", "data", "system", "figures", "custom", "values", "stats"];
/// Deepest nesting that is looked into.
const DEPTH: usize = 4;
/// Members that were left out and are named on the page.
const LEFT_OUT: usize = 20;
/// Components of one API.
const COMPONENTS: usize = 100;
const NAME_BYTES: usize = 63;
const TEXT_BYTES: usize = 300;
const DETAILS_BYTES: usize = 1000;

/// Members of `/health` that hold components.
const CONTAINERS: [&str; 6] = ["components", "checks", "services", "dependencies", "subsystems", "details"];
const HEALTHY: [&str; 12] = [
    "ok",
    "healthy",
    "up",
    "pass",
    "passing",
    "running",
    "connected",
    "online",
    "active",
    "available",
    "operational",
    "ready",
];
const DEGRADED: [&str; 6] = ["degraded", "warn", "warning", "partial", "slow", "starting"];
const CRITICAL: [&str; 14] = [
    "critical",
    "unhealthy",
    "down",
    "fail",
    "failed",
    "failing",
    "error",
    "disconnected",
    "offline",
    "unavailable",
    "inactive",
    "stopped",
    "timeout",
    "not_ready",
];

/// The figures of an answer.
#[derive(Debug, Default)]
pub struct Mapped {
    pub samples: Vec<Sample>,
    /// Member and reason.
    pub left_out: Vec<(String, String)>,
}

impl Mapped {
    fn leave_out(&mut self, member: &str, reason: String) {
        if self.left_out.len() < LEFT_OUT {
            self.left_out.push((clean(member.as_bytes(), NAME_BYTES), reason));
        }
    }
}

/// The figures in the answer of `/api/v1/metrics/current`.
#[must_use]
pub fn metrics(body: &Value) -> Mapped {
    let mut mapped = Mapped::default();
    match body {
        Value::Object(members) => walk(&mut mapped, members, "", DEPTH),
        _ => mapped.leave_out("(the whole)", "it is no object with figures".to_owned()),
    }
    mapped
}

fn walk(mapped: &mut Mapped, members: &Map<String, Value>, prefix: &str, depth: usize) {
    for (name, value) in members {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}_{name}") };
        match value {
            Value::Number(number) if !is_word(name) => {
                if let Some(number) = number.as_f64() {
                    add(mapped, &path, number);
                }
            }
            Value::Object(inner) if depth > 0 => {
                let is_wrapper = WRAPPERS.contains(&name.as_str());
                walk(mapped, inner, if is_wrapper { prefix } else { &path }, depth - 1);
            }
            _ => {}
        }
    }
}

fn add(mapped: &mut Mapped, name: &str, number: f64) {
    match figure(name, name, number) {
        Err(bad) => mapped.leave_out(name, bad.message),
        Ok(sample) if mapped.samples.iter().any(|known| known.key == sample.key) => {
            mapped.leave_out(name, format!("says {} a second time", sample.key.metric));
        }
        Ok(_) if mapped.samples.len() >= FIGURES => {
            mapped.leave_out(name, format!("only the first {FIGURES} figures are taken"));
        }
        Ok(sample) => mapped.samples.push(sample),
    }
}

/// What `/health` says.
#[must_use]
pub fn health(body: &Value, http_status: u16) -> ApiHealth {
    let status = match body {
        Value::String(word) => clean(word.as_bytes(), NAME_BYTES),
        _ => word_of(body).unwrap_or_default(),
    };
    let members = body.as_object();
    let version =
        members.and_then(|members| clean_some(members.get("version")?.as_str()?.as_bytes(), NAME_BYTES));
    let mut components = members.map(components).unwrap_or_default();
    components.truncate(COMPONENTS);
    let own = judged(&status);
    let worst = components.iter().map(|component| component.health).max_by_key(|health| badness(*health));
    let mut health = match (own, worst) {
        // Whoever says that all is well and that a part of it is not is not quite well.
        (Health::Healthy, Some(Health::Critical | Health::Degraded)) => Health::Degraded,
        (Health::Unknown, Some(worst)) => worst,
        (own, _) => own,
    };
    if http_status >= 500 {
        health = Health::Critical;
    }
    ApiHealth { health, status, http_status, version, components }
}

/// The state of each component and the time that it took, for the history; of two with one name the first counts.
#[must_use]
pub fn component_samples(health: &ApiHealth) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::with_capacity(health.components.len() * 2);
    for component in &health.components {
        let is_up = match component.health {
            Health::Healthy => Some(1.0),
            Health::Degraded => Some(0.5),
            Health::Critical | Health::Unreachable => Some(0.0),
            Health::Unknown => None,
        };
        let took = component.response_time_ms.and_then(|ms| u32::try_from(ms).ok()).map(f64::from);
        for (metric, value) in [("component_up", is_up), ("component_response_time_ms", took)] {
            let key = SeriesKey { metric: MetricName::known(metric), labels: Labels::of(&component.name) };
            if let Some(value) = value
                && !samples.iter().any(|sample| sample.key == key)
            {
                samples.push(Sample { key, value });
            }
        }
    }
    samples
}

const fn badness(health: Health) -> u8 {
    match health {
        Health::Healthy => 0,
        Health::Unknown => 1,
        Health::Degraded => 2,
        Health::Critical | Health::Unreachable => 3,
    }
}

/// The word for how something is: of `status`, `state` or `health`, or `healthy` and `ok` as a truth.
fn word_of(value: &Value) -> Option<String> {
    let members = value.as_object()?;
    for name in ["status", "state", "health"] {
        if let Some(Value::String(word)) = members.get(name) {
            return clean_some(word.as_bytes(), NAME_BYTES);
        }
    }
    for name in ["healthy", "ok", "up"] {
        if let Some(Value::Bool(is_well)) = members.get(name) {
            return Some(if *is_well { "healthy" } else { "unhealthy" }.to_owned());
        }
    }
    None
}

fn judged(word: &str) -> Health {
    let word = word.to_ascii_lowercase().replace([' ', '-'], "_");
    let is = |words: &[&str]| words.contains(&word.as_str());
    if is(&HEALTHY) {
        Health::Healthy
    } else if is(&DEGRADED) {
        Health::Degraded
    } else if is(&CRITICAL) {
        Health::Critical
    } else {
        Health::Unknown
    }
}

fn components(members: &Map<String, Value>) -> Vec<Component> {
    let mut found: Vec<Component> = Vec::new();
    for (name, value) in members {
        let is_container = CONTAINERS.contains(&name.as_str()) && word_of(value).is_none();
        match value {
            Value::Object(inner) if is_container => {
                found.extend(inner.iter().filter_map(|(name, value)| component(name, value, true)));
            }
            Value::Array(items) if is_container => {
                let named = |item: &Value| Some((item.get("name")?.as_str()?.to_owned(), item.clone()));
                found.extend(
                    items.iter().filter_map(named).filter_map(|(name, item)| component(&name, &item, true)),
                );
            }
            _ if matches!(name.as_str(), "status" | "state" | "health") => {}
            _ => found.extend(component(name, value, false)),
        }
    }
    found
}

/// `stands_among_components`: a word that is not known, or a truth, is a state all the same.
fn component(name: &str, value: &Value, stands_among_components: bool) -> Option<Component> {
    let text = |member: &str| clean_some(value.get(member)?.as_str()?.as_bytes(), TEXT_BYTES);
    let status = match value {
        Value::String(word) => clean_some(word.as_bytes(), NAME_BYTES)
            .filter(|word| stands_among_components || judged(word) != Health::Unknown)?,
        Value::Bool(is_well) if stands_among_components => (if *is_well { "up" } else { "down" }).to_owned(),
        Value::Object(_) => word_of(value)?,
        _ => return None,
    };
    let took = ["response_time_ms", "latency_ms", "duration_ms", "response_time"];
    let took = took.into_iter().find_map(|member| value.get(member)?.as_f64());
    let details = value.get("error_details").filter(|details| !details.is_null());
    Some(Component {
        name: clean_some(name.as_bytes(), NAME_BYTES)?,
        health: judged(&status),
        status,
        response_time_ms: took.and_then(whole_ms),
        error_message: text("error_message").or_else(|| text("error")).or_else(|| text("message")),
        error_details: details.and_then(|details| clean_some(details.to_string().as_bytes(), DETAILS_BYTES)),
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within a day")]
fn whole_ms(millis: f64) -> Option<u64> {
    (0.0..=86_400_000.0).contains(&millis).then(|| millis.round() as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(body: Value) -> (Vec<(String, f64)>, Vec<String>) {
        let mapped = metrics(&body);
        let mut samples: Vec<(String, f64)> =
            mapped.samples.iter().map(|sample| (sample.key.to_string(), sample.value)).collect();
        samples.sort_by(|left, right| left.0.cmp(&right.0));
        (samples, mapped.left_out.into_iter().map(|(member, _)| member).collect())
    }

    #[test]
    fn figures_are_found_flat_wrapped_and_nested() {
        let expected =
            [("cpu_percent", 12.5), ("disk_percent", 70.0), ("llm_requests", 7.0), ("memory_percent", 40.0)]
                .map(|(name, value)| (name.to_owned(), value));
        for body in [
            json!({ "cpu_percent": 12.5, "memory_percent": 40, "disk_percent": 70, "llm_requests": 7 }),
            json!({ "status": "ok", "data": { "cpu": 12.5, "memory": 40, "disk_usage": 70, "custom": { "llm_requests": 7 } } }),
            json!({
                "timestamp": 1_700_000_000, "name": "web", "cpu": { "usage_percent": 12.5 }, "memory": { "percent": 40 },
                "disk": { "percent": 70, "mounts": ["/"] }, "llm": { "requests": 7 },
            }),
        ] {
            let (found, left_out) = names(body.clone());
            assert_eq!(found, expected, "{body}");
            assert!(left_out.is_empty(), "{left_out:?}");
        }
    }

    #[test]
    fn a_figure_that_cannot_be_is_unknown_and_named() {
        let (found, left_out) = names(
            json!({ "cpu_percent": 101, "memory_percent": null, "disk_percent": 5, "requests": 1e300, "core_percent": 3 }),
        );
        assert_eq!(found, [("disk_percent".to_owned(), 5.0)]);
        assert_eq!(left_out, ["core_percent", "cpu_percent", "requests"]);
        assert_eq!(metrics(&json!([1, 2])).left_out.len(), 1);
        let many: Map<String, Value> = (0..1000).map(|number| (format!("m_{number}"), json!(1))).collect();
        let mapped = metrics(&Value::Object(many));
        assert_eq!((mapped.samples.len(), mapped.left_out.len()), (FIGURES, LEFT_OUT));
    }

    #[test]
    fn components_are_found_in_the_usual_shapes() {
        let bad = json!({ "status": "down", "response_time_ms": 12.4, "error": "refused\u{1b}[31m", "error_details": { "code": 7 } });
        for body in [
            json!({ "status": "degraded", "version": "2.1", "components": { "database": bad, "redis": "up", "services": true } }),
            json!({ "status": "degraded", "version": "2.1", "database": bad, "redis": "connected", "services": { "status": "ok" } }),
            json!({
                "status": "degraded", "version": "2.1",
                "checks": [{ "name": "database", "status": "down", "latency_ms": 12, "message": "refused", "error_details": { "code": 7 } },
                    { "name": "redis", "status": "pass" }, { "name": "services", "healthy": true }],
            }),
        ] {
            let said = health(&body, 200);
            assert_eq!(
                (said.health, said.status.as_str(), said.version.as_deref()),
                (Health::Degraded, "degraded", Some("2.1"))
            );
            let states: Vec<(&str, Health)> =
                said.components.iter().map(|part| (part.name.as_str(), part.health)).collect();
            let expected =
                [("database", Health::Critical), ("redis", Health::Healthy), ("services", Health::Healthy)];
            assert_eq!(states, expected, "{body}");
            let database = &said.components[0];
            assert_eq!(database.response_time_ms, Some(12));
            assert!(database.error_message.as_deref().unwrap().starts_with("refused"), "{database:?}");
            assert_eq!(database.error_details.as_deref(), Some("{\"code\":7}"));
        }
    }

    #[test]
    fn the_health_of_the_whole_follows_its_word_its_parts_and_its_status() {
        for (body, status, expected) in [
            (json!({ "status": "OK" }), 200, Health::Healthy),
            (json!("healthy"), 200, Health::Healthy),
            (json!({ "status": "healthy" }), 503, Health::Critical),
            (json!({ "status": "unhealthy" }), 200, Health::Critical),
            (json!({ "status": "ok", "database": "down" }), 200, Health::Degraded),
            (json!({ "database": "down", "redis": "up" }), 200, Health::Critical),
            (json!({ "ok": true }), 200, Health::Healthy),
            (json!({ "status": "blue" }), 200, Health::Unknown),
            (json!({}), 200, Health::Unknown),
        ] {
            assert_eq!(health(&body, status).health, expected, "{body} {status}");
        }
    }

    #[test]
    fn states_of_components_are_samples_and_what_is_not_known_is_none() {
        let said = json!({
            "status": "ok", "database": { "status": "up", "response_time_ms": 4 }, "queue": "warn",
            "components": { "redis": "down", "mail": "blue", "database": "down" },
        });
        let mut found: Vec<(String, f64)> = component_samples(&health(&said, 200))
            .into_iter()
            .map(|sample| (sample.key.to_string(), sample.value))
            .collect();
        found.sort_by(|left, right| left.0.cmp(&right.0));
        let expected = [
            ("component_response_time_ms{database}", 4.0),
            // The members of an answer are read in the order of their names.
            ("component_up{database}", 0.0),
            ("component_up{queue}", 0.5),
            ("component_up{redis}", 0.0),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn a_flood_of_components_is_cut() {
        let many: Map<String, Value> = (0..5000).map(|number| (format!("c{number}"), json!("up"))).collect();
        assert_eq!(health(&json!({ "components": many }), 200).components.len(), COMPONENTS);
    }
}
