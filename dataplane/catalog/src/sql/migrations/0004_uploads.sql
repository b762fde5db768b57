-- Uploads: rows of many streams that appear together. They go into a staging table, an unpublished
-- one, whose files the end of the upload moves to the target.
-- staging_id: null until the first stream; the table may be forgotten once it was dropped. state: open, finishing, finished, aborted or expired.
CREATE TABLE uploads (
    id TEXT PRIMARY KEY,
    database_name TEXT NOT NULL,
    schema_name TEXT NOT NULL,
    table_name TEXT NOT NULL,
    staging_id BIGINT,
    state TEXT NOT NULL,
    row_count BIGINT NOT NULL,
    expires_at_millis BIGINT NOT NULL
);
CREATE INDEX uploads_by_expiry ON uploads (expires_at_millis);

-- Ingesters that may have rows of an upload.
CREATE TABLE upload_ingesters (
    upload_id TEXT NOT NULL REFERENCES uploads (id),
    ingester_id BIGINT NOT NULL REFERENCES ingesters (id),
    PRIMARY KEY (upload_id, ingester_id)
);
