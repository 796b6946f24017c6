-- When each signing key signs; see core/src/signing.rs. Until now the newest signed.
ALTER TABLE signing_key ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE signing_key ADD COLUMN signs_from BIGINT NOT NULL DEFAULT 0;
UPDATE signing_key SET signs_from = created, generation = (
  SELECT COUNT(*) FROM signing_key o
  WHERE o.created < signing_key.created OR (o.created = signing_key.created AND o.id >= signing_key.id)
);
-- Of two servers that make the next key at once, one finds that it exists.
CREATE UNIQUE INDEX signing_key_generation ON signing_key (generation);
