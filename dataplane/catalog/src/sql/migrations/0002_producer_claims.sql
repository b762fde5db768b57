-- Which ingester takes the batches of a producer of a table. Only the owner of the claim may store
-- them, so that its position and the one in producers together are the newest there is.
-- version: a number given once, at every claim; a claim is handed over only if nobody claimed since.
CREATE TABLE producer_claims (
    table_id BIGINT NOT NULL REFERENCES tables (id),
    producer TEXT NOT NULL,
    ingester_id BIGINT NOT NULL REFERENCES ingesters (id),
    version BIGINT NOT NULL,
    changed_at_millis BIGINT NOT NULL,
    PRIMARY KEY (table_id, producer)
);
INSERT INTO counters (kind, value) VALUES ('producer_claim', 0);

-- For forgetting what is older than the window.
CREATE INDEX producer_claims_by_age ON producer_claims (changed_at_millis);
CREATE INDEX producers_by_age ON producers (changed_at_millis);
