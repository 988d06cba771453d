-- An operation on a schedule.
CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    cron TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- The action, which servers, and how it goes over them (JSON).
    parameters TEXT NOT NULL,
    selector TEXT NOT NULL,
    strategy TEXT NOT NULL,
    jitter_s INTEGER NOT NULL,
    overlap TEXT NOT NULL,
    missed TEXT NOT NULL,
    missed_limit INTEGER NOT NULL,
    missed_grace_s INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    retry_wait_s INTEGER NOT NULL,
    enabled INTEGER NOT NULL,
    -- As whom it acts: user:ID, token:ID, system:UID.
    owner TEXT NOT NULL,
    owner_name TEXT NOT NULL,
    -- Times up to this one stand among the runs.
    considered_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (organization_id, name)
) STRICT;

CREATE TABLE task_runs (
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    due_at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    cause TEXT NOT NULL,
    status TEXT NOT NULL,
    start_at INTEGER NOT NULL,
    -- Chosen before the operation is begun. No foreign key: operations expire earlier or later.
    operation_id TEXT,
    reason TEXT,
    started_by TEXT NOT NULL,
    started_at INTEGER,
    ended_at INTEGER
) STRICT;
-- One time of the schedule is one run, whatever the clock does.
CREATE UNIQUE INDEX task_runs_once ON task_runs (task_id, due_at, attempt) WHERE cause <> 'manual';
CREATE INDEX task_runs_by_task ON task_runs (task_id, due_at, attempt);
CREATE INDEX task_runs_by_operation ON task_runs (operation_id) WHERE operation_id IS NOT NULL;
CREATE INDEX task_runs_unfinished ON task_runs (status) WHERE status IN ('waiting', 'starting', 'running');
