//! `GET /api/openapi.json`: made from the table of routes, so it cannot say anything else.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa::PartialSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use super::files::StoredFile;
use super::health::ServerHealth;
use super::import::{ImportInput, ImportKey};
use super::servers::{HostKeyApproval, ServerInput, ServerJson, ServerPatch};
use super::ways::{ActionLoginInput, ActionLoginJson, WayJson};
use super::{
    Alive, agents, aggregated, backup, containers, custom_metrics, diagnostics, groups, host_keys, keeping,
    keys, metrics, operations, people, tasks,
};
use crate::services::{Services, VERSION};

pub(super) async fn document(_: Request, _: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &describe(&super::super::table())?)
}

fn schema<T: PartialSchema>() -> Result<Value, Failure> {
    serde_json::to_value(T::schema()).map_err(|error| Failure::Internal(error.to_string()))
}

fn list_of(item: &str) -> Value {
    json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "items": { "type": "array", "items": { "$ref": format!("#/components/schemas/{item}") } },
            "next_cursor": { "type": ["string", "null"], "description": "Ask again with it for the next page." },
        },
    })
}

/// Objects whose members the model describes: shown by name here, described in the docs.
fn open_object(description: &str) -> Value {
    json!({ "type": "object", "description": description, "additionalProperties": true })
}

