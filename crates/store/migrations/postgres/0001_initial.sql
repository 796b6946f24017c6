-- The same schema as ../sqlite, in the words of PostgreSQL.

-- The current version of every resource, as JSON without secrets.
CREATE TABLE resource (
  id            TEXT    NOT NULL PRIMARY KEY,
  resource_type TEXT    NOT NULL,
  project_id    TEXT,
  version_id    TEXT    NOT NULL,
  revision      BIGINT  NOT NULL,
  last_updated  BIGINT  NOT NULL,
  deleted       BOOLEAN NOT NULL,
  content       TEXT    NOT NULL
);
CREATE INDEX resource_by_type ON resource (resource_type, project_id, last_updated);

-- Earlier versions only: the current one is in `resource`.
CREATE TABLE resource_history (
  id            TEXT    NOT NULL,
  revision      BIGINT  NOT NULL,
  version_id    TEXT    NOT NULL,
  resource_type TEXT    NOT NULL,
  project_id    TEXT,
  last_updated  BIGINT  NOT NULL,
  deleted       BOOLEAN NOT NULL,
  content       TEXT    NOT NULL,
  PRIMARY KEY (id, revision)
);

-- What can be searched for. `low` and `high` are the bounds of a date. Values are ordered by their bytes,
-- whatever the language of the database: a search for a beginning is one for a range.
CREATE TABLE search_index (
  resource_id   TEXT   NOT NULL,
  code          TEXT   NOT NULL,
  value         TEXT   COLLATE "C" NOT NULL,
  system        TEXT   NOT NULL,
  resource_type TEXT   NOT NULL,
  low           BIGINT,
  high          BIGINT
);
CREATE INDEX search_index_by_resource ON search_index (resource_id, code);
CREATE INDEX search_index_by_value ON search_index (resource_type, code, value);
CREATE INDEX search_index_by_date ON search_index (resource_type, code, low) WHERE low IS NOT NULL;

-- What the token path reads of a ClientApplication. `*_proof` is a master key id (8 bytes) and a
-- keyed digest (32 bytes); `*_sealed` is the value as AES-256-GCM ciphertext, if it is recoverable.
CREATE TABLE client (
  id                TEXT    NOT NULL PRIMARY KEY,
  project_id        TEXT    NOT NULL,
  name              TEXT,
  active            BOOLEAN NOT NULL,
  token_lifetime_ms BIGINT,
  grant_types       TEXT,
  default_scope     TEXT,
  active_id         TEXT,
  active_proof      BYTEA,
  active_sealed     BYTEA,
  active_created    BIGINT,
  retiring_id       TEXT,
  retiring_proof    BYTEA,
  retiring_sealed   BYTEA,
  retiring_created  BIGINT,
  former_count      BIGINT  NOT NULL
);

-- Digests of secrets that ended, so that none is ever brought back.
CREATE TABLE former_secret (
  client_id TEXT   NOT NULL,
  nth       BIGINT NOT NULL,
  secret_id TEXT   NOT NULL,
  proof     BYTEA   NOT NULL,
  ended     BIGINT NOT NULL,
  PRIMARY KEY (client_id, nth)
);

-- What the token path reads of a ProjectMembership.
CREATE TABLE membership (
  id         TEXT    NOT NULL PRIMARY KEY,
  project_id TEXT    NOT NULL,
  client_id  TEXT,
  active     BOOLEAN NOT NULL,
  admin      BOOLEAN NOT NULL,
  policy_id  TEXT
);
CREATE UNIQUE INDEX membership_of_client ON membership (client_id);

-- What the token path reads of a Project.
CREATE TABLE project (
  id          TEXT    NOT NULL PRIMARY KEY,
  name        TEXT,
  active      BOOLEAN NOT NULL,
  super_admin BOOLEAN NOT NULL,
  secret_once BOOLEAN NOT NULL
);

-- How often each secret was used. Written in statements of its own that touch no secret.
CREATE TABLE secret_usage (
  secret_id  TEXT   NOT NULL PRIMARY KEY,
  client_id  TEXT   NOT NULL,
  uses       BIGINT NOT NULL,
  first_used BIGINT NOT NULL,
  last_used  BIGINT NOT NULL
);

-- Keys that sign tokens; the private part is wrapped under a master key.
CREATE TABLE signing_key (
  id        TEXT   NOT NULL PRIMARY KEY,
  algorithm TEXT   NOT NULL,
  sealed    BYTEA   NOT NULL,
  created   BIGINT NOT NULL
);
