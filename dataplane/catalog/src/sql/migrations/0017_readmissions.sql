-- Whether the ingester may come back with a log that relied on a newer state than this catalog has; until its
-- next life is ready to write.
ALTER TABLE ingesters ADD COLUMN readmitted BIGINT NOT NULL DEFAULT 0;
