-- Which ingesters may have rows of a table that are in no file.
-- epoch, number: the life that opened it, and which of its calls did.
CREATE TABLE open_tables (
    table_id BIGINT NOT NULL,
    ingester_id BIGINT NOT NULL REFERENCES ingesters (id),
    epoch BIGINT NOT NULL,
    number BIGINT NOT NULL,
    PRIMARY KEY (table_id, ingester_id)
);
CREATE INDEX open_tables_by_ingester ON open_tables (ingester_id);

-- opens_epoch: the life of which all such tables are listed; any other may have rows of any table.
-- seen_at_millis: when it was heard of last.
ALTER TABLE ingesters ADD COLUMN opens_epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE ingesters ADD COLUMN seen_at_millis BIGINT NOT NULL DEFAULT 0;
