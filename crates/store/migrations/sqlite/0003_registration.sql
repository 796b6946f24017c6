-- Clients that register themselves (RFC 7591), and manage themselves afterwards (RFC 7592).

-- What a client that is registered by the token may be; NULL allows all.
ALTER TABLE registration_grant ADD COLUMN grant_types TEXT;
ALTER TABLE registration_grant ADD COLUMN scope TEXT;

-- What a registration adds to a client. It bounds what the client may make of itself later.
CREATE TABLE client_registration (
  client_id   TEXT   NOT NULL PRIMARY KEY,
  -- Counts the registration access tokens; only the latest works.
  generation  BIGINT NOT NULL,
  auth_method TEXT   NOT NULL,
  grant_types TEXT,
  scope       TEXT,
  registered  BIGINT NOT NULL
) WITHOUT ROWID;

-- Superseded by `client_registration.generation`: most clients are not registered, and their row is
-- read with every token.
ALTER TABLE client DROP COLUMN registration;

INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
  ('client_registration', 'client_registration', '100000 1');
