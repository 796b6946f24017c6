-- People, their logins, and what came with them.

-- What decides of a User. An address is unique within a project; users of no project have '' there.
CREATE TABLE user_account (
  id                  TEXT    NOT NULL PRIMARY KEY,
  project_id          TEXT    NOT NULL,
  email               TEXT    NOT NULL,
  name                TEXT,
  active              BOOLEAN NOT NULL,
  -- Argon2id, as a PHC string.
  password_hash       TEXT,
  -- Counts the links that set a password; only the latest works, once, until `password_link_until`.
  password_link       BIGINT  NOT NULL,
  password_link_until BIGINT,
  -- What the second factor is computed from, sealed under a master key; confirmed once a code was right.
  totp_sealed         BLOB,
  totp_confirmed      BOOLEAN NOT NULL,
  -- The last time step whose code was accepted.
  totp_step           BIGINT,
  failures            BIGINT  NOT NULL,
  last_failure        BIGINT
) WITHOUT ROWID;
CREATE UNIQUE INDEX user_account_by_email ON user_account (email, project_id);

-- A member is a client or a person, and acts in the name of a profile.
ALTER TABLE membership ADD COLUMN user_id TEXT;
ALTER TABLE membership ADD COLUMN profile_type TEXT;
ALTER TABLE membership ADD COLUMN profile_id TEXT;
UPDATE membership SET profile_type = 'ClientApplication', profile_id = client_id WHERE client_id IS NOT NULL;
CREATE UNIQUE INDEX membership_of_user ON membership (user_id, project_id);

-- One login of a person. `revision` guards every move; see core/src/session.rs.
CREATE TABLE session (
  id             TEXT    NOT NULL PRIMARY KEY,
  revision       BIGINT  NOT NULL,
  user_id        TEXT    NOT NULL,
  client_id      TEXT,
  membership_id  TEXT,
  stage          TEXT    NOT NULL,
  scope          TEXT    NOT NULL,
  nonce          TEXT,
  redirect_uri   TEXT,
  code_challenge TEXT,
  refreshable    BOOLEAN NOT NULL,
  authenticated  BIGINT  NOT NULL,
  expires        BIGINT  NOT NULL,
  generation     BIGINT  NOT NULL,
  rotated        BIGINT  NOT NULL
) WITHOUT ROWID;
CREATE INDEX session_of_user ON session (user_id);
CREATE INDEX session_by_end ON session (expires);

-- Access tokens that were revoked before their time; kept until they are dead.
CREATE TABLE revoked_token (
  id      TEXT   NOT NULL PRIMARY KEY,
  expires BIGINT NOT NULL
) WITHOUT ROWID;
CREATE INDEX revoked_token_by_end ON revoked_token (expires);

-- Until when tokens of a client may be alive that were revoked; saves the look-up above.
ALTER TABLE client ADD COLUMN revoked_until BIGINT;
ALTER TABLE client ADD COLUMN refresh_lifetime_ms BIGINT;
-- Counts the registration access tokens of a client (RFC 7592); only the latest works.
ALTER TABLE client ADD COLUMN registration BIGINT;

-- Client assertions that were used (RFC 7523 §3, `jti`); kept until they are dead.
CREATE TABLE used_assertion (
  client_id TEXT   NOT NULL,
  -- SHA-256 of the `jti`, in base64url.
  jti       TEXT   NOT NULL,
  expires   BIGINT NOT NULL,
  PRIMARY KEY (client_id, jti)
) WITHOUT ROWID;
CREATE INDEX used_assertion_by_end ON used_assertion (expires);

-- What an initial access token of client registration allows (RFC 7591 §3).
CREATE TABLE registration_grant (
  id         TEXT   NOT NULL PRIMARY KEY,
  project_id TEXT   NOT NULL,
  policy_id  TEXT,
  expires    BIGINT NOT NULL,
  uses_left  BIGINT NOT NULL
) WITHOUT ROWID;

INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
  ('user_account', 'user_account', '100000 1'),
  ('user_account', 'user_account_by_email', '100000 1 1'),
  ('membership', 'membership_of_user', '1000000 2 1'),
  ('session', 'session', '1000000 1'),
  ('session', 'session_of_user', '1000000 10'),
  ('session', 'session_by_end', '1000000 2'),
  ('revoked_token', 'revoked_token', '10000 1'),
  ('revoked_token', 'revoked_token_by_end', '10000 2'),
  ('used_assertion', 'used_assertion', '100000 1000 1'),
  ('used_assertion', 'used_assertion_by_end', '100000 2'),
  ('registration_grant', 'registration_grant', '1000 1');
