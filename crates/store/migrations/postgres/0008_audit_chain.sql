-- Audit records that cannot be changed unseen.

-- The key that they are chained with, wrapped under a master key. There is one.
CREATE TABLE audit_key (
  id      BIGINT NOT NULL PRIMARY KEY,
  sealed  BYTEA  NOT NULL,
  created BIGINT NOT NULL
);

-- The records of each writer, in their order. Without an event: its writer ended in order.
CREATE TABLE audit_link (
  chain    TEXT   NOT NULL,
  nth      BIGINT NOT NULL,
  event_id TEXT,
  mac      TEXT   NOT NULL,
  PRIMARY KEY (chain, nth)
);
CREATE UNIQUE INDEX audit_link_by_event ON audit_link (event_id);

-- A chain shows what was changed. That nothing is changed by mistake, these see to.
CREATE FUNCTION audit_records_are_only_added() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'audit records are only added'; END $$;
CREATE TRIGGER audit_record_is_not_changed BEFORE UPDATE OR DELETE ON resource
  FOR EACH ROW WHEN (OLD.resource_type = 'AuditEvent') EXECUTE FUNCTION audit_records_are_only_added();
CREATE TRIGGER audit_link_is_not_changed BEFORE UPDATE OR DELETE ON audit_link
  FOR EACH ROW EXECUTE FUNCTION audit_records_are_only_added();
