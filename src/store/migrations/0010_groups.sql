CREATE TABLE server_groups (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    colour TEXT NOT NULL,
    -- Conditions that choose the members, as JSON. NULL: they are chosen by hand.
    filter TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (organization_id, name)
) STRICT;

-- Members that were chosen by hand.
CREATE TABLE group_members (
    group_id TEXT NOT NULL REFERENCES server_groups (id) ON DELETE CASCADE,
    server_id TEXT NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    added_at INTEGER NOT NULL,
    PRIMARY KEY (group_id, server_id)
) STRICT;
CREATE INDEX group_members_by_server ON group_members (server_id);

-- A service of one server needs one of another (or of the same).
CREATE TABLE service_dependencies (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    server_id TEXT NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    service TEXT NOT NULL,
    needs_server_id TEXT NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    needs_service TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (organization_id, server_id, service, needs_server_id, needs_service)
) STRICT;
CREATE INDEX service_dependencies_by_server ON service_dependencies (server_id);
CREATE INDEX service_dependencies_by_needed ON service_dependencies (needs_server_id);
