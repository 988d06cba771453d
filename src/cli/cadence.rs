//! `cadence`: how often servers are read, and how often their heavy sections.

use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{Client, segment};
use super::error::CliError;
use super::output::{Output, UNKNOWN};
use crate::config::parse_interval;

const SETTING: &str = "/api/v1/settings/cadence";

#[derive(Debug, Args)]
pub struct Cadence {
    /// Name or id of a server; without one, the default for the heavy sections
    name: Option<String>,
    /// Time between two readings of the server, 1s to 1h
    #[arg(long, value_name = "TIME", requires = "name")]
    every: Option<String>,
    /// Time between two readings of processes, services, containers and users, 1s to 1h; 'default' for a server that is to
    /// follow the default
    #[arg(long, value_name = "TIME")]
    heavy: Option<String>,
}

impl Cadence {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let Some(name) = &self.name else { return self.default(client, output).await };
        let path = format!("/api/v1/fleet/servers/{}", segment(name)?);
        let mut body = Map::new();
        if let Some(text) = &self.every {
            body.insert("interval_ms".to_owned(), millis("--every", text)?);
        }
        match self.heavy.as_deref() {
            Some("default") => drop(body.insert("heavy_interval_ms".to_owned(), Value::Null)),
            Some(text) => drop(body.insert("heavy_interval_ms".to_owned(), millis("--heavy", text)?)),
            None => {}
        }
        let server = if body.is_empty() {
            client.get(&path).await?
        } else {
            client.patch(&path, &Value::Object(body)).await?
        };
        if output.json {
            return output.value(server.get("cadence").unwrap_or(&Value::Null));
        }
        output.line(&format!("Read every {}", seconds(server.get("interval_ms"))))?;
        output.line(&format!("Details    {}", details(&server)))
    }

    async fn default(&self, client: &Client, output: &Output) -> Result<(), CliError> {
        let setting = match self.heavy.as_deref() {
            None => client.get(SETTING).await?,
            Some(text) => {
                client.put(SETTING, &json!({ "heavy_interval_ms": millis("--heavy", text)? })).await?
            }
        };
        if output.json {
            return output.value(&setting);
        }
        output.line(&format!(
            "Processes, services, containers and users are read every {} where a server says nothing of its own.",
            seconds(setting.get("heavy_interval_ms"))
        ))
    }
}

fn millis(option: &str, text: &str) -> Result<Value, CliError> {
    let span = parse_interval(text).map_err(|message| CliError::usage(format!("{option}: {message}")))?;
    Ok(json!(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

fn seconds(millis: Option<&Value>) -> String {
    millis
        .and_then(Value::as_f64)
        .map_or_else(|| UNKNOWN.to_owned(), |millis| format!("{} s", millis / 1000.0))
}

/// How often the heavy sections of a server are read.
pub(super) fn details(server: &Value) -> String {
    let cadence = server.get("cadence").unwrap_or(&Value::Null);
    let usual = seconds(cadence.get("heavy_interval_ms"));
    let by_default = match server.get("heavy_interval_ms") {
        Some(Value::Null) => ", the default",
        _ => "",
    };
    let now = match cadence.get("is_looked_at").and_then(Value::as_bool) {
        Some(true) => "; with every reading now, because somebody looks at them",
        _ => "",
    };
    format!("every {usual}{by_default}{now}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_say_whose_time_it_is_and_that_somebody_looks() {
        let server = json!({ "heavy_interval_ms": null, "cadence": { "heavy_interval_ms": 30000, "is_looked_at": true } });
        assert_eq!(
            details(&server),
            "every 30 s, the default; with every reading now, because somebody looks at them"
        );
        let own = json!({ "heavy_interval_ms": 500, "cadence": { "heavy_interval_ms": 1500, "is_looked_at": false } });
        assert_eq!(details(&own), "every 1.5 s");
    }
}
