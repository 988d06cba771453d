-- One action done to one or many servers. No foreign key to servers: operations outlive the servers that they touched.
CREATE TABLE operations (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    kind TEXT NOT NULL,
    title TEXT NOT NULL,
    parameters TEXT NOT NULL,
    initiated_by TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    completed_at INTEGER
) STRICT;
CREATE INDEX operations_by_organization ON operations (organization_id, created_at);
CREATE INDEX operations_unfinished ON operations (status) WHERE status IN ('pending', 'running');

CREATE TABLE operation_targets (
    operation_id TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    server_id TEXT NOT NULL,
    server_name TEXT NOT NULL,
    status TEXT NOT NULL,
    -- The exact command; NULL: none could be built, error says why.
    command TEXT,
    error TEXT,
    -- The command record of what was sent; NULL: nothing was.
    record_id TEXT,
    PRIMARY KEY (operation_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX operation_targets_by_server ON operation_targets (server_id, operation_id);

-- One remote command: written before it is sent, completed when its end is seen.
CREATE TABLE command_records (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    server_id TEXT NOT NULL,
    server_name TEXT NOT NULL,
    operation_id TEXT,
    initiated_by TEXT NOT NULL,
    label TEXT NOT NULL,
    command TEXT NOT NULL,
    -- The command inside, when it ran inside a container.
    container_command TEXT,
    started_at INTEGER NOT NULL,
    duration_ms INTEGER,
    exit_status INTEGER,
    signal TEXT,
    -- NULL: its end was seen; else why it was not, or what ended it.
    error TEXT,
    stdout TEXT NOT NULL,
    stderr TEXT NOT NULL,
    stdout_dropped_bytes INTEGER NOT NULL,
    stderr_dropped_bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX command_records_by_server ON command_records (organization_id, server_id, started_at);
CREATE INDEX command_records_by_time ON command_records (started_at);
