-- Statements that are done once, whatever process is asked to and how often.
-- run: which request began it. row_count: what it came to; null while that is not known.
CREATE TABLE statements (
    id TEXT PRIMARY KEY,
    run TEXT NOT NULL,
    row_count BIGINT,
    expires_at_millis BIGINT NOT NULL
);
CREATE INDEX statements_by_expiry ON statements (expires_at_millis);
