-- How Roundsman gets to a server and logs in there, beyond its address and a key.

-- The server over whose connection this one is reached.
ALTER TABLE servers ADD COLUMN jump_id TEXT REFERENCES servers (id);
-- socks5://user@host:port or http://user@host:port; its password is in server_secrets.
ALTER TABLE servers ADD COLUMN proxy TEXT;
ALTER TABLE servers ADD COLUMN connect_timeout_ms INTEGER NOT NULL DEFAULT 10000;
-- key (key_id, or the default key), agent (agent_key) or password (in server_secrets).
ALTER TABLE servers ADD COLUMN login_method TEXT NOT NULL DEFAULT 'key';
-- The public key line that ssh-agent is to sign with.
ALTER TABLE servers ADD COLUMN agent_key TEXT;
-- What the last preflight found: a JSON object with looked_at, readings_only and spots.
ALTER TABLE servers ADD COLUMN findings TEXT NOT NULL DEFAULT '{"looked_at":null,"readings_only":false,"spots":[]}';
CREATE INDEX servers_by_key ON servers (key_id);
CREATE INDEX servers_by_jump ON servers (jump_id);

-- A second identity for actions; the one in servers then only reads.
CREATE TABLE action_logins (
    server_id TEXT PRIMARY KEY REFERENCES servers (id) ON DELETE CASCADE,
    username TEXT NOT NULL,
    login_method TEXT NOT NULL,
    key_id TEXT REFERENCES keys (id),
    agent_key TEXT
) STRICT;
CREATE INDEX action_logins_by_key ON action_logins (key_id);

-- What Roundsman must send to a server or its proxy. Sealed under the master key; associated data: id, a blank, kind.
CREATE TABLE server_secrets (
    server_id TEXT NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    -- password, action_password, sudo_password, proxy_password
    kind TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (server_id, kind)
) STRICT, WITHOUT ROWID;

-- Logins that a server has seen from Roundsman, by day since 1970 (UTC).
CREATE TABLE login_counts (
    server_id TEXT NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    day INTEGER NOT NULL,
    logins INTEGER NOT NULL,
    PRIMARY KEY (server_id, day)
) STRICT, WITHOUT ROWID;
