-- Options of a database, for those of its tables that do not say themselves: a JSON object of texts.
ALTER TABLE databases ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
