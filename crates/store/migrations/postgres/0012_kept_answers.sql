-- Answers that are given again to whoever sends the same request again under its Idempotency-Key. `id` is a
-- digest of who asked and of the key; what was asked is sealed with the answer.
CREATE TABLE kept_answer (
  id        TEXT   NOT NULL PRIMARY KEY,
  client_id TEXT   NOT NULL,
  expires   BIGINT NOT NULL,
  sealed    BYTEA  NOT NULL
);
CREATE INDEX kept_answer_by_client ON kept_answer (client_id, expires);
CREATE INDEX kept_answer_by_end ON kept_answer (expires);
