CREATE TABLE organizations (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL UNIQUE,
    email TEXT,
    role TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX users_by_organization ON users (organization_id, name);

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    secret_hash BLOB NOT NULL,
    address TEXT,
    user_agent TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_user ON sessions (user_id, last_used_at);

-- At most one row: the one-time secret with which the first administrator is made.
CREATE TABLE setup (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    secret_hash BLOB NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    secret_hash BLOB NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER,
    revoked_at INTEGER
) STRICT;
CREATE INDEX tokens_by_organization ON tokens (organization_id, created_at);

-- SSH keys that Roundsman keeps. sealed_private is encrypted under the master key, the id as associated data.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    public_line TEXT NOT NULL,
    sealed_private BLOB NOT NULL,
    source_path TEXT,
    is_default INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    UNIQUE (organization_id, name)
) STRICT;
CREATE UNIQUE INDEX keys_one_default ON keys (organization_id) WHERE is_default = 1;

-- Numbers of servers in the history; AUTOINCREMENT never gives one twice.
CREATE TABLE server_numbers (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    server_id TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE servers (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE REFERENCES server_numbers (number),
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    transport TEXT NOT NULL,
    hostname TEXT,
    port INTEGER NOT NULL,
    username TEXT,
    key_id TEXT REFERENCES keys (id),
    -- The approved host key as an OpenSSH public key line; NULL: not approved yet.
    host_key TEXT,
    region TEXT,
    environment TEXT,
    tags TEXT NOT NULL,
    metadata TEXT NOT NULL,
    status TEXT NOT NULL,
    interval_ms INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (organization_id, name)
) STRICT;

-- Append-only; each entry carries the hash of the one before it.
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    address TEXT,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    result TEXT NOT NULL,
    detail TEXT NOT NULL,
    previous_hash BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_by_organization ON audit (organization_id, sequence);
CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit entries are never changed');
END;

INSERT INTO organizations (id, name, created_at) VALUES ('01900000-0000-7000-8000-000000000001', 'default', 0);
