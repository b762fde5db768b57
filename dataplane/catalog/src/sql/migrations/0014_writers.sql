-- Processes that write, and the number of the last transaction of each: one that was told of a higher
-- number than it finds knows that the database was set back.
CREATE TABLE writers (
    id TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    at_millis BIGINT NOT NULL
);
