-- tokens.role is viewer, operator, admin, or one of the scopes: enrol, server.

-- The server that the token may report for, where role is server.
ALTER TABLE tokens ADD COLUMN server_id TEXT REFERENCES servers (id) ON DELETE CASCADE;
-- A JSON list of networks; an empty one: from anywhere.
ALTER TABLE tokens ADD COLUMN allowed_from TEXT NOT NULL DEFAULT '[]';
-- NULL: no limit.
ALTER TABLE tokens ADD COLUMN requests_per_minute INTEGER;
-- The secret before the last rotation, and until when it is still accepted.
ALTER TABLE tokens ADD COLUMN previous_hash BLOB;
ALTER TABLE tokens ADD COLUMN previous_until INTEGER;
CREATE INDEX tokens_by_server ON tokens (server_id) WHERE server_id IS NOT NULL;

-- What is known of a server with the transport push beyond what every server has.
CREATE TABLE push_servers (
    server_id TEXT PRIMARY KEY REFERENCES servers (id) ON DELETE CASCADE,
    -- The enrol token that registered it; no foreign key: who enrolled it stays known. NULL: a person did.
    enrolled_by TEXT,
    -- As the server calls itself, in lower case; NULL: it has not registered yet.
    hostname TEXT,
    agent_version TEXT,
    -- A JSON list of the services that it named.
    services TEXT NOT NULL DEFAULT '[]',
    -- As it was registered; NULL: not said.
    total_ram_bytes INTEGER,
    total_disk_bytes INTEGER
) STRICT;
