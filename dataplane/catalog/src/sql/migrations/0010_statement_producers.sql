-- Statements of tickets are forgotten long before other producers: they are found by their age alone.
CREATE INDEX producer_claims_of_statements ON producer_claims (changed_at_millis)
    WHERE producer >= 'statement-' AND producer < 'statement.';
CREATE INDEX producers_of_statements ON producers (changed_at_millis)
    WHERE producer >= 'statement-' AND producer < 'statement.';
