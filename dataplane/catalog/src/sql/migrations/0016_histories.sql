-- Histories of the Postgres server that this database was found on: its system, its timeline, the
-- database. A promoted standby, a copy brought up elsewhere, a dump that was read back have another one.
CREATE TABLE histories (
    id TEXT PRIMARY KEY,
    at_millis BIGINT NOT NULL
);

-- fenced: whether all lives of ingesters ended with it.
-- ingesters.opens_epoch is negative while it is not known whether openings of that life were lost.
ALTER TABLE restores ADD COLUMN fenced BIGINT NOT NULL DEFAULT 1;
