-- Buckets are 10 minutes now and were 30: a chunk keeps its time and gets the number of its first bucket.
ALTER TABLE raw RENAME TO raw_of_30_minutes;
CREATE TABLE raw (k INTEGER PRIMARY KEY, b BLOB NOT NULL) STRICT;
INSERT INTO raw SELECT ((k >> 20) * 3) << 20 | (k & 1048575), b FROM raw_of_30_minutes ORDER BY k;
DROP TABLE raw_of_30_minutes;

-- Roll-ups: k = row << 20 | server number, where a row covers the span of its level.
CREATE TABLE r1m  (k INTEGER PRIMARY KEY, b BLOB NOT NULL) STRICT;
CREATE TABLE r5m  (k INTEGER PRIMARY KEY, b BLOB NOT NULL) STRICT;
CREATE TABLE r15m (k INTEGER PRIMARY KEY, b BLOB NOT NULL) STRICT;
CREATE TABLE r1h  (k INTEGER PRIMARY KEY, b BLOB NOT NULL) STRICT;
CREATE TABLE r1d  (k INTEGER PRIMARY KEY, b BLOB NOT NULL) STRICT;

-- Raw chunks of the same six hours as one row of r1m, joined into one: k = row << 20 | server number.
CREATE TABLE long (k INTEGER PRIMARY KEY, b BLOB NOT NULL) STRICT;

-- The first row of each level (1: r1m … 5: r1d) that is not made yet.
CREATE TABLE progress (
    server   INTEGER NOT NULL,
    level    INTEGER NOT NULL,
    next_row INTEGER NOT NULL,
    PRIMARY KEY (server, level)
) STRICT, WITHOUT ROWID;

-- What is in each table, kept up to date by whoever writes there: counting would read the whole file.
CREATE TABLE totals (
    name  TEXT PRIMARY KEY,
    rows  INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO totals SELECT 'raw', count(*), coalesce(sum(length(b)), 0) FROM raw;
INSERT INTO totals VALUES
    ('long', 0, 0), ('r1m', 0, 0), ('r5m', 0, 0), ('r15m', 0, 0), ('r1h', 0, 0), ('r1d', 0, 0);

-- What was set while the program ran, as JSON: retention, archive.
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- Who brought a series first (0: nobody knows), and the last day (since 1970) that it was seen on.
ALTER TABLE series ADD COLUMN owner INTEGER NOT NULL DEFAULT 0;
ALTER TABLE series ADD COLUMN seen_day INTEGER NOT NULL DEFAULT 0;
