-- Answers that are given again to whoever sends the same request again under its Idempotency-Key. `id` is a
-- digest of who asked and of the key; what was asked is sealed with the answer.
CREATE TABLE kept_answer (
  id        TEXT   NOT NULL PRIMARY KEY,
  client_id TEXT   NOT NULL,
  expires   BIGINT NOT NULL,
  sealed    BLOB   NOT NULL
) WITHOUT ROWID;
CREATE INDEX kept_answer_by_client ON kept_answer (client_id, expires);
CREATE INDEX kept_answer_by_end ON kept_answer (expires);

INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
  ('kept_answer', 'kept_answer', '10000 1'),
  ('kept_answer', 'kept_answer_by_client', '10000 4'),
  ('kept_answer', 'kept_answer_by_end', '10000 2');
