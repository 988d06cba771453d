-- The OpenSSH user certificate of a kept key; NULL: the key alone is offered.
ALTER TABLE keys ADD COLUMN certificate TEXT;

-- Lines of imported known_hosts files: what an administrator trusts, or refuses, beyond the pinned keys.
CREATE TABLE known_hosts (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    -- empty, cert-authority or revoked
    marker TEXT NOT NULL,
    -- The first field of the line: patterns, or one hashed name.
    hosts TEXT NOT NULL,
    -- An OpenSSH public key line without comment.
    host_key TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    UNIQUE (organization_id, marker, hosts, host_key)
) STRICT;
CREATE INDEX known_hosts_by_organization ON known_hosts (organization_id, marker);
