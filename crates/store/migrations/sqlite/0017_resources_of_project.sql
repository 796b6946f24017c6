-- Counts what a project has: its resources without audit records and without those that were deleted
-- (store/src/quota.rs).
CREATE INDEX resource_of_project ON resource (project_id) WHERE NOT deleted AND resource_type <> 'AuditEvent';

INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
  ('resource', 'resource_of_project', '2000000 20000');
