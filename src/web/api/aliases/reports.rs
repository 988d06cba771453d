//! Older addresses at which servers register and report, in the older shapes.

use http::StatusCode;
use serde_json::{Map, Value, json};
use warp::reply::Response;

use super::super::super::error::Failure;
use super::super::super::request::{Access, Request};
use super::super::super::routes::{Route, json as json_reply};
use super::super::push::{HEARTBEAT_LIMIT_BYTES, heartbeat, register, text};
use crate::collect::pushed::{self, BadField, PODS, in_range};
use crate::fleet::{Registration, Report, SshAddress};
use crate::history::metric::{self, Unit};
use crate::model::{Facts, Labels, MetricName, Sample, SeriesKey};
use crate::services::Services;
use crate::ssh::printable;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
const MIB: f64 = 1024.0 * 1024.0;
/// Longest id of a pod.
const POD_CHARS: usize = 128;
/// Figures of one pod: their older names, the names here, and what one unit of the older figure is here.
const POD_FIGURES: [(&str, &str, Unit, f64); 5] = [
    ("cpuPercent", "container_cpu_percent", Unit::Number, 1.0),
    ("memoryMb", "container_memory_bytes", Unit::Bytes, MIB),
    ("diskMb", "container_disk_bytes", Unit::Bytes, MIB),
    ("networkRxBytes", "container_rx_bytes", Unit::Bytes, 1.0),
    ("networkTxBytes", "container_tx_bytes", Unit::Bytes, 1.0),
];

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/api/servers/register", Access::Reporter, register)
            .summary("Older address: registers the server that asks")
            .takes("Registration")
            .gives("Registered"),
        Route::post("/api/servers/{id}/heartbeat", Access::Reporter, heartbeat)
            .summary("Older address: plain figures of a server, or readings")
            .body_limit(HEARTBEAT_LIMIT_BYTES)
            .takes("Heartbeat")
            .gives("Heard"),
        Route::post("/api/trpc/servers.registerServer", Access::Reporter, register_server)
            .summary("Older address: registers the server that asks, in the envelope of tRPC")
            .takes("OlderInput")
            .gives("OlderAnswer"),
        Route::post("/api/trpc/servers.reportMetrics", Access::Reporter, report_metrics)
            .summary("Older address: figures of a server and of its pods, in the envelope of tRPC")
            .takes("OlderInput")
            .gives("OlderAnswer"),
    ]
}

/// What a tRPC body wraps.
fn input(request: &Request) -> Result<Map<String, Value>, Failure> {
    let mut body: Map<String, Value> = request.json()?;
    match body.remove("json") {
        Some(Value::Object(members)) => Ok(members),
        _ => Err(BadField::new("json", "is missing: the body is {\"json\": {…}}").into()),
    }
}

fn output(value: &Value) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &json!({ "result": { "data": { "json": value } } }))
}

/// A member that is a number in the range of its unit. None: missing or `null`.
fn number(members: &Map<String, Value>, name: &str, path: &str, unit: Unit) -> Result<Option<f64>, BadField> {
    let field = format!("{path}{name}");
    let value = match members.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64(),
        Some(_) => None,
    };
    let value = value.ok_or_else(|| BadField::new(&field, "must be a number, or null for unknown"))?;
    in_range(unit, &field, value)?;
    Ok(Some(value))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "in_range has made it a number of 0 or more with at most 15 digits"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

fn bytes_of_gb(members: &Map<String, Value>, name: &str) -> Result<Option<u64>, BadField> {
    let gb = number(members, name, "", Unit::Bytes)?;
    let bytes = gb.map(|gb| gb * GIB);
    bytes.map(|bytes| in_range(Unit::Bytes, name, bytes).map(|()| whole(bytes))).transpose()
}

async fn register_server(request: Request, services: Services) -> Result<Response, Failure> {
    let members = input(&request)?;
    let of = |name: &str| text(&members, name);
    let cores = number(&members, "cpuCores", "", Unit::Count)?;
    let port = number(&members, "sshPort", "", Unit::Count)?.map(whole);
    let ssh = match of("sshHost")? {
        None => None,
        Some(host) => Some(SshAddress {
            host,
            port: port.map(|port| i64::try_from(port).unwrap_or(i64::MAX)),
            username: of("sshUser")?,
        }),
    };
    let registration = Registration {
        hostname: of("hostname")?,
        address: of("ipAddress")?,
        facts: cores.map(|cores| Facts { cpu_cores: u32::try_from(whole(cores)).ok(), ..Facts::default() }),
        total_ram_bytes: bytes_of_gb(&members, "totalRamGb")?,
        total_disk_bytes: bytes_of_gb(&members, "totalDiskGb")?,
        ssh,
        ..Registration::default()
    };
    let registered = services.fleet.register(request.reporter()?, registration).await?;
    output(&json!({ "id": registered.state.server.id }))
}

