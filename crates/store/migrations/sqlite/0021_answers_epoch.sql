-- An answer is given again only while its project's epoch is that under which it was kept: a project that begins to
-- show secrets once moves on, and its older answers are deleted a few at a time.
ALTER TABLE project ADD COLUMN answers_epoch BIGINT NOT NULL DEFAULT 0;
ALTER TABLE kept_answer ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0;
