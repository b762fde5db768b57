-- Which write-ahead log an ingester writes to, so that a missing, exchanged or old one is noticed.
-- log_id: null until an ingester of a release that knows it registered.
-- log_epoch: the last life whose log was ready for writing; 0 when none was.
-- durable_sequence: the highest sequence number the ingester reported, in files or not.
ALTER TABLE ingesters ADD COLUMN log_id TEXT;
ALTER TABLE ingesters ADD COLUMN log_epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE ingesters ADD COLUMN durable_sequence BIGINT NOT NULL DEFAULT 0;
