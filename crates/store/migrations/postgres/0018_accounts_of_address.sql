-- Since when an account has its address: of several with one address, the oldest are asked.
ALTER TABLE user_account ADD COLUMN email_since BIGINT;
UPDATE user_account SET email_since = COALESCE(
  (SELECT MIN(h.last_updated) FROM resource_history h WHERE h.id = user_account.id),
  (SELECT r.last_updated FROM resource r WHERE r.id = user_account.id));
-- The other accounts whose password was the same, separated by spaces, until a membership is chosen.
ALTER TABLE session ADD COLUMN other_users TEXT;
CREATE INDEX session_of_several ON session (id) WHERE other_users IS NOT NULL;
