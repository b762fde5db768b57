-- Files have a class by the length of their time, so that those of a time range are found without
-- reading the index to its end. Those of before have the class without a limit until they are compacted.

ALTER TABLE files ADD COLUMN time_class BIGINT;
UPDATE files SET time_class = 16 WHERE time_max_nanos IS NOT NULL;
CREATE INDEX files_live_by_time ON files (table_id, time_class, time_max_nanos, time_min_nanos)
    WHERE end_snapshot IS NULL;

-- A restore jumps over the numbers that may have been given since the backup. Tables among them are
-- not known here, and were not dropped.
CREATE TABLE restores (
    snapshot BIGINT PRIMARY KEY,
    last_table BIGINT NOT NULL,
    skipped_to_table BIGINT NOT NULL,
    restored_at_millis BIGINT NOT NULL
);
