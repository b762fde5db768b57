-- The oldest state that can still be read whole. It moves when objects are deleted and records
-- forgotten. What was deleted before this layout is not known: the past begins here.
INSERT INTO counters (kind, value) SELECT 'oldest_snapshot', value FROM counters WHERE kind = 'snapshot';
