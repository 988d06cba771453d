-- The agent that was deployed to a server and is there as far as is known.
CREATE TABLE agents (
    server_id TEXT PRIMARY KEY REFERENCES servers (id) ON DELETE CASCADE,
    -- stream, serve
    mode TEXT NOT NULL,
    -- Absolute, on the server.
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    version TEXT NOT NULL,
    -- As uname -m says it.
    architecture TEXT NOT NULL,
    -- Where a serve agent answers on the server's loopback.
    port INTEGER,
    deployed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
