-- Counts what a project has: its resources without audit records and without those that were deleted
-- (store/src/quota.rs).
CREATE INDEX resource_of_project ON resource (project_id) WHERE NOT deleted AND resource_type <> 'AuditEvent';
