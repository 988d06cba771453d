//! Tasks for the tests of the pages.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::{now, seconds_ago};
use crate::model::{
    Cause, Missed, OperationId, OrganizationId, Overlap, Owner, RunStatus, Selector, Task, TaskId, TaskRun,
    TaskRunId,
};
use crate::tasks::{TaskView, preview};

/// A task on weekdays.
pub(crate) fn task() -> TaskView {
    let task = Task {
        id: TaskId::new(Uuid::from_u128(77)),
        organization: OrganizationId::DEFAULT,
        name: "Nightly <b>".to_owned(),
        description: "Rotates <b>evil</b> logs".to_owned(),
        cron: "30 3 * * mon-fri".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
        kind: "run_command".to_owned(),
        parameters: json!({ "action": "run_command", "command": "logrotate -f /etc/logrotate.conf", "sudo": true, "timeout_ms": 60000 }),
        selector: Selector::of_servers(vec!["web-1".to_owned(), "web-2".to_owned()]),
        strategy: json!({ "batches": ["1", "50%"], "when_busy": "queue" }),
        jitter: Duration::from_secs(120),
        overlap: Overlap::Skip,
        missed: Missed::Once,
        missed_limit: 10,
        missed_grace: Duration::from_secs(3600),
        retries: 2,
        retry_wait: Duration::from_secs(60),
        enabled: true,
        owner: Owner::Roundsman,
        owner_name: "anna".to_owned(),
        considered_at: seconds_ago(60),
        created_at: seconds_ago(9000),
        updated_at: seconds_ago(900),
    };
    TaskView {
        title: "Run logrotate -f /etc/logrotate.conf".to_owned(),
        server_names: vec!["web-1".to_owned(), "web-2".to_owned()],
        schedule: preview(&task.cron, &task.time_zone, now()).map_err(|error| error.to_string()),
        last_run: task_runs().into_iter().next(),
        task,
    }
}

/// Its runs, newest first.
pub(crate) fn task_runs() -> Vec<TaskRun> {
    let run = |number: u128, status, reason: Option<&str>| TaskRun {
        id: TaskRunId::new(Uuid::from_u128(number)),
        task: TaskId::new(Uuid::from_u128(77)),
        organization: OrganizationId::DEFAULT,
        due_at: seconds_ago(3600 * i64::try_from(number).unwrap()),
        attempt: 1,
        cause: Cause::Schedule,
        status,
        start_at: seconds_ago(3600),
        operation: Some(OperationId::new(Uuid::from_u128(42))),
        reason: reason.map(str::to_owned),
        started_by: "anna".to_owned(),
        started_at: Some(seconds_ago(3600)),
        ended_at: Some(seconds_ago(3590)),
    };
    vec![
        TaskRun { attempt: 2, ..run(1, RunStatus::Failed, Some("web-1: exit status 4")) },
        TaskRun { cause: Cause::Manual, ..run(2, RunStatus::Completed, None) },
        TaskRun {
            operation: None,
            started_at: None,
            ..run(3, RunStatus::Skipped, Some("the run before it had not ended"))
        },
        run(4, RunStatus::Partial, Some("web-2: <b>evil</b>")),
    ]
}
