-- The project of each caller that is told apart, so that one project cannot fill the table
-- (store/src/usage_sweep.rs).
ALTER TABLE secret_caller ADD COLUMN project_id TEXT;
UPDATE secret_caller SET project_id = (SELECT c.project_id FROM client c WHERE c.id = secret_caller.client_id)
  WHERE address <> '';
CREATE INDEX secret_caller_of_project ON secret_caller (project_id, last_seen) WHERE project_id IS NOT NULL;