fn schemas() -> Result<Map<String, Value>, Failure> {
    let named = [
        ("Alive", schema::<Alive>()?),
        ("Server", schema::<ServerJson>()?),
        ("ServerList", list_of("Server")),
        ("ServerInput", schema::<ServerInput>()?),
        ("ServerPatch", schema::<ServerPatch>()?),
        ("Group", schema::<groups::GroupJson>()?),
        ("GroupList", list_of("Group")),
        ("GroupBody", schema::<groups::GroupBody>()?),
        ("MembersInput", schema::<groups::MembersInput>()?),
        ("Membership", schema::<groups::Membership>()?),
        ("Dependency", schema::<groups::DependencyJson>()?),
        ("DependencyList", list_of("Dependency")),
        ("DependencyBody", schema::<groups::DependencyBody>()?),
        (
            "Selection",
            open_object("count, impeded; items: server_id, server_name, health_status, status, impediment"),
        ),
        ("WayJson", schema::<WayJson>()?),
        ("ActionLoginJson", schema::<ActionLoginJson>()?),
        ("ActionLoginInput", schema::<ActionLoginInput>()?),
        ("ServerHealth", schema::<ServerHealth>()?),
        ("HostKeyApproval", schema::<HostKeyApproval>()?),
        ("ImportInput", schema::<ImportInput>()?),
        ("StoredFile", schema::<StoredFile>()?),
        ("ImportKey", schema::<ImportKey>()?),
        (
            "ImportReport",
            open_object(
                "format, is_clean, counts, lines: at (file, line), verdict (add, exists, duplicate, invalid, unsupported, note), \
                 remarks; id of the import, where one was begun",
            ),
        ),
        (
            "ImportProgress",
            open_object(
                "id, state (running, completed, interrupted), started_at, total, added, unchecked, failed, items",
            ),
        ),
        ("ResultJson", schema::<operations::ResultJson>()?),
        ("Operation", schema::<operations::OperationJson>()?),
        ("OperationList", list_of("Operation")),
        ("ClusterJson", schema::<operations::ClusterJson>()?),
        ("Task", schema::<tasks::TaskJson>()?),
        ("TaskList", list_of("Task")),
        ("TaskInput", schema::<tasks::TaskInput>()?),
        ("TaskRun", schema::<tasks::TaskRunJson>()?),
        ("TaskRunJson", schema::<tasks::TaskRunJson>()?),
        ("TaskRunList", list_of("TaskRun")),
        ("SchedulePreview", schema::<tasks::SchedulePreview>()?),
        ("NextRun", schema::<tasks::NextRun>()?),
        (
            "OlderTaskInput",
            open_object("name, cron_expression, action (start, stop, restart), service_name, enabled"),
        ),
        (
            "OlderTask",
            open_object(
                "id, name, cron_expression, action, service_name, enabled, last_run, last_status, next_run",
            ),
        ),
        ("OlderTasks", json!({ "type": "array", "items": { "$ref": "#/components/schemas/OlderTask" } })),
        ("RetryInput", schema::<operations::RetryInput>()?),
        ("OperationInput", schema::<operations::OperationInput>()?),
        (
            "ActionInput",
            open_object(
                "action; pid, start_ticks, signal; service; command, sudo, timeout_s, run_as, environment, stdin, container, label",
            ),
        ),
        (
            "CommandRecord",
            open_object(
                "id, server_id, server_name, operation_id, initiated_by, label, command, container_command, started_at, \
                 duration_ms, exit_status, signal, error, stdout, stderr, stdout_dropped_bytes, stderr_dropped_bytes",
            ),
        ),
        ("Diagnostics", schema::<diagnostics::DiagnosticsJson>()?),
        ("DiagnosticsList", list_of("Diagnostics")),
        ("CommandList", list_of("CommandRecord")),
        ("Token", schema::<people::TokenJson>()?),
        ("TokenList", list_of("Token")),
        ("BackupInput", schema::<backup::BackupInput>()?),
        (
            "Retention",
            open_object(
                "command_records_days, operations_days, audit_days, raw_days, m1_days, m5_days, m15_days, h1_days, d1_days, \
                 archive",
            ),
        ),
        ("CadenceSettings", schema::<keeping::CadenceSettings>()?),
        ("OperationSettings", schema::<keeping::OperationSettings>()?),
        ("Sizes", open_object("items: table, rows, size_bytes, rows_last_day")),
        ("AuditChain", open_object("entries, first, last, broken_at")),
        (
            "Targets",
            json!({ "type": "array", "items": { "type": "object", "properties": {
                "targets": { "type": "array", "items": { "type": "string" } },
                "labels": { "type": "object", "additionalProperties": { "type": "string" } },
            } } }),
        ),
        (
            "Registration",
            open_object("name, hostname, agent_version, interval_ms, tags, services, metadata, ip, facts"),
        ),
        ("Registered", open_object("id, and the server's own token, which is shown this once")),
        (
            "Heartbeat",
            open_object(
                "readings: a list of snapshots, oldest first, and sent_at_ms; or plain figures by the names of the metrics, \
                 others as custom metrics",
            ),
        ),
        (
            "Heard",
            open_object(
                "accepted, interval_ms, heavy_interval_ms, and a notice where a person should know something",
            ),
        ),
        ("ServerToken", open_object("id, token: shown this once")),
        (
            "OlderServer",
            open_object(
                "id, number, name, host, ip, username, port, description, status (online, offline, unknown), tags, services, \
                 metadata, last_seen, last_metrics",
            ),
        ),
        ("OlderServers", json!({ "type": "array", "items": { "$ref": "#/components/schemas/OlderServer" } })),
        ("OlderStats", open_object("server_id, server_name, status, timestamp, stats, error")),
        ("OlderAnswer", open_object("success, and what it is about")),
        ("OlderInput", open_object("as the older programs send it")),
        ("RotationOfToken", schema::<people::RotationOfToken>()?),
        ("TokenInput", schema::<people::TokenInput>()?),
        ("PasswordInput", schema::<people::PasswordInput>()?),
        (
            "NewToken",
            json!({
                "type": "object",
                "required": ["id", "name", "role", "token"],
                "properties": {
                    "id": { "type": "string" },
                    "name": { "type": "string" },
                    "role": { "type": "string" },
                    "expires_at": { "type": ["string", "null"] },
                    "token": { "type": "string", "description": "Shown once; send it as Authorization: Bearer." },
                },
            }),
        ),
        (
            "Key",
            open_object(
                "id, name, public_key, algorithm, bits, fingerprint, weakness, is_default, source_path, logins, created_at; \
                 certificate: line, key_id, serial, principals, valid_after, valid_before, critical_options, authority, validity",
            ),
        ),
        (
            "KeyDetail",
            open_object(
                "as Key; used_by: server_id, server_name, login (main, actions), username, named; unfinished; install_command",
            ),
        ),
        ("KeyInput", schema::<keys::KeyInput>()?),
        ("KeyImport", schema::<keys::KeyImport>()?),
        ("KeyPatch", schema::<keys::KeyPatch>()?),
        (
            "HostKey",
            open_object(
                "server_id, server_name, address, state (changed, revoked, unapproved, unknown, authority, approved), host_key, \
                 bits, offered, kex, host_key_algorithm, cipher, mac, daemon, shared_with, weaknesses",
            ),
        ),
        ("HostKeyList", list_of("HostKey")),
        ("KnownHostsInput", schema::<host_keys::KnownHostsInput>()?),
        (
            "KnownHostsReport",
            open_object(
                "dry_run, added, already_there, approved, conflicts, unreadable; lines: line, outcome (added, already_there, \
                 approved, conflict, unreadable), marker, hosts, algorithm, fingerprint, servers, detail",
            ),
        ),
        (
            "KnownHost",
            open_object(
                "id, marker, hosts, host_key, algorithm, fingerprint, servers, created_at, created_by",
            ),
        ),
        ("KnownHostList", list_of("KnownHost")),
        ("DeployInput", schema::<agents::DeployInput>()?),
        ("AgentOnPort", schema::<agents::AgentOnPort>()?),
        ("ServerAgent", schema::<agents::ServerAgent>()?),
        ("RotationInput", schema::<keys::RotationInput>()?),
        ("CertificateInput", schema::<keys::CertificateInput>()?),
        ("KeyList", list_of("Key")),
        ("AuditEntry", open_object("sequence, at, actor, address, action, subject, result, detail")),
        ("AuditList", list_of("AuditEntry")),
        (
            "Preflight",
            open_object("ok; steps: stage, outcome, detail, fix, elapsed_ms; host_key that was seen"),
        ),
        ("ProcessTable", open_object("taken_at, total, processes")),
        ("ServiceTable", open_object("taken_at, services")),
        ("ContainerTable", open_object("taken_at, prefix, containers")),
        (
            "CustomMetric",
            open_object(
                "id, name, description, command, sudo, interval_ms, timeout_ms, selector, enabled, created_at, updated_at, \
                 updated_by",
            ),
        ),
        ("CustomMetricList", list_of("CustomMetric")),
        ("CustomMetricEdit", schema::<crate::fleet::CustomMetricEdit>()?),
        ("CustomMetricTrial", schema::<custom_metrics::CustomMetricTrial>()?),
        (
            "Trial",
            open_object(
                "server_id, server_name, exit_status, elapsed_ms, stdout, stderr, error; parsed: format (lines, prometheus, \
                 json, nagios), values: name, label, value; notices",
            ),
        ),
        (
            "CustomMetricState",
            open_object(
                "server_id, server_name, last_run_at, error, exit_status, elapsed_ms, format, values, notices, runs, failures",
            ),
        ),
        ("CustomMetricStateList", list_of("CustomMetricState")),
        ("ContainerFilter", schema::<containers::ContainerFilter>()?),
        ("UserTable", open_object("taken_at, users")),
        (
            "WatchedService",
            open_object(
                "id, name, description, keywords, start_command, stop_command, sudo, selector, created_at, updated_at, updated_by",
            ),
        ),
        ("WatchedServiceList", list_of("WatchedService")),
        ("WatchedServiceEdit", schema::<crate::fleet::WatchedServiceEdit>()?),
        (
            "Facts",
            open_object(
                "hostname, os_name, kernel, architecture, cpu_model, addresses, accounts, …; updates: taken_at, manager, pending, \
                 security; clock_offset_seconds, cpu_limit_cores, memory_limit_bytes",
            ),
        ),
        (
            "Summary",
            open_object("total_servers, healthy_servers, …, average_cpu_percent, regions, environments"),
        ),
        (
            "Metrics",
            open_object(
                "server_id, metric, title, unit, label_name, thresholds, from, to, level, span_ms, series: label and points \
                 of [Unix milliseconds, average, minimum, maximum]",
            ),
        ),
        ("MetricRanges", schema::<metrics::MetricRanges>()?),
        ("MetricRangeJson", schema::<metrics::MetricRangeJson>()?),
        ("ServerRange", schema::<metrics::ServerRange>()?),
        ("SeriesJson", schema::<metrics::SeriesJson>()?),
        ("ThresholdsJson", schema::<metrics::ThresholdsJson>()?),
        ("AggregatedMetrics", schema::<aggregated::AggregatedMetrics>()?),
        ("AggregatedMetric", schema::<aggregated::AggregatedMetric>()?),
        ("AggregateJson", schema::<aggregated::AggregateJson>()?),
        ("TopJson", schema::<aggregated::TopJson>()?),
        ("Timeline", schema::<crate::operations::Timeline>()?),
        ("Mark", schema::<crate::operations::Mark>()?),
        ("MarkKind", schema::<crate::operations::MarkKind>()?),
        (
            "OlderSummary",
            open_object(
                "timestamp, total_servers, online_servers, offline_servers, avg_cpu_percent, …, servers",
            ),
        ),
        (
            "OlderSamples",
            json!({ "type": "array", "items": open_object("server_id, timestamp, and each metric by its name") }),
        ),
        ("Metric", open_object("name, title, unit, label_name")),
        ("Catalogue", list_of("Metric")),
        (
            "Problem",
            json!({
                "type": "object",
                "description": "RFC 9457; further members depend on the type.",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": { "type": "string" },
                    "title": { "type": "string" },
                    "status": { "type": "integer" },
                    "detail": { "type": "string", "description": "For a person: what is wrong and what to do." },
                },
            }),
        ),
    ];
    Ok(named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn content(schema: &str, media_type: &str) -> Value {
    json!({ media_type: { "schema": { "$ref": format!("#/components/schemas/{schema}") } } })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')))
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" },
                    "description": "A name is accepted wherever an id is." })
        })
        .collect();
    parameters.extend(route.doc.query.iter().map(|(name, meaning)| {
        json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": "string" } })
    }));
    let mut answer = object(json!({ "description": route.doc.summary }));
    if let Some(schema) = route.doc.gives {
        answer.insert("content".to_owned(), content(schema, "application/json"));
    }
    let status = route.doc.status.unwrap_or(200).to_string();
    let problem =
        json!({ "description": "Refused", "content": content("Problem", "application/problem+json") });
    let mut operation = object(json!({
        "summary": route.doc.summary,
        "parameters": parameters,
        "responses": { status: answer, "default": problem },
    }));
    if let Some(schema) = route.doc.takes {
        let body = json!({ "required": true, "content": content(schema, "application/json") });
        operation.insert("requestBody".to_owned(), body);
    }
    match route.access {
        Access::Public => operation.insert("security".to_owned(), json!([])),
        Access::Role(role) => operation.insert("x-role".to_owned(), json!(role.name())),
        Access::Reporter => operation.insert("x-role".to_owned(), json!("enrol")),
    };
    Value::Object(operation)
}

