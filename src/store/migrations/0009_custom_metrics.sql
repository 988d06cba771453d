-- Metrics that an administrator defined as commands, and which containers of a server are looked at.

CREATE TABLE custom_metrics (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    command TEXT NOT NULL,
    sudo INTEGER NOT NULL,
    interval_ms INTEGER NOT NULL,
    timeout_ms INTEGER NOT NULL,
    -- The selector of the servers, as JSON.
    selector TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    updated_by TEXT NOT NULL,
    UNIQUE (organization_id, name)
) STRICT;

CREATE TABLE container_filters (
    server_id TEXT PRIMARY KEY REFERENCES servers (id) ON DELETE CASCADE,
    prefix TEXT NOT NULL
) STRICT;
