-- Order numbers of the rows of tables with a primary key: the last one that was given.
INSERT INTO counters (kind, value) VALUES ('order', 0);