/// The members of a value that is written as an object just above.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// The OpenAPI document of the routes under `/api`.
///
/// # Errors
/// [`Failure::Internal`] when a schema cannot be written as JSON.
fn describe(routes: &[Route]) -> Result<Value, Failure> {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes.iter().filter(|route| route.path.starts_with("/api/")) {
        let method = route.method.as_str().to_lowercase();
        paths.entry(route.path).or_default().insert(method, operation(route));
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Roundsman",
            "version": VERSION,
            "description": "Looks after a fleet of Linux servers over SSH. JSON in snake_case, times in RFC 3339 and UTC.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "security": [{ "token": [] }, { "session": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas()?,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "session": { "type": "apiKey", "in": "cookie", "name": super::super::COOKIE },
            },
        },
    }))
}

#[cfg(test)]
mod tests {
    use utoipa::ToSchema;

    use super::*;

    #[test]
    fn the_document_has_every_api_route_and_every_schema_that_it_names() {
        let routes = super::super::super::table();
        let document = describe(&routes).unwrap();
        for route in routes.iter().filter(|route| route.path.starts_with("/api/")) {
            let method = route.method.as_str().to_lowercase();
            let operation = &document["paths"][route.path][&method];
            assert!(!operation["summary"].as_str().unwrap_or("").is_empty(), "{route:?} has no summary");
        }
        let text = document.to_string();
        for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document["components"]["schemas"].get(name).is_some(), "schema {name} is missing");
        }
    }

    #[test]
    fn schemas_stand_under_their_own_names() {
        assert_eq!(<ServerPatch as ToSchema>::name(), "ServerPatch");
    }
}
