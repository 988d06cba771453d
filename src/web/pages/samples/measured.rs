//! Containers and custom metrics with every kind of value.

use std::sync::Arc;
use std::time::Duration;

use super::{now, seconds_ago};
use crate::clock::{Clock as _, SystemClock};
use crate::collect::custom::{Format, Parsed, Reading};
use crate::fleet::{ContainerTable, CustomMetricState, RunState, Trial};
use crate::model::{
    Container, ContainerUsage, CustomMetric, CustomMetricId, OrganizationId, Selector, ServerId,
};

const MIB: u64 = 1 << 20;

pub(crate) fn container_table() -> ContainerTable {
    let one = |name: &str, image: &str, state: &str, health: Option<&str>| ContainerUsage {
        container: Container {
            engine: "docker".to_owned(),
            id: "a".repeat(64),
            name: name.to_owned(),
            image: image.to_owned(),
            state: state.to_owned(),
            health: health.map(str::to_owned),
            memory_bytes: (state == "running").then_some(212 * MIB),
            memory_limit_bytes: health.is_some().then_some(512 * MIB),
            restarts: Some(u64::from(health == Some("unhealthy")) * 7),
            ports: if health.is_some() {
                vec!["0.0.0.0:8080->80/tcp".to_owned(), "443/tcp".to_owned()]
            } else {
                Vec::new()
            },
            size_bytes: (name == "web-1").then_some(34 * MIB),
            created_ms: Some(1_750_000_000_000),
            started_ms: Some(1_750_000_100_000),
            exit_code: (state == "exited").then_some(1),
            ..Container::default()
        },
        cpu_percent: (state == "running").then_some(137.25),
        rx_per_second: (state == "running").then_some(20_480.0),
        tx_per_second: (state == "running").then_some(1_310_720.0),
        block_read_per_second: (state == "running").then_some(0.0),
        block_written_per_second: (state == "running").then_some(40_960.0),
    };
    ContainerTable {
        taken_at: seconds_ago(4),
        prefix: String::new(),
        containers: vec![
            one("web-1", "nginx:1.27", "running", Some("healthy")),
            one(
                "api",
                "registry.example.com/platform/api-gateway:2026.03.1-rc4",
                "running",
                Some("unhealthy"),
            ),
            one("cache", "valkey/valkey:8", "running", None),
            one("migrate", "registry.example.com/platform/migrate:2026.03.1", "exited", None),
            one("queue", "rabbitmq:4", "restarting", None),
            one("<script>alert(1)</script>", "x", "paused", None),
        ],
    }
}

pub(crate) fn custom_metric() -> Arc<CustomMetric> {
    Arc::new(CustomMetric {
        id: CustomMetricId::new(SystemClock.new_uuid()),
        organization: OrganizationId::DEFAULT,
        name: "llm".to_owned(),
        description: "Requests and cost of the gateway".to_owned(),
        command: "cat /run/llm/counters".to_owned(),
        sudo: false,
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(10),
        selector: Selector { tags: vec!["llm".to_owned()], ..Selector::default() },
        enabled: true,
        created_at: now(),
        updated_at: seconds_ago(400),
        updated_by: "admin".to_owned(),
    })
}

fn values() -> Vec<Reading> {
    let value =
        |name: &str, label: &str, value| Reading { name: name.to_owned(), label: label.to_owned(), value };
    vec![
        value("llm_requests", "", 18_204.0),
        value("llm_cost_usd", "", 12.375),
        value("llm_latency_seconds", "model=large quantile=0.99", 1.25),
    ]
}

pub(crate) fn custom_states() -> Vec<CustomMetricState> {
    let state = |name: &str, error: Option<&str>, values: Vec<Reading>| CustomMetricState {
        server_id: ServerId::new(SystemClock.new_uuid()),
        server_name: name.to_owned(),
        state: RunState {
            last_run_at: Some(seconds_ago(12)),
            error: error.map(str::to_owned),
            notices: if error.is_none() {
                vec!["active_users is a metric of Roundsman's own; give the value another name".to_owned()]
            } else {
                Vec::new()
            },
            values,
            runs: 120,
            failures: u64::from(error.is_some()),
            ..RunState::default()
        },
    };
    vec![
        state("api-1", None, values()),
        state(
            "api-2",
            Some(
                "it ended with status 1 and printed no value: cat: /run/llm/counters: No such file or directory",
            ),
            Vec::new(),
        ),
    ]
}

pub(crate) fn trial() -> Trial {
    Trial {
        server_id: ServerId::new(SystemClock.new_uuid()),
        server_name: "api-1".to_owned(),
        exit_status: Some(0),
        elapsed_ms: 14,
        stdout: "llm_requests 18204\nllm_cost_usd 12.375\n".to_owned(),
        stderr: "warning: <b>old</b> format".to_owned(),
        error: None,
        parsed: Some(Parsed { format: Format::Lines, values: values(), notices: Vec::new() }),
    }
}
