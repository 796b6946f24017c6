-- What is told to whoever wants to hear, written in one transaction with what it tells of.

-- `seq` is given by whoever reads events in their order; NULL until then (store/src/events.rs). The ids sort by
-- the time of their making.
CREATE TABLE event (
  id         TEXT   NOT NULL PRIMARY KEY,
  seq        BIGINT,
  project_id TEXT   NOT NULL,
  type       TEXT   NOT NULL,
  at         BIGINT NOT NULL,
  payload    TEXT   NOT NULL
);
CREATE UNIQUE INDEX event_by_seq ON event (seq) WHERE seq IS NOT NULL;
CREATE INDEX event_unnumbered ON event (at) WHERE seq IS NULL;

-- What was told of a secret and is not to be told again.
CREATE TABLE event_told (
  secret_id TEXT   NOT NULL,
  what      TEXT   NOT NULL,
  client_id TEXT   NOT NULL,
  until     BIGINT NOT NULL,
  PRIMARY KEY (secret_id, what)
);
CREATE INDEX event_told_by_end ON event_told (until);

-- Where a project's events are sent. `types` has a space before and after each; NULL is all of them.
-- Read by every change that tells of something, so what deliveries change is in a table beside it.
CREATE TABLE webhook (
  id              TEXT   NOT NULL PRIMARY KEY,
  project_id      TEXT   NOT NULL,
  url             TEXT   NOT NULL,
  types           TEXT,
  created         BIGINT NOT NULL,
  created_by      TEXT   NOT NULL,
  -- What deliveries are signed with, under a master key; and what was before, until its end.
  signing_sealed  BYTEA  NOT NULL,
  retiring_sealed BYTEA,
  retiring_ends   BIGINT,
  disabled        BIGINT
);
CREATE INDEX webhook_of_project ON webhook (project_id);

-- `leased_until` belongs to the server that delivers; see store/src/webhooks.rs.
CREATE TABLE webhook_state (
  webhook_id   TEXT   NOT NULL PRIMARY KEY,
  leased_until BIGINT NOT NULL,
  rests_until  BIGINT NOT NULL,
  failures     BIGINT NOT NULL,
  last_success BIGINT,
  last_failure BIGINT,
  last_problem TEXT
);

-- What is still to be delivered. Without `due`: given up.
CREATE TABLE webhook_delivery (
  webhook_id TEXT   NOT NULL,
  event_id   TEXT   NOT NULL,
  attempts   BIGINT NOT NULL,
  due        BIGINT,
  PRIMARY KEY (webhook_id, event_id)
);
CREATE INDEX webhook_delivery_by_due ON webhook_delivery (webhook_id, due);
CREATE INDEX webhook_delivery_of_event ON webhook_delivery (event_id);

CREATE INDEX client_by_deadline ON client (retiring_ends) WHERE retiring_ends IS NOT NULL;
