-- The project of the resource: a search of a project looks at no rows of others.
ALTER TABLE search_index ADD COLUMN project_id TEXT;
UPDATE search_index SET project_id = (SELECT r.project_id FROM resource r WHERE r.id = search_index.resource_id);
CREATE INDEX search_index_by_project ON search_index (project_id, resource_type, code, value, resource_id);
CREATE INDEX search_index_by_project_date ON search_index (project_id, resource_type, code, low) WHERE low IS NOT NULL;

-- The clients of a project, for what is done to all of them.
CREATE INDEX client_by_project ON client (project_id, id);

-- How many changes of a project have written what can be searched for of a type: whoever makes a resource unless
-- a search finds one searches first, and then only looks whether this has moved. Divided over slots, so that
-- changes that are made at the same time seldom want the same row.
CREATE TABLE resource_writes (
  resource_type TEXT   NOT NULL,
  project_id    TEXT   NOT NULL,
  slot          BIGINT NOT NULL,
  writes        BIGINT NOT NULL,
  PRIMARY KEY (resource_type, project_id, slot)
);
