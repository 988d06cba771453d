//! The servers as scrape targets, for Prometheus' HTTP service discovery.
//!
//! Source: <https://prometheus.io/docs/prometheus/latest/http_sd/>

use std::collections::BTreeMap;

use serde::Serialize;

use crate::fleet::ServerState;
use crate::model::{Status, Transport};

/// One target group; each server is a group of its own, as its labels are its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetGroup {
    pub targets: [String; 1],
    pub labels: BTreeMap<&'static str, String>,
}

/// The servers that have raw readings to show, scraped through Roundsman at `host` (`name:port`).
#[must_use]
pub fn targets(host: &str, states: &[ServerState]) -> Vec<TargetGroup> {
    let read = |state: &&ServerState| {
        state.server.status != Status::Inactive
            && matches!(state.server.transport, Transport::Ssh | Transport::Local)
    };
    states.iter().filter(read).map(|state| group(host, state)).collect()
}

fn group(host: &str, state: &ServerState) -> TargetGroup {
    let server = &state.server;
    let name = server.name.to_string();
    let mut labels = BTreeMap::from([
        ("__metrics_path__", "/metrics".to_owned()),
        ("__param_target", name.clone()),
        ("instance", name),
        ("__meta_roundsman_server_id", server.id.to_string()),
        ("__meta_roundsman_status", server.status.to_string()),
    ]);
    if let Some(region) = &server.region {
        labels.insert("region", region.clone());
    }
    if let Some(environment) = &server.environment {
        labels.insert("environment", environment.clone());
    }
    if !server.tags.is_empty() {
        // Commas around it, so that a relabelling can match ,web, as with Prometheus' own lists.
        let tags: Vec<&str> = server.tags.iter().map(crate::model::Tag::as_str).collect();
        labels.insert("tags", format!(",{},", tags.join(",")));
    }
    TargetGroup { targets: [host.to_owned()], labels }
}
