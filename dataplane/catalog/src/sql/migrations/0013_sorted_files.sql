-- Files whose rows are sorted by the primary key of their table say so. Of those of before it is not known
-- (but files made from other files are sorted).
ALTER TABLE files ADD COLUMN sorted BIGINT NOT NULL DEFAULT 0;