fn plain(name: &'static str, value: f64) -> Sample {
    Sample { key: SeriesKey::plain(name), value }
}

/// The samples of one report. Shares are computed from what the server said at its registration.
fn reported(
    members: &Map<String, Value>,
    total_ram_bytes: Option<u64>,
    total_disk_bytes: Option<u64>,
) -> Result<Vec<Sample>, BadField> {
    let mut samples = Vec::new();
    if let Some(cpu) = number(members, "cpuUsagePercent", "", Unit::Percent)? {
        samples.push(plain("cpu_percent", cpu));
    }
    if let Some(used) = bytes_of_gb(members, "ramUsageGb")? {
        samples.push(plain("memory_used_bytes", float(used)));
        if let Some(total) = total_ram_bytes.filter(|total| *total > 0) {
            samples.push(plain("memory_total_bytes", float(total)));
            samples.push(plain("memory_percent", share(used, total)));
        }
    }
    if let Some(used) = bytes_of_gb(members, "diskUsageGb")? {
        samples.push(pushed::figure("disk_used_bytes", "diskUsageGb", float(used))?);
        if let Some(total) = total_disk_bytes.filter(|total| *total > 0) {
            samples.push(plain("disk_percent", share(used, total)));
        }
    }
    if let Some(pods) = number(members, "activePodsCount", "", Unit::Count)? {
        samples.push(pushed::figure("containers_running", "activePodsCount", pods)?);
    }
    pods(&mut samples, members)?;
    Ok(samples)
}

#[expect(clippy::cast_precision_loss, reason = "sizes over 2^53 are no longer exact, and nobody sees it")]
const fn float(bytes: u64) -> f64 {
    bytes as f64
}

fn share(used: u64, total: u64) -> f64 {
    (float(used) * 100.0 / float(total)).min(100.0)
}

fn pods(samples: &mut Vec<Sample>, members: &Map<String, Value>) -> Result<(), BadField> {
    let items = match members.get("podMetrics") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(items)) if items.len() <= PODS => items,
        Some(_) => {
            return Err(BadField::new("podMetrics", format!("must be a list of at most {PODS} pods")));
        }
    };
    for (at, item) in items.iter().enumerate() {
        let path = format!("podMetrics[{at}].");
        let Value::Object(pod) = item else {
            return Err(BadField::new(format!("podMetrics[{at}]"), "must be an object"));
        };
        let id = text(pod, "podId")?.map(|id| printable::line(id.as_bytes(), POD_CHARS));
        let id = id.filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| BadField::new(format!("{path}podId"), "is missing"))?;
        for (older, name, unit, factor) in POD_FIGURES {
            let Some(value) = number(pod, older, &path, unit)? else { continue };
            if value < 0.0 {
                return Err(BadField::new(format!("{path}{older}"), "must be 0 or more"));
            }
            let metric =
                metric::find(name).map_or(MetricName::known(name), |known| MetricName::known(known.name));
            let key = SeriesKey { metric, labels: Labels::of(&id) };
            if !samples.iter().any(|known| known.key == key) {
                samples.push(Sample { key, value: value * factor });
            }
        }
    }
    Ok(())
}

async fn report_metrics(request: Request, services: Services) -> Result<Response, Failure> {
    let members = input(&request)?;
    let server = match members.get("serverId") {
        Some(Value::Number(number)) => number.to_string(),
        _ => text(&members, "serverId")?.ok_or_else(|| BadField::new("serverId", "is missing"))?,
    };
    let reporter = request.reporter()?;
    let state = services.fleet.reported(reporter, &server).await?;
    let known = state.push.as_deref();
    let ram = known.and_then(|pushing| pushing.total_ram_bytes);
    let samples = reported(&members, ram, known.and_then(|pushing| pushing.total_disk_bytes))?;
    services.fleet.heartbeat(reporter, &state.server.id.to_string(), Report::Figures(samples)).await?;
    output(&json!({ "success": true }))
}
