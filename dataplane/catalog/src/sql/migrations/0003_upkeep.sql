-- Upkeep: files that replace others, a queue that remembers what it deleted, leased jobs.
--
-- files, flushes and gc_queue no longer refer to snapshots, so that old snapshots can be forgotten
-- without looking through them. A file made from files of several ingesters has no ingester.

CREATE TABLE files_2 (
    id BIGINT PRIMARY KEY,
    table_id BIGINT NOT NULL REFERENCES tables (id),
    ingester_id BIGINT REFERENCES ingesters (id),
    path TEXT NOT NULL UNIQUE,
    size_bytes BIGINT NOT NULL,
    row_count BIGINT NOT NULL,
    schema_version BIGINT NOT NULL,
    first_sequence BIGINT NOT NULL,
    last_sequence BIGINT NOT NULL,
    time_min_nanos BIGINT,
    time_max_nanos BIGINT,
    begin_snapshot BIGINT NOT NULL,
    end_snapshot BIGINT,
    FOREIGN KEY (table_id, schema_version) REFERENCES schema_versions (table_id, version)
);
INSERT INTO files_2 (id, table_id, ingester_id, path, size_bytes, row_count, schema_version,
                     first_sequence, last_sequence, time_min_nanos, time_max_nanos,
                     begin_snapshot, end_snapshot)
SELECT id, table_id, ingester_id, path, size_bytes, row_count, schema_version,
       first_sequence, last_sequence, time_min_nanos, time_max_nanos,
       begin_snapshot, end_snapshot
FROM files;
DROP TABLE files;
ALTER TABLE files_2 RENAME TO files;
-- Planning asks for the live files of a table, retention for the old ones of them.
CREATE INDEX files_of_table ON files (table_id, end_snapshot, time_max_nanos);
-- Compaction asks for small files: there are few of them.
CREATE INDEX files_live_by_size ON files (size_bytes, table_id) WHERE end_snapshot IS NULL;
-- Forgetting a schema version asks whether a file has it.
CREATE INDEX files_of_schema ON files (table_id, schema_version);

CREATE TABLE flushes_2 (
    id {bytes} PRIMARY KEY,
    ingester_id BIGINT NOT NULL REFERENCES ingesters (id),
    snapshot BIGINT NOT NULL,
    dropped_tables TEXT NOT NULL,
    committed_at_millis BIGINT NOT NULL
);
INSERT INTO flushes_2 (id, ingester_id, snapshot, dropped_tables, committed_at_millis)
SELECT id, ingester_id, snapshot, dropped_tables, committed_at_millis FROM flushes;
DROP TABLE flushes;
ALTER TABLE flushes_2 RENAME TO flushes;
CREATE INDEX flushes_by_age ON flushes (ingester_id, committed_at_millis);

-- Objects no new query reads. How long they wait is decided by whoever deletes them. A row stays
-- for a while after its object was deleted: a commit that names the object comes too late.
CREATE TABLE gc_queue_2 (
    path TEXT PRIMARY KEY,
    queued_at_millis BIGINT NOT NULL,
    deleted_at_millis BIGINT
);
INSERT INTO gc_queue_2 (path, queued_at_millis)
SELECT path, not_before_millis - 86400000 FROM gc_queue;
DROP TABLE gc_queue;
ALTER TABLE gc_queue_2 RENAME TO gc_queue;
CREATE INDEX gc_queue_waiting ON gc_queue (queued_at_millis) WHERE deleted_at_millis IS NULL;
CREATE INDEX gc_queue_deleted ON gc_queue (deleted_at_millis) WHERE deleted_at_millis IS NOT NULL;

-- What took the place of what, for a while. id: digest of the request, so that a repeat is answered
-- again. cause: compaction, delete or retention.
CREATE TABLE replacements (
    id {bytes} PRIMARY KEY,
    table_id BIGINT NOT NULL REFERENCES tables (id),
    cause TEXT NOT NULL,
    snapshot BIGINT NOT NULL,
    input_files BIGINT NOT NULL,
    input_bytes BIGINT NOT NULL,
    input_rows BIGINT NOT NULL,
    output_files BIGINT NOT NULL,
    output_bytes BIGINT NOT NULL,
    output_rows BIGINT NOT NULL,
    committed_at_millis BIGINT NOT NULL
);
CREATE INDEX replacements_of_table ON replacements (table_id, committed_at_millis);

-- table_id: 0 for a job on everything.
CREATE TABLE leases (
    job TEXT NOT NULL,
    table_id BIGINT NOT NULL,
    holder TEXT NOT NULL,
    until_millis BIGINT NOT NULL,
    PRIMARY KEY (job, table_id)
);

CREATE INDEX snapshots_by_time ON snapshots (created_at_millis);
-- Snapshots that are forgotten are looked for among those who refer to them.
CREATE INDEX databases_begin ON databases (begin_snapshot);
CREATE INDEX tables_begin ON tables (begin_snapshot);
CREATE INDEX tables_end ON tables (end_snapshot);
CREATE INDEX schema_versions_begin ON schema_versions (begin_snapshot);
