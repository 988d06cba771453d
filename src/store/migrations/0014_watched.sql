-- Services that no service manager knows: processes found by keywords, with commands of their own.

CREATE TABLE watched_services (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    -- Words that all stand in the command line, as JSON.
    keywords TEXT NOT NULL,
    start_command TEXT,
    stop_command TEXT,
    sudo INTEGER NOT NULL,
    -- The selector of the servers, as JSON.
    selector TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    updated_by TEXT NOT NULL,
    UNIQUE (organization_id, name)
) STRICT;
