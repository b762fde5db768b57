-- First layout of the catalog. {bytes} is the dialect's type for bytes.
-- Rows are never removed from tables, schema_versions and files while they may be read: their life
-- is [begin_snapshot, end_snapshot), open while end_snapshot is null.

-- The last number given, for every kind of id. Updating a row locks it until the commit, so numbers
-- grow in commit order.
CREATE TABLE counters (
    kind TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (kind, value)
VALUES ('snapshot', 0), ('database', 0), ('table', 0), ('file', 0), ('ingester', 0);

-- cause: what made this state, such as create_table or flush.
CREATE TABLE snapshots (
    id BIGINT PRIMARY KEY,
    created_at_millis BIGINT NOT NULL,
    cause TEXT NOT NULL
);

CREATE TABLE databases (
    id BIGINT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at_millis BIGINT NOT NULL,
    begin_snapshot BIGINT NOT NULL REFERENCES snapshots (id)
);

-- options: a JSON object of texts.
CREATE TABLE tables (
    id BIGINT PRIMARY KEY,
    database_id BIGINT NOT NULL REFERENCES databases (id),
    schema_name TEXT NOT NULL,
    name TEXT NOT NULL,
    schema_version BIGINT NOT NULL,
    options TEXT NOT NULL,
    created_at_millis BIGINT NOT NULL,
    begin_snapshot BIGINT NOT NULL REFERENCES snapshots (id),
    end_snapshot BIGINT REFERENCES snapshots (id)
);
CREATE UNIQUE INDEX tables_live_name ON tables (database_id, schema_name, name)
WHERE end_snapshot IS NULL;

CREATE TABLE schema_versions (
    table_id BIGINT NOT NULL REFERENCES tables (id),
    version BIGINT NOT NULL,
    schema_bytes {bytes} NOT NULL,
    begin_snapshot BIGINT NOT NULL REFERENCES snapshots (id),
    PRIMARY KEY (table_id, version)
);

-- state: active or drained.
CREATE TABLE ingesters (
    id BIGINT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    url TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    state TEXT NOT NULL,
    changed_at_millis BIGINT NOT NULL
);

CREATE TABLE files (
    id BIGINT PRIMARY KEY,
    table_id BIGINT NOT NULL REFERENCES tables (id),
    ingester_id BIGINT NOT NULL REFERENCES ingesters (id),
    path TEXT NOT NULL UNIQUE,
    size_bytes BIGINT NOT NULL,
    row_count BIGINT NOT NULL,
    schema_version BIGINT NOT NULL,
    first_sequence BIGINT NOT NULL,
    last_sequence BIGINT NOT NULL,
    time_min_nanos BIGINT,
    time_max_nanos BIGINT,
    begin_snapshot BIGINT NOT NULL REFERENCES snapshots (id),
    end_snapshot BIGINT REFERENCES snapshots (id),
    FOREIGN KEY (table_id, schema_version) REFERENCES schema_versions (table_id, version)
);
-- Planning asks for the live files of a table, later also for a time range of them.
CREATE INDEX files_of_table ON files (table_id, end_snapshot, time_max_nanos);

CREATE TABLE watermarks (
    ingester_id BIGINT NOT NULL REFERENCES ingesters (id),
    table_id BIGINT NOT NULL REFERENCES tables (id),
    sequence BIGINT NOT NULL,
    PRIMARY KEY (table_id, ingester_id)
);

-- sequence: 20 digits. Producers choose it from the full unsigned range, SQL integers end at half.
CREATE TABLE producers (
    table_id BIGINT NOT NULL REFERENCES tables (id),
    producer TEXT NOT NULL,
    sequence TEXT NOT NULL,
    changed_at_millis BIGINT NOT NULL,
    PRIMARY KEY (table_id, producer)
);

-- Flushes of the last hours with their answers, so that a repeat is answered again.
-- id: digest of the commit. dropped_tables: a JSON array of table ids.
CREATE TABLE flushes (
    id {bytes} PRIMARY KEY,
    ingester_id BIGINT NOT NULL REFERENCES ingesters (id),
    snapshot BIGINT NOT NULL REFERENCES snapshots (id),
    dropped_tables TEXT NOT NULL,
    committed_at_millis BIGINT NOT NULL
);
CREATE INDEX flushes_by_age ON flushes (ingester_id, committed_at_millis);

-- Objects no new query reads, to be deleted once no running query can read them either.
CREATE TABLE gc_queue (
    path TEXT PRIMARY KEY,
    table_id BIGINT NOT NULL,
    snapshot BIGINT NOT NULL REFERENCES snapshots (id),
    not_before_millis BIGINT NOT NULL
);
CREATE INDEX gc_queue_by_time ON gc_queue (not_before_millis);
