-- When the installation began to tell callers apart: what was before is no evidence. One row.
CREATE TABLE usage_began (
  began BIGINT NOT NULL PRIMARY KEY
);
-- Whoever was seen was counted.
INSERT INTO usage_began (began) SELECT first_seen FROM secret_caller ORDER BY first_seen LIMIT 1;
