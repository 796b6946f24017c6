-- Who used which secret, and how often. Written in statements of its own that touch no secret (P6).

-- Proofs that were refused, beside those that let somebody in.
ALTER TABLE secret_usage ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;

-- By who presented it. Without an address: the sum of those that are no longer told apart. The secret
-- with the id of zeros stands for values that are none of the client's.
CREATE TABLE secret_caller (
  client_id  TEXT   NOT NULL,
  secret_id  TEXT   NOT NULL,
  address    TEXT   NOT NULL,
  agent      TEXT   NOT NULL,
  instance   TEXT   NOT NULL,
  uses       BIGINT NOT NULL,
  refused    BIGINT NOT NULL,
  first_seen BIGINT NOT NULL,
  last_seen  BIGINT NOT NULL,
  PRIMARY KEY (client_id, secret_id, address, agent, instance)
) WITHOUT ROWID;
CREATE INDEX secret_caller_by_end ON secret_caller (last_seen);

-- By minute, counted from the epoch. Kept for a day.
CREATE TABLE secret_minute (
  client_id TEXT   NOT NULL,
  secret_id TEXT   NOT NULL,
  minute    BIGINT NOT NULL,
  uses      BIGINT NOT NULL,
  refused   BIGINT NOT NULL,
  PRIMARY KEY (client_id, secret_id, minute)
) WITHOUT ROWID;
CREATE INDEX secret_minute_by_end ON secret_minute (minute);

-- Up to when each server has written down what it counted. One that ends in order takes its row away.
CREATE TABLE usage_mark (
  node           TEXT   NOT NULL PRIMARY KEY,
  complete_until BIGINT NOT NULL
) WITHOUT ROWID;

INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
  ('secret_caller', 'secret_caller', '10000000 10 5 2 1 1'),
  ('secret_caller', 'secret_caller_by_end', '10000000 2'),
  ('secret_minute', 'secret_minute', '10000000 100 50 1'),
  ('secret_minute', 'secret_minute_by_end', '10000000 10000'),
  ('usage_mark', 'usage_mark', '10 1');
