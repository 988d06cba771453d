-- When each server was last read: a restart must not make one that has been gone for a week look like a new one.
CREATE TABLE servers_seen (
    server_id TEXT PRIMARY KEY REFERENCES servers (id) ON DELETE CASCADE,
    last_seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
