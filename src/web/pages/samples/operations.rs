//! Operations and command records for the tests of the pages.

use serde_json::json;
use uuid::Uuid;

use super::{now, seconds_ago};
use crate::model::{OperationId, OperationStatus, OrganizationId, RecordId, ServerId, TargetStatus};
use crate::operations::{OperationView, TargetView};
use crate::store::operations::{CommandRecord, Operation, Target};

const RESTART: &str = "systemctl restart -- nginx.service";

/// A command that went well.
pub(crate) fn record(server: &str) -> CommandRecord {
    CommandRecord {
        id: RecordId::new(Uuid::from_u128(7)),
        organization: OrganizationId::DEFAULT,
        server_id: ServerId::new(Uuid::from_u128(1)),
        server_name: server.to_owned(),
        operation_id: Some(OperationId::new(Uuid::from_u128(42))),
        initiated_by: "anna".to_owned(),
        label: "Restart the service nginx".to_owned(),
        command: RESTART.to_owned(),
        container_command: None,
        started_at: seconds_ago(40),
        duration_ms: Some(1240),
        exit_status: Some(0),
        signal: None,
        error: None,
        stdout: "done\n".to_owned(),
        stderr: String::new(),
        stdout_dropped_bytes: 0,
        stderr_dropped_bytes: 0,
        omitted_chars: 0,
    }
}

/// An operation with a server for each of these states.
pub(crate) fn operation(states: &[TargetStatus]) -> OperationView {
    let target = |(position, status): (usize, &TargetStatus)| {
        let server = ServerId::new(Uuid::from_u128(100 + position as u128));
        let server_name = format!("web-{position}");
        let record = match status {
            TargetStatus::Succeeded => Some(record(&server_name)),
            TargetStatus::Sent => {
                Some(CommandRecord { duration_ms: None, exit_status: None, ..record(&server_name) })
            }
            TargetStatus::Failed => {
                Some(CommandRecord { exit_status: Some(5), stdout: String::new(), ..record(&server_name) })
            }
            _ => None,
        };
        TargetView {
            target: Target {
                position: u32::try_from(position).unwrap(),
                server,
                server_name,
                status: *status,
                command: Some(RESTART.to_owned()),
                error: (*status == TargetStatus::Failed).then(|| "exit status 5".to_owned()),
                record: record.as_ref().map(|record| record.id),
                batch: 0,
                started_at: record.as_ref().map(|record| record.started_at),
                completed_at: None,
            },
            record,
        }
    };
    let status = OperationStatus::of(states);
    let ended = !matches!(status, OperationStatus::Pending | OperationStatus::Running);
    OperationView {
        archived: Vec::new(),
        operation: Operation {
            id: OperationId::new(Uuid::from_u128(42)),
            organization: OrganizationId::DEFAULT,
            kind: "restart_service".to_owned(),
            title: "Restart the service nginx".to_owned(),
            parameters: json!({ "action": "service", "name": "nginx", "verb": "restart" }),
            initiated_by: "anna".to_owned(),
            status,
            created_at: seconds_ago(41),
            started_at: Some(seconds_ago(40)),
            completed_at: ended.then(now),
            selector: json!({}),
            strategy: json!({}),
            retry_of: None,
            is_repeatable: true,
            paused_at: None,
            halted: None,
        },
        targets: states.iter().enumerate().map(target).collect(),
    }
}
