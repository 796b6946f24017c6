-- What a project says about its clients' secrets. NULL where it says nothing: then the server's setting holds.
ALTER TABLE project ADD COLUMN secret_recoverable BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE project ADD COLUMN secret_overwrite TEXT;
-- 0 for none.
ALTER TABLE project ADD COLUMN secret_age_max_ms BIGINT;
ALTER TABLE project ADD COLUMN secret_age_refused BOOLEAN;
ALTER TABLE project ADD COLUMN secret_retire_after_ms BIGINT;
-- Milliseconds, separated by spaces.
ALTER TABLE project ADD COLUMN secret_warn_before TEXT;

-- Two of them could be set before, and were only in the resource.
UPDATE project SET secret_recoverable = TRUE WHERE NOT secret_once AND EXISTS (
  SELECT 1 FROM resource r, json_array_elements(r.content::json -> 'setting') s
  WHERE r.id = project.id AND NOT r.deleted AND s ->> 'name' = 'secretVisibility'
);
UPDATE project SET secret_overwrite = (
  SELECT s ->> 'valueString' FROM resource r, json_array_elements(r.content::json -> 'setting') s
  WHERE r.id = project.id AND NOT r.deleted AND s ->> 'name' = 'secretOverwrite' LIMIT 1
);
