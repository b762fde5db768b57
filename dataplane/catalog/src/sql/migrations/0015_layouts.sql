-- Who may use the layouts from this one on: programs that know layouts up to `oldest_reader`, or more.
-- `new_tables` are the tables a layout made, with blanks between them: a backup by an older program
-- has them too.
CREATE TABLE layouts (
    version BIGINT PRIMARY KEY,
    oldest_reader BIGINT NOT NULL,
    new_tables TEXT NOT NULL
);
