-- What an administrator set on the settings page; a name that is missing has its default.
CREATE TABLE settings (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    -- JSON
    value TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    updated_by TEXT NOT NULL,
    PRIMARY KEY (organization_id, name)
) STRICT, WITHOUT ROWID;

-- For the hourly removal of what is older than its retention.
CREATE INDEX operations_by_completion ON operations (completed_at);
