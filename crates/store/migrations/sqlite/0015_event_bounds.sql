-- Events are bounded by project, and what is deleted undelivered is counted (store/src/event_sweep.rs).

-- Finds the events of one project, oldest first.
CREATE INDEX event_of_project ON event (project_id, seq);

-- Up to which number events of a project have been deleted, for readers that resume before it.
CREATE TABLE event_gap (
  project_id TEXT   NOT NULL PRIMARY KEY,
  seq        BIGINT NOT NULL
) WITHOUT ROWID;

-- Deliveries that were deleted undelivered, because their event was.
ALTER TABLE webhook_state ADD COLUMN dropped BIGINT NOT NULL DEFAULT 0;
ALTER TABLE webhook_state ADD COLUMN last_dropped BIGINT;

INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
  ('event', 'event_of_project', '200000 1000 1'),
  ('event_gap', 'event_gap', '1000 1');
