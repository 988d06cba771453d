-- A series is shared by all servers that have it; labels is the value of the metric's one label, or ''.
CREATE TABLE series (
    id     INTEGER PRIMARY KEY,
    metric TEXT    NOT NULL,
    labels TEXT    NOT NULL,
    scale  INTEGER NOT NULL,
    kind   INTEGER NOT NULL,
    UNIQUE (metric, labels)
) STRICT;

-- One sealed chunk: k = bucket << 20 | server number.
CREATE TABLE raw (k INTEGER PRIMARY KEY, b BLOB NOT NULL) STRICT;

-- The journal: what is not sealed yet, one row a second; k counts up over both tables.
CREATE TABLE j0 (k INTEGER PRIMARY KEY, b BLOB NOT NULL) STRICT;
CREATE TABLE j1 (k INTEGER PRIMARY KEY, b BLOB NOT NULL) STRICT;

-- Removed servers whose values may still stand in the journal tables named by in_j0 and in_j1.
CREATE TABLE forgotten (
    server INTEGER PRIMARY KEY,
    in_j0  INTEGER NOT NULL,
    in_j1  INTEGER NOT NULL
) STRICT;
