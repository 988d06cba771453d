//! Roundsman and a real Prometheus: scraped through service discovery, and sent to by remote-write.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use roundsman::clock::SystemClock;
use roundsman::config::RemoteWrite;
use roundsman::export::Options;
use roundsman::model::Role;
use serde_json::Value;
use support::app::{TestApp, Who};
use support::program::client;
use support::sshd::{Sshd, free_port};
use support::{PATIENCE, in_time};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

const SERVERS: [&str; 3] = ["web-1", "web-2", "db-1"];
/// Parts that a machine, or a container on it, may not have.
const NOT_EVERYWHERE: [&str; 6] = [
    "node_disk_",
    "node_hwmon_",
    "node_thermal_",
    "node_systemd_",
    "node_pressure_",
    "node_filesystem_files",
];

/// A Prometheus of this test's own.
struct Prometheus {
    url: String,
    _child: Child,
    _dir: TempDir,
}

impl Prometheus {
    /// Scrapes what Roundsman at `target` names, and takes remote-write on `port`.
    fn start(port: u16, target: &str, token: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("roundsman-prometheus-").tempdir().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs:\n\
             - job_name: nodes\n  authorization: {{ type: Bearer, credentials: {token} }}\n  http_sd_configs:\n\
             \x20 - url: http://{target}/api/v1/sd?status=active\n    refresh_interval: 1s\n\
             \x20   authorization: {{ type: Bearer, credentials: {token} }}\n\
             - job_name: itself\n  authorization: {{ type: Bearer, credentials: {token} }}\n  static_configs:\n\
             \x20 - targets: ['{target}']\n"
        );
        let path = dir.path().join("prometheus.yml");
        fs::write(&path, config).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--web.enable-remote-write-receiver", "--log.level=error"])
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus (apt-get install prometheus): {error}"));
        Self { url: format!("http://127.0.0.1:{port}"), _child: child, _dir: dir }
    }

    /// The series of an instant query. None: Prometheus does not answer (yet).
    async fn ask(&self, query: &str) -> Option<Vec<Value>> {
        let request = client().get(format!("{}/api/v1/query", self.url)).query(&[("query", query)]);
        let answer: Value = request.send().await.ok()?.json().await.ok()?;
        assert_ne!(answer["status"], "error", "{query}: {answer}");
        Some(answer["data"]["result"].as_array()?.clone())
    }

    /// Asks until the series satisfy `condition`.
    async fn until(&self, query: &str, condition: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = self.ask(query).await.unwrap_or_default();
            if condition(&found) {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "{query} still gives {found:?}");
            // Prometheus announces nothing.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn instances(series: &[Value]) -> BTreeSet<&str> {
    series.iter().filter_map(|one| one["metric"]["instance"].as_str()).collect()
}

fn numbers(series: &[Value]) -> bool {
    let finite = |one: &Value| {
        one["value"][1].as_str().and_then(|text| text.parse::<f64>().ok()).is_some_and(f64::is_finite)
    };
    !series.is_empty() && series.iter().all(finite)
}

/// The metrics that an expression names.
fn metrics_of(expression: &str) -> BTreeSet<&str> {
    expression
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("node_"))
        .collect()
}

async fn promtool(text: &str) -> String {
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    let output = in_time("promtool", tool.wait_with_output()).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8(said).unwrap()
}

async fn fleet() -> (Vec<Sshd>, u16, TestApp) {
    let port = free_port();
    let remote_write = RemoteWrite {
        url: format!("http://127.0.0.1:{port}/api/v1/write").parse().unwrap(),
        auth: None,
        ca_file: None,
        every: Duration::from_secs(1),
        queue_samples: 100_000,
        allow_link_local: false,
    };
    // reqwest asks for a TLS provider even where it speaks plain HTTP.
    drop(client());
    let options = Options { remote_write: Some(remote_write), ..Options::default() };
    let app = TestApp::start_with(Arc::new(SystemClock), options).await;
    let mut daemons = Vec::new();
    for name in SERVERS {
        let sshd = Sshd::start().await;
        app.with_server(name, &sshd).await;
        daemons.push(sshd);
    }
    (daemons, port, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_scrapes_the_servers_as_if_they_ran_node_exporter_and_takes_remote_write() {
    let (mut daemons, port, app) = fleet().await;
    let address = app.listen().await.to_string();
    let Who::Token(token) = app.token(Role::Viewer).await else { panic!("a token") };
    let prometheus = Prometheus::start(port, &address, &token);

    let all = BTreeSet::from(SERVERS);
    let everywhere = |series: &[Value]| instances(series) == all && numbers(series);
    prometheus.until("up{job=\"nodes\"} == 1", everywhere).await;
    let scraped = app.get("/metrics?target=web-1").by(&Who::Token(token.clone())).send().await.text();

    let expressions = include_str!("../docs/node-dashboard.promql");
    let expressions =
        expressions.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect::<Vec<_>>();
    assert!(expressions.len() > 45, "{}", expressions.len());
    for expression in expressions {
        let missing = metrics_of(expression).into_iter().find(|name| !scraped.contains(name));
        if let Some(missing) = missing {
            let excused = NOT_EVERYWHERE.iter().any(|part| missing.starts_with(part));
            assert!(excused, "{missing} is not in\n{scraped}");
            continue;
        }
        prometheus.until(expression, |series| instances(series).is_superset(&all) && numbers(series)).await;
    }

    let healthy = "roundsman_servers{job=\"itself\",health=\"healthy\"} + ignoring(health) \
                   roundsman_servers{job=\"itself\",health=\"degraded\"} + ignoring(health) \
                   roundsman_servers{job=\"itself\",health=\"critical\"}";
    prometheus.until(healthy, |series| series.len() == 1 && series[0]["value"][1] == "3").await;

    let sent = |name: &str| format!("{name}{{job=\"roundsman\"}}");
    prometheus.until(&sent("up"), everywhere).await;
    prometheus.until(&sent("node_memory_MemTotal_bytes"), everywhere).await;
    prometheus.until("rate(node_cpu_seconds_total{job=\"roundsman\",mode=\"user\"}[1m])", everywhere).await;
    let passed_on = app.services.export.remote_write().unwrap();
    assert!(passed_on.samples > 300 && passed_on.refused == 0 && passed_on.dropped == 0, "{passed_on:?}");

    // A server that is gone: its scrape fails, and the long-term store is told.
    daemons.pop().unwrap().stop();
    prometheus.until("up{instance=\"db-1\"} == 0", |series| series.len() == 2).await;
    let gone = app.get("/metrics?target=db-1").by(&Who::Token(token)).send().await;
    assert_eq!(gone.status, 503, "{}", gone.text());
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_what_is_shown() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read twice", |state| state.figures.cpu_percent.is_some()).await;
    let viewer = app.token(Role::Viewer).await;
    let own = app.get("/metrics").by(&viewer).send().await;
    assert_eq!((own.status, own.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(promtool(&own.text()).await, "", "{}", own.text());
    let node = app.get("/metrics?target=web-1").by(&viewer).send().await.text();
    // node_exporter's own names are older than this rule.
    let said = promtool(&node).await;
    let others: Vec<&str> = said.lines().filter(|line| !line.contains("camelCase")).collect();
    assert!(others.is_empty(), "{others:?}\n{node}");
}
